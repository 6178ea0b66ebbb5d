"""The interpreter of PTX itself: what instructions compute, and the faults that it must see."""

import numpy as np
import pytest

import ptx

HEAD = """
.version 9.0
.target sm_90
.address_size 64
.extern .shared .align 16 .b8 place[];
.visible .entry launch(
    .param .u64 launch_param_0
)
{
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
    found = {schedule: results(SWAP.replace("{barrier}", ""), schedule=schedule).tobytes() for schedule in ptx.SCHEDULES}
    assert len(set(found.values())) == 3


FAULTS = {
    "outside of all memory": "st.global.u64 [%rd2+8], %rd0;",
    "not aligned": "st.global.u64 [%rd2+4], %rd0;",
    "outside of the block's shared memory": "mov.u64 %rd5, place; add.s64 %rd6, %rd5, %rd1; st.shared.u64 [%rd6+8], %rd0;",
    "a block touches what another one writes": "st.global.u64 [%rd2], %rd0;",
    "a block writes what another one reads":
        "ld.global.u64 %rd3, [%rd2]; setp.eq.u32 %p1, %r1, 1; @!%p1 bra $L; st.global.u64 [%rd2], %rd0; $L:",
    "some threads of a block never come to a barrier": "setp.lt.u32 %p1, %r0, 40; @%p1 bra $L; bar.sync 0; $L:",
    "threads of a block wait at different barriers": "setp.lt.u32 %p1, %r0, 64; @%p1 bra $L; bar.sync 0; ret; $L: bar.sync 0;",
    "not all lanes of a warp take part": "setp.lt.u32 %p1, %r0, 5; @%p1 bra $L; shfl.sync.bfly.b32 %r3|%p2, %r0, 4, 31, -1; $L:",
}


@pytest.mark.parametrize("schedule", ptx.SCHEDULES)
@pytest.mark.parametrize("message", FAULTS)
def test_faults(message, schedule):
    with pytest.raises(ptx.Fault, match=message):
        results(FAULTS[message], blocks=2 if message.startswith("a block") else 1, schedule=schedule)


def test_what_it_does_not_know_it_says():
    with pytest.raises(NotImplementedError, match="popc"):
        results("popc.b32 %r2, %r0;")
