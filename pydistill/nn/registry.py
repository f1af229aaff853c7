"""Networks by name: parse short names, build networks, and write their canonical names."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from pydistill._util.memory import check_memory_available
from pydistill._util.settings import Settings, setting
from pydistill.errors import InputError, Name, PydistillError
from pydistill.nn.alexnet import AlexNet
from pydistill.nn.convnet import ConvNet
from pydistill.nn.fits import check_fits
from pydistill.nn.layers import plane_of
from pydistill.nn.mlp import MLP
from pydistill.nn.resnet import ResNet18
from pydistill.nn.vgg import VGG11

NETWORKS: dict[str, type[nn.Module]] = {
    "convnet": ConvNet,
    "mlp": MLP,
    "alexnet": AlexNet,
    "vgg11": VGG11,
    "resnet18": ResNet18,
}

# The words of a short name such as "convnet4-w32-nopool", and the option that each sets.
_WORDS: dict[str, tuple[str, str]] = {
    "in": ("norm", "instance"),
    "gn": ("norm", "group"),
    "bn": ("norm", "batch"),
    "ln": ("norm", "layer"),
    "nonorm": ("norm", "none"),
    "relu": ("activation", "relu"),
    "leaky": ("activation", "leaky_relu"),
    "sigmoid": ("activation", "sigmoid"),
    "avg": ("pooling", "average"),
    "max": ("pooling", "max"),
    "nopool": ("pooling", "none"),
}
_NUMBERS = {"w": "width", "d": "depth", "p": "first_padding"}


@dataclass(frozen=True)
class ModelSettings(Settings):
    """A network by name, with the options that differ from its own defaults.

    A network of the user's own is an import path "package.module:callable", called with (in_channels, num_classes,
    image_size) and returning an nn.Module.
    """

    name: str = setting(
        "convnet", "convnet, mlp, alexnet, vgg11, resnet18, or the import path package.module:callable of your own"
    )
    width: int | None = setting(None, "channels or units")
    depth: int | None = setting(None, "number of blocks or layers")
    norm: str | None = setting(None, "instance, group, batch, layer or none")
    activation: str | None = setting(None, "relu, leaky_relu or sigmoid")
    pooling: str | None = setting(None, "average, max or none")
    first_padding: int | None = setting(None, "zeros around the image in the first convolution")

    def options(self) -> dict[str, Any]:
        """Return the options that are set, by name."""
        return {key: value for key, value in asdict(self).items() if key != "name" and value is not None}


Network = ModelSettings | Callable[[int, int, tuple[int, int]], nn.Module]
"""A network by settings, or a function that makes one from (in_channels, num_classes, (height, width))."""


def parse(text: str) -> ModelSettings:
    """Parse a network's short name.

    name[depth][-word …]: "convnet3", "convnet4-w32", "resnet18-bn", "mlp2-w64-sigmoid", or an import path
    "package.module:callable". Words: w32 width, d4 depth, p3 first padding; in, gn, bn, ln, nonorm (norm);
    relu, leaky, sigmoid (activation); avg, max, nopool (pooling).

    Raises:
        InputError: no such network, word, or option of this network.
    """
    if ":" in text:
        return ModelSettings(name=text)
    head, *words = text.split("-")
    options: dict[str, Any] = {}
    value: int | str
    name = head
    if head not in NETWORKS:
        numbered = re.fullmatch(r"([a-z]+)(\d+)", head)
        if numbered is None or numbered[1] not in NETWORKS:
            raise _unknown(text)
        name, options["depth"] = numbered[1], int(numbered[2])
    for word in words:
        number = re.fullmatch(r"([a-z])(\d+)", word)
        if number is not None and number[1] in _NUMBERS:
            option, value = _NUMBERS[number[1]], int(number[2])
        elif word in _WORDS:
            option, value = _WORDS[word]
        else:
            allowed = ", ".join(["w<number>", "d<number>", "p<number>", *_WORDS])
            raise InputError(f"{word!r} in the network {text!r} is not one of {allowed}")
        if option in options:
            raise InputError(f"the network {text!r} sets its {option} twice")
        options[option] = value
    _check_options(name, options)
    return ModelSettings(name=name, **options)


def name_of(network: Network) -> str:
    """Return the short name that `parse` turns into these settings; of a callable, its module and name."""
    if not isinstance(network, ModelSettings):
        return _callable_name(network)
    words = [network.name if network.depth is None else f"{network.name}{network.depth}"]
    words += [
        f"{letter}{getattr(network, option)}"
        for letter, option in _NUMBERS.items()
        if option != "depth" and getattr(network, option) is not None
    ]
    words += [word for word, (option, value) in _WORDS.items() if getattr(network, option) == value]
    return "-".join(words)


def build(
    settings: Network,
    in_channels: int,
    num_classes: int,
    image_size: int | Sequence[int],
    *,
    seed: int | None = None,
) -> nn.Module:
    """Build a freshly initialised network on the CPU, in float32.

    The same seed gives the same parameters and does not change PyTorch's global random state; without a seed the
    initialisation draws from that state.

    Raises:
        InputError: no such network, an option that it does not have, or a value outside its limits.
        OutOfMemoryError: its parameters need more than the free memory.
    """
    factory = _factory(settings)
    plane = plane_of(image_size)
    if isinstance(settings, ModelSettings) and ":" not in settings.name:
        empty = _without_memory(settings, in_channels, num_classes, plane)
        parameters = sum(parameter.numel() for parameter in empty.parameters())
        remedy = "lower its width or the images' size"
        check_memory_available(4 * parameters, f"the network {name_of(settings)} of {parameters} parameters", remedy)
    if seed is None:
        return factory(in_channels, num_classes, plane)
    with torch.random.fork_rng(devices=[]):
        # Only the CPU's generator: torch.manual_seed would also reseed every GPU, and nothing would restore them.
        torch.default_generator.manual_seed(seed)
        return factory(in_channels, num_classes, plane)


def architecture_of(
    settings: Network,
    in_channels: int,
    num_classes: int,
    image_size: int | Sequence[int],
    *,
    device: torch.device | str = "cpu",
) -> str:
    """Return the canonical name of the network: "convnet(width=128, depth=3, norm=instance, …)".

    Every option is listed: two settings of the same network give the same name. Channels, classes and image size are
    checked but not part of it: they belong to the data. A network of the user's is run once, on `device`.

    Raises:
        InputError: as `build`, or a network of the user's that does not map such images to logits [B, K].
    """
    if is_custom(settings):
        name = name_of(settings)
        network = build(settings, in_channels, num_classes, image_size, seed=0).to(device)
        check_fits(network, name, in_channels, num_classes, plane_of(image_size))
        return name
    assert isinstance(settings, ModelSettings)
    model = _without_memory(settings, in_channels, num_classes, plane_of(image_size))
    options = ", ".join(f"{option}={getattr(model, option)}" for option in options_of(settings.name))
    return f"{settings.name}({options})"


def is_custom(settings: Network) -> bool:
    """Return True for a network of the user's own, by import path or as a factory."""
    return not isinstance(settings, ModelSettings) or ":" in settings.name


