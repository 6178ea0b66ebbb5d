"""The interpreter of PTX itself: what instructions compute, and the faults that it must see."""

import re

import numpy as np
import pytest

import ptx

HEAD = """
.version 9.0
.target sm_90
.address_size 64
.extern .shared .align 16 .b8 place[];
.global .align 4 .b8 table[8] = {1, 2, 3, 4, 8, 1, 0, 0};
.visible .entry launch(
    .param .u64 launch_param_0
)
{
    .local .align 8 .b8 own[24];
    .reg .pred %p<4>;
    .reg .b32 %r<8>;
    .reg .f32 %f<8>;
    .reg .b64 %rd<12>;
    .reg .f64 %fd<4>;
    ld.param.u64 %rd0, [launch_param_0];
    mov.u32 %r0, %tid.x;
    mov.u32 %r1, %ctaid.x;
    mul.wide.u32 %rd1, %r0, 8;
    add.s64 %rd2, %rd0, %rd1;
"""


def results(body, blocks=1, schedule="together", size=256, shared=2048):
    """The uint64 array that a launch leaves behind; it holds 0, 1, 2, ... before."""
    memory = ptx.Memory()
    address = memory.allocate(8 * size)
    memory.array(address, 8 * size).view(np.uint64)[:] = np.arange(size, dtype=np.uint64)
    ptx.run(ptx.Program(HEAD + body + "\n    ret;\n}\n"), memory, blocks, shared, [address], schedule)
    return memory.array(address, 8 * size).view(np.uint64).copy()


