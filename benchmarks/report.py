"""Make the tables and plots of docs/performance.md from benchmarks/results: hypergradient, experts, GPU measurements.

    python -m benchmarks.report              fills the page's regions and draws docs/images/performance-*.svg
    python -m benchmarks.report --check      changes nothing; status 1 if page or plots are not those of the data

A region lies between `<!-- report:NAME -->` and `<!-- /report -->`. Of rows that measured the same, the latest counts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import experts
from benchmarks.contestants import BACKENDS, CONTESTANTS, YARDSTICKS
from benchmarks.gpu import grid, real, table
from benchmarks.harness import ROOT, check_header, read_rows
from benchmarks.hypergradient import COLUMNS, RESULTS

PAGE = ROOT / "docs" / "performance.md"
NOTHING = "Nothing has been recorded yet."
NO_GPU = "The CUDA path is compiled, and its arithmetic is tested on the CPU. Nothing has been measured on a GPU yet."
REGION = re.compile(r"(<!-- report:(\w+) -->\n).*?(<!-- /report -->)", re.DOTALL)

WHERE = ("machine", "threads", "device")
WHAT = ("model", "width", "size", "channels", "classes", "batch", "dsa", "selection", "dtype")

Row = dict[str, str]
Key = tuple[str, ...]


@dataclass(frozen=True)
class Plot:
    """The data of one plot; `lines` are (label, values), whose meaning depends on the kind."""

    kind: str  # time: bars with (median, q10, q90); memory: curves of (N, MB) pairs
    name: str
    title: str
    lines: tuple[tuple[str, tuple[Any, ...]], ...]

    def digest(self) -> str:
        """A fingerprint of the data, stored in the file."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()

    def file(self, images: Path) -> Path:
        """The plot's path."""
        return images / f"performance-{self.kind}-{self.name}.svg"


def label_of(row: Row) -> str:
    """Return the contestant with the options that distinguish it within its configuration."""
    notes = ["truncated"] if row["gradient"] == "truncated" else []
    if row["allocator"] == "keeping" and row["contestant"] not in YARDSTICKS:
        notes.append("malloc keeps memory")
    return row["contestant"] + (f" ({', '.join(notes)})" if notes else "")


def groups(rows: Sequence[Row], names: Sequence[str]) -> dict[Key, list[Row]]:
    """Group rows by the columns `names`."""
    result: dict[Key, list[Row]] = {}
    for row in rows:
        result.setdefault(tuple(row[name] for name in names), []).append(row)
    return result


def latest(rows: Sequence[Row]) -> list[Row]:
    """Return the last row of every label and N, in the order of the contestants."""
    result = {(label_of(row), row["steps"]): row for row in sorted(rows, key=lambda row: row["date"])}
    return sorted(result.values(), key=lambda row: (CONTESTANTS.index(row["contestant"]), label_of(row)))


def title_of(row: Row) -> str:
    """Return the problem of a row, without N."""
    return (
        f"{row['model']}, width {row['width']}, {row['channels']} × {row['size']}×{row['size']}, batch {row['batch']}, "
        f"{row['dtype']}, selection {row['selection']}" + (", augmented" if row["dsa"] else "")
    )


def name_of(row: Row, key: Key) -> str:
    """Make a readable, unique part of a file name from a key."""
    short = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:6]
    return f"{row['model']}-w{row['width']}-{row['size']}px-b{row['batch']}-{short}"


def command_of(rows: Sequence[Row], *options: str) -> str:
    """Return the command that reproduces these rows."""
    row = rows[0]
    words = [f"--{name} {row[name]}" for name in WHAT if row[name]] + list(options) + [f"--threads {row['threads']}"]
    words += ["--device cuda"] if row["device"] != "cpu" else []
    exact = [value for value in rows if value["contestant"] != "tesla" and value["gradient"] == "exact"]
    words += [] if exact else ["--gradient truncated"]
    contestants = dict.fromkeys(value["contestant"] for value in rows)
    return f"python -m benchmarks.hypergradient {' '.join(words)} --backends {','.join(contestants)}"


