"""The record of a store's experts: network, data, preprocessing and training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pydistill.errors import InputError, MismatchError
from pydistill.nn.flat import ParameterLayout

_LARGEST = 2**40  # far above any network, and far below an overflow
_LABELS = {
    "dataset_digest": "dataset digest",
    "in_channels": "channels",
    "num_classes": "classes",
    "image_size": "image size",
}


@dataclass(frozen=True)
class ExpertsRecord:
    """The facts that must agree between experts and a student, and the settings that trained the experts.

    `dataset_digest` and `preprocessing` may be empty for imported experts, whose files do not hold them; empty values
    are not compared.

    Attributes:
        architecture: one canonical line that names the network.
        parameters: (name, shape) of every parameter tensor, in the order of `model.parameters()`.
        dataset: its name.
        dataset_digest: hash of the raw images and labels.
        preprocessing: fingerprint of the normalisation or ZCA whitening.
        in_channels, num_classes, image_size: shape of the task; image_size is (height, width).
        training: the settings of the experts' training (JSON-able); one that is missing is null.
        epochs: T, the last recorded epoch.

    Raises:
        InputError: there are no parameters, or a size is outside its limits.
    """

    architecture: str
    parameters: tuple[tuple[str, tuple[int, ...]], ...]
    dataset: str
    dataset_digest: str
    preprocessing: str
    in_channels: int
    num_classes: int
    image_size: tuple[int, int]
    training: dict[str, Any] = field(hash=False)
    epochs: int

    def __post_init__(self) -> None:
        if not self.parameters:
            raise InputError("'parameters' must list at least one tensor")
        sizes = [(f"'{name}'", getattr(self, name)) for name in ("in_channels", "num_classes", "epochs")]
        sizes += [("'image_size'", side) for side in self.image_size]
        sizes += [(f"a side of parameter {name!r}", side) for name, shape in self.parameters for side in shape]
        sizes += [(f"the size of parameter {name!r}", math.prod(shape)) for name, shape in self.parameters]
        for description, size in sizes:
            if not 1 <= size <= _LARGEST:
                raise InputError(f"{description} must be from 1 to {_LARGEST}")

    @property
    def layout(self) -> ParameterLayout:
        """The layout of flat parameter vectors."""
        return ParameterLayout(tuple(name for name, _ in self.parameters), tuple(shape for _, shape in self.parameters))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of elements of every parameter tensor."""
        return self.layout.sizes

    def check(
        self,
        expected: ExpertsRecord,
        *,
        sides: tuple[str, str] = ("the experts", "this run"),
        training: bool = False,
    ) -> None:
        """Raise MismatchError unless this record fits `expected`.

        Args:
            expected: the record to compare with; its `training` and `epochs` count only if `training` is true.
            sides: the names of this record and of `expected` in the message.
            training: also require the same training settings and number of epochs (to continue a store).

        Raises:
            MismatchError: names every differing field and both its values.
        """
        names = [item.name for item in fields(self) if training or item.name not in ("training", "epochs")]
        differing = [name for name in names if _differ(name, getattr(self, name), getattr(expected, name))]
        if "dataset" in differing and "dataset_digest" in differing:
            differing.remove("dataset_digest")  # follows from another data set
        if "architecture" in differing and "parameters" in differing:
            differing.remove("parameters")
        epochs_in_training = self.training.get("epochs") != expected.training.get("epochs")
        if "training" in differing and "epochs" in differing and epochs_in_training:
            differing.remove("epochs")
        if differing:
            differences = "; ".join(self._difference(name, expected, sides) for name in differing)
            raise MismatchError(f"{sides[0]} and {sides[1]} do not agree: {differences}")

    def _difference(self, name: str, expected: ExpertsRecord, sides: tuple[str, str]) -> str:
        mine, theirs = getattr(self, name), getattr(expected, name)
        if name == "parameters":
            only_mine = [item for item in mine if item not in theirs]
            only_theirs = [item for item in theirs if item not in mine]
            mine, theirs = _parameters_text(only_mine or mine), _parameters_text(only_theirs or theirs)
        elif name == "training":
            keys = [key for key in sorted({*mine, *theirs}) if mine.get(key) != theirs.get(key)]
            mine, theirs = ({key: side.get(key) for key in keys} for side in (mine, theirs))
        elif name == "image_size":
            mine, theirs = (f"{height}×{width}" for height, width in (mine, theirs))
        return f"{_LABELS.get(name, name)} is {mine} for {sides[0]} and {theirs} for {sides[1]}"


def same_training(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return True if two records of a training agree; a setting that one of them lacks is null there."""
    return all(one.get(key) == other.get(key) for key in {*one, *other})


def _differ(name: str, mine: Any, theirs: Any) -> bool:
    if name == "training":
        return not same_training(mine, theirs)
    unknown = name in ("dataset_digest", "preprocessing") and "" in (mine, theirs)
    return bool(mine != theirs) and not unknown


def _parameters_text(parameters: Any, most: int = 4) -> str:
    named = [f"{name} {list(shape)}" for name, shape in parameters[:most]]
    more = [f"… ({len(parameters)} tensors)"] if len(parameters) > most else []
    return ", ".join([*named, *more])