T = np.arange(256, dtype=np.uint64)
VALUES = [
    ("shl.b64 %rd3, %rd1, 3;", T * 8 << np.uint64(3)),
    ("shl.b64 %rd3, %rd1, 64;", 0 * T),
    ("mov.u64 %rd3, -16; shr.s64 %rd3, %rd3, 2;", np.full(256, -4).astype(np.uint64)),
    ("mov.u64 %rd3, -1; shr.u64 %rd3, %rd3, 63;", 0 * T + np.uint64(1)),
    ("mov.u64 %rd3, -7; mov.u64 %rd4, 2; div.s64 %rd3, %rd3, %rd4;", np.full(256, -3).astype(np.uint64)),
    ("mov.u64 %rd3, -7; mov.u64 %rd4, 2; rem.s64 %rd3, %rd3, %rd4;", np.full(256, -1).astype(np.uint64)),
    ("rem.u32 %r2, %r0, 7; cvt.u64.u32 %rd3, %r2;", T % np.uint64(7)),
    ("mov.u64 %rd3, 255; mov.u64 %rd4, 0; bfi.b64 %rd3, %rd3, %rd4, 4, 6;", 0 * T + np.uint64(63 << 4)),
    ("cvt.s64.s32 %rd3, %r0; neg.s64 %rd3, %rd3;", (-np.arange(256)).astype(np.uint64)),
    ("mov.u32 %r2, -5; cvt.s64.s32 %rd3, %r2;", np.full(256, -5).astype(np.uint64)),
    ("mov.u32 %r2, -5; cvt.u64.u32 %rd3, %r2;", np.full(256, 2**32 - 5, np.uint64)),
    ("mad.lo.s32 %r2, %r0, %r0, 7; cvt.u64.u32 %rd3, %r2;", T * T + np.uint64(7)),
    ("mov.u32 %r2, -2; mul.wide.s32 %rd3, %r2, 3;", np.full(256, -6).astype(np.uint64)),
    ("setp.lt.u32 %p1, %r0, 9; selp.b64 %rd3, 5, 6, %p1;", np.where(T < 9, np.uint64(5), np.uint64(6))),
    ("mov.u64 %rd3, 1; setp.ge.u32 %p1, %r0, 9; @%p1 bra $L; mov.u64 %rd3, 2; $L:", np.where(T >= 9, np.uint64(1), np.uint64(2))),
    ("mov.u64 %rd3, 0; setp.eq.s32 %p1, %r0, 4; @!%p1 mov.u64 %rd3, 3;", np.where(T == 4, np.uint64(0), np.uint64(3))),
    ("mov.f32 %f1, 0f7FC00000; setp.lt.f32 %p1, %f1, %f1; selp.b64 %rd3, 1, 0, %p1;", 0 * T),
    ("mov.f32 %f1, 0f7FC00000; setp.geu.f32 %p1, %f1, 0f00000000; selp.b64 %rd3, 1, 0, %p1;", 0 * T + np.uint64(1)),
    ("mov.f32 %f1, 0f7FC00000; setp.num.f32 %p1, %f1, 0f00000000; selp.b64 %rd3, 1, 0, %p1;", 0 * T),
    ("mov.f64 %fd1, 0d4004000000000000; cvt.rzi.f64.f64 %fd2, %fd1; mov.b64 %rd3, %fd2;", 0 * T + np.float64(2).view(np.uint64)),
    ("mov.f64 %fd1, 0d4004000000000000; mov.b64 {%r2, %r3}, %fd1; mov.b64 %rd3, {%r2, %r3};", 0 * T + np.float64(2.5).view(np.uint64)),
    ("mov.u32 %r2, 0xFFFFFFFF; mul.hi.u32 %r3, %r2, %r0; cvt.u64.u32 %rd3, %r3;", np.maximum(T, 1) - np.uint64(1)),
    ("mov.u32 %r2, -3; mul.hi.s32 %r3, %r2, %r0; cvt.s64.s32 %rd3, %r3;", np.where(T > 0, np.uint64(2**64 - 1), np.uint64(0))),
    ("mov.u32 %r2, -1; mad.lo.cc.u32 %r3, %r2, %r0, %r0; madc.hi.u32 %r4, %r2, %r0, 7; mov.b64 %rd3, {%r3, %r4};",
     (T << np.uint64(32)) + np.uint64(7 << 32)),
    ("mov.u32 %r2, -1; add.cc.u32 %r3, %r2, %r0; addc.cc.u32 %r3, %r2, 0; addc.u32 %r4, 0, 0; cvt.u64.u32 %rd3, %r4;", np.minimum(T, np.uint64(1))),
    ("popc.b32 %r2, %r0; cvt.u64.u32 %rd3, %r2;", np.array([bin(t).count("1") for t in range(256)], np.uint64)),
    ("mov.f32 %f1, 0fBF800000; mov.f32 %f2, 0f40000000; copysign.f32 %f3, %f1, %f2; mov.b32 %r2, %f3; cvt.u64.u32 %rd3, %r2;",
     0 * T + np.uint64(0xC0000000)),                     # the sign of the first, the size of the second
    ("{ .reg .b32 tmp; mov.b64 {tmp, %r2}, -1; }\n { .reg .b32 tmp; mov.b64 {tmp, %r3}, 5; }\n mov.b64 %rd3, {%r2, %r3};",
     0 * T + np.uint64(2**32 - 1)),                      # registers of a scope
    ("sub.cc.u32 %r3, 4, %r0; subc.u32 %r4, 9, 0; cvt.u64.u32 %rd3, %r4;", np.where(T > 4, np.uint64(8), np.uint64(9))),
    ("mov.u64 %rd4, table; ld.global.nc.u32 %r2, [%rd4+4]; ld.global.u8 %r3, [table+2]; mov.b64 %rd3, {%r2, %r3};",
     0 * T + np.uint64(3 << 32 | 0x0108)),
    # Each thread fills memory of its own and reads it where another number says.
    ("add.s64 %rd5, %rd1, 1; st.local.v2.u64 [own], {%rd1, %rd5}; mov.u64 %rd4, own; and.b64 %rd6, %rd1, 8; add.s64 %rd4, %rd4, %rd6; "
     "ld.local.u64 %rd3, [%rd4];", 8 * T + (T & np.uint64(1))),
    ("mov.u64 %rd4, own; cvta.local.u64 %rd5, %rd4; st.u64 [%rd5+8], %rd1; st.u64 [%rd2], %rd5; ld.u64 %rd6, [%rd2]; cvta.to.local.u64 %rd6, %rd6; "
     "ld.local.u64 %rd3, [%rd6+8];", 8 * T),
    ("mov.b32 %r2, %r0; shfl.sync.bfly.b32 %r3|%p1, %r2, 4, 31, -1; cvt.u64.u32 %rd3, %r3;", T ^ np.uint64(4)),
]


