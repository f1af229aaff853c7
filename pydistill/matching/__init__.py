"""Trajectory matching: the loss of an unrolled student and its exact gradient."""

from pydistill.matching.batches import Batches
from pydistill.matching.match import BACKENDS, Backend, choose_backend, match, match_many
from pydistill.matching.problem import GRADIENTS, Gradient, Match, WeightRule, Weights
from pydistill.matching.selection import DISTANCES, SELECTIONS, Distance, Selection, select_step

__all__ = [
    "BACKENDS",
    "DISTANCES",
    "GRADIENTS",
    "SELECTIONS",
    "Backend",
    "Batches",
    "Distance",
    "Gradient",
    "Match",
    "Selection",
    "WeightRule",
    "Weights",
    "choose_backend",
    "match",
    "match_many",
    "select_step",
]
