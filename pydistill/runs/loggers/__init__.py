"""Where a run is logged while it goes on, beside its metrics.jsonl: TensorBoard, and wandb if asked for."""

from pydistill.runs.loggers.observer import LogCallback
from pydistill.runs.loggers.settings import LogSettings

__all__ = ["LogCallback", "LogSettings"]
