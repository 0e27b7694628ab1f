"""The line between a reply and its tests (code_harness.py): data come over as themselves, objects are asked from afar.

What the reply sends is read as JSON, in which anything that JSON has no word for is an object with one letter:

    t tuple, s set, f frozenset, d dict, b bytes, a bytearray, i a large int, c complex, r range, k v w views of a dict,
    e ..., l NotImplemented, n a named tuple, x another value of the standard library, m something of it by name,
    q a class of exceptions, z a coroutine, o an object of the sender's, y one of the receiver's

This file is run as it is in the sandbox, so it needs nothing but the standard library.
"""

from __future__ import annotations

import builtins
import json
import os
import sys
from collections.abc import Callable
from typing import Any

Json = Any
_SMALL = 1 << 62
_SCALARS = (str, bool, float, type(None))
_DICT_VIEWS = {"k": type({}.keys()), "v": type({}.values()), "w": type({}.items())}
# Modules whose functions and classes come over by name.
_NAMED = (
    "builtins", "math", "cmath", "operator", "itertools", "functools", "collections", "string", "re", "random",
    "statistics", "decimal", "fractions", "datetime", "heapq", "bisect", "copy", "json", "time",
)  # fmt: skip
DECIDES = "its result decides by itself what it is equal to"


class Gone(BaseException):
    """The other process has ended."""


