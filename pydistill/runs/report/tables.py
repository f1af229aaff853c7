"""The report's tables and lists: outcome, networks, rejected updates, settings, how to do it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from html import escape
from typing import Any

from pydistill._util.files import sha256_of
from pydistill._util.format import accuracy_of, duration, size
from pydistill._util.layout import METRICS_NAME, RECIPE_NAME, SET_NAME
from pydistill.recipes.recipe import Recipe
from pydistill.runs.report.contents import Contents, Record, as_list, dig, is_number, points, whole
from pydistill.runs.report.pictures import Shown


def percent(record: Any) -> str | None:
    """A record's mean ± standard deviation in percent, of one network no deviation; None if it has none."""
    mean, std = dig(record, "mean"), dig(record, "std")
    count = len(as_list(dig(record, "runs")))
    return accuracy_of(mean, std, count) if is_number(mean) and is_number(std) else None


def tiles(run: Contents) -> list[tuple[str, str]]:
    """The outcome in a few numbers: what, and how much."""
    found: list[tuple[str, str | None]] = []
    if (last := run.last) is not None:
        found.append(("final accuracy" if run.finished else f"accuracy at {last['iteration']:,}", percent(last)))
    if (best := run.best) is not None:
        found.append((f"best accuracy, at {best['iteration']:,}", percent(best)))
    found.append(("iterations", iterations(run)))
    found.append(("learned α", None if run.rate is None else f"{run.rate:.4g}"))
    return [(name, value) for name, value in found if value is not None]


def iterations(run: Contents) -> str:
    """How many iterations are done, of how many if that is known."""
    return f"{run.done:,} of {run.asked:,}" if run.asked else f"{run.done:,}"


