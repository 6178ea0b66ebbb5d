"""Every CUDA kernel, executed by tests/ptx.py, against its twin on the CPU or NumPy: cut into several tasks, under three schedules."""

import importlib
import pathlib

import numpy as np
import pytest

import nnkit
from cuda_cases import CASES, KernelCase
from cuda_cases_recurrent import WalkCase, walk

pytest.importorskip("numba_cuda", reason="needs nnkit[cuda-test]")
pytest.importorskip("nvidia.cu13", reason="needs nnkit[cuda-test]")

import ptx
from device_rig import code_of
from nnkit import cuda_jit, jit
from nnkit.plan.launch import CLUSTERS, SHARED_BYTES, scratch_bytes
from nnkit.prims.recurrent_step_cuda import QUARTETS
from nnkit.runtime.cuda import Node, bits
from test_cuda_training import walks_of

PACKAGE = pathlib.Path(nnkit.__file__).parent


def all_kernels():
    """(step name, kernel) of every module of CUDA kernels."""
    for path in sorted(PACKAGE.rglob("*_cuda.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for name, value in vars(importlib.import_module(f"nnkit.{module}")).items():
            if isinstance(value, cuda_jit.Kernel):
                yield f"{module.removesuffix('_cuda')}.{name}", value


def twin_of(step):
    module, _, name = step.rpartition(".")
    path = PACKAGE.joinpath(*module.split(".")).with_name(f"{module.rpartition('.')[2]}_cpu.py")
    return getattr(importlib.import_module(f"nnkit.{module}_cpu"), name, None) if path.exists() else None


def typed(value, argument, dtype):
    """The case's value as the kernel declares it."""
    if not isinstance(value, np.ndarray):
        return value
    return np.array(value, dtype if argument.dtype == "T" else argument.dtype)


def on_the_device(device, case, values, dtype, tasks, shared=SHARED_BYTES):
    """The arrays after one launch of the kernel."""
    code = code_of(((case.kernel,),), dtype, device.architecture)
    words, places = [tasks], []
    for value, kind in zip(values, cuda_jit.find(case.kernel).arguments, strict=True):
        if isinstance(value, np.ndarray):
            places.append(device.allocate(value.nbytes))
            device.write(places[-1], value)
            words += [places[-1], *value.shape]
        elif isinstance(value, tuple):
            words += value
        else:
            words.append(bits(value, kind.dtype, dtype))
    device.graph([Node(device.load(code.ptx), tasks, shared, np.array(words, np.int64))], 1).run(1)
    found = [value.copy() for value in values if isinstance(value, np.ndarray)]
    for place, array in zip(places, found, strict=True):
        device.read(place, array)
        device.release(place)
    return found


def expected_arrays(case, values):
    """What the kernel is to leave behind, by the twin or by the case's own formula in float64."""
    if case.expected is not None:
        return case.expected(*(value.astype(np.float64) if isinstance(value, np.ndarray) else value for value in values))
    copies = [value.copy() if isinstance(value, np.ndarray) else value for value in values]
    twin_of(case.kernel)(0, 1, *copies)
    return copies[:case.written]


def check(case, devices):
    """A kernel against its twin, for each dtype and number of tasks on devices(dtype, tasks); all of them must give the same bits."""
    for dtype in case.dtypes:
        values = [typed(value, argument, dtype) for value, argument in zip(case.arguments, cuda_jit.find(case.kernel).arguments, strict=True)]
        expected = expected_arrays(case, values)
        given = [value for value in values if isinstance(value, np.ndarray)]
        tolerance = case.single if dtype == "float32" else case.double
        bits_seen = set()
        for tasks in case.tasks:
            for device in devices(dtype, tasks):
                found = on_the_device(device, case, values, dtype, tasks)
                for array, wanted in zip(case.counts(*found[:case.written]), case.counts(*expected), strict=True):
                    largest = np.abs(wanted[np.isfinite(wanted)]).max(initial=0)
                    np.testing.assert_allclose(array, wanted, rtol=tolerance, atol=tolerance * largest)
                for array, before in zip(found[case.written:len(found) - case.scratch], given[case.written:len(found) - case.scratch], strict=True):
                    np.testing.assert_array_equal(array, before)
                bits_seen.add(b"".join(array.tobytes() for array in found[:case.written]))
        assert len(bits_seen) == 1, "the bits depend on the number of tasks, on the schedule or on chance"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_kernel_does_what_its_twin_does(case):
    def devices(dtype, tasks):
        every = dtype == "float32" and tasks == case.tasks[-1]
        return [ptx.PtxDevice(schedule) for schedule in (ptx.SCHEDULES if every else ptx.SCHEDULES[:1])]
    check(case, devices)


class Later(ptx.PtxDevice):
    """From compute capability 10 on NVVM has another code generator: other instructions, other branches."""

    architecture = (10, 0)


@pytest.mark.parametrize("case", CASES[::len(CASES) // 7], ids=lambda case: case.id)
def test_a_kernel_does_so_on_later_gpus(case):
    check(case, lambda dtype, tasks: [Later()])


@pytest.mark.sweep
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_kernel_does_so_on_later_gpus(case):
    check(case, lambda dtype, tasks: [Later()])


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_kernel_on_a_gpu_does_what_its_twin_does_five_times(case, gpu):
    if "_cluster_" in case.kernel and gpu.architecture[0] not in CLUSTERS:
        pytest.skip("this GPU has no clusters")
    check(case, lambda dtype, tasks: [gpu] * 5)


REAL = [(layer, way, schedule) for layer in (nnkit.LSTM(256), nnkit.GRU(256), nnkit.SimpleRNN(600), nnkit.LSTM(104), nnkit.LSTM(320))
        for way in ("forward", "backward") for schedule in ptx.SCHEDULES]


@pytest.mark.parametrize(("layer", "way", "schedule"), [each if each[2] == "together" else pytest.param(*each, marks=pytest.mark.sweep)
                                                        for each in REAL])
def test_walks_by_clusters_are_right_for_real_sizes(layer, way, schedule):
    """With the lanes to a sum and the bytes of shared memory that a plan says."""
    step = walks_of(layer)[way]
    cell = {nnkit.LSTM: "lstm", nnkit.GRU: "gru", nnkit.SimpleRNN: "simple_rnn"}[type(layer)]
    shape = WalkCase("real", layer.units, 5, 2, parts=step.scalars[QUARTETS], sequences=True, masked=True, dropped=True, begun=True, ends=True)
    _, kernel, arguments, written, expected, _ = next(found for found in walk(shape, cell, "") if found[1].endswith(way))
    assert kernel == step.kernel
    case = KernelCase("real", kernel, arguments, written=written)
    values = [typed(value, argument, "float32") for value, argument in zip(arguments, cuda_jit.find(kernel).arguments, strict=True)]
    found = on_the_device(ptx.PtxDevice(schedule), case, values, "float32", 16, scratch_bytes([step]))[:written]
    for array, wanted in zip(found, expected(), strict=True):
        np.testing.assert_allclose(array, wanted, rtol=2e-6, atol=2e-6 * np.abs(wanted).max(initial=0))


# Kernels, or whole files of them, that the CPU alone has: what a GPU does in another way (docs/cuda.md).
CPU_ALONE = {
    "graph.links", "graph.sampling",                     # loaders of batches
    "optimizers.lazy", "optimizers.closed", "optimizers.replay", "prims.touched.distinct", "prims.touched.add_up",      # tables are swept as a whole
    "prims.direct", "prims.winograd", "prims.taps", "prims.pooled", "prims.depthwise.depthwise_forward", "prims.depthwise.depthwise_weight",
    "prims.matmul.pack", "prims.matmul.pack_gates", "prims.matmul.pack_transposed", "prims.matmul.pack_gates_transposed", "prims.matmul.transpose",
    "layers.dense.dense_forward_slices", "layers.dense.dense_backward_input", "layers.dense.dense_backward_columns",     # nothing is packed or turned
    "layers.dense.dense_backward_weight_slices",         # slices are those of plan/products.py
    "prims.recurrent.recurrent_weight", "prims.recurrent.recurrent_input",               # products over all steps; and through time it goes by walks:
    *(f"layers.recurrent.{cell}{kind}_{way}" for cell in ("simple_rnn", "lstm", "gru") for kind in ("", "_any") for way in ("forward", "backward")),
}


def test_every_other_kernel_of_the_cpu_has_a_twin():
    found = set()
    for path in sorted(PACKAGE.rglob("*_cpu.py")):
        family = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("_cpu")
        kernels = {name for name, value in vars(importlib.import_module(f"nnkit.{family}_cpu")).items() if isinstance(value, jit.Kernel)}
        if path.with_name(path.name.replace("_cpu", "_cuda")).exists():
            twins = importlib.import_module(f"nnkit.{family}_cuda")
            found |= {f"{family}.{name}" for name in kernels if not hasattr(twins, name)}
        elif kernels:
            found.add(family)
    assert found == CPU_ALONE


def test_every_kernel_has_a_case():
    copying = {"prims.chip.bring", "prims.chip.gather_rows", "prims.chip.gather_labels", "prims.chip.arrive"}      # see test_cuda_chip.py
    assert {name for name, _ in all_kernels()} == {case.kernel for case in CASES} | copying


def test_a_twin_takes_the_same_arguments():
    found = 0
    for step, kernel in all_kernels():
        twin = twin_of(step)
        if isinstance(twin, jit.Kernel):
            assert (kernel.signature, kernel.argument_names) == (twin.signature, twin.argument_names), step
            found += 1
    assert found > 80