class Peer:
    """One end of the line. `asked`: may the other end ask for anything (the reply) or just for what it was handed."""

    def __init__(self, reads: int, writes: int, tests: bool) -> None:
        self.reads, self.writes, self.tests = reads, writes, tests
        self.objects_decide = False
        self.gone = False  # remembered, for tests may catch whatever is raised
        self.kept: list[Any] = []
        self.numbers: dict[int, int] = {}
        self.remotes: dict[int, Any] = {}
        self.classes: dict[str, type[BaseException]] = {}

    def send(self, message: Json) -> None:
        data = json.dumps(message).encode()
        view = memoryview(len(data).to_bytes(8, "little") + data)
        while view:
            try:
                view = view[os.write(self.writes, view) :]
            except BrokenPipeError:
                self.gone = True
                raise Gone from None

    def receive(self) -> Json:
        return json.loads(self._exactly(int.from_bytes(self._exactly(8), "little")), object_hook=self.decode)

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            part = os.read(self.reads, min(size, 1 << 20))
            if not part:
                self.gone = True
                raise Gone
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def ask(self, what: str, *arguments: Any, target: Any = None, named: dict[str, Any] | None = None) -> Any:
        """What the other end answers; its exception is raised here. Lists and the like that it changed change here."""
        self.send([what, target, [self.encode(one) for one in arguments], self.encode(named or {})])
        while True:
            message = self.receive()
            if message[0] == "value":
                _, value, changed, same = message
                for place, now in changed:
                    _refill(arguments[place], now)
                return value if same is None else arguments[same]
            if message[0] == "raise":
                raise self._exception(*message[1:]) from None
            self.answer(message)

    def answer(self, message: Json) -> None:
        """Do what the other end asks for, and say what came of it."""
        try:
            what, target, arguments, named = message
            before = [_mutable(one) and json.dumps(self.encode(one)) for one in arguments]
            value = self.do(what, target, arguments, named)
            same = next((i for i, one in enumerate(arguments) if one is value and before[i]), None)
            told = None if same is not None else self.encode(value)
            now = [self.encode(one) if before[i] else None for i, one in enumerate(arguments)]
            changed = [[i, one] for i, one in enumerate(now) if before[i] and json.dumps(one) != before[i]]
            self.send(["value", told, changed, same])
        except Gone:
            raise
        except BaseException as error:
            self.send(["raise", *self._told(error)])

    def do(self, what: str, target: Any, arguments: list[Any], named: dict[str, Any]) -> Any:
        thing = self.kept[target]
        if self.tests:
            # What the tests hand to the reply is no way to the tests: called, gone through, and no more.
            own = type(thing).__module__ == "tests" and not str(arguments[:1]).startswith("['_")
            if what != "call" and not own and not (what in ("iter", "next") and hasattr(thing, "__next__")):
                raise PermissionError("the tests keep this to themselves")
        return OPERATIONS[what](thing, *arguments, **named)

    def _told(self, error: BaseException) -> list[Json]:
        kind = type(error)
        base = next(c for c in kind.__mro__ if c.__module__ == "builtins")
        try:
            arguments = self.encode(list(error.args))
            text = str(error)
        except BaseException:
            arguments, text = [], ""
        own = None if kind is base else [self.number(kind), kind.__name__]
        return [base.__name__, arguments, own, text]

    def _exception(self, base: str, arguments: list[Any], own: Any, text: str) -> BaseException:
        known = getattr(builtins, base, None)
        kind = known if isinstance(known, type) and issubclass(known, BaseException) else Exception
        if own is not None:
            kind = self.exception_class(own[0], str(own[1]), kind)
        try:
            error = kind(*arguments)
        except Exception:  # a class may want other arguments than those that it keeps (UnicodeDecodeError does)
            error = Exception(text)
        if own is not None:
            error.__dict__["text"] = text
        return error

    def exception_class(self, number: int, name: str, base: type[BaseException]) -> type[BaseException]:
        """A class here for one of the other end's, so that `except` knows it."""
        if (key := f"{number}") not in self.classes:

            def text(error: BaseException) -> str:
                return str(error.__dict__.get("text") or base.__str__(error))

            self.classes[key] = type(name, (base,), {"__str__": text, "__module__": "reply"})
        return self.classes[key]

    def number(self, thing: Any) -> int:
        if id(thing) not in self.numbers:
            self.numbers[id(thing)] = len(self.kept)
            self.kept.append(thing)
        return self.numbers[id(thing)]

    def encode(self, value: Any) -> Json:
        kind = type(value)
        if kind in _SCALARS or (kind is int and -_SMALL < value < _SMALL):
            return value
        if kind is list:
            if all(type(v) in _SCALARS or (type(v) is int and -_SMALL < v < _SMALL) for v in value):
                return value
            return [self.encode(v) for v in value]
        if kind is int:
            return {"i": hex(value)}
        if kind is Remote:
            return {"y": object.__getattribute__(value, "number")}
        if kind in _ENCODED:
            name, parts = _ENCODED[kind]
            return {name: self.encode(parts(value))}
        return self._encode_other(value, kind)

    def _encode_other(self, value: Any, kind: type) -> Json:
        module = getattr(kind, "__module__", "")
        if module in ("decimal", "fractions", "datetime", "collections", "uuid") and kind.__name__ in _LIBRARY:
            return {"x": [module, kind.__name__, self.encode(list(_LIBRARY[kind.__name__](value)))]}
        of = getattr(value, "__module__", "") if not isinstance(value, type(sys)) else None
        name = getattr(value, "__qualname__", None)
        if of is None and isinstance(value, type(sys)) and value.__name__ in _NAMED:
            return {"m": [value.__name__, ""]}
        if isinstance(name, str) and isinstance(of, str) and callable(value) and self._public(of, name) is value:
            return {"m": [of, name]}
        if not self.objects_decide and not isinstance(value, type):
            plain: Any = value
            for base in (bool, int, float, str, bytes, list, tuple, dict, set, frozenset):
                if isinstance(value, base):
                    fields = getattr(kind, "_fields", None)
                    if base is tuple and isinstance(fields, tuple):
                        return {"n": [kind.__name__, list(fields), [self.encode(v) for v in tuple.__iter__(plain)]]}
                    if base is dict:
                        return self.encode(dict(dict.items(plain)))
                    return self.encode(_PLAIN[base](plain))
        if kind.__name__ == "coroutine":
            return {"z": self.number(value)}
        if isinstance(value, type) and issubclass(value, BaseException):
            known = next(c for c in value.__mro__ if c.__module__ == "builtins")
            return {"q": [self.number(value), value.__name__, known.__name__]}
        own = any("__eq__" in vars(c) for c in kind.__mro__ if c.__module__ == "reply")
        return {"o": [self.number(value), isinstance(value, type), own]}

    def _public(self, module: str, name: str) -> Any:
        if module not in _NAMED or module not in sys.modules:
            return None
        found: Any = sys.modules[module]
        for part in name.split("."):
            found = getattr(found, part, None)
        return found

    def decode(self, tagged: dict[str, Any]) -> Any:
        ((tag, value),) = tagged.items()
        if tag in _DECODED:
            return _DECODED[tag](value)
        if tag == "x":
            return _from_library(*value)
        if tag == "m":
            return _by_name(*value)
        if tag == "n":
            from collections import namedtuple

            return namedtuple(value[0], value[1])._make(value[2])  # type: ignore[attr-defined]
        if tag == "y":
            return self.kept[value]
        if tag == "z":
            return self._coroutine(value)
        if tag == "q":
            return self._exception_class_of(*value)
        if tag == "o":
            number, is_class, own = value
            if number not in self.remotes:
                self.remotes[number] = Remote(self, number, bool(is_class), bool(own))
            return self.remotes[number]
        raise ValueError(f"unknown tag {tag}")

    async def _coroutine(self, number: int) -> Any:
        return self.ask("await", target=number)

    def _exception_class_of(self, number: int, name: str, base: str) -> type[BaseException]:
        found = getattr(builtins, base, Exception)
        is_exception = isinstance(found, type) and issubclass(found, BaseException)
        return self.exception_class(number, str(name), found if is_exception else Exception)


