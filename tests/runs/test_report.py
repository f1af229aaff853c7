"""The report: what it holds, for runs that are finished, unfinished, stopped early or damaged."""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
import shutil
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pydistill.artefact.figures import curves_figure, figure_bytes
from pydistill.cli import main
from pydistill.errors import InputError
from pydistill.evaluation.evaluate import Evaluation
from pydistill.evaluation.evaluations_file import add_evaluations, read_evaluations
from pydistill.runs.folder import RunFolder
from pydistill.runs.loggers import LogSettings
from pydistill.runs.report import write_report
from pydistill.runs.report.contents import read_run
from pydistill.runs.report.tables import commands
from pydistill.runs.run import run_distillation
from pydistill.runs.workflow import distill_and_report
from pydistill.training.experts import train_experts
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import EXPERT, MODEL, experts, recipe

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("curves")

DATA = blobs(channels=3)
NO_LOGS = LogSettings(tensorboard=False)


class Page(HTMLParser):
    """A page's text, tags and pictures; every tag must be closed."""

    EMPTY = ("meta", "link", "img")

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(source)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def pictures(self) -> dict[str, bytes]:
        """The content of the pictures, by media type."""
        sources = [attributes["src"] or "" for tag, attributes in self.tags if tag == "img"]
        return {source[5 : source.index(";")]: base64.b64decode(source.split(",")[1]) for source in sources}


