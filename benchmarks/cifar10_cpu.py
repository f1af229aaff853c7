"""Real runs on CIFAR-10 without a GPU: every method from the same experts, each in a process of its own.

    python -m benchmarks.cifar10_cpu --data CIFAR --work FOLDER

CIFAR is what `--data.path` takes (torchvision's files, an image folder, or an archive of one). Experts in FOLDER are
kept and whole runs in it are not repeated, so a stopped benchmark goes on where it was. Results are appended to
benchmarks/results/cifar10_cpu.csv and printed as the table of docs/results.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from pydistill import data
from pydistill.commands import accuracy_record, peak_memory
from pydistill.evaluate import evaluate
from pydistill.recipe import load_recipe, preset_path
from pydistill.run import random_real

PRESET = "cpu/cifar10-w32"
METHODS = ("att", "mct", "mtt", "tesla")
RESULTS = Path(__file__).parent / "results" / "cifar10_cpu.csv"
# Iterations and what a larger set needs otherwise; the rest is as the preset has it.
RUNS: dict[int, dict[str, Any]] = {
    1: {"iterations": 400, "lr_image": 1000, "lr_lr": 1e-5},
    10: {"iterations": 60, "lr_image": 3000, "lr_lr": 1e-4},
}


def pydistill(*arguments: object) -> None:
    """Run one command of the package in a process of its own; its output goes through."""
    subprocess.run([sys.executable, "-m", "pydistill.cli", *(str(each) for each in arguments)], check=True)


def distilled(path: str, work: Path, method: str, ipc: int) -> dict[str, Any]:
    """The summary of one run, made now unless it is there."""
    out = work / f"{method}-ipc{ipc}"
    if not (out / "summary.json").exists():
        settings = [f"--distill.{name}={value}" for name, value in RUNS[ipc].items()]
        settings += [f"--distill.method={method}", f"--distill.ipc={ipc}", f"--data.path={path}"]
        folders = ["--experts", work / "experts", "--out", out, "--resume"]
        pydistill("distill", "--preset", PRESET, *settings, *folders)
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return summary


def random_baseline(path: str, work: Path, ipc: int) -> dict[str, Any]:
    """Accuracy of networks trained on random real images, another draw for each network, at the recipe's first rate."""
    file = work / f"random-ipc{ipc}.json"
    if not file.exists():
        recipe = load_recipe(preset_path(PRESET), [f"--data.path={path}"])
        dataset = data.load(recipe.data)
        found: list[float] = []
        for repeat in range(recipe.evaluation.repeats):
            images, labels = random_real(dataset, ipc, repeat)
            one = recipe.evaluation.__class__(repeats=1, seed=repeat, training=recipe.evaluation.training)
            found += evaluate(images, labels, recipe.distill.lr_init, dataset, recipe.model, one).accuracies
        file.write_text(json.dumps(accuracy_record(found) | {"peak_memory_bytes": peak_memory()}))
    record: dict[str, Any] = json.loads(file.read_text())
    return record


def main() -> None:
    """Run what is missing, then print the table and append the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--ipc", type=int, nargs="+", default=sorted(RUNS), choices=sorted(RUNS))
    given = parser.parse_args()
    pydistill("experts", "--preset", PRESET, f"--data.path={given.data}", "--out", given.work / "experts")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    common = {"commit": commit.stdout.strip(), "torch": torch.__version__, "machine": platform.processor() or "cpu"}
    rows = []
    for ipc in given.ipc:
        random = random_baseline(given.data, given.work, ipc)
        rows.append({"ipc": ipc, "set": "random real", "mean": random["mean"], "std": random["std"]} | common)
        for method in METHODS:
            found = distilled(given.data, given.work, method, ipc)
            final = found["accuracy_final"]
            row = {"ipc": ipc, "set": method, "mean": final["mean"], "std": final["std"]}
            row |= {"seconds": round(found["seconds"], 1), "peak_bytes": found["peak_memory_bytes"]}
            row |= {
                "iterations": found["iterations"],
                "loss_first": found["loss_first"],
                "loss_last": found["loss_last"],
            }
            rows.append(row | common)
    save(rows)
    print(f"{'| IPC':<6} | {'set':<12} | accuracy (%) | loss first → last | seconds | peak memory (GB) |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        told = f"| {row['ipc']} | {row['set']} | {100 * row['mean']:.1f} ± {100 * row['std']:.1f} |"
        if "seconds" in row:
            told += f" {row['loss_first']:.3f} → {row['loss_last']:.3f} | {row['seconds']:.0f} |"
            told += f" {row['peak_bytes'] / 1e9:.2f} |"
        else:
            told += " | | |"
        print(told)


def save(rows: list[dict[str, Any]]) -> None:
    """Append rows to the results."""
    names = ["commit", "torch", "machine", "ipc", "set", "mean", "std"]
    names += ["iterations", "loss_first", "loss_last", "seconds", "peak_bytes"]
    new = not RESULTS.exists()
    with open(RESULTS, "a", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, names)
        if new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
