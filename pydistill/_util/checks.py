"""Whether a value is of the kind that it must be: one sentence that names the argument where it is not."""

from __future__ import annotations

import os
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from pydistill.errors import InputError

_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    type(None): "None",
    list: "a list",
    tuple: "a list",
    dict: "a mapping",
}


def described(value: object) -> str:
    """A value in an error's words: numbers and texts themselves, of anything else its type."""
    if isinstance(value, (bool, int, float, str)) or value is None:
        return f"{value!r:.80}"
    return f"a {type(value).__name__}"


def check_tensor(name: str, value: object, what: str = "a tensor") -> None:
    """InputError unless `value` is a tensor.

    Args:
        what: what it must be, with its shape.
    """
    if not isinstance(value, Tensor):
        remedy = "; torch.as_tensor makes one" if isinstance(value, Sequence) or hasattr(value, "__array__") else ""
        raise InputError(f"{name} must be {what}, not {described(value)}{remedy}")


def check_whole(name: str, value: object, low: int) -> None:
    """InputError unless `value` is a whole number of at least `low`."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise InputError(f"{name} must be a whole number of at least {low}, not {described(value)}")
    if value < low:
        raise InputError(f"{name} must be at least {low}, not {value}")


def check_path(name: str, value: object) -> None:
    """InputError unless `value` is a path that is not empty: a text, or what os.fspath makes one of."""
    if not isinstance(value, (str, os.PathLike)):
        raise InputError(f"{name} must be the path of a file or a folder, not {described(value)}")
    if os.fspath(value) == "":
        raise InputError(f"{name} must name a folder or a file, not be empty")


def check_generator(value: object) -> None:
    """InputError unless `value` is a random generator on the CPU."""
    if not isinstance(value, torch.Generator):
        raise InputError(
            f"generator must be a torch.Generator, not {described(value)}; torch.Generator().manual_seed(0) makes one"
        )
    if value.device.type != "cpu":
        raise InputError(f"generator must be on the CPU, not on {value.device}, so that every device draws the same")


def check_instance(name: str, value: object, kind: type, what: str) -> None:
    """InputError unless `value` is of this class, in words `what`."""
    if not isinstance(value, kind):
        raise InputError(f"{name} must be {what}, not {described(value)}")


def check_fields(settings: Any) -> None:
    """InputError for the first field of a settings dataclass whose value is not of its annotated kind.

    A whole number may stand for a real one, any sequence for a list or tuple; numbers are never read from texts.
    NumPy's numbers become Python's own in the settings. Settings within settings have checked themselves when they were
    made.
    """
    hints = get_type_hints(type(settings))
    for field in fields(settings):
        value = getattr(settings, field.name)
        if not fits(value, hints[field.name]):
            raise InputError(f"{field.name} must be {wanted(hints[field.name])}, not {described(value)}")
        object.__setattr__(settings, field.name, plain(value))  # settings are frozen


def plain(value: Any) -> Any:
    """The value with Python's own numbers in place of others (NumPy's), and lists of any sequence: what JSON has."""
    if isinstance(value, (bool, str)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, Sequence):
        return tuple(map(plain, value)) if isinstance(value, tuple) else list(map(plain, value))
    return value


def fits(value: object, hint: Any) -> bool:
    """Whether a value is of an annotated kind: a class, a literal, a list or tuple of kinds, or a union of them."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, each) for each in get_args(hint))
    if origin is Literal:
        return any(value == each and type(value) is type(each) for each in get_args(hint))
    if origin in (list, tuple):
        return isinstance(value, Sequence) and not isinstance(value, str) and _items_fit(value, get_args(hint))
    if origin is dict or hint is dict:
        return isinstance(value, Mapping)
    if hint is float:
        return isinstance(value, Real) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    return isinstance(value, hint) if isinstance(hint, type) else True


def _items_fit(values: Sequence[object], kinds: tuple[Any, ...]) -> bool:
    if (len(kinds) == 2 and kinds[1] is Ellipsis) or len(kinds) == 1:
        return all(fits(value, kinds[0]) for value in values)
    return len(values) == len(kinds) and all(map(fits, values, kinds))


def wanted(hint: Any) -> str:
    """An annotated kind in words."""
    return " or ".join(dict.fromkeys(_words(hint)))


def _words(hint: Any) -> list[str]:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return [word for each in get_args(hint) for word in _words(each)]
    if origin is Literal:
        return [f"one of {', '.join(map(str, get_args(hint)))}"]
    if is_dataclass(hint) and isinstance(hint, type):
        return [f"a {hint.__name__}"]
    if origin in (list, tuple) and get_args(hint):
        return [f"a list of which each is {wanted(get_args(hint)[0])}"]
    return [_WORDS.get(origin or hint, f"a {getattr(hint, '__name__', hint)}")]
