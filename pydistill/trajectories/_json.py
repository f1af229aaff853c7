"""Build dataclasses from JSON and check every value against its annotation."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from itertools import repeat
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydistill.errors import FormatError, InputError

_Kind = TypeVar("_Kind")


def from_json(kind: type[_Kind], value: Any, where: str) -> _Kind:
    """Build the dataclass `kind` from a JSON object; entries that are not its fields are ignored.

    Annotations may be int, float, str, Any, dataclasses, and lists, tuples and dicts of these. Raises FormatError for a
    field that is missing, has another type, or is refused by the class; its message begins with `where`.
    """
    if not isinstance(value, dict):
        raise FormatError(f"{where} is not a JSON object")
    hints = get_type_hints(kind)
    values = {}
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name in value:
            values[field.name] = _converted(hints[field.name], value[field.name], f"{where}: '{field.name}'")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise FormatError(f"{where}: '{field.name}' is missing")
    try:
        return kind(**values)
    except InputError as error:
        raise FormatError(f"{where}: {error}") from error


def _converted(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if is_dataclass(hint) and isinstance(hint, type):
        return from_json(hint, value, where)
    if origin is dict and isinstance(value, dict):
        return {name: _converted(arguments[1], item, where) for name, item in value.items()}
    if origin in (list, tuple) and isinstance(value, list):
        fixed = origin is tuple and arguments[-1] is not Ellipsis
        if not fixed or len(arguments) == len(value):
            kinds = arguments if fixed else repeat(arguments[0])
            return origin(_converted(item_hint, item, where) for item_hint, item in zip(kinds, value, strict=fixed))
    if hint is float and type(value) in (int, float):
        try:
            return float(value)
        except OverflowError as error:
            raise FormatError(f"{where} is too large a number") from error
    if type(value) is hint:
        return value
    raise FormatError(f"{where} is not of type {hint.__name__ if isinstance(hint, type) else hint}")
