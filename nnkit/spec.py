"""Specs: frozen attrs records that declare a network and how it is trained.

A spec is a value. It is hashable and comparable, holds no arrays and no state, prints as the code that makes it, and goes to JSON and back.
Layers, activations, initializers, regularizers, losses, optimizers, schedules and metrics are all specs. A wrong field is refused at
construction with one sentence: the field, the rule, the value received.

A new spec is a class with the decorator `spec`:

    @spec("elu")
    class ELU(ActivationFunction):
        alpha: float = real(default=1.0)

The strings given to `spec` are shorthands: `Dense(8, activation="elu")` means `Dense(8, activation=ELU())`.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, TypeVar, dataclass_transform

import attrs

__all__ = [
    "Spec", "base", "boolean", "child", "choice", "from_json", "integer", "nearest", "real", "received", "resolve", "shape_of", "spec", "to_json",
]

SpecType = TypeVar("SpecType", bound="Spec")

CLASSES: dict[str, type[Spec]] = {}                      # type name -> class, for JSON
SHORTHANDS: dict[tuple[str, str | None], Callable[[], Spec]] = {}      # (family, shorthand) -> what makes the spec: its class, mostly
LARGEST = 8                                              # entries of an array that a message shows


def nearest(name: str, known: Iterable[str]) -> str:
    """The tail of an error message about an unknown name: the nearest known one, or all of them. Neither case nor underscores count: AUC is auc."""
    known = sorted(known)
    plain: dict[str, str] = {}
    for word in known:
        plain.setdefault(_plain(word), word)
    close = difflib.get_close_matches(name, known, n=1) or [plain[word] for word in difflib.get_close_matches(_plain(name), plain, n=1)]
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"


def _plain(name: str) -> str:
    return name.casefold().replace("_", "")


def received(value: object) -> str:
    """What was received, at the end of an error message: a class is what people forget to call; of a large array its shape."""
    if getattr(value, "ndim", 0) and math.prod(value.shape) > LARGEST:  # type: ignore[attr-defined]
        return f"{article(type(value).__name__)} of shape {tuple(value.shape)}"  # type: ignore[attr-defined]
    return f"the class {value.__name__}, not an object made from it" if isinstance(value, type) else repr(value)


@attrs.frozen(repr=False)
class Spec:
    """Base of all specs. `family` says what a spec may stand for (layer, activation, loss, ...).

    `namespace` is the part of nnkit that holds the class's public name ("metrics."), empty for nnkit itself: it keeps the metric
    MeanSquaredError apart from the loss of the same name, in repr and in JSON.
    """

    family: ClassVar[str] = "spec"
    namespace: ClassVar[str] = ""

    @classmethod
    def from_fields(cls, **fields: Any) -> Any:
        """The spec of these fields, as JSON holds them."""
        return cls(**fields)

    def __repr__(self) -> str:
        """The code that makes this spec: required fields by position, others by name and only where they differ from the default."""
        words = []
        by_position = True
        for field in sorted(attrs.fields(type(self)), key=lambda field: field.kw_only):      # a base's keyword-only fields stand first
            value = getattr(self, field.name)
            if field.default is attrs.NOTHING:
                words.append(repr(value) if by_position and not field.kw_only else f"{field.alias}={value!r}")
                continue
            by_position = False
            default = field.default.factory() if isinstance(field.default, attrs.Factory) else field.default  # type: ignore[arg-type]
            if isinstance(field.converter, attrs.Converter):
                default = field.converter.converter(default, self)  # type: ignore[attr-defined]
            elif field.converter is not None:
                default = field.converter(default)
            if value != default:
                words.append(f"{field.alias}={value!r}")
        return f"{type_name(type(self))}({', '.join(words)})"


def type_name(cls: type[Spec]) -> str:
    """The name by which repr and JSON know a class of specs: "Dense", "metrics.MeanSquaredError"."""
    return cls.namespace + cls.__name__


@dataclass_transform(frozen_default=True, field_specifiers=(attrs.field,))
def base(cls: type[SpecType]) -> type[SpecType]:
    """Class decorator of what specs derive from: makes the class a frozen attrs record that no name stands for."""
    return attrs.frozen(cls, repr=False)


@dataclass_transform(frozen_default=True, field_specifiers=(attrs.field,))
def spec(*shorthands: str) -> Callable[[type[SpecType]], type[SpecType]]:
    """Class decorator: makes the class a frozen attrs record, known to JSON by its class name and to strings by its shorthands."""
    return lambda cls: _register(cls, shorthands)


def _register(cls: type[SpecType], shorthands: Sequence[str]) -> type[SpecType]:
    own = "__init__" in cls.__dict__
    cls = attrs.frozen(cls, repr=False)
    if not own:
        _name_unknown_fields(cls)
    cls.__setattr__ = _refuse_to_change  # type: ignore[method-assign, assignment]
    _tell_of_bases(cls)
    name = type_name(cls)
    if CLASSES.get(name, cls).__module__ != cls.__module__:
        raise ValueError(f"a spec named {name!r} exists already in {CLASSES[name].__module__}; choose another class name")
    for shorthand in shorthands:
        other = SHORTHANDS.get((cls.family, shorthand))
        if isinstance(other, type) and type_name(other) != name:
            raise ValueError(f"the {cls.family} name {shorthand!r} stands for {type_name(other)} already; choose another for {name}")
    CLASSES[name] = cls
    SHORTHANDS.update(dict.fromkeys(((cls.family, shorthand) for shorthand in shorthands), cls))
    return cls


class SpecIsFrozen(attrs.exceptions.FrozenInstanceError):
    """attrs' error with words of its own."""

    def __init__(self, message: str) -> None:
        super().__init__()
        self.message = message

    def __str__(self) -> str:
        return self.message


