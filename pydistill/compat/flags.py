"""Parsers of the published scripts' flags, with their types and defaults, and of the flags that pydistill adds."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, Literal, get_args

from pydistill.cli.parser import Parser

Script = Literal["mtt", "att", "tesla", "mct", "ftd", "datm"]
_STRATEGY = "color_crop_cutout_flip_scale_rotate"

FLAGS = {
    "data.name": "--dataset",
    "data.path": "--data_path",
    "data.image_size": "--res",
    "data.download": "--download",
    "distill.ipc": "--ipc",
    "distill.iterations": "--Iteration",
    "distill.steps": "--syn_steps",
    "distill.expert_epochs": "--expert_epochs",
    "distill.min_start": "--min_start_epoch",
    "distill.max_start": "--max_start_epoch",
    "distill.grow_from": "--current_max_start_epoch",
    "distill.grow_iterations": "--expansion_end_epoch",
    "distill.lr_image": "--lr_img",
    "distill.lr_lr": "--lr_lr",
    "distill.lr_label": "--lr_y",
    "distill.lr_init": "--lr_teacher",
    "distill.momentum_label": "--Momentum_y",
    "distill.skip_loss_above": "--threshold",
    "distill.batch_size": "--batch_syn",
    "distill.ema": "--ema_decay",
    "distill.dsa.strategy": "--dsa_strategy",
    "distill.waypoints": "--num_interpolation",
    "distill.backend": "--backend",
    "distill.seed": "--seed",
    "distill.evaluate_every": "--eval_it",
    "evaluation.repeats": "--num_eval",
    "evaluation.seed": "--seed",
    "evaluation.training.epochs": "--epoch_eval_train",
    "evaluation.training.batch_size": "--batch_train",
    "evaluation.training.dsa.strategy": "--dsa_strategy",
    "expert.count": "--num_experts",
    "expert.seed": "--seed",
    "expert.training.epochs": "--train_epochs",
    "expert.training.batch_size": "--batch_train",
    "expert.training.lr": "--lr_teacher",
    "expert.training.momentum": "--mom",
    "expert.training.weight_decay": "--l2",
    "expert.training.dsa.strategy": "--dsa_strategy",
    "expert.training.sharpness.rho": "--rho_max",
    "expert.training.sharpness.alpha": "--alpha",
}
"""Flag of a setting, for error messages."""

_DATM_NUMBERS: dict[str, tuple[Any, Any]] = {
    "min_start_epoch": (int, 0),
    "current_max_start_epoch": (int, 20),
    "expansion_end_epoch": (int, 3000),
    "lr_y": (float, 2.0),
    "Momentum_y": (float, 0.9),
    "threshold": (float, 1.0),
    "Label_Model_Timestamp": (int, -1),
}
_DATM_WITHOUT_EFFECT = (
    *("device", "project", "skip_first_eva", "parall_eva", "record_loss"),
    *("Initialize_Label_Model", "Initialize_Label_Model_Dir"),
)


def truth(text: str) -> bool:
    """Read True or False."""
    if text.lower() in ("true", "1", "yes"):
        return True
    if text.lower() in ("false", "0", "no", ""):
        return False
    raise argparse.ArgumentTypeError(f"must be True or False, not {text!r}")


def distill_parser(script: Script) -> Parser:
    """Return the parser of a distillation script (distill.py, distill_ATT.py, distill_compressed.py, DATM.py, …)."""
    parser = _parser(script, f"{script.upper()}'s distillation command", script)
    epochs = float if script == "mct" else int
    numbers: dict[str, tuple[Any, Any]] = {
        "ipc": (int, 1),
        "num_eval": (int, 3 if script in ("tesla", "mct") else 5),
        "eval_it": (int, 100),
        "epoch_eval_train": (int, 1000),
        "Iteration": (int, 10000 if script == "tesla" else 5000),
        "lr_img": (float, 1000.0),
        "lr_lr": (float, 1e-5),
        "lr_teacher": (float, 0.01),
        "lr_init": (float, None),
        "batch_syn": (int, None),
        "expert_epochs": (epochs, 3),
        "syn_steps": (int, 20),
        "max_start_epoch": (epochs, 25),
        "canvas_size": (int, 2),
        "canvas_samples": (int, 1),
        "max_files": (int, None),
        "max_experts": (int, None),
    }
    if script in ("att", "ftd", "datm"):
        numbers["ema_decay"] = (float, 0.999)
    if script == "mct":
        numbers["noise_start"] = (float, 0.0)
        _waypoints(parser)
    if script == "datm":
        numbers |= _DATM_NUMBERS
        for name in _DATM_WITHOUT_EFFECT:
            parser.add_argument(f"--{name}", help="accepted, without effect")
        parser.add_argument("--cfg", help="a file of DATM's configs/; flags override it")
        parser.add_argument("--Sequential_Generation", type=truth, default=True, metavar="True|False")
        parser.add_argument("--Initialize_Label_With_Another_Model", type=truth, default=False, metavar="True|False")
    for name, (kind, default) in numbers.items():
        parser.add_argument(f"--{name}", type=kind, default=default)
    parser.add_argument("--eval_mode", default="S", help="S, C, M, W, D, A, P or N")
    starts = ["samples_predicted_correctly", "real"] if script == "datm" else ["noise", "real"]
    parser.add_argument("--pix_init", choices=starts, default="real")
    parser.add_argument("--no_aug", type=truth, default=False, metavar="True|False")
    switches = ["load_all", "texture", "force_save"]
    if script == "tesla":
        switches += ["teacher_label", "random_trajectory"]
    if script == "mct":
        switches += ["teacher_label", "lr_decay", "mute_syn_lr", "mute_fub", "mute_continuous_spl", "ablation"]
        parser.add_argument("--optimizer", default="SGD")
    for name in switches:
        parser.add_argument(f"--{name}", **_switch(script))
    add = _added(parser)
    add("--name", help="folder in logged_files/DATASET; the published scripts use the name of the wandb run")
    add("--experts", help="folder for the imported experts; default: in the folder of the buffers")
    add("--resume", action="store_true", help="continue the run of that --name")
    add("--backend", choices=["auto", "fused", "torch", "autograd"], default="auto")
    if script in ("mct", "datm"):
        help = "truncated: as published" if script == "mct" else "truncated: DATM_tesla.py"
        add("--gradient", choices=["exact", "truncated"], default="exact", help=help)
    return parser


def buffer_parser(script: Script = "mtt") -> Parser:
    """Return the parser of the command that trains experts: MTT's buffer.py, or that of another repository."""
    parser = _parser("buffer", "MTT's buffer.py", script)
    _training(parser)
    parser.add_argument("--save_interval", type=int, default=1 if script == "tesla" else 10)
    if script == "att":
        parser.set_defaults(batch_train=512)
    _sharpness(parser, script)
    add = _added(parser)
    add("--rho", type=float, help="sets --rho_max and --rho_min, as in FTD's README")
    choices = [name for name in get_args(Script) if name != "datm"]  # whose buffers FTD's script trains
    add("--script", choices=choices, default="mtt", help="the repository whose defaults to take; default mtt")
    return parser


