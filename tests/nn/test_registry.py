"""Networks by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pydistill.errors import InputError, Name
from pydistill.nn import (
    ConvNet,
    ModelSettings,
    ResNet18,
    architecture_of,
    build,
    flatten,
    name_of,
    options_of,
    parse,
    settings_of,
)


def linear(in_channels: int, num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    """A user's own network."""
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size[0] * image_size[1], num_classes))


def not_a_network(in_channels: int, num_classes: int, image_size: tuple[int, int]) -> str:
    return "surprise"


def other_logits(in_channels: int, num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    return linear(in_channels, num_classes + 2, image_size)


def no_images(in_channels: int, num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    return nn.Linear(3, 3)


def pairs(in_channels: int, num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    return nn.MaxPool2d(2, return_indices=True)


HERE = f"{__name__}:linear"


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("convnet", ModelSettings()),
        ("convnet3", ModelSettings(depth=3)),
        ("convnet4-w32", ModelSettings(depth=4, width=32)),
        ("convnet-d2-bn-leaky-max-p3", ModelSettings("convnet", None, 2, "batch", "leaky_relu", "max", 3)),
        ("resnet18", ModelSettings("resnet18")),
        ("resnet18-bn", ModelSettings("resnet18", norm="batch")),
        ("vgg11-w16", ModelSettings("vgg11", width=16)),
        ("mlp2-w64-sigmoid", ModelSettings("mlp", width=64, depth=2, activation="sigmoid")),
        ("package.module:make", ModelSettings("package.module:make")),
    ],
)
def test_short_names(text: str, settings: ModelSettings) -> None:
    assert parse(text) == settings


@pytest.mark.parametrize(
    "text", ["convnet", "convnet2-w8-gn-max", "mlp2-w64-sigmoid", "alexnet", "vgg11-bn", "resnet18"]
)
def test_an_architecture_gives_its_settings_back(text: str) -> None:
    line = architecture_of(parse(text), 3, 10, 32)
    assert name_of(settings_of(line)) == text
    assert architecture_of(settings_of(line), 3, 10, 32) == line


@pytest.mark.parametrize("line", [HERE, "convnet", "convnot(width=3)", "convnet(colour=3)"])
def test_other_lines_are_no_architecture(line: str) -> None:
    with pytest.raises(InputError):
        settings_of(line)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("transformer", "'transformer'"),
        ("resnet50", "'resnet50'"),
        ("", "''"),
        ("convnet3-huge", "'huge' in the network 'convnet3-huge'"),
        ("convnet3-", "'' in the network 'convnet3-'"),
        ("convnet3-d4", "depth"),
        ("mlp-bn", "the network mlp"),
        ("resnet18-d4", "resnet18"),
    ],
)
def test_what_is_not_there_names_what_is(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(text)


def test_build_refuses_an_option_that_the_network_has_not() -> None:
    with pytest.raises(InputError, match="alexnet"):
        build(ModelSettings("alexnet", pooling="max"), 3, 10, 32)
    with pytest.raises(InputError, match="'lenet'"):
        build(ModelSettings("lenet"), 3, 10, 32)


def test_options_in_the_name_of_a_network_are_refused_with_their_settings() -> None:
    with pytest.raises(InputError) as refused:
        build(ModelSettings("convnet3-w32"), 3, 10, 32)
    names = [part for part in refused.value.args if isinstance(part, Name)]
    assert names == ["model.name", "model.width", "model.depth"]


def test_build_gives_the_network_meant() -> None:
    model = build(parse("convnet2-w8-nonorm"), 1, 5, (8, 12))
    assert isinstance(model, ConvNet)
    assert (model.depth, model.width, model.norm, model.image_size) == (2, 8, "none", (8, 12))
    assert isinstance(build(parse("resnet18-w4"), 1, 5, 8), ResNet18)


@pytest.mark.parametrize("name", ["convnet2-w999999999", "mlp-w99999999999", "resnet18-w9999999999999999999999"])
def test_a_width_beyond_all_memory(name: str) -> None:
    for use in (build, architecture_of):
        with pytest.raises(InputError, match=name):
            use(parse(name), 3, 10, 32)


def test_a_seed_fixes_the_parameters_and_leaves_the_global_state() -> None:
    settings = parse("convnet2-w8")
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = flatten(build(settings, 3, 10, 8, seed=1))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(flatten(build(settings, 3, 10, 8, seed=1)), first)
    assert not torch.equal(flatten(build(settings, 3, 10, 8, seed=2)), first)
    torch.manual_seed(1)
    assert torch.equal(flatten(build(settings, 3, 10, 8)), first)


def test_a_network_by_import_path() -> None:
    model = build(ModelSettings(HERE), 2, 3, 4, seed=0)
    assert model(torch.randn(5, 2, 4, 4)).shape == (5, 3)
    assert architecture_of(ModelSettings(HERE), 2, 3, 4) == HERE


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ModelSettings("no.such.module:make"), "'no.such.module:make'"),
        (ModelSettings("pydistill.nn:make"), "'pydistill.nn:make'"),
        (ModelSettings(":make"), "':make'"),
        (ModelSettings("pydistill.nn:__all__"), "'pydistill.nn:__all__'"),
        (ModelSettings(f"{__name__}:not_a_network"), "not_a_network"),
        (ModelSettings(HERE, width=3), "width"),
    ],
)
def test_a_bad_import_path_says_why(settings: ModelSettings, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(settings, 2, 3, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            "other_logits",
            "other_logits",
        ),
        ("no_images", "no_images"),
        ("pairs", "pairs"),
    ],
)
def test_a_network_of_one_s_own_that_does_not_fit_the_data(make: str, message: str) -> None:
    for network in (ModelSettings(f"{__name__}:{make}"), globals()[make]):
        with pytest.raises(InputError, match=message):
            architecture_of(network, 2, 3, 4)