def where_of(rows: Sequence[Row]) -> str:
    """List machine, threads, versions and commits of rows from one machine."""
    row = rows[0]
    device = "" if row["device"] == "cpu" else f", {row['device']}"
    versions, commits, days = (
        sorted({value[name][:size] for value in rows}) for name, size in (("torch", 40), ("commit", 40), ("date", 10))
    )
    return (
        f"{row['machine']}{device}; {row['threads']} threads; torch {', '.join(versions)}; "
        f"commit {', '.join(commits)}; {', '.join(days)}"
    )


def time_region(rows: Sequence[Row]) -> tuple[str, list[Plot]]:
    """Make a table and a plot of seconds per student step for every timed configuration."""
    parts, plots = [], []
    for key, group in groups([row for row in rows if row["median"]], (*WHERE, *WHAT, "steps")).items():
        shown = latest(group)
        oracles = {row["date"]: float(row["median"]) for row in group if row["contestant"] == "autograd"}
        title = f"{title_of(shown[0])}, N = {shown[0]['steps']}"
        lines = [
            "| contestant | s per student step, median (10 % – 90 %) | s per call | of `autograd` | rounds | commit |",
            "|---|---|---|---|---|---|",
        ]
        for row in shown:
            median, q10, q90 = (float(row[name]) for name in ("median", "q10", "q90"))
            # Only what took turns with it is held against autograd.
            ratio = f"{median / oracles[row['date']]:.2f}" if row["date"] in oracles else ""
            lines.append(
                f"| {label_of(row)} | {median:.3g} ({q10:.3g} – {q90:.3g}) | {median * int(row['steps']):.3g} | "
                f"{ratio} | {row['repeats']} | {row['commit']} |"
            )
        values = tuple((label_of(row), tuple(float(row[name]) for name in ("median", "q10", "q90"))) for row in shown)
        plot = Plot("time", f"{name_of(shown[0], key)}-n{shown[0]['steps']}", title, values)
        plots.append(plot)
        command = command_of(shown, f"--steps {shown[0]['steps']}")
        parts.append(_section(title, command, where_of(shown), lines, plot))
    return "\n".join(parts) or NOTHING + "\n", plots


def memory_region(rows: Sequence[Row]) -> tuple[str, list[Plot]]:
    """Make a table and a plot of peak memory against N for every measured configuration."""
    parts, plots = [], []
    measured = [{**row, "allocator": ""} for row in rows if row["peak_mb"]]
    for key, group in groups(measured, (*WHERE, *WHAT)).items():
        shown = latest(group)
        peaks: dict[str, dict[int, str]] = {}
        for row in shown:
            peaks.setdefault(label_of(row), {})[int(row["steps"])] = row["peak_mb"]
        vectors = {int(row["steps"]): row["vectors_mb"] for row in shown}
        lines = [f"| N | {' | '.join(peaks)} | parameter vectors |", "|---" * (len(peaks) + 2) + "|"]
        for steps in sorted(vectors):
            cells = [_rounded(result.get(steps)) for result in peaks.values()]
            lines.append(f"| {steps} | {' | '.join(cells)} | {float(vectors[steps]):,.1f} |")
        curves = ((label, tuple((n, float(mb)) for n, mb in sorted(result.items()))) for label, result in peaks.items())
        plot = Plot("memory", name_of(shown[0], key), title_of(shown[0]), tuple(curves))
        plots.append(plot)
        steps_option = f"--memory-only --steps {','.join(str(steps) for steps in sorted(vectors))}"
        parts.append(_section(title_of(shown[0]), command_of(shown, steps_option), where_of(shown), lines, plot))
    return "\n".join(parts) or NOTHING + "\n", plots


def experts_region(rows: Sequence[Row]) -> tuple[str, list[Plot]]:
    """Make a table of training and testing networks for every machine."""
    parts = []
    for (_, threads, device), group in groups(rows, WHERE).items():
        lines = ["| | contestant | s, median (10 % – 90 %) | per second | of `torch` | rounds |", "|---" * 6 + "|"]
        shown = []
        for measured in groups(group, experts.PROBLEM).values():
            newest = max(row["date"] for row in measured)
            turns = {row["contestant"]: row for row in measured if row["date"] == newest}
            for row in turns.values():
                median, q10, q90 = (float(row[name]) for name in ("median", "q10", "q90"))
                ratio = f"{median / float(turns['torch']['median']):.2f}" if "torch" in turns else ""
                lines.append(
                    f"| {_what(row)} | {row['contestant']} | {median:.3g} ({q10:.3g} – {q90:.3g}) | {1 / median:.3g} | "
                    f"{ratio} | {row['repeats']} |"
                )
            shown += list(turns.values())
        command = f"`python -m benchmarks.experts --threads {threads}{'' if device == 'cpu' else ' --device cuda'}`"
        parts.append("\n\n".join([command, "\n".join(lines), f"({where_of(shown)}.)"]) + "\n")
    return "\n".join(parts) or NOTHING + "\n", []


