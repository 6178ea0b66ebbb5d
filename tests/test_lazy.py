"""Row-wise updates of Embedding: closed forms beside the dense sweep, replay with its bits, and everybody who reads a table in between."""

import threading

import attrs
import numpy as np
import pytest

import nnkit
from helpers import Probe, assert_same_bits, debug_mode, many_tasks, refused
from nnkit import (
    GRU,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    AdamW,
    Add,
    Callback,
    Dense,
    EarlyStopping,
    Embedding,
    Flatten,
    GlobalAveragePooling1D,
    Input,
    Nadam,
    Network,
    RMSprop,
    Sequential,
    TimeDistributed,
)
from nnkit.optimizers import CallableSchedule, CosineDecay, ExponentialDecay, Optimizer, PiecewiseConstantDecay, lazy
from nnkit.optimizers.lazy import SPAN
from nnkit.plan import layout
from nnkit.plan.build import build
from nnkit.plan.layout import COUNTERS, lay_out
from nnkit.prims import touched_cpu
from nnkit.spec import CLASSES

# Where gradients depend on the numbers, they differ, too; and a gradient near 0 makes Adam's m / sqrt(v) as sensitive as it is small itself.
FEEDBACK = 1e-3
V, D, STEPS, BATCH, T = 40, 19, 60, 4, 3                 # rows from 30 on are never used
TABLE = "embedding/embeddings"

# Each is right in closed form: every rule with every option, decay, clips, schedules of all kinds.
CLOSED = [
    SGD(0.1), SGD(0.1, weight_decay=0.3), SGD(0.1, momentum=0.9), SGD(0.1, momentum=0.8, nesterov=True), SGD(0.01, momentum=1.0),
    SGD(0.1, momentum=0.5, weight_decay=0.2),
    SGD(CosineDecay(0.1, 40, warmup_target=0.3, warmup_steps=7), momentum=0.7, nesterov=True, weight_decay=0.1),
    Adagrad(0.05), Adagrad(0.05, weight_decay=0.1, clipvalue=0.01), RMSprop(0.01), RMSprop(0.01, rho=0.7, weight_decay=0.1),
    RMSprop(0.01, momentum=0.6), RMSprop(0.01, centered=True), RMSprop(0.01, centered=True, momentum=0.9, weight_decay=0.2),
    RMSprop(ExponentialDecay(0.02, 10, 0.7), momentum=0.6, global_clipnorm=0.1), Adadelta(0.5), Adadelta(0.5, rho=0.8, weight_decay=0.1),
    Adam(0.02), Adam(0.02, beta_1=0.8, beta_2=0.99, epsilon=1e-3), Adam(0.02, beta_1=0.0), Adam(0.02, amsgrad=True), Adam(0.02, epsilon=1e-12),
    Adam(0.02, amsgrad=True, beta_2=0.5, weight_decay=0.3), AdamW(0.02, weight_decay=0.5), Adam(0.02, clipnorm=0.01), Adam(0.02, clipvalue=1e-3),
    AdamW(0.02, global_clipnorm=0.05), Adam(PiecewiseConstantDecay([10, 25], [0.02, 0.1, 0.001])), Adam(CallableSchedule(lambda t: 0.1 / (t + 1))),
    AdamW(CosineDecay(0.0, 50, warmup_target=0.05, warmup_steps=20), weight_decay=1.5),
]
DENSE = [Nadam(0.02), RMSprop(0.01, momentum=1.01), Adam(0.02, beta_1=0.9, beta_2=0.5), Adam(0.02, beta_1=0.5, beta_2=0.0)]


@pytest.fixture(autouse=True)
def small_tables_too(monkeypatch):
    """The tables here are updated row by row although they are small."""
    monkeypatch.setattr(layout, "LEAST_ROWWISE", 1)


def names(optimizers):
    return [f"{position}-{type(optimizer).__name__}" for position, optimizer in enumerate(optimizers)]


