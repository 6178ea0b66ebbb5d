"""The single kernels that `benchmarks/peers` times on a GPU, on a device that executes PTX on the CPU: the right plans, the right numbers."""

import pathlib
import sys

import numpy as np
import pytest
import scipy.sparse

from nnkit.plan.launch import BLOCK_ROWS, WARPS
from nnkit.prims.csr import DEVICE_CHUNK

pytest.importorskip("numba_cuda", reason="needs nnkit[cuda-test]")
pytest.importorskip("nvidia.cu13", reason="needs nnkit[cuda-test]")
import ptx

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks" / "peers"))
import device_kernels
import kernels
import spmm_cuda

SHAPE = (5, 330)                                         # whole rounds of a block's threads and what is left of them
ROUNDINGS = 4e-6                                         # of float32, some tens: exponentials of a device and of a CPU are not the same


@pytest.fixture(params=["interpreter", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request):
    return ptx.PtxDevice() if request.param == "interpreter" else request.getfixturevalue("gpu")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def test_activations_and_their_gradients_beside_the_cpu(device):
    x, dy, names = normal(*SHAPE), normal(*SHAPE, seed=1), ("relu", "silu")        # gradients from the output and from the input
    made, expected = device_kernels.activations(device, x, dy, names), kernels.activations(x, dy, 1, names)
    assert list(made) == list(expected) == ["copy", "relu", "relu gradient", "silu", "silu gradient"]
    for name, kernel in made.items():
        expected[name][0](1)
        kernel.run(2)
        np.testing.assert_allclose(kernel.read(0, x.size), expected[name][1].ravel(), rtol=ROUNDINGS, atol=ROUNDINGS, err_msg=name)
    made["copy"].run(1)
    np.testing.assert_array_equal(made["copy"].read(330, 660), x[1])


def test_optimizers_beside_the_cpu(device):
    parameters, gradients = normal(1500), normal(1500, seed=1)
    names = ("sgd", "adagrad", "adam")                   # no state, one that does not begin at 0, two and the step's number
    made, expected = device_kernels.optimizers(device, parameters, gradients, names), kernels.optimizers(parameters, gradients, 1, names)
    assert list(made) == list(expected) == list(names)
    for name, kernel in made.items():
        expected[name][0](3)
        kernel.run(3)
        np.testing.assert_allclose(kernel.read(0, 1500), expected[name][1], rtol=ROUNDINGS, atol=ROUNDINGS, err_msg=name)
        assert not np.array_equal(kernel.read(0, 1500), parameters)


def graph(rows, columns, longest, seed=0):
    """A matrix with about four entries a row, some of none, and a row of so many."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 9, rows)
    counts[rows // 2] = longest
    columns_of = [np.sort(rng.choice(columns, count, replace=False)) for count in counts]
    values = rng.standard_normal(counts.sum(), dtype=np.float32)
    return scipy.sparse.csr_matrix((values, np.concatenate(columns_of), np.append(0, np.cumsum(counts))), (rows, columns))


@pytest.mark.parametrize(("longest", "expected"), [(5, ["prims.csr_rows.product"]), (WARPS * DEVICE_CHUNK + 1, ["prims.csr.csr_product",
                                                                                                      "prims.csr.csr_join"])])
def test_sparse_products_beside_scipy(device, longest, expected):
    a = graph(3 * BLOCK_ROWS + 1, WARPS * DEVICE_CHUNK + 9, longest)
    x = normal(a.shape[1], 3, seed=1)
    kernel = device_kernels.sparse_product(device, a, x)
    assert [step.kernel for step in kernel.tape.plan.steps] == expected
    kernel.run(2)
    exact, size = a.astype(float) @ x.astype(float), abs(a).astype(float) @ np.abs(x).astype(float)
    found = kernel.read(0, a.shape[0] * 3).reshape(-1, 3)
    assert (np.abs(found - exact) <= 2e-6 * size).all()  # sums of some hundred at a time: at most their number of half units, mostly far less
    np.testing.assert_array_equal(kernel.read(9, 12), found[3])


def test_the_table_of_sparse_products(device, monkeypatch):
    monkeypatch.setattr(spmm_cuda, "CHECKED", 5)
    a = graph(20, 30, 7)
    x = normal(30, 3, seed=1)
    product = spmm_cuda.of_nnkit(device, a, x)
    spmm_cuda.check("nnkit", product, a, x)
    wrong = spmm_cuda.Product(product.run, lambda numbers: product.rows(numbers) + np.float32(1e-3))
    with pytest.raises(AssertionError, match=r"^nnkit: other numbers than SciPy's"):
        spmm_cuda.check("nnkit", wrong, a, x)
    asked = []
    times = spmm_cuda.least({"nnkit": product.run, "other": asked.append}, 0.0)
    assert times.keys() == {"nnkit", "other"}
    assert asked[:2] == [1, 1]                           # once to warm up, once to see how long it takes
    assert len(asked) == 1 + spmm_cuda.FEWEST


def test_bytes_and_shares_of_a_sparse_product():
    a = scipy.sparse.csr_matrix(np.array([[1, 2, 3], [0, 0, 4]], np.float32))
    matrix, x, y = 4 * 8 + 3 * 8, 3 * 16 * 4, 2 * 16 * 4
    assert spmm_cuda.traffic(a, 16) == (matrix + x + y, matrix + 4 * 16 * 4 + y)
    times = {"nnkit": 2e-6, "torch.sparse.mm": 3e-6, "torch.mm out": 1.8e-6, "copy": 1.0}
    assert spmm_cuda.line("uniform", a, 16, times, copied=10 ** 9) == \
        "| uniform | 2 | 4 | 16 | 0.002 | 0.003 | 0.002 | 0.90 | 0 | 0 | 1 | 19% | 22% |"
    assert len(spmm_cuda.HEADING) == 13
