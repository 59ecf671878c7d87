"""YAML to frozen dataclasses: every value is checked on load, an unknown key is an error that names it."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")


def load_yaml(cls: type[T], path: Path) -> T:
    """Builds the dataclass `cls` from a YAML file.

    Raises ValueError naming the file and the key: unknown, missing or with a value of the wrong type.
    """
    try:
        data = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {error}") from error
    return build(cls, data or {}, str(path))


def build(cls: type[T], data: dict[str, Any], where: str) -> T:
    """Builds the dataclass `cls` from nested dicts; `where` names the source in errors."""
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected a mapping for {cls.__name__}, got {data!r}")
    hints = _type_hints(cls)  # type: ignore[arg-type]
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; known keys: {', '.join(sorted(known))}")
    missing = [
        f.name
        for f in known.values()
        if f.name not in data
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{where}: missing key {missing[0]!r}")
    values = {name: _convert(hints[name], value, f"{where}: {name}") for name, value in data.items()}
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


@functools.cache
def _type_hints(cls: type) -> dict[str, Any]:
    # Looking them up takes far longer than a small object's checks, of which a session log has thousands.
    return typing.get_type_hints(cls)


def to_dict(config: Any) -> dict[str, Any]:
    """A config dataclass as plain nested dicts and lists, ready for YAML or JSON."""
    return dataclasses.asdict(config)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where)  # type: ignore[arg-type]
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in typing.get_args(hint):
            return None
        return _convert(next(a for a in typing.get_args(hint) if a is not type(None)), value, where)
    if origin is typing.Literal:
        if value not in typing.get_args(hint):
            raise ValueError(f"{where} = {value!r}: expected one of {typing.get_args(hint)}")
        return value
    if origin in (tuple, list):
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where} = {value!r}: expected a list")
        args = typing.get_args(hint)
        if origin is tuple and args[-1] is not Ellipsis:
            if len(value) != len(args):
                raise ValueError(f"{where} = {value!r}: expected {len(args)} values")
            return tuple(
                _convert(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(args, value, strict=True))
            )
        return origin(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        return {k: _convert(typing.get_args(hint)[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ValueError(f"{where} = {value!r}: expected {hint.__name__}")
    return value
