"""Distilled sets are torch data sets, and repeat the networks and numbers of their run's evaluation."""

from __future__ import annotations

import builtins
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pydistill
from pydistill.artefact import figures as show_module
from pydistill.artefact.distilled_set import DistilledSet
from pydistill.artefact.file import Artefact
from pydistill.cli import main
from pydistill.data import Dataset, DataSettings, Normalise, load
from pydistill.data.settings import Pixels
from pydistill.errors import InputError, MismatchError, MissingDependencyError
from pydistill.evaluation import evaluate as evaluate_module
from pydistill.evaluation.evaluate import Evaluation, evaluate_networks
from pydistill.nn import ConvNet, flatten
from pydistill.runs.run import RunResult, run_distillation
from pydistill.training.experts import train_experts
from pydistill.training.train import accuracy
from tests.data.files import two_classes, write_folder
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import EXPERT, MODEL, experts, recipe

DATA = blobs()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    folder = tmp_path_factory.mktemp("set")
    return run_distillation(recipe(iterations=4, evaluate_every=2), DATA, experts(folder / "experts"), folder / "run")


@pytest.fixture
def distilled(finished: RunResult) -> DistilledSet:
    return pydistill.load(finished.folder.path)


def changed(distilled: DistilledSet, **provenance: Any) -> DistilledSet:
    return DistilledSet(replace(distilled.artefact, provenance=distilled.provenance | provenance))


def test_set_is_a_torch_data_set(distilled: DistilledSet, finished: RunResult) -> None:
    assert isinstance(distilled, torch.utils.data.Dataset)
    assert len(distilled) == 4
    images, labels = next(iter(torch.utils.data.DataLoader(distilled, batch_size=4)))
    assert torch.equal(images, finished.final.images)
    assert torch.equal(labels, torch.arange(4))
    image, label = distilled[2]
    assert (list(image.shape), int(label)) == ([1, 8, 8], 2)
    assert distilled.lr == finished.final.lr
    assert "4 images 1×8×8 of 4 classes of blobs" in repr(distilled)
    single = replace(distilled.artefact, images=images[:1], labels=labels[:1], classes=labels[:1])
    assert "(1 image 1×8×8 of 4 classes" in repr(DistilledSet(single))


def test_views(distilled: DistilledSet) -> None:
    pixels = distilled.viewable()
    assert 0 <= float(pixels.images.min()) < float(pixels.images.max()) <= 1
    assert torch.equal(pixels.images, distilled.artefact.viewable())
    assert torch.equal(pixels.normalised().images, distilled.images)
    assert "viewable" in repr(pixels)
    with pytest.raises(InputError, match="view"):
        DistilledSet(distilled.artefact, "raw")  # type: ignore[arg-type]


def test_best_set_of_a_run(finished: RunResult) -> None:
    best = pydistill.load(finished.folder.path, which="best")
    assert best.provenance["iteration"] == finished.best_iteration
    with pytest.raises(InputError, match="path"):
        pydistill.load("")
    with pytest.raises(InputError, match="which"):
        pydistill.load(finished.folder.path, which="first")  # type: ignore[arg-type]


