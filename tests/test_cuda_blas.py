"""Products by cuBLASLt: the plan that asks for them, what is computed, and every call that is made of the real bindings' functions and names."""

import ctypes
import gc
import math
import re
import sys

import numpy as np
import pytest

import nnkit
from nnkit import Dense, Input, Sequential
from nnkit.plan.build import build
from nnkit.plan.launch import dependences, lanes_of
from nnkit.runtime import blas


def plan_of(spec, batch, dtype="float32", backend="cuda", **named):
    model = nnkit.compile(spec, optimizer="sgd", loss="mse", dtype=dtype)
    losses = [(output.loss, output.weight) for output in model.outputs]
    return build(model.graph, model.layout, "train", batch, losses=losses, optimizer=model.optimizer, backend=backend, blas=True, **named)


def network():
    return Sequential([Input((64,)), Dense(256, "relu"), Dense(256, use_bias=False), Dense(3)])


@pytest.mark.parametrize("named", [{"dtype": "float64"}, {"backend": "cpu"}])
def test_what_the_library_is_not_for_is_refused(named):
    full = {"backend": "cuda", "dtype": "float32", **named}
    message = f"blas=True needs backend 'cuda' and dtype 'float32', received backend {full['backend']!r} and dtype {full['dtype']!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        plan_of(network(), 4, **named)


def test_large_products_are_nodes_of_their_own():
    plan = plan_of(network(), 128, precision="tf32")
    calls = [step for step in plan.steps if step.kernel == "blas.product_tf32"]
    assert [(step.phase, step.layer, step.scalars) for step in calls] == [
        ("forward", "dense", (0, 0, 1)), ("forward", "dense_1", (0, 0, 0)), ("backward", "dense_1", (1, 0, 0)), ("backward", "dense_1", (0, 1, 0)),
        ("backward", "dense", (1, 0, 0))]
    assert [step.reads[2].size for step in calls] == [256, 0, 0, 0, 0]   # biases
    assert "layers.activation.relu_forward" not in plan.kernels
    for lanes in lanes_of(plan):
        kernels = [step.kernel for lane in lanes for step in lane]
        assert len(kernels) == 1 or not any(kernel.startswith("blas") for kernel in kernels)
    ordered = [id(step) for lanes in lanes_of(plan) for lane in lanes for step in lane]
    for later, earlier in enumerate(dependences(plan)):
        assert all(ordered.index(id(plan.steps[index])) < ordered.index(id(plan.steps[later])) for index in earlier)


def test_stacks_of_matrices_are_calls_too():
    """Of a convolution as Winograd's; the transforms stay launches."""
    plan = plan_of(Sequential([Input((28, 28, 64)), nnkit.Conv2D(128, 3, activation="relu"), nnkit.Conv2D(128, 3), nnkit.GlobalMaxPooling2D()]), 32)
    calls = [step for step in plan.steps if step.kernel.startswith("blas.product")]
    assert [(step.layer, step.scalars) for step in calls] == [("conv2d", (0, 0, 0)), ("conv2d_1", (0, 0, 0)), ("conv2d_1", (1, 0, 0)),
                                                              ("conv2d_1", (0, 0, 0)), ("conv2d", (1, 0, 0))]
    tall, square = (36, 32 * 6 * 6, 128), (36, 128, 128)             # y of the second has 24 x 24 places: 6 x 6 tiles
    assert [[buffer.shape for buffer in step.buffers] for step in calls[1:3]] == [[tall, tall, square, (0,)], [square, tall, tall, (0,)]]
    assert {"prims.stacks.factors4", "prims.stacks.outputs4", "prims.stacks.weight4"} <= set(plan.kernels)


def test_a_network_trains_by_calls_as_on_the_cpu():
    pytest.importorskip("numba_cuda", reason="needs nnkit[cuda-test]")
    ptx = pytest.importorskip("ptx")
    from device_rig import DeviceModel

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((256, 64), np.float32), rng.standard_normal((256, 3), np.float32)
    model = nnkit.compile(network(), optimizer=nnkit.SGD(0.01), loss="mse", seed=4)
    device = DeviceModel(model, ptx.PtxDevice())
    device.data(x=x, target=y, sample_weight=np.ones((256, 1), np.float32), order=np.zeros(256, np.int64))
    tape = device.tape("train", 128, blas=True)
    assert sum(isinstance(node, blas.Call) for node in tape.nodes) == 5
    losses = device.train(tape, 2, 1, device.shuffle())
    device.check_trained(losses, model.fit(x, y, batch_size=128, epochs=1, verbose=0)["loss"], parameters=1e-6)        # rounding of sums of 256