def compression_parser() -> Parser:
    """Return the parser of MCT's trajectory_compression.py."""
    parser = _parser("trajectory_compression", "MCT's trajectory_compression.py", "mct")
    _training(parser)
    _waypoints(parser)
    parser.set_defaults(max_files=None, max_experts=None)
    add = _added(parser)
    add("--experts", help="folder for the imported experts; default: in the folder of the buffers")
    return parser


def _training(parser: Parser) -> None:
    """Add the flags of the experts' training."""
    parser.add_argument("--num_experts", type=int, default=100)
    parser.add_argument("--lr_teacher", type=float, default=0.01)
    parser.add_argument("--train_epochs", type=int, default=50)
    parser.add_argument("--decay", action="store_true")
    parser.add_argument("--mom", type=float, default=0.0)
    parser.add_argument("--l2", type=float, default=0.0)


def _sharpness(parser: Parser, script: Script) -> None:
    """Add the flags of FTD's sharpness-aware training, which is off for other scripts unless ρ is chosen."""
    rho = 2.0 if script == "ftd" else None
    parser.add_argument("--rho_max", type=float, default=rho)
    parser.add_argument("--rho_min", type=float, default=rho)
    parser.add_argument("--alpha", type=float, default=0.4)
    parser.add_argument("--adaptive", type=truth, default=True, metavar="True|False")


def _switch(script: Script) -> dict[str, Any]:
    """Return the options of a flag that is off by default: one without a value, but for DATM one with True or False."""
    return {"type": truth, "default": False, "metavar": "True|False"} if script == "datm" else {"action": "store_true"}


def _waypoints(parser: Parser) -> None:
    """Add the flags that select MCT's waypoint files."""
    parser.add_argument("--num_interpolation", type=int, default=4)
    for name in ("abl_uniform_points", "abl_decreasing_points", "abl_projected_points"):
        parser.add_argument(f"--{name}", action="store_true")


def _parser(module: str, command: str, script: Script) -> Parser:
    """Return the parser of a module of this package, with the flags that all published scripts share."""
    parser = Parser(
        prog=f"python -m pydistill.compat.{module}",
        description=f"{command}, run by pydistill.",
        allow_abbrev=True,
        epilog="docs/compat.md describes the flags. --debug shows the traceback of an error.",
    )
    parser.add_argument(
        "--dataset", default="CIFAR10", help="CIFAR10, CIFAR100, Tiny, ImageNet, or a name of pydistill"
    )
    parser.add_argument("--subset", default=None, help="subset of ImageNet; default imagenette, but for TESLA")
    parser.add_argument("--res", type=int, default=None, help="side of ImageNet's images; default 128")
    parser.add_argument("--model", default="ConvNet")
    parser.add_argument("--batch_real", type=int, default=256)
    parser.add_argument("--batch_train", type=int, default=256)
    parser.add_argument("--dsa", choices=["True", "False"], default="True")
    parser.add_argument("--dsa_strategy", default=_STRATEGY)
    parser.add_argument("--data_path", default={"att": "datas", "datm": "../dataset/"}.get(script, "data"))
    parser.add_argument("--buffer_path", default="../buffer_storage/" if script == "datm" else "./buffers")
    parser.add_argument("--zca", **_switch(script))
    if script == "datm":
        parser.set_defaults(zca=True)
    return parser


def _added(parser: Parser) -> Callable[..., None]:
    """Add the flags that the published scripts do not have; return a function that adds another one."""
    group = parser.add_argument_group("flags added by pydistill")

    def add(name: str, **options: Any) -> None:
        parser.record_flag(group.add_argument(name, **options))

    add("--seed", type=int, default=0, help="seed of everything random")
    add("--download", action="store_true", help="let torchvision download missing data")
    add("--cache", default=None, help="folder for unpacked data and ZCA matrices")
    add("--quiet", action="store_true", help="show no progress")
    return add