def test_train_repeats_the_networks_of_the_evaluation(
    distilled: DistilledSet, finished: RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either view gives the same bits, and the accuracies equal those of the run."""
    tested = []
    monkeypatch.setattr(
        evaluate_module, "accuracy", lambda model, *rest: tested.append(flatten(model)) or accuracy(model, *rest)
    )
    (row,) = distilled.evaluate(data=DATA, device="cpu")
    assert row.accuracies == finished.accuracy_final.accuracies
    for repeat, parameters in enumerate(tested):
        network = distilled.viewable().train(repeat=repeat)
        assert torch.equal(flatten(network), parameters)
        assert accuracy(network, DATA.test_images, DATA.test_labels) == row.accuracies[repeat]
    assert len(tested) == 2
    assert not torch.equal(*tested)
    assert not torch.equal(flatten(distilled.train(seed=1)), tested[0])


def test_train_accepts_names_factories_and_modules(distilled: DistilledSet) -> None:
    def factory(channels: int, classes: int, size: tuple[int, int]) -> nn.Module:
        return ConvNet(channels, classes, size, width=4, depth=2)

    named = distilled.train("convnet2-w4", epochs=1)
    assert torch.equal(flatten(named), flatten(distilled.train(factory, epochs=1)))
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 4, bias=False))
    before = flatten(module).clone()
    assert distilled.train(module, epochs=1) is module
    assert not torch.equal(flatten(module), before)
    with pytest.raises(InputError, match="convnot"):
        distilled.train("convnot")


def test_evaluate_other_networks(distilled: DistilledSet) -> None:
    reported: list[Evaluation] = []
    rows = distilled.evaluate(["convnet1-w4", "mlp-w8"], 3, DATA, epochs=1, on_evaluation=reported.append)
    assert [(row.model, len(row.accuracies)) for row in rows] == [("convnet1-w4", 3), ("mlp-w8", 3)]
    assert reported == rows
    assert [row.model for row in distilled.evaluate("mlp-w8", 1, DATA, epochs=1)] == ["mlp-w8"]


def test_evaluation_runs_on_the_device(distilled: DistilledSet, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[torch.device] = []
    move = Dataset.to

    def record(data: Dataset, device: torch.device) -> Dataset:
        used.append(device)
        return move(data, "cpu")

    monkeypatch.setattr(Dataset, "to", record)
    distilled.evaluate("mlp-w8", 1, DATA, epochs=1, device="cpu")
    distilled.evaluate("mlp-w8", 1, DATA, epochs=1)
    assert [device.type for device in used] == ["cpu", "cuda" if torch.cuda.is_available() else "cpu"]
    with pytest.raises(InputError, match="cuda:99"):
        distilled.evaluate(data=DATA, device="cuda:99")


def test_networks_of_the_recipe_are_evaluated(
    distilled: DistilledSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = recipe().as_dict()["evaluation"]
    named = changed(
        distilled, recipe=recipe().as_dict() | {"evaluation": evaluation | {"models": ["mlp-w8", "mlp-w4"]}}
    )
    assert [row.model for row in named.evaluate(data=DATA, repeats=1, epochs=1)] == ["mlp-w8", "mlp-w4"]
    hostile = changed(distilled, recipe=recipe().as_dict() | {"evaluation": evaluation | {"models": ["os:system"]}})
    with pytest.raises(InputError, match="os:system"):
        hostile.evaluate(data=DATA)
    hostile.save(tmp_path / "hostile.safetensors")
    assert main(["evaluate", str(tmp_path / "hostile.safetensors")]) == 2
    assert "os:system" in capsys.readouterr().err


def test_data_with_another_preprocessing_are_converted(distilled: DistilledSet, finished: RunResult) -> None:
    """The same data set with another normalisation gives the accuracies of the run."""
    other = DATA.with_preprocessing(Normalise(torch.tensor([0.1]), torch.tensor([0.5])))
    assert not torch.allclose(other.test_images, DATA.test_images)
    assert torch.allclose(distilled.preprocess(other).test_images, DATA.test_images, atol=1e-5)
    (row,) = distilled.evaluate(data=other, device="cpu")
    assert row.accuracies == pytest.approx(finished.accuracy_final.accuracies, abs=0.05)


def test_other_data_are_refused(distilled: DistilledSet) -> None:
    with pytest.raises(MismatchError, match=r"blobs.*blobs"):
        distilled.evaluate(data=blobs(seed=1))
    assert distilled.recipe.data == DataSettings("tensors")
    with pytest.raises(InputError):
        distilled.evaluate()  # the data were in memory


@pytest.mark.parametrize("pixels", ["bytes", "floats"])
def test_recorded_data_are_read_as_in_the_run(pixels: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The images have the same bits, also with published statistics, and the recipe's storage."""
    pytest.importorskip("PIL")
    monkeypatch.setenv("PYDISTILL_CACHE", str(tmp_path / "cache"))
    folder = write_folder(tmp_path / "cifar", two_classes())
    settings = DataSettings("cifar10", str(folder), statistics="published", pixels=pixels)
    dataset = load(settings)
    store = train_experts(dataset, MODEL, EXPERT, tmp_path / "experts")
    run = run_distillation(replace(recipe(iterations=1), data=settings), dataset, store, tmp_path / "run")
    used: list[Dataset] = []

    def record(
        images: Tensor, labels: Tensor, lr: float, dataset: Dataset, *rest: Any, **more: Any
    ) -> list[Evaluation]:
        used.append(dataset)
        return evaluate_networks(images, labels, lr, dataset, *rest, **more)

    monkeypatch.setattr("pydistill.artefact.distilled_set.evaluate_networks", record)
    (row,) = pydistill.load(tmp_path / "run").evaluate(device="cpu")
    assert torch.equal(used[0].test_images, dataset.test_images)
    assert used[0].test_pictures.are_bytes == (pixels == "bytes")
    assert row.accuracies == run.accuracy_final.accuracies


def test_file_never_chooses_code_to_run(distilled: DistilledSet) -> None:
    """A student named by an import path, in the recipe or as its architecture, is an argument."""
    named = recipe().as_dict() | {"model": {"name": "os:system"}}
    for hostile in (changed(distilled, recipe=named), changed(distilled, architecture="os:system")):
        for use in (hostile.train, lambda hostile=hostile: hostile.evaluate(data=DATA)):
            with pytest.raises(InputError, match="os:system"):
                use()
        assert hostile.train("mlp-w8", epochs=1)


def test_run_with_a_custom_network(tmp_path: Path) -> None:
    """The set records only the network's name, so using it needs the network again."""

    def custom(channels: int, classes: int, size: tuple[int, int]) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], classes))

    store = train_experts(DATA, custom, EXPERT, tmp_path / "experts")
    result = run_distillation(recipe(iterations=1), DATA, store, tmp_path / "run", network=custom)
    distilled = pydistill.load(tmp_path / "run")
    with pytest.raises(InputError, match="custom"):
        distilled.train()
    (row,) = distilled.evaluate(custom, data=DATA, device="cpu")
    assert row.accuracies == result.accuracy_final.accuracies


