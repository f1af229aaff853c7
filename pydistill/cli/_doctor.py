"""Report the installed versions and the choice of backend, and test the backends against autograd."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pydistill.errors import BackendError
from pydistill.matching import Backend, Batches, Selection, choose_backend, match
from pydistill.nn import ConvNet, ModelSettings, build, flatten
from pydistill.ops.build_info import build_config
from pydistill.ops.toolchain import cuda_compiler, cuda_driver
from pydistill.version import VERSION

TOLERANCE = 1e-9
PACKAGES = (
    *("torch", "numpy", "safetensors", "torchvision", "ruamel.yaml", "scikit-learn", "matplotlib", "pillow", "tqdm"),
    *("tensorboard", "wandb"),
)
TESTED: tuple[Backend, ...] = ("fused", "torch")


def examine() -> dict[str, Any]:
    """Collect the versions, the choice of backend and the self-tests as JSON-able values. Takes a few seconds.

    Returns a dict of
        pydistill, python, system: versions; packages: name → version, or None where it is not installed,
        extension: the result of `build_config`,
        cpu: number of threads; gpus: name, memory (bytes) and compute capability, one dict per GPU,
        cuda: torch's CUDA version, the compiler (path, version) and the driver; None for one that is missing,
        backends: the backend that `auto` runs and why, per device and kind of student,
        self_tests: the largest relative error against autograd in fp64, per backend and device,
        healthy: whether every self-test passed.
    """
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    tests = [_run_self_test(backend, device) for device in devices for backend in TESTED]
    return {
        "pydistill": VERSION,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "extension": build_config(),
        "cpu": {"threads": torch.get_num_threads()},
        "gpus": _gpus(),
        "cuda": {"torch": torch.version.cuda, "compiler": cuda_compiler(), "driver": cuda_driver()},
        "backends": list(_backend_choices(devices)),
        "self_tests": tests,
        "healthy": all(test["passed"] is not False for test in tests),
    }


def report(findings: dict[str, Any]) -> str:
    """Format the result of `examine` as text."""
    packages = [f"{name} {version or 'not installed'}" for name, version in findings["packages"].items()]
    lines = [
        f"pydistill   {findings['pydistill']}",
        f"python      {findings['python']} on {findings['system']}",
        f"packages    {', '.join(packages)}",
        *_build(findings["extension"]),
        f"cpu         threads: {findings['cpu']['threads']}",
        *_cuda(findings["cuda"], findings["gpus"]),
        "",
    ]
    for choice in findings["backends"]:
        place = f"on {choice['device']} for {choice['student']}"
        lines.append(f"backend     auto runs '{choice['backend']}' {place}: {choice['why']}")
    for test in findings["self_tests"]:
        prefix = f"self-test   '{test['backend']}' on {test['device']} against autograd in fp64: "
        if test["passed"] is None:
            lines.append(f"{prefix}not run, {test['why']}")
            continue
        lines.append(
            f"{prefix}{'passed' if test['passed'] else 'FAILED'}, relative error {test['error']:.1e} "
            f"(at most {TOLERANCE:.0e}), {test['seconds']:.2f} s"
        )
    return "\n".join(lines)


def _backend_choices(devices: list[str]) -> Iterator[dict[str, str]]:
    """Yield the backend that `auto` chooses, and why, per device and kind of student."""
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    students = {"ConvNet and MLP": ConvNet(1, 2, 8, width=4, depth=1), "other modules": other}
    for device in devices:
        for kind, model in students.items():
            backend, why = choose_backend("auto", model, torch.empty(0, device=device))
            yield {"device": device, "student": kind, "backend": backend, "why": why}


def _run_self_test(backend: Backend, device: str) -> dict[str, Any]:
    """Run the self-test of a backend; `passed` is None where it cannot run."""
    result: dict[str, Any] = {"backend": backend, "device": device}
    try:
        error, seconds = self_test(backend, device)
    except BackendError as refusal:
        return result | {"passed": None, "why": str(refusal)}
    return result | {"passed": error <= TOLERANCE, "error": error, "tolerance": TOLERANCE, "seconds": seconds}


def self_test(backend: Backend, device: str) -> tuple[float, float]:
    """Return the largest relative error against `autograd` on a small fp64 problem, and the seconds it took.

    The error is that of the loss and of its gradients with respect to the images and the learning rate.
    """
    began = time.perf_counter()
    model = build(ModelSettings("convnet", width=8, depth=2), 2, 3, 8, seed=0).double().to(device)
    generator = torch.Generator().manual_seed(0)
    start = flatten(model)
    images = torch.randn(6, 2, 8, 8, generator=generator, dtype=torch.float64).to(device)
    labels = (torch.arange(6) % 3).to(device)
    index = torch.stack([torch.randperm(6, generator=generator)[:4] for _ in range(5)]).to(device)
    target = start + 0.02 * torch.randn(start.shape, generator=generator, dtype=torch.float64).to(device)

    def losses_and_gradients(name: Backend) -> list[Tensor]:
        tensors = []
        selections: tuple[Selection, ...] = ("last", "nearest")
        for selection in selections:  # the nearest step may be the first, which tests little of the backward pass
            pixels = images.clone().requires_grad_()
            lr = torch.tensor(0.05, dtype=torch.float64, device=device, requires_grad=True)
            batches = Batches(pixels, labels, index)
            matched = match(model, start, target, batches, lr, selection=selection, backend=name)
            tensors += [matched.loss.detach(), *torch.autograd.grad(matched.loss, [pixels, lr])]
        return tensors

    pairs = zip(losses_and_gradients(backend), losses_and_gradients("autograd"), strict=True)
    error = max(float((actual - expected).norm() / expected.norm()) for actual, expected in pairs)
    return error, time.perf_counter() - began


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpus() -> list[dict[str, Any]]:
    if not torch.cuda.is_available():
        return []
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [
        {"name": gpu.name, "memory": gpu.total_memory, "compute_capability": f"{gpu.major}.{gpu.minor}"} for gpu in gpus
    ]


def _build(config: dict[str, Any]) -> list[str]:
    if not config["compiled"]:
        return [f"extension   not in use: {config['reason']}; PyTorch computes the same"]
    cuda = f"CUDA {config['cuda_version']} for {config['cuda_arch_list']}" if config["cuda"] else "no CUDA kernels"
    return [
        f"extension   {config['path']}",
        f"compiled    by {config['compiler']} against torch {config['torch_version']}, {cuda}; "
        f"CPU loops use {config['isa']}",
    ]


def _cuda(cuda: dict[str, Any], gpus: list[dict[str, Any]]) -> list[str]:
    compiler = cuda["compiler"]
    nvcc = f"nvcc {compiler['version']} ({compiler['path']})" if compiler else "no nvcc"
    driver = f"driver {cuda['driver']}" if cuda["driver"] else "no driver"
    lines = [f"cuda        torch built with {cuda['torch'] or 'none'}, {nvcc}, {driver}"]
    if not gpus:
        return [*lines, "gpu         none visible to torch"]
    return lines + [
        f"gpu         {gpu['name']}, {gpu['memory'] / 2**30:.0f} GiB, compute capability {gpu['compute_capability']}"
        for gpu in gpus
    ]
