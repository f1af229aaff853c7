"""Other tools' files: there and back, what they do not tell, and files that are damaged or carry code."""

from __future__ import annotations

import json
import os
import re
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pydistill._util.files import WriteError
from pydistill.artefact.distilled_set import DistilledSet, load
from pydistill.artefact.exchange import FORMATS, IMPORTED, export_set, import_set, readers_normalisation
from pydistill.artefact.exchange.imagefolder import class_folders
from pydistill.artefact.file import Artefact
from pydistill.cli import main
from pydistill.data import Normalise, Zca, from_arrays
from pydistill.errors import FormatError, InputError
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import recipe


def made(dataset: str = "cifar10", *, ipc: int = 2, soft: bool = False, zca: bool = False) -> DistilledSet:
    """A made-up set of three classes, named after a data set whose published statistics are known, or not."""
    generator = torch.Generator().manual_seed(0)
    raw, labels = torch.rand(48, 3, 4, 4, generator=generator), torch.arange(48) % 3
    data = from_arrays(raw, labels, raw, labels, zca=zca)
    images, classes = data.sample_per_class(ipc, generator)
    rows = torch.rand(len(images), 3, generator=generator).softmax(1)
    provenance = {
        "dataset": {"name": dataset, "digest": data.digest, "classes": ["ant", "bee", "cat"]},
        "recipe": recipe().as_dict(),
    }
    labels = rows if soft else classes
    return DistilledSet(Artefact(images, labels, classes, 0.0123, data.preprocessing, provenance, images))


@pytest.mark.parametrize("form", IMPORTED)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("zca", [False, True])
def test_there_and_back_as_it_is(form: str, soft: bool, zca: bool, tmp_path: Path) -> None:
    """Bit for bit, soft labels to rounding (they are logits in between)."""
    before = made(soft=soft, zca=zca)
    if form == "dcbench" and soft:
        with pytest.raises(InputError, match="DC-BENCH has no soft labels and this set has"):
            export_set(before, form, tmp_path)
        return
    done = export_set(before, form, tmp_path, as_is=True)
    assert not done.converted
    after = import_set(form, done.folder, lr=before.lr if form == "dcbench" else None, like=before)
    assert torch.equal(after.images, before.images)
    if soft:
        torch.testing.assert_close(after.labels, before.labels, rtol=1e-5, atol=1e-7)
    else:
        assert torch.equal(after.labels, before.labels)
    assert torch.equal(after.classes, before.classes)
    assert torch.equal(after.viewable().images, before.viewable().images)
    assert (after.lr, after.class_names, after.recipe.model) == (before.lr, before.class_names, before.recipe.model)
    assert after.provenance["imported"]["format"] == form
    after.save(tmp_path / "again.safetensors")
    assert torch.equal(Artefact.load(tmp_path / "again.safetensors").images, before.images)


@pytest.mark.parametrize("form", IMPORTED)
@pytest.mark.parametrize("zca", [False, True])
def test_there_and_back_by_default(form: str, zca: bool, tmp_path: Path) -> None:
    """cifar10's images are normalised with other numbers in between, and are the same pixels afterwards."""
    before = made(zca=zca)
    done = export_set(before, form, tmp_path)
    assert done.converted == (not zca or form == "dcbench")
    after = import_set(form, done.folder, lr=before.lr, like=before)
    torch.testing.assert_close(after.viewable().images, before.viewable().images, rtol=0, atol=2e-6)
    assert after.preprocessing.kind == ("normalise" if done.converted else "zca")


@pytest.mark.parametrize("form", IMPORTED)
def test_whose_normalisation_it_is_must_be_said_where_nothing_tells(form: str, tmp_path: Path) -> None:
    before = made()
    for as_is in (False, True):
        done = export_set(before, form, tmp_path / str(as_is), as_is=as_is)
        (done.folder / "preprocessing.json").unlink()
        with pytest.raises(InputError, match=r"do not say whether .* as_is "):
            import_set(form, done.folder, lr=0.1, like=before)
        how: Any = {"as_is": True} if as_is else {"preprocessing": readers_normalisation("cifar10", form)}
        after = import_set(form, done.folder, lr=0.1, like=before, **how)
        torch.testing.assert_close(after.viewable().images, before.viewable().images, rtol=0, atol=2e-6)
    with pytest.raises(InputError, match=r"as_is must be used with like"):
        import_set(form, done.folder, lr=0.1, as_is=True)


