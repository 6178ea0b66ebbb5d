"""Weights that Keras 3 writes, in all three forms, loaded into nnkit: the same predictions.

Tolerance: float32 on both sides. Sums of some hundred products differ by their order alone, by about 1e-6 of the largest output; 1e-5 allows ten
times that.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nnkit
from nnkit.io.keras_file import from_keras, read_layers
from nnkit.io.report import compare
from sweeps import sweep_seed

os.environ.setdefault("KERAS_BACKEND", "torch")
pytest.importorskip("torch")
keras = pytest.importorskip("keras")
pytest.importorskip("h5py")                              # Keras writes with it

# What Keras says about NumPy 2 and about the legacy form.
quiet = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning", "ignore:You are saving your model as an HDF5 file")

FORMS = (".weights.h5", ".keras", ".h5")


def saved(model: Any, form: str, folder: Path) -> Path:
    """The file of a model in one of the forms."""
    path = folder / f"model{form}"
    model.save_weights(path) if form == ".weights.h5" else model.save(path)
    return path


def load(network: Any, path: Path, names: dict[str, str] | None = None) -> tuple[nnkit.training.model.Model, tuple[str, ...]]:
    """The compiled network with the file's weights, every parameter found, and what was not used."""
    graph = network.graph()
    found, unused = from_keras(read_layers(path), graph, names)
    report = compare({name: p.shape for name, p in graph.parameters().items() if not p.is_state}, found, unused)
    report.check(path.name)
    model = nnkit.compile(network, seed=1)
    model.set_parameters(found)
    return model, unused


def randomize(model: Any, draw: np.random.Generator) -> None:
    """Weights that differ everywhere; of variances positive."""
    for variable in model.variables:
        if "seed" not in variable.path:
            values = draw.uniform(-0.5, 0.5, variable.shape)
            variable.assign(values + 1 if "variance" in variable.path else values)


def assert_same(ours: np.ndarray, theirs: Any) -> None:
    theirs = np.asarray(theirs)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * max(1e-3, float(np.abs(theirs).max())))


class Drawn:
    """One network declared twice, with the same names or with those that each library makes."""

    def __init__(self, draw: np.random.Generator, named: float) -> None:
        self.draw, self.named, self.count = draw, named, 0

    def layer(self, kind: str, *arguments: Any, inner: tuple[Any, Any] | None = None, **fields: Any) -> tuple[Any, Any]:
        self.count += 1
        if self.draw.random() < self.named:
            fields["name"] = f"layer{self.count}_of_mine"
        theirs, ours = (getattr(library, kind) for library in (keras.layers, nnkit))
        return (theirs(inner[0], *arguments, **fields), ours(inner[1], *arguments, **fields)) if inner else (
            theirs(*arguments, **fields), ours(*arguments, **fields))

    def choice(self, *values: Any) -> Any:
        return values[self.draw.integers(len(values))]

    def flag(self) -> bool:
        return bool(self.draw.random() < 0.5)

    def recurrent(self, **fields: Any) -> tuple[Any, Any]:
        kind = self.choice("SimpleRNN", "LSTM", "GRU")
        more = {"reset_after": self.flag()} if kind == "GRU" else {}
        return self.layer(kind, 3, use_bias=self.flag(), **more, **fields)

    def kept(self, rank: int, channels: int) -> tuple[Any, Any]:
        """A layer that keeps the shape (*places, channels)."""
        which = self.draw.integers(9)
        if which == 0 and rank:
            return self.layer(f"Conv{rank}D", channels, 3, padding="same", use_bias=self.flag())
        if which == 1 and rank:
            return self.layer(f"Conv{rank}DTranspose", channels, 2, padding="same", use_bias=self.flag())
        if which == 2 and rank in (1, 2):
            return self.layer(f"DepthwiseConv{rank}D", 3, padding="same", use_bias=self.flag())
        if which == 3 and rank in (1, 2):
            return self.layer(f"SeparableConv{rank}D", channels, 3, padding="same", use_bias=self.flag())
        if which == 4:
            return self.layer("BatchNormalization", center=self.flag(), scale=self.flag())
        if which == 5:
            return self.layer("LayerNormalization", center=self.flag(), scale=self.flag())
        if which == 6:
            return self.layer("PReLU", shared_axes=[1] if rank and self.flag() else None)
        if which == 7 and rank == 1:
            inner = self.layer("Dense", channels, use_bias=self.flag()) if self.flag() else self.layer("LayerNormalization")
            return self.layer("TimeDistributed", inner=inner)
        return self.layer("Dense", channels, activation="tanh", use_bias=self.flag())

    def body(self, x: Any, y: Any, rank: int, channels: int, nested: bool = True) -> tuple[Any, Any]:
        """Some layers, a fork whose ways have different lengths, a nested network."""
        for _ in range(int(self.draw.integers(1, 4))):
            theirs, ours = self.kept(rank, channels)
            x, y = theirs(x), ours(y)
        a, b, c = (self.kept(rank, channels) for _ in range(3))
        ways = [(a[0](x), a[1](y)), (c[0](b[0](x)), c[1](b[1](y)))]
        order = self.draw.permutation(2)
        theirs, ours = self.layer("Add")
        x, y = theirs([ways[i][0] for i in order]), ours([ways[i][1] for i in order])
        if nested:
            for chain in (True, False)[:1 + self.flag()]:
                x, y = self.nested(x, y, rank, channels, chain)
        return x, y

    def nested(self, x: Any, y: Any, rank: int, channels: int, chain: bool) -> tuple[Any, Any]:
        shape = tuple(x.shape[1:])
        self.count += 1
        name = {"name": f"nested{self.count}"} if self.named == 1 else {}
        if chain:
            pairs = [self.kept(rank, channels) for _ in range(2)]
            theirs = keras.Sequential([keras.Input(shape), *(pair[0] for pair in pairs)], **name)
            ours = nnkit.Sequential([nnkit.Input(shape), *(pair[1] for pair in pairs)], **name)
            return theirs(x), ours(y)
        begin, start = keras.Input(shape), nnkit.Input(shape)
        end, stop = self.body(begin, start, rank, channels, nested=False)
        return keras.Model(begin, end, **name)(x), nnkit.Network(start, stop, **name)(y)

    def network(self, rank: int) -> tuple[Any, Any, np.ndarray]:
        """The whole: a beginning for its kind of input, a body, an end."""
        words = rank == 1 and self.flag()
        shape = {0: (5,), 1: (6, 4), 2: (5, 6, 4), 3: (3, 4, 3, 4)}[rank] if not words else (6,)
        x, y = keras.Input(shape), nnkit.Input(shape)
        batch = self.draw.standard_normal((3, *shape)).astype(np.float32) if not words else self.draw.integers(0, 7, (3, *shape)).astype(np.int32)
        begin, start = x, y
        channels = 4 if rank else 5
        if words:
            theirs, ours = self.layer("Embedding", 7, 4)
            x, y = theirs(x), ours(y)
        if rank == 1:
            inner = self.recurrent(return_sequences=True)
            theirs, ours = inner if self.flag() else self.layer("Bidirectional", inner=inner, merge_mode=self.choice("concat", "sum"))
            x, y = theirs(x), ours(y)
            channels = x.shape[-1]
        x, y = self.body(x, y, rank, channels)
        end = self.recurrent(return_sequences=False) if rank == 1 and self.flag() else self.layer("Flatten")
        last = self.layer("Dense", 3)
        x, y = last[0](end[0](x)), last[1](end[1](y))
        return keras.Model(begin, x), nnkit.Network(start, y), batch


