"""Settings dataclasses: one field declares a setting's type, default, limits and one line of help.

    @dataclass(frozen=True)
    class TrainingSettings(Settings):
        epochs: int = setting(50, "passes over the data", at_least=1)

The constructor checks every field, so invalid instances do not exist. `from_dict` makes instances of files, flags and
stored settings; the command line and its help are derived from `described_settings`.
"""

from __future__ import annotations

import math
import operator
import os
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydistill.errors import PydistillError, SettingError, UnknownSettingError

_LIMITS = {
    "at_least": (operator.ge, "of at least {}"),
    "above": (operator.gt, "above {}"),
    "at_most": (operator.le, "at most {}"),
    "below": (operator.lt, "below {}"),
}
_KEYWORDS = {"model.name": "model", "resume": "resume=True", "trust": "trust=True"}
_NAMES = {int: "an integer", float: "a finite number", str: "text", bool: "true or false", type(None): "null"}


def setting(
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    usually_at_most: int | None = None,
) -> Any:
    """Declare a field of a settings dataclass.

    Args:
        default: a value; an instance of a settings dataclass is allowed, as these are immutable.
        help: one line, shown by --help.
        at_least, above, at_most, below: limits of a number.
        usually_at_most: a limit against typing errors, which PYDISTILL_NO_LIMITS=1 in the environment lifts.
    """
    bounds = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    limits = {name: limit for name, limit in bounds.items() if limit is not None}
    return field(default=default, metadata={"help": help, "limits": limits, "usually_at_most": usually_at_most})


class Settings:
    """Base of the settings dataclasses; the constructor checks and normalises every field.

    Fields are int, float (finite; integers become floats), bool, str, Literal, lists and tuples of one of these,
    other settings dataclasses, and unions of them with None. NumPy's numbers become Python's, paths text.

    Raises:
        SettingError: a value has the wrong type or is outside its limits.
    """

    def __post_init__(self) -> None:
        types_by_name = _types_of(type(self))
        for item in fields(self):  # type: ignore[arg-type]
            value, limits = getattr(self, item.name), item.metadata.get("limits", {})
            try:
                value = _within(_converted(value, types_by_name[item.name]), limits)
            except (TypeError, OverflowError):
                raise SettingError(item.name, value, _allowed(types_by_name[item.name], limits)) from None
            usual = item.metadata.get("usually_at_most")
            if usual is not None and value > usual and os.environ.get("PYDISTILL_NO_LIMITS") != "1":
                hint = "PYDISTILL_NO_LIMITS=1 in the environment lifts this limit"
                raise SettingError(item.name, value, f"at most {usual:,}", hint)
            object.__setattr__(self, item.name, value)  # settings are frozen
        self._check()

    def _check(self) -> None:
        """Check constraints between settings; a subclass raises SettingError."""


S = TypeVar("S", bound=Settings)


def from_dict(kind: type[S], values: Any, *, base: S | None = None, source: str = "") -> S:
    """Make settings from nested mappings, lists and scalars, as YAML, JSON or `dataclasses.asdict` give them.

    Args:
        kind: the settings dataclass.
        values: by name; settings that are not named have their defaults, also in nested groups.
        base: where the defaults come from; the class's own by default.
        source: the origin of the values, which begins error messages.

    Raises:
        SettingError: a setting does not exist, has the wrong type or is outside its limits.
    """
    try:
        return _made(kind, values, base)
    except SettingError as error:
        error.source = source
        raise


def _made(kind: type[S], values: Any, base: S | None) -> S:
    if not isinstance(values, Mapping):
        raise SettingError("", values, "a mapping of names to values")
    fields_by_name = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    chosen = {}
    for name, value in values.items():
        if name not in fields_by_name:
            raise UnknownSettingError(str(name), fields_by_name)
        nested = _nested_settings(_types_of(kind)[name])
        if nested is not None and isinstance(value, Mapping):
            default = fields_by_name[name].default if base is None else getattr(base, name)
            with in_group(name):
                value = _made(nested, value, default if isinstance(default, nested) else None)
        chosen[name] = value
    return kind(**chosen) if base is None else replace(base, **chosen)  # type: ignore[type-var]


@contextmanager
def in_group(name: str) -> Iterator[None]:
    """Raise a SettingError of this context again with the group's name before the setting's."""
    try:
        yield
    except SettingError as error:
        error.setting = f"{name}.{error.setting}" if error.setting else name
        raise


