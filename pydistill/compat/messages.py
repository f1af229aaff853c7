"""The package's messages, with the flags of the published scripts in place of names that these do not have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pydistill.errors import PydistillError

OTHER_STORE = {
    "choose another folder": "choose another folder by --experts",
    "give the data, the model and the training of those experts": "give the --dataset, --data_path, --zca and --model "
    "of those experts",
}
"""Of a store of experts that this command cannot use."""

DATA = {
    "data.name": "--dataset",
    "data.path": "--data_path",
    "data.image_size": "--res",
    "data.download=true": "--download",
}
DISTILLATION = DATA | {
    "distill.ipc": "--ipc",
    "distill.iterations": "--Iteration",
    "distill.steps": "--syn_steps",
    "distill.expert_epochs": "--expert_epochs",
    "distill.max_start": "--max_start_epoch",
    "distill.lr_image": "--lr_img",
    "distill.lr_lr": "--lr_lr",
    "distill.lr_init": "--lr_teacher",
    "distill.batch_size": "--batch_syn",
    "distill.ema": "--ema_decay",
    "distill.backend": "--backend",
    "distill.seed": "--seed",
    "distill.waypoints": "--num_interpolation",
    "evaluation.training.batch_size": "--batch_train",
    "length M": "--expert_epochs",
    "null for all images": "leave it out for all images",
}
TRAINING = DATA | {
    "expert.epochs": "--train_epochs",
    "expert.batch_size": "--batch_train",
    "expert.lr": "--lr_teacher",
    "expert.momentum": "--mom",
    "expert.weight_decay": "--l2",
    "expert.seed": "--seed",
    "dsa.strategy": "--dsa_strategy",
    "choose another folder": "choose another --buffer_path",
    "give the data, the model and the training of those experts": "give the flags of those experts",
}
EVALUATION = {
    "evaluation.repeats": "--num_eval",
    "evaluation.seed": "--seed",
    "evaluation.epochs": "--epoch_eval_train",
    "evaluation.batch_size": "--batch_train",
    "dsa.strategy": "--dsa_strategy",
}
"""The flag of each setting."""


@contextmanager
def in_flags(names: Mapping[str, str]) -> Iterator[None]:
    """Let an error that is raised inside name flags.

    Args:
        names: by what a message says, whole words of it, what it shall say; the first that fits counts.
    """
    try:
        yield
    except PydistillError as error:
        if len(error.args) == 1:
            error.args = (renamed(str(error), names),)
        raise


def renamed(message: str, names: Mapping[str, str]) -> str:
    """The message with these words replaced; a setting that it begins with may lack its group there."""
    words = "|".join(re.escape(name) for name in names)
    message = re.sub(rf"(?<![\w.-])(?:{words})(?![\w-])", lambda found: names[found[0]], message)
    first = re.match(r"([a-z_]+)(?= must | of the | ?=)", message)
    for name, flag in names.items():
        if first is not None and name.rpartition(".")[2] == first[1]:
            return flag + message[first.end() :]
    return message
