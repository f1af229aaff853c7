"""From data to a distilled set in a few lines of Python."""

from __future__ import annotations

import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pydistill
from pydistill._util import memory
from pydistill._util.settings import from_dict
from pydistill.artefact.distilled_set import DistilledSet
from pydistill.data import Dataset, DataSettings, DsaSettings
from pydistill.errors import InputError, MismatchError, OutOfMemoryError, SettingError
from pydistill.evaluation.evaluate import EvaluationSettings
from pydistill.nn import ModelSettings
from pydistill.recipes.keywords import quick_recipe
from pydistill.recipes.recipe import Recipe
from pydistill.runs.api import DistillResult, _expert_settings
from pydistill.runs.callbacks import RunCallback
from pydistill.runs.run import run_distillation
from pydistill.runs.workflow import run_summary
from pydistill.training.experts import train_experts
from pydistill.training.train import TrainingSettings
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import EXPERT, MODEL, assert_same_outcome, recipe

DATA = blobs()
TRAINING = {"count": 2, "epochs": 4, "batch_size": 16, "lr": 0.1, "device": "cpu"}  # bit for bit, with a GPU too
DISTILLATION = {"iterations": 3, "steps": 3, "max_start": 2, "lr_image": 1.0, "lr_init": 0.1}
EVALUATION = {"repeats": 2, "epochs": 4, "batch_size": 16}


def linear(in_channels: int, num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    """A network of the user's own."""
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size[0] * image_size[1], num_classes))


def distilled(data: Dataset, experts: Any, out: Path, *model: Any, **more: Any) -> DistillResult:
    return pydistill.distill(
        data, experts, *model, out=out, device="cpu", **{**DISTILLATION, "evaluation": EVALUATION, **more}
    )


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return pydistill.train_experts(DATA, "convnet2-w4", out=tmp_path_factory.mktemp("made") / "experts", **TRAINING)


@pytest.fixture(scope="module")
def result(experts: TrajectoryStore, tmp_path_factory: pytest.TempPathFactory) -> DistillResult:
    return distilled(DATA, experts, tmp_path_factory.mktemp("made") / "run")


def test_keywords_reach_the_settings(experts: TrajectoryStore, result: DistillResult) -> None:
    record = experts.record
    assert (len(experts), record.epochs, record.training["lr"]) == (2, 4, 0.1)
    used = result.set.recipe
    assert used.model == ModelSettings("convnet", width=4, depth=2)
    assert (used.distill.iterations, used.distill.lr_image) == (3, 1.0)
    assert (used.evaluation.repeats, used.evaluation.training.epochs) == (2, 4)
    assert used.expert.count == 2
    assert used.expert.training == TrainingSettings(epochs=4, batch_size=16, lr=0.1, dsa=used.expert.training.dsa)


def test_all_stages_augment_as_the_experts_do_unless_set_apart(experts: TrajectoryStore, tmp_path: Path) -> None:
    plain = pydistill.train_experts(DATA, "convnet2-w4", out=tmp_path / "experts", **TRAINING, dsa=None)
    for store, dsa in ((experts, DsaSettings()), (plain, None)):
        made = distilled(DATA, store, tmp_path / f"run {dsa is None}", iterations=1).set.recipe
        assert [made.expert.training.dsa, made.distill.dsa, made.evaluation.training.dsa] == [dsa] * 3
    apart = distilled(DATA, plain, tmp_path / "apart", iterations=1, dsa={"flip": 0.0}).set.recipe
    assert (apart.distill.dsa, apart.evaluation.training.dsa) == (DsaSettings(flip=0.0), None)