@contextmanager
def as_keywords() -> Iterator[None]:
    """Let errors from this context write settings as the keywords of Python's calls: distill.steps as steps."""
    try:
        yield
    except PydistillError as error:
        if not getattr(error, "source", ""):  # a file has dotted names
            error.spell = keyword_of
        raise


def keyword_of(setting: str) -> str:
    """Write a setting as the keyword of Python's calls."""
    if setting in _KEYWORDS:
        return _KEYWORDS[setting]
    group, _, name = setting.partition(".")
    return (name if group in ("data", "model", "expert", "distill") and name else setting).replace("training.", "")


@dataclass(frozen=True)
class Described:
    """One setting, as the command line and its help need it.

    Attributes:
        name: dotted.
        help: one line.
        allowed: its type and limits in words.
        default: its default value.
        textual: whether a string is a valid value without conversion.
    """

    name: str
    help: str
    allowed: str
    default: Any
    textual: bool


def described_settings(settings: Settings | type[Settings], prefix: str = "") -> Iterator[Described]:
    """Describe every setting of a class, or of an instance, whose values are the defaults; nested groups included."""
    kind = settings if isinstance(settings, type) else type(settings)
    for item in fields(kind):  # type: ignore[arg-type]
        hint, name = _types_of(kind)[item.name], f"{prefix}{item.name}"
        default = item.default if isinstance(settings, type) else getattr(settings, item.name)
        nested = _nested_settings(hint)
        if hint is not nested:
            textual = any(option is str or get_origin(option) is Literal for option in _options(hint))
            allowed = _allowed(hint, item.metadata.get("limits", {}))
            yield Described(name, item.metadata.get("help", ""), allowed, default, textual)
        if nested is not None:
            yield from described_settings(default if isinstance(default, nested) else nested, f"{name}.")


def _nested_settings(hint: Any) -> type[Any] | None:
    """Return the settings dataclass that an annotation allows, alone or in a union; None if there is none."""
    return next((option for option in _options(hint) if isinstance(option, type) and is_dataclass(option)), None)


_types_of: Callable[[Any], dict[str, Any]] = cache(get_type_hints)
"""The annotations of a settings class, evaluated."""


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _converted(value: Any, hint: Any) -> Any:
    """Convert a value to the annotated type; raises TypeError if it does not fit."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        for option in arguments:
            with suppress(TypeError):
                return _converted(value, option)
    elif origin is Literal and isinstance(value, str) and value in arguments:
        return value
    elif origin in (list, tuple) and isinstance(value, Sequence) and not isinstance(value, str):
        return origin(_converted(item, arguments[0]) for item in value)
    elif hint in (int, float):
        if isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool):
            return hint(value)
    elif isinstance(hint, type) and origin is None and isinstance(value, hint):
        return value
    elif hint is str and isinstance(value, os.PathLike) and isinstance(path := os.fspath(value), str):
        return path
    raise TypeError


def _within(value: Any, limits: Mapping[str, float]) -> Any:
    """Return the value; raises OverflowError for a number that is not finite or outside the limits."""
    if isinstance(value, float) and not math.isfinite(value):
        raise OverflowError
    if isinstance(value, (int, float)) and not all(_LIMITS[name][0](value, limit) for name, limit in limits.items()):
        raise OverflowError
    return value


def _allowed(hint: Any, limits: Mapping[str, float]) -> str:
    """Describe the type and limits of a setting in words, such as "a number of at least 0 and below 1 or null"."""
    bounds = " and ".join(_LIMITS[name][1].format(_number(limit)) for name, limit in limits.items())
    words: list[str] = []
    for option in _options(hint):
        if get_origin(option) is Literal:
            words += get_args(option)
        elif get_origin(option) in (list, tuple):
            words.append("a list such as [a, b]" if get_args(option)[0] is str else "a list such as [1, 2]")
        elif option in (int, float) and bounds:
            words.append(f"{_NAMES[option]} {bounds}")
        elif is_dataclass(option):
            words.append(f"settings by name such as {{{fields(option)[0].name}: …}}")
        else:
            words.append(_NAMES[option])
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _number(limit: float) -> str:
    return f"2^{int(limit).bit_length() - 1}" if limit >= 2**32 else f"{limit:g}"
