"""What a person is told of a wrong word: one sentence, with the nearest right one in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pydistill.cli import main
from pydistill.cli.messages import as_given

WHERE = ["--experts", "x", "--out", "y"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["distil"], "there is no command 'distil'; did you mean distill?"),
        (["--out", "x", "distill"], "the command goes before --out: pydistill COMMAND …"),
        (["distill", "--out", "y"], "--experts (folder of experts, recorded or convexified) is missing"),
        (
            ["convexify"],
            "EXPERTS (folder of recorded experts) and --out (folder of the convexified experts) are missing",
        ),
        (["show", "a", "b"], "'b' is one word too many"),
        (["distill", *WHERE, "--distill.stps=3"], "there is no flag --distill.stps; did you mean --distill.steps? ("),
        (["distill", *WHERE, "--steps", "3"], "there is no flag --steps; did you mean --distill.steps"),
        (["distill", *WHERE, "--distill.steps"], "--distill.steps needs a value behind it"),
        (["distill", *WHERE, "--preset"], "--preset needs a value behind it"),
        (
            ["distill", *WHERE, "--distill.backend=gpu"],
            "backend must be auto, fused, torch or autograd, not gpu",
        ),
        (["distill", *WHERE, "--distill.dsa.flp=2"], "--distill.dsa.flp: there is no such setting; did you mean flip?"),
        (["distill", *WHERE, "--distill.dsa=5"], "--distill.dsa must be null or settings such as {flip: 0.5}, not 5"),
        (
            ["distill", *WHERE, "--model", "convnet3"],
            "--model takes no value of its own, only its settings do",
        ),
        (["distill", *WHERE, "--preset", "att/cifar10"], "did you mean att/cifar10-ipc1"),
        (["distill", *WHERE, "--evaluation.models=[convnt3]"], "there is no network 'convnt3'"),
        (
            ["distill", *WHERE, "--evaluation.seed=-1"],
            "seed of the evaluation must be at least 0 and below",
        ),
        (
            ["experts", "--out", "y", "--expert.seed=-1"],
            "seed of the experts must be at least 0 and below",
        ),
        (["experts", "--out", "y", "--data.image_size=100000"], "must be at least 1 pixel and at most 4096"),
        (["experts", "--out", "y", "--model.name=os:system"], "the network os:system does not take its arguments"),
        (["evaluate", "x", "--which", "worst"], "--which must be final or best, not worst"),
        (["demo", "--seed", "-1"], "--seed must be at least 0 and below 2^63, not -1"),
        (["distill", "--help", "distil"], "there is no such group; did you mean distill?"),
        (["evaluate", "x", "--seed", "1e30"], "--seed must be a whole number or null, not 1e30 ("),
        (["evaluate", "x", "--seed", "nan"], "--seed must be a whole number or null, not nan ("),
        (["evaluate", "x", "--seed", "1e400"], "--seed must be a whole number or null, not 1e400 ("),
        (["evaluate", "x", "--seed", "true"], "--seed must be a whole number or null, not true ("),
        (["evaluate", "x", "--seed", ""], "--seed must be a whole number or null, not empty ("),
        (["evaluate", "x", "--seed", "9" * 5000], "--seed must be a value of fewer digits, not one of thousands ("),
        (["distill", *WHERE, "--distill.steps", "1e30"], "--distill.steps must be a whole number, not 1e+30 ("),
        (["distill", *WHERE, "--distill.growing", "1e30"], "growing must be true or false or null, not 1e30 ("),
        (["distill", *WHERE, "--distill.gradient", "1e30"], "gradient must be exact, truncated or null, not 1e30 ("),
        (["distill", *WHERE, "--distill.dsa=1e30"], "dsa must be null or settings such as {flip: 0.5}, not 1e30 ("),
        (
            ["distill", *WHERE, "--distill.waypoints", "[1.5]"],
            "--distill.waypoints must be a whole number, a list such as [1, 2] or null, not [1.5] (",
        ),
        (["distill", *WHERE, "--distill.ema", "9" * 400], f"must be a number or null, not {'9' * 78} … ("),
        (
            ["distill", *WHERE, "--distill.lr_lr", "9" * 400],
            "lr_lr must be a number below 1e308, not one of 400 digits",
        ),
        (["distill", *WHERE, "--distill.dsa.flip", "1e30"], "flip=1e+30 of the augmentation must be"),
        (
            ["distill", *WHERE, "--expert.count 2 --expert.training.epochs 6"],
            "--expert.count and its value came as one argument; give them apart, without quotes around both (",
        ),
        (["completion", "tcsh"], "must be bash, zsh or fish, not tcsh"),
    ],
)
def test_a_wrong_word_is_told_with_the_right_one(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.startswith("pydistill: error: ")
    assert told.count("\n") == 1
    assert not any(
        word in told for word in ("Traceback", "Literal", "typing", "class '", "Expected", "distill.out", "Parser key")
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("distill: {stps: 3}\n", "there is no setting distill.stps; did you mean distill.steps?"),
        ("distil: {steps: 3}\n", "there is no setting distil; did you mean distill?"),
        ("distill: {backend: gpu}\n", "distill.backend must be one of auto, fused, torch, autograd, not 'gpu'"),
        ("distill: {dsa: {flp: 2}}\n", "there is no setting distill.dsa.flp; did you mean distill.dsa.flip?"),
        ("root:x:0:secret\ndaemon:x:1\n", "holds no settings by name"),
        ("secret: [\n", "is not readable as YAML or JSON: line 2, column 1"),
        ("data: &a {name: digits}\nmodel: *a\n", "line 2 has an alias"),
        ("data: {name: 2020-01-01}\n", "it holds a date"),
        ("1: 2\n", "a setting's name is a int and must be a text"),
        ("[" * 50_000, "nested too deeply"),
        (f"distill: {{lr_lr: {'9' * 400}}}\n", "one of its numbers has hundreds of digits, and must be below 1e308"),
        ("", "holds no settings by name"),
        ("#" * 2**21, "has more than 1048576 bytes"),
    ],
)
def test_a_recipe_s_file_is_named_and_not_shown(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    assert main(["distill", "--config", str(file), *WHERE]) == 2
    told = capsys.readouterr().err
    assert f"recipe {file}" in told
    assert message in told
    assert "secret" not in told
    assert told.count("\n") == 1


def test_numbers_in_a_recipe_s_file(tmp_path: Path) -> None:
    from pydistill.recipes.recipe import load_recipe

    file = tmp_path / "mine.yaml"
    file.write_text("distill: {lr_lr: 1e-7, lr_image: 1.5E+2, ema: .5, iterations: 12}\n")
    found = load_recipe(file, ["--distill.steps=3"]).distill
    assert (found.lr_lr, found.lr_image, found.ema, found.iterations, found.steps) == (1e-7, 150.0, 0.5, 12, 3)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (["distill", "--distill.steps", "0"], "distill.steps"),
        (["distill", "--distill.steps=0"], "distill.steps"),
        (["distill", "--distill.steps=3"], "steps"),  # the value is of another one
        (["distill", "--distill.steps=0", "--expert.steps=0"], "steps"),
        (["distill", "--steps", "0"], "steps"),
        (["distill", "--config", "x"], "steps"),
    ],
)
def test_a_setting_is_named_as_it_was_given(given: list[str], name: str) -> None:
    assert as_given("steps must be at least 1, not 0", given) == f"{name} must be at least 1, not 0"
    assert as_given("Steps must be at least 1, not 0", given) == "Steps must be at least 1, not 0"
