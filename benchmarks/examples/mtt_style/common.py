"""What the script has besides its outer loop: flags, digits, network, augmentation, expert trajectories."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import pydistill.nn


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The script's flags, named as the published scripts name theirs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ipc", type=int, default=1)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--Iteration", type=int, default=30)
    parser.add_argument("--syn_steps", type=int, default=30)
    parser.add_argument("--batch_syn", type=int, default=None)
    parser.add_argument("--expert_epochs", type=int, default=4)
    parser.add_argument("--max_start_epoch", type=int, default=4)
    parser.add_argument("--lr_img", type=float, default=10.0)
    parser.add_argument("--lr_lr", type=float, default=1e-4)
    parser.add_argument("--lr_teacher", type=float, default=0.02)
    parser.add_argument("--num_experts", type=int, default=2)
    parser.add_argument("--train_epochs", type=int, default=8)
    parser.add_argument("--no_aug", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--network", choices=["own", "pydistill"], default="own", help="this file's, or the library's")
    parser.add_argument("--double", action="store_true", help="everything in float64")
    return parser.parse_args(arguments)


def get_dataset(args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """scikit-learn's digits, normalised: images [1797, 1, 8, 8] and labels [1797]."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float64 if args.double else torch.float32)[:, None]
    return (images - images.mean()) / images.std(), torch.tensor(digits.target)


class ConvNet(nn.Module):
    """Two blocks of convolution, instance norm, ReLU and average pooling, then a linear layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (1, width):
            layers.append(nn.Conv2d(channels, width, 3, padding=1))
            layers += [nn.GroupNorm(width, width), nn.ReLU(), nn.AvgPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 10] of images [B, 1, 8, 8]."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def get_network(args: argparse.Namespace) -> nn.Module:
    """A fresh network; the library's has the same parameters in the same order."""
    net = ConvNet(args.width) if args.network == "own" else pydistill.nn.ConvNet(1, 10, 8, width=args.width, depth=2)
    return net.to(torch.float64 if args.double else torch.float32)


class ReparamModule(nn.Module):
    """A network whose parameters are given with each call, as one vector."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.names, parameters = zip(*net.named_parameters(), strict=True)
        self.shapes = [parameter.shape for parameter in parameters]

    def forward(self, x: Tensor, flat_param: Tensor) -> Tensor:
        """Logits of images with the parameters `flat_param` [P]."""
        pieces = torch.split(flat_param, [shape.numel() for shape in self.shapes])
        parameters = {
            name: piece.view(shape) for name, piece, shape in zip(self.names, pieces, self.shapes, strict=True)
        }
        logits: Tensor = functional_call(self.net, parameters, (x,))
        return logits


def augment(x: Tensor) -> Tensor:
    """The batch shifted by up to one pixel, zeros coming in."""
    row, column = torch.randint(0, 3, (2,)).tolist()
    return F.pad(x, (1, 1, 1, 1))[:, :, row : row + x.shape[2], column : column + x.shape[3]]


def train_experts(args: argparse.Namespace, images: Tensor, labels: Tensor) -> list[list[list[Tensor]]]:
    """Of each expert, after each epoch, its list of parameter tensors: what a replay buffer holds."""
    buffer = []
    for _ in range(args.num_experts):
        net = get_network(args)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
        timestamps = [[p.detach().clone() for p in net.parameters()]]
        for _ in range(args.train_epochs):
            for rows in torch.randperm(len(images)).split(64):
                optimizer.zero_grad()
                F.cross_entropy(net(augment(images[rows])), labels[rows]).backward()
                optimizer.step()
            timestamps.append([p.detach().clone() for p in net.parameters()])
        buffer.append(timestamps)
    return buffer


def real_images(args: argparse.Namespace, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """`ipc` random images of each digit, class by class, and their labels."""
    rows = [(labels == digit).nonzero().squeeze(1) for digit in range(10)]
    chosen = torch.cat([value[torch.randperm(len(value))[: args.ipc]] for value in rows])
    return images[chosen].clone(), labels[chosen]
