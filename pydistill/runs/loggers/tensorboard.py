"""TensorBoard's events in the run folder's tensorboard/."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from pydistill._util.layout import TENSORBOARD_NAME
from pydistill.errors import MissingDependencyError


class TensorBoard:
    """Event files that TensorBoard reads while the run goes on.

    A resumed run opens another file that begins behind the last checkpoint: TensorBoard then forgets what the stopped
    process had written of later iterations, which are done again.

    Args:
        run: the run folder.
        done: iterations done before.

    Raises:
        MissingDependencyError: the package tensorboard is not installed.
        OSError: the folder cannot be written.
    """

    name = "TensorBoard"

    def __init__(self, run: Path, done: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingDependencyError(
                "log.tensorboard needs the package tensorboard; install it with: pip install 'pydistill[tensorboard]'"
            ) from error
        _wait_for_a_later_name(run / TENSORBOARD_NAME)
        purged = done + 1 if done else 0
        self._writer: Any = SummaryWriter(str(run / TENSORBOARD_NAME), flush_secs=10, purge_step=purged)

    def numbers(self, iteration: int, values: dict[str, float]) -> None:
        """A scalar per number."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, iteration)

    def picture(self, iteration: int, image: Tensor) -> None:
        """The picture under "images"."""
        self._writer.add_image("images", image, iteration)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


def _wait_for_a_later_name(folder: Path) -> None:
    """Wait until an event file opened now is read after those there: they are ordered by the second in their names."""
    seconds = [int(found[1]) for each in folder.glob("*") if (found := re.search(r"tfevents\.(\d+)\.", each.name))]
    if seconds:
        time.sleep(min(1.0, max(0.0, max(seconds) + 1 - time.time())))
