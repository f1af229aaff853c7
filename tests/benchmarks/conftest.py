"""Workers of the benchmarks without their processes."""

from __future__ import annotations

import importlib
import json
import threading
from collections.abc import Mapping
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import experts, harness
from benchmarks.gpu import grid


class LocalWorker(harness.Worker):
    """Serves a contestant in a thread of this process, which need not import PyTorch again."""

    def __init__(self, module: str, name: str, setting: Mapping[str, Any], *_: object) -> None:
        self._requests: SimpleQueue[str | None] = SimpleQueue()
        self._replies: SimpleQueue[str] = SimpleQueue()
        replies = SimpleNamespace(write=self._replies.put, flush=lambda: None)
        arguments = (importlib.import_module(module), name, dict(setting), iter(self._requests.get, None), replies)
        threading.Thread(target=harness.serve, args=arguments, daemon=True).start()

    def request(self, what: str, limit: float | None = None) -> dict[str, Any]:
        self._requests.put(f"{what}\n")
        reply: dict[str, Any] = json.loads(self._replies.get())
        if "error" in reply:
            raise harness.CannotRun(reply["error"])
        return reply

    def said(self) -> list[str]:
        return []

    def close(self) -> None:
        self._requests.put(None)


@pytest.fixture
def local_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks start local workers, and no garbage is collected before every call."""
    for module in (experts, grid, harness):
        monkeypatch.setattr(module, "Worker", LocalWorker)
    monkeypatch.setattr(harness, "gc", SimpleNamespace(collect=lambda: 0))
