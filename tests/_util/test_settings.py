"""Settings dataclasses check their values, convert to and from plain values, and name settings in errors."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from pydistill._util.settings import Settings, as_keywords, described_settings, from_dict, in_group, setting
from pydistill.data import DataSettings, DsaSettings
from pydistill.distillation.distiller import DistillSettings
from pydistill.errors import MismatchError, Name, SettingError, UnknownSettingError
from pydistill.evaluation.evaluate import EvaluationSettings
from pydistill.nn import ModelSettings
from pydistill.recipes.recipe import Recipe
from pydistill.runs.loggers import LogSettings
from pydistill.runs.run import run_distillation
from pydistill.training.experts import ExpertSettings, train_experts
from pydistill.training.train import TrainingSettings
from pydistill.trajectories import StartSettings
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import EXPERT, assert_same_outcome, recipe


@dataclass(frozen=True)
class Inner(Settings):
    """A nested group of settings."""

    share: float = setting(0.5, "a share", at_least=0, at_most=1)


@dataclass(frozen=True)
class Outer(Settings):
    """One setting of every type."""

    count: int = setting(1, "a count", at_least=1, below=10)
    rate: float = setting(0.1, "a rate", above=0)
    limit: float | None = setting(None, "a limit", above=0)
    name: str = setting("a", "a name")
    flag: bool = setting(False, "a flag")
    kind: Literal["x", "y"] = setting("x", "a kind")
    epochs: int | list[int] | None = setting(None, "epochs")
    words: tuple[str, ...] = setting((), "words")
    inner: Inner = setting(Inner(0.25), "nested")
    maybe: Inner | None = setting(None, "nested or null")

    def _check(self) -> None:
        if self.flag and self.kind == "y":
            raise SettingError("kind", self.kind, "x with flag")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count", 0),
        ("count", 10),
        ("count", 2.0),
        ("count", True),
        ("count", "2"),
        ("count", None),
        ("rate", 0),
        ("rate", math.inf),
        ("rate", math.nan),
        ("rate", 10**400),
        ("rate", "0.1"),
        ("rate", torch.tensor(0.1)),
        ("limit", 0.0),
        ("name", 3),
        ("flag", 1),
        ("kind", "z"),
        ("epochs", "4"),
        ("epochs", [1, 2.5]),
        ("epochs", 2.5),
        ("words", "ab"),
        ("words", [1]),
        ("inner", None),
        ("inner", {"share": 0.5}),
        ("maybe", 5),
        ("maybe", "x"),
    ],
)
def test_invalid_value_is_refused(name: str, value: Any) -> None:
    with pytest.raises(SettingError) as raised:
        Outer(**{name: value})
    assert raised.value.setting == name
    assert raised.value.value is value
    assert str(raised.value).startswith(f"{name} must be {raised.value.allowed}, not ")


def test_a_group_shows_how_it_is_written() -> None:
    with pytest.raises(SettingError) as raised:
        Outer(maybe="half")  # type: ignore[arg-type]
    assert str(raised.value) == "maybe must be settings by name such as {share: …} or null, not 'half'"


def test_inclusive_limits() -> None:
    settings = Outer(count=9, inner=Inner(1))
    assert (settings.count, settings.inner.share) == (9, 1.0)
    assert Outer(count=1, inner=Inner(0)).inner.share == 0


def test_usual_limits_can_be_lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Long(Settings):
        steps: int = setting(1, "steps", at_least=1, usually_at_most=100)

    assert Long(100).steps == 100
    with pytest.raises(SettingError) as raised:
        Long(101)
    assert "PYDISTILL_NO_LIMITS=1" in str(raised.value)
    monkeypatch.setenv("PYDISTILL_NO_LIMITS", "1")
    assert Long(101).steps == 101
    with pytest.raises(SettingError):
        Long(0)


@pytest.mark.parametrize("name", ["distill.steps", "distill.iterations", "distill.experts_per_step", "expert.count"])
def test_settings_beyond_reason(name: str) -> None:
    group, field = name.split(".")
    with pytest.raises(SettingError) as raised:
        from_dict(Recipe, {group: {field: 10**7}})
    assert raised.value.setting == name


def test_constraints_between_settings() -> None:
    with pytest.raises(SettingError) as raised:
        replace(Outer(flag=True), kind="y")
    assert raised.value.setting == "kind"


def test_values_become_python_types() -> None:
    settings = Outer(
        count=np.int64(3),  # type: ignore[arg-type]
        rate=2,
        limit=np.float32(0.25),  # type: ignore[arg-type]
        epochs=range(0, 6, 2),  # type: ignore[arg-type]
        words=["a", "b"],  # type: ignore[arg-type]
        name=Path("a", "b"),  # type: ignore[arg-type]
    )
    assert settings == Outer(3, 2.0, 0.25, str(Path("a", "b")), epochs=[0, 2, 4], words=("a", "b"))
    values = [settings.count, settings.rate, settings.limit, settings.epochs, settings.words, settings.name]
    assert [type(value) for value in values] == [int, float, float, list, tuple, str]


def test_from_dict_completes_with_defaults() -> None:
    assert from_dict(Outer, {}) == Outer()
    values = {"rate": 3, "words": ["a"], "maybe": {}}
    assert from_dict(Outer, values) == Outer(rate=3.0, words=("a",), maybe=Inner(0.5))
    assert from_dict(Outer, {"inner": {}}).inner.share == 0.25, "nested settings start from their own defaults"
    assert from_dict(Outer, {"count": 2}, base=Outer(rate=5)) == Outer(count=2, rate=5)
    training = from_dict(Recipe, {"evaluation": {"training": {"epochs": 3}}}).evaluation.training
    assert (training.epochs, training.momentum, training.dsa) == (3, 0.9, DsaSettings())


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"distill": {"steps": 0}}, "distill.steps"),
        ({"distill": {"dsa": {"flip": 2}}}, "distill.dsa.flip"),
        ({"distill": {"max_start": 2.5}}, "distill.max_start"),
        ({"distill": {"method": "magic"}}, "distill.method"),
        ({"evaluation": {"training": {"epochs": None}}}, "evaluation.training.epochs"),
        ({"expert": {"seed": -1}}, "expert.seed"),
        ({"distill": 3}, "distill"),
        ({"distill": {"dsa": []}}, "distill.dsa"),
        ([], ""),
    ],
)
def test_error_names_source_group_and_setting(values: Any, name: str) -> None:
    with pytest.raises(SettingError) as raised:
        from_dict(Recipe, values, source="recipe mine.yaml")
    assert raised.value.setting == name
    assert str(raised.value).startswith(f"recipe mine.yaml: {name or 'the settings'} must be ")


@pytest.mark.parametrize(
    ("values", "name", "near"),
    [
        ({"distill": {"stps": 3}}, "distill.stps", "distill.steps"),
        ({"distil": {}}, "distil", "distill"),
        ({"distill": {"dsa": {"flp": 2}}}, "distill.dsa.flp", "distill.dsa.flip"),
        ({1: 2}, "1", None),
    ],
)
def test_unknown_setting_suggests_the_nearest_name(values: Any, name: str, near: str | None) -> None:
    with pytest.raises(UnknownSettingError) as raised:
        from_dict(Recipe, values)
    error = raised.value
    assert error.setting == name
    assert near is None or f"did you mean {near}?" in str(error)
    error.spell = lambda setting: f"--{setting}"
    assert str(error).startswith(f"--{name} is not a setting; ")
    assert near is None or f"did you mean --{near}?" in str(error)


def test_keywords_are_named_as_python_writes_them() -> None:
    for name, keyword in {
        "distill.steps": "steps",
        "expert.training.epochs": "epochs",
        "evaluation.training.epochs": "evaluation.epochs",
        "distill.dsa.flip": "dsa.flip",
        "data.path": "path",
        "model.name": "model",
    }.items():
        with pytest.raises(MismatchError) as raised, as_keywords():
            raise MismatchError("set ", Name(name), "")
        assert str(raised.value) == f"set {keyword}"
    with pytest.raises(SettingError) as refused, as_keywords(), in_group("distill"):
        DistillSettings(steps=0)
    assert str(refused.value).startswith("steps must be ")
    with pytest.raises(SettingError) as in_file, as_keywords():
        from_dict(Recipe, {"distill": {"steps": 0}}, source="mine.yaml")
    assert str(in_file.value).startswith("mine.yaml: distill.steps must be ")


def test_in_group_and_spelling() -> None:
    with pytest.raises(SettingError) as raised, in_group("run"), in_group("outer"):
        Outer(count=0)
    error = raised.value
    assert error.setting == "run.outer.count"
    error.spell = {"run.outer.count": "--count"}.__getitem__
    assert str(error) == "--count must be an integer of at least 1 and below 10, not 0"


@pytest.mark.parametrize(
    "kind",
    [
        DataSettings,
        DistillSettings,
        DsaSettings,
        EvaluationSettings,
        ExpertSettings,
        LogSettings,
        ModelSettings,
        Recipe,
        StartSettings,
        TrainingSettings,
    ],
)
def test_every_settings_class_has_valid_defaults_help_and_round_trips(kind: type[Settings]) -> None:
    settings = kind()
    assert from_dict(kind, json.loads(json.dumps(asdict(settings)))) == settings  # type: ignore[call-overload]
    assert all(item.help and item.allowed for item in described_settings(settings))


def test_nested_settings_are_described() -> None:
    described = {item.name: item for item in described_settings(Recipe())}
    assert described["evaluation.training.momentum"].default == 0.9
    assert described["distill.waypoints"].default is None
    assert described["distill.dsa.flip"].default == 0.5
    assert "distill" not in described


def test_recipe_of_numpy_numbers_is_written_as_python_numbers(tmp_path: Path) -> None:
    own = recipe(iterations=1, lr_image=0.5)
    with_numpy = replace(
        recipe(iterations=np.arange(3)[1], lr_image=np.float32(0.5)),
        expert=replace(EXPERT, count=np.int64(EXPERT.count), training=replace(EXPERT.training, epochs=np.uint8(6))),
        evaluation=replace(own.evaluation, repeats=np.int64(2), seed=np.int64(0)),
    )
    store = train_experts(blobs(), with_numpy.model, with_numpy.expert, tmp_path / "experts")
    for name, settings in (("own", own), ("numpy", with_numpy)):
        run_distillation(settings, blobs(), store, tmp_path / name)
    for file in ("recipe.json", "config.json"):
        assert (tmp_path / "own" / file).read_text() == (tmp_path / "numpy" / file).read_text()
    assert_same_outcome(tmp_path / "own", tmp_path / "numpy")
