"""The C++ engine's students (`csrc/engine/student.h`): which networks it runs, and one made for a network.

The engine runs the networks of the papers over fused kernels, on a flat parameter vector: `gradient(theta, images,
labels)` is (∇ℓ [P], each image's share of the mean loss [B], logits [B, K]), `classify(theta, images)` the logits.
"""

from __future__ import annotations

import atexit
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from pydistill.errors import InputError
from pydistill.nn.convnet import ConvNet
from pydistill.nn.flat import ParameterLayout, layout_of
from pydistill.nn.layers import halved, padded
from pydistill.nn.mlp import MLP
from pydistill.ops.extension import load_extension

if TYPE_CHECKING:
    from pydistill import _C

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_STUDENTS_KEPT = 4
PROGRAMS_KEPT = 4


def why_not_fused(model: nn.Module, like: Tensor) -> str | None:
    """Return why the fused engine cannot run this model on the device of `like`, or None if it can."""
    device_type = like.device.type
    extension = load_extension()
    if device_type not in extension.device_types:
        return extension.reason or f"the extension has no kernels for {device_type}"
    if torch.is_autocast_enabled(device_type):
        return "it does not follow autocast"
    return why_not_a_student(model)


def why_not_a_student(model: nn.Module) -> str | None:
    """Return why the engine does not know this network, or None if it does."""
    if type(model) not in (ConvNet, MLP):  # a subclass may compute something else
        return f"it runs pydistill.nn.ConvNet and MLP, not {type(model).__name__}"
    assert isinstance(model, (ConvNet, MLP))
    if model.activation != "relu":
        return f"it knows the activation relu, not {model.activation}"
    if isinstance(model, ConvNet) and model.norm not in ("instance", "none"):
        return f"it knows the norms instance and none, not {model.norm}"
    if _was_changed(model):
        return f"this {type(model).__name__} was changed after it was made"
    if has_hooks(model):
        return f"this {type(model).__name__} has hooks, which it would not call"
    return None


def has_hooks(model: nn.Module) -> bool:
    """Return True if a module of the model has hooks."""
    everywhere = torch.nn.modules.module  # where hooks on all modules are kept
    return any(getattr(everywhere, f"_global{hooks}") for hooks in HOOKS) or any(
        getattr(module, hooks) for module in model.modules() for hooks in HOOKS
    )


def _was_changed(model: ConvNet | MLP) -> bool:
    """Return True if a layer, its settings, its parameters or its forward differ from those at construction."""
    if any("forward" in vars(module) for module in model.modules()):
        return True
    settings: tuple[Any, ...] = (model.in_channels, model.num_classes, model.image_size, model.width, model.depth)
    if isinstance(model, ConvNet):
        settings += (model.norm, model.activation, model.pooling, model.first_padding)
    return (repr(model), layout_of(model)) != _as_made(isinstance(model, ConvNet), *settings)


@lru_cache(maxsize=16)
def _as_made(convolutional: bool, *settings: Any) -> tuple[str, ParameterLayout]:
    """Describe the layers and the parameters of a new network with these settings."""
    with torch.device("meta"):  # no memory and no random numbers
        model = ConvNet(*settings) if convolutional else MLP(*settings)
    return repr(model), layout_of(model)


def _features(model: ConvNet, plane: tuple[int, int]) -> tuple[int, int]:
    """Return the plane that the blocks leave of images of this plane."""
    for block in range(model.depth):
        plane = padded(plane, 3, model.first_padding if block == 0 else 1)
        if model.pooling != "none":
            plane = halved(plane)
    return plane


