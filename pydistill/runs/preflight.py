"""What is wrong with a recipe by itself or with its experts: told before the data are read, which can take minutes."""

from __future__ import annotations

from typing import NamedTuple

from pydistill.errors import MismatchError
from pydistill.nn import Network, parse
from pydistill.nn.registry import check_named
from pydistill.recipes.recipe import Recipe
from pydistill.runs.run import check_convexification
from pydistill.trajectories import StartSampler, TrajectoryStore, waypoint_epochs


class _Epochs(NamedTuple):
    """The span of experts, whether they are there or still to be trained."""

    end: float
    continuous: bool


def check_recipe_and_experts(
    recipe: Recipe, *, experts: TrajectoryStore | None = None, network: Network | None = None
) -> None:
    """Refuse what a distillation would refuse whatever its data are.

    Args:
        recipe: the recipe.
        experts: those that the distillation will use; None: those that the recipe trains.
        network: a factory instead of the recipe's model, as in `run_distillation`.

    Raises:
        InputError: settings outside their limits; starts or waypoints that the experts' epochs do not have; a network
            that there is not, or an option that it does not have.
        MismatchError: experts convexified otherwise than the recipe asks for, or at all where it asks for recorded
            ones.
    """
    recipe.distill.check()
    for each in (network or recipe.model, *map(parse, recipe.evaluation.models)):
        check_named(each)
    wanted = recipe.distill.resolved_method().trajectories
    if experts is not None and experts.kind == "convexified" and wanted == "recorded":
        raise MismatchError(
            f"method {recipe.distill.method} uses recorded trajectories and {experts.path} holds convexified ones; "
            "give the others, or set distill.trajectories"
        )
    epochs = recipe.expert.training.epochs if experts is None else experts.record.epochs
    sampler = StartSampler(recipe.distill.start_settings())
    sampler.check(_Epochs(float(epochs), wanted == "convexified"), recipe.distill.expert_epochs)
    if wanted == "recorded":
        return
    if experts is not None and experts.kind == "convexified":
        check_convexification(recipe, experts)
    else:
        waypoint_epochs(epochs, 4 if recipe.distill.waypoints is None else recipe.distill.waypoints)