def check(seed: int, folder: Path) -> None:
    draw = np.random.default_rng(seed)
    theirs, ours, batch = Drawn(draw, named=(0.0, 1.0, 0.3)[seed % 3]).network(rank=seed // 3 % 4)
    randomize(theirs, draw)
    wanted = theirs.predict(batch, verbose=0)
    for form in FORMS:
        model, unused = load(ours, saved(theirs, form, folder))
        assert unused == ()
        assert_same(model.predict(batch), wanted)


@quiet
@pytest.mark.parametrize("seed", range(12))
def test_drawn_networks_predict_the_same(seed: int, tmp_path: Path) -> None:
    check(seed, tmp_path)


@quiet
@pytest.mark.sweep
@pytest.mark.parametrize("block", range(10))
def test_drawn_networks_sweep(block: int, tmp_path: Path) -> None:
    seed = sweep_seed()
    for number in range(12 * block, 12 * (block + 1)):
        check(seed + number, tmp_path)


@quiet
def test_vgg16(tmp_path: Path) -> None:
    """All names and shapes of keras.applications.VGG16, found by name. The smallest images, so that what it takes is the files of 58 MB."""
    theirs = keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3))
    for variable in theirs.variables:
        if len(variable.shape) == 1:                     # biases, which start at 0
            variable.assign(np.linspace(-0.1, 0.1, variable.shape[0]))
    ours = nnkit.compile(nnkit.models.vgg16((32, 32, 3), include_top=False), seed=1)
    batch = np.random.default_rng(0).uniform(-120, 130, (1, 32, 32, 3)).astype(np.float32)
    wanted = theirs.predict(batch, verbose=0)
    for form in FORMS:
        path = saved(theirs, form, tmp_path)
        ours.set_parameters({name: np.zeros_like(values) for name, values in ours.parameters.items()})
        found, unused = from_keras(read_layers(path), ours.graph)
        path.unlink()
        assert found.keys() == ours.parameters.keys()
        assert unused == ()
        ours.set_parameters(found)
        assert_same(ours.predict(batch), wanted)