def architecture_of(model: nn.Module, images: Sequence[int]) -> _C.Architecture:
    """Describe this network to the engine, on images [B, C, H, W] of any B.

    Raises:
        InputError: the network does not take such images.
    """
    from pydistill import _C

    assert isinstance(model, (ConvNet, MLP))
    channels, *plane = images[1:]
    if isinstance(model, MLP):  # it knows the number of pixels, not their places
        fits = prod(images[1:]) == model.in_channels * prod(model.image_size)
    else:
        fits = len(plane) == 2 and channels == model.in_channels
        fits = fits and _features(model, (plane[0], plane[1])) == _features(model, model.image_size)
    if not fits:
        raise InputError(
            f"{type(model).__name__} cannot run on images of shape {list(images)}: "
            f"it was made for [B, {model.in_channels}, {model.image_size[0]}, {model.image_size[1]}]"
        )
    norm, pooling, eps, first_padding = "none", "none", 0.0, 0
    if isinstance(model, ConvNet):
        norm, pooling, first_padding = model.norm, model.pooling, model.first_padding
        eps = next((module.eps for module in model.features if isinstance(module, nn.GroupNorm)), 0.0)
    height, width = plane
    return _C.Architecture(
        kind="convnet" if isinstance(model, ConvNet) else "mlp",
        channels=channels,
        height=height,
        width=width,
        classes=model.num_classes,
        units=model.width,
        depth=model.depth,
        norm=norm,
        pooling=pooling,
        eps=eps,
        first_padding=first_padding,
    )


def where(like: Tensor) -> tuple[Any, ...]:
    """Return the dtype, the device and the stream in which work on such a tensor is done.

    On a GPU each stream has its own students, since the memory of one's passes is ordered by its stream alone.
    """
    stream = torch.cuda.current_stream(like.device).cuda_stream if like.device.type == "cuda" else 0
    return like.dtype, like.device, stream


def fused_student(model: nn.Module, images: Sequence[int], like: Tensor) -> _C.Student:
    """Return the engine's student for a network, batches of up to `images` [B, C, H, W], dtype and device of `like`.

    It owns the memory of its passes, so the last few are kept and used again: one that is kept for batches of at least
    that size, or a new one in its place.

    Raises:
        InputError: the network does not take such images.
    """
    from pydistill import _C

    architecture = architecture_of(model, images)
    key = (architecture, *where(like))
    cached = None if being_recorded(like) else _students.take(key)
    if cached is None or cached[0] < images[0]:
        cached = images[0], _C.Student(architecture, like=like, largest_batch=images[0])
    if not being_recorded(like):
        _students.keep(key, cached)
    return cached[1]


def being_recorded(like: Tensor) -> bool:
    """Return True if work on such a tensor is recorded in a CUDA graph of the caller's.

    What is made then has its values only when the graph runs, so it is not stored for later; and what is stored may be
    freed before the graph is, so it is not used.
    """
    if like.device.type != "cuda":
        return False
    with torch.cuda.device(like.device):
        return torch.cuda.is_current_stream_capturing()


_Item = TypeVar("_Item")


class _Recent(Generic[_Item]):
    """A cache of the items that were used last, at most `most`."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._items: OrderedDict[tuple[Any, ...], _Item] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    def take(self, key: tuple[Any, ...]) -> _Item | None:
        """Remove and return the item of this key; None if there is none."""
        return self._items.pop(key, None)

    def keep(self, key: tuple[Any, ...], item: _Item) -> None:
        """Store an item in place of that of the same key, or of the least recently used one."""
        self._items[key] = item
        self._items.move_to_end(key)
        while len(self._items) > self.most:
            self._items.popitem(last=False)

    def clear(self) -> None:
        """Remove all items."""
        self._items.clear()


def release_students() -> None:
    """Give back the memory of the students and programs that are kept for the next call and not in use."""
    _students.clear()
    kept_programs.clear()


_students: _Recent[tuple[int, _C.Student]] = _Recent(_STUDENTS_KEPT)
kept_programs: _Recent[Any] = _Recent(PROGRAMS_KEPT)
"""Those of pydistill.matching.backends.program."""
atexit.register(release_students)  # CUDA graphs must go before CUDA does
