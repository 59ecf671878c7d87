"""YAML or JSON to frozen dataclasses by pydantic: every value is checked, an unknown key is an error that names it.

Types are strict: `"3"` is no int and `true` is none either, but an int is taken for a float and a list for a tuple.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import importlib.util
import json
import os
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import yaml

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails
    from pydantic_core import ValidationError as PydanticError

T = TypeVar("T")

CONFIGS = Path(str(importlib.resources.files("gamegen"))) / "configs"
"""Shipped settings: a folder for each of `CONFIG_KINDS`, in it a YAML file for each name."""
CONFIG_KINDS = {
    "models": "model config",
    "stages": "training stage",
    "bursts": "training plan",
    "serve": "server settings",
}
"""Names in error messages for the files in each folder of `CONFIGS`."""

_CHECKS = importlib.util.find_spec("pydantic") is not None
"""False on a machine that only trains from packed shards, whose settings were checked when they were packed."""
_TYPES = {
    "bool_type": "bool",
    "dict_type": "a mapping",
    "float_type": "float",
    "int_type": "int",
    "list_type": "a list",
    "string_type": "str",
    "tuple_type": "a list",
}
"""The expected type by pydantic's name of the error."""
_LIMITS = {
    "greater_than": "must be above",
    "greater_than_equal": "must be at least",
    "less_than": "must be below",
    "less_than_equal": "must be at most",
}
"""The words for a limit by pydantic's name of the error."""


def load_yaml(cls: type[T], path: Path) -> T:
    """Builds the dataclass `cls` from a YAML file.

    Raises ValueError naming the file and the key: unknown, missing or with a value of the wrong type.
    """
    return build(cls, read_yaml(path, cls.__name__), str(path))


def config_names(kind: str) -> list[str]:
    """The names of the shipped settings of one of `CONFIG_KINDS`, in alphabetical order.

    Raises ValueError if there are none, as in an installation that is not whole.
    """
    names = sorted(file.stem for file in (CONFIGS / kind).glob("*.yaml"))
    if not names:
        raise ValueError(
            f"{CONFIGS / kind} has no {CONFIG_KINDS[kind]} at all: install GameGen again, or name a YAML file"
        )
    return names


def config_file(kind: str, name: str) -> Path:
    """The YAML file of a shipped name (`stages`, `vae`), or of a path; raises ValueError for neither.

    Whatever ends in .yaml or .yml, or names a folder, is a path.
    """
    is_path = name.endswith((".yaml", ".yml")) or os.sep in name
    file = Path(name) if is_path else CONFIGS / kind / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(config_names(kind))
        raise ValueError(f"no {CONFIG_KINDS[kind]} {name!r}: use one of {known}, or a YAML file")
    return file