def test_what_an_export_told_is_not_believed_of_other_images(tmp_path: Path) -> None:
    folder = export_set(made(), "mtt", tmp_path).folder
    assert import_set("mtt", folder).preprocessing.state()[1]["mean"].tolist() == [0.4914, 0.4822, 0.4465]
    torch.save(torch.rand(6, 3, 4, 4), folder / "images_best.pt")
    with pytest.raises(InputError, match="do not tell the preprocessing"):
        import_set("mtt", folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "none"}, "export the set again, or remove this file"),
        ({"files": []}, "export the set again, or remove this file"),
        ({"mean": ["a", "b", "c"]}, "its mean and std are no numbers per channel"),
        ({"std": [0.1, 0.0, 0.1]}, "its mean and std are no numbers per channel"),
        ({"std": [0.1]}, "its mean and std are no numbers per channel"),
        ({"std": None}, "its mean and std are no numbers per channel"),
    ],
)
def test_what_an_export_told_is_damaged(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = export_set(made(), "ddranking", tmp_path).folder / "preprocessing.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(FormatError, match=message):
        import_set("ddranking", tmp_path)


@pytest.mark.parametrize("form", ["mtt", "ddranking"])
def test_that_images_are_not_whitened_is_assumed_aloud(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """MTT's own commands whiten, and its files do not tell."""
    pytest.importorskip("ruamel.yaml")
    folder = export_set(made(), form, tmp_path / "out").folder
    command = ["import", str(folder), f"--format={form}", f"--out={tmp_path / 'set.safetensors'}", "--dataset=cifar10"]
    assert main([*command, "--json"]) == 0
    known = capsys.readouterr()
    assert json.loads(known.out)["assumed"] is None
    assert "taken for" not in known.err
    (folder / "preprocessing.json").unlink()
    assert main([*command, "--json"]) == 0
    told = capsys.readouterr()
    assert "if they were whitened" in told.err
    assert json.loads(told.out)["assumed"] in told.err
    sure = ["--mean", "0.5", "0.5", "0.5", "--std", "0.2", "0.2", "0.2"]
    assert main([*command, *sure]) == 0
    assert "taken for" not in capsys.readouterr().err


@pytest.mark.parametrize("form", IMPORTED)
def test_images_are_converted_to_the_statistics_of_the_readers(form: str, tmp_path: Path) -> None:
    """Pixels as their code normalises them: (x − mean) / std with the constants in it."""
    before = made()
    done = export_set(before, form, tmp_path)
    images = torch.load(next(path for path in done.files if "images" in path.name), weights_only=True)
    mean, std = (
        torch.tensor(numbers)[:, None, None] for numbers in ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.201])
    )
    pixels = before.preprocessing.invert(before.images)
    torch.testing.assert_close(images, (pixels - mean) / std)
    assert done.converted
    assert "mean [0.4914, 0.4822, 0.4465]" in done.told()
    after = import_set(form, done.folder, lr=0.0123, dataset="cifar10", class_names=before.class_names)
    torch.testing.assert_close(after.viewable().images, before.viewable().images)


@pytest.mark.parametrize("form", IMPORTED)
def test_images_with_the_statistics_of_the_readers_stay_as_they_are(form: str, tmp_path: Path) -> None:
    """Bit for bit, as they do once they have been converted and imported."""
    theirs = readers_normalisation("cifar10", form)
    assert theirs is not None
    before = DistilledSet(replace(made().artefact, preprocessing=theirs))
    done = export_set(before, form, tmp_path / "first")
    images = torch.load(next(path for path in done.files if "images" in path.name), weights_only=True)
    assert torch.equal(images, before.images)
    assert not done.converted
    assert "the set's own statistics: mean [0.4914, 0.4822, 0.4465]" in done.told()
    after = import_set(form, done.folder, lr=before.lr, like=before)
    again = export_set(after, form, tmp_path / "second")
    assert torch.equal(import_set(form, again.folder, lr=before.lr, like=before).images, before.images)


def test_dc_bench_has_its_own_numbers_for_cifar_100() -> None:
    theirs, others = (readers_normalisation("cifar100", form) for form in ("dcbench", "mtt"))
    assert theirs is not None
    assert others is not None
    assert theirs.mean.tolist() == [0.5071, 0.4866, 0.4409]
    assert others.mean.tolist() == [0.4914, 0.4822, 0.4465]
    assert readers_normalisation("digits", "mtt") is None


