"""Flags: settings from the command line, and one sentence naming the flag for a wrong one."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from pydistill.cli import main
from pydistill.cli.arguments import add_recipe, recipe_of
from pydistill.cli.parser import Parser
from pydistill.data import DsaSettings
from pydistill.errors import InputError
from pydistill.recipes.recipe import Recipe, load_recipe, preset_path, recipe_from_dict
from pydistill.recipes.yaml import read_yaml
from tests.cli.commands import WHERE, run


def recipe(*words: str) -> Recipe:
    parser = Parser(prog="test")
    add_recipe(parser)
    return recipe_of(parser.parse(words))


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (["--distill.steps", "3"], {"distill": {"steps": 3}}),
        (["--distill.steps=3", "--distill.steps=4"], {"distill": {"steps": 4}}),
        (["--distill.lr-image", "1e3"], {"distill": {"lr_image": 1000.0}}),
        (["--distill.lr_lr", "1e-7"], {"distill": {"lr_lr": 1e-7}}),
        (["--distill.waypoints", "[0, 2]"], {"distill": {"waypoints": [0, 2]}}),
        (["--distill.waypoints=3"], {"distill": {"waypoints": 3}}),
        (["--evaluation.models", "[convnet3, mlp]"], {"evaluation": {"models": ["convnet3", "mlp"]}}),
        (["--data.path", "1e5"], {"data": {"path": "1e5"}}),
        (["--data.path", "null"], {"data": {"path": None}}),
        (["--data.zca", "true"], {"data": {"zca": True}}),
        (["--distill.gradient", "null"], {"distill": {"gradient": None}}),
        (["--distill.dsa", "{}"], {"distill": {"dsa": {}}}),
        (["--distill.dsa.flip", "0.3"], {"distill": {"dsa": {"flip": 0.3}}}),
        (
            ["--distill.dsa", "{crop: 0.2}", "--distill.dsa.flip", "0.3"],
            {"distill": {"dsa": {"crop": 0.2, "flip": 0.3}}},
        ),
        (["--expert.training.dsa", "null"], {"expert": {"training": {"dsa": None}}}),
        (
            ["--expert.training.dsa", "null", "--expert.training.dsa.flip=0"],
            {"expert": {"training": {"dsa": {"flip": 0}}}},
        ),
    ],
)
def test_flags_set_the_recipe(words: list[str], settings: dict[str, object]) -> None:
    assert recipe(*words) == recipe_from_dict(settings)


def test_flags_override_files_in_any_order(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("distill: &d {steps: 5, dsa: {flip: 0.1}}\nexpert: {training: {epochs: 9}}\n")
    expected = load_recipe(preset_path("demo/digits-att"), {"distill.steps": 7, "expert.training.epochs": 9})
    mine = recipe("--distill.steps=7", "--preset", "demo/digits-att", "--config", str(file))
    assert mine.expert == expected.expert
    assert mine.distill.dsa == DsaSettings(strategy="crop_scale_rotate", flip=0.1)
    assert (mine.distill.steps, mine.distill.iterations) == (7, expected.distill.iterations)


@pytest.mark.parametrize("group", ["distill.decoder", "distill.match_parameters"])
def test_a_group_in_a_group_is_given_by_name_or_at_once(group: str) -> None:
    name, value = {"distill.decoder": ("kind", "mirror"), "distill.match_parameters": ("growth_every", "7")}[group]
    assert recipe(f"--{group}", f"{{{name}: {value}}}") == recipe(f"--{group}.{name}", value) != recipe()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["distil"], "there is no command distil; did you mean distill?"),
        (["--out", "x", "distill"], "the command goes before --out"),
        (["distill", "--out", "y"], "--experts"),
        (["convexify"], "--out"),
        (["show", "a", "b"], "'b'"),
        (["distill", *WHERE, "--distill.stps=3"], "--distill.stps is not a setting; did you mean --distill.steps?"),
        (["distill", *WHERE, "--distil.steps=3"], "there is no flag --distil.steps; did you mean --distill.steps?"),
        (["distill", *WHERE, "--steps", "3"], "there is no flag --steps; did you mean --distill.steps?"),
        (["distill", *WHERE, "--resum"], "there is no flag --resum; did you mean --resume?"),
        (["distill", *WHERE, "--distill.steps"], "--distill.steps needs a value"),
        (["distill", *WHERE, "--distill.steps", "--resume"], "--distill.steps needs a value"),
        (["distill", *WHERE, "--preset"], "--preset"),
        (
            ["distill", *WHERE, "--distill.backend=gpu"],
            "--distill.backend must be auto, fused, torch or autograd, not 'gpu'",
        ),
        (
            ["distill", *WHERE, "--distill.dsa.flp=2"],
            "--distill.dsa.flp is not a setting; did you mean --distill.dsa.flip?",
        ),
        (["distill", *WHERE, "--distill.dsa=5"], "--distill.dsa must be "),
        (["distill", *WHERE, "--distill.dsa.flip=2"], "--distill.dsa.flip must be "),
        (["distill", *WHERE, "--distill.match_parameters={rule: x"], "--distill.match_parameters must be settings by"),
        (["distill", *WHERE, "--model", "convnet3"], "--model is a group of settings"),
        (["distill", *WHERE, "--preset", "att/cifar10"], "did you mean att/cifar10-ipc1"),
        (["distill", *WHERE, "--evaluation.models=[convnt3]"], "there is no network 'convnt3'"),
        (
            ["distill", *WHERE, "--evaluation.models=convnet3"],
            "--evaluation.models must be a list such as [a, b], not ",
        ),
        (["distill", *WHERE, "--evaluation.seed=-1"], "--evaluation.seed must be "),
        (
            ["distill", *WHERE, "--distill.steps=many"],
            "--distill.steps must be an integer of at least 1, not 'many'",
        ),
        (["distill", *WHERE, "--distill.steps=[1"], "--distill.steps must be "),
        (["distill", *WHERE, "--distill.lr_lr", "9" * 400], "--distill.lr_lr must be "),
        (["distill", *WHERE, "--distill.lr_lr", "9" * 5000], "--distill.lr_lr must be "),
        (["distill", *WHERE, "--distill.max_start=2.5"], "--distill.max_start must be an integer"),
        (["distill", *WHERE, "--log.wandb=yes"], "--log.wandb must be "),
        (["experts", "--out", "y", "--data.image_size=100000"], "--data.image_size must be "),
        (["experts", "--out", "y", "--model.name=os:system"], "the network os:system does not take its arguments"),
        (["experts", "--out", "y", "--data.name=cifar"], "--data.name must be "),
        (["evaluate", "x", "--which", "worst"], "--which must be final or best, not 'worst'"),
        (["evaluate", "x", "--seed", "1e30"], "--seed must be an integer, not '1e30'"),
        (["import", "x", "--lr", "fast"], "--lr must be a number, not 'fast'"),
        (["convexify", "x", "--out", "y", "--waypoints", "few"], "--waypoints must be an integer or a list"),
        (["evaluate", "--help", "models"], "--help models: pydistill evaluate has no topics"),
        (["evaluate", "x", "--distill.steps", "3"], "there is no flag --distill.steps"),
        (["demo", "--seed", "-1"], "--seed must be "),
        (["distill", "--help", "distil"], "did you mean distill?"),
        (["export", "x", "--format", "mtt", "--as_is"], "--out"),
    ],
)
def test_a_wrong_argument_is_refused_in_one_sentence(
    words: list[str], part: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    message = capsys.readouterr().err
    assert part in message
    assert message.startswith("pydistill: error: ")
    assert message.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_raised_error_names_the_flag(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--distill\.steps must be"):
        main(["distill", *WHERE, "--distill.steps=0", "--debug"])


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("distill: {stps: 3}\n", "distill.stps is not a setting; did you mean distill.steps?"),
        ("distill: {steps: many}\n", "distill.steps must be an integer of at least 1, not 'many'"),
        ("distill: {steps: 3}\ndistill: {ipc: 1}\n", "at line 2, column 1: this name appears twice"),
        ("root:x:0:secret\ndaemon:x:1\n", "is no recipe"),
        ("secret: [\n", "at line 2, column 1"),
        ("data: {name: 2020-01-01}\n", "data.name must be "),
        ("data: !!python/object:os.system {}\n", "line 1"),
        ("[" * 50_000, "not readable"),
        (f"distill: {{lr_lr: {'9' * 400}}}\n", "distill.lr_lr must be "),
        ("", "is empty"),
        ("distill:\n\tsteps: 3\n", "at line 2, column 1: indent with spaces instead of the tab"),
        ("#" * 2**21, "1 MiB"),
    ],
)
def test_errors_in_a_recipe_name_its_file(
    text: str, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    assert main(["distill", "--config", str(file), *WHERE]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"pydistill: error: recipe {file}")
    assert part in message
    assert "--distill" not in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    "text", ["root:x:0:secret\n", "secret: x\n", "secret: [\n", "secret: 1\nsecret: 2\n", "- secret\n"]
)
def test_a_file_that_is_no_recipe_is_not_shown(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "shadow"
    file.write_text(text)
    assert main(["distill", "--config", str(file), *WHERE]) == 2
    assert "secret" not in capsys.readouterr().err


def test_a_file_names_code_only_if_trusted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("model: {name: 'mine:net'}")
    for command in (["plan"], ["experts", "--out", "y"], ["distill", *WHERE]):
        assert main([*command, "--config", str(file), "--print_config"]) == 2
        assert "--trust" in capsys.readouterr().err
        assert main([*command, "--config", str(file), "--print_config", "--trust"]) == 0
        assert main([*command, "--model.name", "mine:net", "--print_config"]) == 0
        assert capsys.readouterr().out.count("name: mine:net") == 2


def test_a_path_that_is_not_utf8_is_refused_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", "--config", "r\udcff.json", *WHERE]) == 2
    assert "r\\udcff.json" in capsys.readouterr().err


def test_a_partial_file_over_a_preset_is_checked_with_the_preset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """min_start = 5 is above the default max_start, and below that of the preset."""
    file = tmp_path / "later.yaml"
    file.write_text("distill: {min_start: 5}")
    assert main(["distill", "--preset", "mtt/cifar10-ipc50", "--config", str(file), "--print_config"]) == 0
    assert "min_start: 5" in capsys.readouterr().out
    assert main(["distill", "--config", str(file), "--print_config"]) == 2
    assert str(file) in capsys.readouterr().err


@pytest.mark.parametrize("printing", ["distill", "plan", "experts"])
def test_a_printed_recipe_reads_back_equal(printing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {
        "distill.lr_form": "log",
        "distill.lr_lr": 1e-7,
        "distill.waypoints": [0, 2],
        "data.path": "1e5",
        "expert.training.dsa.flip": 0.25,
        "evaluation.training.dsa": None,
        "evaluation.models": ["convnet3"],
    }
    flags = ["--distill.lr_form", "log", "--distill.lr_lr", "1e-7", "--distill.waypoints", "[0, 2]"]
    flags += ["--data.path", "1e5", "--expert.training.dsa.flip=0.25", "--evaluation.training.dsa=null"]
    flags += ["--evaluation.models=[convnet3]"]
    expected = load_recipe(preset_path("demo/digits-att"), changes)
    experts = [] if printing == "experts" else ["--experts=x"]
    assert run(printing, "--preset", "demo/digits-att", *flags, *experts, "--print_config") == 0
    file = tmp_path / "printed.yaml"
    file.write_text(capsys.readouterr().out)
    assert load_recipe(file) == expected
    for reading in ("distill", "plan", "experts"):
        assert run(reading, "--config", file, "--print_config") == 0
        printed = capsys.readouterr().out
        assert printed == file.read_text()
        assert list(read_yaml(printed)) == [field.name for field in fields(Recipe)]
