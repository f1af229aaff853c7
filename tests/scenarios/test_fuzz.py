"""500 damaged and hostile files: loaders raise only the package's errors, quickly, and run and touch nothing."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pydistill
from pydistill._util.files import write_json
from pydistill.artefact.distilled_set import DistilledSet
from pydistill.artefact.exchange import export_set, import_set
from pydistill.errors import PydistillError
from pydistill.evaluation.evaluate import Evaluation
from pydistill.evaluation.evaluations_file import add_evaluations, read_evaluations
from pydistill.recipes.recipe import load_recipe
from pydistill.runs.folder import RunFolder
from pydistill.runs.report.contents import read_run
from pydistill.runs.report.tables import costs, networks, outcome, progress
from pydistill.runs.run import run_distillation
from pydistill.trajectories import TrajectoryStore, export_mct, export_mtt, import_mct, import_mtt
from tests.helpers.blobs import blobs
from tests.helpers.corruption import Corruption, corruptions, damages
from tests.helpers.small_runs import EVALUATION, experts, recipe

CASES = 500
SECONDS = 10  # of this process's CPU time, for one case
WAITING = 120  # of the wall's clock, on a machine with other work
SUMMARY = {
    "accuracy_distilled": {"mean": 0.5, "std": 0.1, "runs": [0.4, 0.6]},
    "accuracy_random_real": {"mean": 0.4, "std": 0.1, "runs": [0.3, 0.5]},
    "seconds": {"distillation": 12.5, "evaluation": 3.0},
    "peak_memory_bytes": 10**9,
    "ended_early": "the guard ended it",
    "iterations": 2,
}
DCBENCH = "set-dcbench/TM/blobs/IPC1"
RECIPE = replace(recipe(iterations=2, checkpoint_every=1), evaluation=replace(EVALUATION, repeats=1))


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every kind of file that is read."""
    root = tmp_path_factory.mktemp("fuzz") / "intact"
    data = blobs()
    store = experts(root / "experts", data)
    convexified = store.write_convexified(root / "convexified", waypoints=3)
    run_distillation(RECIPE, data, store, root / "run")
    write_json(root / "run" / "summary.json", SUMMARY)
    add_evaluations(root / "run", [Evaluation("mlp", (0.5, 0.75), 1.5)], which="final", iteration=2)
    distilled = pydistill.load(root / "run")
    export_mtt(store, root / "mtt")
    export_mct(convexified, root / "mct")
    for form in ("mtt", "ddranking", "dcbench"):
        export_set(distilled, form, root / f"set-{form}", as_is=True)
    parts = root / "set-parts"
    parts.mkdir()
    for number in range(5):
        torch.save(distilled.images, parts / f"images_best_{number}.pt")
        torch.save(distilled.labels, parts / f"labels_best_{number}.pt")
    return root


def like(root: Path) -> DistilledSet:
    """The intact set of the run, for imports."""
    return pydistill.load(root.parent / "intact" / "run")


def read_set(root: Path, which: Literal["final", "best"] = "final") -> None:
    """A distilled set of the run, with its pixels."""
    distilled = pydistill.load(root / "run", which=which)
    assert len(distilled.viewable().images) == len(distilled)


def read_experts(root: Path) -> None:
    """Every recorded expert, at both ends."""
    store = TrajectoryStore.open(root / "experts")
    for position in range(min(len(store), 5)):
        trajectory = store[position]
        assert trajectory.point(0).shape == trajectory.point(trajectory.end).shape
        store.accuracies(position)


def read_convexified(root: Path) -> None:
    """Every convexified expert, between its waypoints."""
    store = TrajectoryStore.open(root / "convexified")
    for position in range(min(len(store), 5)):
        assert store.convexified(position).point(1.5).shape == store[position].point(0).shape


def read_buffers(root: Path, kind: str) -> None:
    """MTT's or MCT's experts, into a store of their own."""
    record = TrajectoryStore.open(root.parent / "intact" / "experts").record
    {"mtt": import_mtt, "mct": import_mct}[kind](root / kind, root / "out", record)


def read_exported(root: Path, form: str, folder: str, count: int = 1) -> None:
    """A set in another tool's files."""
    origin = like(root)
    rate = 0.1 if form == "dcbench" else None
    assert len(import_set(form, root / folder, lr=rate, like=origin)) == count * len(origin)


def read_page(root: Path) -> None:
    """The texts and tables of the run's report."""
    contents = read_run(root / "run")
    assert networks(contents)
    assert outcome(contents)
    assert costs(contents)
    assert progress(contents)


def read_rows(root: Path) -> None:
    """The run's evaluations, for the report, which leaves damaged rows out, and for another evaluation."""
    read_page(root)
    read_evaluations(root / "run")


def resume(root: Path) -> None:
    """The run, resumed from its last checkpoint."""
    store = TrajectoryStore.open(root.parent / "intact" / "experts")
    run_distillation(RECIPE, blobs(), store, root / "run", resume=True)