def settings_of(architecture: str) -> ModelSettings:
    """Return the settings of the network whose line `architecture_of` gives; defaults are left out.

    Raises:
        InputError: it is no such line, or that of a network of the user's own.
    """
    line = re.fullmatch(r"(\w+)\((.*)\)", architecture)
    if line is None or line[1] not in NETWORKS:
        raise InputError(f"{architecture} is not a network of pydistill's; pass model")
    defaults = inspect.signature(NETWORKS[line[1]]).parameters
    options: dict[str, Any] = {}
    for name, value in (option.split("=", 1) for option in line[2].split(", ")):
        if name not in defaults or value != str(defaults[name].default):
            options[name] = int(value) if value.isdigit() else value
    _check_options(line[1], options)
    return ModelSettings(line[1], **options)


def check_named(settings: Network) -> None:
    """Check everything about a network that does not depend on the images.

    Raises:
        InputError: no such network, an option that it does not have, or an import path that leads to no callable.
    """
    _factory(settings)


def options_of(name: str) -> tuple[str, ...]:
    """Return the options of the network `name`, in the order of its constructor."""
    if name not in NETWORKS:
        raise _unknown(name, _options_in(name))
    return tuple(inspect.signature(NETWORKS[name]).parameters)[3:]


def _unknown(name: str, options: Mapping[str, Any] | None = None) -> InputError:
    """Make the error for an unknown network; `options` are those of a short name in place of a network's name."""
    if options:
        settings = [part for key, value in options.items() for part in (", ", Name(f"model.{key}"), f" {value}")]
        return InputError(f"the name of a network is without options, not {name!r}: set ", *settings[1:])
    return InputError(
        f"there is no network {name!r}: use one of {', '.join(NETWORKS)}, or an import path package.module:callable"
    )


