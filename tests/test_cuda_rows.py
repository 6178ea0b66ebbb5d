"""The rows of the case table on a device that executes PTX, beside the CPU in float64: predictions, outputs in training, loss, all gradients."""

import math
import random

import numpy as np
import pytest

from cases import LossCase, all_cases, all_loss_cases
from helpers import assert_close
from sweeps import sweep_seed
from test_cases import case_parameters, data_of, each, loss_data, loss_rig, new_rig

pytest.importorskip("numba_cuda", reason="needs nnkit[cuda-test]")
pytest.importorskip("nvidia.cu13", reason="needs nnkit[cuda-test]")
import ptx
from cuda_cases import KernelCase
from device_rig import code_of, on_device
from nnkit.layers.activation import register_activation
from test_cuda_kernels import on_the_device

ROWS = [*all_cases(), *all_loss_cases()]
SAMPLE = 24


def rounded(values):
    """Numbers of float32 in float64; whole numbers as they are."""
    return values.astype(np.float32).astype(np.float64) if values.dtype.kind == "f" else values


def compare(case, device=None):
    """Tolerances are those of the CPU's float32: sums run in other orders, but are no longer."""
    loss = isinstance(case, LossCase)
    x, t, w = loss_data(case) if loss else (*data_of(case), None)
    if loss:
        x, t = rounded(x), rounded(t)
        wide, narrow = loss_rig(case), loss_rig(case, dtype="float32", debug=False)
    else:
        x, t = (tuple(rounded(values) for values in arrays) for arrays in (x, t))
        parameters = {name: value.astype(np.float32) for name, value in case_parameters(case).items()}
        wide, narrow = new_rig(case, parameters=parameters), new_rig(case, "float32", debug=False, parameters=parameters)
    expected, predicted = wide.run(x, t, w), wide.predict(x)
    own, found = on_device(narrow, device or ptx.PtxDevice(watched=True), x, t, w)
    for what, a, b in (("prediction", own, predicted), ("y", found.y, expected.y), ("dx", found.dx, expected.dx)):
        for one, other in each(a, b):
            assert_close(one, other, case.single, what)
    assert_close(found.loss, expected.loss, case.single, "loss")
    for part in ("gradients", "updated"):
        for name, value in getattr(found, part).items():
            assert_close(value, getattr(expected, part)[name], case.single, name)


@pytest.mark.parametrize("name", ["softmax-empty", "graph-conv-no-features", "user-loss-one", "activation-UserActivation('cases_logistic')",
                                  "activation-UserActivation('cases_sine')"])
def test_rows_that_found_something(name):
    """Reads outside of arrays that have no columns; formulas of the user's."""
    compare(next(case for case in ROWS if case.id == name))


def test_a_formula_has_memory_of_its_own_where_it_needs_some():
    """The sine of large angles: NVIDIA's compiler multiplies them with a table of bits of 1 / pi, in an array of each thread's own."""
    angles = np.concatenate([np.geomspace(1e5, 3e38, 90), -np.geomspace(1, 1e20, 41), [0]]).astype(np.float32)
    name = f"user:{register_activation('rows_sine', lambda x: math.sin(x), lambda x: math.cos(x)).kernel}_forward"
    assert "st.local" in code_of(((name,),), "float32").ptx
    case = KernelCase("sine", name, (np.empty((4, 33), np.float32), angles.reshape(4, 33), np.float32(0), np.float32(0), np.float32(0)))
    for schedule in ptx.SCHEDULES:
        y, _ = on_the_device(ptx.PtxDevice(schedule), case, case.arguments, "float32", 2)
        np.testing.assert_allclose(y.ravel(), np.sin(angles.astype(np.float64)), rtol=0, atol=1.2e-7)      # two roundings of float32


@pytest.mark.sweep
@pytest.mark.parametrize("case", ROWS, ids=[case.id for case in ROWS])
def test_row(case):
    compare(case)


@pytest.mark.gpu
@pytest.mark.sweep
@pytest.mark.parametrize("case", ROWS, ids=[case.id for case in ROWS])
def test_row_on_a_gpu(case, gpu):
    compare(case, gpu)


@pytest.mark.sweep
def test_sample_of_rows():
    """As many as a run of CI has time for, others each time."""
    for case in random.Random(sweep_seed()).sample(ROWS, SAMPLE):
        print(case.id)
        compare(case)
