"""The report: what it holds, of runs that are finished, going on, stopped early or damaged."""

from __future__ import annotations

import contextlib
import json
import math
import random
import re
import shlex
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from pydistill.cli import main
from pydistill.errors import InputError, PydistillError
from pydistill.evaluation.evaluate import Evaluation
from pydistill.evaluation.evaluations_file import add_evaluations, read_evaluations
from pydistill.runs.folder import RunFolder
from pydistill.runs.loggers import LogSettings
from pydistill.runs.report import write_report
from pydistill.runs.report.chart import Band, Chart, Dots, Level, Line
from pydistill.runs.report.contents import read_run
from pydistill.runs.report.pictures import data_uri, newest_images
from pydistill.runs.report.series import means, ranges, sample, spaced
from pydistill.runs.report.tables import commands
from pydistill.runs.report.ticks import ticks, told
from pydistill.runs.run import run_distillation
from pydistill.runs.workflow import distill_and_report
from pydistill.training.experts import train_experts
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import EXPERT, MODEL, experts, recipe

DATA = blobs(channels=3)
NO_LOGS = LogSettings(tensorboard=False)


class Page(HTMLParser):
    """A page's text, headings and tags; every tag must be closed by its own."""

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

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


def change_summary(run: Path, **values: Any) -> None:
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | values))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    store = experts(folder / "experts", DATA)
    work = recipe(evaluate_every=4, ipc=2)
    distill_and_report(DATA, work, store, folder / "run", resume=False, quiet=True, log=NO_LOGS)
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_a_run_ends_with_a_report_that_holds_everything(finished: Path) -> None:
    found = Page((finished / "report.html").read_text(encoding="utf-8"))
    assert "blobs by ATT, 2 images per class" in found.text
    assert "finished" in found.text
    assert "8 of 8" in found.text
    summary = json.loads((finished / "summary.json").read_text())
    assert (
        f"{100 * summary['accuracy_final']['mean']:.1f} ± {100 * summary['accuracy_final']['std']:.1f} %" in found.text
    )
    for title in ("Test accuracy", "Matching loss", "Chosen step", "Distance to the target", "learning rate α"):
        assert title in found.text
    assert "Time per iteration" in found.text
    assert "peak memory of the process" in found.text
    assert f"threads at its end{torch.get_num_threads()}data set" in found.text
    assert DATA.digest in found.text
    assert "pydistill distill --config" in found.text
    assert "The data were made in Python" in found.text
    assert len(found.of("svg")) == 6
    assert len(found.of("img")) == 2 * 2 * 4