def _options_in(name: str) -> dict[str, Any]:
    """Return the settings of a network by its short name, `name` first; none if it is not a short name."""
    try:
        return {"name": parse(name).name} | parse(name).options()
    except InputError:
        return {}


def _check_options(name: str, options: dict[str, Any]) -> None:
    available = options_of(name)
    for option in options:
        if option not in available:
            raise InputError(f"the network {name} has no option {option}: it has {', '.join(available)}")


def _factory(settings: Network) -> Callable[[int, int, tuple[int, int]], nn.Module]:
    """Return the function from (in_channels, num_classes, (H, W)) to the network; check its options."""
    if not isinstance(settings, ModelSettings):
        return _checked(settings, _callable_name(settings))
    options = settings.options()
    if ":" not in settings.name:
        _check_options(settings.name, options)
        network = NETWORKS[settings.name]
        return lambda in_channels, num_classes, plane: network(in_channels, num_classes, plane, **options)
    if options:
        raise InputError(
            f"the network {settings.name} is built by its own callable, which takes no options, but "
            f"{', '.join(options)} is set"
        )
    return _checked(_imported(settings.name), settings.name)


def _without_memory(settings: ModelSettings, in_channels: int, num_classes: int, plane: tuple[int, int]) -> nn.Module:
    """Build the network on the meta device: its parameters have shapes but no memory."""
    factory = _factory(settings)
    try:
        with torch.device("meta"):
            return factory(in_channels, num_classes, plane)
    except (RuntimeError, TypeError, OverflowError) as error:  # sizes beyond 64 bits
        if "overflow" not in str(error).lower():
            raise
        raise InputError(f"the network {name_of(settings)} is larger than any memory; lower its width") from error


def _checked(function: Callable[..., object], name: str) -> Callable[[int, int, tuple[int, int]], nn.Module]:
    def make(in_channels: int, num_classes: int, plane: tuple[int, int]) -> nn.Module:
        _check_callable(function, name)
        try:
            model = function(in_channels, num_classes, plane)
        except PydistillError:
            raise
        except Exception as error:
            raise InputError(
                f"the network {name} cannot be built for ({in_channels}, {num_classes}, {plane}): "
                f"{type(error).__name__}: {error}"
            ) from error
        if not isinstance(model, nn.Module):
            raise InputError(f"{name} returned a {type(model).__name__}, not an nn.Module")
        return model

    return make


def _check_callable(function: Callable[..., object], name: str) -> None:
    """Check, before calling it, that `function` can make a network."""
    remedy = "it is called with (in_channels, num_classes, image_size) and must return an nn.Module"
    if not callable(function):
        raise InputError(f"the network {name} is a {type(function).__name__} and cannot be called; {remedy}")
    try:
        inspect.signature(function).bind(1, 1, (1, 1))
    except TypeError as error:
        raise InputError(f"the network {name} does not take its arguments ({error}); {remedy}") from error
    except ValueError as error:  # a C function without a signature
        raise InputError(f"the network {name} has no signature; wrap it in a function: {remedy}") from error


def _callable_name(function: Callable[..., object]) -> str:
    if isinstance(function, nn.Module):
        raise InputError(
            f"a network must be a function that makes a new module, not a module: pass {type(function).__name__} "
            "or a function of (in_channels, num_classes, (height, width)) that returns one"
        )
    if not callable(function):
        remedy = f"; pydistill.nn.parse({function!r}) makes one of a short name" if isinstance(function, str) else ""
        raise InputError(
            f"a network must be ModelSettings or a callable of (in_channels, num_classes, (height, width)), "
            f"not a {type(function).__name__}{remedy}"
        )
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"


def _imported(path: str) -> Callable[..., object]:
    """Import the callable at "package.module:callable"."""
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute or module_name.startswith("."):
        raise InputError(f"the network {path!r} cannot be imported; write package.module:callable")
    try:
        imported: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            imported = getattr(imported, part)
    except Exception as error:  # the user's module may raise anything
        raise InputError(f"the network {path!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(imported):
        raise InputError(f"the network {path!r} is not a callable")
    return imported  # type: ignore[no-any-return]
