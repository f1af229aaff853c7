"""Recorded and convexified expert trajectories: their store, other tools' formats, and the sampling of starts."""

from pydistill.trajectories.convexification import FractionRule, Smoothing, convexify, waypoint_epochs
from pydistill.trajectories.formats.common import ForeignLayout
from pydistill.trajectories.formats.mct import describe_mct, export_mct, import_mct
from pydistill.trajectories.formats.mtt import describe_mtt, export_mtt, import_mtt
from pydistill.trajectories.order import ExpertOrder
from pydistill.trajectories.record import ExpertsRecord
from pydistill.trajectories.sampling import StartSampler, StartSettings
from pydistill.trajectories.store import TrajectoryStore
from pydistill.trajectories.trajectory import (
    ConvexifiedTrajectory,
    RecordedTrajectory,
    Rows,
    Trajectory,
)

__all__ = [
    "ConvexifiedTrajectory",
    "ExpertOrder",
    "ExpertsRecord",
    "ForeignLayout",
    "FractionRule",
    "RecordedTrajectory",
    "Rows",
    "Smoothing",
    "StartSampler",
    "StartSettings",
    "Trajectory",
    "TrajectoryStore",
    "convexify",
    "describe_mct",
    "describe_mtt",
    "export_mct",
    "export_mtt",
    "import_mct",
    "import_mtt",
    "waypoint_epochs",
]