@pytest.mark.parametrize("schedule", ptx.SCHEDULES)
@pytest.mark.parametrize(("body", "expected"), VALUES, ids=[body for body, _ in VALUES])
def test_instructions(body, expected, schedule):
    np.testing.assert_array_equal(results(f"    {body}\n    st.global.u64 [%rd2], %rd3;", schedule=schedule), expected)


def test_a_fused_product_is_rounded_once():
    found = results("mov.f32 %f1, 0f3F800001; fma.rn.f32 %f2, %f1, %f1, 0fBF800002; mov.b32 %r2, %f2;"
                    "cvt.u64.u32 %rd3, %r2; st.global.u64 [%rd2], %rd3;")
    assert found[0] == np.float32(2.0**-46).view(np.uint32)


def test_a_loop_of_another_length_for_each_thread():
    body = """
    mov.u64 %rd3, 0;
    mov.u32 %r2, 0;
$L1:
    setp.ge.u32 %p1, %r2, %r0;
    @%p1 bra $L2;
    add.s64 %rd3, %rd3, 2;
    add.s32 %r2, %r2, 1;
    bra.uni $L1;
$L2:
    st.global.u64 [%rd2], %rd3;"""
    for schedule in ptx.SCHEDULES:
        np.testing.assert_array_equal(results(body, schedule=schedule), 2 * T)


def test_a_call_stands_for_the_function():
    function = """
.func (.param .b64 func_retval0) twice(
    .param .b64 twice_param_0
)
{
    .reg .b64 %rd<3>;
    .reg .pred %p<2>;
    ld.param.u64 %rd1, [twice_param_0];
    setp.gt.u64 %p1, %rd1, 99;
    @%p1 bra $L1;
    add.s64 %rd1, %rd1, %rd1;
$L1:
    st.param.u64 [func_retval0+0], %rd1;
    ret;
}
"""
    body = """
    cvt.u64.u32 %rd4, %r0;
    { // callseq 0, 0
    .reg .b32 temp_param_reg;
    .param .b64 param0;
    st.param.u64 [param0+0], %rd4;
    .param .b64 retval0;
    call.uni (retval0),
    twice,
    (
    param0
    );
    ld.param.u64 %rd3, [retval0+0];
    } // callseq 0
    st.global.u64 [%rd2], %rd3;
    ret;
}
"""
    memory = ptx.Memory()
    address = memory.allocate(8 * 256)
    ptx.run(ptx.Program(HEAD.replace(".visible", function + ".visible") + body), memory, 1, 0, [address])
    np.testing.assert_array_equal(memory.array(address, 2048).view(np.uint64), np.where(T > 99, T, 2 * T))


# Each thread writes to shared memory and reads what its opposite number wrote.
SWAP = """
    mov.u64 %rd5, place;
    add.s64 %rd6, %rd5, %rd1;
    ld.global.u64 %rd3, [%rd2];
    st.shared.u64 [%rd6], %rd3;
    {barrier}
    mov.u64 %rd7, 2040;
    sub.s64 %rd8, %rd7, %rd1;
    add.s64 %rd8, %rd5, %rd8;
    ld.shared.u64 %rd4, [%rd8];
    st.global.u64 [%rd2], %rd4;"""


def test_a_barrier_keeps_threads_together_and_its_absence_shows():
    for schedule in ptx.SCHEDULES:
        np.testing.assert_array_equal(results(SWAP.replace("{barrier}", "bar.sync 0;"), schedule=schedule), T[::-1])
    without = SWAP.replace("{barrier}", "")
    assert results(without, schedule="together").tobytes() != results(without, schedule="rising").tobytes()
    with pytest.raises(ptx.Fault, match=r"^a thread writes what another one of its block reads, without a barrier between: st\.shared\.u64"):
        results(without, schedule=ptx.WATCHED)


