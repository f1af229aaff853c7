"""Builds the compiled module pydistill._C; everything else is in pyproject.toml. docs/building.md tells it to a user.

PYDISTILL_BUILD=0   installs pure Python: nothing is compiled, pydistill runs on its PyTorch reference.
PYDISTILL_CUDA      auto (default): CUDA kernels if a GPU is visible or TORCH_CUDA_ARCH_LIST is set, and an nvcc of
                    torch's CUDA major version exists; 0: never; 1: always; then a missing nvcc is an error.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from setuptools import setup

ROOT = Path(__file__).resolve().parent
HEADER = Path("csrc/tensors/precompiled.h")


class BuildError(RuntimeError):
    """The build cannot be done as asked; the message says what to change."""


@dataclass(frozen=True)
class Nvcc:
    """A CUDA compiler: its toolkit's folder and its version."""

    home: Path
    version: str  # "13.0"
    found_in: str

    @property
    def major(self) -> str:
        return self.version.split(".")[0]


@dataclass(frozen=True)
class CudaDecision:
    """Whether CUDA kernels are compiled, with which compiler, and why."""

    nvcc: Nvcc | None
    reason: str


def switch(name: str, default: str, allowed: tuple[str, ...]) -> str:
    """The value of an environment variable that has a fixed set of values."""
    value = os.environ.get(name, "").strip().lower() or default
    if value not in allowed:
        raise BuildError(f"{name}={value} is not one of {', '.join(allowed)}")
    return value