def _refuse_to_change(self: Spec, name: str, value: object) -> None:
    """Specs are values; what people want who change one is said. Raises attrs' FrozenInstanceError, an AttributeError."""
    advice = "Model.freeze freezes layers of a model, and attrs.evolve makes another spec" if name == "trainable" else "attrs.evolve makes another"
    raise SpecIsFrozen(f"{type_name(type(self))}: {name} cannot be set, a spec is a value: {advice}")


def _tell_of_bases(cls: type[Spec]) -> None:
    """Below a docstring put that of a base which it names, as `Conv`, or whose fields it leaves to the base: `help` shows no text of bases."""
    text = inspect.cleandoc(cls.__doc__ or "")
    for parent in cls.__mro__[1:]:
        fields = () if parent.__name__ == "Layer" else inspect.get_annotations(parent)
        own = {field.name for field in attrs.fields(cls)}.intersection(fields)
        if parent.__doc__ and parent is not Spec and (f"`{parent.__name__}`" in text or not all(field in text for field in own)):
            text += f"\n\n{parent.__name__}: {inspect.cleandoc(parent.__doc__)}"
    cls.__doc__ = text


def _name_unknown_fields(cls: type[Spec]) -> None:
    """Let the constructor say which fields there are where it is given another."""
    made = cls.__init__
    known = [field.alias for field in attrs.fields(cls) if field.init]

    @functools.wraps(made)
    def init(self: Spec, *args: Any, **fields: Any) -> None:
        for name in fields:
            if name not in known:
                raise TypeError(f"{type_name(cls)} has no field {name!r}: {_hint(cls, name, known)}")
        made(self, *args, **fields)
    cls.__init__ = init  # type: ignore[method-assign]


def _hint(cls: type[Spec], name: str, known: Sequence[str]) -> str:
    """The tail of the message about an unknown field."""
    if cls.family in ("layer", "activation"):
        if name in ("input_shape", "input_dim", "input_length", "batch_input_shape"):
            return "the shape of the data is declared by the Input that comes first, as in Input((20,))"
        if name == "dtype":
            return "a model computes in one, nnkit.compile(..., dtype='float64'), and an Embedding makes its Input one of whole numbers"
        if name == "data_format":
            return "channels are the last axis; np.moveaxis(x, 1, -1) puts them there"
    return nearest(name, known)


