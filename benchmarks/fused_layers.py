"""Measure the speed of backend `torch` with `norm_act_pool` in place of a network's norm, ReLU and pooling.

    python -m benchmarks.fused_layers vgg11 resnet18 alexnet-in convnet3 --batch 10

Each network is matched as it is and with the op in place of every instance norm followed by a ReLU (and a pooling of
2 × 2), in turn, one thread; with images in PyTorch's usual memory and channels-last. The op's second derivative, which
the package does without, is made of its tangents: by symmetry the derivative of ⟨w, Jᵀ dp⟩ in dp is J w, and in z and
the parameters it is the tangent of the backward pass in the direction w.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pydistill import match, ops
from pydistill._util.memory import keep_freed_memory
from pydistill.nn import build, flatten, parse
from pydistill.nn.resnet import BasicBlock, ResNet18


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad_out: Tensor, z: Tensor, weight: Tensor, bias: Tensor, options: dict[str, Any]) -> Any:
        ctx.options = options
        ctx.save_for_backward(grad_out, z, weight, bias)
        return ops.norm_act_pool_backward(grad_out, z, weight, bias, **options)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, z_tangent: Tensor, weight_tangent: Tensor, bias_tangent: Tensor) -> Any:
        grad_out, z, weight, bias = ctx.saved_tensors
        direction = (z, z_tangent, weight, weight_tangent, bias, bias_tangent)
        of_grad_out = ops.norm_act_pool_jvp(*direction, **ctx.options)[1]
        tangents = ops.norm_act_pool_backward_jvp(grad_out, torch.zeros_like(grad_out), *direction, **ctx.options)
        return of_grad_out, tangents[1], tangents[3], tangents[5], None


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, weight: Tensor, bias: Tensor, options: dict[str, Any]) -> Tensor:
        ctx.options = options
        ctx.save_for_backward(z, weight, bias)
        return ops.norm_act_pool(z, weight, bias, **options)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> Any:
        return *_Backward.apply(grad_out, *ctx.saved_tensors, ctx.options), None


class FusedLayers(nn.Module):
    """An instance norm, its ReLU and its pooling as one op; the parameters are the norm's."""

    def __init__(self, norm: nn.GroupNorm, pooling: str) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.options = {"norm": "instance", "pooling": pooling, "eps": norm.eps}

    def forward(self, z: Tensor) -> Tensor:
        result: Tensor = _Forward.apply(z, self.weight, self.bias, self.options)
        return result


def with_fused_layers(model: nn.Module) -> nn.Module:
    """Replace the layers in a copy of the network; its parameters keep their order."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        if isinstance(module, (BasicBlock, ResNet18)):
            assert isinstance(module.norm1, nn.GroupNorm)
            module.norm1 = FusedLayers(module.norm1, "none")
            module.forward = MethodType(_block if isinstance(module, BasicBlock) else _resnet, module)  # type: ignore[method-assign]
        elif isinstance(module, nn.Sequential):
            _replace_in(module)
    return model


def _replace_in(layers: nn.Sequential) -> None:
    for number, norm in enumerate(layers):
        following = [*layers[number + 1 : number + 3], None, None]
        if not isinstance(norm, nn.GroupNorm) or norm.num_groups != norm.num_channels:
            continue
        if isinstance(following[0], nn.ReLU):
            pooling = {nn.MaxPool2d: "max", nn.AvgPool2d: "average"}.get(type(following[1]), "none")
            layers[number] = FusedLayers(norm, pooling)
            layers[number + 1] = nn.Identity()
            if pooling != "none":
                layers[number + 2] = nn.Identity()


def _block(self: BasicBlock, features: Tensor) -> Tensor:
    inner = self.norm2(self.conv2(self.norm1(self.conv1(features))))
    return torch.relu(inner + self.shortcut(features))


def _resnet(self: ResNet18, images: Tensor) -> Tensor:
    logits: Tensor = self.classifier(self.blocks(self.norm1(self.conv1(images))).mean((2, 3)))
    return logits


def seconds_per_step(model: nn.Module, batch: int, steps: int, memory_format: torch.memory_format) -> float:
    generator = torch.Generator().manual_seed(0)
    start = flatten(model)
    target = start + 0.01 * torch.randn(start.shape, generator=generator)
    images = torch.randn(batch, 3, 32, 32, generator=generator).contiguous(memory_format=memory_format).requires_grad_()
    began = time.process_time()
    loss = match(model, start, target, [(images, torch.arange(batch) % 10)] * steps, 0.01, backend="torch").loss
    torch.autograd.grad(loss, images)
    return (time.process_time() - began) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    for name in options.networks:
        model = build(parse(name), 3, 10, 32, seed=0)
        contestants = {
            "as it is": (model, torch.contiguous_format),
            "as it is, channels-last": (model, torch.channels_last),
            "op": (with_fused_layers(model), torch.contiguous_format),
            "op, channels-last": (with_fused_layers(model), torch.channels_last),
        }
        times: dict[str, list[float]] = {}
        for _ in range(options.repeat):
            for label, (contestant, memory_format) in contestants.items():
                times.setdefault(label, []).append(
                    seconds_per_step(contestant, options.batch, options.steps, memory_format)
                )
        medians = {label: statistics.median(values) for label, values in times.items()}
        for label, median in medians.items():
            print(f"{name}, batch {options.batch}, {label}: {median:.4f} s, {medians['as it is'] / median:.2f} ×")


if __name__ == "__main__":
    main()
