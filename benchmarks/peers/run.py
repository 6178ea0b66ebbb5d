"""Runs nnkit beside other libraries on the same work, and prints the table of ratios.

    python benchmarks/peers/run.py --python torch=/path/to/python --python keras=/path/to/python ...

Every library has a process of its own for each piece of work. All of them prepare, train the same number of epochs and show their loss, which
must lie in the range that `workloads.py` states. Then they are timed in rounds, one process at a time, so that each round sees the same state of
the machine; a ratio is taken within a round, and the table shows the median of the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import report
from workloads import GPU_ONLY, WORKS, Work

HERE = Path(__file__).resolve().parent
# Peer -> (its module here, the packages it imports).
PEERS = {
    "nnkit": ("peer_nnkit.py", ("nnkit",)),
    "sklearn": ("peer_sklearn.py", ("sklearn",)),
    "torch": ("peer_torch.py", ("torch",)),
    "torch-channels-last": ("peer_torch.py", ("torch",)),
    "torch-compile": ("peer_torch.py", ("torch",)),
    "keras": ("peer_keras.py", ("keras",)),
    "jax": ("peer_jax.py", ("jax",)),
    "pyg": ("peer_pyg.py", ("torch", "torch_geometric")),
    "pyg-sparse": ("peer_pyg.py", ("torch", "torch_geometric")),
    "pyg-compile": ("peer_pyg.py", ("torch", "torch_geometric")),
}
# With --cuda these instead, and of the works those that all of them have.
CUDA_PEERS = {
    "nnkit-cuda": ("peer_nnkit.py", ("nnkit", "numba_cuda")),
    "nnkit-cuda-blas": ("peer_nnkit.py", ("nnkit", "numba_cuda", "nvmath")),
    "torch-cuda": ("peer_torch_cuda.py", ("torch",)),
    "torch-cuda-compile": ("peer_torch_cuda.py", ("torch",)),
    "torch-cuda-graph": ("peer_torch_cuda.py", ("torch",)),
}
CUDA_KERNELS = {"activations": ("nnkit-cuda", "torch-cuda"), "optimizers": ("nnkit-cuda", "torch-cuda")}   # of single kernels
CUDA_WORKS = ("mlp", "autoencoder", "digits_cnn", "gcn", "bigmlp", "mlp4096", "conv3d", "vgg16_batch64", "lstm256")
# Set by some machines for other programs; they choose OpenBLAS's code for it and so change what NumPy and scikit-learn reach.
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
REST = 0.25   # seconds before a round: the thread pools of the process before spin for up to 0.2 s after their last work


def environment(threads: int) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if name not in UNSET}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        env[name] = str(threads)
    return env


def limit_to(threads: int) -> None:
    """Runs in the new process: JAX and TensorFlow take their number of threads from the processors they may use."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