# The bindings, recorded.

class Recorded:
    """A module whose functions note their calls instead of making them; a name that the real one lacks, or arguments that it does not take, is an
    error."""

    def __init__(self, module):
        self.module, self.calls, self.values = module, [], []

    def __getattr__(self, name):
        real = getattr(self.module, name)
        if isinstance(real, type) or name.startswith("get_"):          # enumerations, structures, and what needs no GPU
            return real
        declared = re.match(rf"{name}\((.*?)\)(?: -> (\w+))?", real.__doc__)
        kinds = [argument.split()[0] for argument in declared[1].split(", ")] if declared[1] else []

        def function(*arguments):
            assert len(arguments) == len(kinds), (name, arguments)
            for argument, kind in zip(arguments, kinds, strict=True):
                assert isinstance(argument, (int, np.integer)), (name, argument)
                assert kind == "int64_t" or kind == "intptr_t" or kind == "int" or argument >= 0, (name, argument)
            self.calls.append((name, arguments))
            if name in ("matrix_layout_set_attribute", "matmul_preference_set_attribute"):
                self.values.append(int.from_bytes(ctypes.string_at(arguments[2], arguments[3]), sys.byteorder))
            if name == "matmul_algo_get_heuristic":
                np.ctypeslib.as_array((np.ctypeslib.ctypes.c_int * 1).from_address(arguments[-1]))[0] = self.algorithms
            return 1000 + len(self.calls) if declared[2] else None
        return function

    algorithms = 1


class Memory:
    def allocate(self, nbytes):
        return 256


@pytest.fixture
def found():
    pytest.importorskip("nvmath.bindings.cublasLt", reason="needs nnkit[cuda-blas]")
    lt, cublas, float32 = blas.bindings()
    return Recorded(lt), cublas, float32


def by_columns(layout, lies, operation):
    """What the library takes a row-major matrix for."""
    rows, columns, leading = layout
    matrix = lies.ravel().reshape(columns, leading).T[:rows]
    return matrix.T if operation else matrix


@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize(("biased", "relu", "epilogue"), [(False, False, "DEFAULT"), (True, False, "BIAS"), (True, True, "RELU_BIAS"),
                                                          (False, True, "RELU")])
def test_the_calls_are_what_the_bindings_take(found, transposed, biased, relu, epilogue):
    """And the layouts and operations that they ask for give A B, by NumPy on the same memory."""
    lt, cublas, float32 = found
    rng = np.random.default_rng(0)
    M, K, N = 3, 5, 7
    a, b = rng.standard_normal((K, M) if transposed[0] else (M, K)), rng.standard_normal((N, K) if transposed[1] else (K, N))
    operands = [blas.Operand(number, shape) for number, shape in ((10, (M, N)), (20, a.shape), (30, b.shape), (40, (N if biased else 0,)))]
    product = blas.Library(Memory(), found).product(blas.Call(*operands, *transposed, relu, "COMPUTE_32F_FAST_TF32"))
    product.enqueue(77)
    made = {name: [arguments for each, arguments in lt.calls if each == name] for name, _ in lt.calls}
    assert made["matmul_desc_create"] == [(int(cublas.ComputeType.COMPUTE_32F_FAST_TF32), float32)]
    first, second, result = (arguments[1:] for arguments in made["matrix_layout_create"])
    left = by_columns(first, b, transposed[1]) @ by_columns(second, a, transposed[0])
    np.testing.assert_allclose(left.T, (a.T if transposed[0] else a) @ (b.T if transposed[1] else b), rtol=1e-12)
    assert result == (N, M, N)
    attributes = [arguments[1] for arguments in made["matmul_desc_set_attribute"]]
    wanted = [lt.MatmulDescAttribute.TRANSA, lt.MatmulDescAttribute.TRANSB, lt.MatmulDescAttribute.EPILOGUE]
    assert attributes == [*wanted, *([lt.MatmulDescAttribute.BIAS_POINTER] if biased else [])]
    assert [arguments[3] for arguments in made["matmul_desc_set_attribute"]] == [4, 4, 4, 8][:3 + biased]
    (call,) = made["matmul"]
    assert (call[3], call[5], call[8], call[10], call[13:]) == (30, 20, 10, 10, (256, blas.WORKSPACE, 77))
    assert lt.Epilogue[epilogue] is not None


