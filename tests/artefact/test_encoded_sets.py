"""Sets with a decoder: the file holds codes, and everything that reads the images goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from pydistill._util.tensor_file import write_tensors
from pydistill.artefact.distilled_set import DistilledSet, load
from pydistill.artefact.exchange import export_set, import_set
from pydistill.artefact.file import KEY, Artefact
from pydistill.distillation.distiller import Distiller
from pydistill.errors import FormatError, InputError
from pydistill.nn import build
from pydistill.runs.report import draw_run, write_report
from pydistill.runs.run import run_distillation
from pydistill.synthesis.decoders import DecoderSettings
from pydistill.trajectories import TrajectoryStore
from tests.helpers.blobs import blobs
from tests.helpers.small_runs import MODEL, BreakAt, experts, recipe

DATA = blobs()  # 4 classes, 1×8×8
PIXELS = 4 * 64
DECODERS: dict[str, tuple[DecoderSettings | None, int, int, int]] = {
    # decoder, images, numbers, bytes
    "pixels": (None, 4, PIXELS, 4 * PIXELS),
    "upsample": (DecoderSettings("upsample"), 16, PIXELS, 4 * PIXELS),
    "mirror": (DecoderSettings("mirror"), 8, PIXELS, 4 * PIXELS),
    "dct": (DecoderSettings("dct", coefficients=16), 16, PIXELS + 4 * 16, 4 * PIXELS + 4 * 16 * 2),
    "gaussians": (DecoderSettings("gaussians", images=3, fit_steps=5), 12, 12 * 6 * 7, 12 * 6 * 7 * 2),
    "siren": (DecoderSettings("siren", width=4, layers=1, fit_steps=5), 12, 12 * 17, 12 * 17 * 4),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return experts(tmp_path_factory.mktemp("experts"))


@pytest.fixture(scope="module", params=sorted(DECODERS))
def finished(
    request: pytest.FixtureRequest, store: TrajectoryStore, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A finished run with one decoder."""
    folder = tmp_path_factory.mktemp(request.param)
    work = recipe(iterations=2, decoder=DECODERS[request.param][0], optimiser="adam", lr_image=0.01)
    run_distillation(work, DATA, store, folder)
    return request.param, folder


def test_the_file_is_as_small_as_the_storage(finished: tuple[str, Path]) -> None:
    kind, folder = finished
    _, images, numbers, size = DECODERS[kind]
    artefact = Artefact.load(folder)
    storage = artefact.storage
    assert (len(artefact.images), storage.numbers, storage.bytes) == (images, numbers, size)
    assert (storage.label_numbers, storage.label_bytes) == (images, 8 * images)
    with safe_open(folder / "distilled.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()[KEY])
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert header["format"] == (1 if kind == "pixels" else 2)
    assert header["storage"] == {"numbers": numbers, "bytes": size, "label_numbers": images, "label_bytes": 8 * images}
    of_images = [value for name, value in stored.items() if name == "images" or name.startswith(("code.", "buffer."))]
    assert sum(value.numel() * value.element_size() for value in of_images) == size
    assert ("images" in stored) == (kind == "pixels")
    if kind == "dct":
        assert header["decoder"] == {"kind": "dct", "coefficients": 16, "shape": [1, 8, 8], "ipc": 1}
    assert all(entry["meaning"] for entry in header["tensors"].values())


def test_loading_decodes_the_images_that_were_evaluated(store: TrajectoryStore, finished: tuple[str, Path]) -> None:
    kind, folder = finished
    student = build(MODEL, *DATA.sizes, seed=0)
    settings = recipe(iterations=2, decoder=DECODERS[kind][0], optimiser="adam", lr_image=0.01).distill
    running = Distiller(settings, DATA, store, student)
    for _ in range(2):
        running.iterate()
    artefact = Artefact.load(folder)
    assert torch.equal(artefact.images, running.images)
    assert torch.equal(artefact.initial_images, running.initial_images)  # type: ignore[arg-type]
    assert not torch.equal(artefact.images, running.initial_images)


def test_sets_of_different_storage_look_different(finished: tuple[str, Path]) -> None:
    _, folder = finished
    distilled = load(folder)
    numbers = f"{distilled.storage.numbers:,} numbers"
    assert numbers in repr(distilled)
    assert numbers in write_report(folder).read_text()


def test_saving_and_loading_again_changes_nothing(finished: tuple[str, Path], tmp_path: Path) -> None:
    _, folder = finished
    distilled = load(folder)
    distilled.save(tmp_path / "copy.safetensors")
    assert (tmp_path / "copy.safetensors").read_bytes() == (folder / "distilled.safetensors").read_bytes()


def test_exports_have_the_images(finished: tuple[str, Path], tmp_path: Path) -> None:
    _, folder = finished
    distilled = load(folder)
    export_set(distilled, "ddranking", tmp_path / "out", as_is=True)
    again = import_set("ddranking", tmp_path / "out", like=distilled)
    assert torch.equal(again.images, distilled.images)
    assert again.artefact.encoded is None
    assert again.storage.numbers == distilled.images.numel()


def test_set_trains_and_evaluates(finished: tuple[str, Path]) -> None:
    _, folder = finished
    distilled = load(folder)
    [row] = distilled.evaluate(data=DATA, repeats=1, epochs=2)
    assert 0 <= row.mean <= 1
    assert len(distilled.viewable().images) == len(distilled)


def test_changed_images_are_not_saved_as_old_codes(finished: tuple[str, Path], tmp_path: Path) -> None:
    kind, folder = finished
    artefact = Artefact.load(folder)
    other = replace(artefact, images=artefact.images + 1, initial_images=None)
    if kind != "pixels":
        with pytest.raises(InputError, match="codes"):
            other.save(tmp_path / "other.safetensors")
    replace(other, encoded=None).save(tmp_path / "other.safetensors")
    assert torch.equal(Artefact.load(tmp_path / "other.safetensors").images, other.images)


@pytest.mark.parametrize("kind", [kind for kind in DECODERS if kind != "pixels"])
def test_pictures_of_an_unfinished_run(kind: str, store: TrajectoryStore, tmp_path: Path) -> None:
    work = recipe(iterations=8, decoder=DECODERS[kind][0], lr_image=0.01)
    with pytest.raises(RuntimeError, match="interrupted"):
        run_distillation(work, DATA, store, tmp_path, callbacks=[BreakAt(4)])
    assert all(picture.exists() for picture in draw_run(tmp_path))


@pytest.mark.parametrize(
    "change",
    [{"kind": "hologram"}, {"shape": [1, 8]}, {"shape": [1, 8, 4]}, {"coefficients": 65}, {"ipc": 0}, {"shape": "x"}],
    ids=str,
)
def test_damaged_description(change: dict[str, Any], store: TrajectoryStore, tmp_path: Path) -> None:
    run_distillation(recipe(iterations=1, decoder=DECODERS["dct"][0]), DATA, store, tmp_path)
    path = tmp_path / "distilled.safetensors"
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[KEY])
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header = {name: value for name, value in header.items() if name not in ("sha256", "tensors")}
    write_tensors(path, KEY, header | {"decoder": header["decoder"] | change}, stored)
    with pytest.raises(FormatError):
        load(path)


def test_view_of_a_set_with_a_decoder(finished: tuple[str, Path]) -> None:
    _, folder = finished
    distilled = load(folder)
    assert isinstance(distilled.viewable(), DistilledSet)
    assert distilled.viewable().storage == distilled.storage