def test_a_recipe_s_file_names_code_only_if_trusted(tmp_path: Path) -> None:
    file = tmp_path / "theirs.yaml"
    file.write_text(f"model: {{name: '{__name__}:linear'}}\nexpert: {{training: {{dsa: null}}}}\n")
    with pytest.raises(InputError, match="trust=True"):
        pydistill.train_experts(DATA, recipe=file, out=tmp_path / "experts", **TRAINING)
    store = pydistill.train_experts(DATA, recipe=file, trust=True, out=tmp_path / "experts", **TRAINING)
    assert store.record.architecture == f"{__name__}:linear"
    run = distilled(DATA, store, tmp_path / "run", recipe=file, trust=True)
    assert run.set.recipe.model.name == f"{__name__}:linear"
    with pytest.raises(InputError, match="--models"):
        run.set.train()


def test_it_is_what_the_parts_compute(tmp_path: Path) -> None:
    """Bit for bit, by the same recipe."""
    work = recipe(iterations=2)
    parts = train_experts(DATA, MODEL, EXPERT, tmp_path / "parts")
    run_distillation(work, DATA, parts, tmp_path / "by-parts")
    trained = pydistill.train_experts(DATA, recipe=work, out=tmp_path / "experts", device="cpu")
    assert trained.digest == parts.digest
    made = pydistill.distill(DATA, tmp_path / "experts", recipe=work, out=tmp_path / "run", device="cpu")
    assert_same_outcome(tmp_path / "by-parts", tmp_path / "run")
    assert made.set.recipe.expert == work.expert


def test_the_set_is_the_one_that_load_reads(result: DistillResult) -> None:
    loaded = pydistill.load(result.folder)
    assert type(result.set) is type(loaded) is DistilledSet
    assert torch.equal(loaded.images, result.set.images)
    assert repr(loaded) == repr(result.set)
    best = pydistill.load(result.folder, which="best")
    assert torch.equal(best.images, result.best.images)


def test_a_set_just_made_remembers_its_data(result: DistillResult) -> None:
    (row,) = result.set.evaluate()
    assert row.mean == result.accuracy
    assert row.accuracies == result.set.viewable().evaluate()[0].accuracies
    assert result.best.evaluate(repeats=1, epochs=1)
    rows = result.set.evaluate(["mlp-w8", linear], repeats=1, epochs=1)
    assert [row.model for row in rows] == ["mlp-w8", f"{__name__}:linear"]


def test_data_in_memory_are_not_taken_for_others(result: DistillResult) -> None:
    """A loaded set of data that lie nowhere asks for them, and takes them from a file too."""
    loaded = pydistill.load(result.folder)
    with pytest.raises(InputError, match="data in memory"):
        loaded.evaluate()
    assert loaded.evaluate(data=DATA)[0].mean == result.accuracy


def test_data_read_by_name_are_found_again(tmp_path: Path) -> None:
    data = pydistill.data.digits()
    made = pydistill.train_experts(data, "mlp2-w8", out=tmp_path / "experts", **TRAINING)
    run = distilled(data, made, tmp_path / "run", iterations=1)
    assert run.set.recipe.data == DataSettings("digits")
    assert pydistill.load(tmp_path / "run").evaluate()[0].mean == run.accuracy


def test_a_run_is_continued_only_if_asked(experts: TrajectoryStore, tmp_path: Path) -> None:
    distilled(DATA, experts, tmp_path / "run", iterations=2)
    with pytest.raises(InputError):
        distilled(DATA, experts, tmp_path / "run", iterations=3)
    continued = distilled(DATA, experts, tmp_path / "run", iterations=3, resume=True)
    distilled(DATA, experts, tmp_path / "uninterrupted", iterations=3)
    assert continued.run.iterations == 3
    assert torch.equal(continued.set.images, pydistill.load(tmp_path / "uninterrupted").images)


def test_a_network_of_the_user_s_own(tmp_path: Path) -> None:
    own = pydistill.train_experts(DATA, linear, out=tmp_path / "experts", **TRAINING)
    with pytest.raises(InputError, match="model"):
        distilled(DATA, own, tmp_path / "run")
    run = distilled(DATA, own, tmp_path / "run", linear)
    assert run.set.evaluate(linear)[0].mean == run.accuracy


