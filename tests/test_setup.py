"""What setup.py decides about CUDA, and what build_config() tells."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from pydistill.ops.build_info import build_config

SETUP = Path(__file__).parent.parent / "setup.py"


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """setup.py as a module, in an environment that says nothing about CUDA."""
    for name in ("PYDISTILL_CUDA", "PYDISTILL_BUILD", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    spec = importlib.util.spec_from_file_location("pydistill_setup", SETUP)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "pydistill_setup", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if not (Path(place) / "nvidia").is_dir()])
    return module


def toolkit(home: Path, version: str) -> Path:
    """A folder with a bin/nvcc that answers as that version's would."""
    nvcc = home / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(
        "#!/bin/sh\n"
        f'if [ "$1" = --version ]; then echo "Cuda compilation tools, release {version}, V{version}.1"\n'
        f'else echo "#$ TOP={nvcc.parent}/.." >&2; fi\n'
    )
    nvcc.chmod(0o755)
    return home


def on_path(build: ModuleType, monkeypatch: pytest.MonkeyPatch, nvcc: Path) -> None:
    monkeypatch.setattr(build.shutil, "which", lambda name: str(nvcc))


def test_auto_without_nvcc_is_no(build: ModuleType) -> None:
    decision = build.decide_cuda("13.2", 1)
    assert decision.nvcc is None
    assert "no nvcc 13.x for torch's CUDA 13.2" in decision.reason


def test_auto_without_a_gpu_is_no_unless_architectures_are_named(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "cuda", "13.2")))
    decision = build.decide_cuda("13.2", 0)
    assert decision.nvcc is None
    assert "PYDISTILL_CUDA=1" in decision.reason
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    assert build.decide_cuda("13.2", 0).nvcc is not None
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST")
    monkeypatch.setenv("PYDISTILL_CUDA", "1")
    assert build.decide_cuda("13.2", 0).nvcc is not None


def test_auto_takes_cuda_home(build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "cuda", "13.0")))
    decision = build.decide_cuda("13.2", 1)
    assert (decision.nvcc.home, decision.nvcc.version) == (tmp_path / "cuda", "13.0")
    assert "CUDA_HOME" in decision.reason


def test_cuda_home_is_the_users_word(build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "nothing"))
    on_path(build, monkeypatch, toolkit(tmp_path / "cuda", "13.2") / "bin" / "nvcc")
    assert build.decide_cuda("13.2", 1).nvcc is None


def test_auto_takes_the_path_and_sees_through_a_wrapper(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = toolkit(tmp_path / "cuda", "13.2")
    wrapper = tmp_path / "bin" / "nvcc"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {real}/bin/nvcc "$@"\n')
    wrapper.chmod(0o755)
    on_path(build, monkeypatch, wrapper)
    assert build.decide_cuda("13.2", 1).nvcc.home == real


def test_auto_takes_pips_nvcc(build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = toolkit(tmp_path / "nvidia" / "cu13", "13.2")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert build.decide_cuda("13.2", 1).nvcc.home == home
    assert build.decide_cuda("12.8", 1).nvcc is None


def test_of_two_the_one_of_torchs_version_is_taken(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_path(build, monkeypatch, toolkit(tmp_path / "cuda", "13.0") / "bin" / "nvcc")
    home = toolkit(tmp_path / "nvidia" / "cu13", "13.2")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert build.decide_cuda("13.2", 1).nvcc.home == home
    assert build.decide_cuda("13.0", 1).nvcc.home == tmp_path / "cuda"


def test_another_major_version_is_no_compiler_for_this_torch(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "cuda", "12.8")))
    decision = build.decide_cuda("13.2", 1)
    assert decision.nvcc is None
    assert f"{tmp_path / 'cuda'} has 12.8" in decision.reason


def test_a_torch_without_cuda_gets_no_kernels(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "cuda", "13.2")))
    assert build.decide_cuda(None, 1).nvcc is None


def test_0_is_never(build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "cuda", "13.2")))
    monkeypatch.setenv("PYDISTILL_CUDA", "0")
    assert build.decide_cuda("13.2", 1).nvcc is None


@pytest.mark.parametrize(
    ("torch_cuda", "remedy"), [("13.2", "pip install nvidia-cuda-nvcc .* 13.2"), (None, "Install a torch with CUDA")]
)
def test_1_without_a_compiler_is_an_error(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, torch_cuda: str | None, remedy: str
) -> None:
    monkeypatch.setenv("PYDISTILL_CUDA", "1")
    with pytest.raises(build.BuildError, match=f"PYDISTILL_CUDA=1, but .*{remedy}"):
        build.decide_cuda(torch_cuda, 1)