def inspect_nvcc(path: Path, found_in: str) -> Nvcc | None:
    """The toolkit behind an nvcc, seen through wrapper scripts; None if there is no working nvcc at `path`."""
    if not path.is_file():
        return None
    try:
        version = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
        dryrun = subprocess.run(
            [path, "--dryrun", "-x", "cu", "-c", "/dev/null"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"pydistill: {path} does not run ({error})")
        return None
    release = re.search(r"release (\d+\.\d+)", version)
    top = re.search(r"^#\$ TOP=(.+)$", dryrun.stderr, re.MULTILINE)
    if release is None:
        print(f"pydistill: {path} does not tell its version")
        return None
    home = Path(top.group(1).strip()).resolve() if top else path.resolve().parent.parent
    return Nvcc(home, release.group(1), found_in)


def nvcc_candidates(cuda_major: str) -> list[Nvcc]:
    """Every nvcc there is: CUDA_HOME's alone if that is set, else the PATH's and those that pip installed."""
    if home := os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"):
        found = inspect_nvcc(Path(home) / "bin" / "nvcc", "CUDA_HOME")
        return [found] if found else []
    places: list[tuple[Path, str]] = []
    if on_path := shutil.which("nvcc"):
        places.append((Path(on_path), "PATH"))
    for folder in pip_cuda_folders(cuda_major):
        places.append((folder / "bin" / "nvcc", "site-packages"))
    return [nvcc for path, found_in in places if (nvcc := inspect_nvcc(path, found_in))]


def pip_cuda_folders(cuda_major: str) -> list[Path]:
    """The folders nvidia/cu13 (say) beside other packages, where pip puts CUDA's compiler, headers and libraries."""
    return [folder for place in sys.path if (folder := Path(place) / "nvidia" / f"cu{cuda_major}").is_dir()]


def decide_cuda(torch_cuda: str | None, gpus: int) -> CudaDecision:
    """Whether to compile CUDA kernels for a torch that was built with CUDA `torch_cuda` (None: without).

    Args:
        gpus: the number of visible GPUs.

    Raises:
        BuildError: PYDISTILL_CUDA=1 and they cannot be compiled.
    """
    wanted = switch("PYDISTILL_CUDA", "auto", ("auto", "0", "1"))
    if wanted == "0":
        return CudaDecision(None, "PYDISTILL_CUDA=0")
    if wanted == "auto" and not gpus and not os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return CudaDecision(None, "no GPU is visible; PYDISTILL_CUDA=1 compiles the CUDA kernels all the same")
    if torch_cuda is None:
        decision = CudaDecision(None, "this torch was built without CUDA")
    else:
        major = torch_cuda.split(".")[0]
        candidates = nvcc_candidates(major)
        fitting = [nvcc for nvcc in candidates if nvcc.major == major]
        if fitting:
            best = next((nvcc for nvcc in fitting if nvcc.version == torch_cuda), fitting[0])
            return CudaDecision(best, f"nvcc {best.version} in {best.home} ({best.found_in})")
        others = "; ".join(f"{nvcc.home} has {nvcc.version}" for nvcc in candidates)
        decision = CudaDecision(
            None,
            f"no nvcc {major}.x for torch's CUDA {torch_cuda}"
            + (f" ({others})" if others else " in CUDA_HOME, on the PATH or in site-packages"),
        )
    if wanted == "1":
        remedy = (
            "Install a torch with CUDA (docs/building.md)"
            if torch_cuda is None
            else "Set CUDA_HOME to a toolkit of that major version, or pip install nvidia-cuda-nvcc nvidia-nvvm "
            f"nvidia-cuda-crt at version {torch_cuda} (docs/building.md)"
        )
        raise BuildError(f"PYDISTILL_CUDA=1, but {decision.reason}. {remedy}")
    return decision


def choose_architectures(torch: ModuleType) -> str:
    """TORCH_CUDA_ARCH_LIST if it is set, else the visible GPUs' architectures, else every one that torch was built for.

    It is always set explicitly: with no list and no GPU torch's own default is an empty list, on which it fails.
    """
    if named := os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return named
    known = torch.cuda.get_arch_list()
    newest = max((int(match[1]) for name in known if (match := re.fullmatch(r"sm_(\d+)[a-z]?", name))), default=0)
    visible = [torch.cuda.get_device_capability(device) for device in range(torch.cuda.device_count())]
    return architecture_list([f"sm_{min(10 * major + minor, newest)}" for major, minor in visible] or known)


def architecture_list(names: list[str]) -> str:
    """From torch's names (sm_75, sm_90a) to TORCH_CUDA_ARCH_LIST's (7.5;9.0a+PTX); PTX of the newest."""
    found = {}
    for name in names:
        if match := re.fullmatch(r"sm_(\d+)(\d)([a-z]?)", name):
            found[int(match[1]), int(match[2]), match[3]] = f"{match[1]}.{match[2]}{match[3]}"
    if not found:
        raise BuildError("torch names no CUDA architecture; set TORCH_CUDA_ARCH_LIST (for example to 9.0)")
    ordered = [found[key] for key in sorted(found)]
    return ";".join([*ordered[:-1], f"{ordered[-1]}+PTX"])


def cudart_link_folder(build_folder: Path, toolkit: Path, cuda_major: str) -> Path | None:
    """A folder with libcudart.so in it for the linker; None if the toolkit has its own.

    pip's nvidia-cuda-runtime holds libcudart.so.13 but no libcudart.so: a link of that name goes to the build folder.
    """
    if any((toolkit / lib / "libcudart.so").exists() for lib in ("lib64", "lib")):
        return None
    for folder in [toolkit, *pip_cuda_folders(cuda_major)]:
        for lib in ("lib64", "lib"):
            library = folder / lib / f"libcudart.so.{cuda_major}"
            if library.exists():
                build_folder.mkdir(parents=True, exist_ok=True)
                link = build_folder / "libcudart.so"
                link.unlink(missing_ok=True)
                link.symlink_to(library.resolve())
                return build_folder
    raise BuildError(f"neither {toolkit} nor site-packages/nvidia/cu{cuda_major} has libcudart.so.{cuda_major}")


def openmp_link_arguments(torch_lib: Path) -> list[str]:
    """Link the OpenMP runtime that torch brings: two of them in one process have two sets of spinning threads."""
    renamed = sorted(torch_lib.glob("libgomp-*.so*"))
    return [str(renamed[0])] if renamed else ["-fopenmp"]


def check_python_headers() -> None:
    """Check that Python's headers are installed, which Debian and others ship in a package of their own.

    Raises:
        BuildError: they are not.
    """
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.is_file():
        raise BuildError(
            f"{header} is missing: install Python's headers (python3-dev on Debian and Ubuntu, python3-devel on "
            "Fedora), or set PYDISTILL_BUILD=0 to do without compiled code"
        )


def extension(torch: ModuleType) -> Any:
    """The extension pydistill._C, with CUDA if decided so; the decision is printed."""
    check_python_headers()
    decision = decide_cuda(torch.version.cuda, torch.cuda.device_count())
    if decision.nvcc:
        os.environ["CUDA_HOME"] = str(decision.nvcc.home)  # read by torch.utils.cpp_extension when it is imported
    from torch.utils import cpp_extension

    folders = ("cpu", "cpu/simd", "engine", "ops", "bindings")
    sources = [source for folder in folders for source in sorted(ROOT.glob(f"csrc/{folder}/*.cpp"))]
    warnings = ["-Wall", "-Wextra", "-Wno-unknown-pragmas"]
    # Without debugging information the compilation is a third shorter and the library ten times smaller.
    host_flags = ["-O3", "-g0", "-fopenmp", "-fvisibility=hidden", "-fno-math-errno", *warnings]
    arguments: dict[str, Any] = {
        "name": "pydistill._C",
        "extra_compile_args": {"cxx": host_flags},
        "extra_link_args": openmp_link_arguments(Path(torch.__file__).parent / "lib"),
        "define_macros": [],
    }
    make = cpp_extension.CppExtension
    if decision.nvcc:
        make = cpp_extension.CUDAExtension
        major = decision.nvcc.major
        architectures = choose_architectures(torch)
        os.environ["TORCH_CUDA_ARCH_LIST"] = architectures
        sources += [source for end in ("cu", "cpp") for source in sorted(ROOT.glob(f"csrc/cuda/*.{end}"))]
        arguments["extra_compile_args"]["nvcc"] = ["-O3", "-Xcompiler=-Wall,-fvisibility=hidden"]
        arguments["define_macros"] = [
            ("PYDISTILL_WITH_CUDA", None),
            ("PYDISTILL_CUDA_VERSION", f'"{decision.nvcc.version}"'),
            ("PYDISTILL_CUDA_ARCH_LIST", f'"{architectures}"'),
        ]
        link_folder = cudart_link_folder(ROOT / "build" / "cudart", decision.nvcc.home, major)
        arguments["library_dirs"] = [str(link_folder)] if link_folder else []
        print(f"pydistill: compiling CUDA kernels for {architectures}: {decision.reason}")
    else:
        print(f"pydistill: compiling for the CPU only: {decision.reason}")
    built = make(sources=[str(source.relative_to(ROOT)) for source in sources], **arguments)
    if decision.nvcc:
        # Headers that a bare toolkit may lack come from pip's packages, after the toolkit's own.
        for folder in pip_cuda_folders(decision.nvcc.major):
            built.include_dirs += [str(folder / "include"), str(folder / "include" / "cccl")]
    return built


def limit_jobs() -> None:
    """Set MAX_JOBS, unless the user did, to what the processors and 2 GB of memory per compiler allow."""
    if "MAX_JOBS" not in os.environ:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        os.environ["MAX_JOBS"] = str(max(1, min(len(os.sched_getaffinity(0)), memory // 2**31)))


def build_with_precompiled_header() -> type[Any]:
    """Make torch's BuildExtension that compiles torch's headers once, where the compiler is g++.

    They are most of the work in most files. g++ reads the plain header where the compiled one does not fit its flags.
    """
    from torch.utils.cpp_extension import BuildExtension  # after extension(), which sets the CUDA_HOME that this reads

    class Build(BuildExtension):  # type: ignore[misc]
        def build_extension(self, ext: Any) -> None:
            compiler = self.compiler.compiler_so
            version = subprocess.run([compiler[0], "--version"], capture_output=True, text=True, check=False).stdout
            if self.use_ninja and "Free Software Foundation" in version:
                header = Path(self.build_temp).resolve() / HEADER
                header.parent.mkdir(parents=True, exist_ok=True)
                if not header.exists() or header.read_bytes() != (ROOT / HEADER).read_bytes():
                    shutil.copyfile(ROOT / HEADER, header)
                print("pydistill: compiling torch's headers", flush=True)
                self.compiler.compiler_so = [*compiler, "-x", "c++-header"]
                self.compiler.src_extensions.append(".h")
                flags = ext.extra_compile_args
                (compiled,) = self.compiler.compile(
                    [str(HEADER)], self.build_temp, ext.define_macros, ext.include_dirs, self.debug, None, dict(flags)
                )
                self.compiler.compiler_so = compiler
                shutil.copyfile(compiled, f"{header}.gch")
                # A compiled header forgets which warnings it had switched off.
                flags["cxx"] = [*flags["cxx"], "-Wno-sign-compare", "-include", str(header)]
            print(f"pydistill: compiling {len(ext.sources)} files, {os.environ['MAX_JOBS']} at a time", flush=True)
            super().build_extension(ext)

    return Build


def settings() -> dict[str, Any]:
    """What setup() needs beyond pyproject.toml."""
    if switch("PYDISTILL_BUILD", "1", ("0", "1")) == "0":
        print("pydistill: PYDISTILL_BUILD=0: pure Python, nothing is compiled")
        return {}
    if {"sdist", "egg_info", "dist_info"}.intersection(sys.argv):
        return {}  # these compile nothing and need no torch
    import torch

    modules = [extension(torch)]
    limit_jobs()
    return {"ext_modules": modules, "cmdclass": {"build_ext": build_with_precompiled_header()}}


if __name__ == "__main__":
    setup(**settings())
