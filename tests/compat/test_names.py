"""Meaning of the published names of networks, pools, data sets and folders."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from pydistill._util.settings import described_settings
from pydistill.compat.datasets import buffer_folder, data_of
from pydistill.compat.flags import FLAGS, Script, buffer_parser, distill_parser
from pydistill.compat.networks import network_of, pool_of
from pydistill.errors import InputError
from pydistill.nn import architecture_of
from pydistill.recipes.recipe import Recipe


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("ConvNet", "width=128, depth=3, norm=instance, activation=relu, pooling=average"),
        ("ConvNetD5", "width=128, depth=5, norm=instance, activation=relu, pooling=average"),
        ("ConvNetW256", "width=256, depth=3, norm=instance, activation=relu, pooling=average"),
        ("ConvNetAS", "width=128, depth=3, norm=instance, activation=sigmoid, pooling=average"),
        ("ConvNetAL", "width=128, depth=3, norm=instance, activation=leaky_relu, pooling=average"),
        ("ConvNetNN", "width=128, depth=3, norm=none, activation=relu, pooling=average"),
        ("ConvNetBN", "width=128, depth=3, norm=batch, activation=relu, pooling=average"),
        ("ConvNetMP", "width=128, depth=3, norm=instance, activation=relu, pooling=max"),
        ("ConvNetKIP", "width=1024, depth=3, norm=none, activation=relu, pooling=average"),
        ("VGG11BN", "norm=batch"),
        ("ResNet18", "norm=instance"),
        ("AlexNet", "norm=none"),
        ("MLP", "mlp(width=128, depth=3, activation=relu)"),
        ("convnet4-w32", "width=32, depth=4, norm=instance"),
    ],
)
def test_networks(name: str, line: str) -> None:
    assert line in architecture_of(network_of(name), 3, 10, 64)


def test_pools() -> None:
    assert pool_of("S", "ConvNet") == (["ConvNet"], [])
    assert pool_of("S", "ConvNetBN") == (["ConvNet"], [])
    assert pool_of("C", "ConvNetD4") == (["ConvNetD4", "ConvNet"], [])
    assert pool_of("M", "ConvNet") == (["ConvNet", "AlexNet", "VGG11", "ResNet18"], ["ResNet18_AP"])
    for mode in ("ZZ", "s", ""):
        with pytest.raises(InputError, match="--eval_mode"):
            pool_of(mode, "ConvNetD4")
    for mode in "WDAPN":
        for name in pool_of(mode, "ConvNet")[0]:
            architecture_of(network_of(name), 3, 10, 32)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], ("cifar10", None, False, "published")),
        (["--zca"], ("cifar10", None, True, "measured")),
        (["--dataset", "CIFAR100"], ("cifar100", None, False, "published")),
        (["--dataset", "Tiny"], ("tiny-imagenet", None, False, "published")),
        (["--dataset", "ImageNet"], ("imagenette", 128, False, "published")),
        (["--dataset", "ImageNet", "--subset", "imagewoof", "--res", "256"], ("imagewoof", 256, False, "published")),
        (["--dataset", "svhn"], ("svhn", None, False, "published")),
        (["--dataset", "folder"], ("folder", None, False, "measured")),
    ],
)
def test_data_sets(flags: list[str], expected: tuple[object, ...]) -> None:
    settings = data_of(distill_parser("mtt").parse_args(flags))
    assert (settings.name, settings.image_size, settings.zca, settings.statistics) == expected
    assert settings.path == "data"


def test_digits_need_no_path() -> None:
    assert data_of(distill_parser("mtt").parse_args(["--dataset", "digits"])).path is None


def test_buffer_folders(tmp_path: Path) -> None:
    def folder(*flags: str, script: str = "mtt") -> str:
        values = distill_parser("mtt").parse_args([*flags, "--buffer_path", str(tmp_path)])
        return str(buffer_folder(values, script).relative_to(tmp_path))  # type: ignore[arg-type]

    assert folder() == "CIFAR10_NO_ZCA/ConvNet"
    assert folder("--zca") == "CIFAR10/ConvNet"
    assert folder("--dataset", "Tiny", "--model", "ConvNetD4") == "Tiny/ConvNetD4"
    tiny = ("--dataset", "Tiny", "--model", "ConvNetD4")
    assert folder(*tiny, script="mct") == "Tiny/ConvNetD4"  # where compat.buffer writes
    (tmp_path / "Tiny_NO_ZCA/ConvNetD4").mkdir(parents=True)
    assert folder(*tiny, script="mct") == "Tiny_NO_ZCA/ConvNetD4"  # where MCT's own buffer.py writes
    assert folder(*tiny, "--zca", script="mct") == folder(*tiny) == "Tiny/ConvNetD4"
    imagenet = ("--dataset", "ImageNet", "--model", "ConvNetD5")
    assert folder(*imagenet) == "ImageNet/imagenette/128/ConvNetD5"
    (tmp_path / "ImageNet/imagenette/ConvNetD5").mkdir(parents=True)
    assert folder(*imagenet) == "ImageNet/imagenette/ConvNetD5"


def test_defaults_are_those_of_the_scripts() -> None:
    mtt, tesla, mct, att = (vars(distill_parser(name).parse_args([])) for name in ("mtt", "tesla", "mct", "att"))
    assert (mtt["Iteration"], mtt["num_eval"], mtt["expert_epochs"], mtt["max_start_epoch"]) == (5000, 5, 3, 25)
    assert (mtt["lr_img"], mtt["lr_lr"], mtt["lr_teacher"], mtt["syn_steps"]) == (1000.0, 1e-5, 0.01, 20)
    assert (tesla["Iteration"], tesla["num_eval"]) == (10000, 3)
    assert (mct["num_eval"], mct["num_interpolation"]) == (3, 4)
    assert (att["ema_decay"], att["data_path"]) == (0.999, "datas")


def test_abbreviated_flags_are_accepted() -> None:
    assert distill_parser("mtt").parse_args(["--Iter", "7"]).Iteration == 7


def test_an_unknown_subset_is_refused_with_the_choices() -> None:
    with pytest.raises(InputError, match="imagefruit"):
        data_of(distill_parser("mtt").parse_args(["--dataset", "ImageNet", "--subset", "cats"]))


def test_imagenet_of_tesla_is_refused_without_a_subset() -> None:
    imagenet = ["--dataset", "ImageNet"]
    with pytest.raises(InputError):
        data_of(distill_parser("tesla").parse_args(imagenet), "tesla")
    assert (
        data_of(distill_parser("tesla").parse_args([*imagenet, "--subset", "imagewoof"]), "tesla").name == "imagewoof"
    )


def test_every_setting_and_flag_of_the_table_exists() -> None:
    parsers = [*map(distill_parser, get_args(Script)), buffer_parser()]
    assert set(FLAGS.values()) <= {flag for parser in parsers for flag in parser.names.values()}
    assert set(FLAGS) <= {setting.name for setting in described_settings(Recipe())}
