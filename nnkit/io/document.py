"""The JSON document of an .nnkit file: all that is no array. It stands in the metadata of a safetensors file, its long strings as arrays.

What a document may ask for is bounded, and looked at before anything is made of it: how long and how deep its JSON is, how many layers it declares,
which types it names. See native.py for what it says, docs/format.md for the format.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from nnkit._version import __version__
from nnkit.io.report import FormatError
from nnkit.io.safetensors import Reader
from nnkit.spec import CLASSES

__all__ = ["FORMAT", "KEY", "document_of", "fault_of", "short", "text_of"]

FORMAT = 1
KEY = "nnkit"                                            # of the document in the metadata

LONGEST_TEXT = 4096                                      # letters of a string in the document; longer ones stand as arrays
# Bounds on what a document may ask for: JSON without its strings, and how deep it is; layers and calls of them, each counted once more for every
# network that it is nested in, since each of these looks at all that is inside.
LONGEST_DOCUMENT, DEEPEST, MOST_LAYERS = 1 << 21, 64, 1 << 15
LONGEST_REASON = 2000                                     # letters of a message
STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"')


# Writing.

def text_of(document: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """The document as JSON; its long strings join the arrays. Raises ValueError for what no file may hold."""
    kept = _without_texts(document, arrays)
    text = json.dumps(kept, separators=(",", ":"), allow_nan=False)
    if (fault := _excess(text)) or (fault := _excess_layers(kept)):
        raise ValueError(f"save: {fault}")
    return text


def _without_texts(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The document with {"@text": n} in place of its long strings, which become arrays @text/n."""
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        name = f"@text/{sum(name.startswith('@text/') for name in arrays)}"
        arrays[name] = np.frombuffer(value.encode(), np.uint8)
        return {"@text": name}
    if isinstance(value, dict):
        return {key: _without_texts(item, arrays) for key, item in value.items()}
    return [_without_texts(item, arrays) for item in value] if isinstance(value, (list, tuple)) else value


# What may stand in a document.

def _excess(text: str) -> str | None:
    """What is too much about a document before it is parsed."""
    structure = len(text) - sum(found.end() - found.start() for found in STRING.finditer(text))
    return None if structure <= LONGEST_DOCUMENT else f"the declaration has {structure} letters besides names, and may have {LONGEST_DOCUMENT}"


def _excess_layers(document: Any) -> str | None:
    """The same once it is parsed. Without recursion: how deep it is shows here."""
    stack: list[tuple[Any, int, int]] = [(document, 1, 1)]
    layers = 0
    while stack:
        value, depth, times = stack.pop()
        if depth > DEEPEST:
            return f"the declaration of the network is nested more than {DEEPEST} levels deep"
        if isinstance(value, dict):
            inside = times + ("layers" in value)
            counted = [value[key] for key in ("layers", "calls", "outputs") if isinstance(value.get(key), list)]
            layers += inside * sum(map(len, counted))
            stack += [(item, depth + 1, inside) for item in value.values()]
        elif isinstance(value, list):
            stack += [(item, depth + 1, times) for item in value]
        if layers > MOST_LAYERS:
            return f"the network has more than {MOST_LAYERS // 4} layers, those of nested networks counted once more for every level"
    return None


def _unknown_type(document: Mapping[str, Any]) -> str | None:
    """What is wrong with the types of the specs in a document, fit's progress apart."""
    stack = [value for key, value in document.items() if key != "fit"]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            if "type" in value and not (isinstance(name := value["type"], str) and name in CLASSES):
                return f"unknown spec type {short(name)}: where it is a layer, loss or metric of one's own, import the module that declares it first"
            stack += value.values()
        elif isinstance(value, list):
            stack += value
    return None


# Reading.

def document_of(reader: Reader, path: str) -> dict[str, Any]:
    """The document of a file, checked as far as that goes without knowing specs. Raises FormatError."""
    if KEY not in reader.metadata:
        raise fault_of(path, "it is a safetensors file that nnkit did not write, and says nothing of a network; load_weights reads such files")
    text = reader.metadata[KEY]
    if fault := _excess(text):
        raise fault_of(path, fault)
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise fault_of(path, f"what it says of itself is no JSON: {type(error).__name__ if isinstance(error, RecursionError) else error}") from None
    number = document.get("format") if isinstance(document, dict) else None
    if type(number) is not int or number < 1:
        raise fault_of(path, f"what it says of itself must be a JSON object with a format of at least 1, received {short(number)}")
    if number > FORMAT:
        writer = short(document.get("nnkit"))
        raise fault_of(path, f"it is of format {number}, written by nnkit {writer}, and this nnkit, {__version__}, reads formats up to {FORMAT}")
    if fault := _excess_layers(document) or _unknown_type(document):
        raise fault_of(path, fault)
    return _with_texts(document, reader, path, set())


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _with_texts(value: Any, reader: Reader, path: str, taken: set[str]) -> Any:
    """The document with its long strings in place; taken: those that have been."""
    if isinstance(value, dict):
        if value.keys() == {"@text"}:
            entry = reader.entries.get(value["@text"]) if isinstance(value["@text"], str) else None
            if entry is None or entry.dtype != "U8" or not entry.name.startswith("@text/") or entry.name in taken:
                raise fault_of(path, f"the text {short(value['@text'])} must be an array of dtype U8 and stand in one place")
            taken.add(entry.name)
            try:
                return reader.read(entry.name).tobytes().decode()
            except UnicodeDecodeError:
                raise fault_of(path, f"the text {entry.name!r} is no UTF-8") from None
        return {key: _with_texts(item, reader, path, taken) for key, item in value.items()}
    return [_with_texts(item, reader, path, taken) for item in value] if isinstance(value, list) else value


def fault_of(path: str, reason: object) -> FormatError:
    """The error of a file that cannot be loaded."""
    return FormatError(f"{path!r} cannot be loaded: {_clipped(str(reason) or type(reason).__name__, LONGEST_REASON)}")


def _clipped(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length - 3]}..."


def short(value: Any) -> str:
    """repr for a message."""
    return _clipped(repr(value), 80)
