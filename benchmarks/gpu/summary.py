"""Summarise the results of benchmarks/run_gpu.sh on one page, printed and written to OUT_DIR/summary.md.

python -m benchmarks.gpu.summary OUT_DIR "PART: how it ended" …
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu import ready, real, table
from benchmarks.harness import read_rows

MOST_LINES = 40
# The lines of a log that the page shows: pytest's verdicts and failures, and the sanitizer's verdicts.
OF_PYTEST = re.compile(r"^(RESULT|FAILED|ERROR)\b.*")
OF_SANITIZER = re.compile(r"^========= (ERROR SUMMARY|RACECHECK SUMMARY|Invalid|Race reported|Error).*")


def page(out: Path, parts: Sequence[str]) -> str:
    """Return the summary as Markdown."""
    try:
        machine = ready.describe()
    except ready.NotReady as error:
        machine = [str(error)]
    sections = ["# Results on this GPU", _items(machine), "## Parts", _items(parts)]
    for title, name, pattern in (
        ("Tests that need a GPU", "tests", OF_PYTEST),
        ("compute-sanitizer", "sanitizer", OF_SANITIZER),
    ):
        if result := _lines(out / f"{name}.log", pattern):
            sections += [f"## {title}", _items(result)]
    if rows := read_rows(out / "grid.csv"):
        one = rows[-1]
        rates = (
            f"Measured ceilings: {float(one['matrix_rate']) / 1e12:.3g} TFLOP/s ({one['precision']}), copies at "
            f"{float(one['copy_rate']) / 1e12:.3g} TB/s."
        )
        sections += ["## One outer iteration", rates, table.of_rows(rows)]
    log = out / "experts.log"
    if log.exists():
        sections += ["## Training and testing networks", f"```\n{log.read_text(encoding='utf-8').strip()}\n```"]
    if sentences := real.describe(out / real.FILE):
        sections += ["## CIFAR-10, one image per class", sentences]
    return "\n\n".join(sections) + "\n"


def _lines(log: Path, pattern: re.Pattern[str]) -> list[str]:
    if not log.exists():
        return []
    result = [line.strip("= \n") for line in log.read_text(encoding="utf-8").splitlines() if pattern.match(line)]
    result.sort(key=lambda line: not line.startswith("RESULT"))
    if len(result) > MOST_LINES:
        result = [*result[:MOST_LINES], f"… and {len(result) - MOST_LINES} lines more, the last: {result[-1]}"]
    return result


def _items(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write and print the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.summary",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    parser.add_argument("parts", nargs="*")
    options = parser.parse_args(arguments)
    text = page(options.out, options.parts)
    (options.out / "summary.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
