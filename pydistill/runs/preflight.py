"""Checks of a run before its first iteration, in part before its data are read, which can take minutes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydistill._util.memory import check_memory_available
from pydistill._util.settings import in_group
from pydistill.data import Dataset
from pydistill.errors import InputError, MismatchError, Name, SettingError
from pydistill.nn import Network, architecture_of, parse
from pydistill.nn.registry import check_named
from pydistill.recipes.recipe import Recipe
from pydistill.synthesis.decoders import make_decoder
from pydistill.trajectories import StartSampler, TrajectoryStore, waypoint_epochs
from pydistill.trajectories.convexification import WAYPOINTS


def check_run(recipe: Recipe, dataset: Dataset, experts: TrajectoryStore, network: Network | None = None) -> None:
    """Refuse a run that would fail after its first iteration or use more memory than there is.

    Args:
        network: a factory instead of the recipe's model, as in `run_distillation`.

    Raises:
        InputError: as `check_recipe_and_experts`, or a network of the evaluation cannot take the images.
        MismatchError: as `check_recipe_and_experts`.
        OutOfMemoryError: the set needs more than the available memory.
    """
    check_recipe_and_experts(recipe, experts=experts, network=network)
    shape = (dataset.in_channels, *dataset.image_size)
    with in_group("distill.decoder"):
        images = make_decoder(recipe.distill.decoder, shape, recipe.distill.ipc).images_per_class
    pixels = images * dataset.num_classes * math.prod(shape)
    check_memory_available(4 * 4 * pixels, f"a set of {images} images per class", "lower ", Name("distill.ipc"))
    check_evaluated_networks(recipe, dataset)


def check_evaluated_networks(recipe: Recipe, dataset: Dataset) -> None:
    """Refuse networks of the evaluation that cannot take the images."""
    with _naming("evaluation.models"):
        for name in recipe.evaluation.models:
            architecture_of(parse(name), *dataset.sizes, device=dataset.device)


def check_networks(recipe: Recipe, network: Network | None = None) -> None:
    """Refuse networks that do not exist, or that lack an option, whatever the data are."""
    with _naming("model.name"):
        check_named(network or recipe.model)
    with _naming("evaluation.models"):
        for name in recipe.evaluation.models:
            check_named(parse(name))


def check_recipe_and_experts(
    recipe: Recipe, *, experts: TrajectoryStore | None = None, network: Network | None = None
) -> None:
    """Refuse a recipe that a distillation would refuse whatever its data are.

    Args:
        experts: the distillation's; None: those that the recipe trains.
        network: a factory instead of the recipe's model, as in `run_distillation`.

    Raises:
        InputError: there are no experts; starts or waypoints beyond the experts' epochs; an unknown network, or an
            option that it does not have.
        MismatchError: experts convexified otherwise than the recipe asks for, or convexified where it asks for recorded
            ones.
    """
    if experts is not None and len(experts) == 0:
        raise InputError(f"there is no expert in {experts.path} yet; train some first")
    check_networks(recipe, network)
    kind = recipe.distill.resolved_method.trajectories
    if experts is not None and experts.kind == "convexified" and kind == "recorded":
        raise MismatchError(
            f"method {recipe.distill.method} uses recorded trajectories and {experts.path} holds convexified ones; "
            "give the others, or set ",
            Name("distill.trajectories"),
        )
    epochs = recipe.expert.training.epochs if experts is None else experts.record.epochs
    sampler = StartSampler(recipe.distill.start_settings)
    with in_group("distill"):
        sampler.check(epochs, recipe.distill.expert_epochs, continuous=kind == "convexified")
        if kind == "recorded":
            return
        if experts is not None and experts.kind == "convexified":
            _check_convexification(recipe, experts)
        else:
            waypoint_epochs(epochs, WAYPOINTS if recipe.distill.waypoints is None else recipe.distill.waypoints)


def convexification(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe's settings of convexification, without those that it leaves open."""
    names = ("waypoints", "smoothing", "fractions")
    return {name: value for name in names if (value := getattr(recipe.distill, name)) is not None}


def _check_convexification(recipe: Recipe, store: TrajectoryStore) -> None:
    """Raise MismatchError if experts are convexified with other settings than the recipe's."""
    settings = convexification(recipe)
    if recipe.distill.waypoints is not None:
        settings["waypoints"] = list(waypoint_epochs(store.record.epochs, recipe.distill.waypoints))
    for name, value in settings.items():
        stored = store.convexification[name]
        if stored != value:
            raise MismatchError(
                f"the experts are convexified with {name} = {stored} and this run asks for {value}; drop ",
                Name(f"distill.{name}"),
                ", or convexify the recorded experts again",
            )


@contextmanager
def _naming(setting: str) -> Iterator[None]:
    """Begin errors about a network with the setting that names it."""
    try:
        yield
    except SettingError:
        raise
    except InputError as error:
        raise InputError(Name(setting), ": ", *error.args) from error
