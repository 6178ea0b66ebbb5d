"""Pieces of a user's own: kernels, layers, losses and metrics through nnkit.extend; its worked example, in words and as a program."""

import ast
import copy
import doctest
import os
import pathlib
import re
import subprocess
import sys
import threading

import numpy as np
import pytest

import nnkit
import nnkit.extend
from helpers import Rig, assert_close, assert_same_bits, debug_mode, many_tasks
from nnkit import Activation, Dense, Input, Network, Sequential, from_json, to_json
from nnkit.extend import (
    Int,
    Layer,
    Matrix,
    Parameter,
    Real,
    Vector,
    check_gradients,
    kernel,
    pointwise_kernels,
    real,
    register_loss,
    routine,
    spec,
)
from nnkit.jit import Kernel
from nnkit.layers import activation
from nnkit.losses import custom
from nnkit.plan.builder import Builder
from nnkit.plan.layout import lay_out
from nnkit.runtime import compilers, store
from nnkit.spec import CLASSES, SHORTHANDS, resolve

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE, EXAMPLE = ROOT / "docs" / "extending.md", ROOT / "examples" / "custom_layer.py"
REGISTRIES = (CLASSES, SHORTHANDS, store.USER_KERNELS, custom.REGISTERED, activation.REGISTERED)


@pytest.fixture(scope="module", autouse=True)
def _nothing_stays():
    """What these tests register is forgotten at the end: other tests go through all classes and names."""
    before = [copy.copy(registry) for registry in REGISTRIES]
    yield
    for registry, kept in zip(REGISTRIES, before, strict=True):
        registry.clear()
        registry.update(kept)


# The page and the program.

def run_page(text):
    """Execute the Python blocks of a page, those with prompts as doctests, in one namespace, which is returned."""
    names = {"__name__": "extending"}
    for match in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        block, line = match[1], text.count("\n", 0, match.start(1))
        if ">>>" not in block:
            exec(compile("\n" * line + block, str(PAGE), "exec"), names)
            continue
        test = doctest.DocTestParser().get_doctest(block, {}, PAGE.name, str(PAGE), line)
        test.globs = names                               # not a copy: later blocks use what this one makes
        said = []
        doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL).run(test, out=said.append, clear_globs=False)
        assert not said, "".join(said)
    return names


@pytest.fixture(scope="module")
def page():
    return run_page(PAGE.read_text())