# Fields. Each returns an attrs field that checks its value when the spec is made.

def _refuse(instance: Spec, attribute: attrs.Attribute, rule: str, value: object) -> ValueError:
    return ValueError(f"{type(instance).__name__}: {attribute.name} must be {rule}, received {received(value)}")


def _interval(low: float | None, high: float | None, low_open: bool, high_open: bool) -> str:
    parts = []
    if low is not None:
        parts.append(f"{'greater than' if low_open else 'at least'} {low:g}")
    if high is not None:
        parts.append(f"{'less than' if high_open else 'at most'} {high:g}")
    return " and ".join(parts)


def _outside(value: float, low: float | None, high: float | None, low_open: bool, high_open: bool) -> bool:
    below = low is not None and (value <= low if low_open else value < low)
    above = high is not None and (value >= high if high_open else value > high)
    return below or above


def integer(*, default: Any = attrs.NOTHING, low: int | None = None, high: int | None = None, none: bool = False, kw_only: bool = False) -> Any:
    """A whole number within [low, high]; None too where `none` is true. Booleans and 3.0 are refused, NumPy integers taken."""
    rule = " ".join(filter(None, ("a whole number", _interval(low, high, False, False), "or None" if none else "")))

    def check(instance: Spec, attribute: attrs.Attribute, value: object) -> None:
        if value is None and none:
            return
        if type(value) is not int or _outside(value, low, high, False, False):
            raise _refuse(instance, attribute, rule, value)
    return attrs.field(default=default, validator=check, converter=_plain_integer, kw_only=kw_only)


def _plain_integer(value: Any) -> Any:
    return int(value) if hasattr(value, "__index__") and not isinstance(value, bool) else value


def real(*, default: Any = attrs.NOTHING, low: float | None = None, high: float | None = None, low_open: bool = False, high_open: bool = False,
         none: bool = False, kw_only: bool = False) -> Any:
    """A finite number within the interval; None too where `none` is true. Kept as a Python float."""
    rule = " ".join(filter(None, ("a finite number", _interval(low, high, low_open, high_open), "or None" if none else "")))

    def check(instance: Spec, attribute: attrs.Attribute, value: object) -> None:
        if value is None and none:
            return
        if type(value) is not float or not math.isfinite(value) or _outside(value, low, high, low_open, high_open):
            raise _refuse(instance, attribute, rule, value)
    return attrs.field(default=default, validator=check, converter=_plain_real, kw_only=kw_only)


def _plain_real(value: Any) -> Any:
    if isinstance(value, (bool, str)) or value is None:
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def boolean(*, default: Any = attrs.NOTHING, kw_only: bool = False) -> Any:
    """True or False."""
    def check(instance: Spec, attribute: attrs.Attribute, value: object) -> None:
        if type(value) is not bool:
            raise _refuse(instance, attribute, "True or False", value)
    return attrs.field(default=default, validator=check, kw_only=kw_only)


def choice(*values: str, default: Any = attrs.NOTHING, none: bool = False, kw_only: bool = False) -> Any:
    """One of the given strings; None too where `none` is true."""
    rule = "one of " + ", ".join(map(repr, values)) + (" or None" if none else "")

    def check(instance: Spec, attribute: attrs.Attribute, value: object) -> None:
        if value not in values and not (value is None and none):
            raise _refuse(instance, attribute, rule, value)
    return attrs.field(default=default, validator=check, kw_only=kw_only)


def child(family: str, *, default: Any = attrs.NOTHING, none: bool = False, kw_only: bool = False) -> Any:
    """A spec of that family, or its shorthand; None too where `none` is true."""
    def check(instance: Spec, attribute: attrs.Attribute, value: object) -> None:
        if value is None and none:
            return
        if not is_of_family(value, family):
            rule = f"{article(family)} spec or its name" + (" or None" if none else "")
            raise _refuse(instance, attribute, rule, value)
    return attrs.field(default=default, validator=check, converter=lambda value: resolve(family, value), kw_only=kw_only)