def read_yaml(path: Path, expected: str) -> dict[str, Any]:
    """The mapping in a YAML file, empty for an empty file; raises ValueError for anything else.

    `expected` names in errors what the mapping describes.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected a mapping for {expected}, got {data!r}")
    return data


def build(cls: type[T], data: dict[str, Any], where: str) -> T:
    """Builds the dataclass `cls` from nested dicts; `where` names the source in errors.

    Raises ValueError for an unknown or missing key, a value of another type than its field's, and whatever the
    dataclass itself refuses.
    """
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected a mapping for {cls.__name__}, got {data!r}")
    if not _CHECKS:
        unchecked: T = _unchecked(cls, data)
        return unchecked
    from pydantic import ValidationError

    try:
        # As JSON: pydantic is strict about values there, yet takes lists for tuples and mappings for dataclasses.
        text = json.dumps(data, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where}: {error.object[error.start]!r} is not valid Unicode: write it again"
        ) from error
    try:
        # A cache takes only what mypy knows to be hashable, which type[T] is not.
        config: T = _adapter(typing.cast(type, cls)).validate_json(text)
        return config
    except ValidationError as error:
        raise ValueError(where + _message(cls, error)) from error


def to_dict(config: Any) -> dict[str, Any]:
    """A config dataclass as plain nested dicts and lists, ready for YAML or JSON."""
    return dataclasses.asdict(config)


def _unchecked(hint: Any, value: Any) -> Any:
    """Nested dicts and lists as the dataclasses and tuples of a type, without a look at their values."""
    hint = _without_none(hint)
    if value is None:
        return None
    if dataclasses.is_dataclass(hint):
        hints = _type_hints(hint)  # type: ignore[arg-type]
        fields = {name: _unchecked(hints[name], part) for name, part in value.items()}
        return hint(**fields)  # type: ignore[operator]
    if typing.get_origin(hint) is tuple:
        args = typing.get_args(hint)
        args = args[:1] * len(value) if args[-1] is Ellipsis else args
        return tuple(_unchecked(arg, part) for arg, part in zip(args, value, strict=True))
    return float(value) if hint is float else value


@functools.cache
def _adapter(cls: type) -> TypeAdapter[Any]:
    from pydantic import ConfigDict, TypeAdapter

    # A dataclass alone would take no config from here; as an arm of a union it does.
    config = ConfigDict(strict=True, extra="forbid")
    return TypeAdapter(typing.Optional[cls], config=config)  # type: ignore[arg-type]  # noqa: UP045


@functools.cache
def _type_hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _message(cls: type, error: PydanticError) -> str:
    """The first problem and its place, such as `: inner: sizes[0] = 7: expected a list`."""
    problems = error.errors(include_url=False)
    # A misspelt key is one that is unknown and one that is missing: the first says more.
    problem = min(problems, key=lambda each: each["type"] != "unexpected_keyword_argument")
    kind, loc, value = problem["type"], problem["loc"], problem["input"]
    parent = _walk(cls, loc[:-1])
    if kind == "unexpected_keyword_argument":
        known = ", ".join(sorted(field.name for field in dataclasses.fields(parent.hint)))
        return f"{parent.text}: unknown key {loc[-1]!r}; known keys: {known}"
    if kind == "missing" and isinstance(loc[-1], str):
        return f"{parent.text}: missing key {loc[-1]!r}"
    if kind == "missing":
        return f"{parent.text} = {value!r}: expected {len(typing.get_args(parent.hint))} values"
    at = _walk(cls, loc)
    if kind == "value_error":
        return f"{at.text}: {problem['ctx']['error']}"
    if kind == "dataclass_type" and not at.is_arm:
        return f"{at.text}: {_wanted(at.hint, problem)}, got {value!r}"
    # Every arm of a union has a problem of its own.
    arms = [each for each in problems if each["loc"][:-1] == loc[:-1]] if at.is_arm else [problem]
    wanted = " or ".join(_wanted(_walk(cls, each["loc"]).hint, each) for each in arms)
    return f"{at.text} = {value!r}: {wanted}"


def _wanted(hint: Any, problem: ErrorDetails) -> str:
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "dataclass_type":
        return f"expected a mapping for {hint.__name__}"
    if kind == "literal_error":
        return f"expected one of {context['expected']}"
    if kind == "too_long":
        return f"expected {context['max_length']} values"
    if kind in _TYPES:
        return f"expected {_TYPES[kind]}"
    if kind in _LIMITS:
        (limit,) = context.values()
        return f"{_LIMITS[kind]} {limit}"
    return problem["msg"].removeprefix("Input should be ")


class _Place(NamedTuple):
    """A value's place in words, its type, and whether that type is an arm of a union."""

    text: str
    hint: Any
    is_arm: bool = False


def _walk(cls: type, loc: Sequence[int | str]) -> _Place:
    """The place that pydantic calls `loc`: names of fields, indices, keys, and of unions the arm that was tried."""
    place = _Place("", cls)
    for step in loc:
        place = _step(place, step)
    return place


def _step(place: _Place, step: int | str) -> _Place:
    hint, args = place.hint, typing.get_args(place.hint)
    if dataclasses.is_dataclass(hint):
        return _Place(f"{place.text}: {step}", _without_none(_type_hints(hint)[str(step)]))  # type: ignore[arg-type]
    if _is_union(hint):
        arm = next((arm for arm in args if getattr(arm, "__name__", None) == step), None)
        return _Place(place.text, arm, is_arm=True)
    if isinstance(step, int):
        return _Place(
            f"{place.text}[{step}]", _without_none(args[0 if args[-1] is Ellipsis else step % len(args)])
        )
    return _Place(f"{place.text}.{step}", _without_none(args[-1]) if args else None)


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _without_none(hint: Any) -> Any:
    """The type without None: pydantic does not name the arm of a union that has only one other."""
    if not _is_union(hint):
        return hint
    arms = [arm for arm in typing.get_args(hint) if arm is not type(None)]
    return arms[0] if len(arms) == 1 else hint
