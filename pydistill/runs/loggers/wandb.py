"""Weights & Biases, for who asks for it."""

from __future__ import annotations

import importlib
import logging
import secrets
from pathlib import Path
from typing import Any

from torch import Tensor

from pydistill._util.files import read_json, write_json
from pydistill._util.format import first_line
from pydistill._util.layout import WANDB_ID_NAME
from pydistill.errors import InputError, MissingDependencyError
from pydistill.runs.loggers.settings import WandbMode

ONLINE_TIMEOUT = 20.0

_log = logging.getLogger("pydistill")


class Wandb:
    """A run of wandb's, kept in the run folder; `iteration` is its axis.

    Offline nothing is sent: `wandb sync RUN/wandb/offline-run-*` does that later. Online, who cannot be reached within
    20 seconds is told once, and the run is logged offline.

    Args:
        run: the run folder, whose name is the run's; wandb.json in it keeps the run's id for `--resume`.
        mode: offline or online.
        project: the project's name.
        config: what wandb shows as the run's configuration.
        done: iterations done before; without any, an id that is there is another run's.

    Raises:
        MissingDependencyError: the package wandb is not installed.
        InputError: online, and this machine has no key to log in with.
    """

    name = "wandb"

    def __init__(self, run: Path, mode: WandbMode, project: str, config: dict[str, Any], done: int) -> None:
        try:
            self._wandb: Any = importlib.import_module("wandb")
        except ImportError as error:
            raise MissingDependencyError(
                f"log.wandb = {mode} needs the package wandb; install it with: pip install 'pydistill[wandb]'"
            ) from error
        if mode == "online" and not self._wandb.login(
            prompt=False, verify=False
        ):  # else it would ask on the terminal, and wait
            raise InputError(
                "log.wandb = online needs a key: run `wandb login` once, or choose --log.wandb offline and sync later"
            )
        known = run / WANDB_ID_NAME
        run_id = str(read_json(known)["id"]) if done and known.exists() else secrets.token_hex(4)
        write_json(known, {"id": run_id})
        about = {"project": project, "name": run.resolve().name, "id": run_id, "dir": str(run), "config": config}
        self._run = self._begin(mode, about)
        self._run.define_metric("iteration")
        self._run.define_metric("*", step_metric="iteration")

    def _begin(self, mode: WandbMode, about: dict[str, Any]) -> Any:
        settings = self._wandb.Settings(init_timeout=ONLINE_TIMEOUT, console="off", silent=True)
        if mode == "online":
            try:
                return self._wandb.init(mode="online", resume="allow", settings=settings, **about)
            except Exception as error:  # a network's failures are of many kinds, and none may end a run
                told = first_line(error)
                _log.warning("wandb cannot be reached (%s); this run is logged offline, `wandb sync` sends it", told)
                self._wandb.teardown()  # else the run's id is taken by the attempt
        return self._wandb.init(mode="offline", settings=settings, **about)

    def numbers(self, iteration: int, values: dict[str, float]) -> None:
        """The numbers, with the iteration they belong to."""
        self._run.log({"iteration": iteration, **values})

    def picture(self, iteration: int, image: Tensor) -> None:
        """The picture under "images"."""
        pixels = image.permute(1, 2, 0).squeeze(-1).cpu().numpy()
        self._run.log({"iteration": iteration, "images": self._wandb.Image(pixels)})

    def close(self) -> None:
        """Write what is left."""
        self._run.finish()