TARGETS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "artefact": ("run/distilled.safetensors", read_set),
    "index": ("experts/index.json", read_experts),
    "convexified index": ("convexified/index.json", read_convexified),
    "expert": ("experts/expert_0001.safetensors", read_experts),
    "convexified expert": ("convexified/expert_0000.safetensors", read_convexified),
    "MTT's experts": ("mtt/replay_buffer_0.pt", partial(read_buffers, kind="mtt")),
    "MCT's waypoints": ("mct/waypoint_buffer_ip3_0.pt", partial(read_buffers, kind="mct")),
    "MCT's steps": ("mct/step_buffer_ip3_0.pt", partial(read_buffers, kind="mct")),
    "MTT's images": ("set-mtt/images_best.pt", partial(read_exported, form="mtt", folder="set-mtt")),
    "MTT's learning rate": ("set-mtt/lr_best.pt", partial(read_exported, form="mtt", folder="set-mtt")),
    "DD-Ranking's labels": (
        "set-ddranking/labels.pt",
        partial(read_exported, form="ddranking", folder="set-ddranking"),
    ),
    "DD-Ranking's learning rate": (
        "set-ddranking/lr.pt",
        partial(read_exported, form="ddranking", folder="set-ddranking"),
    ),
    "DC-BENCH's images": (f"{DCBENCH}/images_best.pt", partial(read_exported, form="dcbench", folder=DCBENCH)),
    "DC-BENCH's labels": (f"{DCBENCH}/labels_best.pt", partial(read_exported, form="dcbench", folder=DCBENCH)),
    "DC-BENCH's parts of images": (
        "set-parts/images_best_3.pt",
        partial(read_exported, form="dcbench", folder="set-parts", count=5),
    ),
    "DC-BENCH's parts of labels": (
        "set-parts/labels_best_1.pt",
        partial(read_exported, form="dcbench", folder="set-parts", count=5),
    ),
    "manifest of an export": ("set-mtt/preprocessing.json", partial(read_exported, form="mtt", folder="set-mtt")),
    "checkpoint": ("run/checkpoint.safetensors", resume),
    "configuration": ("run/config.json", read_page),
    "metrics": ("run/metrics.jsonl", lambda root: RunFolder(root / "run").metrics()),
    "metrics of a resumed run": ("run/metrics.jsonl", resume),
    "best set": ("run/best.safetensors", partial(read_set, which="best")),
    "evaluations": ("run/evaluations.json", read_rows),
    "summary": ("run/summary.json", read_page),
    "recipe": ("run/recipe.json", lambda root: load_recipe(root / "run" / "recipe.json")),
}
LEFT_OUT = ("summary", "configuration")  # damage is a warning, and the report is made without it

Content = tuple[dict[str, torch.Tensor], Any]


def content_of_set(root: Path, which: Literal["final", "best"] = "final") -> Content:
    """A distilled set's tensors, and what else it says."""
    artefact = pydistill.load(root / "run", which=which).artefact
    values, tensors = artefact.preprocessing.state()
    tensors = tensors | {name: getattr(artefact, name) for name in ("images", "labels", "classes", "initial_images")}
    return tensors, (artefact.lr, artefact.provenance, values)


def content_of_experts(root: Path) -> Content:
    """Every snapshot of every recorded expert."""
    store = TrajectoryStore.open(root / "experts")
    rows = {f"{i}, {e}": store.recorded(i).point(e) for i in range(len(store)) for e in range(int(store.end) + 1)}
    return rows, store.experts


def content_of_convexified(root: Path) -> Content:
    """Every waypoint and fraction of every convexified expert."""
    store = TrajectoryStore.open(root / "convexified")
    tensors = {}
    for position in range(len(store)):
        trajectory = store.convexified(position)
        rows = [trajectory.waypoints.row(index) for index in range(len(trajectory.waypoint_epochs))]
        tensors |= {f"{position}, waypoints": torch.stack(rows), f"{position}, fractions": trajectory.fractions}
    return tensors, [store.convexified(position).waypoint_epochs for position in range(len(store))]


def content_of_checkpoint(root: Path) -> Content:
    """A checkpoint's tensors, and what else it says."""
    state, tensors = RunFolder(root / "run").load_checkpoint()
    return tensors, state


# What a file of these targets holds, whose numbers have checksums in the file or in the store's index.
CHECKED: dict[str, Callable[[Path], Content]] = {
    "artefact": content_of_set,
    "best set": lambda root: content_of_set(root, "best"),
    "expert": content_of_experts,
    "convexified expert": content_of_convexified,
    "checkpoint": content_of_checkpoint,
}