class Remote:
    """An object that is in the other process."""

    __slots__ = ("is_class", "number", "own", "peer")

    def __init__(self, peer: Peer, number: int, is_class: bool, own: bool) -> None:
        for name, value in (("peer", peer), ("number", number), ("is_class", is_class), ("own", own)):
            object.__setattr__(self, name, value)

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__") and name in ("__class__", "__dict__", "__module__"):
            return object.__getattribute__(self, name)
        return _ask(self, "get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        _ask(self, "set", name, value)

    def __delattr__(self, name: str) -> None:
        _ask(self, "del", name)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        peer = object.__getattribute__(self, "peer")
        return peer.ask("call", *arguments, target=object.__getattribute__(self, "number"), named=named)

    def __instancecheck__(self, thing: Any) -> bool:
        return type(thing) is Remote and bool(_ask(self, "has_instance", thing))

    def __subclasscheck__(self, thing: Any) -> bool:
        return type(thing) is Remote and bool(_ask(self, "has_subclass", thing))

    def __contains__(self, thing: Any) -> bool:
        if object.__getattribute__(self, "peer").objects_decide:
            return bool(_ask(self, "contains", thing))
        return any(one is thing or one == thing for one in self)

    def __iter__(self) -> Any:
        return _ask(self, "iter")

    def __hash__(self) -> int:
        decides = object.__getattribute__(self, "peer").objects_decide
        return int(_ask(self, "hash")) if decides else id(self)

    def __enter__(self) -> Any:
        return _ask(self, "enter")

    def __exit__(self, *_: Any) -> None:
        _ask(self, "exit")


def _ask(remote: Remote, what: str, *arguments: Any) -> Any:
    peer: Peer = object.__getattribute__(remote, "peer")
    return peer.ask(what, *arguments, target=object.__getattribute__(remote, "number"))


def _compared(what: str) -> Callable[..., Any]:
    def compare(self: Remote, other: Any) -> Any:
        peer: Peer = object.__getattribute__(self, "peer")
        if peer.objects_decide or not peer.tests:
            return _ask(self, what, other)
        if object.__getattribute__(self, "own") or what not in ("eq", "ne"):
            raise AssertionError(DECIDES)
        return (self is other) == (what == "eq")

    return compare


def _computed(what: str) -> Callable[..., Any]:
    def compute(self: Remote, *others: Any) -> Any:
        peer: Peer = object.__getattribute__(self, "peer")
        if others and peer.tests and not peer.objects_decide:
            raise AssertionError(DECIDES)
        return _ask(self, what, *others)

    return compute


def _forwarded(what: str) -> Callable[..., Any]:
    return lambda self, *arguments: _ask(self, what, *arguments)


def _operations() -> dict[str, Callable[..., Any]]:
    import operator

    found: dict[str, Callable[..., Any]] = {
        "call": lambda thing, *arguments, **named: thing(*arguments, **named),
        "get": getattr, "set": setattr, "del": delattr, "iter": iter, "next": next, "hash": hash, "len": len,
        "str": str, "repr": repr, "format": format, "int": int, "float": float, "complex": complex, "round": round,
        "reversed": reversed, "bool": bool,
        "has_instance": lambda kind, thing: isinstance(thing, kind),
        "has_subclass": lambda kind, thing: issubclass(thing, kind),
        "enter": lambda thing: thing.__enter__(), "exit": lambda thing: thing.__exit__(None, None, None),
        "await": _awaited,
    }  # fmt: skip
    for name in ("next", "len", "str", "repr", "format", "int", "float", "complex", "round", "reversed", "bool"):
        setattr(Remote, f"__{name}__", _forwarded(name))
    for name in ("getitem", "setitem", "delitem", "abs", "neg", "pos", "invert", "index", "contains"):
        found[name] = getattr(operator, name)
        if name != "contains":
            setattr(Remote, f"__{name}__", _forwarded(name))
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        found[name] = getattr(operator, name)
        setattr(Remote, f"__{name}__", _compared(name))
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "lshift", "rshift", "and", "or",
                 "xor"):  # fmt: skip
        plain = getattr(operator, f"__{name}__")
        found[name], found["r" + name] = plain, lambda one, other, plain=plain: plain(other, one)
        setattr(Remote, f"__{name}__", _computed(name))
        setattr(Remote, f"__r{name}__", _computed("r" + name))
    return found


