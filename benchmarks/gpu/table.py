"""The table of a grid's rows: seconds and memory of an outer iteration by problem and contestant, beside the floor.

python -m benchmarks.gpu.table OUT_DIR
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import read_rows

OUT_OF_MEMORY = "out of memory"

Row = dict[str, str]


def floor(row: Row) -> float:
    """Return the least seconds of an outer iteration: of arithmetic at the matrix rate, or of bytes at the copy rate.

    max(2 · multiply-adds / matrix rate, bytes / copy rate), of the exact gradient's convolutions and matrix products.
    """
    arithmetic = 2 * float(row["multiply_adds"]) / float(row["matrix_rate"])
    return max(arithmetic, float(row["bytes"]) / float(row["copy_rate"]))


def of_rows(rows: Sequence[Row]) -> str:
    """Format rows as Markdown; the last row of a problem and a contestant counts."""
    latest = {(row["problem"], row["contestant"]): row for row in rows}
    problems = list(dict.fromkeys(problem for problem, _ in latest))
    contestants = list(dict.fromkeys(contestant for _, contestant in latest))
    names = [f"`{name}`{' (truncated)' if name == 'tesla' else ''}" for name in contestants]
    heads = ["problem", "classes, images, B, N", "floor", *names, "`fused` of `autograd`", "`fused` of the floor"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for problem in problems:
        result = {name: latest[problem, name] for name in contestants if (problem, name) in latest}
        one = next(iter(result.values()))
        sizes = ", ".join(one[key] for key in ("classes", "images", "batch", "steps"))
        fused, oracle = (_median(result.get(name)) for name in ("fused", "autograd"))
        ratios = [
            f"{fused / oracle:.3g}" if fused and oracle else "",
            f"{fused / floor(one):.3g}" if fused else "",
        ]
        cells = [problem, sizes, _seconds(floor(one)), *(_cell(result.get(name)) for name in contestants), *ratios]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n" + "".join(_kernels(row) for row in latest.values() if row["kernels"])


def _median(row: Row | None) -> float | None:
    """Median seconds, unless they are missing."""
    return float(row["median"]) if row is not None and row["median"] else None


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    memory = f", {float(row['peak_mb']) / 1024:.3g} GiB" if row["peak_mb"] else ""
    part = f"{row['steps_run']} of {row['steps']} steps"
    if row["note"].startswith(OUT_OF_MEMORY):
        return OUT_OF_MEMORY + (f" (≈ {_seconds(float(row['median']))} by {part}{memory})" if row["median"] else "")
    if not row["median"]:
        return f"cannot run: {row['note']}".replace("|", "/")
    if row["steps_run"] != row["steps"]:
        return f"≈ {_seconds(float(row['median']))} (by {part}{memory})"
    return _seconds(float(row["median"])) + memory


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def _kernels(row: Row) -> str:
    share = float(row["kernels"]) / float(row["median"])
    took = f"{_seconds(float(row['kernels']))} of {_seconds(float(row['median']))}"
    return f"\n{row['problem']}, `{row['contestant']}`: kernels run for {took} ({share:.0%}).\n"


def main() -> None:
    """Print the table of a folder's grid.csv."""
    print(of_rows(read_rows(Path(sys.argv[1]) / "grid.csv")))


if __name__ == "__main__":
    main()
