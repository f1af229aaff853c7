"""Check that this machine can run benchmarks/run_gpu.sh, and describe it.

python -m benchmarks.gpu.ready      prints the machine, or one sentence that says what is missing (status 1)
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

LEAST_TORCH = (2, 11)


class NotReady(Exception):
    """Something is missing; the message is one sentence that says what."""


def describe() -> list[str]:
    """Describe GPU, driver, CUDA, PyTorch and Python, one line per item.

    Raises:
        NotReady: there is no PyTorch with CUDA, no visible GPU, or no nvcc.
    """
    try:
        import torch
    except ImportError as error:
        raise NotReady(
            f"{sys.executable} has no PyTorch ({error}); set PYTHON to the interpreter that has it"
        ) from error
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < LEAST_TORCH:
        raise NotReady(f"PyTorch {torch.__version__} is too old; {'.'.join(map(str, LEAST_TORCH))} or later is needed")
    if not torch.cuda.is_available():
        built = "was built without CUDA" if torch.version.cuda is None else "sees none"
        raise NotReady(f"no NVIDIA GPU is visible on this machine (PyTorch {torch.__version__} {built})")
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise NotReady("there is no nvcc on the PATH; the CUDA kernels are compiled by it")
    release = _output(nvcc, "--version").splitlines()[-1:]
    properties = torch.cuda.get_device_properties(0)
    state = "driver_version,clocks.sm,clocks.mem,temperature.gpu,power.draw,utilization.gpu"
    return [
        f"{properties.name}: {properties.multi_processor_count} multiprocessors, "
        f"{properties.total_memory / 2**30:.0f} GiB, L2 {properties.L2_cache_size / 2**20:.0f} MiB",
        f"{state}: {_output('nvidia-smi', f'--query-gpu={state}', '--format=csv,noheader')}",
        f"PyTorch {torch.__version__} (CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}), "
        f"Python {sys.version.split()[0]}, nvcc {''.join(release)}",
    ]


def _output(*command: str) -> str:
    """Return a program's output, or the reason why it cannot run."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown ({error})"


def main() -> int:
    """Print the machine, or why it is not ready; return 0 or 1."""
    try:
        print("\n".join(describe()))
    except NotReady as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