class Runner:
    """Starts processes: knows the interpreter of each peer, the threads, and where the arrays lie."""

    def __init__(self, pythons: dict[str, str], threads: int, folder: Path) -> None:
        self.pythons = pythons
        self.threads = threads
        self.folder = folder
        self.errors = (folder / "errors").open("w")      # a file: a pipe that nobody reads would fill up and stop the process

    def last_words(self) -> str:
        """The last line that any process wrote to stderr: the error, where one has just ended with one."""
        lines = (self.folder / "errors").read_text().strip().splitlines()
        return lines[-1] if lines else "no message"

    def python(self, peer: str) -> str:
        family = peer.split("-")[0]                      # torch-compile runs where torch runs
        return self.pythons.get(peer) or self.pythons.get(family) or sys.executable

    def present(self, peer: str) -> bool:
        code = f"import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, {PEERS[peer][1]!r})))"
        return subprocess.run([self.python(peer), "-c", code], stderr=subprocess.DEVNULL, check=False).returncode == 0

    def arrays(self, work: str) -> Path:
        path = self.folder / f"{work}.npz"
        if not path.exists():
            np.savez(path, **WORKS[work].make())
        return path

    def start(self, peer: str, *arguments: str, **extra: str) -> subprocess.Popen[str]:
        return subprocess.Popen([self.python(peer), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
                                env=environment(self.threads) | extra, preexec_fn=lambda: limit_to(self.threads))

    def worker(self, peer: str, work: str) -> Worker:
        module = str(HERE / PEERS[peer][0])
        return Worker(self, self.start(peer, module, work, str(self.arrays(work)), peer, str(WORKS[work].epochs)))


class Worker:
    """One peer's process for one piece of work."""

    def __init__(self, runner: Runner, process: subprocess.Popen[str]) -> None:
        self.runner = runner
        self.process = process

    def read(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(self.runner.last_words())
        return json.loads(line)

    def round(self, seconds: float) -> dict[str, Any]:
        assert self.process.stdin
        time.sleep(REST)
        print(f"round {seconds}", file=self.process.stdin, flush=True)
        return self.read()

    def stop(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate()


def disagreement(work: Work, result: report.Result, reference: dict[str, list[float]]) -> str:
    """Why this peer's result is not the same work, or nothing."""
    if result.loss is not None and not work.loss[0] <= result.loss <= work.loss[1]:
        return f"loss {result.loss:.4f} is outside {work.loss[0]:g} to {work.loss[1]:g}"
    for name, values in result.checks.items():
        if name in reference:
            expected = np.array(reference[name])
            size = np.max(np.abs(expected), initial=0)   # numbers that are small beside the others have their errors
            if not np.allclose(values, expected, rtol=work.tolerance, atol=work.tolerance / 10 * size):
                return f"{name} differs by {np.max(np.abs(values - expected)):.1e}; its largest number is {size:.1e}"
    return ""


def compare(runner: Runner, name: str, peers: list[str], rounds: int, seconds: float) -> list[report.Result]:
    """All peers on one piece of work, in alternation."""
    work = WORKS[name]
    workers: dict[str, Worker] = {}
    results = {peer: report.Result(peer) for peer in peers}
    try:
        for peer, result in results.items():
            workers[peer] = runner.worker(peer, name)
            with failing(result):
                answer = workers[peer].read()
                result.loss, result.checks, result.note = answer["loss"], answer["checks"], answer["note"]
                result.problem = disagreement(work, result, results[peers[0]].checks)
        for _ in range(rounds):
            for peer, result in results.items():
                if not result.problem:
                    with failing(result):
                        result.add(workers[peer].round(seconds))
    finally:
        for worker in workers.values():
            worker.stop()
    return list(results.values())


@contextlib.contextmanager
def failing(result: report.Result) -> Iterator[None]:
    """A peer that fails is reported; the others go on."""
    try:
        yield
    except (RuntimeError, BrokenPipeError) as error:
        result.problem = f"failed: {error}"


def startup(runner: Runner, peers: list[str], rounds: int) -> list[report.Result]:
    """Fresh processes: to the end of the first epoch (from the outside), and the import alone (from the inside)."""
    variants = [(peer, peer) for peer in peers if peer != "nnkit"]
    if "nnkit" in peers:
        variants = [("nnkit", "nnkit"), ("nnkit", "nnkit, empty cache"), *variants]
    results = {label: report.Result(label) for _, label in variants}
    warm = runner.folder / "warm"
    for number in range(-1, rounds):                     # round -1 fills nnkit's cache and the system's file cache
        for peer, label in variants:
            cache = warm if label == "nnkit" else runner.folder / f"empty{number}"
            if results[label].problem:
                continue
            with failing(results[label]):
                times = {"first epoch": first_epoch(runner, peer, cache), "import alone": import_alone(runner, peer, cache)}
                if number >= 0:
                    results[label].add({"times": times})
    return list(results.values())


def first_epoch(runner: Runner, peer: str, cache: Path) -> float:
    path = runner.arrays("startup")
    time.sleep(REST)
    start = time.perf_counter()
    worker = Worker(runner, runner.start(peer, str(HERE / PEERS[peer][0]), "startup", str(path), peer, NNKIT_CACHE_DIR=str(cache)))
    worker.read()
    seconds = time.perf_counter() - start
    worker.stop()
    return seconds


def import_alone(runner: Runner, peer: str, cache: Path) -> float:
    code = f"from time import perf_counter as t; s = t(); import {PEERS[peer][1][0]}; print(t() - s)"
    process = runner.start(peer, "-c", code, NNKIT_CACHE_DIR=str(cache))
    out, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(runner.last_words())
    return float(out.splitlines()[-1])


def gpu() -> str:
    """The GPU and its driver, as NVIDIA's own tool names them."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError, IndexError):
        return subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True, text=True,
                              check=True).stdout.splitlines()[0]
    return "a GPU of unknown name"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuda", action="store_true", help="on the GPU")
    parser.add_argument("--peers", help="which, separated by commas (default: all)")
    parser.add_argument("--work", help="which, separated by commas (default: all)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of timing (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.3, help="length of one timing (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads and processors of every process (default: %(default)s)")
    parser.add_argument("--python", action="append", default=[], metavar="PEER=PATH", help="interpreter of one peer, or of all with all=PATH")
    options = parser.parse_args()
    if options.cuda:
        PEERS.clear()
        PEERS.update(CUDA_PEERS)
    options.peers = options.peers or ",".join(PEERS)
    on_gpu, on_cpu = (*CUDA_WORKS, *CUDA_KERNELS), [name for name in WORKS if name not in GPU_ONLY]
    options.work = options.work or ",".join(on_gpu if options.cuda else on_cpu)
    return options


def main() -> int:
    """Run what was asked for; 1 if nnkit itself failed somewhere or did not do the same work."""
    options = arguments()
    pythons = dict(pair.split("=", 1) for pair in options.python)
    pythons = {peer: pythons["all"] for peer in PEERS if "all" in pythons and not peer.startswith("nnkit")} | pythons
    for names, known in ((options.peers, PEERS), (options.work, WORKS)):
        for name in names.split(","):
            if name not in known:
                raise SystemExit(f"unknown {name!r}: known are {', '.join(known)}")
    peers = sorted(options.peers.split(","), key=list(PEERS).index)
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(pythons, options.threads, Path(folder))
        there = [peer for peer in peers if runner.present(peer)]
        for peer in peers:
            if peer not in there:
                print(f"{peer}: not installed for {runner.python(peer)}, skipped")
        unset = [name for name in UNSET if name in os.environ]
        machine = f"{gpu()}, {report.processor()}" if options.cuda else report.processor()
        print(f"{machine}, Python {platform.python_version()}, {options.threads} threads, {options.rounds} rounds; "
              f"unset for every process: {', '.join(UNSET)} ({'were set: ' + ', '.join(unset) if unset else 'none was set'})\n", flush=True)
        good = True
        for name in options.work.split(","):
            asked = CUDA_KERNELS.get(name, tuple(PEERS)) if options.cuda else ("nnkit", *WORKS[name].peers)
            members = [peer for peer in there if peer in asked]
            if name == "startup":
                results = startup(runner, members, options.rounds)
            else:
                results = compare(runner, name, members, options.rounds, options.seconds)
            print(report.table(name, results), flush=True)
            good &= not any(result.problem for result in results if result.peer.startswith("nnkit"))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
