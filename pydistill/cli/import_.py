"""`pydistill import`: read another tool's distilled set."""

from __future__ import annotations

from typing import Any

from pydistill.cli.arguments import Output, path
from pydistill.cli.errors import note
from pydistill.errors import InputError

ABOUT = "Read another tool's distilled set."
USAGE = "--format mtt|dcbench|ddranking|dc|idc FILES --out FILE [--lr LR] [--dataset NAME] …"
EXAMPLES = """
  pydistill import --format mtt FOLDER --lr 0.0123 --dataset cifar10 --model convnet3 --out set.safetensors
  pydistill import --format mtt images_best.pt --lr 0.02 --dataset cifar10 --data DATA --zca --out set.safetensors
  pydistill import --format ddranking DATM/CIFAR10/IPC10 --dataset cifar10 --out set.safetensors
"""


def add_arguments(parser: Any) -> None:
    """Add the files, and flags for values that the files lack."""
    from pydistill.artefact.exchange import IMPORTED

    parser.add_argument(
        "files", type=path, help="folder of the files; for mtt, dc and idc also the file itself, for dcbench its root"
    )
    parser.add_argument("--format", choices=list(IMPORTED), required=True, help="format of the files")
    parser.add_argument("--out", type=path, required=True, help="file of the distilled set, .safetensors")
    parser.add_argument("--lr", type=float, help="the learned learning rate, if no file holds it")
    parser.add_argument("--dataset", type=str, help="the distilled data set, such as cifar10")
    parser.add_argument("--data", type=str, help="path of that data set, for its class names, ZCA and digest")
    parser.add_argument(
        "--zca", action="store_true", help="the images are whitened; needs --data, to fit the whitening"
    )
    parser.add_argument("--mean", type=float, nargs="+", help="mean that the images are normalised with, per channel")
    parser.add_argument(
        "--std", type=float, nargs="+", help="standard deviation; default of both: the data set's published ones"
    )
    parser.add_argument("--classes", type=str, nargs="+", help="class names, in the order of the labels")
    parser.add_argument("--model", type=str, help="the student's network, such as convnet3")
    parser.add_argument("--soft", choices=["logits", "probabilities"], help="meaning of soft labels")
    like = "a run or set that supplies what is missing, except --lr, which belongs to the images"
    parser.add_argument("--like", type=str, help=like)
    parser.add_argument("--as-is", action="store_true", help="the images are preprocessed like those of --like")


def run(values: Any) -> Output:
    """Import the set; returns what was read."""
    import torch

    from pydistill import data
    from pydistill.artefact.distilled_set import load
    from pydistill.artefact.exchange import import_set
    from pydistill.artefact.file import check_destination
    from pydistill.cli.parser import did_you_mean
    from pydistill.data import DataSettings, Normalise
    from pydistill.data.settings import NAMES

    if (values.mean is None) != (values.std is None):
        raise InputError("--mean and --std belong together; give both or neither")
    if values.zca and (values.data is None or values.mean is not None):
        raise InputError("--zca needs --dataset and --data, to fit the whitening, and neither --mean nor --std")
    if values.data is not None and values.dataset is None:
        raise InputError("--data needs --dataset: the name of the data set there")
    check_destination(values.out)
    dataset, preprocessing = values.dataset, None
    if values.data is not None:
        dataset = data.load(DataSettings(values.dataset, path=values.data, zca=values.zca))
        preprocessing = dataset.preprocessing if values.zca else None
    if values.mean is not None:
        mean, std = (torch.tensor(numbers, dtype=torch.float64) for numbers in (values.mean, values.std))
        preprocessing = Normalise(mean, std)
    like = None if values.like is None else load(values.like)
    distilled = import_set(
        values.format,
        values.files,
        lr=values.lr,
        dataset=dataset,
        preprocessing=preprocessing,
        class_names=values.classes,
        model=values.model,
        soft=values.soft,
        like=like,
        as_is=values.as_is,
    )
    distilled.save(values.out)
    names = {*NAMES, *(() if like is None else (like.dataset_name,))}
    unfamiliar = values.dataset is not None and values.dataset not in names
    assumed = distilled.provenance["imported"].get("assumed")
    labels = "class numbers" if distilled.labels.ndim == 1 else "soft labels"
    if unfamiliar:
        own_data = "is not one of pydistill's data sets; the name is stored as that of your own data"
        note(f"{values.dataset} {own_data}{did_you_mean(values.dataset, names)}")
    if assumed is not None:
        note(assumed)
    record = {
        "file": values.out,
        "images": list(distilled.images.shape),
        "classes": list(distilled.class_names),
        "labels": labels,
        "lr": distilled.lr,
        "preprocessing": distilled.preprocessing.kind,
        "assumed": assumed,
    }
    return Output(record, f"{distilled!r}, {labels}, preprocessing {distilled.preprocessing.kind}: {values.out}")
