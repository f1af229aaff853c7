"""The report's numbers, tables and commands."""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Sequence
from html import escape
from typing import Any

from pydistill._util.files import sha256_of
from pydistill._util.format import accuracy_of, counted, duration, size
from pydistill._util.layout import RECIPE_NAME, SET_NAME
from pydistill.recipes.recipe import default_recipe
from pydistill.runs.folder import flat
from pydistill.runs.report.contents import Contents, Record, dig, is_accuracy, is_number

MAX_REJECTED = 50


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an HTML table."""
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def progress(run: Contents) -> str:
    """Return how far the run is."""
    if run.ended_early:
        return "ended early"
    if run.is_finished:
        return "finished"
    return f"not finished: iteration {run.done:,}" + (f" of {run.asked:,}" if run.asked else "")


def outcome(run: Contents) -> list[tuple[str, str]]:
    """Return the outcome in a few numbers: name and value."""
    rows: list[tuple[str, str]] = []
    if evaluations := run.events("evaluation"):
        last, best = evaluations[-1], max(evaluations, key=lambda line: float(line["mean"]))
        rows.append(("final accuracy" if run.is_finished else f"accuracy at {last['iteration']:,}", _percent(last)))
        rows.append((f"best accuracy, at {best['iteration']:,}", _percent(best)))
    rows.append(("iterations", f"{run.done:,}"))
    distilled = run.final or run.best
    if distilled is not None:
        rows.append((f"stored, {counted(len(distilled.images), 'image')}", str(distilled.storage)))
    rates = [line["lr"] for line in run.events("iteration")] or [run.summary.get("lr")]
    if is_number(rates[-1]):
        constant = dig(run.recipe, "distill", "lr_lr") == 0
        rows.append(("α" if constant else "learned α", f"{rates[-1]:.4g}"))
    return rows


def networks(run: Contents) -> str:
    """Return a table of accuracies: the run's own evaluation, the newest of each in evaluations.json, and baselines."""
    rows: dict[str, Record] = {}
    for row in run.events("evaluation"):
        rows["the run's own"] = row | {"which": "final" if run.is_finished else "current"}
    for row in filter(is_accuracy, run.evaluations):
        key = [row.get(name) for name in ("model", "which", "iteration", "epochs", "protocol")]
        rows[f"{key}"] = row
    if not rows:
        return '<p class="note">No network has been tested yet.</p>'
    named = [(f"the {row.get('which', 'final')} set, iteration {row.get('iteration')}", row) for row in rows.values()]
    named += [(name, row.as_record()) for name, row in run.baselines]
    cells = [
        [
            name,
            str(row.get("model", "")),
            _percent(row),
            counted(len(row["runs"]), "network") + (f", {row['diverged']} diverged" if row.get("diverged") else ""),
            *(str(row.get(column) or "") for column in ("epochs", "protocol")),
        ]
        for name, row in named
    ]
    more = shlex.join(["pydistill", "evaluate", str(run.path), "--models", "convnet3", "alexnet", "vgg11", "resnet18"])
    hint = f'<p class="note">Other networks: <code>{escape(more)}</code></p>'
    if run.evaluations or run.is_in_memory:
        hint = ""
    return table(("trained on", "network", "test accuracy", "count", "epochs", "protocol"), cells) + hint


def costs(run: Contents) -> str:
    """Return a table of time and memory."""
    rows: list[list[str]] = []
    for kind in ("iteration", "evaluation"):
        times = [line["seconds"] for line in run.events(kind) if is_number(line.get("seconds"))]
        if times:
            rows.append([f"one {kind} (median)", duration(statistics.median(times))])
            rows.append([f"all {kind}s ({len(times):,})", duration(sum(times))])
    seconds = run.summary.get("seconds", 0.0 if run.checkpoint is None else run.checkpoint[0].get("seconds"))
    phases = seconds if isinstance(seconds, dict) else {"the run" if run.summary else "up to the checkpoint": seconds}
    rows += [[name, duration(value)] for name, value in phases.items() if is_number(value) and value]
    labels = {"peak_memory_bytes": "peak memory", "peak_device_memory_bytes": "peak memory of the GPU"}
    rows += [[label, size(run.summary[name])] for name, label in labels.items() if is_number(run.summary.get(name))]
    return table(("what", "how much"), rows) if rows else '<p class="note">Nothing is measured yet.</p>'


