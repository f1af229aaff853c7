"""Train and test a network as the published loops do, in plain PyTorch: the baseline of `benchmarks.experts`.

A DataLoader without workers puts each batch together image by image on the CPU; the batch goes to the device, is
augmented there by PyTorch's own operations, and each step waits for its loss and its predictions (Cazenavette et al.,
CVPR 2022, and what follows it).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from pydistill.data.dsa import COLUMNS, DsaDraw, DsaSettings
from pydistill.reference.augment import augment

LR = 0.01


def prepare(
    work: str, model: nn.Module, images: Tensor, labels: Tensor, batch_size: int, dsa: DsaSettings | None
) -> Callable[[], object]:
    """An epoch of training (`work` is "train"; in batches of `batch_size`) or of testing (in batches of 256).

    Args:
        images, labels: [n, C, H, W] and [n] int64 on the model's device; the loader keeps them on the CPU.
    """
    pictures = TensorDataset(images.cpu(), labels.cpu())
    if work == "test":
        loader = DataLoader(pictures, batch_size=256)
        return lambda: test(model, loader, images.device)
    loader = DataLoader(pictures, batch_size=batch_size, shuffle=True)
    optimiser = torch.optim.SGD(model.parameters(), lr=LR)
    return lambda: train(model, optimiser, loader, images.device, dsa)


def train(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    loader: DataLoader[tuple[Tensor, ...]],
    device: torch.device,
    dsa: DsaSettings | None,
) -> tuple[float, float]:
    """Train for one epoch; return its mean loss and the fraction of images that were classified correctly."""
    model.train()
    generator = torch.Generator().manual_seed(0)
    loss_sum, right, count = 0.0, 0, 0
    for options, target in loader:
        images, labels = options.to(device), target.to(device)
        if dsa is not None:
            images = augmented(images, dsa, generator)
        logits = model(images)
        loss = functional.cross_entropy(logits, labels)
        loss_sum += loss.item() * len(labels)
        right += count_correct(logits, labels)
        count += len(labels)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return loss_sum / count, right / count


@torch.no_grad()
def test(model: nn.Module, loader: DataLoader[tuple[Tensor, ...]], device: torch.device) -> float:
    """Return the fraction of images that the model classifies correctly."""
    model.eval()
    right, count = 0, 0
    for options, target in loader:
        images, labels = options.to(device), target.to(device)
        right += count_correct(model(images), labels)
        count += len(labels)
    return right / count


def augmented(images: Tensor, dsa: DsaSettings, generator: torch.Generator) -> Tensor:
    """Augment the batch by one draw with PyTorch's operations."""
    return augmented_by(images, dsa.draw(len(images), images.shape[2], images.shape[3], generator))


def augmented_by(images: Tensor, draw: DsaDraw) -> Tensor:
    """Augment the batch by this draw with PyTorch's operations."""
    operations = torch.tensor([list(COLUMNS).index(name) for name in draw.operations], dtype=torch.int64)
    return augment(images, operations.to(images.device), draw.parameters.to(images))


def count_correct(logits: Tensor, labels: Tensor) -> int:
    """Count the correct predictions on the CPU."""
    return int((logits.argmax(1).cpu() == labels.cpu()).sum())
