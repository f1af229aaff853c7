"""A stand-in for the package wandb, which no test sends anything with."""

from __future__ import annotations

import importlib.machinery
from pathlib import Path
from types import ModuleType
from typing import Any


class FakeWandb(ModuleType):
    """The part of wandb that a run calls: records the calls, and offline creates the folder of a run."""

    def __init__(self, *, key: str | None = "key", reachable: bool = True) -> None:
        super().__init__("wandb")
        self.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
        self.key = key
        self.torn_down = 0
        self.begun: list[dict[str, Any]] = []
        self.logged: list[dict[str, Any]] = []
        self.metrics: list[tuple[str, Any]] = []
        self.finished = 0
        self.reachable = reachable

    def Settings(self, **settings: Any) -> dict[str, Any]:
        return settings

    def Image(self, pixels: Any) -> Any:
        return pixels

    def init(self, **about: Any) -> FakeWandb:
        self.begun.append(about)
        if about["mode"] == "online" and not self.reachable:
            raise TimeoutError("no answer\nfor long")
        if about["mode"] == "offline":
            (Path(about["dir"]) / "wandb" / f"offline-run-{about['id']}").mkdir(parents=True, exist_ok=True)
        return self

    def login(self, *, prompt: bool, verify: bool) -> bool:
        assert not prompt  # nobody is asked,
        assert not verify  # and nothing is sent
        return self.key is not None

    def teardown(self) -> None:
        self.torn_down += 1

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.metrics.append((name, step_metric))

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        self.finished += 1