def rejected_updates(run: Contents) -> str:
    """Return a table of the updates that the guard did not apply."""
    names = ("iteration", "what", "reason", "knob")
    rows = [[str(event.get(name, "")) for name in names] for event in run.events("guard")]
    if not rows:
        return '<p class="note">None.</p>'
    last = f", the last {MAX_REJECTED} of them here" if len(rows) > MAX_REJECTED else ""
    heads = ("iteration", "what", "why", "setting to change")
    return f'<p class="note">{counted(len(rows), "update")}{last}.</p>{table(heads, rows[-MAX_REJECTED:])}'


def changed_settings(run: Contents) -> list[list[str]]:
    """Return the settings of the recipe that differ from the defaults: dotted name and value."""
    defaults = flat(json.loads(json.dumps(default_recipe(dig(run.recipe, "data", "name")).as_dict())))
    return [
        [name, value if isinstance(value, str) else json.dumps(value)]
        for name, value in flat(run.recipe).items()
        if name not in defaults or defaults[name] != value
    ]


def needs_its_experts(run: Contents) -> bool:
    """Return whether no command makes the experts again: imported, trained by other settings, or a selection."""
    numbers = dig(run.config, "trajectories", "experts", default=[])
    return dig(run.config, "trajectories", "by_recipe") is False or numbers != list(range(len(numbers)))


def commands(run: Contents) -> str:
    """Return the commands that run it again, with the number of threads that the run ended with."""
    recipe = str(run.path / RECIPE_NAME)
    count = len(dig(run.config, "trajectories", "experts", default=[]))
    convexification = dig(run.config, "trajectories", "convexification", default={})
    threads = run.summary.get("threads")
    prefix = f"OMP_NUM_THREADS={threads} " if threads else ""
    networks = f"{dig(run.recipe, 'model', 'name')} {dig(run.recipe, 'evaluation', 'models')}"
    trust = ["--trust"] if ":" in networks else []
    lines = []
    experts = "EXPERTS"
    if not needs_its_experts(run):
        more = [] if count in (0, dig(run.recipe, "expert", "count")) else ["--expert.count", str(count)]
        lines.append(shlex.join(["pydistill", "experts", "--config", recipe, *trust, *more, "--out", experts]))
        if convexification:
            flags = [word for name, value in convexification.items() for word in (f"--{name}", _flag_value(value))]
            lines.append(shlex.join(["pydistill", "convexify", experts, *flags, "--out", "CONVEXIFIED"]))
            experts = "CONVEXIFIED"
    distill = ["pydistill", "distill", "--config", recipe, *trust, "--experts", experts, "--out", "AGAIN"]
    return "\n".join([*lines, prefix + shlex.join(distill), f"{prefix}pydistill evaluate AGAIN"])


def identity(run: Contents) -> list[list[str]]:
    """Return the versions and digests that identify the run."""
    distilled = run.final or run.best
    provenance = {} if distilled is None else distilled.provenance
    rows = [[name, value] for name, value in dig(provenance, "versions", default={}).items()]
    rows.append(["threads", run.summary.get("threads")])
    rows.append(["data set", dig(provenance, "dataset", "name")])
    rows.append(["digest of the data set", dig(provenance, "dataset", "digest")])
    rows.append(["digest of the experts", dig(run.config, "trajectories", "digest")])
    rows.append(["architecture", dig(run.config, "architecture")])
    if run.final is not None:
        rows.append([f"SHA-256 of {SET_NAME}", sha256_of(run.path / SET_NAME)])
    return [[name, str(value)] for name, value in rows if value is not None]


def _percent(record: Record) -> str:
    """Format mean ± standard deviation in percent; one network has no deviation."""
    return accuracy_of(record["mean"], record["std"], len(record["runs"]))


def _flag_value(value: Any) -> str:
    return str(value).replace(" ", "")
