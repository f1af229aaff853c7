"""Wrong and unsupported flags: one sentence that names the flag, and no folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pydistill.compat import mtt
from tests.compat.scripts import BUFFERS, RUN


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--texture"], "--texture is refused: "),
        (["--eval_it", "0"], "--eval_it must be at least 1, not 0"),
        (["--eval_mode", "ZZ"], "--eval_mode must be "),
        (["--model", "LeNet"], "--model LeNet "),
        (["--model", "ConvNetXY"], "--model must be "),
        (["--dataset", "MNIST"], "--dataset must be CIFAR10"),
        (["--dataset", "ImageNet", "--subset", "cats"], "--subset must be one of imagenette"),
        (["--res", "64"], "--res=64 is for --dataset ImageNet"),
        (["--buffer_path", "elsewhere"], "holds no replay_buffer_0.pt"),
        (["--max_files", "0"], "--max_files must be at least 1, not 0"),
        (["--max_experts", "0"], "--max_experts must be at least 1, not 0"),
        (["--no_aug", "perhaps"], "--no_aug must be True or False, not 'perhaps'"),
        (["--nosuchthing"], "there is no flag --nosuchthing (python -m pydistill.compat.mtt --help lists the flags)"),
        (["--lr_imgg", "3"], "there is no flag --lr_imgg; did you mean --lr_img? (python -m pydistill.compat.mtt"),
        (["--lr_img 3"], "there is no flag --lr_img 3"),
        (["--zca", "yes"], "'yes' is one argument too many"),
        (["--model", "convnet1-w4"], "and the record do not agree"),
    ],
)
def test_wrong_and_unsupported_flags_are_refused(
    flags: list[str], part: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "convnet1-w4" in flags:
        shutil.copytree(here / BUFFERS, here / BUFFERS.with_name("convnet1-w4"))
    assert mtt.main([*RUN, *flags]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert part in lines[-1]
    assert not (here / "logged_files").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ["--max_start_epoch", "20"],
        ["--syn_steps", "0"],
        ["--lr_img", "-1"],
        ["--batch_syn", "0"],
        ["--batch_train", "0"],
        ["--epoch_eval_train", "0"],
        ["--num_eval", "0"],
        ["--dsa_strategy", "wave"],
        ["--data_path", "nowhere"],
    ],
)
def test_messages_name_the_flags(flags: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mtt.main([*RUN, *flags]) == 2
    assert capsys.readouterr().err.startswith(f"pydistill: error: {flags[0]} must be ")
    assert not (here / "logged_files").exists(), "the same --name can be used again"
