"""Work on memory that stays in place, which a GPU replays: captured once as a CUDA graph, after a few direct calls."""

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
    """Whether work may be captured as CUDA graphs: unless `PYDISTILL_CUDA_GRAPHS=0` is in the environment."""
    return os.environ.get(SWITCH) != "0"


class CudaGraphStep:
    """Work that is the same every time, called often; `csrc/engine/replayer.h` does as much for the engine's programs.

    On a GPU the first few calls run it directly, on a side stream, so that libraries choose their algorithms and
    allocate; the next one captures it as a CUDA graph, which that call and all further ones replay on the current
    stream. Where capturing fails, the log says so once and each call runs the work directly. Elsewhere each call does.

    Args:
        work: reads and writes memory that stays in place, allocates nothing that outlives it, and waits for nothing.
        device: where it works.
        capture: whether it may be captured; see also `cuda_graphs_enabled`.
    """

    def __init__(self, work: Callable[[], None], device: torch.device, *, capture: bool) -> None:
        self._work = work
        self._device = device
        self._captures = capture and device.type == "cuda" and cuda_graphs_enabled()
        self._calls = 0
        self._graph: Any = None

    def __call__(self) -> None:
        """Do the work once."""
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
        """Do the work on the side stream, after what was queued before and before what is queued after."""
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
            _tell(first_line(error.__context__ or error))  # ending a capture that failed fails as well


def is_plain(model: nn.Module) -> bool:
    """Whether a training pass of the network is the same work every time: layers of torch.nn and pydistill.nn that draw
    no random numbers, and nothing that listens to them."""
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
    """The work as a graph that has not run yet; whatever happens, the current stream is afterwards what it was."""
    graph = torch.cuda.CUDAGraph()
    current = torch.cuda.current_stream(device)
    capture = torch.cuda.graph(graph, stream=_side_stream(current), capture_error_mode="thread_local")
    # Where PyTorch keeps cuBLAS's workspaces for each stream, the graph must have one of its own: others may be given
    # back while it lives.
    torch._C._cuda_clearCublasWorkspaces()
    with torch.cuda.stream(current), capture:
        _check_pool(graph, device)
        work()
    torch._C._cuda_clearCublasWorkspaces()
    return graph


def _side_stream(stream: Any) -> Any:
    """A stream for what goes before a capture, and for the capture itself, beside this one."""
    return stream_of("graphs", stream.device, stream.cuda_stream)


def _check_pool(graph: Any, device: torch.device) -> None:
    """Raise RuntimeError if what is allocated now does not come from the memory of the graph that is being captured."""
    if torch.cuda.get_allocator_backend() != "native":  # others know no pools but those of graphs
        return
    probe = torch.empty(1, device=device)
    segments = torch.cuda.memory_snapshot(graph.pool())  # type: ignore[no-untyped-call]
    if not any(each["address"] <= probe.data_ptr() < each["address"] + each["total_size"] for each in segments):
        raise RuntimeError(
            "memory comes from a pool of the caller's (torch.cuda.use_mem_pool), which others take from as well; "
            f"train outside it, or set {SWITCH}=0"
        )


@lru_cache
def _tell(reason: str) -> None:
    """Once for each reason."""
    _log.warning("a training step could not be captured as a CUDA graph and runs directly: %s", reason)