def costs(run: Contents, wall_seconds: float | None) -> list[tuple[str, str]]:
    """Time and memory: what, and how much.

    Args:
        run: the run.
        wall_seconds: wall time up to the last checkpoint, if there is one.
    """
    found: list[tuple[str, str]] = []
    seconds = sorted(y for _, y in points(run.events("iteration"), "seconds"))
    if seconds:
        found.append(("an iteration (median)", duration(seconds[len(seconds) // 2])))
        found.append(("all iterations", duration(sum(seconds))))
    evaluations = [y for _, y in points(run.events("evaluation"), "seconds")]
    if evaluations:
        found.append((f"evaluations ({len(evaluations)})", duration(sum(evaluations))))
    if wall_seconds is not None:
        found.append(("the distillation, to its last checkpoint", duration(wall_seconds)))
    phases = run.summary.get("seconds")
    if isinstance(phases, dict):
        found += [(f"phase: {name}", duration(value)) for name, value in phases.items() if is_number(value)]
    if is_number(run.summary.get("peak_memory_bytes")):
        found.append(("peak memory of the process", size(run.summary["peak_memory_bytes"])))
    if is_number(run.summary.get("peak_device_memory_bytes")):
        found.append(("peak memory on the GPU", size(run.summary["peak_device_memory_bytes"])))
    return found


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is names and whose others are values."""
    head = "".join(f"<th>{escape(each)}</th>" for each in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def networks(run: Contents) -> str:
    """Accuracy of fresh networks, per architecture: the newest evaluation of each, of each set."""
    rows: dict[tuple[str, ...], Record] = {}
    if (last := run.last) is not None:
        rows[("own",)] = last | {"by": "the run itself, at its end" if run.finished else "the run itself"}
    for row in run.evaluations:
        by = f"pydistill evaluate, {row['which']} set" if "which" in row else "pydistill evaluate"
        rows[str(row.get("which")), row["model"], str(row.get("iteration"))] = row | {"by": by}
    told = [
        [
            str(row.get("model", "")),
            percent(row) or "",
            str(len(as_list(row.get("runs")))) + (f" ({row['diverged']} diverged)" if row.get("diverged") else ""),
            f"{row['by']} ({whole(row.get('iteration')):,})",
            duration(row["seconds"]) if is_number(row.get("seconds")) else "",
        ]
        for row in rows.values()
    ]
    if not told:
        return '<p class="note">No network has been tested yet.</p>'
    heads = ("network", "test accuracy", "networks", "tested by, iteration", "time")
    more = shlex.join(["pydistill", "evaluate", str(run.path), "--models", "convnet3", "alexnet", "vgg11", "resnet18"])
    told_of_rows = (
        "pydistill evaluate with the run's own network, set, epochs and seed repeats the run's own test."
        if run.evaluations
        else f"Add other networks with <code>{escape(more)}</code>"
    )
    return f'{table(heads, told)}<p class="note">{told_of_rows}</p>'


def comparison(run: Contents) -> list[list[str]]:
    """Rows of what the summary compares the distilled set with."""
    names = {
        "accuracy_distilled": "the distilled images",
        "accuracy_random_real": "as many random real images",
        "accuracy_experts": "the experts themselves",
        "accuracy_full_data": "all real data",
    }
    rows = [[told, percent(run.summary.get(name)) or ""] for name, told in names.items()]
    return [row for row in rows if row[1]] if "accuracy_random_real" in run.summary else []


def guard(run: Contents) -> str:
    """The updates that were not applied, and why: the last 50."""
    events = run.events("guard")
    if events:
        heads: tuple[str, ...] = ("iteration", "what", "why", "setting to turn")
        names = ("iteration", "what", "reason", "knob")
        rows = [[str(event.get(name, "")) for name in names] for event in events]
    else:
        heads = ("iteration", "why")
        rows = [
            [str(line["iteration"]), str(line["rejected"])]
            for line in run.events("iteration")
            if line.get("rejected")
        ]  # fmt: skip
    if not rows and run.lost:
        return f'<p class="note">None in what is there of {METRICS_NAME}.</p>'
    if not rows:
        return '<p class="note">Nothing: every update was finite and was applied.</p>'
    told = f'<p class="note">{len(rows)} updates were not applied'
    return f"{told}{'; the last 50' if len(rows) > 50 else ''}:</p>" + table(heads, rows[-50:])


def flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    if not isinstance(values, dict):
        return {prefix: values}
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}.{name}" if prefix else str(name))
    return found


def settings(run: Contents) -> str:
    """The resolved recipe, a list per group; what differs from the defaults stands out."""
    defaults = flat(json.loads(json.dumps(Recipe().as_dict())))
    parts = []
    for group, values in run.recipe.items():
        rows = []
        for name, value in flat(values, group).items():
            mark = ' class="own"' if name not in defaults or defaults[name] != value else ""
            told = "null" if value is None else value if isinstance(value, str) else json.dumps(value)
            rows.append(
                f"<div{mark}><dt>{escape(name.removeprefix(group + '.'))}</dt><dd>{escape(str(told))}</dd></div>"
            )
        parts.append(f'<section class="card"><h3>{escape(group)}</h3><dl>{"".join(rows)}</dl></section>')
    return "".join(parts)


def needs_its_experts(run: Contents) -> bool:
    """Whether no command makes the experts again: they were imported, trained by other settings, or are a choice."""
    numbers = dig(run.config, "trajectories", "experts")
    in_order = not isinstance(numbers, list) or numbers == list(range(len(numbers)))
    return dig(run.config, "trajectories", "by_recipe") is False or not in_order


def threads(run: Contents) -> int | None:
    """How many threads the process had that ended the run; None on a GPU, or if it does not tell."""
    found = run.summary.get("threads")
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 1 else None


def commands(run: Contents) -> str:
    """The command lines that do the run again, from the experts that it was made from.

    Where the run tells with how many threads it ended, its distillation and evaluation are asked for by as many, since
    the machine that reads the report may have another default; one of fewer cores takes no more than these. Nobody
    wrote down how many trained the experts.
    """
    recipe = str(run.path / RECIPE_NAME)
    numbers = dig(run.config, "trajectories", "experts")
    number = len(numbers) if isinstance(numbers, list) else None
    lines: list[list[str]] = []
    store = "EXPERTS"
    if not needs_its_experts(run):
        more = [] if number in (None, dig(run.recipe, "expert", "count")) else ["--expert.count", str(number)]
        lines.append(["experts", "--config", recipe, *more, "--out", store])
        convexification = dig(run.config, "trajectories", "convexification", default={})
        if isinstance(convexification, dict) and convexification:
            told = {name: str(value).replace(" ", "") for name, value in convexification.items()}
            store = "CONVEXIFIED"
            asked = [word for name, value in told.items() for word in (f"--{name}", value)]
            lines.append(["convexify", "EXPERTS", *asked, "--out", store])
    lines.append(["distill", "--config", recipe, "--experts", store, "--out", "AGAIN"])
    lines.append(["evaluate", "AGAIN"])
    count = threads(run)
    before = "" if count is None else f"OMP_NUM_THREADS={count} "
    known = ("distill", "evaluate")
    return "\n".join((before if words[0] in known else "") + shlex.join(["pydistill", *words]) for words in lines)


def identity(run: Contents, shown: Shown | None) -> list[list[str]]:
    """What tells whether another run is the same: versions and digests."""
    provenance = shown.artefact.provenance if shown is not None and shown.artefact is not None else {}
    versions = dig(provenance, "versions", default={})
    rows = [[name, str(value)] for name, value in versions.items()] if isinstance(versions, dict) else []
    count = threads(run)
    rows.append(["threads at its end", "" if count is None else str(count)])
    rows.append(["data set", str(dig(provenance, "dataset", "name", default=""))])
    rows.append(["data set's digest", str(dig(provenance, "dataset", "digest", default=""))])
    rows.append(["experts' digest", str(dig(run.config, "trajectories", "digest", default=""))])
    rows.append(["architecture", str(dig(run.config, "architecture", default=""))])
    file = run.path / SET_NAME
    rows.append([f"SHA-256 of {SET_NAME}", sha256_of(file) if SET_NAME in run.sets else ""])
    return [row for row in rows if row[1]]
