"""Convert the flags of a published script to a recipe, with notes for the user."""

from __future__ import annotations

import argparse
from typing import Any

from pydistill._util.settings import from_dict
from pydistill.compat.datasets import data_of
from pydistill.compat.flags import Script
from pydistill.compat.networks import network_of, pool_of
from pydistill.errors import InputError
from pydistill.nn import name_of
from pydistill.recipes.recipe import Recipe

# Flags that are refused: the reason and the remedy.
_REFUSED = {
    "texture": "textures on a larger canvas are not implemented; leave it out",
    "random_trajectory": "student and target would be the same random network, and the loss divides by their distance; "
    "leave it out",
    "lr_decay": "the learning rate of the pixels is constant; leave it out and choose --lr_img for all iterations",
}


def recipe_of(values: argparse.Namespace, script: Script) -> tuple[Recipe, list[str]]:
    """Convert the flags of a distillation script to a recipe, and notes on flags whose names mislead."""
    _refuse(values)
    pool, absent = pool_of(values.eval_mode, values.model)
    model = network_of(values.model)
    names = tuple(dict.fromkeys(name_of(network_of(name)) for name in pool))
    dsa = augmentation_of(values)
    settings = {
        "data": data_of(values, script),
        "model": model,
        "distill": _distill(values, script, None if values.no_aug else dsa),
        "evaluation": {
            "models": () if names == (name_of(model),) else names,
            "repeats": values.num_eval,
            "seed": values.seed,
            "baselines": (),  # the scripts compare with nothing
            "training": {
                "epochs": values.epoch_eval_train,
                "batch_size": values.batch_train,
                "momentum": 0.9,
                "weight_decay": 5e-4,
                "schedule": "halfway",
                "dsa": dsa,
            },
        },
    }
    return from_dict(Recipe, settings), _notes(values, script, absent)


def _refuse(values: argparse.Namespace) -> None:
    for name, why in _REFUSED.items():
        if getattr(values, name, False):
            raise InputError(f"--{name} is refused: {why}")
    if getattr(values, "noise_start", 0.0):
        raise InputError("--noise_start is refused: starts are points of the trajectory, without noise; leave it out")
    if getattr(values, "optimizer", "SGD") != "SGD":
        raise InputError(f"--optimizer must be SGD, as in the paper, not {values.optimizer}")
    if (
        getattr(values, "Initialize_Label_With_Another_Model", False)
        or getattr(values, "Label_Model_Timestamp", -1) != -1
    ):
        raise InputError(
            "--Initialize_Label_With_Another_Model and --Label_Model_Timestamp are refused: labels start at the logits "
            "of the experts' last epoch; leave them out"
        )
    if values.eval_it < 1:
        raise InputError(f"--eval_it must be at least 1, not {values.eval_it}")


def augmentation_of(values: argparse.Namespace) -> dict[str, Any] | None:
    """Return the settings of the augmentation that --dsa and --dsa_strategy select; None for no augmentation."""
    strategy = values.dsa_strategy
    return {"strategy": strategy} if values.dsa == "True" and strategy.lower() not in ("", "none") else None


def sharpness_of(values: argparse.Namespace) -> dict[str, Any] | None:
    """Return the settings of sharpness-aware experts that FTD's flags select; None for plain SGD."""
    most, least = (values.rho_max, values.rho_min) if values.rho is None else (values.rho, values.rho)
    if most != least:
        raise InputError(
            f"--rho_max and --rho_min must be equal, not {most} and {least}: ρ follows the learning rate, a constant"
        )
    return None if most is None else {"rho": most, "alpha": values.alpha, "adaptive": values.adaptive}


def _distill(values: argparse.Namespace, script: Script, dsa: dict[str, Any] | None) -> dict[str, Any]:
    gradient = getattr(values, "gradient", None)
    settings = _of_datm(values) if script == "datm" else {"initialisation": values.pix_init}
    return settings | {
        "method": script,
        "ipc": values.ipc,
        "iterations": values.Iteration,
        "steps": values.syn_steps,
        "expert_epochs": float(values.expert_epochs),
        "max_start": float(values.max_start_epoch),
        "continuous": False if getattr(values, "mute_continuous_spl", False) else None,
        "gradient": gradient,
        "labels": "teacher" if getattr(values, "teacher_label", False) else None,
        "lr_image": values.lr_img / 2 if _lacks_a_factor(values, script) else values.lr_img,
        "lr_lr": 0.0 if getattr(values, "mute_syn_lr", False) else values.lr_lr,
        "lr_init": values.lr_teacher,
        "batch_size": values.batch_syn,
        "ema": None if script == "datm" else getattr(values, "ema_decay", None),
        "dsa": dsa,
        "evaluate_every": values.eval_it,
        "backend": values.backend,
        "seed": values.seed,
    }


def _lacks_a_factor(values: argparse.Namespace, script: Script) -> bool:
    """Return True if the published code computes half the pixels' gradient: TESLA's, which MCT computes too."""
    return script == "tesla" or (script == "mct" and values.gradient == "truncated")


def _of_datm(values: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that only DATM has: range of starts, first images and labels, their update."""
    correct = values.pix_init == "samples_predicted_correctly"
    growing = values.Sequential_Generation and values.current_max_start_epoch < values.max_start_epoch
    return {
        "min_start": float(values.min_start_epoch),
        "growing": growing,
        "initialisation": "correct" if correct else "real",
        "label_start": "correct_logits" if correct else "one_expert",
        "lr_label": values.lr_y,
        "momentum_label": values.Momentum_y,
        "skip_loss_above": values.threshold,
    } | (
        {"grow_from": float(values.current_max_start_epoch), "grow_iterations": values.expansion_end_epoch}
        if growing
        else {}
    )


def _notes(values: argparse.Namespace, script: Script, absent: list[str]) -> list[str]:
    notes = []
    if values.lr_init is not None and values.lr_init != values.lr_teacher:
        notes.append(
            f"--lr_init is never used by the published scripts: α starts at --lr_teacher = {values.lr_teacher}"
        )
    if _lacks_a_factor(values, script):
        notes.append(
            "the published code omits a factor 2 in the pixels' gradient; --lr_img is halved here, "
            "so that the steps are the same"
        )
    elif script == "mct":
        notes.append("the gradient is exact; --gradient truncated computes what the published code does")
    if getattr(values, "teacher_label", False):
        notes.append("--teacher_label: the labels are the mean of all experts' final probabilities, and fixed")
    if values.load_all:
        notes.append("--load_all: all experts are used in any case, mapped into memory from disk")
    if absent:
        notes.append(f"--eval_mode {values.eval_mode}: {', '.join(absent)} is not implemented and is skipped")
    return notes