@pytest.mark.parametrize(("form", "stays"), [("mtt", True), ("ddranking", True), ("dcbench", False)])
def test_whitened_images_stay_so_where_readers_whiten(form: str, stays: bool, tmp_path: Path) -> None:
    before = made(zca=True)
    done = export_set(before, form, tmp_path)
    images = torch.load(next(path for path in done.files if "images" in path.name), weights_only=True)
    assert torch.equal(images, before.images) == stays
    assert ("whitened" in done.told()) == stays


@pytest.mark.parametrize("name", ["svhn", "my-own"])
def test_whitened_images_are_refused_where_a_reader_without_whitening_has_unknown_statistics(
    name: str, tmp_path: Path
) -> None:
    before = made(name, zca=True)
    told = rf"reader knows no whitening, and its normalisation of {name} is not known; export the whitened set as mtt"
    with pytest.raises(InputError, match=told):
        export_set(before, "dcbench", tmp_path)
    assert not list(tmp_path.iterdir())
    done = export_set(before, "dcbench", tmp_path, as_is=True)
    assert torch.equal(torch.load(done.files[0], weights_only=True), before.images)
    assert export_set(made(name), "dcbench", tmp_path / "other").preprocessing is not None


@pytest.mark.parametrize(
    ("eps", "source", "told"),
    [
        (0.1, "digest", r"whitened by the set's own ZCA \(eps 0.1, fitted on training images in \[0, 1\]\)$"),
        (0.05, "", r"whitened by the set's own ZCA \(eps 0.05\)$"),
    ],
)
def test_what_whitening_it_is_is_told(eps: float, source: str, told: str, tmp_path: Path) -> None:
    own = Zca.fit(torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0)), eps, source=source)
    before = replace(made(zca=True).artefact, preprocessing=own)
    assert re.match(told, export_set(before, "mtt", tmp_path).told())


def test_data_whose_published_statistics_are_unknown_stay_as_they_are(tmp_path: Path) -> None:
    done = export_set(made("my-own"), "mtt", tmp_path)
    assert not done.converted
    assert "the set's own statistics: mean [" in done.told()


def test_the_files_are_those_that_the_tools_load(tmp_path: Path) -> None:
    soft, hard = made(soft=True), made()
    mtt = export_set(hard, "mtt", tmp_path / "mtt").folder
    assert sorted(path.name for path in mtt.iterdir()) == [
        *("images_best.pt", "labels_best.pt", "lr_best.pt"),
        "preprocessing.json",  # ours; they do not look at it
    ]
    assert torch.load(mtt / "labels_best.pt", weights_only=True).tolist() == [0, 0, 1, 1, 2, 2]
    ranking = export_set(soft, "ddranking", tmp_path / "dd").folder
    images, labels, lr = (torch.load(ranking / f"{name}.pt", weights_only=True) for name in ("images", "labels", "lr"))
    assert list(images.shape) == [6, 3, 4, 4]
    torch.testing.assert_close(labels.softmax(1), soft.labels)
    assert lr.item() == 0.0123
    bench = export_set(hard, "dcbench", tmp_path / "bench")
    assert bench.folder == tmp_path / "bench" / "TM" / "CIFAR10" / "IPC2"
    assert sorted(path.name for path in bench.files) == ["images_best.pt", "labels_best.pt", "preprocessing.json"]


def test_dc_bench_keeps_tiny_imagenet_at_fifty_in_five_parts(tmp_path: Path) -> None:
    before = made("tiny-imagenet", ipc=10)
    images = before.images.repeat_interleave(5, 0)
    classes = before.classes.repeat_interleave(5)
    many = replace(before.artefact, images=images, labels=classes, classes=classes, initial_images=None)
    done = export_set(many, "dcbench", tmp_path, as_is=True)
    assert {path.name for path in done.files if path.suffix == ".pt"} == {
        f"{stem}_best_{n}.pt" for stem in ("images", "labels") for n in range(5)
    }
    assert torch.equal(import_set("dcbench", done.folder, lr=0.1, like=before).images, images)


