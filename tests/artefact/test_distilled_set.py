"""A distilled set in use: a data set for loaders, the evaluation's own networks, and its numbers again."""

from __future__ import annotations

import builtins
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


def test_it_is_a_data_set_of_pytorch(distilled: DistilledSet, finished: RunResult) -> None:
    assert isinstance(distilled, torch.utils.data.Dataset)
    assert len(distilled) == 4
    images, labels = next(iter(torch.utils.data.DataLoader(distilled, batch_size=4)))
    assert torch.equal(images, finished.final.images)
    assert torch.equal(labels, torch.arange(4))
    image, label = distilled[2]
    assert (list(image.shape), int(label)) == ([1, 8, 8], 2)
    assert distilled.lr == finished.final.lr
    assert "4 images 1×8×8 of 4 classes of blobs" in repr(distilled)
    one = replace(distilled.artefact, images=images[:1], labels=labels[:1], classes=labels[:1])
    assert "(1 image 1×8×8 of 4 classes" in repr(DistilledSet(one))


def test_the_two_views(distilled: DistilledSet) -> None:
    pixels = distilled.viewable()
    assert 0 <= float(pixels.images.min()) < float(pixels.images.max()) <= 1
    assert torch.equal(pixels.images, distilled.artefact.viewable())
    assert torch.equal(pixels.normalised().images, distilled.images)
    assert "viewable" in repr(pixels)
    with pytest.raises(InputError, match="view must be normalised or viewable, not 'raw'"):
        DistilledSet(distilled.artefact, "raw")  # type: ignore[arg-type]


def test_the_best_set_of_a_run(finished: RunResult) -> None:
    best = pydistill.load(finished.folder.path, which="best")
    assert best.provenance["iteration"] == finished.best_iteration
    with pytest.raises(InputError, match="path must be the path of a file or a folder"):
        pydistill.load("")
    with pytest.raises(InputError, match="which must be final or best, not 'first'"):
        pydistill.load(finished.folder.path, which="first")  # type: ignore[arg-type]


