"""Report what is installed and which backend runs, and test the backends against the oracle."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from typing import Any

import torch
from torch import Tensor, nn

from pydistill.errors import BackendError
from pydistill.matching import Backend, Batches, Selection, choose_backend, match
from pydistill.nn import ConvNet, flatten
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
        extension: what `pydistill.build_config` says,
        cpu: its threads; gpus: name, memory (bytes) and compute capability of each,
        cuda: torch's CUDA, the compiler (path, version) and the driver, None where there is none,
        backends: for each device and kind of student, which backend `auto` runs and why,
        self_tests: for each backend and device, the largest relative error against the whole graph in fp64,
        healthy: whether every self-test passed.
    """
    tests = [_tested(backend, device) for device in _test_devices() for backend in TESTED]
    return {
        "pydistill": VERSION,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "extension": build_config(),
        "cpu": {"threads": torch.get_num_threads()},
        "gpus": _gpus(),
        "cuda": {"torch": torch.version.cuda, "compiler": cuda_compiler(), "driver": cuda_driver()},
        "backends": [_chosen(device, kind, model) for device in _test_devices() for kind, model in _students()],
        "self_tests": tests,
        "healthy": all(test["passed"] is not False for test in tests),
    }


def report(found: dict[str, Any]) -> str:
    """Format the result of `examine` as text."""
    packages = [f"{name} {version or 'not installed'}" for name, version in found["packages"].items()]
    lines = [
        f"pydistill   {found['pydistill']}",
        f"python      {found['python']} on {found['system']}",
        f"packages    {', '.join(packages)}",
        *_build(found["extension"]),
        f"cpu         threads: {found['cpu']['threads']}",
        *_cuda(found["cuda"], found["gpus"]),
        "",
    ]
    for each in found["backends"]:
        lines.append(
            f"backend     auto runs '{each['backend']}' on {each['device']} for {each['student']}: {each['why']}"
        )
    for each in found["self_tests"]:
        about = f"self-test   '{each['backend']}' on {each['device']} against the whole graph in fp64: "
        if each["passed"] is None:
            lines.append(f"{about}not run, {each['why']}")
            continue
        lines.append(
            f"{about}{'passed' if each['passed'] else 'FAILED'}, relative error {each['error']:.1e} "
            f"(at most {TOLERANCE:.0e}), {each['seconds']:.2f} s"
        )
    return "\n".join(lines)


def _students() -> list[tuple[str, nn.Module]]:
    own = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    return [("ConvNet and MLP", ConvNet(1, 2, 8, width=4, depth=1)), ("other modules", own)]


def _chosen(device: str, kind: str, model: nn.Module) -> dict[str, str]:
    """Which backend `auto` takes for a student on a device."""
    backend, why = choose_backend("auto", model, torch.empty(0, device=device))
    return {"device": device, "student": kind, "backend": backend, "why": why}


def _tested(backend: Backend, device: str) -> dict[str, Any]:
    """The self-test of a backend; passed is None where it cannot run."""
    about: dict[str, Any] = {"backend": backend, "device": device}
    try:
        choose_backend(backend, ConvNet(1, 2, 8, width=4, depth=1), torch.empty(0, device=device))
    except BackendError as refusal:
        return about | {"passed": None, "why": str(refusal)}
    error, seconds = self_test(backend, device)
    return about | {"passed": error <= TOLERANCE, "error": error, "tolerance": TOLERANCE, "seconds": seconds}


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
        found = []
        selections: tuple[Selection, ...] = ("last", "nearest")
        for selection in selections:  # the nearest step may be the first, which would show little of the way back
            pixels = images.clone().requires_grad_()
            lr = torch.tensor(0.05, dtype=torch.float64, device=device, requires_grad=True)
            batches = Batches(pixels, labels, index)
            matched = match(model, start, target, batches, lr, selection=selection, backend=name)
            found += [matched.loss.detach(), *torch.autograd.grad(matched.loss, [pixels, lr])]
        return found

    pairs = zip(outcome(backend), outcome("autograd"), strict=True)
    error = max(float((found - expected).norm() / expected.norm()) for found, expected in pairs)
    return error, time.perf_counter() - began


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpus() -> list[dict[str, Any]]:
    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return [
        {"name": each.name, "memory": each.total_memory, "compute_capability": f"{each.major}.{each.minor}"}
        for each in found
    ]


def _build(config: dict[str, Any]) -> list[str]:
    if not config["compiled"]:
        return [f"extension   not in use: {config['reason']}; PyTorch does the same work"]
    cuda = f"CUDA {config['cuda_version']} for {config['cuda_arch_list']}" if config["cuda"] else "no CUDA kernels"
    return [
        f"extension   {config['path']}",
        f"compiled    by {config['compiler']} against torch {config['torch_version']}, {cuda}; "
        f"the CPU's loops run with {config['isa']}",
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


def _test_devices() -> list[str]:
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