def test_incomplete_set_needs_arguments(distilled: DistilledSet) -> None:
    bare = changed(distilled, recipe={})
    with pytest.raises(InputError, match="student's network"):
        bare.train()
    with pytest.raises(InputError, match="data"):
        bare.evaluate("mlp-w8")
    assert bare.evaluate("mlp-w8", 1, DATA, epochs=1)
    unknown = changed(distilled, recipe=recipe().as_dict() | {"colour": "blue"})
    with pytest.raises(InputError, match="colour"):
        unknown.train()


def test_show(distilled: DistilledSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figure that is returned is also the one in the file."""
    pytest.importorskip("matplotlib")
    figures: list[Any] = []
    draw = show_module.images_figure

    def record(artefact: Artefact) -> Any:
        figures.append(draw(artefact))
        return figures[-1]

    monkeypatch.setattr(show_module, "images_figure", record)
    figure = distilled.show(tmp_path / "set.png")
    assert len(figures) == 1
    assert figures[0] is figure
    after = f"after: distilled, {distilled.storage}"
    assert [axis.get_title() for axis in figure.axes] == ["before: initial images", after]
    assert (tmp_path / "set.png").read_bytes().startswith(b"\x89PNG")
    without = DistilledSet(replace(distilled.artefact, initial_images=None))
    assert [axis.get_title() for axis in without.show().axes] == [after]


def test_set_needs_torch_numpy_and_safetensors_only(finished: RunResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the recipe does not need ruamel.yaml; only pictures need matplotlib."""
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] in {"ruamel", "matplotlib", "tqdm", "PIL", "sklearn", "torchvision"}:
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    distilled = pydistill.load(finished.folder.path)
    assert distilled.train(epochs=1)
    assert distilled.evaluate(repeats=1, epochs=1, data=DATA)
    with pytest.raises(MissingDependencyError, match="matplotlib"):
        distilled.show()


def test_saved_set_is_equal(distilled: DistilledSet, tmp_path: Path) -> None:
    distilled.viewable().save(tmp_path / "set.safetensors")
    assert torch.equal(Artefact.load(tmp_path / "set.safetensors").images, distilled.images)