@dataclass(frozen=True)
class OnGpu:
    """The contents of a folder of benchmarks/run_gpu.sh: the grid's rows, and the real run in a sentence."""

    rows: list[Row]
    real: str


def gpu_region(recorded: Mapping[str, OnGpu]) -> tuple[str, list[Plot]]:
    """Make a table for every recorded run of benchmarks/run_gpu.sh, the newest first."""
    parts = []
    for folder, result in sorted(recorded.items(), key=lambda run: run[1].rows[-1]["date"], reverse=True):
        rows, one = result.rows, result.rows[-1]
        rates = (
            f"Measured ceilings: {float(one['matrix_rate']) / 1e12:.3g} TFLOP/s in matrix products "
            f"({one['precision']}), {float(one['copy_rate']) / 1e12:.3g} TB/s in copies."
        )
        commits, days = (sorted({row[name][:size] for row in rows}) for name, size in (("commit", 40), ("date", 10)))
        versions = f"torch {one['torch']}, CUDA {one['cuda']}"
        where = f"({one['machine']}; {versions}; commit {', '.join(commits)}; {', '.join(days)}."
        link = f"Rows and logs: [benchmarks/results/{folder}](../benchmarks/results/{folder}).)"
        distilled = [f"CIFAR-10, one image per class, within a time: {result.real}"] if result.real else []
        title = f"### {one['device']}"
        parts.append("\n\n".join([title, rates, table.of_rows(rows).strip(), *distilled, f"{where} {link}"]) + "\n")
    return "\n".join(parts) or NO_GPU + "\n", []


def recorded_on_gpus(results: Path) -> dict[str, OnGpu]:
    """List the folders of the results that hold a grid.

    Raises:
        ValueError: a grid has other columns.
    """
    result = {}
    for file in sorted(results.glob(f"*/{grid.FILE}")):
        check_header(file, grid.COLUMNS)
        if rows := read_rows(file):
            result[file.parent.name] = OnGpu(rows, real.describe(file.parent / real.FILE))
    return result


def _what(row: Row) -> str:
    images = f"{int(row['images']):,} images {row['channels']} × {row['size']}×{row['size']}"
    augmented = f", augmented ({row['dsa'].replace('_', ', ')})" if row["dsa"] else ""
    done = "an epoch" if row["work"] == "train" else "a test"
    return f"{done} of {row['model']} on {images}, batch {row['batch']}{augmented}"


def _rounded(megabytes: str | None) -> str:
    return "" if megabytes is None else f"{float(megabytes):,.0f}"


def _section(title: str, command: str, where: str, lines: list[str], plot: Plot) -> str:
    image = plot.file(Path("images")).as_posix()
    picture = f"![{plot.kind} of {title}]({image})"
    return "\n\n".join([f"### {title}", f"`{command}`", "\n".join(lines), f"({where}.)", picture]) + "\n"


def filled(
    page: str, rows: Sequence[Row], of_experts: Sequence[Row], of_gpus: Mapping[str, OnGpu]
) -> tuple[str, list[Plot]]:
    """Fill the page's regions from the rows; return it with its plots.

    Raises:
        ValueError: the page does not have each region once.
    """
    regions = {
        "time": lambda: time_region(rows),
        "memory": lambda: memory_region(rows),
        "gpu": lambda: gpu_region(of_gpus),
        "experts": lambda: experts_region(of_experts),
    }
    result = [match[1] for match in REGION.findall(page)]
    if sorted(result) != sorted(regions):
        raise ValueError(f"the page has the regions {', '.join(result) or 'none'}, not {', '.join(regions)}")
    made = {name: region() for name, region in regions.items()}
    page = REGION.sub(lambda match: f"{match[1]}\n{made[match[2]][0]}\n{match[3]}", page)
    return page, [plot for _, plots in made.values() for plot in plots]


