"""Convolutions in one to three dimensions as steps: which kernels compute one, by shapes and dtype alone.

One record, `Convolution`, says all about the places; its three products are the forward pass, the gradient by the input (which is also the
forward pass of a transposed convolution) and the gradient by the kernel. Kernels see three spatial axes, the first ones of size 1 where there are
fewer. N batch, D H W input places, E P Q output places, T R S places of the window, C channels, O filters, G groups.

Algorithms:
    taps        a matrix product for every place of the window and row of the output: serves every shape                            taps.py
    product     one matrix product: windows of one place, stride 1, one group                                                       taps.py
    direct      a register-blocked tile over packed places: any stride, dilation and groups                                         direct.py
    depthwise   a filter or several for each channel alone                                                                          depthwise.py
    few         the same for few channels: the numbers along a window's row count as channels                                       direct.py
    winograd2, winograd4    3 x 3 windows by fewer products, in float32 with a larger error: see winograd.py

On a GPU Winograd's go by stacks of matrices, stacks.py, and there is one way for all others, whatever `algorithm` says: implicit.py.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from nnkit.layers.window import Span

if TYPE_CHECKING:
    from nnkit.plan.builder import Builder
    from nnkit.plan.plan import Buffer

__all__ = ["ALGORITHMS", "BLOCK", "CHAIN", "TILE_STEP", "Convolution"]

ALGORITHMS = ("taps", "product", "direct", "few", "winograd2", "winograd4", "depthwise")
BLOCK = 16                                               # numbers of a block in packed arrays: a cache line of float32
TILE_STEP = 37 * BLOCK                                   # from one of Winograd's tiles to the next: an odd number of lines, for all sets of a cache
CHAIN = 64                                               # channels that one chain of sums goes over
FEWEST_TILES, FEWEST_WEIGHT_TILES = 14, 49               # tiles of a batch from which on Winograd's transforms pay
ONE = Span(size=1, window=1, stride=1, dilation=1, before=0, windows=1)


@attrs.frozen
class Convolution:
    """y[n, o, f] = sum over k and c of x[n, o stride + k dilation - before, c] W[k, c, f]; group by group, where there are several.

    axes: the windows along depth, height and width. algorithm: 'auto', or one of ALGORITHMS.
    """

    axes: tuple[Span, Span, Span]
    channels: int
    filters: int
    groups: int
    algorithm: str

    @classmethod
    def of(cls, spans: tuple[Span, ...], channels: int, filters: int, groups: int, algorithm: str) -> Convolution:
        """That of one to three axes."""
        axes = (ONE, ONE, ONE, *spans)[-3:]
        return cls(axes=axes, channels=channels, filters=filters, groups=groups, algorithm=algorithm)  # type: ignore[arg-type]

    @property
    def windows(self) -> tuple[int, ...]:
        """What kernels take as `Windows`: D H W, T R S, strides, dilations, places before, E P Q, then C, O, G."""
        fields = ("size", "window", "stride", "dilation", "before", "windows")
        return (*(getattr(span, field) for field in fields for span in self.axes), self.channels, self.filters, self.groups)

    def input_shape(self, rank: int) -> tuple[int, ...]:
        """The shape of a sample of x."""
        return (*(span.size for span in self.axes[3 - rank:]), self.channels)

    def output_shape(self, rank: int) -> tuple[int, ...]:
        """The shape of a sample of y."""
        return (*(span.windows for span in self.axes[3 - rank:]), self.filters)

    @property
    def taps(self) -> int:
        """Places of the window."""
        return math.prod(span.window for span in self.axes)

    @property
    def channels_each(self) -> int:
        """Channels of a group."""
        return self.channels // max(1, self.groups)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to multiply."""
        return 0 in (self.channels, self.filters) or any(0 in (span.size, span.windows) for span in self.axes)

    @property
    def dense(self) -> bool:
        """Whether all strides are 1: then the gradient by the input is a convolution as well."""
        return all(span.stride == 1 for span in self.axes)

    def flops(self, N: int) -> int:
        """Of each of the three products; places in the padding count."""
        places = math.prod(span.windows for span in self.axes)
        return 2 * N * places * self.taps * self.channels_each * self.filters

    def turned(self) -> Convolution:
        """The convolution of dy that gives dx, where all strides are 1: W in reverse, channels and filters exchanged."""
        axes = tuple(attrs.evolve(span, size=span.windows, windows=span.size, before=span.reach - 1 - span.before) for span in self.axes)
        return attrs.evolve(self, axes=axes, channels=self.filters, filters=self.channels)  # type: ignore[arg-type]

    def flat(self, weight: Buffer) -> Buffer:
        """W as a matrix: window places and channels of a group, then filters; for `turned` as well."""
        return weight.reshaped(self.taps * (weight.size // max(1, self.taps * weight.shape[-1])), weight.shape[-1])

    # The three products.

    def forward(self, g: Builder, y: Buffer, x: Buffer, weight: Buffer, bias: Buffer | None) -> None:
        """y = x * W (+ b)."""
        if g.backend == "cuda":
            on_device(g, self, x).forward(g, self, y, x, weight, bias)
            return
        algorithms()[self.chosen(x)].forward(g, self, y, x, weight, bias)

    def input_gradient(self, g: Builder, dx: Buffer, dy: Buffer, weight: Buffer, bias: Buffer | None) -> None:
        """dx = what y's gradient dy gives for x (+ b, where this is a transposed convolution's forward pass)."""
        if g.backend == "cuda":
            on_device(g, self, dx).input_gradient(g, self, dx, dy, weight, bias)
        elif self.dense:
            turned = self.turned()
            algorithms()[turned.chosen(dy, "input")].forward(g, turned, dx, dy, weight, bias, turned=True)
        else:
            algorithms()["taps"].input_gradient(g, self, dx, dy, weight, bias)

    def weight_gradient(self, g: Builder, dweight: Buffer, x: Buffer, dy: Buffer) -> None:
        """dW = x^T * dy."""
        way = on_device(g, self, x) if g.backend == "cuda" else algorithms()[self.chosen(x, "weight")]
        way.weight_gradient(g, self, dweight, x, dy)

    def chosen(self, x: Buffer, product: str = "forward") -> str:
        """The algorithm of a product, 'forward', 'input' (of the convolution that is turned) or 'weight', for a batch x."""
        fits = {name for name, algorithm in algorithms().items() if algorithm.fits(self, product == "input")}
        if self.algorithm in fits:
            return self.algorithm
        for name in ("product", "depthwise"):
            if name in fits:
                return name
        if "few" in fits and self.channels < BLOCK // 2:
            return "few"
        from nnkit.prims.winograd import tiles
        for m in (4, 2):
            enough = tiles(self, x.shape[0], m) >= (FEWEST_WEIGHT_TILES if product == "weight" else FEWEST_TILES)
            if f"winograd{m}" in fits and enough and x.dtype == "float32" and self.channels >= BLOCK // 2 and self.filters >= BLOCK:
                return f"winograd{m}"
        return "direct" if "direct" in fits else "taps"


def on_device(g: Builder, c: Convolution, x: Buffer) -> Any:
    """How a GPU computes the convolution of a batch x: forward(...), input_gradient(...), weight_gradient(...)."""
    from nnkit.prims import implicit, stacks

    return stacks.stacks_for(g, c, x.shape[0]) or implicit.on_device(c)


@functools.cache
def algorithms() -> Mapping[str, Any]:
    """The algorithms by name; each has fits(convolution), forward(...), weight_gradient(...)."""
    from nnkit.prims import direct, taps
    from nnkit.prims.depthwise import Depthwise
    from nnkit.prims.winograd import Winograd

    return {"taps": taps.Taps, "product": taps.Product, "direct": direct.Direct, "few": direct.Few, "winograd2": Winograd(2),
            "winograd4": Winograd(4), "depthwise": Depthwise}