# Neighbours of a warp, which the other schedules move on in step: %rd2 is the thread's place in global memory, %rd1 eight times its number.
NEIGHBOUR = "xor.b64 %rd7, %rd1, 8; sub.s64 %rd8, %rd2, %rd1; add.s64 %rd8, %rd8, %rd7; "
RACES = {
    "a thread touches what another one of its block writes, without a barrier between: ld.global.u64":
        NEIGHBOUR + "st.global.u64 [%rd2], %rd0; {barrier} ld.global.u64 %rd3, [%rd8];",
    "a thread writes what another one of its block reads, without a barrier between: st.global.u64":
        NEIGHBOUR + "ld.global.u64 %rd3, [%rd8]; {barrier} st.global.u64 [%rd2], %rd0;",
    "a thread touches what another one of its block writes, without a barrier between: ld.shared.u64":
        "add.s64 %rd6, %rd5, %rd1; xor.b64 %rd8, %rd6, 8; st.shared.u64 [%rd6], %rd1; {barrier} ld.shared.u64 %rd3, [%rd8];",
    "a thread touches what another one of its block writes, without a barrier between: cp.async":
        NEIGHBOUR + "st.global.u64 [%rd2], %rd0; {barrier} add.s64 %rd6, %rd5, %rd1; "
        "cp.async.ca.shared.global [%rd6], [%rd8], 8, 8; cp.async.wait_all;",
    "several threads of a block write one place, without a barrier between: st.shared.u64": "st.shared.u64 [%rd5], %rd0; {barrier}",
}


@pytest.mark.parametrize("message", RACES)
def test_threads_that_race_are_found(message):
    """Within one instruction's reach of each other, too; a barrier mends it, but for several that write one place at a time."""
    with pytest.raises(ptx.Fault, match="^" + re.escape(message)):
        results(RACES[message].replace("{barrier}", ""), schedule=ptx.WATCHED)
    if not message.startswith("several"):
        results(RACES[message].replace("{barrier}", "bar.sync 0;"), schedule=ptx.WATCHED)
    for schedule in set(ptx.SCHEDULES) - {ptx.WATCHED}:
        results(RACES[message].replace("{barrier}", ""), schedule=schedule)


TF32 = "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"
BF16 = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"


def words_of(matrix, kind):
    """A matrix of whole numbers as words of a kind: two neighbours along its last axis in one of bf16."""
    bits = np.asarray(matrix, np.float32).view(np.uint32)
    return bits if kind == "tf32" else bits[..., ::2] >> np.uint32(16) | bits[..., 1::2]


@pytest.mark.parametrize("schedule", ptx.SCHEDULES)
@pytest.mark.parametrize(("kind", "operation"), [("tf32", TF32), ("bf16", BF16)])
def test_a_product_of_a_warp_has_the_layout_of_the_isa(kind, operation, schedule):
    """Each warp multiplies other matrices of small whole numbers: exact. Words of lane g, t lie as the ISA's figures say, spelt out word by word."""
    depth = {"tf32": 8, "bf16": 16}[kind]
    rng = np.random.default_rng(3)
    a, b, c = rng.integers(-9, 9, (8, 16, depth)), rng.integers(-9, 9, (8, depth, 8)), rng.integers(-9, 9, (8, 16, 8))
    given = np.zeros((256, 16), np.uint32)
    for thread in range(256):
        warp, lane = divmod(thread, 32)
        g, t = divmod(lane, 4)
        left, right = words_of(a[warp], kind), words_of(b[warp].T, kind)             # of bf16 a word is numbers 2 j and 2 j + 1
        given[thread, :6] = left[g, t], left[g + 8, t], left[g, t + 4], left[g + 8, t + 4], right[g, t], right[g, t + 4]
        given[thread, 6:10] = np.array([c[warp, g, 2 * t], c[warp, g, 2 * t + 1], c[warp, g + 8, 2 * t], c[warp, g + 8, 2 * t + 1]],
                                       np.float32).view(np.uint32)
    found = on_words(given, f"{operation} {{%f1, %f2, %f3, %f4}}, {{%w0, %w1, %w2, %w3}}, {{%w4, %w5}}, {{%w6, %w7, %w8, %w9}};", schedule)
    expected = np.empty((256, 4), np.float32)
    for thread in range(256):
        warp, lane = divmod(thread, 32)
        g, t = divmod(lane, 4)
        product = a[warp] @ b[warp] + c[warp]
        expected[thread] = product[g, 2 * t], product[g, 2 * t + 1], product[g + 8, 2 * t], product[g + 8, 2 * t + 1]
    np.testing.assert_array_equal(found, expected)


