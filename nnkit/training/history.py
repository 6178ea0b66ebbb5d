"""What `fit` returns: the loss and metrics of every epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from nnkit.spec import nearest

__all__ = ["History"]

RATES = ("lr", "learning_rate")                          # recorded for those who ask; no part of a plot unless named


class History(Mapping[str, list[float]]):
    """The logs of one `fit`: `history["val_loss"]` is the list of that value, one entry per epoch that logged it.

    A mapping of the keys that were logged: `loss`, one per metric, and the same with `val_` in front where there was validation.
    `epoch` lists the numbers of the epochs, counted from 0 (from `initial_epoch` where that was given). `params` holds how `fit` was called
    (epochs, batch size, number of samples). `history` is the same mapping as a plain dict, under the name that Keras gives it.
    """

    def __init__(self, params: Mapping[str, Any] | None = None) -> None:
        self.params: dict[str, Any] = dict(params or {})
        self.epoch: list[int] = []
        self._values: dict[str, list[float]] = {}
        self._epochs: dict[str, list[int]] = {}          # a key that is not logged every epoch is still drawn at the right place

    def record(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Append the logs of one epoch."""
        self.epoch.append(int(epoch))
        for key, value in logs.items():
            self._values.setdefault(key, []).append(float(value))
            self._epochs.setdefault(key, []).append(int(epoch))

    @property
    def history(self) -> dict[str, list[float]]:
        """The recorded lists as a dict."""
        return self._values

    def __getitem__(self, key: str) -> list[float]:
        if key not in self._values:
            raise KeyError(f"nothing recorded for {key!r}: {nearest(str(key), self._values)}")
        return self._values[key]

    def epochs_of(self, key: str) -> list[int]:
        """The epochs that logged a key, one for each of its values."""
        return self._epochs[key]

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        count = f"{len(self.epoch)} epoch{'' if len(self.epoch) == 1 else 's'}"
        last = ", ".join(f"{key} {values[-1]:.4g}" for key, values in self._values.items())
        return f"History({count}: {last})" if last else f"History({count})"

    def plot(self, keys: Iterable[str] | str | None = None, ax: Any = None) -> tuple[Any, ...]:
        """Draw the curves with matplotlib and return the axes drawn on, as a tuple.

        Losses go into one panel and metrics into a second one; validation curves are dashed, in the colour of their training curve.

        Args:
            keys: what to draw; by default all that was recorded but the learning rate.
            ax: axes to draw on: one for everything, or a sequence of two, for losses and metrics. By default a new figure.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: nothing recorded, or an unknown key.
        """
        chosen = self._chosen(keys)
        losses = [key for key in chosen if key.endswith("loss")]
        panels = [group for group in (losses, [key for key in chosen if key not in losses]) if group]
        if ax is None:
            axes = _new_axes(len(panels))
        elif isinstance(ax, Sequence) or hasattr(ax, "__array__"):
            axes = tuple(ax)
            if len(axes) < len(panels):
                raise ValueError(f"ax must hold {len(panels)} axes, for losses and metrics, received {len(axes)}")
        else:
            axes, panels = (ax,), [chosen]
        for axis, panel in zip(axes, panels, strict=False):
            self._draw(axis, panel)
        return axes[:len(panels)]

    def _chosen(self, keys: Iterable[str] | str | None) -> list[str]:
        if not self._values:
            raise ValueError("there is nothing to plot: the history holds no epochs")
        if keys is None:
            return [key for key in self if key not in RATES]
        chosen = [keys] if isinstance(keys, str) else list(keys)
        if not chosen:
            raise ValueError("keys must name at least one curve, received none")
        for key in chosen:
            if key not in self:
                raise ValueError(f"keys must be recorded ones, received {key!r}: {nearest(str(key), self)}")
        return chosen

    def _draw(self, axis: Any, keys: list[str]) -> None:
        from matplotlib.ticker import MaxNLocator

        colours: dict[str, str] = {}
        for key in keys:
            base = key.removeprefix("val_")
            colour = colours.setdefault(base, f"C{len(colours)}")
            # A curve of one point shows only as a marker.
            marker = "." if len(self[key]) == 1 else None
            axis.plot(self._epochs[key], self[key], "--" if key != base else "-", color=colour, marker=marker, label=key)
        axis.set_xlabel("epoch")
        locator = axis.xaxis.get_major_locator()
        if isinstance(locator, MaxNLocator):             # the usual one
            locator.set_params(integer=True)             # there is no epoch 0.5
        axis.legend()


def _new_axes(count: int) -> tuple[Any, ...]:
    try:
        from matplotlib import pyplot
    except ImportError:
        raise ImportError("History.plot needs matplotlib: pip install nnkit[examples]") from None
    _, axes = pyplot.subplots(1, count, figsize=(5 * count, 4), squeeze=False, layout="constrained")
    return tuple(axes[0])
