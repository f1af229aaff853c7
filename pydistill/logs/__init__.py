"""Where a run is logged while it goes on, beside its metrics.jsonl: TensorBoard, and wandb if asked for."""

from pydistill.logs.observer import LogObserver
from pydistill.logs.settings import LogSettings

__all__ = ["LogObserver", "LogSettings"]