def test_another_network_than_the_experts_is_refused(experts: TrajectoryStore, tmp_path: Path) -> None:
    with pytest.raises(MismatchError):
        distilled(DATA, experts, tmp_path / "run", "mlp")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "call",
    [
        lambda data, experts, out: pydistill.train_experts(data, out=out, epoch=3),
        lambda data, experts, out: pydistill.train_experts(data, out=out, steps=3),
        lambda data, experts, out: pydistill.train_experts("digits", out=out),
        lambda data, experts, out: pydistill.distill(data, experts, out=out, epochs=3),
        lambda data, experts, out: pydistill.distill(data, experts, out=out, evaluation={"repeat": 3}),
        lambda data, experts, out: pydistill.distill(data, experts, out=out, method="abc"),
        lambda data, experts, out: pydistill.distill(data, out / "none", out=out),
        lambda data, experts, out: pydistill.distill(data, experts, "convnot", out=out),
        lambda data, experts, out: pydistill.distill(data, experts, out=""),
        lambda data, experts, out: pydistill.evaluate(data.test_images, data.test_labels, 0.1, data, steps=3),
    ],
)
def test_wrong_calls_are_refused_before_anything_is_written(
    call: Any, experts: TrajectoryStore, tmp_path: Path
) -> None:
    with pytest.raises(InputError):
        call(DATA, experts, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_is_used_by_default_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[str] = []

    def moved(data: Dataset, device: torch.device | str) -> Dataset:
        devices.append(str(device))
        return data

    monkeypatch.setattr(Dataset, "to", moved)
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        for device in (None, "cpu"):
            with pytest.raises(InputError):
                pydistill.train_experts(DATA, out="", device=device)
    assert devices == ["cuda", "cpu", "cpu", "cpu"]


def test_callbacks_and_an_evaluation_as_settings(experts: TrajectoryStore, tmp_path: Path) -> None:
    class Counting(RunCallback):
        iterations = 0

        def on_iteration(self, report: Any) -> None:
            self.iterations += 1

    counting = Counting()
    protocol = EvaluationSettings(repeats=1, training=TrainingSettings(epochs=2))
    run = distilled(DATA, experts, tmp_path / "run", callbacks=[counting], evaluation=protocol)
    assert counting.iterations == 3
    assert run.set.recipe.evaluation == protocol


def test_the_report_and_the_result_in_one_line(result: DistillResult, tmp_path: Path) -> None:
    assert result.report() == result.folder / "report.html"
    assert result.report(tmp_path / "mine.html").read_text().startswith("<!")
    line = repr(result)
    assert line.startswith(f"DistillResult({result.folder}: test accuracy ")
    assert "\n" not in line


def test_experts_and_matches_in_one_line(experts: TrajectoryStore) -> None:
    assert repr(experts) == (
        f"TrajectoryStore({experts.path}: 2 recorded experts of 4 epochs, {experts.record.architecture}, blobs)"
    )
    model = pydistill.nn.build(ModelSettings("mlp", width=4), 1, 4, 8, seed=0)
    start = pydistill.nn.flatten(model).detach()
    batches = [(DATA.train_images[:4], DATA.train_labels[:4])] * 3
    outcome = pydistill.match(model, start, start + 0.1, batches, 0.1)
    assert repr(outcome) == f"Match(loss={outcome.loss:.6g}, step=3 of 3, backend={outcome.backend!r})"


def test_what_random_real_images_are_worth() -> None:
    images, labels = DATA.sample_per_class(2, torch.Generator().manual_seed(0))
    row = pydistill.evaluate(images, labels, 0.05, DATA, "mlp-w8", repeats=2, epochs=3)
    assert (row.model, len(row.accuracies)) == ("mlp-w8", 2)
    assert repr(row).startswith("Evaluation(mlp-w8: ")


def test_progress_is_shown_if_asked(
    experts: TrajectoryStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pydistill._util.progress.LINE_EVERY_SECONDS", 0.0)
    for progress in (None, False):  # standard error is no terminal here
        pydistill.train_experts(DATA, "mlp-w4", out=tmp_path / f"{progress}", progress=progress, **TRAINING)
        assert capsys.readouterr().err == ""
    pydistill.train_experts(DATA, "mlp-w4", out=tmp_path / "shown", progress=True, **TRAINING)
    run = distilled(DATA, experts, tmp_path / "run", progress=True)
    run.set.evaluate("mlp-w4", 1, epochs=1, progress=True)
    progress = capsys.readouterr().err
    assert all(title in progress for title in ("experts' epochs 8/8", "distilling 3/3", "networks' epochs 1/1"))


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A stand-in for IPython as a notebook's kernel imports it; the list receives what is displayed."""
    displayed: list[Any] = []
    module, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    vars(module).update(get_ipython=lambda: types.SimpleNamespace(kernel=object()), display=display)
    vars(display).update(Image=lambda content: content, display=displayed.append)
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return displayed


def test_in_a_notebook_pictures_are_displayed(
    result: DistillResult, notebook: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    bars: list[str] = []

    class Bar:
        def __init__(self, *, desc: str, **more: Any) -> None:
            bars.append(desc)

        def set_postfix(self, values: Any, refresh: bool) -> None: ...
        def update(self, count: int) -> None: ...
        def close(self) -> None: ...

    pytest.importorskip("tqdm")
    auto = types.ModuleType("tqdm.auto")
    vars(auto).update(tqdm=Bar)
    monkeypatch.setitem(sys.modules, "tqdm.auto", auto)
    assert result.set.show() is None
    assert [content[:4] for content in notebook] == [b"\x89PNG"]
    result.set.evaluate("mlp-w4", 1, epochs=1)
    assert bars == ["networks' epochs"]


def test_a_set_as_html(result: DistillResult) -> None:
    shown = result.set._repr_html_()
    assert shown.startswith('<div><img src="data:image/png;base64,')
    assert f"test accuracy {100 * result.accuracy:.1f} %" in shown
    unknown = replace(result.set.artefact, provenance={**result.set.provenance, "accuracy": "high"})
    assert "accuracy" not in DistilledSet(unknown)._repr_html_()


def test_the_run_s_recipe_makes_the_run_again(result: DistillResult, tmp_path: Path) -> None:
    used = from_dict(Recipe, result.set.provenance["recipe"])
    pydistill.train_experts(DATA, recipe=used, out=tmp_path / "experts", device="cpu")
    pydistill.distill(DATA, tmp_path / "experts", recipe=used, out=tmp_path / "run", device="cpu")
    assert_same_outcome(result.folder, tmp_path / "run")


@pytest.mark.parametrize("evaluation", [[("repeats", 1)], 3])
def test_an_evaluation_that_is_not_a_mapping_is_refused(
    evaluation: Any, store: TrajectoryStore, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match="evaluation"):
        pydistill.distill(DATA, store, evaluation=evaluation, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_evaluate_takes_one_model(store: TrajectoryStore) -> None:
    with pytest.raises(SettingError, match="models"):
        pydistill.evaluate(
            DATA.train_images, DATA.train_labels, 0.01, DATA, "mlp-w4", models=["convnet3"], device="cpu"
        )


@pytest.mark.parametrize(
    ("settings", "keyword"),
    [
        ({"steps": 0}, "steps"),
        ({"max_start": 9}, "max_start"),
        ({"ipc": 10**3}, "ipc"),
        ({"dsa": {"flip": 2}}, "dsa.flip"),
    ],
)
def test_errors_name_settings_as_keywords(
    settings: dict[str, Any], keyword: str, experts: TrajectoryStore, tmp_path: Path
) -> None:
    with pytest.raises(SettingError) as raised:
        distilled(DATA, experts, tmp_path / "run", **settings)
    assert str(raised.value).startswith(f"{keyword} must be ")


def test_errors_of_data_name_arguments(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"^path must be "):
        pydistill.data.from_folder(tmp_path / "none")
    with pytest.raises(InputError, match=r"give path, a folder .* or allow download$"):
        pydistill.data.cifar10(tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"log": "wandb"}, {"callbacks": RunCallback()}, {"callbacks": [print]}, {"device": "abacus"}]
)
def test_arguments_of_a_wrong_type_are_named(wrong: dict[str, Any], store: TrajectoryStore, tmp_path: Path) -> None:
    with pytest.raises(SettingError) as raised:
        pydistill.distill(DATA, store, out=tmp_path / "run", **wrong)
    assert raised.value.setting == next(iter(wrong))
    assert not (tmp_path / "run").exists()


def test_a_run_is_checked_before_it_begins(
    experts: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on the command line: networks of the evaluation that cannot take the images, and a set that does not fit."""
    with pytest.raises(InputError, match=r"evaluation\.models: "):
        distilled(DATA, experts, tmp_path / "run", evaluation={"models": ["convnet5"]})
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    with pytest.raises(OutOfMemoryError):
        distilled(DATA, experts, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_only_experts_of_another_program_have_the_recipe_s_settings(tmp_path: Path, store: TrajectoryStore) -> None:
    others = replace(store.record, training={"source": "mtt"})
    assert _expert_settings(TrajectoryStore.create(tmp_path / "others", others), EXPERT) == EXPERT
    damaged = replace(store.record, training={"epochs": -1})
    with pytest.raises(SettingError, match="epochs"):
        _expert_settings(TrajectoryStore.create(tmp_path / "damaged", damaged), EXPERT)


def test_the_peak_memory_is_that_of_the_run_s_device(result: DistillResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: {"cuda:1": 7}[str(device)])
    assert run_summary(result.set.recipe, result.run)["peak_device_memory_bytes"] is None
    on_gpu = run_summary(result.set.recipe, replace(result.run, device=torch.device("cuda:1")))
    assert on_gpu["peak_device_memory_bytes"] == 7
    assert on_gpu["threads"] is None


def test_evaluate_takes_a_run(result: DistillResult) -> None:
    row = pydistill.evaluate(result.folder, data=DATA, device="cpu")
    assert row.accuracies == result.run.accuracy_final.accuracies
    with pytest.raises(SettingError, match="momentum"):
        pydistill.evaluate(result.folder, data=DATA, momentum=0.9)
    with pytest.raises(SettingError, match="labels"):
        pydistill.evaluate(DATA.test_images)


def test_distil_without_experts_trains_them_by_the_quick_preset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    short = {"iterations": 2, "steps": 2, "max_start": 1, "expert_epochs": 1, "device": "cpu"}
    evaluation = {"repeats": 1, "epochs": 2}
    result = pydistill.distill(DATA, ipc=2, model="convnet2-w4", evaluation=evaluation, **short)
    assert result.folder == Path("blobs-att-ipc2")
    stored = pydistill.load("blobs-att-ipc2").recipe
    quick = quick_recipe(DATA)
    assert len(TrajectoryStore.open(result.folder / "experts")) == quick.expert.count
    assert stored.distill.lr_image == quick.distill.lr_image
    with pytest.raises(InputError, match="already holds a run; add resume=True"):
        pydistill.distill(DATA, ipc=2, model="convnet2-w4", evaluation=evaluation, **short)
    again = pydistill.distill(DATA, ipc=2, model="convnet2-w4", evaluation=evaluation, resume=True, **short)
    assert torch.equal(again.set.images, result.set.images)


def test_the_quick_recipe_does_not_mirror_digits_or_augment_tables() -> None:
    digits = quick_recipe(pydistill.data.digits())
    assert {part.dsa.strategy for part in (digits.distill, digits.expert.training, digits.evaluation.training)} == {
        "color_crop_cutout_scale_rotate"
    }
    rows = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    table = quick_recipe(pydistill.data.from_table(rows, torch.arange(8) % 2, rows, torch.arange(8) % 2))
    assert table.model.name == "mlp"
    assert (table.distill.dsa, table.expert.training.dsa, table.evaluation.training.dsa) == (None, None, None)