def test_an_image_folder(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    before = made(soft=True)
    done = export_set(before, "imagefolder", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ant", "bee", "cat", "distilled.json"]
    assert len(done.files) == 7
    pixels = torch.tensor(list(image.open(tmp_path / "bee" / "0001.png").tobytes())).reshape(4, 4, 3).permute(2, 0, 1)
    assert float((pixels / 255 - before.viewable().images[3]).abs().max()) <= 0.5 / 255 + 1e-6
    about = json.loads((tmp_path / "distilled.json").read_text())
    assert about["lr"] == 0.0123
    assert about["soft_labels"]["bee/0001.png"] == before.labels[3].tolist()
    with pytest.raises(InputError, match="an image folder holds pixels, so as_is is not to be had"):
        export_set(before, "imagefolder", tmp_path / "other", as_is=True)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["ant", "bee"], ["ant", "bee"]),
        (["bee", "ant"], ["0_bee", "1_ant"]),
        (["../../etc", "/tmp/x", ".hidden"], ["0_-etc", "1_-tmp-x", "2_-hidden"]),
        (["a", "a"], ["0_a", "1_a"]),
        ([str(number) for number in range(12)], [f"{n:02d}_{n}" for n in range(12)]),
    ],
)
def test_class_names_never_lead_out_of_the_folder(names: list[str], expected: list[str]) -> None:
    assert class_folders(names) == expected
    assert sorted(expected) == expected


def test_a_hostile_data_set_name_never_leads_out_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"name '\.\./\.\.' cannot name DC-BENCH's folder"):
        export_set(made("../.."), "dcbench", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "images_best.pt").write_text("mine")
    for form in ("mtt", "ddranking", "imagefolder"):
        with pytest.raises(InputError, match="already holds something; choose another folder"):
            export_set(made(), form, tmp_path)
    assert (tmp_path / "images_best.pt").read_text() == "mine"


def save(folder: Path, images: Any = None, labels: Any = None, lr: Any = None) -> Path:
    """Files as MTT writes them, with some of them replaced."""
    torch.save(torch.rand(6, 3, 4, 4) if images is None else images, folder / "images_best.pt")
    torch.save(torch.arange(6) % 3 if labels is None else labels, folder / "labels_best.pt")
    if lr is not None:
        torch.save(lr, folder / "lr_best.pt")
    return folder


def test_dcbench_s_root_leads_to_the_one_set_below_it(tmp_path: Path) -> None:
    before = made()
    done = export_set(before, "dcbench", tmp_path / "root")
    assert done.folder == tmp_path / "root" / "TM" / "CIFAR10" / "IPC2"
    there = import_set("dcbench", done.folder, lr=0.1, dataset="cifar10")
    for folder in (tmp_path / "root", tmp_path / "root" / "TM", done.folder.parent):
        assert torch.equal(import_set("dcbench", folder, lr=0.1, dataset="cifar10").images, there.images)
    export_set(made(ipc=1), "dcbench", tmp_path / "root")
    with pytest.raises(InputError, match=r"several of DC-BENCH's sets; name one of \S*/IPC1, \S*/IPC2$"):
        import_set("dcbench", tmp_path / "root", lr=0.1, dataset="cifar10")
    with pytest.raises(InputError, match=r"images_best\.pt does not exist; give the path of a file that does"):
        import_set("dcbench", tmp_path / "elsewhere", lr=0.1, dataset="cifar10")


def test_what_the_files_do_not_tell_is_asked_for(tmp_path: Path) -> None:
    folder = save(tmp_path)
    with pytest.raises(InputError, match=r"do not tell the learning rate .* and the preprocessing .*; give them"):
        import_set("mtt", folder)
    with pytest.raises(InputError, match=r"do not tell the learning rate \(lr\); give it"):
        import_set("mtt", folder, dataset="cifar10")
    with pytest.raises(InputError, match=r"learning rate \(lr\), which .* does not .* 0\.0123; give it$"):
        import_set("mtt", folder, like=made("none"))
    with pytest.raises(InputError, match=r"do not tell the preprocessing "):
        import_set("mtt", folder, lr=0.1)
    with pytest.raises(InputError, match=r"preprocessing, and no normalisation is known for digits"):
        import_set("mtt", folder, lr=0.1, dataset="digits")
    found = import_set("mtt", folder, lr=0.1, dataset="cifar10", model="convnet1-w4")
    assert found.class_names == ("0", "1", "2")
    assert found.classes.tolist() == [0, 0, 1, 1, 2, 2]  # sorted, as they were not
    stored = torch.load(folder / "images_best.pt", weights_only=True)
    assert torch.equal(found.images, stored[torch.tensor([0, 3, 1, 4, 2, 5])])
    assert found.train(epochs=1)


