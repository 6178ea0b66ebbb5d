"""Pickles as data: what a pickle says is kept, and nothing that it names is looked up or called.

A pickle is a program for a small machine: whoever loads it plainly runs it. Here the names that a reader knows stand for objects that keep what they
are given and do nothing; every other name is refused. `read` has a machine of its own, which knows only the instructions that data needs. Python's
own unpickler, even with stand-ins, can be made to work for ever: a tuple of tuples of tuples that all are one takes a few bytes, and as the key of a
dictionary it is hashed along all its paths.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

__all__ = ["Dictionary", "Kept", "Makes", "Name", "read"]


class Kept:
    """Stands for an object of the pickle: keeps the arguments it would have been made of, and the state that would be its."""

    state: Any = None

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Dictionary(dict):
    """Stands for a dictionary of some class; a state that it is given is kept and means nothing."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Name:
    """Stands for what the pickle names, by (module, name). Called, it makes the stand-in of what that would have made."""

    def __init__(self, path: tuple[str, str], made: Callable[..., Any] | None) -> None:
        self.path, self.made = path, made

    def __call__(self, *arguments: Any) -> Any:
        """The stand-in. Raises pickle.UnpicklingError where no call is needed."""
        if self.made is None:
            raise pickle.UnpicklingError("it calls what needs no call")
        return self.made(*arguments)

    def __setstate__(self, state: Any) -> None:          # or Python's unpickler would make the state attributes of this object
        raise pickle.UnpicklingError("it changes a function")


Makes: TypeAlias = dict[tuple[str, str], Callable[..., Any] | None]                # (module, name) -> what a call of it makes; None: no call needed

KEYS = (str, int, bool, float, bytes, type(None))        # of dictionaries: what hashes at once


def read(stream: io.BytesIO, makes: Makes, persistent: Callable[[Any], Any] | None = None) -> Any:
    """The object of the pickle that begins where the stream stands, made of stand-ins; then the stream stands behind it.

    makes: the names that it may hold. persistent: what makes an object of a persistent id, where the format has such.
    Memory is of the order of the pickle's bytes, and so is time. Raises pickle.UnpicklingError, and nearly anything else for a damaged pickle.
    """
    import pickletools  # costs a few ms, which `import nnkit` need not pay

    machine = _Machine(makes, persistent)
    for instruction, argument, place in pickletools.genops(stream):
        machine.place = place or 0
        work = WORK.get(instruction.name)
        if work is None:
            raise pickle.UnpicklingError(f"it has the instruction {instruction.name}")
        work(machine, argument)
    return machine.pop()


class _Machine:
    """The stack, the stacks below the marks, and what is remembered under numbers."""

    def __init__(self, makes: Makes, persistent: Callable[[Any], Any] | None) -> None:
        self.makes, self.persistent = makes, persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memory: dict[int, Any] = {}
        self.place = 0

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            raise pickle.UnpicklingError("it takes what is not there")
        return self.stack.pop()

    def top(self, kind: Any) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise pickle.UnpicklingError("it changes what cannot be changed")
        return self.stack[-1]

    def mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        if not self.below:
            raise pickle.UnpicklingError("it takes what is not there")
        items, self.stack = self.stack, self.below.pop()
        return items

    def last(self, count: int) -> tuple[Any, ...]:
        return tuple(reversed([self.pop() for _ in range(count)]))

    def drop(self, _: Any) -> None:
        if self.stack or not self.below:
            self.pop()
        else:
            self.since_mark()

    def drop_mark(self, _: Any) -> None:
        self.since_mark()

    def put(self, number: int | None) -> None:
        number = len(self.memory) if number is None else number
        if not 0 <= number <= self.place:
            raise pickle.UnpicklingError(f"it remembers {number} objects")
        self.memory[number] = self.top(object)

    def get(self, number: int) -> None:
        if number not in self.memory:
            raise pickle.UnpicklingError("it takes what is not there")
        self.push(self.memory[number])

    def append(self, _: Any) -> None:
        item = self.pop()
        self.top(list).append(item)

    def extend(self, _: Any) -> None:
        items = self.since_mark()
        self.top(list).extend(items)

    def dictionary(self, _: Any) -> None:
        items = self.since_mark()
        self.push({})
        self.fill(items)

    def set_item(self, _: Any) -> None:
        self.fill(self.last(2))

    def set_items(self, _: Any) -> None:
        self.fill(self.since_mark())

    def fill(self, items: Sequence[Any]) -> None:
        dictionary = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in KEYS:
                raise pickle.UnpicklingError("a dictionary's key must be text or a number")
            dictionary[key] = value

    def name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise pickle.UnpicklingError("a name must be text")
        if (module, name) not in self.makes:
            raise pickle.UnpicklingError(f"it names {module[:200]}.{name[:200]}")
        self.push(Name((module, name), self.makes[module, name]))

    def call(self, _: Any) -> None:
        called, arguments = self.last(2)
        if type(called) is not Name or type(arguments) is not tuple:
            raise pickle.UnpicklingError("it calls what cannot be called")
        self.push(called(*arguments))

    def build(self, _: Any) -> None:
        state = self.pop()
        self.top((Kept, Dictionary, Name)).__setstate__(state)

    def instance(self, path: str) -> None:
        self.name(*path.split(" ", 1))
        raise pickle.UnpicklingError("it has the instruction INST")

    def identify(self, key: Any) -> None:
        if self.persistent is None:
            raise pickle.UnpicklingError("it has persistent ids")
        self.push(self.persistent(key))


def _pushes(*names: str) -> dict[str, Callable[[_Machine, Any], None]]:
    return dict.fromkeys(names, _Machine.push)


WORK: dict[str, Callable[[_Machine, Any], None]] = {
    **_pushes("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING",
              "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda m, _: None),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _Machine.call),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "MARK": _Machine.mark,
    "POP": _Machine.drop,
    "POP_MARK": _Machine.drop_mark,
    "DUP": lambda m, _: m.push(m.top(object)),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE": lambda m, _: m.push(tuple(m.since_mark())),
    "TUPLE1": lambda m, _: m.push(m.last(1)),
    "TUPLE2": lambda m, _: m.push(m.last(2)),
    "TUPLE3": lambda m, _: m.push(m.last(3)),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "LIST": lambda m, _: m.push(m.since_mark()),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.extend,
    "EMPTY_DICT": lambda m, _: m.push({}),
    "DICT": _Machine.dictionary,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": lambda m, path: m.name(*path.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.name(*m.last(2)),
    "BUILD": _Machine.build,
    "INST": _Machine.instance,
    "BINPERSID": lambda m, _: m.identify(m.pop()),
    "PERSID": _Machine.identify,
}
