"""`pydistill import`: read another tool's distilled set."""

from __future__ import annotations

import sys
from typing import Any

from pydistill.cli.arguments import add_json, path, print_json
from pydistill.cli.errors import DONE
from pydistill.errors import InputError

ABOUT = "Read another tool's distilled set."
USAGE = "--format mtt|dcbench|ddranking FILES --out FILE [--lr LR] [--dataset NAME] …"
EXAMPLES = """
  pydistill import --format mtt FOLDER --lr 0.0123 --dataset cifar10 --model convnet3 --out set.safetensors
  pydistill import --format mtt images_best.pt --lr 0.02 --dataset cifar10 --data DATA --zca --out set.safetensors
  pydistill import --format ddranking DATM/CIFAR10/IPC10 --dataset cifar10 --out set.safetensors
"""


def add_arguments(parser: Any) -> None:
    """The files, and what they do not tell."""
    from pydistill.artefact.exchange import IMPORTED

    parser.add_argument("files", type=path, help="folder of the files; of mtt also an images file, of dcbench its root")
    parser.add_argument("--format", choices=list(IMPORTED), required=True, help="who wrote them")
    parser.add_argument("--out", type=path, required=True, help="the distilled set's file, .safetensors")
    parser.add_argument("--lr", type=float, help="the learned learning rate, if no file holds it")
    parser.add_argument("--dataset", type=str, help="the distilled data set, such as cifar10")
    parser.add_argument("--data", type=str, help="where it lies: class names, ZCA and digest")
    parser.add_argument("--zca", action="store_true", help="the images are whitened (needs --data, to fit the same)")
    parser.add_argument("--mean", type=float, nargs="+", help="that the images were normalised with, per channel")
    parser.add_argument("--std", type=float, nargs="+", help="likewise; both by default those known for the data set")
    parser.add_argument("--classes", type=str, nargs="+", help="the classes' names, in the order of the labels")
    parser.add_argument("--model", type=str, help="the student's network, such as convnet3")
    parser.add_argument("--soft", choices=["logits", "probabilities"], help="what rows of labels are")
    like = "a run or set to take what is unknown from, but for --lr, which belongs to the images"
    parser.add_argument("--like", type=str, help=like)
    parser.add_argument("--as-is", action="store_true", help="the images are preprocessed as those of --like")
    add_json(parser)


def run(values: Any) -> int:
    """Say what was read."""
    import torch

    from pydistill import data
    from pydistill.artefact.distilled_set import check_destination, load
    from pydistill.artefact.exchange import import_set
    from pydistill.cli.parser import did_you_mean
    from pydistill.data import DataSettings, Normalise
    from pydistill.data.load import NAMES

    if (values.mean is None) != (values.std is None):
        raise InputError("--mean and --std belong together; give both or none")
    if values.zca and (values.data is None or values.mean is not None):
        raise InputError("--zca needs --dataset and --data, to fit the whitening, and neither --mean nor --std")
    if values.data is not None and values.dataset is None:
        raise InputError("--data needs --dataset: the name of what lies there")
    check_destination(values.out)
    dataset, preprocessing = values.dataset, None
    if values.data is not None:
        dataset = data.load(DataSettings(values.dataset, path=values.data, zca=values.zca))
        preprocessing = dataset.preprocessing if values.zca else None
    if values.mean is not None:
        mean, std = (torch.tensor(numbers, dtype=torch.float64) for numbers in (values.mean, values.std))
        preprocessing = Normalise(mean, std)
    like = None if values.like is None else load(values.like)
    found = import_set(
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
    found.save(values.out)
    known = {*NAMES, *(() if like is None else (like.dataset_name,))}
    own = values.dataset is not None and values.dataset not in known
    assumed = found.provenance["imported"].get("assumed")
    labels = "class numbers" if found.labels.ndim == 1 else "soft labels"
    if values.json:
        about = {"file": values.out, "images": list(found.images.shape), "classes": list(found.class_names)}
        print_json(
            about | {"labels": labels, "lr": found.lr, "preprocessing": found.preprocessing.kind, "assumed": assumed}
        )
    else:
        print(f"{found!r}, {labels}, preprocessing {found.preprocessing.kind}: {values.out}")
    if own:
        note = f"pydistill does not know a data set {values.dataset}; the name is stored as that of your own data"
        print(f"pydistill: {note}{did_you_mean(values.dataset, known)}", file=sys.stderr)
    if assumed is not None:
        print(f"pydistill: {assumed}", file=sys.stderr)
    return DONE
