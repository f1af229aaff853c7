"""Check function arguments that are not fields of a settings dataclass."""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Integral
from types import UnionType

import torch
from torch import Tensor

from pydistill._util.files import check_utf8
from pydistill.errors import InputError, SettingError

SEEDS_BELOW = 2**63


def check_tensor(name: str, value: object, allowed: str = "a tensor") -> None:
    """Raise SettingError unless `value` is a dense tensor, which can be differentiated unless gradients are off.

    The message says that it must be `allowed`.
    """
    if not isinstance(value, Tensor):
        sequence = isinstance(value, Sequence) or hasattr(value, "__array__")
        raise SettingError(name, value, allowed, "torch.as_tensor makes one" if sequence else "")
    if value.layout != torch.strided or value.is_nested:
        raise InputError(f"{name} must be a dense tensor, not a {'nested' if value.is_nested else 'sparse'} one")
    if value.is_inference() and torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
        raise InputError(f"{name} was made under torch.inference_mode, which excludes gradients; pass {name}.clone()")


def check_integer(name: str, value: object, at_least: int) -> None:
    """Raise SettingError unless `value` is an integer of at least `at_least`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < at_least:
        raise SettingError(name, value, f"an integer of at least {at_least}")


def check_seed(seed: object) -> None:
    """Raise SettingError unless `seed` is an integer in [0, 2^63)."""
    if not isinstance(seed, Integral) or isinstance(seed, bool) or not 0 <= int(seed) < SEEDS_BELOW:
        raise SettingError("seed", seed, "an integer of at least 0 and below 2^63")


def check_path(name: str, value: object) -> None:
    """Raise SettingError unless `value` is a non-empty string or os.PathLike, and InputError unless it is UTF-8."""
    if not isinstance(value, (str, os.PathLike)) or os.fspath(value) == "":
        raise SettingError(name, value, "the path of a file or a folder")
    check_utf8(value)


def check_generator(value: object) -> None:
    """Raise InputError unless `value` is a torch.Generator on the CPU."""
    if not isinstance(value, torch.Generator):
        hint = "torch.Generator().manual_seed(0) makes one"
        raise SettingError("generator", value, "a torch.Generator", hint)
    if value.device.type != "cpu":
        raise InputError(f"generator must be on the CPU, not on {value.device}, so that every device draws the same")


def check_instance(name: str, value: object, kind: type | UnionType, allowed: str) -> None:
    """Raise SettingError unless `value` is an instance of `kind`, which `allowed` describes for the message."""
    if not isinstance(value, kind):
        raise SettingError(name, value, allowed)