def on_words(given, body, schedule="together"):
    """What a body leaves in %f1 to %f4 of each thread, whose %w0, %w1, ... hold its row of `given`."""
    memory = ptx.Memory()
    address = memory.allocate(given.nbytes)
    memory.array(address, given.nbytes)[:] = given.view(np.uint8).ravel()
    loads = "".join(f"ld.global.b32 %w{number}, [%rd4+{4 * number}];" for number in range(given.shape[1]))
    stores = "".join(f"st.global.f32 [%rd4+{4 * number}], %f{1 + number};" for number in range(4))
    program = f"{HEAD} .reg .b32 %w<16>; mul.wide.u32 %rd3, %r0, {4 * given.shape[1]}; add.s64 %rd4, %rd0, %rd3; {loads} {body} {stores} ret;\n}}\n"
    ptx.run(ptx.Program(program), memory, 1, 0, [address], schedule)
    return memory.array(address, given.nbytes).view(np.float32).reshape(given.shape)[:, :4].copy()


def test_a_product_does_not_see_the_low_bits_that_tf32_has_not():
    """1 + 2^-11 counts as 1: hardware cuts, so what is to be rounded is rounded before."""
    given = np.zeros((256, 10), np.uint32)
    given[:, :6] = np.float32(1 + 2.0 ** -11).view(np.uint32)
    found = on_words(given, f"{TF32} {{%f1, %f2, %f3, %f4}}, {{%w0, %w1, %w2, %w3}}, {{%w4, %w5}}, {{%w6, %w7, %w8, %w9}};")
    np.testing.assert_array_equal(found, 8.0)


ROUNDINGS = [
    (1 + 2.0 ** -11, 1 + 2.0 ** -10, 1.0), (1 + 2.0 ** -11 - 2.0 ** -23, 1.0, 1.0), (-1 - 2.0 ** -11, -1 - 2.0 ** -10, -1.0),
    (1 + 3 * 2.0 ** -11, 1 + 2.0 ** -9, 1.0), (1 + 2.0 ** -8, 1 + 2.0 ** -8, 1.0), (1 + 3 * 2.0 ** -8, 1 + 3 * 2.0 ** -8, 1 + 2.0 ** -6),
    (1 + 2.0 ** -8 + 2.0 ** -20, 1 + 2.0 ** -8, 1 + 2.0 ** -7), (2 - 2.0 ** -23, 2.0, 2.0), (np.inf, np.inf, np.inf),
    (-np.inf, -np.inf, -np.inf), (np.nan, np.nan, np.nan), (0.0, 0.0, 0.0), (-3.0, -3.0, -3.0),
]


@pytest.mark.parametrize(("value", "tf32", "bf16"), ROUNDINGS)
def test_rounding_for_products(value, tf32, bf16):
    """tf32: 10 bits behind the point, from the middle away from 0; bf16: 7, from the middle to the even one, the first operand in the high half."""
    given = np.tile(np.array([value, 1.5], np.float32).view(np.uint32), (256, 2))
    found = on_words(given, """mov.b32 %f5, %w0; mov.b32 %f6, %w1; cvt.rna.tf32.f32 %r2, %f5; mov.b32 %f1, %r2; cvt.rn.bf16x2.f32 %r3, %f5, %f6;
        and.b32 %r4, %r3, 0xFFFF0000; mov.b32 %f2, %r4; shl.b32 %r5, %r3, 16; mov.b32 %f3, %r5; mov.f32 %f4, 0f00000000;""")[0]
    np.testing.assert_allclose(found, [tf32, bf16, 1.5, 0], rtol=0)


