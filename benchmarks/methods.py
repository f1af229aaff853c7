"""Every method and decoder on scikit-learn's digits, one image per digit's storage, beside real images.

    python -m benchmarks.methods --work FOLDER [--seed 0 1 2] [--only ROW ...]

Each run is a process of one thread, which measures its own peak memory. Experts and finished runs in FOLDER are not
made again, so a stopped benchmark goes on where it was. The rows are appended to benchmarks/results/methods.csv and
printed as the table of docs/results.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import harness
from pydistill._util.files import read_json
from pydistill._util.layout import BASELINES_NAME

RESULTS = harness.RESULTS / "methods.csv"
COLUMNS = (
    "commit",
    "torch",
    "processor",
    "row",
    "preset",
    "settings",
    "seed",
    "iterations",
    "accuracy",
    "over_networks",
)
COLUMNS += ("numbers", "bytes", "label_numbers", "seconds", "peak_bytes")
DEMO = "demo/digits-mtt"
FLAT = {"expert.training.sharpness": "{rho: 0.01, alpha: 0.3}"}
DATM = FLAT | {
    "distill.method": "datm",
    "distill.initialisation": "correct",
    "distill.label_start": "correct_logits",
    "distill.momentum_label": 0.9,
    "distill.grow_from": 2,
    "distill.max_start": 8,
}


def masked(**settings: Any) -> dict[str, Any]:
    return {f"distill.match_parameters.{name}": value for name, value in settings.items()}


ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "MTT": (DEMO, {}),
    "TESLA (truncated gradient)": ("demo/digits-tesla", {}),
    "ATT": ("demo/digits-att", {}),
    "MCT": ("demo/digits-mct", {}),
    "ATT's step on MCT's trajectories": ("demo/digits-mct", {"distill.selection": "nearest"}),
    "FTD": (DEMO, FLAT | {"distill.method": "ftd", "distill.ema": 0.95}),
    "DATM": (DEMO, DATM),
    "progressive (our reading of PTM)": (
        DEMO,
        # Thirty steps overshoot a target of one epoch, and a plain update would make the learning rate negative.
        {"distill.method": "progressive", "distill.max_start": None, "distill.lr_form": "log", "distill.lr_lr": 0.1},
    ),
    "MTT from k-means images (DREAM)": (DEMO, {"distill.initialisation": "kmeans"}),
    "MTT, labels learned": (DEMO, {"distill.labels": "learned"}),
    "MTT, depth mask 25 % (PAD)": (DEMO, masked(rule="depth", leave_out=0.25)),
    "MTT, rank mask 25 % (PAD's code, EDF)": (DEMO, masked(rule="rank", leave_out=0.25)),
    "MTT, paced mask (HoP-TM)": (DEMO, masked(rule="paced", threshold=1e-5, growth=1.5, growth_every=10)),
    "MTT, 2 small images in 1 (IDC)": ("idc/digits-ipc1", {}),
    "MTT, mirror images (FYI)": (DEMO, {"distill.decoder": "{kind: mirror}"}),
    "MTT, cosine coefficients (FreD)": ("fred/digits-ipc1", {}),
    "MTT, Gaussians (GSDD)": ("gsdd/digits-ipc1", {}),
    "MTT, neural fields (DDiF)": ("ddif/digits-ipc1", {}),
}


def flags(settings: dict[str, Any]) -> list[str]:
    return [f"--{name}={'null' if value is None else value}" for name, value in settings.items()]


def pydistill(*arguments: object) -> None:
    """Run one command of the package in a separate process, on one thread, and pass its output through."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "pydistill", *map(str, arguments)], check=True, env=environment)


def run_of(row: str, seed: int, work: Path) -> Path:
    """Return the folder of a row's run; run it unless it is finished."""
    out = work / f"{list(ROWS).index(row):02d}-{seed}"
    if (out / "summary.json").exists():
        return out
    preset, settings = ROWS[row]
    seeded = {f"{group}.seed": seed for group in ("expert", "distill", "evaluation")}
    flat = any(name.startswith("expert.training.sharpness") for name in settings)
    experts = work / f"{'flat-' if flat else ''}experts-{seed}"
    training = {name: value for name, value in settings.items() if name.startswith("expert.")}
    pydistill("experts", "--preset", DEMO, *flags(training | seeded), "--out", experts)
    baselines = {"evaluation.baselines": "[random, kmeans, full]" if row == "MTT" else "[]"}
    every = flags(settings | seeded | baselines)
    pydistill("distill", "--preset", preset, *every, "--experts", experts, "--out", out, "--resume")
    return out


def measured(row: str, seed: int, work: Path) -> dict[str, Any]:
    """Return a row's run with one seed as a row of the results."""
    preset, settings = ROWS[row]
    summary = read_json(run_of(row, seed, work) / "summary.json")
    return {
        "row": row,
        "preset": preset,
        "settings": " ".join(flags(settings)),
        "seed": seed,
        "iterations": summary["iterations"],
        "accuracy": summary["accuracy_final"]["mean"],
        "over_networks": summary["accuracy_final"]["std"],
        "seconds": round(summary["seconds"], 2),
        "peak_bytes": summary["peak_memory_bytes"],
        **{name: summary["storage"][name] for name in ("numbers", "bytes", "label_numbers")},
    }


def references(seed: int, work: Path) -> list[dict[str, Any]]:
    """Return the baselines of the run of MTT as rows of the results."""
    best: dict[str, dict[str, Any]] = {}
    for record in read_json(run_of("MTT", seed, work) / BASELINES_NAME):
        name = record["trained_on"]
        if name not in best or record["mean"] > best[name]["mean"]:
            best[name] = record
    return [
        {"row": name, "seed": seed, "accuracy": record["mean"], "over_networks": record["std"]}
        for name, record in best.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Format the rows as the table of docs/results.md: mean ± standard deviation over seeds."""
    lines = [
        "| set | seeds | accuracy (%) | numbers stored | bytes | iterations | seconds (least) | peak memory (MB) |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    for name in dict.fromkeys(row["row"] for row in rows):
        of_seeds = [row for row in rows if row["row"] == name]
        values = [100 * row["accuracy"] for row in of_seeds]
        line = f"| {name} | {len(values)} | {statistics.fmean(values):.1f} ± {statistics.pstdev(values):.1f} |"
        first = of_seeds[0]
        if "numbers" in first:
            labels = f" + {first['label_numbers']} of labels" if first["label_numbers"] > 10 else ""
            seconds = min(row["seconds"] for row in of_seeds)
            peak = max(row["peak_bytes"] for row in of_seeds) / 2**20
            line += f" {first['numbers']:,}{labels} | {first['bytes']:,} |"
            line += f" {first['iterations']} | {seconds:.1f} | {peak:.0f} |"
        else:
            line += " | | | | |"
        lines.append(line)
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, then write the rows and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    options = parser.parse_args()
    rows = [measured(row, seed, options.work) for row in options.only for seed in options.seed]
    if "MTT" in options.only:
        real = [row for seed in options.seed for row in references(seed, options.work)]
        rows = sorted(real, key=lambda row: row["row"]) + rows
    origin = {"commit": harness.commit(), "torch": torch.__version__, "processor": harness.processor()}
    texts = [{name: str((origin | row).get(name, "")) for name in COLUMNS} for row in rows]
    harness.append_rows(RESULTS, list(COLUMNS), texts)
    print(table(rows))


if __name__ == "__main__":
    main()
