"""Capture a step of Python work on fixed memory as a CUDA graph, and replay it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.nn.modules import dropout

from pydistill._util.format import first_line
from pydistill.engine.streams import stream_of
from pydistill.engine.student import has_hooks

WARM_CALLS = 3
SWITCH = "PYDISTILL_CUDA_GRAPHS"
RANDOM_LAYERS = (
    dropout._DropoutNd,
    nn.RReLU,
    nn.FractionalMaxPool2d,
    nn.FractionalMaxPool3d,
    nn.MultiheadAttention,
    nn.RNNBase,
)

_log = logging.getLogger("pydistill")


def cuda_graphs_enabled() -> bool:
    """Return True unless `PYDISTILL_CUDA_GRAPHS=0` is in the environment."""
    return os.environ.get(SWITCH) != "0"


class CudaGraphStep:
    """A step that is the same at every call; `csrc/engine/replayer.h` is its counterpart for the engine's programs.

    On a GPU the first few calls run the work directly on a side stream, so that libraries choose their algorithms and
    allocate. The next call captures it as a CUDA graph; that call and all later ones replay the graph on the current
    stream. If the capture fails, a warning is logged once and every call runs the work directly, as on a CPU.

    Args:
        work: reads and writes memory at fixed addresses, allocates nothing that outlives it, and does not synchronise.
        device: the device of the work.
        capture: whether it may be captured; see also `cuda_graphs_enabled`.
    """

    def __init__(self, work: Callable[[], None], device: torch.device, *, capture: bool) -> None:
        self._work = work
        self._device = device
        self._captures = capture and device.type == "cuda" and cuda_graphs_enabled()
        self._calls = 0
        self._graph: Any = None

    def __call__(self) -> None:
        """Run the work once."""
        if self._captures and self._graph is None:
            if self._calls < WARM_CALLS:
                self._calls += 1
                self._warm()
                return
            self._try_to_capture()
        if self._graph is not None:
            self._graph.replay()
        else:
            self._work()

    def invalidate(self, *, capture: bool) -> None:
        """Drop the captured graph, as the work has changed; capture it again only if `capture`."""
        self._calls, self._graph = 0, None
        self._captures = self._captures and capture

    def _warm(self) -> None:
        """Run the work on the side stream, in order with the current stream."""
        current = torch.cuda.current_stream(self._device)
        side = _side_stream(current)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            self._work()
        current.wait_stream(side)

    def _try_to_capture(self) -> None:
        try:
            self._graph = _captured(self._work, self._device)
        except RuntimeError as error:
            self._captures = False
            _warn_once(first_line(error.__context__ or error))  # ending a failed capture fails too; report the cause


def is_plain(model: nn.Module) -> bool:
    """Return True if a training pass of the network is the same work every time.

    That holds for layers of torch.nn and pydistill.nn that draw no random numbers and have no hooks.
    """
    if has_hooks(model):
        return False
    if any(parameter._backward_hooks or parameter._post_accumulate_grad_hooks for parameter in model.parameters()):
        return False
    return all(
        type(module).__module__.startswith(("torch.nn.modules.", "pydistill.nn."))
        and not isinstance(module, RANDOM_LAYERS)
        and "forward" not in vars(module)
        for module in model.modules()
    )


def _captured(work: Callable[[], None], device: torch.device) -> Any:
    """Capture `work` without running it; always restore the current stream."""
    graph = torch.cuda.CUDAGraph()
    current = torch.cuda.current_stream(device)
    capture = torch.cuda.graph(graph, stream=_side_stream(current), capture_error_mode="thread_local")
    # PyTorch caches a cuBLAS workspace per stream. The graph needs one that is allocated in its pool: a cached one may
    # be freed while the graph exists.
    torch._C._cuda_clearCublasWorkspaces()
    with torch.cuda.stream(current), capture:
        _check_pool(graph, device)
        work()
    torch._C._cuda_clearCublasWorkspaces()
    return graph


def _side_stream(stream: Any) -> Any:
    """Return the stream for warm-up calls and captures on behalf of `stream`."""
    return stream_of("graphs", stream.device, stream.cuda_stream)


def _check_pool(graph: Any, device: torch.device) -> None:
    """Raise RuntimeError if allocations do not come from the memory pool of the graph that is being captured."""
    if torch.cuda.get_allocator_backend() != "native":  # other allocators have no pools but those of graphs
        return
    probe = torch.empty(1, device=device)
    segments = torch.cuda.memory_snapshot(graph.pool())  # type: ignore[no-untyped-call]
    address = probe.data_ptr()
    if not any(segment["address"] <= address < segment["address"] + segment["total_size"] for segment in segments):
        raise RuntimeError(
            "memory comes from the caller's pool (torch.cuda.use_mem_pool), which other allocations share; "
            f"train outside it, or set {SWITCH}=0"
        )


@lru_cache
def _warn_once(reason: str) -> None:
    _log.warning("a training step could not be captured as a CUDA graph and runs directly: %s", reason)
