"""Weights & Biases."""

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
from pydistill.data import Dataset
from pydistill.errors import InputError, Name
from pydistill.recipes.recipe import Recipe
from pydistill.runs.loggers.logger import Logger
from pydistill.runs.loggers.settings import WandbMode, missing_package

ONLINE_TIMEOUT = 20.0

_log = logging.getLogger("pydistill")


class WandbLogger(Logger):
    """Logs to a run of wandb's in the run folder; `iteration` is its axis.

    Offline nothing is sent: `wandb sync RUN/wandb/offline-run-*` does that later. Online, a server that does not answer
    within 20 seconds leads to one warning and an offline run. The run's id is stored in wandb.json for a resumed run.
    """

    name = "wandb"

    def __init__(self, run: Path, recipe: Recipe, dataset: Dataset, mode: WandbMode, project: str) -> None:
        super().__init__(run, recipe, dataset)
        self._mode, self._project = mode, project

    def _open(self, iteration: int) -> Any:
        try:
            self._wandb: Any = importlib.import_module("wandb")
        except ImportError as error:
            raise missing_package("wandb") from error
        # Without a prompt: wandb would ask for the key on the terminal, and wait.
        if self._mode == "online" and not self._wandb.login(prompt=False, verify=False):
            remedy = "run `wandb login` once, or log offline and sync the run later"
            raise InputError(Name("log.wandb"), f" = online needs a key: {remedy}")
        run = self._init(self._run_id(iteration))
        run.define_metric("iteration")
        run.define_metric("*", step_metric="iteration")
        return run

    def _run_id(self, iteration: int) -> str:
        """Return the id of the run that is resumed, or a new one."""
        file = self._folder / WANDB_ID_NAME
        run_id = str(read_json(file)["id"]) if iteration and file.exists() else secrets.token_hex(4)
        write_json(file, {"id": run_id})
        return run_id

    def _init(self, run_id: str) -> Any:
        options = {
            "project": self._project,
            "name": self._folder.resolve().name,
            "id": run_id,
            "dir": str(self._folder),
            "config": self._recipe.as_dict(),
            "settings": self._wandb.Settings(init_timeout=ONLINE_TIMEOUT, console="off", silent=True),
        }
        if self._mode == "online":
            try:
                return self._wandb.init(mode="online", resume="allow", **options)
            except Exception as error:  # network errors are of many kinds, and none may end a run
                reason = first_line(error)
                _log.warning("wandb cannot be reached (%s); the run is logged offline, `wandb sync` sends it", reason)
                self._wandb.teardown()  # the failed attempt would keep the run's id
        return self._wandb.init(mode="offline", **options)

    def _log_numbers(self, iteration: int, values: dict[str, float]) -> None:
        self._backend.log({"iteration": iteration, **values})

    def _log_picture(self, iteration: int, picture: Tensor) -> None:
        pixels = picture.permute(1, 2, 0).squeeze(-1).cpu().numpy()
        self._backend.log({"iteration": iteration, "images": self._wandb.Image(pixels)})

    def _close(self) -> None:
        self._backend.finish()
