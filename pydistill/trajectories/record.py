"""What a store's experts are: network, data, preprocessing and training, and whether they fit a student."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pydistill.errors import FormatError, MismatchError
from pydistill.nn.flat import ParameterLayout

_LARGEST = 2**40  # far above any network, and far below what overflows
_CALLED = {
    "dataset_digest": "dataset digest",
    "in_channels": "channels",
    "num_classes": "classes",
    "image_size": "image size",
}
_STUDENT_FIELDS = (
    "dataset",
    "dataset_digest",
    "in_channels",
    "num_classes",
    "image_size",
    "preprocessing",
    "architecture",
    "parameters",
)


@dataclass(frozen=True)
class ExpertsRecord:
    """Everything that must agree before an expert may guide a student, and how the experts were made.

    `dataset_digest` and `preprocessing` may be empty for imported experts whose files do not tell them:
    then they are unknown and not compared.

    Attributes:
        architecture: one canonical line that names the network.
        parameters: (name, shape) of each parameter tensor, in the order of `model.parameters()`.
        dataset: its name.
        dataset_digest: hash of the raw images and labels.
        preprocessing: fingerprint of the normalisation or ZCA whitening.
        in_channels, num_classes, image_size: shape of the task; image_size is (height, width).
        training: how the experts were trained (json-able).
        epochs: T, the last recorded epoch.
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

    @property
    def layout(self) -> ParameterLayout:
        """Names and shapes of the parameters as a layout of flat vectors."""
        return ParameterLayout(tuple(name for name, _ in self.parameters), tuple(shape for _, shape in self.parameters))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Elements of each parameter tensor."""
        return self.layout.sizes

    def check(
        self,
        expected: ExpertsRecord,
        *,
        sides: tuple[str, str] = ("the experts", "this run"),
        training: bool = False,
    ) -> None:
        """Refuse experts that do not fit.

        Args:
            expected: what is needed; its `training` and `epochs` count only if `training` is true.
            sides: what to call this record and `expected` in the message.
            training: also require the same training settings and number of epochs (to continue a store).

        Raises:
            MismatchError: names every differing field and both its values.
        """
        names = [*_STUDENT_FIELDS, *(("training", "epochs") if training else ())]
        differing = [name for name in names if _differ(name, getattr(self, name), getattr(expected, name))]
        if "dataset" in differing and "dataset_digest" in differing:
            differing.remove("dataset_digest")  # it says nothing more
        if "architecture" in differing and "parameters" in differing:
            differing.remove("parameters")
        told_by_training = self.training.get("epochs") != expected.training.get("epochs")
        if "training" in differing and "epochs" in differing and told_by_training:
            differing.remove("epochs")
        if differing:
            told = [self._difference(name, expected, sides) for name in differing]
            raise MismatchError(f"{sides[0]} and {sides[1]} do not agree: " + "; ".join(told))

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
        return f"{_CALLED.get(name, name)} is {mine} for {sides[0]} and {theirs} for {sides[1]}"

    def to_json(self) -> dict[str, Any]:
        """A json-able form; `from_json` gives the record back."""
        return asdict(self)

    @staticmethod
    def from_json(value: Any, where: str) -> ExpertsRecord:
        """The record from its JSON form.

        Raises:
            FormatError: a field is missing or of the wrong kind; `where` names the file in the message.
        """
        if not isinstance(value, Mapping):
            raise FormatError(f"{where}: the record of the experts is not an object")
        training = value.get("training")
        if not isinstance(training, dict):
            raise FormatError(f"{where}: 'training' is not an object")
        parameters = value.get("parameters")
        if not isinstance(parameters, list) or not parameters:
            raise FormatError(f"{where}: 'parameters' is not a list of names and shapes")
        size = _read_shape(value.get("image_size"), "image_size", where)
        if len(size) != 2:
            raise FormatError(f"{where}: 'image_size' is not a height and a width")
        return ExpertsRecord(
            parameters=tuple(_read_parameter(item, where) for item in parameters),
            image_size=(size[0], size[1]),
            training=training,
            architecture=_read_text(value, "architecture", where),
            dataset=_read_text(value, "dataset", where),
            dataset_digest=_read_text(value, "dataset_digest", where),
            preprocessing=_read_text(value, "preprocessing", where),
            in_channels=_read_count(value.get("in_channels"), "in_channels", where),
            num_classes=_read_count(value.get("num_classes"), "num_classes", where),
            epochs=_read_count(value.get("epochs"), "epochs", where),
        )


def _differ(name: str, mine: Any, theirs: Any) -> bool:
    unknown = name in ("dataset_digest", "preprocessing") and "" in (mine, theirs)
    return bool(mine != theirs) and not unknown


def _parameters_text(parameters: Any, most: int = 4) -> str:
    named = [f"{name} {list(shape)}" for name, shape in parameters[:most]]
    more = [f"… ({len(parameters)} tensors)"] if len(parameters) > most else []
    return ", ".join([*named, *more])


def _read_text(value: Mapping[str, Any], name: str, where: str) -> str:
    text = value.get(name)
    if not isinstance(text, str):
        raise FormatError(f"{where}: '{name}' is not a text")
    return text


def _read_count(value: Any, name: str, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _LARGEST:
        raise FormatError(f"{where}: '{name}' is not a whole number from 1 to {_LARGEST}")
    return value


def _read_shape(value: Any, name: str, where: str) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise FormatError(f"{where}: '{name}' is not a list of whole numbers")
    return tuple(_read_count(item, name, where) for item in value)


def _read_parameter(value: Any, where: str) -> tuple[str, tuple[int, ...]]:
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[0], str):
        raise FormatError(f"{where}: an entry of 'parameters' is not a name with a shape")
    shape = _read_shape(value[1], "parameters", where)
    if math.prod(shape) > _LARGEST:
        raise FormatError(f"{where}: parameter {value[0]!r} has more than {_LARGEST} elements")
    return value[0], shape
