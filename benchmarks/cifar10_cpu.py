"""Real runs on CIFAR-10 without a GPU: every method from the same experts, each in a separate process.

    python -m benchmarks.cifar10_cpu --data CIFAR --work FOLDER

CIFAR is what `--data.path` takes (torchvision's files, an image folder, or an archive of one). Experts and
finished runs in FOLDER are not made again, so a stopped benchmark goes on where it was. Results are appended to
benchmarks/results/cifar10_cpu.csv and printed as the table of docs/results.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import harness
from pydistill import data
from pydistill._util.files import read_json, write_json
from pydistill.evaluation.baselines import StoredEvaluator
from pydistill.recipes.recipe import load_recipe, preset_path

PRESET = "cpu/cifar10-w32"
METHODS = ("att", "mct", "mtt", "tesla")
RESULTS = harness.RESULTS / "cifar10_cpu.csv"
# Iterations and what a larger set needs otherwise; the rest is as the preset has it.
RUNS: dict[int, dict[str, Any]] = {
    1: {"iterations": 400, "lr_image": 1000, "lr_lr": 1e-5},
    10: {"iterations": 60, "lr_image": 3000, "lr_lr": 1e-4},
}


def pydistill(*arguments: object) -> None:
    """Run one command of the package in a separate process and pass its output through."""
    subprocess.run([sys.executable, "-m", "pydistill", *(str(item) for item in arguments)], check=True)


def provenance() -> dict[str, Any]:
    """Describe the origin of a run: commit, torch, processor, threads."""
    malloc = {name: value for name, value in sorted(os.environ.items()) if name.startswith("MALLOC_")}
    return {
        "commit": harness.commit(),
        "torch": torch.__version__,
        "processor": harness.processor(),
        "threads": torch.get_num_threads(),
        "malloc": " ".join(f"{name}={value}" for name, value in malloc.items()),
    }


def distilled(path: str, work: Path, method: str, ipc: int) -> dict[str, Any]:
    """Return one run as a row of the results; run it unless it exists."""
    out = work / f"{method}-ipc{ipc}"
    made = out / "made.json"
    if not made.exists():
        settings = [f"--distill.{name}={value}" for name, value in RUNS[ipc].items()]
        settings += [f"--distill.method={method}", f"--distill.ipc={ipc}", f"--data.path={path}"]
        settings += ["--evaluation.baselines=[]"]  # random images once for all methods: `random_baseline`
        folders = ["--experts", work / "experts", "--out", out, "--resume"]
        pydistill("distill", "--preset", PRESET, *settings, *folders)
        write_json(made, provenance())
    summary = read_json(out / "summary.json")
    row = {"ipc": ipc, "set": method} | {name: summary["accuracy_final"][name] for name in ("mean", "std")}
    row |= {name: summary[name] for name in ("iterations", "loss_first", "loss_last", "lr", "seconds")}
    return row | {"peak_bytes": summary["peak_memory_bytes"]} | read_json(made)


def random_baseline(path: str, work: Path, ipc: int, rates: list[float]) -> dict[str, Any]:
    """Return random real images at the best rate as a row of the results; measure it unless it exists."""
    file = work / f"random-real-ipc{ipc}.json"
    if not file.exists():
        recipe = load_recipe(preset_path(PRESET), {"data.path": str(path)})
        dataset = data.load(recipe.data)
        _, result = StoredEvaluator(dataset, recipe.model, recipe.evaluation).random_real(ipc, rates)
        row = {"ipc": ipc, "set": "random real", "mean": result.mean, "std": result.std, "lr": result.lr}
        write_json(file, row | provenance())
    return dict(read_json(file))


def main() -> None:
    """Run what is missing, then print the table and append the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--ipc", type=int, nargs="+", default=sorted(RUNS), choices=sorted(RUNS))
    options = parser.parse_args()
    pydistill("experts", "--preset", PRESET, f"--data.path={options.data}", "--out", options.work / "experts")
    rows = []
    for ipc in options.ipc:
        result = [distilled(options.data, options.work, method, ipc) for method in METHODS]
        rates = [0.01, max(row["lr"] for row in result)]
        rows += [random_baseline(options.data, options.work, ipc, rates), *result]
    save(rows)
    print(f"{'| IPC':<6} | {'set':<12} | accuracy (%) | loss first → last | seconds | peak memory (GB) |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        line = f"| {row['ipc']} | {row['set']} | {100 * row['mean']:.1f} ± {100 * row['std']:.1f} |"
        if "seconds" in row:
            line += f" {row['loss_first']:.3f} → {row['loss_last']:.3f} | {row['seconds']:.0f} |"
            line += f" {row['peak_bytes'] / 1e9:.2f} |"
        else:
            line += " | | |"
        print(line)


def save(rows: list[dict[str, Any]]) -> None:
    """Append the missing rows to the results."""
    names = ["commit", "torch", "processor", "threads", "malloc", "ipc", "set", "mean", "std", "lr"]
    names += ["iterations", "loss_first", "loss_last", "seconds", "peak_bytes"]
    texts = [{name: str(row.get(name, "")) for name in names} for row in rows]
    there = harness.read_rows(RESULTS)
    harness.append_rows(RESULTS, names, [row for row in texts if row not in there])


if __name__ == "__main__":
    main()