def test_a_module_that_fails_as_it_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unwhole.py").write_text("def make(:")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="'unwhole:make'"):
        build(ModelSettings("unwhole:make"), 2, 3, 4)


def test_the_canonical_line_spells_every_option_out() -> None:
    line = "convnet(width=128, depth=3, norm=instance, activation=relu, pooling=average, first_padding=1)"
    assert architecture_of(parse("convnet3"), 3, 10, 32) == line
    assert architecture_of(ModelSettings(), 3, 10, 32) == line
    assert architecture_of(parse("convnet4"), 3, 10, 32) != line
    assert architecture_of(parse("resnet18-bn"), 3, 10, 32) == "resnet18(width=64, norm=batch, first_padding=1)"


def test_the_canonical_line_is_not_given_to_a_network_that_cannot_be_built() -> None:
    with pytest.raises(InputError, match=r"16$"):
        architecture_of(parse("convnet4"), 3, 10, 8)


def test_options_of() -> None:
    assert options_of("mlp") == ("width", "depth", "activation")
    with pytest.raises(InputError, match="'lenet'"):
        options_of("lenet")


@pytest.mark.parametrize(
    "text", ["convnet", "convnet4-w32", "convnet-p3-bn-leaky-max", "resnet18-w8-bn", "mlp2-w64-sigmoid", HERE]
)
def test_a_short_name_comes_back(text: str) -> None:
    assert name_of(parse(text)) == text


def test_a_callable_is_a_network_too() -> None:
    first, second = build(linear, 2, 3, 4, seed=0), build(ModelSettings(HERE), 2, 3, 4, seed=0)
    assert torch.equal(flatten(first), flatten(second))
    assert name_of(linear) == architecture_of(linear, 2, 3, 4) == HERE
    with pytest.raises(InputError, match="str"):
        build(not_a_network, 2, 3, 4)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Linear(2, 2), "Linear"),
        ("convnet3", "ModelSettings"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_way_to_make_a_network(network: Any, message: str) -> None:
    for use in (lambda: build(network, 3, 10, 32), lambda: architecture_of(network, 3, 10, 32)):
        with pytest.raises(InputError, match=message):
            use()