def shape_of(*, default: Any = attrs.NOTHING, low: int = 0, wildcard: int | None = None, none: bool = False, kw_only: bool = False) -> Any:
    """A tuple of whole numbers, each at least `low` or equal to `wildcard`; None entries too where `none` is true, and None itself."""
    rule = f"a tuple of whole numbers at least {low}" + (f" or {wildcard}" if wildcard is not None else "") + (", or None" if none else "")

    def check(instance: Spec, attribute: attrs.Attribute, value: Any) -> None:
        if value is None and none:
            return
        good = isinstance(value, tuple) and all(
            (d is None and none) or (type(d) is int and (d >= low or d == wildcard)) for d in value)
        if not good:
            raise _refuse(instance, attribute, rule, value)

    def convert(value: Any) -> Any:
        if hasattr(value, "__index__") and not isinstance(value, bool):
            value = (value,)
        return tuple(map(_plain_integer, value)) if isinstance(value, Iterable) and not isinstance(value, str) else value
    return attrs.field(default=default, validator=check, converter=convert, kw_only=kw_only)


def article(noun: str) -> str:
    """The noun with its article, for messages."""
    return ("an " if noun[0].lower() in "aeiou" or noun == "ndarray" else "a ") + noun


def is_of_family(value: object, family: str) -> bool:
    """Whether value is a spec that may stand where `family` is asked for."""
    return isinstance(value, Spec) and any(family == base.__dict__.get("family") for base in type(value).__mro__)


def resolve(family: str, value: Any) -> Any:
    """A shorthand becomes the spec with its defaults; anything else is returned as it is. Raises ValueError for an unknown name."""
    if not (isinstance(value, str) or (value is None and (family, None) in SHORTHANDS)):
        return value
    names = [name for of, name in SHORTHANDS if of == family and name]
    if (family, value) not in SHORTHANDS:
        raise ValueError(f"unknown {family} {value!r}: {nearest(str(value), names)}")
    return SHORTHANDS[family, value]()


# JSON.

FORMAT = 1


def to_json(value: Spec, indent: int | None = None) -> str:
    """The spec as JSON text: {"format": 1, "spec": {"type": type name, field: value, ...}}. `from_json` reads it back as an equal spec.

    indent: spaces by which nested lines are moved in; None (default): all in one line. Raises ValueError for a spec that holds a Python function.
    """
    return json.dumps({"format": FORMAT, "spec": _converter().unstructure(value)}, indent=indent)


def from_json(text: str) -> Any:
    """The spec that `to_json` wrote. Raises ValueError for text that is not such a spec, with the reason."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"a spec must be JSON text: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT or "spec" not in document:
        found = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise ValueError(f"a spec must be a JSON object with format {FORMAT} and a spec, received format {found!r}")
    return _build(document["spec"])


def _converter() -> Any:
    import cattrs  # costs 15 ms; only JSON needs it

    converter = cattrs.Converter()
    converter.register_unstructure_hook_func(lambda cls: isinstance(cls, type) and issubclass(cls, Spec), lambda value: _unbuild(converter, value))
    return converter


def _unbuild(converter: Any, value: Spec) -> dict[str, Any]:
    items = {f.alias: getattr(value, f.name) for f in attrs.fields(type(value))}
    for key, item in items.items():
        if callable(item) and not isinstance(item, Spec):
            raise ValueError(f"{type_name(type(value))}: {key} is a Python function, which JSON cannot hold, received {item!r}")
    return {"type": type_name(type(value)), **{key: converter.unstructure(item) for key, item in items.items()}}


def _build(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_build, value))
    if not isinstance(value, dict):
        return value
    fields = {key: _build(item) for key, item in value.items()}
    name = fields.pop("type", None)
    if name not in CLASSES:
        raise ValueError(f"unknown spec type {name!r}: {nearest(str(name), CLASSES)}")
    cls = CLASSES[name]
    known = {f.alias for f in attrs.fields(cls)}
    for key in fields:
        if key not in known:
            raise ValueError(f"{name} has no field {key!r}: {nearest(key, known)}")
    return cls.from_fields(**fields)
