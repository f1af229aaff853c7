"""The flags of the published scripts: their names, kinds and defaults, and this package's own beside them."""

from __future__ import annotations

import argparse
from typing import Any, Literal, NoReturn

from pydistill.cli.messages import said
from pydistill.errors import InputError

Script = Literal["mtt", "att", "tesla", "mct"]
STRATEGY = "color_crop_cutout_flip_scale_rotate"


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are the package's own."""

    def error(self, message: str) -> NoReturn:
        """Wrong usage.

        Raises:
            InputError: always.
        """
        if message.startswith("unrecognized arguments"):
            raise InputError(f"{said(message, self, ())} ({self.prog} --help lists the flags)")
        raise InputError(f"{message}; {self.prog} --help lists the flags")


def truth(text: str) -> bool:
    """True or False as they are written on a command line."""
    if text.lower() in ("true", "1", "yes"):
        return True
    if text.lower() in ("false", "0", "no", ""):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")


def distill_parser(script: Script) -> Parser:
    """The flags of a repository's distillation script (distill.py, distill_ATT.py, distill_compressed.py)."""
    parser = Parser(
        prog=f"python -m pydistill.compat.{script}",
        description=f"{script.upper()}'s distillation command, run by pydistill.",
        epilog="docs/compat.md says what each flag does here. --debug shows the whole traceback of an error.",
    )
    _shared(parser, data_path="datas" if script == "att" else "data")
    real = float if script == "mct" else int
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
        "expert_epochs": (real, 3),
        "syn_steps": (int, 20),
        "max_start_epoch": (real, 25),
        "canvas_size": (int, 2),
        "canvas_samples": (int, 1),
        "max_files": (int, None),
        "max_experts": (int, None),
    }
    if script == "att":
        numbers["ema_decay"] = (float, 0.999)
    if script == "mct":
        numbers |= {"noise_start": (float, 0.0), "num_interpolation": (int, 4)}
    for name, (kind, default) in numbers.items():
        parser.add_argument(f"--{name}", type=kind, default=default)
    parser.add_argument("--eval_mode", default="S", help="S, C, M, W, D, A, P or N")
    parser.add_argument("--pix_init", choices=["noise", "real"], default="real")
    parser.add_argument("--no_aug", type=truth, default=False, metavar="True|False")
    switches = ["load_all", "texture", "force_save"]
    if script == "tesla":
        switches += ["teacher_label", "random_trajectory"]
    if script == "mct":
        switches += ["teacher_label", "lr_decay", "mute_syn_lr", "mute_fub", "mute_continuous_spl", "ablation"]
        switches += ["abl_uniform_points", "abl_decreasing_points", "abl_projected_points"]
        parser.add_argument("--optimizer", default="SGD")
    for name in switches:
        parser.add_argument(f"--{name}", action="store_true")
    own = _own(parser)
    own.add_argument("--name", help="of the folder in logged_files/DATASET, which wandb names there")
    own.add_argument("--experts", help="where the imported experts are kept; default: beside the buffers")
    own.add_argument("--resume", action="store_true", help="continue the run of that --name")
    own.add_argument("--backend", choices=["auto", "fused", "torch", "autograd"], default="auto")
    if script == "mct":
        own.add_argument("--gradient", choices=["exact", "truncated"], default="exact", help="truncated: as published")
    return parser


def buffer_parser() -> Parser:
    """The flags of MTT's buffer.py."""
    parser = Parser(
        prog="python -m pydistill.compat.buffer",
        description="MTT's buffer.py, run by pydistill.",
        epilog="docs/compat.md says what each flag does here. --debug shows the whole traceback of an error.",
    )
    _shared(parser, data_path="data")
    parser.add_argument("--num_experts", type=int, default=100)
    parser.add_argument("--lr_teacher", type=float, default=0.01)
    parser.add_argument("--train_epochs", type=int, default=50)
    parser.add_argument("--save_interval", type=int, default=10)
    parser.add_argument("--decay", action="store_true")
    parser.add_argument("--mom", type=float, default=0.0)
    parser.add_argument("--l2", type=float, default=0.0)
    _own(parser)
    return parser


def _shared(parser: Parser, *, data_path: str) -> None:
    parser.add_argument("--dataset", default="CIFAR10", help="CIFAR10, CIFAR100, Tiny, ImageNet, or one of pydistill's")
    parser.add_argument("--subset", default="imagenette", help="of ImageNet")
    parser.add_argument("--res", type=int, default=None, help="side of ImageNet's images; 128 if not given")
    parser.add_argument("--model", default="ConvNet")
    parser.add_argument("--batch_real", type=int, default=256)
    parser.add_argument("--batch_train", type=int, default=256)
    parser.add_argument("--dsa", choices=["True", "False"], default="True")
    parser.add_argument("--dsa_strategy", default=STRATEGY)
    parser.add_argument("--data_path", default=data_path)
    parser.add_argument("--buffer_path", default="./buffers")
    parser.add_argument("--zca", action="store_true")


def _own(parser: Parser) -> Any:
    own = parser.add_argument_group("pydistill's own")
    own.add_argument("--seed", type=int, default=0, help="of everything random")
    own.add_argument("--download", action="store_true", help="let torchvision fetch what is missing")
    own.add_argument("--cache", default=None, help="folder for unpacked data and ZCA matrices")
    own.add_argument("--quiet", action="store_true", help="show no progress")
    return own