@pytest.mark.parametrize("lr", [0.5, torch.tensor(0.5), torch.tensor([0.5])])
def test_a_learning_rate_beside_is_read(lr: Any, tmp_path: Path) -> None:
    assert import_set("mtt", save(tmp_path, lr=lr), dataset="cifar10").lr == 0.5
    assert import_set("mtt", tmp_path / "images_best.pt", dataset="cifar10", lr=0.25).lr == 0.25


def test_an_imported_set_is_judged_on_the_data_set(tmp_path: Path) -> None:
    """Blobs, exported by somebody who normalised them with numbers of their own."""
    data, own = blobs(), Normalise(torch.tensor([0.3]), torch.tensor([0.4]))
    images, classes = data.sample_per_class(6, torch.Generator().manual_seed(0))
    folder = save(tmp_path, own.apply(data.preprocessing.invert(images)), classes)
    found = import_set("mtt", folder, lr=0.1, preprocessing=own, dataset=data)
    assert found.class_names == data.class_names
    (row,) = found.evaluate("mlp-w16", 1, data, epochs=30)
    assert row.mean > 0.8


@pytest.mark.parametrize(
    ("soft", "rows", "message"),
    [
        (None, torch.full((6, 3), 1 / 3), r"soft"),
        ("probabilities", torch.full((6, 3), 1.0), "are no probabilities: give soft = logits"),
    ],
)
def test_rows_that_could_be_either_are_asked_about(soft: Any, rows: torch.Tensor, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        import_set("mtt", save(tmp_path, labels=rows), lr=0.1, dataset="cifar10", soft=soft)


def test_rows_are_read_as_they_are_said_to_be(tmp_path: Path) -> None:
    rows = (torch.rand(6, 3) + 2 * torch.eye(3).repeat_interleave(2, 0)).softmax(1)
    folder = save(tmp_path, labels=rows)
    for soft, expected in (("probabilities", rows), ("logits", rows.softmax(1))):
        found = import_set("mtt", folder, lr=0.1, dataset="cifar10", soft=soft)  # type: ignore[arg-type]
        assert torch.equal(found.labels, expected)


def test_images_of_soft_labels_are_sorted_by_them(tmp_path: Path) -> None:
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    rows = 5 * torch.eye(3).repeat_interleave(2, 0) + torch.rand(6, 3)
    images = torch.rand(6, 3, 4, 4)
    found = import_set("mtt", save(tmp_path, images[order], rows[order]), lr=0.1, dataset="cifar10")
    assert found.classes.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.labels.argmax(1).tolist() == [0, 0, 1, 1, 2, 2]
    sources = [int((images == image).flatten(1).all(1).nonzero()) for image in found.images]
    assert [source // 2 for source in sources] == [0, 0, 1, 1, 2, 2]


def test_soft_labels_of_an_erring_teacher_stay_in_order(tmp_path: Path) -> None:
    rows = 5 * torch.eye(3)[[0, 0, 1, 0, 2, 2]] + torch.rand(6, 3)
    found = import_set("mtt", save(tmp_path, labels=rows), lr=0.1, dataset="cifar10")
    assert torch.equal(found.labels, rows.softmax(1))
    assert found.classes.tolist() == [0, 0, 1, 1, 2, 2]


def test_soft_labels_that_contradict_the_order_are_refused(tmp_path: Path) -> None:
    rows = 5 * torch.eye(3)[[2, 2, 2, 0, 1, 1]] + torch.rand(6, 3)
    with pytest.raises(FormatError, match="only 0 of 6 agree; sort images and labels by class"):
        import_set("mtt", save(tmp_path, labels=rows), lr=0.1, dataset="cifar10")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("there", [False, True], ids=["new", "empty"])
def test_an_export_that_fails_can_be_repeated(
    form: str, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    if there:
        out.mkdir()
    replace, count = os.replace, [0]

    def full(*paths: Any) -> None:
        count[0] += 1
        if count[0] == 2:
            raise OSError(28, "No space left on device")
        replace(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(WriteError, match="No space left on device"):
            export_set(made(), form, out)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    done = export_set(made(), form, out)
    assert all(path.is_file() for path in done.files)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(done.files)


@pytest.mark.parametrize(
    ("form", "file"),
    [
        ("mtt", "images_best.pt"),
        ("dcbench", "TM/CIFAR10/IPC2/images_best.pt"),
        ("ddranking", "images.pt"),
        ("imagefolder", "ant/0000.png"),
    ],
)
@pytest.mark.parametrize("there", [False, True], ids=["new", "empty"])
def test_what_does_not_fit_on_the_disk_is_told_by_the_name_that_was_given(
    form: str, file: str, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if there:
        Path("out").mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    try:
        with pytest.raises(WriteError) as caught:
            export_set(made(), form, "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    told = f"cannot write out/{file}: File too large; make room there, or choose a folder elsewhere; what was there"
    assert str(caught.value).startswith(told)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("form", ["mtt", "ddranking", "imagefolder"])
def test_an_export_that_fails_while_it_moves_its_files_can_be_repeated(
    form: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into a folder that is there, the files come one by one."""
    out = tmp_path / "out"
    out.mkdir()
    rename, left = Path.rename, [1]

    def broken(self: Path, target: Path) -> Path:
        if Path(target).parent == out and not left:
            raise error
        left.clear()
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", broken)
        with pytest.raises((WriteError, KeyboardInterrupt)):
            export_set(made(), form, out)
        assert not left
    assert list(tmp_path.rglob("*")) == [out]
    done = export_set(made(), form, out)
    assert {path for path in out.rglob("*") if path.is_file()} == set(done.files)


class Malicious:
    """A pickle that would make a folder if it were run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


NAN = torch.full((6, 3, 4, 4), torch.nan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": [1, 2]}, "images_best.pt does not hold a tensor of plain numbers"),
        (
            {"images": torch.ones(6, 3, 4)},
            r"must hold images \[n, C, H, W\] .*, not float32 \[6, 3, 4\]",
        ),
        ({"images": torch.ones(6, 3, 4, 4).int()}, "must hold images"),
        ({"images": torch.ones(6, 3, 4, 4).to_sparse()}, "cannot be read as plain tensors"),
        ({"images": NAN}, "holds pixels that are not finite"),
        ({"labels": torch.arange(5)}, "it holds 5 labels for 6 images"),
        ({"labels": torch.arange(6) - 1}, "holds class numbers that are not whole or not from 0"),
        ({"labels": torch.arange(6) + 0.5}, "holds class numbers that are not whole or not from 0"),
        ({"labels": torch.full((6, 3), torch.inf)}, "holds labels that are not finite"),
        ({"labels": torch.ones(6, 3).bool()}, "must hold class numbers"),
        ({"labels": torch.tensor([0, 0, 1, 2, 2, 2])}, "are not equally many of each of 3 classes"),
        ({"labels": torch.rand(6, 4)}, "are not equally many of each of 4 classes"),
        ({"lr": -0.5}, "lr_best.pt must hold one learning rate"),
        ({"lr": torch.ones(2)}, "lr_best.pt must hold one learning rate"),
    ],
)
def test_damaged_files(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = save(tmp_path, **change)
    with pytest.raises(FormatError, match=message):
        import_set("mtt", folder, dataset="cifar10", **({} if "lr" in change else {"lr": 0.1}))


def test_files_that_are_missing_truncated_or_carry_code(tmp_path: Path) -> None:
    for form in IMPORTED:
        with pytest.raises(InputError, match=r"nowhere.* does not exist; give the path"):
            import_set(form, tmp_path / "nowhere", lr=0.1, dataset="cifar10")
    folder = save(tmp_path)
    whole = (folder / "images_best.pt").read_bytes()
    (folder / "images_best.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FormatError, match="cannot be read as plain tensors"):
        import_set("mtt", folder, lr=0.1, dataset="cifar10")
    torch.save(Malicious(tmp_path / "ran"), folder / "images_best.pt")
    with pytest.raises(FormatError, match="nothing was run"):
        import_set("mtt", folder, lr=0.1, dataset="cifar10")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"form": "npz"}, "format must be one of mtt, dcbench, ddranking, not 'npz'"),
        ({"lr": 0.0}, "lr must be a finite number above 0, not 0.0"),
        ({"class_names": ["a"]}, "the labels are of 3 classes, and 1 class names were given"),
        ({"dataset": "fashion-mnist"}, "the preprocessing does not fit the images"),
        ({"model": "convnot"}, "there is no network 'convnot'"),
    ],
)
def test_arguments_that_do_not_fit(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    arguments = {"form": "mtt", "path": save(tmp_path), "lr": 0.1, "dataset": "cifar10"} | change
    with pytest.raises(InputError, match=message):
        import_set(**arguments)


def test_a_format_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"format must be one of {', '.join(FORMATS)}, not 'npz'"):
        export_set(made(), "npz", tmp_path)


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ruamel.yaml")
    made().save(tmp_path / "set.safetensors")
    out, file = tmp_path / "out", tmp_path / "again.safetensors"
    assert main(["export", str(tmp_path / "set.safetensors"), "--format=mtt", f"--out={out}"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(
        f"6 images in {out} (4 files), normalised with the statistics that readers of the format use"
    )
    assert "lr 0.0123" in told
    assert main(["import", str(out), "--format=mtt", f"--out={file}", "--dataset=cifar10", "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["images"] == [6, 3, 4, 4]
    assert about["lr"] == 0.0123
    torch.testing.assert_close(Artefact.load(file).viewable(), made().viewable().images)
    numbers = ["--mean", "0.5", "0.5", "0.5", "--std", "0.2", "0.2", "0.2", "--classes", "x", "y", "z"]
    assert main(["import", str(out), "--format=mtt", f"--out={file}", *numbers]) == 0
    found = Artefact.load(file)
    assert found.class_names == ("x", "y", "z")
    assert found.preprocessing.state()[1]["std"].tolist() == [0.2, 0.2, 0.2]
    again = ["export", str(file), "--format=imagefolder", f"--out={tmp_path / 'pictures'}", "--json"]
    capsys.readouterr()
    assert main(again) == 0
    assert len(json.loads(capsys.readouterr().out)["files"]) == 7


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "do not tell the preprocessing"),
        (["--mean", "0.5"], 2, "--mean and --std belong together"),
        (["--dataset=cifar10", "--zca"], 2, "--zca needs --dataset and --data"),
        (["--data=/nowhere"], 2, "--data needs --dataset"),
        (["--like=/nowhere"], 2, "/nowhere holds no distilled set"),
    ],
)
def test_messages_of_the_import(
    arguments: list[str], status: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ruamel.yaml")
    folder = save(tmp_path, lr=0.1)
    assert main(["import", str(folder), "--format=mtt", f"--out={tmp_path / 'set.safetensors'}", *arguments]) == status
    assert message in capsys.readouterr().err
    assert not (tmp_path / "set.safetensors").exists()


def test_import_writes_over_no_set_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ruamel.yaml")
    export_set(made(), "mtt", tmp_path / "out")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").touch()
    file = tmp_path / "run" / "distilled.safetensors"
    assert main(["import", str(tmp_path / "out"), "--format=mtt", f"--out={file}", "--dataset=cifar10"]) == 2
    assert f"{file} is a run's own set; choose another file" in capsys.readouterr().err
    assert not file.exists()


@pytest.mark.parametrize(
    ("name", "hint"), [("nonsense", ""), ("cifar1O", "; did you mean cifar10?"), ("cifar10", None)]
)
def test_a_data_set_s_unknown_name_is_told(
    name: str, hint: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ruamel.yaml")
    export_set(made(), "mtt", tmp_path / "out")
    command = ["import", str(tmp_path / "out"), "--format=mtt", f"--dataset={name}"]
    assert main([*command, f"--out={tmp_path / 'set.safetensors'}"]) == 0
    told = f"pydistill: {name} is no data set that pydistill knows, and is kept as the name of data of your own{hint}\n"
    assert capsys.readouterr().err == ("" if hint is None else told)
    assert load(tmp_path / "set.safetensors").dataset_name == name
    # the set that it is like has the name already
    assert main([*command, f"--out={tmp_path / 'b.safetensors'}", f"--like={tmp_path / 'set.safetensors'}"]) == 0
    assert capsys.readouterr().err == ""


def test_import_writes_over_no_other_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_set(made(), "mtt", tmp_path / "out")
    metrics, other = tmp_path / "metrics.jsonl", tmp_path / "other.safetensors"
    for file, message in ((metrics, "ends in .safetensors"), (other, "is no whole distilled set; choose another file")):
        file.write_text("mine")
        assert main(["import", str(tmp_path / "out"), "--format=mtt", f"--out={file}", "--dataset=cifar10"]) == 2
        assert message in capsys.readouterr().err
        assert file.read_text() == "mine"