@pytest.mark.parametrize("count", [0, 4, 12, 16])
def test_a_copy_of_four_numbers_fills_up_with_zeros(count):
    """cp.async of 16 bytes, of which `count` come from global memory; they are there after the wait."""
    body = f"""
    mov.u64 %rd5, place;
    cp.async.cg.shared.global [%rd5], [%rd0+16], 16, {count};
    cp.async.wait_all;
    ld.shared.u64 %rd3, [%rd5];
    ld.shared.u64 %rd4, [%rd5+8];
    bar.sync 0;
    setp.eq.u32 %p1, %r0, 0;
    @%p1 st.global.u64 [%rd0], %rd3;
    @%p1 st.global.u64 [%rd0+8], %rd4;"""
    found, source = results(body)[:2].view(np.uint32), np.array([2, 0, 3, 0], np.uint32)
    np.testing.assert_array_equal(found, np.where(np.arange(4) < count // 4, source, 0))


BEHIND = """setp.ge.u32 %p1, %r0, 5;
    mov.u32 %r3, 1;
    @%p1 bra $LATER;
$MEET:
    EXCHANGE
    bra.uni $END;
$LATER:
    mov.u32 %r3, 100;
    bra.uni $MEET;
$END:
    cvt.u64.u32 %rd3, %r3;
    st.global.u64 [%rd2], %rd3;"""


@pytest.mark.parametrize("schedule", ptx.SCHEDULES)
def test_an_exchange_waits_for_lanes_whose_way_leads_through_code_behind_it(schedule):
    """Compilers put branches where they like; a GPU waits, too."""
    body = BEHIND.replace("EXCHANGE", "shfl.sync.bfly.b32 %r3|%p2, %r3, 4, 31, -1;")
    own = np.where(np.arange(256) < 5, 1, 100)
    np.testing.assert_array_equal(results(body, schedule=schedule), own[np.arange(256) ^ 4])


FAULTS = {
    "outside of all memory": "st.global.u64 [%rd2+8], %rd0;",
    "not aligned": "st.global.u64 [%rd2+4], %rd0;",
    "more bytes than it copies": "cp.async.cg.shared.global [%rd5], [%rd0], 16, 20;",
    "outside of the block's shared memory": "mov.u64 %rd5, place; add.s64 %rd6, %rd5, %rd1; st.shared.u64 [%rd6+8], %rd0;",
    "outside of the thread's own memory": "mov.u64 %rd4, own; st.local.u64 [%rd4+24], %rd0;",
    "a thread reads what it has not written":
        "setp.lt.u32 %p1, %r0, 255; @%p1 st.local.u32 [own+8], %r0; st.local.u32 [own+12], %r0; ld.local.u64 %rd3, [own+8];",
    "a block touches what another one writes": "st.global.u64 [%rd2], %rd0;",
    "a block writes what another one reads":
        "ld.global.u64 %rd3, [%rd2]; setp.eq.u32 %p1, %r1, 1; @!%p1 bra $L; st.global.u64 [%rd2], %rd0; $L:",
    "some threads of a block never come to a barrier": "setp.lt.u32 %p1, %r0, 40; @%p1 bra $L; bar.sync 0; $L:",
    "threads of a block wait at different barriers": "setp.lt.u32 %p1, %r0, 64; @%p1 bra $L; bar.sync 0; ret; $L: bar.sync 0;",
    "not all lanes of a warp take part: mma":
        "setp.lt.u32 %p1, %r0, 5; @%p1 bra $L; " + TF32 + " {%f1, %f2, %f3, %f4}, {%r2, %r2, %r2, %r2}, {%r2, %r2}, {%f1, %f2, %f3, %f4}; $L:",
    "not all lanes of a warp take part: shfl":
        "setp.lt.u32 %p1, %r0, 5; @%p1 bra $L; shfl.sync.bfly.b32 %r3|%p2, %r0, 4, 31, -1; bar.sync 0; ret; $L: bar.sync 0;",
    "not all lanes of a warp take part": "setp.lt.u32 %p1, %r0, 5; @%p1 bra $L; shfl.sync.bfly.b32 %r3|%p2, %r0, 4, 31, -1; $L:",
}


@pytest.mark.parametrize("schedule", ptx.SCHEDULES)
@pytest.mark.parametrize("message", FAULTS)
def test_faults(message, schedule):
    with pytest.raises(ptx.Fault, match=message):
        results(FAULTS[message], blocks=2 if message.startswith("a block") else 1, schedule=schedule)


# Clusters of two blocks of 256 threads; %rd3 is what a thread leaves in the array, which has 8 bytes for each thread of every block.
MEET = "barrier.cluster.arrive.release; barrier.cluster.wait.acquire;"
PEER = "and.b32 %r2, %r1, 1; xor.b32 %r2, %r2, 1; mov.u32 %r3, place; mapa.shared::cluster.u32 %r4, %r3, %r2; shl.b32 %r5, %r0, 3; " \
       "add.s32 %r4, %r4, %r5; add.s32 %r5, %r3, %r5; cvt.u64.u32 %rd4, %r0; cvt.u64.u32 %rd5, %r1;"
OWN = "shl.b32 %r6, %r1, 11; cvt.u64.u32 %rd6, %r6; add.s64 %rd2, %rd2, %rd6;"          # where the block's part of the array is


def clustered(body, schedule="together", blocks=4, shared=2048, cluster=2):
    head = HEAD.replace(")\n{", f")\n.explicitcluster\n.reqnctapercluster {cluster}, 1, 1\n{{")
    memory = ptx.Memory()
    address = memory.allocate(8 * 256 * blocks)
    ptx.run(ptx.Program(f"{head} {PEER} {OWN} {body} ret;\n}}\n"), memory, blocks, shared, [address], schedule)
    return memory.array(address, 8 * 256 * blocks).view(np.uint64).reshape(blocks, 256).copy()


@pytest.mark.parametrize("schedule", ptx.SCHEDULES)
@pytest.mark.parametrize(("give", "take"), [("st.shared::cluster.u64 [%r4], %rd7;", "ld.shared.u64 %rd3, [%r5];"),
                                            ("st.shared.u64 [%r5], %rd7;", "ld.shared::cluster.u64 %rd3, [%r4];"),
                                            ("st.shared::cluster.u64 [%r5], %rd7;", "ld.shared::cluster.u64 %rd3, [%r4];")])
def test_blocks_of_a_cluster_use_each_others_shared_memory(give, take, schedule):
    """Each block gives its number and the thread's to the other one of its cluster."""
    found = clustered(f"{MEET} shl.b64 %rd7, %rd5, 8; add.s64 %rd7, %rd7, %rd4; {give} {MEET} {take} {MEET} st.global.u64 [%rd2], %rd3;", schedule)
    np.testing.assert_array_equal(found, np.arange(1024, dtype=np.uint64).reshape(2, 2, 256)[:, ::-1].reshape(4, 256))


@pytest.mark.parametrize(("schedule", "place"), [("together", 1), ("rising", 1), ("falling", 2)])
def test_schedules_let_one_block_of_a_cluster_run_ahead(schedule, place):
    """The first block fails at once, the second behind a barrier of its own: what is seen says which was there first."""
    body = "setp.eq.u32 %p1, %r1, 0; @%p1 st.global.u64 [%rd0+1], %rd5; bar.sync 0; @!%p1 st.global.u64 [%rd0+2], %rd5;"
    with pytest.raises(ptx.Fault, match=rf"not aligned: @!?%p1 st.global.u64 .%rd0.{place}"):
        clustered(body, schedule, blocks=2)


def test_a_block_waits_for_its_own_threads_and_for_its_cluster():
    """Between two barriers of the cluster one block has two of its own, the other none."""
    body = f"{MEET} setp.eq.u32 %p1, %r2, 0; @%p1 bra $L; bar.sync 0; st.shared.u64 [%r5], %rd4; bar.sync 0; $L: {MEET} st.global.u64 [%rd2], %rd5;"
    for schedule in ptx.SCHEDULES:
        np.testing.assert_array_equal(clustered(body, schedule)[:, 0], np.arange(4))


FAULTS_OF_CLUSTERS = {
    "the launch has clusters of 3 blocks, received 4 blocks": "",
    "no such block in the cluster": "mov.u32 %r2, 2; mapa.shared::cluster.u32 %r4, %r3, %r2;",
    "outside of the cluster's shared memory": f"{MEET} st.shared::cluster.u64 [%r4+8], %rd4; {MEET}",
    "outside of the cluster's shared memory: st.shared::cluster.u64 .%r6":
        f"{MEET} mov.u32 %r6, 1073741824; st.shared::cluster.u64 [%r6], %rd4; {MEET}",
    "outside of the block's shared memory": "st.shared.u64 [%r4], %rd4;",
    "no barrier of the cluster says that the other block is there": f"st.shared::cluster.u64 [%r4], %rd4; {MEET}",
    "a block ends while others may still use its shared memory": f"{MEET} st.shared::cluster.u64 [%r4], %rd4;",
    "the other block has ended": f"{MEET} setp.eq.u32 %p1, %r2, 0; @%p1 bra $L; ret; $L: bar.sync 0; st.shared::cluster.u64 [%r4], %rd4;",
    "between it and another block's writing: ld.shared.u64": f"{MEET} st.shared::cluster.u64 [%r4], %rd4; ld.shared.u64 %rd3, [%r5]; {MEET}",
    "between it and another block's writing: ld.shared::cluster": f"{MEET} st.shared.u64 [%r5], %rd4; ld.shared::cluster.u64 %rd3, [%r4]; {MEET}",
    "between it and another block's writing: st.shared.u64": f"{MEET} st.shared::cluster.u64 [%r4], %rd4; st.shared.u64 [%r5], %rd4; {MEET}",
    "between it and another block's reading": f"{MEET} ld.shared.u64 %rd3, [%r5]; st.shared::cluster.u64 [%r4], %rd4; {MEET}",
    "some threads of a cluster never come to a barrier": f"setp.eq.u32 %p1, %r2, 0; @%p1 bra $L; {MEET} $L:",
    "a thread waits for its cluster that has not arrived": "barrier.cluster.wait.acquire;",
    "a thread arrives that has not waited": f"barrier.cluster.arrive.release; {MEET}",
    "threads of a block wait at different barriers": f"setp.lt.u32 %p1, %r0, 64; @%p1 bra $L; bar.sync 0; $L: {MEET}",
}


EITHER = {"another block's": "no barrier of the cluster between it and another block's", "block ends": "a block ends|the other block has ended",
          "has ended": "a block ends|the other block has ended"}


@pytest.mark.parametrize("schedule", ptx.SCHEDULES)
@pytest.mark.parametrize("message", FAULTS_OF_CLUSTERS)
def test_faults_of_clusters(message, schedule):
    """Where one block runs ahead, the other of two accesses is the later one, or one block ends before the other one uses its memory."""
    either = next((others for part, others in EITHER.items() if part in message), message)
    with pytest.raises(ptx.Fault, match=message if schedule == "together" else either):
        clustered(FAULTS_OF_CLUSTERS[message], schedule, cluster=3 if message.startswith("the launch") else 2)


# %r4 is a place of the first block's, for both; %p1: of the first block.
FIRST = "mov.u32 %r2, 0; mapa.shared::cluster.u32 %r4, %r3, %r2; and.b32 %r2, %r1, 1; setp.eq.u32 %p1, %r2, 0;"
SHARED_PLACES = {
    "both write at once": ("writing", "st.shared::cluster.u32 [%r4], %r1;"),
    "both read at once, the first writes": ("reading", "ld.shared::cluster.u32 %r6, [%r4]; @%p1 st.shared::cluster.u32 [%r4], %r1;"),
    "both read at once, the second writes": ("reading", "ld.shared::cluster.u32 %r6, [%r4]; @!%p1 st.shared::cluster.u32 [%r4], %r1;"),
    "both read in turn, the last one writes": ("reading", "@!%p1 ld.shared::cluster.u32 %r6, [%r4]; @%p1 ld.shared::cluster.u32 %r6, [%r4]; "
                                                          "@%p1 st.shared::cluster.u32 [%r4], %r1;"),
    "the second half of a number": ("writing", "@!%p1 st.shared::cluster.u64 [%r4], %rd4; @%p1 ld.shared::cluster.u32 %r6, [%r4+4];"),
}


@pytest.mark.parametrize("name", SHARED_PLACES)
def test_faults_at_one_place_for_both_blocks(name):
    kind, body = SHARED_PLACES[name]
    with pytest.raises(ptx.Fault, match=f"no barrier of the cluster between it and another block's {kind}"):
        clustered(f"{FIRST} {MEET} {body} {MEET}")


@pytest.mark.parametrize("schedule", ptx.SCHEDULES)
def test_a_fault_is_seen_where_a_thread_arrives_before_it_reads(schedule):
    """A block that has arrived at the barrier reads on; the other one has waited at it and writes there."""
    body = "barrier.cluster.arrive.release; {} barrier.cluster.wait.acquire; st.shared::cluster.u64 [%r4], %rd4; " + MEET
    with pytest.raises(ptx.Fault, match="between it and another block's reading"):
        clustered(MEET + body.format("ld.shared.u64 %rd3, [%r5];"), schedule)
    clustered(MEET + "ld.shared.u64 %rd3, [%r5];" + body.format(""), schedule)     # read before it arrived


def test_what_it_does_not_know_it_says():
    with pytest.raises(NotImplementedError, match="brev"):
        results("brev.b32 %r2, %r0;")