def draw(plot: Plot, file: Path) -> None:
    """Write one plot as SVG with its digest; the same data give the same file."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    settings = {"svg.hashsalt": "pydistill", "svg.fonttype": "none", "font.size": 9}
    with matplotlib.rc_context(settings):
        figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
        if plot.kind == "time":
            _draw_times(axes, plot)
        else:
            _draw_memory(axes, plot)
        axes.set_title(plot.title, fontsize=9)
        figure.savefig(file, metadata={"Date": None, "Description": plot.digest()})
        plt.close(figure)


def _draw_times(axes: Any, plot: Plot) -> None:
    bars = [(label, values) for label, values in plot.lines if label.split(" ")[0] not in YARDSTICKS]
    for place, (label, (median, q10, q90)) in enumerate(bars):
        around = [[max(0.0, median - q10)], [max(0.0, q90 - median)]]
        colour = "tab:blue" if label.split(" ")[0] in BACKENDS else "tab:gray"
        axes.barh(place, median, xerr=around, color=colour, error_kw={"elinewidth": 1, "capsize": 3})
    axes.set_yticks(range(len(bars)), [label for label, _ in bars])
    axes.invert_yaxis()
    for label, (median, _, _) in plot.lines:
        if label.split(" ")[0] in YARDSTICKS:
            style = "-" if label.startswith("floor") else ":"
            axes.axvline(median, color="black", linewidth=1, linestyle=style, label=label)
    if axes.get_legend_handles_labels()[1]:
        axes.legend()
    axes.set_xlabel("seconds per student step (median, 10 % to 90 %)")
    axes.set_xlim(left=0)


def _draw_memory(axes: Any, plot: Plot) -> None:
    for label, pairs in plot.lines:
        axes.plot([n for n, _ in pairs], [mb for _, mb in pairs], marker="o", label=label)
    axes.set_xlabel("student steps N")
    axes.set_ylabel("peak memory (MB)")
    axes.set_yscale("log")
    axes.legend()


def stale(page: Path, text: str, plots: Sequence[Plot]) -> list[str]:
    """Describe every file that differs from what the data give, in one sentence each."""
    images = page.parent / "images"
    needed = {plot.file(images): plot for plot in plots}
    result = [] if page.read_text(encoding="utf-8") == text else [f"{page} is not what the results make it"]
    for file, plot in needed.items():
        if not file.exists():
            result.append(f"{file} is missing")
        elif plot.digest() not in file.read_text(encoding="utf-8"):
            result.append(f"{file} does not show the results")
    return result + [f"{file} belongs to no result" for file in _extra(images, needed)]


def _extra(images: Path, needed: dict[Path, Plot]) -> list[Path]:
    return [file for file in sorted(images.glob("performance-*.svg")) if file not in needed]


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill the page and draw, or check; 1 if the check fails."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing, list what is not up to date")
    parser.add_argument("--csv", type=Path, default=RESULTS)
    parser.add_argument("--experts-csv", type=Path, default=experts.RESULTS)
    parser.add_argument(
        "--gpu-results", type=Path, default=RESULTS.parent, help="its folders' grid.csv and experts.csv count"
    )
    parser.add_argument("--page", type=Path, default=PAGE)
    parsed = parser.parse_args(arguments)
    try:
        check_header(parsed.csv, COLUMNS)
        check_header(parsed.experts_csv, experts.COLUMNS)
        page = parsed.page.read_text(encoding="utf-8")
        of_gpus = recorded_on_gpus(parsed.gpu_results)
        of_experts = read_rows(parsed.experts_csv)
        for file in sorted(parsed.gpu_results.glob("*/experts.csv")):
            check_header(file, experts.COLUMNS)
            of_experts += read_rows(file)
        text, plots = filled(page, read_rows(parsed.csv), of_experts, of_gpus)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    result = stale(parsed.page, text, plots)
    if parsed.check:
        for sentence in result:
            print(f"{sentence}: run python -m benchmarks.report")
        return 1 if result else 0
    images = parsed.page.parent / "images"
    images.mkdir(exist_ok=True)
    for plot in plots:
        draw(plot, plot.file(images))
    for file in _extra(images, {plot.file(images): plot for plot in plots}):
        file.unlink()
    parsed.page.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