def test_train_gives_the_networks_that_the_evaluation_tested(
    distilled: DistilledSet, finished: RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, from either view, and as the run's own numbers say."""
    tested = []
    monkeypatch.setattr(
        evaluate_module, "accuracy", lambda model, *rest: tested.append(flatten(model)) or accuracy(model, *rest)
    )
    (row,) = distilled.evaluate(data=DATA)
    assert row.accuracies == finished.accuracy_final.accuracies
    for repeat, parameters in enumerate(tested):
        network = distilled.viewable().train(repeat=repeat)
        assert torch.equal(flatten(network), parameters)
        assert accuracy(network, DATA.test_images, DATA.test_labels) == row.accuracies[repeat]
    assert len(tested) == 2
    assert not torch.equal(*tested)
    assert not torch.equal(flatten(distilled.train(seed=1)), tested[0])


def test_train_a_network_by_name_by_factory_and_as_it_is(distilled: DistilledSet) -> None:
    def factory(channels: int, classes: int, size: tuple[int, int]) -> nn.Module:
        return ConvNet(channels, classes, size, width=4, depth=2)

    named = distilled.train("convnet2-w4", epochs=1)
    assert torch.equal(flatten(named), flatten(distilled.train(factory, epochs=1)))
    own = nn.Sequential(nn.Flatten(), nn.Linear(64, 4, bias=False))
    before = flatten(own).clone()
    assert distilled.train(own, epochs=1) is own
    assert not torch.equal(flatten(own), before)
    with pytest.raises(InputError, match="there is no network 'convnot'"):
        distilled.train("convnot")


def test_evaluate_other_networks(distilled: DistilledSet) -> None:
    heard: list[Evaluation] = []
    rows = distilled.evaluate(["convnet1-w4", "mlp-w8"], 3, DATA, epochs=1, on_evaluation=heard.append)
    assert [(row.model, len(row.accuracies)) for row in rows] == [("convnet1-w4", 3), ("mlp-w8", 3)]
    assert heard == rows
    assert [row.model for row in distilled.evaluate("mlp-w8", 1, DATA, epochs=1)] == ["mlp-w8"]


def test_the_recipe_s_own_networks_are_evaluated(
    distilled: DistilledSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = recipe().as_dict()["evaluation"]
    named = changed(
        distilled, recipe=recipe().as_dict() | {"evaluation": evaluation | {"models": ["mlp-w8", "mlp-w4"]}}
    )
    assert [row.model for row in named.evaluate(data=DATA, repeats=1, epochs=1)] == ["mlp-w8", "mlp-w4"]
    hostile = changed(distilled, recipe=recipe().as_dict() | {"evaluation": evaluation | {"models": ["os:system"]}})
    with pytest.raises(InputError, match="evaluated with a network of its author's own, os:system"):
        hostile.evaluate(data=DATA)
    hostile.save(tmp_path / "hostile.safetensors")
    assert main(["evaluate", str(tmp_path / "hostile.safetensors")]) == 2
    told = "the set was evaluated with a network of its author's own, os:system; "
    assert told in " ".join(capsys.readouterr().err.split())


def test_images_in_another_space_are_judged_in_the_set_s(distilled: DistilledSet, finished: RunResult) -> None:
    """The same data set, normalised with other numbers, gives the run's own accuracies."""
    other = DATA.with_preprocessing(Normalise(torch.tensor([0.1]), torch.tensor([0.5])))
    assert not torch.allclose(other.test_images, DATA.test_images)
    assert torch.allclose(distilled.judged_by(other).test_images, DATA.test_images, atol=1e-5)
    (row,) = distilled.evaluate(data=other)
    assert row.accuracies == pytest.approx(finished.accuracy_final.accuracies, abs=0.05)


def test_other_data_are_refused(distilled: DistilledSet) -> None:
    with pytest.raises(MismatchError, match=r"distilled from blobs with digest .*, and blobs here has"):
        distilled.evaluate(data=blobs(seed=1))
    pytest.importorskip("sklearn")
    with pytest.raises(MismatchError, match="distilled from blobs with digest"):
        distilled.evaluate()  # the recipe names the digits, which this set is not made of


@pytest.mark.parametrize("pixels", ["bytes", "floats"])
def test_recorded_data_are_read_as_the_run_read_them(
    pixels: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit by the published statistics too, and kept as the recipe says."""
    pytest.importorskip("PIL")
    monkeypatch.setenv("PYDISTILL_CACHE", str(tmp_path / "cache"))
    folder = write_folder(tmp_path / "cifar", two_classes())
    settings = DataSettings("cifar10", str(folder), statistics="published", pixels=pixels)
    dataset = load(settings)
    store = train_experts(dataset, MODEL, EXPERT, tmp_path / "experts")
    run = run_distillation(replace(recipe(iterations=1), data=settings), dataset, store, tmp_path / "run")
    judged: list[Dataset] = []

    def kept(images: Tensor, labels: Tensor, lr: float, dataset: Dataset, *rest: Any, **more: Any) -> list[Evaluation]:
        judged.append(dataset)
        return evaluate_networks(images, labels, lr, dataset, *rest, **more)

    monkeypatch.setattr("pydistill.artefact.distilled_set.evaluate_networks", kept)
    (row,) = pydistill.load(tmp_path / "run").evaluate()
    assert torch.equal(judged[0].test_images, dataset.test_images)
    assert judged[0].test_pictures.are_bytes == (pixels == "bytes")
    assert row.accuracies == run.accuracy_final.accuracies


def test_a_file_never_decides_what_code_runs(distilled: DistilledSet) -> None:
    """A student named by an import path, or known as somebody's own class, must be given."""
    named = recipe().as_dict() | {"model": {"name": "os:system"}}
    for hostile in (changed(distilled, recipe=named), changed(distilled, architecture="os:system")):
        for use in (hostile.train, lambda hostile=hostile: hostile.evaluate(data=DATA)):
            with pytest.raises(InputError, match=r"a network of its author's own, os:system; "):
                use()
        assert hostile.train("mlp-w8", epochs=1)


def test_a_run_with_a_network_of_one_s_own(tmp_path: Path) -> None:
    """Its set knows the network by name alone, and is used with the network given again."""

    def own(channels: int, classes: int, size: tuple[int, int]) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], classes))

    store = train_experts(DATA, own, EXPERT, tmp_path / "experts")
    result = run_distillation(recipe(iterations=1), DATA, store, tmp_path / "run", network=own)
    distilled = pydistill.load(tmp_path / "run")
    with pytest.raises(InputError, match=r"a network of its author's own, .*own; "):
        distilled.train()
    (row,) = distilled.evaluate(own, data=DATA)
    assert row.accuracies == result.accuracy_final.accuracies


def test_what_an_incomplete_set_does_not_tell(distilled: DistilledSet) -> None:
    bare = changed(distilled, recipe={})
    with pytest.raises(InputError, match="student's network"):
        bare.train()
    with pytest.raises(InputError, match="data"):
        bare.evaluate("mlp-w8")
    assert bare.evaluate("mlp-w8", 1, DATA, epochs=1)
    unknown = changed(distilled, recipe=recipe().as_dict() | {"colour": "blue"})
    with pytest.raises(InputError, match="the recipe in the distilled set: colour is not a setting"):
        unknown.train()


def test_show(distilled: DistilledSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One figure, in the file and handed out."""
    pytest.importorskip("matplotlib")
    made: list[Any] = []
    draw = show_module.images_figure

    def noted(artefact: Artefact) -> Any:
        made.append(draw(artefact))
        return made[-1]

    monkeypatch.setattr(show_module, "images_figure", noted)
    figure = distilled.show(tmp_path / "set.png")
    assert len(made) == 1
    assert made[0] is figure
    assert [axis.get_title() for axis in figure.axes] == ["before: real images", "after: distilled"]
    assert (tmp_path / "set.png").read_bytes().startswith(b"\x89PNG")
    without = DistilledSet(replace(distilled.artefact, initial_images=None))
    assert [axis.get_title() for axis in without.show().axes] == ["after: distilled"]


def test_it_works_with_torch_numpy_and_safetensors_alone(finished: RunResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe is read without ruamel.yaml; only a picture needs more."""
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] in {"ruamel", "matplotlib", "tqdm", "PIL", "sklearn", "torchvision"}:
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    distilled = pydistill.load(finished.folder.path)
    assert distilled.train(epochs=1)
    assert distilled.evaluate(repeats=1, epochs=1, data=DATA)
    with pytest.raises(MissingDependencyError, match="pictures need matplotlib"):
        distilled.show()


