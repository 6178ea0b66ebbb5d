"""History: a mapping of lists, and its plot."""

import re
import sys

import pytest

from nnkit.training.history import History


def recorded():
    history = History({"epochs": 3})
    history.record(0, {"loss": 0.5, "accuracy": 0.25, "val_loss": 0.75, "val_accuracy": 0.125, "learning_rate": 1e-3})
    history.record(1, {"loss": 0.25, "accuracy": 0.5, "learning_rate": 1e-3})
    history.record(2, {"loss": 0.125, "accuracy": 1, "val_loss": 0.5, "val_accuracy": 0.25, "learning_rate": 1e-4})
    return history


def test_is_a_mapping_of_lists():
    history = recorded()
    assert list(history) == ["loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"]
    assert len(history) == 5
    assert history["loss"] == [0.5, 0.25, 0.125]
    assert history["val_loss"] == [0.75, 0.5]
    assert all(type(value) is float for value in history["accuracy"])
    assert history.epoch == [0, 1, 2]
    assert history.params == {"epochs": 3}
    assert history.history == dict(history)
    assert type(history.history) is dict


def test_params_are_copied():
    params = {"epochs": 3}
    history = History(params)
    params["epochs"] = 4
    assert history.params == {"epochs": 3}


def test_unknown_key_names_the_nearest():
    history = recorded()
    with pytest.raises(KeyError) as error:
        history["val_los"]
    assert error.value.args[0] == "nothing recorded for 'val_los': did you mean 'val_loss'?"
    assert history.get("val_los") is None
    assert "val_los" not in history


def test_repr_is_short():
    history = History()
    assert repr(history) == "History(0 epochs)"
    history.record(0, {"loss": 0.123456, "accuracy": 1.0})
    assert repr(history) == "History(1 epoch: loss 0.1235, accuracy 1)"


@pytest.fixture
def pyplot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot
    yield pyplot
    pyplot.close("all")


def labels(axis):
    return [line.get_label() for line in axis.lines]


def test_plot_has_a_panel_for_losses_and_one_for_metrics(pyplot):
    axes = recorded().plot()
    assert [labels(axis) for axis in axes] == [["loss", "val_loss"], ["accuracy", "val_accuracy"]]
    loss, validation = axes[0].lines
    assert list(validation.get_xdata()) == [0, 2]                  # epoch 1 had no validation
    assert list(validation.get_ydata()) == [0.75, 0.5]
    assert (loss.get_linestyle(), validation.get_linestyle()) == ("-", "--")
    assert loss.get_color() == validation.get_color()
    assert all(axis.get_legend() is not None for axis in axes)


def test_plot_marks_whole_epochs(pyplot):
    axes = recorded().plot()
    axes[0].figure.canvas.draw()
    assert all(tick == round(tick) for axis in axes for tick in axis.get_xticks())
    own = pyplot.subplots()[1]
    own.set_xscale("log")
    recorded().plot("loss", ax=own)                                # an axis of the user's keeps its marks


def test_plot_of_chosen_keys(pyplot):
    history = recorded()
    assert [labels(axis) for axis in history.plot("learning_rate")] == [["learning_rate"]]
    assert [labels(axis) for axis in history.plot(["val_accuracy", "loss"])] == [["loss"], ["val_accuracy"]]


def test_plot_on_given_axes(pyplot):
    history = recorded()
    _, axis = pyplot.subplots()
    assert history.plot(ax=axis) == (axis,)
    assert labels(axis) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    _, axes = pyplot.subplots(1, 2)
    assert history.plot(ax=axes) == tuple(axes)
    assert [labels(axis) for axis in axes] == [["loss", "val_loss"], ["accuracy", "val_accuracy"]]
    assert len(pyplot.get_fignums()) == 2                          # none of its own


def test_one_epoch_is_visible(pyplot):
    history = History()
    history.record(4, {"loss": 1.0})
    (line,) = history.plot()[0].lines
    assert line.get_marker() == "."
    assert list(line.get_xdata()) == [4]


def test_plot_refuses(pyplot):
    history = recorded()
    with pytest.raises(ValueError, match=r"^there is nothing to plot: the history holds no epochs$"):
        History().plot()
    with pytest.raises(ValueError, match=r"^keys must be recorded ones, received 'acuracy': did you mean 'accuracy'\?$"):
        history.plot(["acuracy"])
    with pytest.raises(ValueError, match=r"^keys must name at least one curve, received none$"):
        history.plot([])
    with pytest.raises(ValueError, match=r"^ax must hold 2 axes, for losses and metrics, received 1$"):
        history.plot(ax=[pyplot.subplots()[1]])


def test_plot_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="^" + re.escape("History.plot needs matplotlib: pip install nnkit[examples]") + "$"):
        recorded().plot()