def page(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def finished(curves: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    store = experts(folder / "experts", DATA)
    work = recipe(evaluate_every=4, ipc=2)
    distill_and_report(DATA, work, store, folder / "run", resume=False, quiet=True, log=NO_LOGS)
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def unfinished(run: Path) -> None:
    """Make it a run that was stopped after iteration 3, before its first evaluation, while it wrote its metrics."""
    state, tensors = RunFolder(run).load_checkpoint()
    state["distiller"]["iteration"] = 3
    RunFolder(run).save_checkpoint(state, tensors)
    for name in ("distilled.safetensors", "best.safetensors", "summary.json"):
        (run / name).unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines()
    early = [line for line in lines if json.loads(line)["iteration"] <= 3]
    (run / "metrics.jsonl").write_text("\n".join(early) + '\n{"event": "itera')


def test_a_run_ends_with_a_report_that_holds_its_numbers(finished: Path) -> None:
    report = Page((finished / "report.html").read_text(encoding="utf-8"))
    summary = json.loads((finished / "summary.json").read_text())
    assert "blobs by ATT, 2 images per class" in report.text
    for name in ("accuracy_final", "accuracy_best"):
        assert f"{100 * summary[name]['mean']:.1f} ± {100 * summary[name]['std']:.1f} %" in report.text
    assert f"{summary['lr']:.4g}" in report.text
    assert "finished" in report.text
    assert "peak memory" in report.text
    assert DATA.digest in report.text
    assert "pydistill distill" not in report.text  # no command loads data that were in memory
    assert "pydistill evaluate" not in report.text
    assert "missing" not in report.text
    assert "damaged" not in report.text


def test_nothing_on_the_page_contradicts_the_recipe(run: Path) -> None:
    """A rate that does not move is not learned, and the chosen step of ATT is not always the last, even if it was."""
    recipe = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(json.dumps(recipe | {"distill": recipe["distill"] | {"lr_lr": 0.0}}))
    text = page(run).text
    assert recipe["distill"]["method"] == "att"
    assert "always" not in text
    assert "learned α" not in text


def test_the_page_is_self_contained(finished: Path) -> None:
    source = (finished / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:)', source)
    assert not re.findall(r"https?://|@import|<script|url\(", source)
    pictures = Page(source).pictures
    assert set(pictures) == {"image/png", "image/svg+xml"}
    with Image.open(io.BytesIO(pictures["image/png"])) as image:
        image.load()
        assert min(image.size) > 100
    svg = Page(re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>", "", pictures["image/svg+xml"].decode(), flags=re.S))
    assert svg.tags[0][0] == "svg"


def test_an_unfinished_run(run: Path) -> None:
    unfinished(run)
    report = page(run)
    assert "iteration 3 of 8" in report.text
    assert "No network has been tested yet." in report.text
    assert set(report.pictures) == {"image/png", "image/svg+xml"}


def test_a_run_without_images(run: Path) -> None:
    for name in ("distilled.safetensors", "best.safetensors", "summary.json", "checkpoint.safetensors"):
        (run / name).unlink()
    (run / "metrics.jsonl").write_text("")
    report = page(run)
    assert "iteration 0 of 8" in report.text
    assert set(report.pictures) == {"image/svg+xml"}


def test_a_resumed_run_is_not_finished(run: Path) -> None:
    """Its summary and its set are those of an earlier end."""
    longer = json.loads((run / "recipe.json").read_text())
    longer["distill"]["iterations"] = 12
    (run / "recipe.json").write_text(json.dumps(longer))
    assert "iteration 8 of 12" in page(run).text


def test_without_matplotlib_the_pictures_are_left_out(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    report = page(run)
    assert not report.pictures
    assert report.text.count("pip install matplotlib") == 2


@pytest.mark.parametrize(
    "name",
    [
        "recipe.json",
        "config.json",
        "metrics.jsonl",
        "summary.json",
        "checkpoint.safetensors",
        "distilled.safetensors",
        "best.safetensors",
    ],
)
@pytest.mark.parametrize("content", [b"{\n", None])
def test_a_missing_or_damaged_file_is_a_sentence_on_the_page(name: str, content: bytes | None, run: Path) -> None:
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_bytes(content)
    report = page(run)
    always = name in ("recipe.json", "config.json", "metrics.jsonl")
    assert len(read_run(run).problems) == (always or content is not None)
    for problem in read_run(run).problems:
        assert problem in report.text
    assert set(report.pictures) == {"image/png", "image/svg+xml"}


def test_damaged_evaluations_are_a_sentence_too(run: Path) -> None:
    (run / "evaluations.json").write_text("{")
    assert "evaluations.json is damaged" in page(run).text


def test_rejected_updates_and_an_early_end(run: Path) -> None:
    lines = [line for line in RunFolder(run).metrics() if line["event"] == "iteration"]
    with (run / "metrics.jsonl").open("a") as metrics:
        event = {"event": "guard", "iteration": 7, "what": "lr", "reason": "<would be> -1", "knob": "lr_lr"}
        metrics.write(json.dumps(event | {"rejections": 1}) + "\n")
        metrics.write(json.dumps(lines[-1] | {"iteration": 9, "loss": None, "rejected": "why"}) + "\n")
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"ended_early": "too many updates", "iterations": 9}))
    report = page(run)
    assert "ended early" in report.text
    assert "too many updates" in report.text
    assert "<would be> -1" in report.text  # as text, not as a tag


def test_the_newest_evaluation_of_each_network_is_shown(run: Path) -> None:
    about: dict[str, Any] = {"which": "best", "iteration": 4, "epochs": 3, "seed": 0}
    add_evaluations(run, [Evaluation("vgg11", (0.5, 0.7), 1.5)], **about)
    add_evaluations(run, [Evaluation("vgg11", (0.25,), 1.5), Evaluation("<b>", (1.0,), 0.1, diverged=1)], **about)
    assert [row["runs"] for row in read_evaluations(run)] == [[0.5, 0.7], [0.25], [1.0]]
    report = page(run)
    assert report.text.count("vgg11") == 1
    assert "25.0 %" in report.text
    assert "<b>" in report.text
    assert "1 diverged" in report.text


def test_curves_of_several_experts_per_step_and_of_numbers_that_are_not_finite(run: Path) -> None:
    lines = RunFolder(run).metrics()
    for line in lines:
        if line["event"] == "iteration":
            line["step"] = [1, 3]
        if line["event"] == "distances":
            line["distances"][1] = None
    lines[0]["loss"] = None
    assert b"<svg" in figure_bytes(curves_figure(lines), "svg")


def test_the_command(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "deep" / "page.html"
    assert main(["report", str(run), "--out", str(target), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(target)}
    assert "blobs by ATT" in target.read_text()
    assert main(["report", str(tmp_path / "deep")]) == 2


@pytest.mark.parametrize("name", ["distilled.safetensors", "recipe.json", "page.html", "empty"])
def test_only_a_report_is_replaced(name: str, run: Path) -> None:
    (run / "page.html").write_text("<!doctype html>\n<p>somebody else's page</p>")
    (run / "empty").touch()
    before = (run / name).read_bytes()
    with pytest.raises(InputError):
        write_report(run, run / name)
    assert (run / name).read_bytes() == before
    with pytest.raises(InputError):
        write_report(run, run)
    assert write_report(run, run / "report.html") == run / "report.html"


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        write_report(tmp_path)


def test_the_commands_make_the_experts_again(tmp_path: Path) -> None:
    """More experts than the recipe's, with other waypoints: the commands give the same digest."""
    store = train_experts(DATA, MODEL, replace(EXPERT, count=4), tmp_path / "experts")
    convexified = store.write_convexified(tmp_path / "convexified", waypoints=3)
    run_distillation(recipe(iterations=1, method="mct"), DATA, convexified, tmp_path / "run")
    made, convexify, distill, _ = commands(read_run(tmp_path / "run")).splitlines()
    assert made.endswith("recipe.json --expert.count 4 --out EXPERTS")
    assert "--experts CONVEXIFIED --out AGAIN" in distill
    places = {"EXPERTS": str(store.path), "CONVEXIFIED": str(tmp_path / "again")}
    assert main([places.get(word, word) for word in shlex.split(convexify)][1:]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert TrajectoryStore.open(tmp_path / "again").digest == config["trajectories"]["digest"]


def test_experts_that_no_command_makes(tmp_path: Path) -> None:
    """Imported ones, or a selection."""
    store = experts(tmp_path / "experts", DATA)
    imported = TrajectoryStore.create(tmp_path / "imported", replace(store.record, training={"source": "mtt"}))
    imported.add(0, store[0].snapshots)
    selected = TrajectoryStore.create(tmp_path / "selected", store.record)
    selected.add(2, store[2].snapshots)
    for other in (imported, selected):
        run = tmp_path / f"run of {other.path.name}"
        run_distillation(recipe(iterations=1), DATA, other, run)
        assert "pydistill experts" not in commands(read_run(run))
        assert other.digest in page(run).text


def test_the_commands_use_the_run_s_number_of_threads(run: Path) -> None:
    prefix = f"OMP_NUM_THREADS={torch.get_num_threads()} pydistill"
    starts = [line.split(" --")[0] for line in commands(read_run(run)).splitlines()]
    assert starts == ["pydistill experts", f"{prefix} distill", f"{prefix} evaluate AGAIN"]
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"threads": None}))
    assert "OMP_NUM_THREADS" not in commands(read_run(run))


def test_distances_are_recorded_at_the_first_iteration_and_at_checkpoints(finished: Path) -> None:
    lines = [line for line in RunFolder(finished).metrics() if line["event"] == "distances"]
    assert [line["iteration"] for line in lines] == [1, 3, 6]
    steps = {line["iteration"]: line["step"] for line in RunFolder(finished).metrics() if line["event"] == "iteration"}
    for line in lines:
        assert len(line["distances"]) == 3 + 1
        assert line["step"] == steps[line["iteration"]]
        assert min(range(1, 4), key=line["distances"].__getitem__) == line["step"]  # ATT: the nearest
