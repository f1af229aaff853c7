"""Settings out of plain values: a dataclass rebuilt from what `dataclasses.asdict` and JSON made of it."""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pydistill._util.checks import fits, wanted
from pydistill.errors import InputError

Settings = TypeVar("Settings")


def settings_from_dict(kind: type[Settings], values: Any, where: str) -> Settings:
    """The settings of class `kind` that `values` describes; what is not named keeps its default.

    Strict: a whole number is taken where any number is wanted, a list where a tuple is, and nothing else is converted.

    Args:
        kind: a dataclass, whose fields may be dataclasses, numbers, texts, truth values, lists, tuples of one type,
            literals, and unions of these with None.
        values: nested mappings, lists and scalars, as `dataclasses.asdict` or a JSON file gives them.
        where: names the origin in messages.

    Raises:
        InputError: a setting does not exist, has the wrong kind, or is refused by its class.
    """
    try:
        return _dataclass(kind, values, "")
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


class _WrongKind(InputError):
    """A value of a kind that the setting does not take."""


def _dataclass(kind: type[Settings], values: Any, name: str) -> Settings:
    if not isinstance(values, Mapping):
        raise _WrongKind(f"{name or 'the settings'} must be settings by name, not {values!r:.80}")
    hints = get_type_hints(kind)
    known = [each.name for each in fields(kind)]  # type: ignore[arg-type]
    prefix = f"{name}." if name else ""
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            told = f"did you mean {prefix}{near[0]}?" if near else f"there are {', '.join(known)}"
            raise InputError(f"there is no setting {prefix}{key}; {told}")
    return kind(**{key: _value(hints[key], value, f"{prefix}{key}") for key, value in values.items()})


def _value(hint: Any, value: Any, name: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _of_union(arguments, value, name)
    if is_dataclass(hint):
        return _dataclass(hint, value, name)  # type: ignore[arg-type]
    if origin in (list, tuple) and isinstance(value, (list, tuple)):
        return origin(_value(arguments[0], each, f"{name}[{number}]") for number, each in enumerate(value))
    if not fits(value, hint):
        raise _WrongKind(f"{name} must be {wanted(hint)}, not {value!r:.80}")
    return _number(value) if hint is float else value


def _number(value: float) -> float:
    """A whole number too large for a real one is infinite, which the settings then refuse by their limits."""
    try:
        return float(value)
    except OverflowError:
        return math.copysign(math.inf, value > 0 or -1)


def _of_union(kinds: tuple[Any, ...], value: Any, name: str) -> Any:
    """The value as the first of the kinds that takes it; a mapping belongs to the one dataclass among them."""
    classes = [kind for kind in kinds if is_dataclass(kind)]
    if isinstance(value, Mapping) and len(classes) == 1:
        return _value(classes[0], value, name)
    for kind in kinds:
        try:
            return _value(kind, value, name)
        except _WrongKind:
            continue
    told = " or ".join(wanted(kind) for kind in kinds)
    raise _WrongKind(f"{name} must be {told}, not {value!r:.80}")
