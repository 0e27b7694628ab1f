"""Configuration: YAML with `key=value` overrides, checked against dataclasses; mistakes are named where they stand."""

from __future__ import annotations

import dataclasses
import difflib
import math
import reprlib
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from qwill.base.errors import ConfigError

T = TypeVar("T")


def load_yaml(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The mapping in a YAML file, with `a.b=value` overrides (values are YAML too) laid over it.

    Raises ConfigError naming file and line for a missing file, a syntax error, or a key given twice.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            name = str(key.value)
            if (key.tag, name) in seen:
                raise ConfigError(f"{path}: line {key.start_mark.line + 1} sets {name!r} a second time; keep one.")
            seen.add((key.tag, name))
        loader.flatten_mapping(node)  # after the check: what `<<` takes over may well be set again
        return loader.construct_mapping(node, deep=True)

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    try:
        data = Path(path).read_bytes()
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: line {line} is not UTF-8; save the file as UTF-8.") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML file.") from None
    try:
        value = yaml.load(text, Loader)
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigError(f"{path}: line {at} is not valid YAML ({error.problem}).") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid YAML ({str(error).splitlines()[0]}).") from None
    if not isinstance(value, dict):
        found = "is empty" if value is None else f"holds {_shown(value)}"
        raise ConfigError(f"{path}: {found}; expected settings as `key: value` lines.")
    for override in overrides:
        apply_override(value, override)
    return value


def apply_override(value: dict[str, Any], override: str) -> None:
    import yaml

    name, equals, text = override.partition("=")
    *parents, last = name.split(".")
    if not equals or not last or not all(parents):
        raise ConfigError(f"{override!r} is not an override; write it as section.setting=value.")
    for i, parent in enumerate(parents):
        if value.get(parent) is None:
            value[parent] = {}  # a section with nothing in it is one with every default
        inner = value[parent]
        if not isinstance(inner, dict):
            raise ConfigError(f"{override!r}: {'.'.join(parents[: i + 1])} is a value, not a section.")
        value = inner
    try:
        value[last] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(f"{override!r}: {text!r} is not a valid value.") from None


def nearest(name: str, known: Sequence[str]) -> str:
    """` did you mean X?`, or the whole choice when nothing is near."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"expected one of {', '.join(sorted(known))}."


def parse(cls: type[T], mapping: Any, where: str) -> T:
    """A mapping as a dataclass, strictly: unknown, missing and wrongly typed settings raise ConfigError.

    `where` names file and section in messages (`recipes/demo.yaml: pretrain`).
    """
    if mapping is None:
        mapping = {}
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{where} is {_shown(mapping)}; expected a section of settings.")
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in mapping:
        if key not in fields:
            raise ConfigError(f"{where}.{key} is not a setting; {nearest(str(key), list(fields))}")
    values = {}
    for name, f in fields.items():
        if name in mapping:
            values[name] = convert(hints[name], mapping[name], f"{where}.{name}")
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}.{name} is missing; it must be set ({_expected(hints[name])}).")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


# For settings that came after recipes with their section had been made: `field(default=…, metadata=LATER)`. While one
# stands at its default, `to_dict` leaves it out, so that those recipes keep their ids; the default is what they did.
LATER = {"later": True}
# For settings of how work is spread over a machine, which change no byte of the result: never in `to_dict`.
SPREAD = {"spread": True}


def need_positive(settings: Any, *names: str) -> None:
    """Raise ConfigError for the first of the named settings that is set and not above zero."""
    for name in names:
        if (value := getattr(settings, name)) is not None and value <= 0:
            raise ConfigError(f"{name} is {value}; expected more than 0.")


def need_share(settings: Any, *names: str) -> None:
    """Raise ConfigError for the first of the named settings that is below 0 or above 1."""
    for name in names:
        if not 0 <= (value := getattr(settings, name)) <= 1:
            raise ConfigError(f"{name} is {value:g}; expected a share from 0 to 1.")


def to_dict(value: Any) -> Any:
    """Plain JSON types of a configuration, every default included but those of LATER settings; none of SPREAD."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        given = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        out = {
            f.name
            for f in dataclasses.fields(value)
            if f.metadata.get("spread") or (f.metadata.get("later") and given[f.name] == f.default)
        }
        return {name: to_dict(v) for name, v in given.items() if name not in out}
    if isinstance(value, Mapping):
        return {str(k): to_dict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_dict(v) for v in value]
    if isinstance(value, frozenset):
        return sorted(map(to_dict, value))
    return str(value) if isinstance(value, Path) else value


def identity_of(config: Any) -> dict[str, Any]:
    """`to_dict`, and under `outside` what the configuration says of files that it names (its method `outside`)."""
    outside = config.outside() if hasattr(config, "outside") else None
    return to_dict(config) | ({"outside": outside} if outside else {})


def _shown(value: Any) -> str:
    if value is None:
        return "empty"
    names = {bool: "true/false", int: "a whole number", float: "a number", str: "text", list: "a list"}
    return f"{reprlib.repr(value)} ({names.get(type(value), type(value).__name__)})"


def _expected(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join("nothing" if a is type(None) else _expected(a) for a in arguments)
    if origin in (list, tuple, frozenset):
        return f"a list, each {_expected(arguments[0])}"
    if origin is dict or dataclasses.is_dataclass(hint):
        return "a section"
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(hint, str(hint))


def convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint`; raises ConfigError that begins with `where` when it is none."""
    origin, arguments = get_origin(hint), get_args(hint)
    wrong = ConfigError(f"{where} is {_shown(value)}; expected {_expected(hint)}.")
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        choices = [a for a in arguments if a is not type(None)]
        for choice in choices[:-1]:
            try:
                return convert(choice, value, where)
            except ConfigError:
                continue
        try:
            return convert(choices[-1], value, where)
        except ConfigError as error:
            raise (error if len(choices) == 1 else wrong) from None
    if dataclasses.is_dataclass(hint):
        return parse(hint, value, where)  # type: ignore[arg-type]
    if origin is Literal:
        # By type too: True == 1 == 1.0.
        if not any(value == a and type(value) is type(a) for a in arguments):
            raise wrong
        return value
    if origin in (list, tuple, frozenset):
        if not isinstance(value, list | tuple):
            raise wrong
        if origin is tuple and arguments[-1:] != (Ellipsis,):
            if len(value) != len(arguments):
                raise wrong
            return tuple(convert(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(arguments, value, strict=True)))
        return origin(convert(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise wrong
        return {
            convert(arguments[0], k, f"{where}: the key"): convert(arguments[1], v, f"{where}.{k}")
            for k, v in value.items()
        }
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        # Text as well: YAML 1.1 reads 1e-3 as text, and a person means a number.
        try:
            number = float(value)
        except (ValueError, OverflowError):
            raise wrong from None
        # NaN and infinity have no place in JSON, so no recipe id could be made of them.
        if not math.isfinite(number):
            raise wrong
        return number
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint in (int, str, bool) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise wrong
