"""Where a run is logged while it goes on, beside its metrics.jsonl: TensorBoard, and wandb if asked for."""

from pydistill.logs.observer import LogObserver, open_logs
from pydistill.logs.settings import LogSettings

__all__ = ["LogObserver", "LogSettings", "open_logs"]
