"""docs/performance.md is what the results make it, and the report shows what a CSV holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import experts, harness, report
from benchmarks.gpu import grid, real
from benchmarks.hypergradient import COLUMNS

PAGE = """# Page
<!-- report:time -->
old
<!-- /report -->
between
<!-- report:memory -->
<!-- /report -->
<!-- report:gpu -->
<!-- /report -->
<!-- report:experts -->
<!-- /report -->
after
"""


def row(contestant: str, **changes: object) -> dict[str, object]:
    where = {"commit": "abc1234", "machine": "A processor, 2 cores, AVX512", "torch": "2.15.0", "threads": 2}
    network = {"model": "convnet3", "width": 128, "size": 32, "channels": 3, "classes": 10, "dtype": "float32"}
    student = {"batch": 100, "steps": 5, "gradient": "exact", "selection": "last", "device": "cpu"}
    times = {"median": 0.5, "q10": 0.4, "q90": 0.6, "repeats": 5, "peak_mb": "", "vectors_mb": ""}
    shared: dict[str, object] = {"date": "2025-01-01T00:00:00+00:00", "contestant": contestant, "allocator": "default"}
    return shared | where | network | student | times | changes


def memory(contestant: str, steps: int, peak: float) -> dict[str, object]:
    blank = dict.fromkeys(("median", "q10", "q90", "repeats", "allocator"), "")
    return row(contestant, steps=steps, peak_mb=peak, vectors_mb=steps / 10, **blank)


ROWS = [
    row("autograd", median=9.0, q10=9.0, q90=9.0, date="2024-01-01T00:00:00+00:00"),
    row("autograd", median=2.0, q10=1.9, q90=2.2),
    row("torch", median=1.0),
    row("tesla", median=0.5, gradient="truncated"),
    row("floor", median=0.25, allocator="keeping"),
    row("torch", median=0.8, allocator="keeping", date="2025-01-02T00:00:00+00:00"),
    row("torch", batch=10, median=0.125, q10=0.1, q90=0.15),
    memory("autograd", 5, 1000),
    memory("autograd", 50, 10000),
    memory("torch", 5, 100),
    memory("torch", 50, 104.5),
]


def expert(work: str, contestant: str, median: float, **changes: object) -> dict[str, object]:
    where = {"commit": "abc1234", "machine": "A processor, 2 cores, AVX512", "torch": "2.15.0", "threads": 2}
    network = {"model": "convnet3-w128", "channels": 3, "size": 32, "images": 2000, "batch": 256, "device": "cpu"}
    times = {"median": median, "q10": median / 2, "q90": median * 2, "repeats": 5}
    augmented = "color_flip" if work == "train" else ""
    shared: dict[str, object] = {"date": "2025-01-01T00:00:00+00:00", "work": work, "contestant": contestant}
    return shared | where | network | times | {"dsa": augmented} | changes


EXPERTS = [
    expert("train", "engine", 8.0, date="2024-01-01T00:00:00+00:00"),
    expert("train", "torch", 9.0, date="2024-01-01T00:00:00+00:00"),
    expert("train", "engine", 2.0),
    expert("train", "torch", 8.0),
    expert("test", "engine", 0.5),
]


def on_gpu(contestant: str, median: float = 1.0, **changes: object) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(grid.COLUMNS, "")
    where = {"device": "A fast GPU", "machine": "A processor, 16 cores, AVX512", "torch": "2.11.0", "cuda": "13.0"}
    problem = {"problem": "C10-10", "classes": 10, "images": 100, "batch": 100, "steps": 30, "steps_run": 30}
    ceilings = {"matrix_rate": 5e14, "copy_rate": 4e12, "precision": "tf32", "multiply_adds": 2.5e13, "bytes": 3e11}
    times = {"median": median, "q10": median, "q90": median, "repeats": 5, "peak_mb": 1024, "reserved_mb": 2048}
    shared = {"date": "2025-02-02T00:00:00+00:00", "commit": "abc1234", "contestant": contestant}
    return row | where | problem | ceilings | times | shared | changes


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    page, actual, of_experts = tmp_path / "page.md", tmp_path / "rows.csv", tmp_path / "experts.csv"
    page.write_text(PAGE, encoding="utf-8")
    harness.append_rows(actual, COLUMNS, ROWS)
    harness.append_rows(of_experts, experts.COLUMNS, EXPERTS)
    return [f"--page={page}", f"--csv={actual}", f"--experts-csv={of_experts}", f"--gpu-results={tmp_path}"]


def cells(page: str, begins: str) -> list[str]:
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {begins} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_page_of_this_tree_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--check"]) == 0, capsys.readouterr().out


def test_tables(files: list[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert report.main(files) == 0
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "old" not in page
    assert "\nbetween\n" in page
    assert page.endswith("after\n")
    assert cells(page, "autograd") == ["autograd", "2 (1.9 – 2.2)", "10", "1.00", "5", "abc1234"]
    assert cells(page, "tesla (truncated)")[1:4] == ["0.5 (0.4 – 0.6)", "2.5", "0.25"]
    assert cells(page, "floor")[3] == "0.12"
    assert cells(page, "torch (malloc keeps memory)")[3] == ""  # it took turns with no autograd
    assert cells(page, "5") == ["5", "1,000", "100", "0.5"]
    assert cells(page, "50") == ["50", "10,000", "104", "5.0"]
    assert page.count("### convnet3") == 3
    assert "--steps 5 --threads 2 --backends autograd,torch,tesla,floor`" in page
    assert "--memory-only --steps 5,50 --threads 2 --backends autograd,torch`" in page
    images = re.findall(r"\]\((images/.*?\.svg)\)", page)
    assert len(set(images)) == 3
    assert all((tmp_path / image).exists() for image in images)


def test_the_table_of_experts(files: list[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report.main(files)
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    trained = "an epoch of convnet3-w128 on 2,000 images 3 × 32×32, batch 256, augmented (color, flip)"
    rows = [line for line in page.splitlines() if line.startswith(f"| {trained} |")]
    assert [row.strip("| ").split(" | ")[1:] for row in rows] == [
        ["engine", "2 (1 – 4)", "0.5", "0.25", "5"],
        ["torch", "8 (4 – 16)", "0.125", "1.00", "5"],
    ]
    tested = "a test of convnet3-w128 on 2,000 images 3 × 32×32, batch 256"
    assert cells(page, tested)[1:] == ["engine", "0.5 (0.25 – 1)", "2", "", "5"]
    assert "`python -m benchmarks.experts --threads 2`" in page


def test_a_command_of_the_page_is_understood_by_the_benchmark(files: list[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks import hypergradient

    report.main(files)
    commands = re.findall(r"`python -m benchmarks.hypergradient (.*?)`", (tmp_path / "page.md").read_text())
    assert len(commands) == 3
    for command in commands:
        arguments = hypergradient.parse(command.split())
        assert (arguments.setting.width, arguments.setting.threads, arguments.setting.gradient) == (128, 2, "exact")


def test_check(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert report.main(["--check", *files]) == 1
    assert "page.md is not what the results make it" in capsys.readouterr().out
    report.main(files)
    assert report.main(["--check", *files]) == 0
    plot = next((tmp_path / "images").glob("performance-memory-*.svg"))
    before = plot.read_bytes()
    harness.append_rows(tmp_path / "rows.csv", COLUMNS, [memory("torch", 20, 102)])
    assert report.main(["--check", *files]) == 1
    assert f"{plot} does not show the results" in capsys.readouterr().out
    report.main(files)
    assert report.main(["--check", *files]) == 0
    assert plot.read_bytes() != before


def test_recorded_runs_on_gpus(files: list[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    fast = [on_gpu("fused", median=0.5), on_gpu("autograd", median=2.0, peak_mb=81920)]
    slow = [on_gpu("fused", device="A slow GPU", date="2025-01-01T00:00:00+00:00")]
    harness.append_rows(tmp_path / "fast-2025-02-02" / grid.FILE, grid.COLUMNS, fast)
    harness.append_rows(tmp_path / "slow-2025-01-01" / grid.FILE, grid.COLUMNS, slow)
    lines = '{"event": "data"}\n{"event": "random real", "mean": 0.15}\n'
    (tmp_path / "fast-2025-02-02" / real.FILE).write_text(lines, encoding="utf-8")
    trained = [expert("train", "engine", 0.25, device="A fast GPU"), expert("train", "torch", 0.5, device="A fast GPU")]
    harness.append_rows(tmp_path / "fast-2025-02-02" / "experts.csv", experts.COLUMNS, trained)
    assert report.main(files) == 0
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "`python -m benchmarks.experts --threads 2 --device cuda`" in page
    assert "| engine | 0.25 (0.125 – 0.5) | 4 | 0.50 | 5 |" in page
    assert page.index("### A fast GPU") < page.index("### A slow GPU")
    assert "| C10-10 | 10, 100, 100, 30 | 100 ms | 500 ms, 1 GiB | 2 s, 80 GiB | 0.25 | 5 |" in page
    assert "500 TFLOP/s in matrix products (tf32), 4 TB/s in copies" in page
    assert "[benchmarks/results/fast-2025-02-02](../benchmarks/results/fast-2025-02-02)" in page
    assert report.NO_GPU not in page
    assert "within a time: random real images: 15.0 % on one network." in page
    assert report.main(["--check", *files]) == 0
