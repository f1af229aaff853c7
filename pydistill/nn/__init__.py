"""Networks for students and evaluations, their registry, and flat parameter vectors."""

from __future__ import annotations

from pydistill.nn.alexnet import AlexNet
from pydistill.nn.convnet import ConvNet
from pydistill.nn.flat import ParameterLayout, flatten, layout_of, unflatten
from pydistill.nn.mlp import MLP
from pydistill.nn.registry import (
    ModelSettings,
    Network,
    architecture_of,
    build,
    name_of,
    options_of,
    parse,
    settings_of,
)
from pydistill.nn.resnet import ResNet18
from pydistill.nn.vgg import VGG11

__all__ = [
    "MLP",
    "VGG11",
    "AlexNet",
    "ConvNet",
    "ModelSettings",
    "Network",
    "ParameterLayout",
    "ResNet18",
    "architecture_of",
    "build",
    "flatten",
    "layout_of",
    "name_of",
    "options_of",
    "parse",
    "settings_of",
    "unflatten",
]
