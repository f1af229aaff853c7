"""MTT's names of networks, and its pools of networks for evaluation."""

from __future__ import annotations

import re
from typing import Any

from pydistill.errors import InputError
from pydistill.nn import ModelSettings, parse

_VARIANTS = {
    "AS": {"activation": "sigmoid"},
    "AR": {"activation": "relu"},
    "AL": {"activation": "leaky_relu"},
    "NN": {"norm": "none"},
    "BN": {"norm": "batch"},
    "LN": {"norm": "layer"},
    "IN": {"norm": "instance"},
    "GN": {"norm": "group"},
    "NP": {"pooling": "none"},
    "MP": {"pooling": "max"},
    "AP": {"pooling": "average"},
}
_OTHERS = {
    "MLP": ModelSettings("mlp"),
    "AlexNet": ModelSettings("alexnet"),
    "VGG11": ModelSettings("vgg11"),
    "VGG11BN": ModelSettings("vgg11", norm="batch"),
    "ResNet18": ModelSettings("resnet18"),
    "ResNet18BN": ModelSettings("resnet18", norm="batch"),
    "ConvNetKIP": ModelSettings("convnet", depth=3, width=1024, norm="none"),
}
_ABSENT = ("LeNet", "ResNet18_AP", "ResNet18BN_AP")
_POOLS = {
    "M": ("ConvNet", "AlexNet", "VGG11", "ResNet18_AP", "ResNet18"),
    "W": ("ConvNetW32", "ConvNetW64", "ConvNetW128", "ConvNetW256"),
    "D": ("ConvNetD1", "ConvNetD2", "ConvNetD3", "ConvNetD4"),
    "A": ("ConvNetAS", "ConvNetAR", "ConvNetAL"),
    "P": ("ConvNetNP", "ConvNetMP", "ConvNetAP"),
    "N": ("ConvNetNN", "ConvNetBN", "ConvNetLN", "ConvNetIN", "ConvNetGN"),
}


def network_of(name: str) -> ModelSettings:
    """Return the network that MTT's `get_network` builds for a name, or that of a short name of pydistill."""
    if name in _OTHERS:
        return _OTHERS[name]
    if name in _ABSENT:
        raise InputError(f"--model {name} is not implemented; choose ConvNet, AlexNet, VGG11 …")
    match = re.fullmatch(r"ConvNet(?:D(?P<depth>\d+)|W(?P<width>\d+)|(?P<variant>[A-Z]{2}))?", name)
    if match is None or (match["variant"] and match["variant"] not in _VARIANTS):
        if name[:1].islower():
            return parse(name)
        raise InputError(
            f"--model must be one of ConvNet, ConvNetD1 … ConvNetD6, ConvNetW32 …, "
            f"ConvNet{', ConvNet'.join(_VARIANTS)}, {', '.join(_OTHERS)} "
            f"or a short name such as convnet3-w128, not {name}"
        )
    depth, width = int(match["depth"] or 3), int(match["width"] or 128)
    options: dict[str, Any] = {"depth": depth, "width": width, "norm": "instance"}
    return ModelSettings("convnet", **(options | _VARIANTS.get(match["variant"] or "", {})))


def pool_of(mode: str, model: str) -> tuple[list[str], list[str]]:
    """Return the networks of an `--eval_mode` by MTT's names, those that pydistill has and those that it lacks.

    Mode S is the student's network, without batch norm as published; C is the student's network and ConvNet. For an
    unknown mode the published scripts silently use the student's network; here it is refused.
    """
    if mode in _POOLS:
        names = list(_POOLS[mode])
    elif mode == "C":
        names = list(dict.fromkeys([model, "ConvNet"]))
    elif mode == "S":
        names = [model.split("BN")[0]]
    else:
        raise InputError(f"--eval_mode must be one of S, C, {', '.join(_POOLS)}, not {mode}")
    return [name for name in names if name not in _ABSENT], [name for name in names if name in _ABSENT]
