"""Initializers: how the first values of a parameter are drawn. Keras 3's names, defaults and formulas.

    values = GlorotUniform().values((20, 64), numpy.random.default_rng(0))       # float64, shape (20, 64)

A layer takes an initializer spec, its shorthand ("he_normal"), a number (every value), or an array (the values themselves).

Fans. For a weight of shape (I, O) fan_in is I and fan_out is O. For a convolution's, channels last, (..., I, O), both are multiplied by the
number of cells of the window. A vector of length n has fan_in = fan_out = n, a scalar 1.
"""

from __future__ import annotations

import abc
import base64
import math
from typing import Any, ClassVar

import attrs
import numpy as np

from nnkit.spec import Spec, base, choice, integer, is_of_family, real, resolve, spec

__all__ = [
    "Array", "Constant", "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "Identity", "Initializer", "LecunNormal", "LecunUniform", "Ones",
    "Orthogonal", "RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling", "Zeros",
]

# Standard deviation of a standard normal variable cut off at -2 and 2.
TRUNCATED_STDDEV = 0.87962566103423978

# An array of more elements is kept as packed text: nested tuples of Python floats cost ten times the memory and print for pages.
LARGEST_READABLE = 256


@base
class Initializer(Spec, abc.ABC):
    """Base of all initializers. A subclass gives `values`; one that does not cannot be made (TypeError)."""

    family: ClassVar[str] = "initializer"

    @abc.abstractmethod
    def values(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """First values of a parameter: float64, of that shape.

        `rng` is used by the random initializers without a seed of their own. Raises ValueError where the initializer cannot fill that shape.
        """


@base
class RandomInitializer(Initializer):
    """Base of the initializers that draw. A subclass gives `draw`.

    seed: None (default) draws from the model's generator; a whole number, at least 0, makes a generator of its own, so that every call with
    the same shape gives the same values, as in Keras.
    """

    seed: int | None = integer(default=None, low=0, none=True, kw_only=True)

    def values(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """First values of a parameter: float64, of that shape."""
        shape = tuple(shape)
        return self.draw(shape, rng if self.seed is None else np.random.default_rng(self.seed))

    @abc.abstractmethod
    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Values from this generator: float64, of that shape."""


def compute_fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight of that shape, as the module's first lines say."""
    if len(shape) == 0:
        return 1, 1
    if len(shape) == 1:
        return shape[0], shape[0]
    cells = math.prod(shape[:-2])
    return shape[-2] * cells, shape[-1] * cells


def truncated_normal(shape: tuple[int, ...], rng: np.random.Generator, mean: float, stddev: float) -> np.ndarray:
    """Normal values, each drawn again until it lies within 2 `stddev` of `mean`. `stddev` is that of the whole normal distribution."""
    z = rng.standard_normal(shape)
    flat = z.reshape(-1)                                  # a view: what follows writes into z
    outside = np.flatnonzero(np.abs(flat) > 2.0)
    while outside.size:                                   # 4.6 % of what is left stays each time
        flat[outside] = rng.standard_normal(outside.size)
        outside = outside[np.abs(flat[outside]) > 2.0]
    return mean + stddev * z


def variance_scaling(shape: tuple[int, ...], rng: np.random.Generator, scale: float, mode: str, distribution: str) -> np.ndarray:
    """Values of mean 0 and variance scale / fan, where fan is at least 1. See VarianceScaling."""
    fan_in, fan_out = compute_fans(shape)
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
    variance = scale / max(1.0, fan)
    if distribution == "uniform":
        limit = math.sqrt(3 * variance)
        return rng.uniform(-limit, limit, shape)
    if distribution == "untruncated_normal":
        return math.sqrt(variance) * rng.standard_normal(shape)
    return truncated_normal(shape, rng, 0.0, math.sqrt(variance) / TRUNCATED_STDDEV)


@spec("variance_scaling")
class VarianceScaling(RandomInitializer):
    """Values of mean 0 and variance scale / n, where n is the fan that `mode` names (at least 1).

    scale: greater than 0, default 1.
    mode: "fan_in" (default), "fan_out" or "fan_avg", their mean.
    distribution: "truncated_normal" (default; cut off at 2 standard deviations, then stretched so that the variance holds),
    "untruncated_normal", or "uniform" on (-limit, limit) with limit = sqrt(3 scale / n).
    seed: see RandomInitializer.
    """

    scale: float = real(default=1.0, low=0, low_open=True)
    mode: str = choice("fan_in", "fan_out", "fan_avg", default="fan_in")
    distribution: str = choice("truncated_normal", "untruncated_normal", "uniform", default="truncated_normal")

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Values from this generator: float64, of that shape."""
        return variance_scaling(shape, rng, self.scale, self.mode, self.distribution)


@base
class FixedScaling(RandomInitializer):
    """Base of the named cases of VarianceScaling: a subclass sets `scaling` = (scale, mode, distribution)."""

    scaling: ClassVar[tuple[float, str, str]]

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Values from this generator: float64, of that shape."""
        return variance_scaling(shape, rng, *self.scaling)


@spec("glorot_uniform")
class GlorotUniform(FixedScaling):
    """Uniform on (-limit, limit), limit = sqrt(6 / (fan_in + fan_out)). Also called Xavier uniform. Keras' default for weights.

    Glorot and Bengio (2010), Understanding the difficulty of training deep feedforward neural networks, equation 16.
    """

    scaling = (1.0, "fan_avg", "uniform")


@spec("glorot_normal")
class GlorotNormal(FixedScaling):
    """Truncated normal of standard deviation sqrt(2 / (fan_in + fan_out)). Also called Xavier normal. Glorot and Bengio (2010)."""

    scaling = (1.0, "fan_avg", "truncated_normal")


@spec("he_uniform")
class HeUniform(FixedScaling):
    """Uniform on (-limit, limit), limit = sqrt(6 / fan_in). Also called Kaiming uniform. For layers with ReLU.

    He, Zhang, Ren and Sun (2015), Delving deep into rectifiers, section 2.2.
    """

    scaling = (2.0, "fan_in", "uniform")


@spec("he_normal")
class HeNormal(FixedScaling):
    """Truncated normal of standard deviation sqrt(2 / fan_in). Also called Kaiming normal. He et al. (2015), section 2.2."""

    scaling = (2.0, "fan_in", "truncated_normal")


@spec("lecun_uniform")
class LecunUniform(FixedScaling):
    """Uniform on (-limit, limit), limit = sqrt(3 / fan_in). LeCun, Bottou, Orr and Müller (1998), Efficient BackProp, section 4.6."""

    scaling = (1.0, "fan_in", "uniform")


@spec("lecun_normal")
class LecunNormal(FixedScaling):
    """Truncated normal of standard deviation sqrt(1 / fan_in). For layers with SELU. LeCun et al. (1998), section 4.6."""

    scaling = (1.0, "fan_in", "truncated_normal")


@spec("random_uniform", "uniform")
class RandomUniform(RandomInitializer):
    """Uniform on [minval, maxval). Defaults -0.05 and 0.05; maxval must not be less than minval."""

    minval: float = real(default=-0.05)
    maxval: float = real(default=0.05)

    def __attrs_post_init__(self) -> None:
        if self.maxval < self.minval:
            raise ValueError(f"RandomUniform: maxval must be at least minval {self.minval!r}, received {self.maxval!r}")

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Values from this generator: float64, of that shape."""
        return rng.uniform(self.minval, self.maxval, shape)


@spec("random_normal", "normal")
class RandomNormal(RandomInitializer):
    """Normal of mean `mean` (default 0) and standard deviation `stddev` (default 0.05, at least 0)."""

    mean: float = real(default=0.0)
    stddev: float = real(default=0.05, low=0)

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Values from this generator: float64, of that shape."""
        return rng.normal(self.mean, self.stddev, shape)


@spec("truncated_normal")
class TruncatedNormal(RandomInitializer):
    """Normal of mean `mean` (default 0) and standard deviation `stddev` (default 0.05, at least 0), cut off 2 `stddev` from the mean.

    As in Keras, `stddev` is that of the normal before the cut: the values' own is 0.88 of it.
    """

    mean: float = real(default=0.0)
    stddev: float = real(default=0.05, low=0)

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Values from this generator: float64, of that shape."""
        return truncated_normal(shape, rng, self.mean, self.stddev)


@spec("orthogonal")
class Orthogonal(RandomInitializer):
    """`gain` (default 1) times a random matrix with orthonormal columns, or rows where there are fewer rows than columns.

    A weight of shape (..., O) is seen as a matrix of O columns. `values` raises ValueError for a shape of fewer than two dimensions.
    Saxe, McClelland and Ganguli (2014), Exact solutions to the nonlinear dynamics of learning in deep linear neural networks, section 3.
    """

    gain: float = real(default=1.0)

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Values from this generator: float64, of that shape."""
        if len(shape) < 2:
            raise ValueError(f"Orthogonal: the parameter's shape must have at least two dimensions, received {shape}")
        rows, columns = math.prod(shape[:-1]), shape[-1]
        q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
        # With the signs of r's diagonal in q the factorisation is unique, and q is uniform over the orthogonal matrices (Mezzadri 2007).
        q = q * np.where(np.diag(r) < 0, -1.0, 1.0)
        return self.gain * (q.T if rows < columns else q).reshape(shape)


@spec("constant")
class Constant(Initializer):
    """Every value is `value`, default 0."""

    value: float = real(default=0.0)

    def values(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """First values of a parameter: float64, of that shape."""
        return np.full(shape, self.value)


@spec("zeros", "zero")
class Zeros(Initializer):
    """Every value is 0. Keras' default for biases."""

    def values(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """First values of a parameter: float64, of that shape."""
        return np.zeros(shape)


@spec("ones", "one")
class Ones(Initializer):
    """Every value is 1."""

    def values(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """First values of a parameter: float64, of that shape."""
        return np.ones(shape)


@spec("identity")
class Identity(Initializer):
    """`gain` (default 1) on the diagonal, 0 elsewhere. `values` raises ValueError for a shape that is not two-dimensional."""

    gain: float = real(default=1.0)

    def values(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """First values of a parameter: float64, of that shape."""
        if len(shape) != 2:
            raise ValueError(f"Identity: the parameter's shape must have two dimensions, received {tuple(shape)}")
        return self.gain * np.eye(*shape)


def _pack(numbers: np.ndarray) -> str:
    """Finite numbers as text: dtype, shape, little-endian bytes in base64. In float32 where that holds them all, so equal arrays pack alike."""
    narrow = numbers.astype(np.float32) if numbers.size == 0 or np.abs(numbers).max() <= np.finfo(np.float32).max else numbers
    dtype = "float32" if np.array_equal(narrow, numbers) and narrow.dtype == np.float32 else "float64"
    raw = numbers.astype(np.dtype(dtype).newbyteorder("<")).tobytes()
    return f"{dtype} {'x'.join(map(str, numbers.shape))} {base64.b64encode(raw).decode('ascii')}"


def _unpack(text: str) -> np.ndarray:
    """What `_pack` packed, as float64. Raises ValueError for other text."""
    dtype, shape, body = text.split(" ")
    if dtype not in ("float32", "float64"):
        raise ValueError(f"packed numbers must be float32 or float64, received {dtype!r}")
    numbers = np.frombuffer(base64.b64decode(body, validate=True), dtype=np.dtype(dtype).newbyteorder("<"))
    return numbers.reshape([int(d) for d in shape.split("x") if d]).astype(np.float64)


def _nested(numbers: list | float) -> tuple | float:
    return tuple(map(_nested, numbers)) if isinstance(numbers, list) else numbers


def _freeze(values: Any) -> tuple | float | str:
    """Nested tuples of floats for a small array, packed text for a large or an empty one. Raises ValueError for anything else."""
    try:
        numbers = _unpack(values) if isinstance(values, str) else np.asarray(values)
    except (TypeError, ValueError):
        numbers = np.array(None)                          # nested lists of unequal lengths, for one
    if numbers.dtype.kind not in "iuf" or not np.isfinite(numbers).all():
        raise ValueError(f"Array: values must be an array of finite numbers, received {_short(values)}")
    numbers = numbers.astype(np.float64)
    return _pack(numbers) if numbers.size == 0 or numbers.size > LARGEST_READABLE else _nested(numbers.tolist())


def _short(value: object) -> str:
    """repr in one line of at most 80 letters, for messages."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


@spec()
class Array(Initializer):
    """The values themselves: an array or nested lists of finite numbers.

    The spec holds no array: a copy is kept as nested tuples, or, for more than 256 numbers, as text (dtype, shape, base64), so that it stays
    hashable, comparable, printable and fit for JSON. Nothing is rounded: numbers that float32 holds exactly are packed as such, others as
    float64. `values` raises ValueError where the parameter has another shape; nothing is broadcast.
    """

    content: tuple | float | str = attrs.field(alias="values", converter=_freeze)

    def values(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """First values of a parameter: float64, of that shape."""
        numbers = _unpack(self.content) if isinstance(self.content, str) else np.array(self.content, dtype=np.float64)
        if numbers.shape != tuple(shape):
            raise ValueError(f"Array: values must have the parameter's shape {tuple(shape)}, received shape {numbers.shape}")
        return numbers


RULE = "an initializer spec, its name, a finite number or an array of finite numbers"


def _convert(value: Any) -> Any:
    """The initializer that value stands for; what stands for none, as it came. Raises ValueError for an unknown name."""
    if isinstance(value, (str, Spec)):
        return resolve("initializer", value)
    try:
        array = Array(value)
    except ValueError:
        return value
    return Constant(array.content) if isinstance(array.content, float) else array


def resolve_initializer(value: Any) -> Initializer:
    """The initializer that value stands for: itself, the one of that name, Constant of a number, Array of an array.

    Raises ValueError for an unknown name (with the nearest known one) and for anything else.
    """
    initializer = _convert(value)
    if not is_of_family(initializer, "initializer"):
        raise ValueError(f"an initializer must be {RULE}, received {_short(value)}")
    return initializer


def initializer_field(*, default: Any = attrs.NOTHING, kw_only: bool = False) -> Any:
    """An attrs field of a spec that takes whatever `resolve_initializer` takes."""
    def check(instance: Spec, attribute: attrs.Attribute, value: object) -> None:
        if not is_of_family(value, "initializer"):
            raise ValueError(f"{type(instance).__name__}: {attribute.name} must be {RULE}, received {_short(value)}")
    return attrs.field(default=default, validator=check, converter=_convert, kw_only=kw_only)
