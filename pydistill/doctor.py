"""What is installed, which backend would run and why, and a self-test of each backend against the oracle."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from typing import Any

import torch
from torch import Tensor

from pydistill.build import build_config
from pydistill.matching import Backend, Batches, choose_backend, match
from pydistill.nn import ConvNet, flatten

TOLERANCE = 1e-9
PACKAGES = ("numpy", "safetensors", "torchvision", "jsonargparse", "scikit-learn", "matplotlib", "pillow", "tqdm")
TESTED: tuple[Backend, ...] = ("fused", "torch")


def report() -> tuple[str, bool]:
    """The report as text, and whether every self-test passed. Takes a few seconds."""
    lines = [f"python      {platform.python_version()} on {platform.system()} {platform.machine()}"]
    lines += _versions()
    lines += _build(build_config())
    lines += _devices()
    lines.append("")
    healthy = True
    for device in _test_devices():
        like = torch.empty(0, device=device)
        chosen, why = choose_backend("auto", ConvNet(1, 2, 8, width=4, depth=1), like)
        lines.append(f"backend     auto runs '{chosen}' on {device}: {why}")
        for backend in TESTED:
            if backend == "fused" and chosen != "fused":
                continue  # the line above says why
            error, seconds = self_test(backend, device)
            passed = error <= TOLERANCE
            healthy = healthy and passed
            told = "passed" if passed else "FAILED"
            lines.append(
                f"self-test   '{backend}' on {device} against the whole graph in fp64: {told}, "
                f"relative error {error:.1e} (at most {TOLERANCE:.0e}), {seconds:.2f} s"
            )
    return "\n".join(lines), healthy


def self_test(backend: Backend, device: str) -> tuple[float, float]:
    """Largest relative error of loss and gradients against `autograd` on a small fp64 problem, and the seconds."""
    began = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ConvNet(2, 3, 8, width=8, depth=2).double().to(device)
    generator = torch.Generator().manual_seed(0)
    start = flatten(model)
    images = torch.randn(6, 2, 8, 8, generator=generator, dtype=torch.float64).to(device)
    labels = (torch.arange(6) % 3).to(device)
    index = torch.stack([torch.randperm(6, generator=generator)[:4] for _ in range(5)]).to(device)
    target = start + 0.02 * torch.randn(start.shape, generator=generator, dtype=torch.float64).to(device)

    def outcome(name: Backend) -> list[Tensor]:
        pixels = images.clone().requires_grad_()
        lr = torch.tensor(0.05, dtype=torch.float64, device=device, requires_grad=True)
        found = match(model, start, target, Batches(pixels, labels, index), lr, selection="nearest", backend=name)
        return [found.loss.detach(), *torch.autograd.grad(found.loss, [pixels, lr])]

    pairs = zip(outcome(backend), outcome("autograd"), strict=True)
    error = max(float((found - expected).norm() / expected.norm()) for found, expected in pairs)
    return error, time.perf_counter() - began


def _versions() -> list[str]:
    found = []
    for name in ("torch", *PACKAGES):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} not installed")
    return [f"packages    {', '.join(found)}"]


def _build(config: dict[str, Any]) -> list[str]:
    if not config["compiled"]:
        return [f"extension   not in use: {config['reason']}; PyTorch does the same work"]
    cuda = f"CUDA {config['cuda_version']} for {config['cuda_arch_list']}" if config["cuda"] else "no CUDA kernels"
    return [
        f"extension   {config['path']}",
        f"compiled    by {config['compiler']} against torch {config['torch_version']}, {cuda}; "
        f"the CPU's loops run with {config['isa']}",
    ]


def _devices() -> list[str]:
    lines = [f"cpu         {torch.get_num_threads()} threads"]
    if not torch.cuda.is_available():
        return [*lines, f"gpu         none visible to torch (built with CUDA {torch.version.cuda})"]
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        lines.append(f"gpu         {about.name}, {about.total_memory / 2**30:.0f} GiB, sm_{about.major}{about.minor}")
    return lines


def _test_devices() -> list[str]:
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