def declared(source):
    """The functions and classes of a program, without comments."""
    return {node.name: ast.unparse(node) for node in ast.parse(source).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


def test_the_page_runs(page):
    assert {"RBF", "Cosine", "Quantile", "Coverage"} <= set(page)


def test_a_block_that_fails_is_noticed():
    with pytest.raises(AssertionError, match="Expected:"):
        run_page("```python\n>>> 1 + 1\n3\n```\n")


def test_the_program_runs_and_declares_what_the_page_does():
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    in_words = declared("\n".join(block for block in blocks if ">>>" not in block))
    program = declared(EXAMPLE.read_text())
    assert {"rbf_forward", "RBF", "quantile", "Coverage"} <= set(program)
    assert program == {name: in_words[name] for name in program}
    done = subprocess.run([sys.executable, str(EXAMPLE), "--quick"], env={**os.environ, "NNKIT_QUIET": "1", "PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert 0.8 < float(re.search(r"Test coverage: (\S+)", done.stdout)[1]) < 1.0


# A layer of one's own.

def rbf_by_loops(x, centers, gamma):
    return np.array([[np.exp(-gamma * ((row - center) ** 2).sum()) for center in centers] for row in x])


def data(batch, inputs=3, units=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((batch, inputs)), rng.standard_normal((batch, units)), {"rbf/centers": rng.standard_normal((units, inputs))}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 1e-6)])      # a few roundings of numbers of size 1
def test_the_layer_gives_the_formula(page, dtype, tolerance):
    x, _, parameters = data(7)
    rig = Rig(Sequential([Input((3,)), page["RBF"](5, gamma=0.7)]), parameters, 7, dtype=dtype)
    assert_close(rig.predict(x), rbf_by_loops(x, parameters["rbf/centers"], 0.7), tolerance)


def test_tasks_and_threads_change_no_bit(page):
    x, dy, parameters = data(37)
    network = Sequential([Input((3,)), page["RBF"](5, gamma=0.7)])
    expected = Rig(network, parameters, 37, dtype="float32", debug=False).run(x, dy)
    with many_tasks():
        for threads in (1, 2):
            rig = Rig(network, parameters, 37, dtype="float32", debug=False, threads=threads)
            found = rig.run(x, dy)
            assert max(step.tasks for step in rig.tape("gradients").plan.steps) > 1
            assert_same_bits(found.y, expected.y)
            assert_same_bits(found.dx, expected.dx)
            assert_same_bits(found.gradients["rbf/centers"], expected.gradients["rbf/centers"])
        rig.run_watched("gradients", x, dy)


def test_a_trained_model_has_the_same_bits_with_one_and_two_threads(page):
    x, y, _ = data(512, units=1)
    found = []
    for threads in (1, 2):
        with many_tasks():
            network = Sequential([Input((3,)), page["RBF"](5), Dense(1)])
            model = nnkit.compile(network, optimizer="adam", loss="quantile_90", metrics=[page["Coverage"]()], seed=3, threads=threads)
            logs = model.fit(x, y, epochs=2, batch_size=100, verbose=0)
        found.append((dict(model.parameters), logs["loss"], logs["coverage"]))
    assert found[0][1:] == found[1][1:]
    for name, values in found[0][0].items():
        assert_same_bits(values, found[1][0][name], name)


def test_one_layer_in_two_places_of_a_network(page):
    """Shared centers: their gradient is the sum of both places'."""
    bumps = page["RBF"](4, gamma=0.5)
    x = Input((3,))
    assert check_gradients(Sequential([Input((3,)), Dense(3), bumps]), (3,)) < 1e-8
    model = nnkit.compile(Network(x, [bumps(x), bumps(Dense(3)(x))]), loss="mse", dtype="float64")
    assert sorted(model.parameters) == ["dense/bias", "dense/kernel", "rbf/centers"]
    rows, t = data(6)[0], np.zeros((6, 4))
    alone = [nnkit.compile(Network(x, y), loss="mse", dtype="float64") for y in (bumps(x), bumps(Dense(3)(x)))]
    for other in alone:
        other.set_parameters({name: model.parameters[name] for name in other.parameters})
    expected = sum(other.gradients(rows, t)["rbf/centers"] for other in alone)
    assert_close(model.gradients(rows, (t, t))["rbf/centers"], expected, 1e-14)


def test_json_and_repr(page):
    network = Sequential([Input((3,)), page["RBF"](5, gamma=0.7, name="bumps"), Dense(1)])
    assert from_json(to_json(network)) == network
    assert eval(repr(network), {**vars(nnkit), **page}) == network
    with pytest.raises(ValueError, match=r"RBF: gamma must be a finite number greater than 0, received 0\.0"):
        page["RBF"](3, gamma=0)
    with pytest.raises(ValueError, match="RBF needs at least one axis"):
        page["RBF"](3).output_shape(())


def test_a_frozen_layer_learns_nothing(page):
    network = Sequential([Input((3,)), page["RBF"](5, trainable=False), Dense(1)])
    model = nnkit.compile(network, optimizer="sgd", loss="mse", seed=0)
    before = model.parameters["rbf/centers"].copy()
    x, y, _ = data(20, units=1)
    model.fit(x, y, verbose=0)
    assert_same_bits(model.parameters["rbf/centers"], before)
    assert not any("rbf_backward" in name for name in model.plan.kernels)


# Kernels: declared, and declared again.

def scale_layer(source="y[n, j] = factor[0] * x[n, j]", name="scale_forward"):
    """A layer class with a kernel whose inner line is `source`, as if typed into a notebook's cell."""
    names = {**vars(nnkit.extend), "np": np, "helper": helper, "__name__": "a_notebook"}
    exec(f"@kernel\ndef {name}(task: Int, tasks: Int, y: Matrix, x: Matrix, factor: Vector) -> None:\n"
         "    start, stop = row_share(x.shape[0], tasks, task)\n    for n in range(start, stop):\n        for j in range(x.shape[1]):\n"
         f"            {source}\n", names)

    @spec()
    class Scale(Layer):
        def parameters(self, *shapes):
            return {"factor": Parameter((1,), nnkit.Ones())}

        def lower(self, g, *xs):
            (x,) = xs
            y = g.buffer("y", *x.shape)
            g.step(names[name], [y.rows()], [x.rows(), g.parameter("factor")], rows=x.shape[0])
            g.on_backward(y, [x], lambda dy: dy)
            return y

    return Scale, names


def predict(layer, x=((1.0, 2.0),), **options):
    return nnkit.compile(Sequential([Input((2,)), layer()]), **options).predict(x).tolist()


def test_a_kernel_is_registered_by_module_and_name():
    @kernel
    def local(task: Int, tasks: Int, y: Matrix) -> None:
        """Nothing."""

    assert isinstance(local, Kernel)
    assert local.step == "user:test_extend.test_a_kernel_is_registered_by_module_and_name.<locals>.local@1"
    assert store.USER_KERNELS[local.step] is local
    assert kernel(local.function).step.endswith("@2")
    from nnkit.layers.dense_cpu import dense_forward

    assert dense_forward.step == "layers.dense.dense_forward"
    assert dense_forward.step not in store.USER_KERNELS


def test_a_step_takes_a_kernel_or_its_name(page):
    graph = Sequential([Input((3,)), page["RBF"](2)]).graph()
    g = Builder(lay_out(graph, None, "float32"), 4, "predict")
    y, x, c = g.buffer("y", 4, 2), g.buffer("x", 4, 3), g.buffer("c", 2, 3)
    g.step(page["rbf_forward"], [y], [x, c], scalars=[1.0])
    g.step(page["rbf_forward"].step, [y], [x, c], scalars=[1.0])
    g.step("layers.dense.dense_forward", [y], [x])
    assert [step.kernel for step in g.steps] == [page["rbf_forward"].step] * 2 + ["layers.dense.dense_forward"]
    g.layer = "mine"
    with pytest.raises(TypeError, match=r"^layer 'mine': a step's kernel must be a kernel or its name, received <function .*>: declare it with "
                                        r"@kernel$"):
        g.step(rbf_by_loops)
    with pytest.raises(ValueError, match=r"no kernel 'user:somewhere\.else' is registered in this process: give g.step the kernel itself"):
        store.entries(["user:somewhere.else"], "float32")


def test_a_kernel_declared_again_counts_for_models_compiled_afterwards():
    first, names = scale_layer("y[n, j] = 2 * factor[0] * x[n, j]")
    old = nnkit.compile(Sequential([Input((2,)), first()]))
    assert old.predict([[1.0, 2.0]]).tolist() == [[2.0, 4.0]]
    again, fresh = scale_layer("y[n, j] = 3 * factor[0] * x[n, j]")
    assert fresh["scale_forward"].step != names["scale_forward"].step
    assert predict(again) == [[3.0, 6.0]]
    names["scale_forward"] = fresh["scale_forward"]      # the cell run again in one namespace
    assert predict(first) == [[3.0, 6.0]]
    assert old.predict([[1.0, 2.0]]).tolist() == [[2.0, 4.0]]          # its bound plan stays as it is


def test_kernels_of_one_name_live_side_by_side():
    """A function that makes kernels gives all of them the same name; each step calls its own."""
    layers = [scale_layer(f"y[n, j] = {k} * x[n, j]", "made_forward")[0] for k in (5, 7)]
    assert [predict(layer) for layer in layers] == [[[5.0, 10.0]], [[7.0, 14.0]]]
    assert [predict(layer, dtype="float64") for layer in layers] == [[[5.0, 10.0]], [[7.0, 14.0]]]


def test_a_users_kernel_is_compiled_once_for_each_dtype_and_never_stored(tmp_path, monkeypatch):
    monkeypatch.setenv("NNKIT_CACHE_DIR", str(tmp_path))
    asked = []
    real_compile_all = compilers.compile_all
    monkeypatch.setattr(compilers, "compile_all", lambda wanted, here: (asked.extend(wanted), real_compile_all(wanted, here)))
    layer, names = scale_layer()
    compiled = []
    real_compile = Kernel.compile

    def compile_and_tell(self, dtype, debug=False):
        compiled.append((self.step, dtype))
        return real_compile(self, dtype, debug)

    monkeypatch.setattr(Kernel, "compile", compile_and_tell)
    for dtype in ("float32", "float64", "float32"):
        predict(layer, dtype=dtype)
    step = names["scale_forward"].step
    assert [dtype for name, dtype in compiled if name == step] == ["float32", "float64"]
    assert step not in [name for name, *_ in asked]      # helpers are not asked: they do not know it
    assert not [path for path in tmp_path.rglob("*") if "scale" in path.name or "user" in path.name]


def test_what_is_compiled_is_said(monkeypatch, capsys):
    monkeypatch.delenv("NNKIT_QUIET", raising=False)
    layer, names = scale_layer()
    predict(layer)
    number = names["scale_forward"].step.rpartition("@")[2]
    assert f"nnkit: compiling 1 kernel of your own, once in every process (scale_forward@{number})" in capsys.readouterr().err


def test_threads_may_declare_kernels_at_the_same_time():
    steps = []

    def declare():
        for _ in range(50):
            steps.append(scale_layer(name="raced")[1]["raced"].step)

    threads = [threading.Thread(target=declare) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(steps)) == 200


# What is refused.

def plain(task: Int, tasks: Int, y: Matrix) -> None:
    """A kernel's function."""


def no_annotation(task: Int, tasks: Int, y: Matrix, x) -> None: ...
def wrong_annotation(task: Int, tasks: Int, y: np.ndarray) -> None: ...
def unknown_annotation(task: Int, tasks: Int, y: "Metrix") -> None: ...          # noqa: F821
def wrong_order(task: Int, tasks: Int, factor: Real, y: Matrix) -> None: ...
def no_task(y: Matrix, x: Matrix) -> None: ...
def real_task(task: Real, tasks: Int, y: Matrix) -> None: ...
def with_default(task: Int, tasks: Int, factor: Real = 2.0) -> None: ...
def with_star(task: Int, tasks: Int, *ys: Matrix) -> None: ...


KINDS = "Vector, Matrix, Tensor3, Labels, LabelMatrix, Ordinals, Counters, Doubles, Real, Double or Int"


@pytest.mark.parametrize(("function", "message"), [
    (lambda task, tasks: None, "kernel: must be a plain function, declared by def, received <function <lambda>"),
    (np.tanh, "kernel: must be a plain function, declared by def, received <ufunc 'tanh'>"),
    (no_annotation, f"kernel no_annotation: the annotation of x must be {KINDS}, received none"),
    (wrong_annotation, f"kernel wrong_annotation: the annotation of y must be {KINDS}, received <class 'numpy.ndarray'>"),
    (unknown_annotation, "kernel unknown_annotation: annotations must be known where the kernel is declared: name 'Metrix' is not defined"),
    (wrong_order, "kernel wrong_order: arrays must stand before numbers, received the array y after the number factor"),
    (no_task, "kernel no_task: the first two arguments must be task and tasks, received ['y', 'x']"),
    (real_task, "kernel real_task: task and tasks must be annotated as Int"),
    (with_default, "kernel with_default: arguments must be plain ones without defaults, received factor: "),
    (with_star, "kernel with_star: arguments must be plain ones without defaults, received *ys: "),
])
def test_what_is_no_kernel_is_refused_when_it_is_declared(function, message):
    registered = dict(store.USER_KERNELS)
    with pytest.raises(TypeError) as error:
        kernel(function)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert registered == store.USER_KERNELS


def helper(x):
    return x


@pytest.mark.parametrize(("source", "reason"), [
    ("y[n, j] = undefined_name", "NameError: name 'undefined_name' is not defined"),
    ("y[n, j] = helper(x[n, j])", "Untyped global name 'helper': Cannot determine Numba type of <class 'function'> (<string>, line 6)"),
    ("y[n, j] = x[n, j] + 'a'", "No implementation of function Function(<built-in function add>) found for signature: >>> add("),
    ("y[n] = np.zeros(3)", "it would make a new array, which a kernel must not: write a loop, or have the step name the array in `scratch` "
                           "(<string>, line 6)"),
    ("y[n] = 2 * x[n]", "it would make a new array, which a kernel must not"),
    ("with open('x') as f: pass", "UnsupportedBytecodeError: "),
])
def test_what_numba_cannot_compile_is_refused_when_it_is_needed(source, reason):
    layer, names = scale_layer(source)
    model = nnkit.compile(Sequential([Input((2,)), Dense(2), layer()]), optimizer="adam", loss="mse", seed=1)
    before = {name: values.copy() for name, values in model.parameters.items()}
    block = model.memory.training.copy()
    for action in (lambda: model.predict([[1.0, 2.0]]), lambda: model.fit(np.ones((4, 2)), np.ones((4, 2)), verbose=0)):
        with pytest.raises(ValueError) as error:         # noqa: PT011  (the whole message is compared)
            action()
        assert str(error.value).startswith(f"kernel {names['scale_forward'].step} cannot be compiled by Numba for float32: {reason}")
        assert "\n" not in str(error.value)
    for name, values in before.items():
        assert_same_bits(model.parameters[name], values)
    assert_same_bits(model.memory.training, block)


def test_a_model_goes_on_after_a_refused_backward_kernel():
    @kernel
    def broken_backward(task: Int, tasks: Int, dx: Matrix, dy: Matrix) -> None:
        dx[0, 0] = dy                                    # an array into a number

    @spec()
    class Broken(Layer):
        def lower(self, g, *xs):
            def backward(dy):
                dx = g.buffer("dx", *dy.shape)
                g.step(broken_backward, [dx.rows()], [dy.rows()])
                return dx

            (x,) = xs
            y = g.buffer("y", *x.shape)
            g.step("layers.activation.relu_forward", [y.rows()], [x.rows()], scalars=(0.0, 0.0, 0.0), rows=x.shape[0])
            g.on_backward(y, [x], backward)
            return y

    model = nnkit.compile(Sequential([Input((2,)), Dense(2), Broken()]), optimizer="adam", loss="mse", seed=1)
    x = np.ones((4, 2))
    before = model.predict(x)
    with pytest.raises(ValueError, match=r"^kernel user:test_extend\..*broken_backward@1 cannot be compiled by Numba for float32: "):
        model.train_on_batch(x, x)
    assert_same_bits(model.predict(x), before)
    assert model.evaluate(x, x)["loss"] == pytest.approx(float(((before - x) ** 2).mean()), rel=1e-6)


def test_a_step_that_does_not_fit_its_kernel_is_refused():
    layer, names = scale_layer()

    class Wrong(layer):
        def lower(self, g, *xs):
            y = g.buffer("y", *xs[0].shape)
            g.step(names["scale_forward"], [y.flat()], [xs[0].rows(), g.parameter("factor")])
            return y

    with pytest.raises(TypeError, match=re.escape(f"step {names['scale_forward'].step} of layer 'wrong' passes (float321 float322 float321), its "
                                                  "kernel declares (T2 T2 T1)")):
        predict(spec()(Wrong))


def test_debug_mode_catches_a_wrong_index():
    layer, names = scale_layer("y[n, j + 1] = x[n, j]")
    with debug_mode(True), pytest.raises(IndexError, match=rf"step \d+ \({re.escape(names['scale_forward'].step)}, layer 'scale'\) used an index "
                                                           "outside of its array"):
        predict(layer)


def test_debug_mode_names_the_step_that_leaves_a_cell():
    layer, names = scale_layer("y[n, 0] = x[n, j]")
    step = re.escape(names["scale_forward"].step)
    with debug_mode(True), pytest.raises(FloatingPointError, match=rf"scale/y\[0, 1\] is nan after step \d+ \({step}"):
        predict(layer)


def test_kernels_call_routines():
    names = {}
    exec("def add_one(x):\n    return x + type(x)(1)\n", names)
    add_one = routine(names["add_one"])

    @kernel
    def one_more(task: Int, tasks: Int, y: Vector, x: Vector) -> None:
        for i in range(x.size):
            y[i] = add_one(x[i])

    y = np.zeros(3, np.float32)
    one_more(0, 1, y, np.arange(3, dtype=np.float32))
    assert y.tolist() == [1, 2, 3]


# Losses.

def test_a_registered_loss_by_name_and_json():
    loss = register_loss("cubic", lambda y, t: abs(y - t) ** 3, lambda y, t: 3 * (y - t) * abs(y - t))
    assert loss == custom.UserLoss("cubic") == resolve("loss", "cubic")
    assert (loss.label, repr(loss)) == ("cubic", "UserLoss('cubic')")
    assert from_json(to_json(loss)) == loss
    rng = np.random.default_rng(0)
    x, y, w = rng.standard_normal((23, 4)), rng.standard_normal((23, 4)), rng.uniform(0, 2, 23)
    for dtype, tolerance in (("float64", 1e-13), ("float32", 1e-5)):
        model = nnkit.compile(Sequential([Input((4,))]), loss="cubic", dtype=dtype)
        expected = (np.abs(x - y) ** 3).mean(axis=1)
        assert model.evaluate(x, y)["loss"] == pytest.approx(expected.mean(), rel=tolerance)
        assert model.evaluate(x, y, sample_weight=w)["loss"] == pytest.approx((w * expected).mean(), rel=tolerance)
        assert_close(model.gradients(x, y, inputs=True)["x"], 3 * (x - y) * np.abs(x - y) / x.size, tolerance)
    assert check_gradients(Dense(3), (4,), loss="cubic") < 1e-8


def test_fit_with_a_registered_loss():
    register_loss("mine", lambda y, t: (y - t) ** 2, lambda y, t: 2 * (y - t))
    x, y, _ = data(100, units=1)
    ends = []
    for loss in ("mine", "mse"):
        model = nnkit.compile(Sequential([Input((3,)), Dense(1)]), optimizer="sgd", loss=loss, dtype="float64", seed=0)
        ends.append(model.fit(x, y, epochs=3, verbose=0)["loss"][-1])
    assert ends[0] == pytest.approx(ends[1], rel=1e-12)  # one formula, compiled twice


def test_a_loss_registered_again():
    register_loss("twice", lambda y, t: 2 * (y - t), lambda y, t: 2.0)
    old = nnkit.compile(Sequential([Input((1,))]), loss="twice")
    assert old.evaluate([[1.0]], [[0.0]])["loss"] == 2
    register_loss("twice", lambda y, t: 5 * (y - t), lambda y, t: 5.0)
    assert nnkit.compile(Sequential([Input((1,))]), loss="twice").evaluate([[1.0]], [[0.0]])["loss"] == 5
    assert old.evaluate([[1.0]], [[0.0]])["loss"] == 2


def test_a_loss_may_be_undefined_for_some_outputs():
    register_loss("log_loss", lambda y, t: -t * np.log(y), lambda y, t: -t / y)
    model = nnkit.compile(Sequential([Input((1,))]), loss="log_loss", dtype="float64")
    assert model.evaluate([[0.5]], [[1.0]])["loss"] == pytest.approx(np.log(2), rel=1e-14)


@pytest.mark.parametrize(("arguments", "kind", "message"), [
    (("mse", lambda y, t: y, lambda y, t: 1.0), ValueError, "register_loss: name must be new, received 'mse', which is nnkit's own"),
    (("my loss", lambda y, t: y, lambda y, t: 1.0), ValueError, "register_loss: name must be made of letters, digits and '_', received 'my loss'"),
    (("new", 3.0, lambda y, t: 1.0), TypeError, "register_loss: f must be a plain Python function of two numbers, received 3.0"),
    (("new", lambda y, t: y, lambda y: 1.0), TypeError, "register_loss: df must take exactly two numbers, received <lambda>(y)"),
    (("new", lambda y, t: undefined_name, lambda y, t: 1.0), ValueError,         # noqa: F821
     "register_loss: f cannot be compiled by Numba: NameError: name 'undefined_name' is not defined"),
    (("new", lambda y, t: (y, t), lambda y, t: 1.0), ValueError, "register_loss: f must return a number, returns UniTuple(float32 x 2)"),
    (("new", lambda y, t: (y - t) ** 2, lambda y, t: 2 * (t - y)), ValueError,
     "df must be the derivative of f in its first argument, the output; received df(-3.3, -2.0) = 2.6 where the central difference of f is -2.6"),
])
def test_loss_registration_refusals(arguments, kind, message):
    with pytest.raises(kind) as error:
        register_loss(*arguments)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert ("loss", "new") not in SHORTHANDS


def test_an_unregistered_loss():
    register_loss("known_loss", lambda y, t: y - t, lambda y, t: 1.0)
    with pytest.raises(ValueError, match=r"^UserLoss: no loss 'known_los' is registered in this process \(did you mean 'known_loss'\?\); "
                                         r"call register_loss first$"):
        custom.UserLoss("known_los")


def test_pointwise_kernels_take_up_to_two_constants(page):
    with pytest.raises(TypeError, match=r"^pointwise_kernels: f must take exactly two to four numbers, received <lambda>\(y\)$"):
        pointwise_kernels(lambda y: y, lambda y, t: y)

    @spec()
    class Bent(nnkit.PointwiseLoss):
        a: float = real(default=1.0)
        b: float = real(default=2.0)
        module, kernel = pointwise_kernels(lambda y, t, a, b: a * (y - t) + b * y * y, lambda y, t, a, b: a + 2 * b * y)

        def scalars(self):
            return self.a, self.b

    assert check_gradients(Activation("linear"), (3,), loss=Bent(0.7, 0.3)) < 1e-8
    model = nnkit.compile(Sequential([Input((2,))]), loss=Bent(3.0, 0.5))
    assert model.evaluate([[1.0, 2.0]], [[0.0, 0.0]])["loss"] == pytest.approx(((3 + 0.5) + (6 + 2)) / 2, rel=1e-6)
    assert from_json(to_json(page["Quantile"](0.9))) == page["Quantile"](0.9)


def test_a_loss_with_kernels_of_its_own(page):
    rng = np.random.default_rng(0)
    x, t, w = rng.standard_normal((9, 4)), rng.standard_normal((9, 4)), rng.uniform(0, 2, 9)
    cos = (x * t).sum(1) / np.sqrt((x * x).sum(1) * (t * t).sum(1))
    for dtype, tolerance in (("float64", 1e-13), ("float32", 1e-5)):
        model = nnkit.compile(Sequential([Input((4,))]), loss="cosine", dtype=dtype)
        assert model.evaluate(x, t, sample_weight=w)["loss"] == pytest.approx((w * (1 - cos)).mean(), rel=tolerance)
    with pytest.raises(ValueError, match=r"cosine must have an output of one axis besides the batch, received shape \(2, 3\)"):
        nnkit.compile(Sequential([Input((2, 3))]), loss="cosine")


# Metrics.

def test_a_metric_of_ones_own(page):
    def largest_error(y_true, y_pred):
        return np.abs(y_true - y_pred).max()

    model = nnkit.compile(Sequential([Input((1,))]), loss="mse", metrics=["coverage", largest_error])
    x, y = np.array([[1.0], [2.0], [3.0], [4.0]]), np.array([[0.0], [5.0], [3.0], [4.5]])
    assert model.evaluate(x, y, batch_size=3) == {"loss": pytest.approx(10.25 / 4, rel=1e-6), "coverage": 0.5, "largest_error": 3.0}
    coverage = page["Coverage"]()
    assert coverage.result(coverage.update(y, x, np.array([1.0, 0.0, 1.0, 2.0]))) == 0.5
    assert from_json(to_json(coverage)) == coverage


# The check of gradients.

@pytest.mark.parametrize(("layer", "shapes", "options"), [
    (Dense(3, activation="gelu"), [(4,)], {}),
    (nnkit.BatchNormalization(), [(4,)], {"batch": 5}),                          # training statistics, moving averages set back
    (nnkit.Dropout(0.4), [(6,)], {"seed": 2}),                                   # the same mask each time
    (Dense(2, kernel_regularizer=nnkit.L2(0.1)), [(3,)], {}),                    # penalties count
    (Activation("sigmoid"), [()], {}),
    (Activation("linear"), [(2,)], {"loss": "binary_crossentropy", "x": [[0.2, 0.4]], "y": [[0, 1]]}),
], ids=lambda value: type(value).__name__ if isinstance(value, Layer) else "")
def test_check_gradients_passes_what_is_right(layer, shapes, options):
    assert check_gradients(layer, *shapes, **options) < 1e-7


@pytest.mark.parametrize(("factor", "message"), [
    ("2.001", r"check_gradients: the gradient by x\[\d, \d\] is \S+, the central difference of the loss is \S+$"),
    ("float('nan')", r"check_gradients: the gradient by x\[0, 0\] is nan, the central difference of the loss is \S+$")])
def test_check_gradients_finds_a_wrong_one(factor, message):
    names = {**vars(nnkit.extend), "__name__": "a_notebook"}
    exec("@kernel\ndef double(task: Int, tasks: Int, y: Matrix, x: Matrix, factor: Real) -> None:\n    for n in range(x.shape[0]):\n"
         "        for j in range(x.shape[1]):\n            y[n, j] = factor * x[n, j]\n", names)

    @spec()
    class Double(Layer):
        def lower(self, g, *xs):
            def backward(dy):
                dx = g.buffer("dx", *dy.shape)
                g.step(names["double"], [dx.rows()], [dy.rows()], scalars=[eval(factor)])
                return dx

            y = g.buffer("y", *xs[0].shape)
            g.step(names["double"], [y.rows()], [xs[0].rows()], scalars=[2.0])
            g.on_backward(y, list(xs), backward)
            return y

    with pytest.raises(ValueError, match=message):
        check_gradients(Double(), (3,))


def test_check_gradients_leaves_its_data_alone():
    x, y = np.ones((2, 3)), np.zeros((2, 2))
    check_gradients(Dense(2), (3,), x=x, y=y)
    assert (x == 1).all()
    assert (y == 0).all()


def test_nnkit_alone_does_not_import_numba():
    """nnkit.extend does, which its page says."""
    code = "import sys, nnkit; assert 'numba' not in sys.modules; import nnkit.extend; assert 'numba' in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False).returncode == 0


def test_everything_is_exported():
    assert len(set(nnkit.extend.__all__)) == len(nnkit.extend.__all__)
    assert all(hasattr(nnkit.extend, name) for name in nnkit.extend.__all__)


def test_a_kernel_that_calls_python_is_refused():
    """It would wait for the interpreter for ever, or read memory at random."""
    @kernel
    def noisy(task: Int, tasks: Int, y: Matrix, x: Matrix) -> None:
        """y = x."""
        for i in range(y.shape[0]):
            print(i)
            for j in range(y.shape[1]):
                y[i, j] = x[i, j]

    with pytest.raises(ValueError, match=r"noisy@\d+ must not call Python \(no print, no Python objects, no reshape\), but its .* calls Py"):
        noisy.compile("float32")