def assert_same_tensors(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Assert equal names, dtypes, shapes and bits."""
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype
        assert torch.equal(actual[name], tensor), name


class Watch:
    """Records the audit events of reading a damaged file (sys.addaudithook; hooks stay, so it can be off)."""

    def __init__(self) -> None:
        self.root: Path | None = None
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.root is None:
            return
        if event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect"):
            self.seen.append(f"{event} {arguments}")
        elif event == "import" and arguments[0] == "fuzz_marker":
            self.seen.append("the import of a module that a file names")
        elif event == "open" and isinstance(arguments[0], str):
            writing = isinstance(arguments[2], int) and arguments[2] & 3
            if writing and not Path(arguments[0]).resolve().is_relative_to(self.root) and arguments[0] != "/dev/null":
                self.seen.append(f"{arguments[0]} was opened to be written")
        elif event in ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate"):
            path = arguments[0]
            if isinstance(path, (str, os.PathLike)) and not Path(path).resolve().is_relative_to(self.root):
                self.seen.append(f"{event} {path}")


WATCH = Watch()


@contextmanager
def watched(root: Path, seconds: float = SECONDS, waiting: float = WAITING) -> Iterator[None]:
    """Fail if the body runs or waits too long, runs a program, imports what a file names, or writes elsewhere."""

    def stop(number: int, frame: Any) -> None:
        excess = f"took more than {seconds} s" if number == signal.SIGPROF else f"waited for more than {waiting} s"
        raise AssertionError(f"reading {excess}")

    before = [signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, waiting)
    WATCH.root, WATCH.seen = root.resolve(), []
    try:
        yield
    finally:
        WATCH.root = None
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in zip((signal.SIGPROF, signal.SIGALRM), before, strict=True):
            signal.signal(number, handler)
    assert not WATCH.seen


@pytest.mark.filterwarnings("ignore")  # what torch says of tensors that it would not have made
@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files(name: str, intact: Path) -> None:
    file, read = TARGETS[name]
    folder = file.split("/")[0]
    root = intact.parent / "damaged"
    canary = intact.parent / "executed"
    original = (intact / file).read_bytes()
    content = CHECKED.get(name)
    expected = content(intact)[0] if content is not None else {}
    refused = 0

    @settings(
        max_examples=-(-CASES // len(TARGETS)),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(corruptions(canary))
    def check(corrupt: Corruption) -> None:
        nonlocal refused
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(intact / folder, root / folder)
        (root / file).write_bytes(corrupt(original))
        if content is not None:  # before a resumed run writes its checkpoint again
            with watched(root), suppress(PydistillError):
                # The rest may differ: a changed header with a new signature is an intact one.
                assert_same_tensors(content(root)[0], expected)
        try:
            with watched(root):
                read(root)
        except PydistillError:
            refused += 1
        assert not canary.exists()

    with torch.random.fork_rng(devices=[]):
        check()
    assert (refused > 0) == (name not in LEFT_OUT)
    shutil.rmtree(root)


@pytest.mark.parametrize("name", CHECKED)
def test_a_damaged_file_with_checksums_is_refused_or_holds_what_it_held(name: str, intact: Path) -> None:
    """Every number and everything else that it says."""
    file, content = TARGETS[name][0], CHECKED[name]
    folder = file.split("/")[0]
    root = intact.parent / "damaged"
    original = (intact / file).read_bytes()
    tensors, values = content(intact)
    outcomes = []

    @settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(damages())
    def check(damage: Corruption) -> None:
        damaged = damage(original)
        (root / file).write_bytes(damaged)
        try:
            with watched(root):
                actual = content(root)
        except PydistillError:
            outcomes.append("refused")
        else:
            assert_same_tensors(actual[0], tensors)
            assert actual[1] == values
            outcomes.append("held")

    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(intact / folder, root / folder)
    check()
    assert outcomes.count("refused") > 20
    shutil.rmtree(root)


@pytest.mark.parametrize("name", TARGETS)
def test_intact_files_are_read(name: str, intact: Path) -> None:
    root = intact.parent / "copy"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(intact, root)
    with watched(root):
        TARGETS[name][1](root)


def test_the_watch_notices_what_runs_or_waits_too_long(tmp_path: Path) -> None:
    def run_for_ever() -> None:
        while True:  # in Python: a signal's handler waits for what runs in C
            pass

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(AssertionError, match=r"reading waited for more than 0\.2 s"), watched(tmp_path, waiting=0.2):
        open(tmp_path / "pipe", "rb").close()  # nobody ever writes
    with pytest.raises(AssertionError, match=r"reading took more than 0\.2 s"), watched(tmp_path, seconds=0.2):
        run_for_ever()


def test_corruptions_differ() -> None:
    seen: list[int] = []

    @settings(max_examples=40, derandomize=True, database=None, deadline=None)
    @given(corruptions(Path("nowhere")), st.just(b'{"a": [1, 2], "b": "c"}'))
    def check(corrupt: Corruption, content: bytes) -> None:
        seen.append(corrupt(content) != content)

    check()
    assert sum(seen) > 30
