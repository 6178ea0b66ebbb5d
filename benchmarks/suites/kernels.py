"""Single kernels, run through the tape on arrays of one's choice: what the suite of kernels and the peers' table time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import scipy.sparse

import nnkit
from nnkit.jit import Int, Matrix, kernel
from nnkit.plan.arena import aligned
from nnkit.plan.builder import Builder
from nnkit.plan.layout import COUNTERS, Layout, lay_out
from nnkit.plan.passes import optimise, work_tasks
from nnkit.plan.plan import Buffer, Plan, Step
from nnkit.prims.csr import CHUNK
from nnkit.runtime import store
from nnkit.runtime.cpu import Memory, Tape

Run = Callable[[int], None]
Call = tuple[Any, ...]                                   # name, arrays, scalars, and tasks where they are others than those of the rest
Made = dict[str, tuple[Run, np.ndarray]]

ACTIVATIONS = {"relu": nnkit.ReLU(), "leaky_relu": nnkit.LeakyReLU(0.3), "elu": nnkit.ELU(), "sigmoid": nnkit.Sigmoid(), "tanh": nnkit.Tanh(),
               "softplus": nnkit.Softplus(), "silu": nnkit.SiLU(), "gelu": nnkit.GELU()}
OPTIMIZERS = {"sgd": nnkit.SGD(0.01), "sgd_momentum": nnkit.SGD(0.01, momentum=0.9), "adagrad": nnkit.Adagrad(1e-3), "rmsprop": nnkit.RMSprop(1e-3),
              "adam": nnkit.Adam(1e-3), "adamw": nnkit.AdamW(1e-3)}


def on_tape(*calls: Call, tasks: int, threads: int) -> Run:
    """A function of n that makes the calls (kernel, arrays in the kernel's order, scalars) n times, one after the other, each in that many tasks;
    a fourth member of a call is its own number of them."""
    arrays: dict[str, np.ndarray] = {}
    steps = []
    for name, operands, scalars, *own in calls:
        buffers = []
        for operand in operands:
            buffers.append(Buffer(f"array{len(arrays)}", operand.shape, operand.dtype.name, "external"))
            arrays[buffers[-1].name] = operand
        steps.append(Step(name, "benchmark", "forward", updates=tuple(buffers), scalars=tuple(scalars), tasks=[*own, tasks][0]))
    plan = Plan(mode="predict", batch=1, dtype="float32", steps=tuple(steps), groups=tuple(range(len(steps))))
    tape = Tape(plan, Memory(Layout("float32", {}, {}, {}, {})), threads)
    tape.bind(arrays)
    return tape.run


@kernel
def copy(task: Int, tasks: Int, y: Matrix, x: Matrix) -> None:
    """y = x: the bandwidth that the others are compared with. Task t covers its share of the rows. Writes y (=)."""
    for r in range(y.shape[0] * task // tasks, y.shape[0] * (task + 1) // tasks):
        for c in range(y.shape[1]):
            y[r, c] = x[r, c]


store.USER_KERNELS["user:copy"] = copy


def copying(x: np.ndarray, threads: int) -> tuple[Run, np.ndarray]:
    """A copy of a matrix: what runs it, and the copy."""
    y = np.empty_like(x)
    return on_tape(("user:copy", [y, x], ()), tasks=max(threads, work_tasks(x.size, 2 * x.nbytes, most=len(x) // 8)), threads=threads), y


def activations(x: np.ndarray, dy: np.ndarray, threads: int, names: Sequence[str] = tuple(ACTIVATIONS)) -> Made:
    """A copy, then activations and their gradients on matrices [R, C]: what runs each, and where its result stands."""
    tasks = max(threads, work_tasks(x.size, 2 * x.nbytes, most=len(x) // 8))
    y, dx = np.empty_like(x), np.empty_like(x)
    made = {"copy": copying(x, threads)}
    for name in names:
        spec = ACTIVATIONS[name]
        constants = [*spec.scalars(), 0.0, 0.0, 0.0][:3]
        family = f"layers.activation.{spec.kernel}"
        forward = on_tape((f"{family}_forward", [y, x], constants), tasks=tasks, threads=threads)
        kept = x
        if spec.keeps == "y":
            forward(1)
            kept = y.copy()
        made[name] = (forward, y)
        made[f"{name} gradient"] = (on_tape((f"{family}_backward", [dx, dy, kept], constants), tasks=tasks, threads=threads), dx)
    return made


def network_of(size: int) -> nnkit.nodes.Graph:
    """A network of so many parameters, in one vector."""
    return nnkit.Sequential([nnkit.Input((size,)), nnkit.Dense(1, use_bias=False)]).graph()


def begin_updates(vectors: Mapping[str, np.ndarray], spec: nnkit.optimizers.Optimizer, parameters: np.ndarray, gradients: np.ndarray) -> None:
    """Fill a model's lasting vectors with what the optimizer's first step finds."""
    vectors["parameters"][:parameters.size] = parameters
    vectors["gradients"][:parameters.size] = gradients
    vectors["learning_rates"][0] = spec.learning_rate
    vectors["counters"][COUNTERS["table_size"]] = 1
    for state, start in spec.states().items():
        vectors[f"optimizer/{state}"][:] = start


def optimizers(parameters: np.ndarray, gradients: np.ndarray, threads: int, names: Sequence[str] = tuple(OPTIMIZERS)) -> Made:
    """One step of every optimizer over flat vectors, with the steps and tasks that a model of so many parameters has."""
    made = {}
    graph = network_of(parameters.size)
    for name in names:
        spec = OPTIMIZERS[name]
        layout = lay_out(graph, spec, "float32")
        builder = Builder(layout, 1, "train")
        spec.lower(builder, layout)
        memory = Memory(layout)
        vectors = {key: memory.view(buffer) for key, buffer in layout.buffers.items()}
        begin_updates(vectors, spec, parameters, gradients)
        plan = Plan(mode="train", batch=1, dtype="float32", steps=tuple(builder.steps), groups=tuple(range(len(builder.steps))))
        made[name] = (Tape(plan, memory, threads).run, vectors["parameters"][:parameters.size])
    return made


def product(n: int, threads: int) -> tuple[Run, np.ndarray, np.ndarray]:
    """C = A B of n x n matrices by the kernel of Dense, packing included: what runs it, C, and what C must be (in float64)."""
    rng = np.random.default_rng(n)
    a, b = (rng.standard_normal((n, n), dtype=np.float32) for _ in range(2))
    c, panels, nothing = np.empty((n, n), np.float32), np.empty(n * n, np.float32), np.empty(0, np.float32)
    run = on_tape(("prims.matmul.pack", [panels, b], ()), ("layers.dense.dense_forward", [c, a, b, nothing, panels], ()),
                  tasks=threads, threads=threads)
    return run, c, a.astype(float) @ b


def passes(model: nnkit.Model, x: np.ndarray, dy: np.ndarray) -> dict[str, tuple[Run, Mapping[str, np.ndarray]]]:
    """A network of one input and one output on given x, its backward pass from a given dy = dLoss/dy: no loss, no checks, no copies.

    "forward" gives "y"; "forward and backward" gives "x", the gradient of x, and those of the parameters by name. Batch statistics as in training.
    """
    layout, given = model.layout, {"x": x, "dy": dy}
    offsets, end = dict(layout.offsets), layout.nbytes
    buffers = {name: Buffer(name, array.shape, array.dtype.name, "constant") for name, array in given.items()}
    for name, buffer in buffers.items():
        offsets[name], end = end, end + aligned(buffer.nbytes)
    memory = Memory(attrs.evolve(layout, offsets=offsets, nbytes=end))
    memory.kept[:] = model.memory.kept
    memory.training[:model.memory.training.size] = model.memory.training
    for name, array in given.items():
        memory.view(buffers[name])[...] = array

    def forward(g: Builder) -> tuple[Buffer, ...]:
        return tuple(y for y, _ in g.forward(model.graph, [buffers["x"]]))

    def both(g: Builder) -> tuple[Buffer, ...]:
        start = g.buffer("start", 1)
        g.on_backward(start, forward(g), lambda _: buffers["dy"])
        return (g.backward([start])["x"].reshaped(*x.shape),)

    plans = {}
    for name, emit in {"forward": forward, "forward and backward": both}.items():
        builder = Builder(layout, len(x), "gradients")
        outputs = emit(builder)
        plans[name] = optimise(Plan(mode="gradients", batch=len(x), dtype=layout.dtype, steps=tuple(builder.steps), outputs=outputs))
    memory.reserve(max(plan.arena_bytes for plan in plans.values()))     # before anything takes an address in it
    y, dx = (memory.view(plan.outputs[0], plan) for plan in plans.values())
    gradients = {name: memory.view(buffer) for name, buffer in layout.gradients.items()}
    runs = {name: Tape(plan, memory, model.threads).run for name, plan in plans.items()}
    return {"forward": (runs["forward"], {"y": y}), "forward and backward": (runs["forward and backward"], {"x": dx, **gradients})}


def distinct(numbers: np.ndarray) -> np.ndarray:
    """The numbers that are there, rising. np.unique hashes whole numbers since NumPy 2.3: ten million different ones take it 100 times as long."""
    ordered = np.sort(numbers)
    return ordered[np.append(True, ordered[1:] != ordered[:-1])]


def random_graph(name: str, nodes: int, degree: int = 10) -> scipy.sparse.csr_matrix:
    """A square matrix of about `degree` entries a row: "uniform", every entry as likely; "power": row and column r of the ranks as r^-0.6, in
    random order, so that the largest row has a few thousandths of all entries."""
    rng = np.random.default_rng(nodes)
    if name == "uniform":
        rows, columns = rng.integers(0, nodes, (2, nodes * degree))
    else:
        order = rng.permutation(nodes)
        rows, columns = (order[(nodes * rng.random(nodes * degree) ** 2.5).astype(np.int64)] for _ in range(2))
    flat = distinct(rows * nodes + columns)
    values = rng.standard_normal(len(flat), dtype=np.float32)
    return scipy.sparse.csr_matrix((values, flat % nodes, np.searchsorted(flat, nodes * np.arange(nodes + 1))), shape=(nodes, nodes))


def planetoid(file: str) -> scipy.sparse.csr_matrix:
    """The matrix of a file with the arrays adj_data, adj_indices, adj_indptr, adj_shape, with self-loops."""
    with np.load(file) as stored:
        a = scipy.sparse.csr_matrix((stored["adj_data"], stored["adj_indices"], stored["adj_indptr"]), shape=tuple(stored["adj_shape"]))
    return (a + scipy.sparse.identity(a.shape[0], np.float32)).tocsr()


def sparse_product(a: scipy.sparse.csr_matrix, x: np.ndarray, threads: int) -> tuple[Run, np.ndarray]:
    """y = A x by the kernel of graph layers: what runs it, and y."""
    tasks = max(1, work_tasks(2 * a.nnz * x.shape[1], a.nnz * 4 * x.shape[1], most=32))
    starts, columns, values = a.indptr.astype(np.int64), a.indices.astype(np.int32), a.data
    y, carry = np.empty((a.shape[0], x.shape[1]), np.float32), np.zeros((2 * (a.nnz // CHUNK) + 2, x.shape[1]), np.float32)
    none = np.empty(0, np.float32)
    run = on_tape(("prims.csr.csr_product", [y, carry, starts, columns, values, x, none], (CHUNK,), tasks),
                  ("prims.csr.csr_join", [y, carry, starts, none], (CHUNK,), tasks), tasks=tasks, threads=threads)
    return run, y


def along_entries(a: scipy.sparse.csr_matrix, what: str, width: int, threads: int) -> tuple[Run, np.ndarray, np.ndarray]:
    """A kernel along the entries or rows of a square matrix, `width` numbers each: what runs it, its result, and what that must be."""
    rng = np.random.default_rng(0)
    V, E = a.shape[0], a.nnz
    starts, columns, rows = a.indptr.astype(np.int64), a.indices.astype(np.int32), np.repeat(np.arange(V), np.diff(a.indptr))
    s, t = (rng.standard_normal((V, width), dtype=np.float32) for _ in range(2))
    tasks = max(1, work_tasks(2 * E * width, 4 * E * width, most=32))
    filled = np.diff(starts) > 0
    if what == "entries":
        d = np.empty(E, np.float32)
        return on_tape(("prims.csr.csr_entries", [d, starts, columns, s, t], ()), tasks=tasks, threads=threads), d, (s[rows] * t[columns]).sum(1)
    if what == "softmax":
        alpha = np.empty((E, width), np.float32)
        scores = np.where(s[rows] + t[columns] > 0, 1, 0.2) * (s[rows] + t[columns])
        powers = np.exp(scores)
        sums = np.add.reduceat(powers, starts[:-1][filled])
        run = on_tape(("prims.attention.edge_softmax_forward", [alpha, starts, columns, s, t], (0.2,)), tasks=tasks, threads=threads)
        return run, alpha, powers / np.repeat(sums, np.diff(starts)[filled], axis=0)
    y, best = np.empty((V, width), np.float32), np.empty((V, width), np.int32)
    if what == "largest":
        expected = np.zeros((V, width))
        expected[filled] = np.maximum.reduceat(t[columns], starts[:-1][filled])
        return on_tape(("prims.segment.csr_max_forward", [y, best, starts, columns, t], ()), tasks=tasks, threads=threads), y, expected
    segments = np.arange(0, V + 1, 20)
    sums = np.empty((len(segments) - 1, width), np.float32)
    run = on_tape(("prims.segment.segment_sum_forward", [sums, segments, t], ()), tasks=tasks, threads=threads)
    return run, sums, np.add.reduceat(t.astype(float), segments[:-1])
