"""TensorBoard's event files in the run folder's tensorboard/."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from pydistill._util.layout import TENSORBOARD_NAME
from pydistill.runs.loggers.logger import Logger
from pydistill.runs.loggers.settings import missing_package


class TensorBoardLogger(Logger):
    """Writes event files that TensorBoard reads while the run proceeds.

    A resumed run opens another file that starts after its checkpoint: TensorBoard then drops what the stopped process
    wrote of later iterations.
    """

    name = "TensorBoard"

    def _open(self, iteration: int) -> Any:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing_package("tensorboard") from error
        folder = self._folder / TENSORBOARD_NAME
        _wait_for_later_name(folder)
        return SummaryWriter(str(folder), flush_secs=10, purge_step=iteration + 1 if iteration else 0)

    def _log_numbers(self, iteration: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._backend.add_scalar(name, value, iteration)

    def _log_picture(self, iteration: int, picture: Tensor) -> None:
        self._backend.add_image("images", picture, iteration)

    def _close(self) -> None:
        self._backend.close()


def _wait_for_later_name(folder: Path) -> None:
    """Wait until a new event file sorts after those in the folder: they are ordered by the second in their names."""
    names = [re.search(r"tfevents\.(\d+)\.", path.name) for path in folder.glob("*")]
    seconds = [int(match[1]) for match in names if match]
    if seconds:
        time.sleep(min(1.0, max(0.0, max(seconds) + 1 - time.time())))