@pytest.mark.parametrize("turned", [False, True])
def test_of_stacks_the_layouts_say_how_many_matrices_and_how_far_apart(found, turned):
    lt = found[0]
    K, M, I, N = 36, 3, 5, 7
    shapes = (K, M, N), (K, I, M) if turned else (K, M, I), (K, I, N), (0,)
    blas.Library(Memory(), found).product(blas.Call(*(blas.Operand(number, shape) for number, shape in enumerate(shapes)), turned, False, False,
                                                    "COMPUTE_32F"))
    created = [arguments[1:] for name, arguments in lt.calls if name == "matrix_layout_create"]
    assert created == [(N, I, N), (M, I, M) if turned else (I, M, I), (N, M, N)]
    names = lt.MatrixLayoutAttribute
    settings = [arguments[1:2] + arguments[3:] for name, arguments in lt.calls if name == "matrix_layout_set_attribute"]
    assert settings == [(names.BATCH_COUNT, 4), (names.STRIDED_BATCH_OFFSET, 8)] * 3
    assert lt.values[:6] == [K, N * I, K, M * I, K, N * M]


def test_the_library_is_told_how_operands_are_aligned(found):
    """It would else take all addresses for multiples of 256. Buffers are at multiples of 64; matrices of a stack 4 x 3 x 8 bytes apart."""
    lt = found[0]
    operands = [blas.Operand(1024, (4, 8)), blas.Operand(64 * 5, (4, 6)), blas.Operand(128 * 3, (6, 8)), blas.Operand(0, (0,))]
    blas.Library(Memory(), found).product(blas.Call(*operands, False, False, False, "COMPUTE_32F"))
    names = lt.MatmulPreferenceAttribute
    settings = [arguments[1] for name, arguments in lt.calls if name == "matmul_preference_set_attribute"]
    assert settings == [names.MAX_WORKSPACE_BYTES, names.MIN_ALIGNMENT_A_BYTES, names.MIN_ALIGNMENT_B_BYTES, names.MIN_ALIGNMENT_C_BYTES,
                        names.MIN_ALIGNMENT_D_BYTES]
    assert lt.values == [blas.WORKSPACE, 128, 64, 256, 256]
    assert blas.Operand(1024, (5, 3, 8)).alignment == 32


def test_what_describes_a_product_goes_with_it(found):
    lt = found[0]
    operands = [blas.Operand(1, shape) for shape in ((3, 7), (3, 5), (5, 7), (0,))]
    product = blas.Library(Memory(), found).product(blas.Call(*operands, False, False, False, "COMPUTE_32F"))
    made, lt.calls = [name for name, _ in lt.calls], []
    del product
    gc.collect()
    assert [name for name, _ in lt.calls] == ["matmul_desc_destroy", *["matrix_layout_destroy"] * made.count("matrix_layout_create")]


def test_where_the_library_has_no_algorithm_it_says_so(found):
    found[0].algorithms = 0
    with pytest.raises(RuntimeError, match=r"^cuBLASLt has no algorithm for a product of \(3, 5\) and \(5, 7\)$"):
        blas.Library(Memory(), found).product(blas.Call(*(blas.Operand(1, shape) for shape in ((3, 7), (3, 5), (5, 7), (0,))), False, False, False,
                                                        "COMPUTE_32F"))


def test_without_the_extra_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvmath", None)
    message = "blas=True needs the extra nnkit[cuda-blas]: pip install 'nnkit[cuda-blas]'"
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        blas.bindings()


def test_the_result_by_numpy():
    a, b, bias = np.arange(6.0).reshape(2, 3), np.arange(-4.0, 4).reshape(2, 4), np.array([1.0, -9, 0, 2])
    call = blas.Call(*(blas.Operand(1, shape) for shape in ((3, 4), (2, 3), (2, 4), (4,))), True, False, True, "COMPUTE_32F")
    np.testing.assert_array_equal(blas.computed(call, a, b, bias), np.maximum(a.T @ b + bias, 0))
    assert math.prod(call.y.shape) == 12


def test_the_result_of_stacks_by_numpy():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((5, 3, 2)), rng.standard_normal((5, 3, 4))
    call = blas.Call(*(blas.Operand(1, shape) for shape in ((5, 2, 4), a.shape, b.shape, (0,))), True, False, False, "COMPUTE_32F")
    for found, left, right in zip(blas.computed(call, a, b, np.empty(0)), a, b, strict=True):
        np.testing.assert_array_equal(found, left.T @ right)
