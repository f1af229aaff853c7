"""Checks of a recipe against its experts, before the data are read, which can take minutes."""

from __future__ import annotations

from pydistill._util.settings import in_group
from pydistill.errors import MismatchError
from pydistill.nn import Network, parse
from pydistill.nn.registry import check_named
from pydistill.recipes.recipe import Recipe
from pydistill.runs.run import check_convexification
from pydistill.trajectories import StartSampler, TrajectoryStore, waypoint_epochs
from pydistill.trajectories.convexification import WAYPOINTS


def check_recipe_and_experts(
    recipe: Recipe, *, experts: TrajectoryStore | None = None, network: Network | None = None
) -> None:
    """Refuse a recipe that a distillation would refuse whatever its data are.

    Args:
        recipe: the recipe.
        experts: the distillation's; None: those that the recipe trains.
        network: a factory instead of the recipe's model, as in `run_distillation`.

    Raises:
        InputError: starts or waypoints beyond the experts' epochs; an unknown network, or an option that it does not
            have.
        MismatchError: experts convexified otherwise than the recipe asks for, or convexified where it asks for recorded
            ones.
    """
    for named in (network or recipe.model, *map(parse, recipe.evaluation.models)):
        check_named(named)
    kind = recipe.distill.resolved_method.trajectories
    if experts is not None and experts.kind == "convexified" and kind == "recorded":
        raise MismatchError(
            f"method {recipe.distill.method} uses recorded trajectories and {experts.path} holds convexified ones; "
            "give the others, or set distill.trajectories"
        )
    epochs = recipe.expert.training.epochs if experts is None else experts.record.epochs
    sampler = StartSampler(recipe.distill.start_settings)
    with in_group("distill"):
        sampler.check(epochs, recipe.distill.expert_epochs, continuous=kind == "convexified")
        if kind == "recorded":
            return
        if experts is not None and experts.kind == "convexified":
            check_convexification(recipe, experts)
        else:
            waypoint_epochs(epochs, WAYPOINTS if recipe.distill.waypoints is None else recipe.distill.waypoints)
