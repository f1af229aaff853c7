"""Copy a module so that it computes with other parameters, and leave the original as it is."""

from __future__ import annotations

import functools
import types
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from copy import copy as shallow_copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pydistill.errors import InputError

_IMMUTABLE = frozenset((bool, int, float, str, type(None)))
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_PLAIN = frozenset((list, set, dict, OrderedDict))
_Copy = TypeVar("_Copy")


def rebound(model: nn.Module, parameters: Iterable[tuple[Tensor, Tensor]], *, own_tensors: bool) -> nn.Module:
    """Return a copy of the module tree in which other tensors take the place of the parameters.

    Modules are copied with their attributes: lists, tuples, dictionaries, sets, functions with a closure, partial
    functions and bound methods that refer to modules or parameters refer to the copies. Other objects are shared with
    the original. A compiled module is copied without its compiled code.

    Args:
        parameters: pairs (parameter of `model`, tensor in its place), tied ones once.
        own_tensors: copy all other tensors (buffers, attributes); else share them.

    Raises:
        InputError: a tensor that is to be copied is a view of a parameter, so that the copy would not follow it.
    """
    copy: nn.Module = _Copier({id(old): (old, new) for old, new in parameters}, own_tensors).of(model)
    return copy


class _Copier:
    def __init__(self, replaced: Mapping[int, tuple[Any, Any]], own_tensors: bool) -> None:
        self._copies = dict(replaced)  # original and copy, by the original's id: the original must stay alive
        self._own_tensors = own_tensors
        self._ranges = [(old, _range(old)) for old, _ in replaced.values()] if own_tensors else []

    def of(self, value: Any) -> Any:
        if type(value) in _IMMUTABLE:
            return value
        if id(value) in self._copies:
            return self._copies[id(value)][1]
        if isinstance(value, nn.Module):
            return self._of_module(value)
        if isinstance(value, Tensor):
            return self._remember(value, self._own(value) if self._own_tensors else value)
        if isinstance(value, (list, set, dict)):
            return self._of_container(value)
        if type(value) is tuple or (isinstance(value, tuple) and hasattr(value, "_fields")):
            items = [self.of(item) for item in value]
            return tuple(items) if type(value) is tuple else type(value)(*items)
        if type(value) is functools.partial:
            return functools.partial(self.of(value.func), *self.of(value.args), **self.of(value.keywords))
        if isinstance(value, types.MethodType) and isinstance(value.__self__, nn.Module):
            return types.MethodType(value.__func__, self.of(value.__self__))
        if type(value) is types.FunctionType and value.__closure__:
            return self._of_closure(value)
        return value

    def _own(self, tensor: Tensor) -> Tensor:
        start, end = _range(tensor)
        for parameter, (first, last) in self._ranges:
            if start < last and first < end and tensor.device == parameter.device:
                raise InputError(
                    f"the module stores a view {list(tensor.shape)} of its parameter {list(parameter.shape)}, which "
                    "would not follow the student's parameter; take the view in forward"
                )
        return tensor.detach().clone()

    def _of_module(self, module: nn.Module) -> nn.Module:
        if type(module).__name__ == "OptimizedModule" and isinstance(module._modules.get("_orig_mod"), nn.Module):
            uncompiled: nn.Module = self.of(module._modules["_orig_mod"])
            return self._remember(module, uncompiled)
        copy: nn.Module = self._remember(module, object.__new__(type(module)))
        attributes = copy.__dict__
        for name, value in vars(module).items():
            if name in _OF_EVERY_MODULE and not value:
                attributes[name] = value if value is None or value is False else type(value)()
            else:
                attributes[name] = self.of(value)
        attributes["_compiled_call_impl"] = None
        return copy

    def _of_container(self, value: Any) -> Any:
        copy = self._remember(value, value.copy() if type(value) in _PLAIN else shallow_copy(value))
        if isinstance(value, list):
            copy[:] = [self.of(item) for item in value]
        elif isinstance(value, set):
            copy.clear()
            copy.update(self.of(item) for item in value)
        else:
            copy.clear()
            copy.update((self.of(key), self.of(item)) for key, item in value.items())
        return copy

    def _of_closure(self, function: types.FunctionType) -> types.FunctionType:
        """Copy a function that refers to a module, a tensor or another function of its surroundings."""
        old = function.__closure__ or ()
        copied = [isinstance(_content(cell), (nn.Module, Tensor, types.FunctionType, types.MethodType)) for cell in old]
        if not any(copied):
            return function
        new = tuple(types.CellType() if is_copied else cell for cell, is_copied in zip(old, copied, strict=True))
        copy = types.FunctionType(
            function.__code__, function.__globals__, function.__name__, function.__defaults__, new
        )
        copy.__kwdefaults__ = function.__kwdefaults__
        self._remember(function, copy)  # before its cells are filled: it may refer to itself
        for cell, original, is_copied in zip(new, old, copied, strict=True):
            if is_copied:
                cell.cell_contents = self.of(original.cell_contents)
        return copy

    def _remember(self, original: Any, copy: _Copy) -> _Copy:
        self._copies[id(original)] = original, copy
        return copy


def _range(tensor: Tensor) -> tuple[int, int]:
    """Return the addresses from the first element of a tensor to behind its last; (0, 0) if it has none."""
    has_addresses = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided and not tensor.is_meta
    if not has_addresses or not tensor.numel():
        return 0, 0
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that is not assigned yet
        return None