every_closed = pytest.mark.parametrize("optimizer", CLOSED, ids=names(CLOSED))
every_rule = pytest.mark.parametrize("optimizer", CLOSED + DENSE, ids=names(CLOSED + DENSE))
every_way = pytest.mark.parametrize("way", ["closed", "replay"])
both_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def test_every_optimizer_is_tried():
    public = {cls for name, cls in vars(nnkit).items() if CLASSES.get(name) is cls and issubclass(cls, Optimizer)}
    assert public == {type(optimizer) for optimizer in CLOSED + DENSE}


def updated(optimizer, way):
    """The optimizer with these row_updates."""
    return attrs.evolve(optimizer, row_updates=way)


def small(table=None):
    return Sequential([Input((T,)), table or Embedding(V, D), GlobalAveragePooling1D(), Dense(1)])


def compiled(optimizer, way, network=None, **options):
    return nnkit.compile(network or small(), optimizer=updated(optimizer, way), loss="mse", seed=3, **{"threads": 1, **options})


def problem(steps=STEPS, seed=0, inputs=T):
    """Row 0 in every batch, rows to 9 often, to 28 rarely, row 29 in the first and the last batch alone, the others never."""
    rng = np.random.default_rng(seed)
    shape = steps * BATCH, inputs
    x = np.where(rng.random(shape) < 0.8, rng.integers(0, 10, shape), rng.integers(10, 29, shape))
    x[::BATCH, 0] = 0
    x[1, 0] = x[-1, 0] = 29
    return x, rng.standard_normal(steps * BATCH)


def trained(model, x, y, **options):
    model.fit(x, y, **{"batch_size": BATCH, "verbose": 0, "shuffle": False, **options})
    return model


def everything(model):
    """Parameters and optimizer state, by name."""
    found = {name: value.copy() for name, value in model.parameters.items()}
    for state in model.optimizer.states():
        found |= {f"{state} of {name}": model.memory.view(model.layout.piece(f"optimizer/{state}", name)).copy() for name in model.layout.gradients}
    return found


def driven(optimizer, way, steps=STEPS, columns=D, dtype="float32", **options):
    """A table alone, trained by gradients that are given: of many magnitudes, so that sqrt(v) lies far below epsilon, far above and between."""
    network = Sequential([Input((T,)), Embedding(V, columns, name="embedding"), Flatten()])
    model = nnkit.compile(network, optimizer=updated(optimizer, way), loss=Probe(), seed=3, threads=1, dtype=dtype)
    x, _ = problem(steps)
    rng = np.random.default_rng(4)
    dy = rng.standard_normal((len(x), T, columns)) * 10.0 ** rng.uniform(-9, 0, columns)
    return trained(model, x, dy.reshape(len(x), -1), **options)


def assert_equal_bits(found, expected):
    for name, value in everything(expected).items():
        assert_same_bits(everything(found)[name], value, name)


def assert_near(found, expected, tolerance):
    """Within tolerance of each array's largest number, and of 1e-3 where all are smaller."""
    for name, value in everything(expected).items():
        np.testing.assert_allclose(everything(found)[name], value, rtol=0, atol=tolerance * max(1e-3, np.abs(value).max(initial=0)), err_msg=name)


# The rule.

@both_dtypes
@every_closed
def test_closed_forms_give_the_numbers_of_the_dense_rule(optimizer, dtype):
    """60 updates by gradients that are given. Each rounds p and its states once or twice, by half a unit of the last place of the largest number at
    most; a closed form rounds once for many. So 60 units, 7e-6 and 1.3e-14, is what both may differ by if all roundings had one sign."""
    found, dense = (driven(optimizer, way, dtype=dtype) for way in ("closed", "dense"))
    assert found.layout.rowwise == (() if optimizer.missed(dtype) is None else (TABLE,))
    assert found.layout.rowwise or dtype == "float64"    # where Adam's series would need more terms
    assert dense.layout.rowwise == ()
    assert_near(found, dense, STEPS * np.finfo(dtype).eps)


