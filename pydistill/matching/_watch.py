"""Watch the operations of a student: refuse parameters reached past its modules, and make attention differentiable."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from pydistill.errors import InputError

_log = logging.getLogger("pydistill")

_DATA = torch.Tensor.data.__get__  # type: ignore[attr-defined]


class Watch(TorchFunctionMode):
    """Refuses the parameters of the caller's module, and takes attention's differentiable path."""

    def __init__(self, network: str, originals: dict[int, tuple[str, Tensor]]) -> None:
        super().__init__()
        self._network = network
        self._originals = originals

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for value in (*args, *kwargs.values()):
            for item in value if isinstance(value, (list, tuple)) else (value,):
                if id(item) in self._originals:
                    name, _ = self._originals[id(item)]
                    raise InputError(
                        f"{self._network} reaches '{name}' past its modules, through a closure or an "
                        "object that is not a module, so it cannot be replaced by the student's; "
                        "reach it as an attribute of a submodule"
                    )
        if func in (F.scaled_dot_product_attention, F.multi_head_attention_forward):
            announce_math_attention(self._network)
            with _math_attention():
                return func(*args, **kwargs)
        if func == _DATA:  # the same values, but writing to them is noticed
            return args[0].detach()
        return func(*args, **kwargs)


class _MathAttention:
    """Makes PyTorch's attention run on its math path, which alone has a second derivative.

    The switch is the process's: the first thread to enter sets it, the last to leave restores it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._switch: Any = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._switch = sdpa_kernel(SDPBackend.MATH)
                self._switch.__enter__()
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._switch.__exit__(None, None, None)


_math_attention = _MathAttention()


@lru_cache
def announce_math_attention(network: str) -> None:
    _log.info(
        "attention of the student %s runs on PyTorch's math path: its faster ones have no second derivative", network
    )