def test_other_values_are_an_error(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYDISTILL_CUDA", "yes")
    with pytest.raises(build.BuildError, match="PYDISTILL_CUDA=yes is not one of auto, 0, 1"):
        build.decide_cuda("13.2", 1)


def test_architectures_of_torch_as_a_list_for_its_builder(build: ModuleType) -> None:
    names = ["sm_120", "sm_75", "sm_90a", "sm_90", "compute_120"]
    assert build.architecture_list(names) == "7.5;9.0;9.0a;12.0+PTX"
    with pytest.raises(build.BuildError, match="set TORCH_CUDA_ARCH_LIST"):
        build.architecture_list([])


def fake_torch(capabilities: list[tuple[int, int]]) -> SimpleNamespace:
    cuda = SimpleNamespace(
        get_arch_list=lambda: ["sm_80", "sm_90"],
        device_count=lambda: len(capabilities),
        get_device_capability=lambda device: capabilities[device],
    )
    return SimpleNamespace(cuda=cuda)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [([], "8.0;9.0+PTX"), ([(8, 6)], "8.6+PTX"), ([(9, 0), (8, 0), (9, 0)], "8.0;9.0+PTX"), ([(12, 0)], "9.0+PTX")],
)
def test_architectures_are_the_visible_gpus_or_all_of_torchs(
    build: ModuleType, capabilities: list[tuple[int, int]], expected: str
) -> None:
    assert build.choose_architectures(fake_torch(capabilities)) == expected


def test_the_users_architectures_stay_as_they_are(build: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "Hopper")
    assert build.choose_architectures(fake_torch([(8, 0)])) == "Hopper"


def test_a_link_is_made_where_only_the_numbered_libcudart_is(build: ModuleType, tmp_path: Path) -> None:
    library = tmp_path / "toolkit" / "lib" / "libcudart.so.13"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"")
    folder = build.cudart_link_folder(tmp_path / "build", tmp_path / "toolkit", "13")
    assert (folder / "libcudart.so").resolve() == library
    (library.parent / "libcudart.so").write_bytes(b"")
    assert build.cudart_link_folder(tmp_path / "build", tmp_path / "toolkit", "13") is None


def test_no_libcudart_is_an_error(build: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(build.BuildError, match=r"has libcudart\.so\.13"):
        build.cudart_link_folder(tmp_path / "build", tmp_path / "toolkit", "13")


def test_torchs_own_openmp_runtime_is_linked(build: ModuleType, tmp_path: Path) -> None:
    assert build.openmp_link_arguments(tmp_path) == ["-fopenmp"]
    renamed = tmp_path / "libgomp-a34b3233.so.1"
    renamed.write_bytes(b"")
    assert build.openmp_link_arguments(tmp_path) == [str(renamed)]


def test_a_build_without_pythons_headers_names_the_package(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(build.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    with pytest.raises(build.BuildError, match="python3-dev"):
        build.extension(torch)
    (tmp_path / "Python.h").touch()
    build.check_python_headers()


def test_pure_python_is_a_choice(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYDISTILL_BUILD", "0")
    monkeypatch.setattr(sys, "argv", ["setup.py", "bdist_wheel"])
    assert build.settings() == {}
    assert "nothing is compiled" in capsys.readouterr().out


def test_build_config_tells_how_it_was_built() -> None:
    config = build_config()
    assert set(config) == {
        "compiled", "reason", "path", "cuda", "cuda_version", "cuda_arch_list", "torch_version", "compiler",
        "cxx_standard", "openmp", "isa", "torch_running", "python",
    }  # fmt: skip
    assert config["torch_running"] == torch.__version__
    assert config["compiled"] == (config["reason"] is None)
    if config["compiled"]:
        assert torch.__version__.startswith(config["torch_version"])
        assert Path(config["path"]).exists()
        assert config["cxx_standard"] >= 201703
        assert config["openmp"]
    else:
        assert not config["cuda"]
        assert config["compiler"] is None
    assert config["cuda"] == (config["cuda_version"] is not None)


def test_build_config_is_a_copy() -> None:
    build_config()["compiled"] = "spoilt"
    assert build_config()["compiled"] in (True, False)


def test_jobs_are_limited_by_memory_unless_the_user_names_them(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_JOBS", "1")  # restored at the end
    monkeypatch.delenv("MAX_JOBS")
    monkeypatch.setattr(build.os, "sched_getaffinity", lambda process: set(range(64)))
    monkeypatch.setattr(build.os, "sysconf", {"SC_PHYS_PAGES": 2**22, "SC_PAGE_SIZE": 2**12}.__getitem__)  # 16 GiB
    build.limit_jobs()
    assert build.os.environ["MAX_JOBS"] == "8"
    monkeypatch.setenv("MAX_JOBS", "3")
    build.limit_jobs()
    assert build.os.environ["MAX_JOBS"] == "3"