@both_dtypes
@every_rule
def test_replay_gives_the_bits_of_the_dense_rule(optimizer, dtype):
    x, y = problem()
    found, dense = (trained(compiled(optimizer, way, dtype=dtype), x, y) for way in ("replay", "dense"))
    assert bool(found.layout.rowwise) == (optimizer.clipnorm is None and optimizer.global_clipnorm is None)
    assert_equal_bits(found, dense)


@pytest.mark.parametrize("optimizer", DENSE, ids=names(DENSE))
def test_what_has_no_closed_form_is_dense(optimizer):
    x, y = problem()
    found = compiled(optimizer, "closed")
    assert found.layout.rowwise == ()
    assert_equal_bits(trained(found, x, y), trained(compiled(optimizer, "dense"), x, y))


@pytest.mark.parametrize("beta_1", [0.0, 0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("beta_2", [0.9, 0.99, 0.999, 0.9999])
@both_dtypes
def test_series_of_adam(beta_1, beta_2, dtype):
    """Where a closed form is offered, its sums give p after k missed updates as adding them one by one does, for v from far below epsilon to far
    above: in float64 to what the terms left out may be."""
    optimizer = Adam(1.0, beta_1=beta_1, beta_2=beta_2)
    missed = optimizer.missed(dtype)
    if missed is None:
        assert beta_2 <= 0.99 or dtype == "float64"
        return
    first, second = missed.factors
    s = np.arange(1, SPAN + 1.0)
    for k in (1, 2, 30, SPAN):
        W = np.array([-series[:k].sum() for series in missed.sums])
        for a in 10.0 ** np.arange(-12, 4):
            expected = np.sum(first ** s[:k] / (second ** (s[:k] / 2) * a + 1e-7))
            q = 1 / (a + 1e-7)
            assert abs(q * np.polyval(W[::-1], a * q) - expected) <= (np.finfo(dtype).eps + 1e-14) * q * max(1.0, (first ** s).sum()), (k, a)


@every_way
@pytest.mark.parametrize("optimizer", [Adam(0.01), AdamW(0.01, weight_decay=0.1), SGD(0.05, momentum=0.99), RMSprop(0.001), SGD(0.1),
                                       Adam(ExponentialDecay(0.02, 300, 0.5))], ids=lambda optimizer: type(optimizer).__name__)
def test_gaps_longer_than_the_history(optimizer, way):
    """1,200 updates: the history begins anew twice, in the midst of compiled loops. Row 29 misses 1,198 updates, a few never miss any."""
    steps = 2 * SPAN + 176
    found, dense = (driven(optimizer, each, steps) for each in (way, "dense"))
    if way == "replay":
        assert_equal_bits(found, dense)
    else:
        assert_near(found, dense, steps * 2.0**-23)      # as above


@every_way
def test_all_rows_and_one_row(way):
    y = np.random.default_rng(1).standard_normal(20 * BATCH)
    for x in (np.tile(np.arange(V), (3 * BATCH, 1)), np.full((20 * BATCH, 7), 5)):
        network = Sequential([Input(x.shape[1:]), Embedding(V, 8), GlobalAveragePooling1D(), Dense(1)])
        found, dense = (trained(compiled(Adam(0.01), each, network), x, y[:len(x)]) for each in (way, "dense"))
        assert_near(found, dense, FEEDBACK) if way == "closed" else assert_equal_bits(found, dense)


@every_way
@pytest.mark.parametrize("columns", [1, 3, 16, 17, 64, 65, 130])
def test_widths(columns, way):
    found, dense = (driven(AdamW(0.02), each, 20, columns) for each in (way, "dense"))
    assert_near(found, dense, 20 * 2.0**-23) if way == "closed" else assert_equal_bits(found, dense)


# The network.

@every_way
def test_a_learnt_sequence(way):
    """Behind the table a recurrent layer that skips the padding; the learning rate is set in between."""
    x, y = problem()
    network = Sequential([Input((T,)), Embedding(V, 8, mask_zero=True), GRU(5), Dense(1)])
    models = [compiled(Adam(0.01), each, network) for each in (way, "dense")]
    for model in models:
        trained(model, x[:100], y[:100])
        model.learning_rate = 0.003
        trained(model, x[100:], y[100:])
    assert_near(*models, FEEDBACK) if way == "closed" else assert_equal_bits(*models)


@every_way
def test_two_tables_one_frozen_one_penalised(way):
    x, y = problem(inputs=2 * T)

    def network():
        a, b = Input((T,)), Input((T,))
        tables = [Embedding(V, 5, name="first")(a), Embedding(V, 5, name="second")(b), Embedding(V, 5, name="frozen", trainable=False)(a),
                  Embedding(V, 5, name="penalised", embeddings_regularizer="l2")(b), TimeDistributed(Embedding(V, 5), name="steps")(a)]
        return Network([a, b], Dense(1)(Flatten()(Add()(tables))))
    models = [compiled(AdamW(0.01, clipvalue=0.05), each, network()) for each in (way, "dense")]
    for model in models:
        trained(model, [x[:, :T], x[:, T:]], y)
    assert set(models[0].layout.rowwise) == {"first/embeddings", "second/embeddings", "steps/embeddings"}
    assert_near(*models, FEEDBACK) if way == "closed" else assert_equal_bits(*models)
    start = compiled(SGD(), "dense", network()).parameters["frozen/embeddings"]
    assert_same_bits(models[0].parameters["frozen/embeddings"], start)


def test_a_table_that_is_called_twice_is_dense():
    x, y = problem(inputs=2 * T)

    def network():
        a, b = Input((T,)), Input((T,))
        table = Embedding(V, 5)
        return Network([a, b], Dense(1)(Flatten()(Add()([table(a), table(b)]))))
    models = [compiled(Adam(0.01), way, network()) for way in ("closed", "dense")]
    for model in models:
        trained(model, [x[:, :T], x[:, T:]], y)
    assert models[0].layout.rowwise == ()
    assert_equal_bits(*models)


@every_way
def test_a_table_alone_and_one_without_a_loss(way):
    """No other parameter; and a table on whose output no loss depends: its rows only decay."""
    x, y = problem()
    network = Sequential([Input((T,)), Embedding(V, 1), Flatten(), Dense(1, trainable=False)])
    models = [trained(compiled(Adam(0.01, global_clipnorm=0.1) if way == "closed" else Adam(0.01), each, network), x, y) for each in (way, "dense")]
    assert models[0].layout.dense_size == 0
    assert_near(*models, FEEDBACK)
    a = Input((T,))
    network = Network(a, {"score": Dense(1)(Flatten()(Embedding(V, 2)(a))), "idle": Flatten()(Embedding(V, 2, name="idle_table")(a))})
    models = [nnkit.compile(network, optimizer=AdamW(0.1, weight_decay=0.5, row_updates=each), loss={"score": "mse"}, seed=1, threads=1)
              for each in (way, "dense")]
    for model in models:
        trained(model, x, {"score": y})
    assert "idle_table/embeddings" in models[0].layout.rowwise
    assert_near(*models, FEEDBACK) if way == "closed" else assert_equal_bits(*models)


# Readers.

def reading(model, x, y):
    """Every way to look at the table, by name; each gives arrays."""
    part = model.submodel(outputs="embedding")
    held = model.parameters[TABLE]
    return {
        "parameters": lambda: [model.parameters[TABLE]], "held view": lambda: [held], "predict": lambda: [model.predict(x)],
        "evaluate": lambda: [np.array(model.evaluate(x, y)["loss"])], "gradients": lambda: list(model.gradients(x, y).values()),
        "submodel": lambda: [part.predict(x)], "submodel's parameters": lambda: [part.parameters[TABLE]],
    }


READERS = ("parameters", "held view", "predict", "evaluate", "gradients", "submodel", "submodel's parameters")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("training", ["fit", "train_on_batch", "batches"])
def test_every_reader_sees_all_rows_up_to_date(reader, training):
    x, y = problem()
    read = {}
    for way in ("replay", "dense"):
        model = compiled(AdamW(0.02), way)
        look = reading(model, x, y)[reader] if reader == "held view" else None
        if training == "fit":
            trained(model, x, y)
        elif training == "batches":
            model.fit([(x[at:at + BATCH], y[at:at + BATCH]) for at in range(0, 40, BATCH)], verbose=0)
        else:
            for at in range(0, 40, BATCH):
                model.train_on_batch(x[at:at + BATCH], y[at:at + BATCH])
            assert way == "dense" or model.stale == (look is None)
        look = look or reading(model, np.arange(V - V % T).reshape(-1, T), np.zeros(V // T))[reader]
        read[way] = [array.copy() for array in look()]
        assert not model.stale
    for found, expected in zip(read["replay"], read["dense"], strict=True):
        assert_same_bits(found, expected)


class Looking(Callback):
    """Keeps copies of a view at the hooks of these names."""

    def __init__(self, view, *hooks):
        self.view, self.seen = view, []
        for hook in hooks:
            setattr(self, hook, lambda *_: self.seen.append(self.view.copy()))


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_train_batch_begin", "on_epoch_begin", "on_epoch_end", "on_train_end"])
def test_callbacks_see_views_up_to_date(hook):
    x, y = problem(10)
    seen = []
    for way in ("replay", "dense"):
        model = compiled(AdamW(0.02), way)
        looking = Looking(model.parameters[TABLE], hook)
        trained(model, x, y, epochs=2, callbacks=[looking], validation_split=0.5)
        seen.append(looking.seen)
    assert len(seen[0]) > 0
    for found, expected in zip(*seen, strict=True):
        assert_same_bits(found, expected)


def test_user_code_that_gives_batches_sees_views_up_to_date():
    x, y = problem(10)
    seen = []
    for way in ("replay", "dense"):
        model = compiled(AdamW(0.02), way)
        view, copies = model.parameters[TABLE], []

        def batches(view=view, copies=copies):
            for at in range(0, len(x), BATCH):
                copies.append(view.copy())
                yield x[at:at + BATCH], y[at:at + BATCH]
        model.fit(batches, epochs=2, verbose=0)
        seen.append(copies)
    for found, expected in zip(*seen, strict=True):
        assert_same_bits(found, expected)


class Asking(Callback):
    """Has another thread ask for the parameters while the model trains."""

    def on_epoch_begin(self, epoch, logs):
        thread = threading.Thread(target=lambda: self.model.parameters[TABLE].sum())
        thread.start()
        thread.join()


def test_another_thread_that_looks_neither_waits_nor_flushes():
    x, y = problem(20)
    for way in ("closed", "replay"):
        models = [trained(compiled(AdamW(0.02), way), x, y, epochs=3, callbacks=callbacks) for callbacks in ([Asking()], [Looking(None)])]
        assert_near(*models, FEEDBACK) if way == "closed" else assert_equal_bits(*models)


class Break(Callback):
    def on_train_batch_end(self, batch, logs):
        if batch == 7:
            raise KeyboardInterrupt


def test_an_interrupted_fit_leaves_all_rows_up_to_date():
    x, y = problem()
    models = [compiled(AdamW(0.02), way) for way in ("replay", "dense")]
    for model in models:
        with pytest.raises(KeyboardInterrupt):
            trained(model, x, y, callbacks=[Break()])
        assert not model.stale
    assert_equal_bits(*models)


@every_way
def test_what_is_written_stays(way):
    """By set_parameters after an update, and through a live view; the optimizer's state goes on as it was."""
    x, y = problem()
    models = [compiled(Adam(0.02), each) for each in (way, "dense")]
    values = np.random.default_rng(5).standard_normal((V, D)).astype(np.float32)
    for model in models:
        for at in range(0, 40, BATCH):
            model.train_on_batch(x[at:at + BATCH], y[at:at + BATCH])
        model.set_parameters({TABLE: values})
        assert_same_bits(model.predict(x[:5]), model.predict(x[:5]))
        assert_same_bits(model.parameters[TABLE], values)
        view = model.parameters[TABLE]
        for at in range(40, 80, BATCH):
            model.train_on_batch(x[at:at + BATCH], y[at:at + BATCH])
            view[35] = at
        trained(model, x, y)
    assert_near(*models, FEEDBACK) if way == "closed" else assert_equal_bits(*models)


def test_refused_calls_change_nothing():
    x, y = problem()
    model = compiled(Adam(0.02), "closed")
    for at in range(0, 40, BATCH):
        model.train_on_batch(x[at:at + BATCH], y[at:at + BATCH])
    other = compiled(Adam(0.02), "closed")
    for at in range(0, 40, BATCH):
        other.train_on_batch(x[at:at + BATCH], y[at:at + BATCH])
    for call in (lambda: model.set_parameters({TABLE: np.zeros(3)}), lambda: model.fit(x, y[:3]), lambda: model.predict(x + V),
                 lambda: model.train_on_batch(x - 1, y)):
        with pytest.raises(ValueError):                  # noqa: PT011
            call()
    assert_equal_bits(model, other)


def test_best_weights_come_back():
    x, y = problem()
    model = compiled(Adam(0.5), "closed")
    weights = []
    keep = nnkit.LambdaCallback(on_epoch_end=lambda epoch, logs: weights.append((logs["val_loss"], model.parameters[TABLE].copy())))
    trained(model, x, y, epochs=6, validation_split=0.2, callbacks=[keep, EarlyStopping(patience=3, restore_best_weights=True)])
    assert_same_bits(model.parameters[TABLE], min(weights, key=lambda pair: pair[0])[1])


# Bits.

@every_way
@pytest.mark.parametrize("optimizer", [Adam(0.02), AdamW(0.02, global_clipnorm=0.05), Adam(0.02, amsgrad=True, clipvalue=0.01),
                                       RMSprop(0.01, centered=True, momentum=0.5, clipnorm=0.05), SGD(0.1, weight_decay=0.1)],
                         ids=lambda optimizer: type(optimizer).__name__)
def test_tasks_and_threads_change_no_bit(optimizer, way):
    rng = np.random.default_rng(2)
    x, y = rng.integers(0, 700, (40 * 16, 30)), rng.standard_normal(40 * 16)
    network = Sequential([Input((30,)), Embedding(900, 17), GlobalAveragePooling1D(), Dense(1)])

    def run(threads):
        return trained(compiled(optimizer, way, network, threads=threads), x, y, batch_size=16, shuffle=True, epochs=2)
    alone = run(1)
    with many_tasks():
        for threads in (1, 2):
            model = run(threads)
            assert not model.layout.rowwise or max(step.tasks for step in model.plan.steps if step.kernel.endswith("_rows")) > 1
            assert_equal_bits(model, alone)


def test_the_length_of_pieces_changes_no_bit(monkeypatch):
    """Neither where nobody looks nor where a callback looks at the end of each piece."""
    x, y = problem()
    for callbacks in ([], [Looking(None, "on_train_piece_end")]):
        found = []
        for seconds in (1e-9, 1.0):
            monkeypatch.setattr("nnkit.training.fitting.PIECE_SECONDS", seconds)
            model = compiled(Adam(0.02), "closed")
            for callback in callbacks:
                callback.view = model.parameters[TABLE]
            found.append(trained(model, x, y, epochs=2, callbacks=callbacks))
        assert_equal_bits(*found)


@every_way
@pytest.mark.parametrize("optimizer", [AdamW(0.02, global_clipnorm=0.05), SGD(0.1, momentum=0.5, clipvalue=0.01), Adagrad(0.1)],
                         ids=lambda optimizer: type(optimizer).__name__)
def test_debug_mode_gives_the_same_bits(optimizer, way):
    x, y = problem(12)
    plain = trained(compiled(optimizer, way), x, y)
    with debug_mode(True):
        checked = trained(compiled(optimizer, way), x, y)
        assert np.isfinite(checked.predict(x)).all()
    assert_equal_bits(checked, plain)


def test_batches_of_other_sizes_share_the_rows():
    """The rest of an epoch, single samples, and more indices than the table has rows."""
    x, y = problem(31)
    models = [compiled(AdamW(0.02), way) for way in ("replay", "dense")]
    for model in models:
        trained(model, x, y, batch_size=7, epochs=2)
        model.train_on_batch(x[:1], y[:1])
        model.train_on_batch(x, y)
    assert_equal_bits(*models)


# Parts.

@pytest.mark.parametrize("indices", [[], [0], [3, 3, 3], [4, 0, 4, 2, 0, 4], [*range(5)], [*range(5)] * 3])
def test_distinct_rows(indices):
    """Whatever stands in the scratch arrays; the sum of each row's gradients goes in the order of the indices."""
    indices = np.array(indices, np.int32)
    R, rows_of_table, columns = len(indices), 5, 70
    M = min(R, rows_of_table)
    dy = np.random.default_rng(R).standard_normal((R, columns)).astype(np.float32)
    dy[dy < -1] = -0.0
    for garbage in (-1, 0, 1, 77, 2**31 - 1, -2**31):
        rows, link, count = np.full(M, 9, np.int32), np.full(M + R, 9, np.int32), np.zeros(1, np.int64)
        touched_cpu.distinct(0, 1, rows, link, count, indices, np.full(rows_of_table, garbage, np.int32), np.full(M, garbage, np.int32))
        expected = list(dict.fromkeys(indices.tolist()))
        assert rows[:count[0]].tolist() == expected
        for tasks in (1, 2, 3):
            table = np.full((M, columns), np.nan, np.float32)
            for task in range(tasks):
                touched_cpu.add_up(task, tasks, table, link, count, dy)
            for row, v in zip(table, expected, strict=False):
                total = np.zeros(columns, np.float32)
                for r in np.flatnonzero(indices == v):
                    total += dy[r]
                assert_same_bits(row, total)


def test_nothing_to_catch_up_needs_no_history():
    """Rules under which a row without a gradient stays as it is."""
    for optimizer in (SGD(0.1), Adagrad(0.1), SGD(0.1, clipnorm=1.0)):
        model = compiled(optimizer, "closed")
        assert model.layout.rowwise
        assert not model.layout.history
        assert lazy.history(optimizer, "float32") == {}
        assert not any("missed" in step.kernel or "tick" in step.kernel for step in model.build_plan("train", 4).steps)


def test_a_layer_must_say_which_rows_it_reads():
    class Silent(Embedding):
        def lower(self, g, *xs):
            (x,) = xs
            table, y = g.parameter("embeddings"), g.buffer("y", *x.shape, self.output_dim)
            g.step("layers.embedding.embedding_forward", [y.rows(len(x.shape))], [x.flat(), table], rows=x.size)
            return y

    class Twice(Embedding):
        def lower(self, g, *xs):
            g.touched("embeddings", xs[0].flat())
            return super().lower(g, *xs)

    for layer, message in ((Silent, "parameter 'silent/embeddings' is declared rowwise, but its layer does not say by g.touched which rows a batch "
                                    "reads"),
                           (Twice, "layer 'twice': parameter 'twice/embeddings' is read twice, so it must not be declared rowwise")):
        graph = Sequential([Input((T,)), layer(V, D), Flatten(), Dense(1)]).graph()
        layout = lay_out(graph, Adam(), "float32")
        refused(message, build, graph, layout, "train", 2, losses=[(nnkit.spec.resolve("loss", "mse"), 1.0)], optimizer=Adam(), error=TypeError)


def test_small_tables_are_dense(monkeypatch):
    monkeypatch.undo()
    for rows, expected in ((255, ()), (256, (TABLE,))):
        assert compiled(Adam(), "closed", small(Embedding(rows, 64))).layout.rowwise == expected


def test_the_option():
    refused("Adam: row_updates must be one of 'closed', 'replay', 'dense', received 'lazy'", Adam, row_updates="lazy")
    assert repr(Adam(row_updates="dense")) == "Adam(row_updates='dense')"
    model = compiled(Adam(), "closed")
    assert model.counters[COUNTERS["term"]] == 0