def test_the_commands_make_the_run_s_own_experts_again(tmp_path: Path) -> None:
    """More experts than the recipe's, convexified by other waypoints: what they give has the run's digest."""
    store = train_experts(DATA, MODEL, replace(EXPERT, count=4), tmp_path / "experts")
    convexified = store.write_convexified(tmp_path / "convexified", waypoints=3)
    run_distillation(recipe(iterations=1, method="mct"), DATA, convexified, tmp_path / "run")
    made, convexify, distil, _ = commands(read_run(tmp_path / "run")).splitlines()
    assert made.endswith("recipe.json --expert.count 4 --out EXPERTS")
    assert convexify == (
        "pydistill convexify EXPERTS --waypoints '[0,3,6]' --smoothing neighbours --fractions path --out CONVEXIFIED"
    )
    assert "--experts CONVEXIFIED --out AGAIN" in distil
    places = {"EXPERTS": str(store.path), "CONVEXIFIED": str(tmp_path / "again")}
    assert main([places.get(word, word) for word in shlex.split(convexify)][1:]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert TrajectoryStore.open(tmp_path / "again").digest == config["trajectories"]["digest"]
    assert "very experts" not in page(tmp_path / "run").text


def test_experts_that_no_command_makes(tmp_path: Path) -> None:
    """Imported ones, or a choice: their files and digest are needed."""
    known = experts(tmp_path / "experts", DATA)
    imported = TrajectoryStore.create(tmp_path / "imported", replace(known.record, training={"source": "mtt"}))
    imported.add(0, known[0].snapshots)
    chosen = TrajectoryStore.create(tmp_path / "chosen", known.record)
    chosen.add(2, known[2].snapshots)
    for store in (imported, chosen):
        run = tmp_path / f"run of {store.path.name}"
        run_distillation(recipe(iterations=1), DATA, store, run)
        assert commands(read_run(run)).count("pydistill experts") == 0
        assert "EXPERTS are the very experts of this run" in page(run).text
        assert store.digest in page(run).text
        run_distillation(recipe(iterations=2), DATA, store, run, resume=True)


def test_the_file_is_alone(finished: Path) -> None:
    source = (finished / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:)', source)
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)|@import|<script|url\(", source)


def test_pictures_are_the_pixels(finished: Path) -> None:
    import base64
    import io

    from PIL import Image

    shown = newest_images(read_run(finished))
    assert shown is not None
    picture = Image.open(io.BytesIO(base64.b64decode(data_uri(shown.after[3]).split(",")[1])))
    pixels = torch.tensor(list(picture.convert("RGB").tobytes())).view(8, 8, 3).permute(2, 0, 1)
    assert torch.equal(pixels, (255 * shown.after[3]).round().long())
    strip = Image.open(io.BytesIO(base64.b64decode(data_uri(torch.rand(5, 1, 2)).split(",")[1])))
    assert (strip.size, strip.mode) == ((10, 1), "L")


def test_a_run_that_goes_on(run: Path) -> None:
    """Before the first evaluation: no set, no summary, half a line of metrics."""
    state, tensors = RunFolder(run).load_checkpoint()
    state["distiller"]["iteration"], state["judge"] = 3, {"best": None, "last": None}
    RunFolder(run).save_checkpoint(state, tensors)
    for name in ("distilled.safetensors", "best.safetensors", "summary.json"):
        (run / name).unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines()
    early = [line for line in lines if json.loads(line)["iteration"] <= 3]
    (run / "metrics.jsonl").write_text("\n".join(early) + '\n{"event": "itera')
    found = page(run)
    assert "in progress: iteration 3 of 8" in found.text
    assert "Colours are scaled to the range of all pixels" in found.text
    assert "No network has been tested yet." in found.text
    assert len(found.of("img")) == 16


def test_a_resumed_run_shows_the_checkpoint_s_images_in_the_set_s_colours(run: Path) -> None:
    folder = RunFolder(run)
    state, tensors = folder.load_checkpoint()
    state["distiller"]["iteration"] += 1
    before = newest_images(read_run(run))
    assert before is not None
    folder.save_checkpoint(state, tensors)
    after = newest_images(read_run(run))
    assert after is not None
    assert (before.iteration, after.iteration) == (8, 9)
    torch.testing.assert_close(after.after, before.after)
    assert after.note == ""


def test_a_run_that_ended_shows_the_set_that_it_ended_with(run: Path) -> None:
    state, tensors = RunFolder(run).load_checkpoint()
    state["distiller"]["iteration"] += 1
    RunFolder(run).save_checkpoint(state, tensors | {"average": 0 * tensors["average"]})
    ended, going_on = newest_images(read_run(run), saved=True), newest_images(read_run(run))
    assert ended is not None
    assert going_on is not None
    assert (ended.iteration, going_on.iteration) == (8, 9)
    assert float(ended.after.std()) > 0.1 > float(going_on.after.std(dim=(0, 2, 3)).max())


@pytest.mark.parametrize("going_on", [False, True])
def test_the_checkpoint_is_read_once(going_on: bool, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if going_on:
        (run / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text().splitlines()[0] + "\n")
    reads: list[Path] = []
    load = RunFolder.load_checkpoint

    def noted(folder: RunFolder) -> Any:
        reads.append(folder.path)
        return load(folder)

    monkeypatch.setattr(RunFolder, "load_checkpoint", noted)
    page(run)
    assert reads == [run]


@pytest.mark.parametrize("going_on", [False, True])
def test_a_damaged_checkpoint_is_told_and_left_out(going_on: bool, run: Path, caplog: pytest.LogCaptureFixture) -> None:
    if going_on:
        (run / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text().splitlines()[0] + "\n")
    content = (run / "checkpoint.safetensors").read_bytes()
    (run / "checkpoint.safetensors").write_bytes(content[: len(content) // 2])
    found = page(run)
    assert len(found.of("img")) == 2 * 2 * 4
    assert caplog.messages == [f"checkpoint {run}/checkpoint.safetensors is damaged; it is left out"]


def test_a_run_without_anything_yet(run: Path) -> None:
    for name in ("distilled.safetensors", "best.safetensors", "summary.json", "checkpoint.safetensors"):
        (run / name).unlink()
    (run / "metrics.jsonl").write_text("")
    found = page(run)
    assert "iteration 0 of 8" in found.text
    assert "There are none yet" in found.text
    assert "Nothing to draw yet." in found.text


def test_guard_events_and_the_end_of_a_run(run: Path) -> None:
    lines = [line for line in RunFolder(run).metrics() if line["event"] == "iteration"]
    with (run / "metrics.jsonl").open("a") as metrics:
        event = {"event": "guard", "iteration": 7, "what": "lr", "reason": "<would be> -1", "knob": "lr_lr"}
        metrics.write(json.dumps(event | {"rejections": 1}) + "\n")
        metrics.write(json.dumps(lines[-1] | {"iteration": 9, "loss": None, "rejected": "why"}) + "\n")
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"ended_early": "too many updates", "iterations": 9}))
    found = page(run)
    assert "ended early" in found.text
    assert "too many updates" in found.text
    assert "<would be> -1" in found.text  # as text: the page has no such tag
    assert "update not applied" in found.text
    assert "setting to turn" in found.text


def test_networks_of_evaluations_json_are_in_the_table(run: Path) -> None:
    about: dict[str, Any] = {"which": "best", "iteration": 4, "epochs": 3, "seed": 0}
    add_evaluations(run, [Evaluation("vgg11", (0.5, 0.7), 1.5)], **about)
    add_evaluations(run, [Evaluation("vgg11", (0.25,), 1.5), Evaluation("<b>", (1.0,), 0.1, diverged=1)], **about)
    assert [row["runs"] for row in read_evaluations(run)] == [[0.5, 0.7], [0.25], [1.0]]
    found = page(run)
    assert found.text.count("vgg11") == 1  # the newest
    assert "25.0 %" in found.text
    assert "25.0 ±" not in found.text
    assert "<b>" in found.text
    assert "the run itself, at its end (8)" in found.text
    assert "pydistill evaluate, best set (4)" in found.text
    assert "repeats the run's own test" in found.text


def test_experts_per_step_draws_every_segment(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [line | {"step": [1, 3]} if line["event"] == "iteration" else line for line in lines]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "Chosen step" in page(run).text


def test_damaged_values_give_a_report_or_one_of_our_errors(run: Path) -> None:
    """Numbers, texts, lists and mappings in each other's places, in every file that is text."""
    chance = random.Random(0)
    junk: list[Any] = [None, True, -1, 3.5, 1e308, 10**400, math.nan, "x", "<b>", [], [1, "a", None], {}, {"a": 1}]

    def changed(value: Any, often: float) -> Any:
        if chance.random() < often:
            return chance.choice(junk)
        if isinstance(value, dict):
            return {name: changed(each, often) for name, each in value.items() if chance.random() > often / 3}
        return [changed(each, often) for each in value] if isinstance(value, list) else value

    add_evaluations(run, [Evaluation("vgg11", (0.5, 0.7), 1.5)], which="final", iteration=8, epochs=3, seed=0)
    names = ("recipe.json", "config.json", "summary.json", "evaluations.json")
    whole = {name: json.loads((run / name).read_text()) for name in names}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    written = 0
    for _ in range(80):
        for name, value in whole.items():
            (run / name).write_text(json.dumps(changed(value, chance.choice([0.0, 0.01, 0.1]))))
        often = chance.choice([0.0, 0.02])
        (run / "metrics.jsonl").write_text("".join(json.dumps(changed(line, often)) + "\n" for line in lines))
        with contextlib.suppress(PydistillError):
            write_report(run)
            written += 1
    assert 20 < written < 80


def test_the_command(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run), "--out", str(tmp_path / "deep" / "page.html"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(tmp_path / "deep" / "page.html")}
    assert "blobs by ATT" in (tmp_path / "deep" / "page.html").read_text()
    assert main(["report", str(tmp_path / "deep")]) == 2
    names = "metrics.jsonl, checkpoint.safetensors or distilled.safetensors"
    assert f"holds no run: there is no {names} in it; give a run's folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["distilled.safetensors", "recipe.json", "page.html", "empty"])
def test_a_report_is_written_over_nothing_but_a_report(
    run: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "page.html").write_text("<!doctype html>\n<p>a page of somebody else's</p>")
    (run / "empty").touch()
    before = (run / name).read_bytes()
    assert main(["report", str(run), "--out", str(run / name)]) == 2
    told = f"{run / name} is there already and is no report of pydistill's; choose another file, or remove it"
    assert told in capsys.readouterr().err
    assert (run / name).read_bytes() == before
    assert main(["report", str(run), "--out", str(run)]) == 2
    assert "is a folder, and a report is a file; name a file in it" in capsys.readouterr().err
    assert main(["report", str(run), "--out", str(run / "report.html")]) == 0


def test_the_commands_take_as_many_threads_as_the_run_ended_with(run: Path) -> None:
    threads = torch.get_num_threads()
    assert json.loads((run / "summary.json").read_text())["threads"] == threads
    lines = commands(read_run(run)).splitlines()
    begin = f"OMP_NUM_THREADS={threads} pydistill"
    assert [line.split(" --")[0] for line in lines] == [
        "pydistill experts",
        f"{begin} distill",
        f"{begin} evaluate AGAIN",
    ]
    for unknown in (None, True, 0, "2"):
        change_summary(run, threads=unknown)
        assert all(line.startswith("pydistill ") for line in commands(read_run(run)).splitlines())
        assert "OMP_NUM_THREADS" not in page(run).text


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        write_report(tmp_path)


def test_distances_are_in_the_metrics_at_the_first_iteration_and_at_checkpoints(finished: Path) -> None:
    lines = [line for line in RunFolder(finished).metrics() if line["event"] == "distances"]
    assert [line["iteration"] for line in lines] == [1, 3, 6]
    steps = {line["iteration"]: line["step"] for line in RunFolder(finished).metrics() if line["event"] == "iteration"}
    for line in lines:
        assert len(line["distances"]) == 3 + 1
        assert line["step"] == steps[line["iteration"]]
        assert min(range(1, 4), key=line["distances"].__getitem__) == line["step"]  # ATT: the nearest


@pytest.mark.parametrize(
    ("low", "high", "kind", "expected"),
    [
        (0, 100, {}, [0, 20, 40, 60, 80, 100]),
        (0.12, 0.51, {}, [0.2, 0.3, 0.4, 0.5]),
        (0, 3, {"whole": True}, [0, 1, 2, 3]),
        (1e-3, 2.0, {"log": True}, [1e-3, 1e-2, 1e-1, 1.0]),
        (0.01, 0.3, {"log": True}, [0.01, 0.02, 0.05, 0.1, 0.2]),
        (3.1, 3.2, {"log": True}, [3.1, 3.12, 3.14, 3.16, 3.18, 3.2]),
    ],
)
def test_ticks(low: float, high: float, kind: dict[str, bool], expected: list[float]) -> None:
    assert ticks(low, high, 5, **kind) == pytest.approx(expected)


def test_numbers_on_axes() -> None:
    assert [told(each, [0, 500, 1500]) for each in (0, 500, 1500)] == ["0", "500", "1,500"]
    assert [told(each, [0, 20000]) for each in (0, 20000)] == ["0", "20k"]
    assert [told(each, [0.1, 1e3, 5e5, 1.5e6]) for each in (0.1, 1e3, 5e5, 1.5e6)] == ["0.1", "1,000", "0.5M", "1.5M"]
    assert told(2e-7, [2e-7]) == "2e-07"


def test_long_series_become_short_and_keep_their_mean_and_range() -> None:
    points = [(float(x), float(x % 7)) for x in range(10_000)]
    assert len(means(points, 100)) == len(ranges(points, 100)) == 100
    assert sum(y for _, y in means(points, 100)) / 100 == pytest.approx(sum(y for _, y in points) / 10_000)
    assert all((low, high) == (0, 6) for _, low, high in ranges(points, 100))
    assert sample(points, 10)[-1] == points[-1]
    assert len(sample(points, 10)) == 10
    assert spaced(3, 5) == [0, 1, 2]
    assert spaced(101, 5) == [0, 25, 50, 75, 100]


def test_a_chart_draws_its_data_where_its_axes_say() -> None:
    chart = Chart("t", "x", [Line([(0, 0), (10, 100)], "c0"), Level(50, "c1", "half")], bottom=0)
    source = chart.html()
    numbers = {text: float(y) for y, text in re.findall(r'y="([\d.]+)" text-anchor="end">(\d+)<', source)}
    heights = [
        float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", re.findall(r'class="line c0" d="([^"]+)"', source)[0])
    ]
    assert heights == pytest.approx([numbers["0"] - 4, numbers["100"] - 4], abs=0.11)
    level = re.findall(r'class="level c1" d="M[\d.]+ ([\d.]+)H', source)
    assert float(level[0]) == pytest.approx(sum(heights) / 2, abs=0.11)


def test_a_logarithmic_chart_leaves_out_what_it_cannot_show() -> None:
    layers = [Line([(0, 0.0), (1, 1.0), (2, 100.0)], "c0"), Band([(0, 0.0, 1.0)], "c1"), Dots([(0, -1.0)], "c2")]
    source = Chart("t", "x", layers, log=True).html()
    assert source.count('class="line') == 1
    assert "band c1" not in source
    assert "dots c2" not in source
    assert "nan" not in source