def _awaited(coroutine: Any) -> Any:
    import asyncio

    return asyncio.run(coroutine)


OPERATIONS = _operations()
_ENCODED: dict[type, tuple[str, Callable[[Any], Any]]] = {
    tuple: ("t", list), set: ("s", list), frozenset: ("f", list), dict: ("d", lambda v: [list(p) for p in v.items()]),
    bytes: ("b", lambda v: v.decode("latin-1")), bytearray: ("a", lambda v: v.decode("latin-1")),
    complex: ("c", lambda v: [v.real, v.imag]), range: ("r", lambda v: [v.start, v.stop, v.step]),
    type(...): ("e", lambda v: 0), type(NotImplemented): ("l", lambda v: 0),
    **{kind: (tag, list) for tag, kind in _DICT_VIEWS.items()},
}  # fmt: skip
_DECODED: dict[str, Callable[[Any], Any]] = {
    "i": lambda v: int(v, 16), "t": tuple, "s": set, "f": frozenset, "d": lambda v: {k: one for k, one in v},
    "b": lambda v: v.encode("latin-1"), "a": lambda v: bytearray(v.encode("latin-1")), "c": lambda v: complex(*v),
    "r": lambda v: range(*v), "e": lambda v: ..., "l": lambda v: NotImplemented, "k": lambda v: dict.fromkeys(v).keys(),
    "v": lambda v: dict(enumerate(v)).values(), "w": lambda v: dict(v).items(),
}  # fmt: skip
_LIBRARY: dict[str, Callable[[Any], Any]] = {
    "Decimal": lambda v: [str(v)], "Fraction": lambda v: [v.numerator, v.denominator], "UUID": lambda v: [str(v)],
    "date": lambda v: [v.year, v.month, v.day],
    "datetime": lambda v: [v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond, v.tzinfo, v.fold],
    "time": lambda v: [v.hour, v.minute, v.second, v.microsecond, v.tzinfo, v.fold],
    "timedelta": lambda v: [v.days, v.seconds, v.microseconds],
    "timezone": lambda v: [v.utcoffset(None)],
    "deque": lambda v: [list(v), v.maxlen], "Counter": lambda v: [dict(v)],
    "OrderedDict": lambda v: [[tuple(pair) for pair in v.items()]],
    "defaultdict": lambda v: [v.default_factory if isinstance(v.default_factory, type) else None, dict(v)],
}  # fmt: skip
_PLAIN: dict[type, Callable[[Any], Any]] = {
    bool: bool, int: int.__int__, float: float.__float__, str: str.__str__, 
    bytes: lambda v: bytes.__getitem__(v, slice(None)),
    list: lambda v: list(list.__iter__(v)), tuple: lambda v: tuple(tuple.__iter__(v)),
    set: lambda v: set(set.__iter__(v)), frozenset: lambda v: frozenset(frozenset.__iter__(v)),
}  # fmt: skip


def _from_library(module: str, name: str, arguments: list[Any]) -> Any:
    if name not in _LIBRARY or module not in ("decimal", "fractions", "datetime", "collections", "uuid"):
        raise ValueError(f"no value is a {module}.{name}")
    kind = named(module, name)
    if name in ("datetime", "time"):
        *parts, fold = arguments
        return kind(*parts, fold=fold)
    return kind(*arguments)


def named(module: str, name: str) -> Any:
    """A module of the standard library's, or something public in it."""
    from importlib import import_module

    if module.partition(".")[0] not in sys.stdlib_module_names and module != "builtins":
        raise ValueError(f"{module} is not of the standard library")
    found: Any = import_module(module)
    for part in filter(None, name.split(".")):
        if part.startswith("_"):
            raise ValueError(f"{module}.{name} is not public")
        found = getattr(found, part)
    return found


def _by_name(module: str, name: str) -> Any:
    """What the other end names: a module, function or class that can do no harm by being taken for a result, as
    unittest.mock.ANY could, which equals everything."""
    if module not in _NAMED:
        raise ValueError(f"{module} is nothing to be named here")
    found = named(module, name)
    if not isinstance(found, type | type(sys) | type(len) | type(named)):
        raise ValueError(f"{module}.{name} is no function, class or module")
    return found


def _mutable(value: Any) -> bool:
    return type(value) in (list, dict, set, bytearray) or type(value).__name__ == "deque"


def _refill(old: Any, new: Any) -> None:
    if type(old) is not type(new) or not _mutable(old):
        return
    if isinstance(old, list | bytearray):
        old[:] = new
        return
    old.clear()
    (old.extend if hasattr(old, "extend") else old.update)(new)