def test_command_never_runs_code_from_a_file(
    finished: RunResult, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    hostile = changed(pydistill.load(finished.folder.path), architecture="os:system")
    hostile.save(tmp_path / "set.safetensors")
    assert main(["evaluate", str(tmp_path / "set.safetensors")]) == 2
    assert "os:system" in capsys.readouterr().err


def test_save_removes_what_a_killed_one_left(distilled: DistilledSet, tmp_path: Path) -> None:
    (tmp_path / ".set.safetensors.1234-0123abcd.tmp").write_text("half")
    (tmp_path / ".tmpnEdXCZ").write_text("perhaps another program's")
    distilled.save(tmp_path / "set.safetensors")
    assert {path.name for path in tmp_path.iterdir()} == {"set.safetensors", ".tmpnEdXCZ"}


def test_save_needs_a_safetensors_file(distilled: DistilledSet, tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    for path in (".", tmp_path / "set.pt", tmp_path / "folder.safetensors"):
        with pytest.raises(InputError, match=r"\.safetensors"):
            distilled.save(path)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.safetensors"]


@pytest.mark.parametrize("path", [None, 3, b"run"])
def test_invalid_path(path: Any, distilled: DistilledSet) -> None:
    for use in (pydistill.load, distilled.save):
        with pytest.raises(InputError, match="path"):
            use(path)


@pytest.mark.parametrize("repeat", [-1, 1.5])
def test_invalid_repeat(repeat: Any, distilled: DistilledSet) -> None:
    with pytest.raises(InputError, match="repeat"):
        distilled.train(repeat=repeat)


def test_save_replaces_distilled_sets_only(distilled: DistilledSet, finished: RunResult, tmp_path: Path) -> None:
    shutil.copytree(finished.folder.path.parent, tmp_path, dirs_exist_ok=True)
    (tmp_path / "damaged.safetensors").write_bytes(b"x")
    others = [
        tmp_path / "run" / "checkpoint.safetensors",
        tmp_path / "experts" / "expert_0000.safetensors",
        tmp_path / "damaged.safetensors",
    ]
    for file in others:
        before = file.read_bytes()
        with pytest.raises(InputError, match=re.escape(str(file))):
            distilled.save(file)
        assert file.read_bytes() == before
    # Outside a run, these names are allowed.
    for path in (
        tmp_path / "best.safetensors",
        tmp_path / "distilled.safetensors",
        tmp_path / "run" / "mine.safetensors",
    ):
        distilled.save(path)
        changed(distilled, iteration=77).save(path)
        assert pydistill.load(path).provenance["iteration"] == 77


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("name", ["distilled.safetensors", "best.safetensors"])
@pytest.mark.parametrize("missing", ["metrics.jsonl", "checkpoint.safetensors"])
def test_sets_of_a_run_are_not_replaced(
    missing: str, name: str, exists: bool, distilled: DistilledSet, finished: RunResult, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished.folder.path, run)
    (run / missing).unlink()
    if not exists:
        (run / name).unlink()
    before = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}
    with pytest.raises(InputError, match=name):
        changed(distilled, iteration=77).save(run / name)
    assert before == {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda distilled: distilled.evaluate(data=3), "data"),
        (lambda distilled: distilled.evaluate([]), "models"),
        (lambda distilled: distilled.train(device="bla"), "device must be .*'bla'"),
        (lambda distilled: distilled.train(device="cuda:99"), "device must be .*'cuda:99'"),
        (lambda distilled: distilled.train(nn.Linear(3, 3)), r"Linear.*\[2, 1, 8, 8\]"),
        (
            lambda distilled: distilled.train(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).double()),
            "torch.float64",
        ),
        (lambda distilled: distilled.train(lambda *_: nn.Flatten()), r"\[2, 4\].*\[2, 1, 8, 8\]"),
    ],
)
def test_invalid_arguments(use: Callable[[DistilledSet], Any], message: str, distilled: DistilledSet) -> None:
    with pytest.raises(InputError, match=message):
        use(distilled)


def test_show_writes_png_files_only(distilled: DistilledSet, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("x.jpg", "x", "x.svg"):
        with pytest.raises(InputError, match=re.escape(str(tmp_path / name))):
            distilled.show(tmp_path / name)
    distilled.show(tmp_path / "x.PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["x.PNG"]