def test_saved_again_it_is_the_same(distilled: DistilledSet, tmp_path: Path) -> None:
    distilled.viewable().save(tmp_path / "set.safetensors")
    assert torch.equal(Artefact.load(tmp_path / "set.safetensors").images, distilled.images)


def test_the_command_evaluates_what_python_does(
    finished: RunResult, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    hostile = changed(pydistill.load(finished.folder.path), architecture="os:system")
    hostile.save(tmp_path / "set.safetensors")
    assert main(["evaluate", str(tmp_path / "set.safetensors")]) == 2
    assert "a network of its author's own" in capsys.readouterr().err


def test_a_set_is_saved_to_a_safetensors_file(distilled: DistilledSet, tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    for place in (".", tmp_path / "set.pt", tmp_path / "folder.safetensors"):
        with pytest.raises(InputError, match=r"name ends in \.safetensors, not to "):
            distilled.save(place)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.safetensors"]


@pytest.mark.parametrize("path", [None, 3, b"run"])
def test_what_is_no_path_is_refused(path: Any, distilled: DistilledSet) -> None:
    for use in (pydistill.load, distilled.save):
        with pytest.raises(InputError, match=r"path must be the path of a file or a folder, not (None|3|a bytes)$"):
            use(path)


@pytest.mark.parametrize(("repeat", "told"), [(-1, "a whole number"), (1.5, "a whole number of at least 0, not 1.5")])
def test_networks_are_numbered_from_zero(repeat: Any, told: str, distilled: DistilledSet) -> None:
    with pytest.raises(InputError, match=f"repeat must be {told}"):
        distilled.train(repeat=repeat)


def test_a_set_is_saved_over_nothing_but_a_set(distilled: DistilledSet, finished: RunResult, tmp_path: Path) -> None:
    shutil.copytree(finished.folder.path.parent, tmp_path, dirs_exist_ok=True)
    (tmp_path / "damaged.safetensors").write_bytes(b"x")
    others = [
        tmp_path / "run" / "checkpoint.safetensors",
        tmp_path / "experts" / "expert_0000.safetensors",
        tmp_path / "damaged.safetensors",
    ]
    for file in others:
        before = file.read_bytes()
        with pytest.raises(InputError, match=r"is there already and is no whole distilled set; choose another file"):
            distilled.save(file)
        assert file.read_bytes() == before
    # the name alone makes no run's set of it
    for mine in (
        tmp_path / "best.safetensors",
        tmp_path / "distilled.safetensors",
        tmp_path / "run" / "mine.safetensors",
    ):
        distilled.save(mine)
        changed(distilled, iteration=77).save(mine)
        assert pydistill.load(mine).provenance["iteration"] == 77


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("name", ["distilled.safetensors", "best.safetensors"])
@pytest.mark.parametrize("gone", ["metrics.jsonl", "checkpoint.safetensors"])
def test_a_run_s_own_sets_are_not_written_over(
    gone: str, name: str, there: bool, distilled: DistilledSet, finished: RunResult, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished.folder.path, run)
    (run / gone).unlink()
    if not there:
        (run / name).unlink()
    before = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}
    with pytest.raises(InputError, match=rf"{name} is a run's own set; choose another file$"):
        changed(distilled, iteration=77).save(run / name)
    assert before == {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda it: it.evaluate(data=3), "data must be a Dataset"),
        (lambda it: it.evaluate([]), "models must name at least one network, or be left out for the recipe's own"),
        (lambda it: it.train(device="bla"), "device 'bla'"),
        (lambda it: it.train(device="cuda:99"), "device 'cuda:99'"),
        (lambda it: it.train(nn.Linear(3, 3)), r"network Linear cannot take images \[2, 1, 8, 8\]"),
        (
            lambda it: it.train(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).double()),
            "torch.float64",
        ),
        (lambda it: it.train(lambda *_: nn.Flatten()), r"must return logits \[2, 4\] for images \[2, 1, 8, 8\]"),
    ],
)
def test_what_cannot_be_meant(use: Callable[[DistilledSet], Any], message: str, distilled: DistilledSet) -> None:
    with pytest.raises(InputError, match=message):
        use(distilled)


def test_a_picture_is_a_png_file(distilled: DistilledSet, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("x.jpg", "x", "x.svg"):
        with pytest.raises(
            InputError, match=rf"a picture is written to a file whose name ends in \.png, not to .*{name}$"
        ):
            distilled.show(tmp_path / name)
    distilled.show(tmp_path / "x.PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["x.PNG"]
