"""The report as one HTML page: everything it shows is inside it, and it asks no network for anything."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from html import escape
from importlib import resources

from pydistill._util.layout import METRICS_NAME
from pydistill.runs.report.contents import Contents, dig
from pydistill.runs.report.figures import charts
from pydistill.runs.report.pictures import Shown, data_uri, shown_per_class
from pydistill.runs.report.tables import (
    commands,
    comparison,
    costs,
    guard,
    identity,
    needs_its_experts,
    networks,
    settings,
    table,
    tiles,
)
from pydistill.version import VERSION

# Nothing but what the page itself holds may be loaded or run.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
MOST_COLUMNS = 5
# What tells a report from any other file: the same in every version.
BEGINNING = "<!doctype html>\n"
MADE_BY = "<footer>Made by pydistill "


@dataclass(frozen=True)
class State:
    """Whether a run is finished.

    Attributes:
        kind: done, open or ended; a class of the style sheet.
        words: for a person.
        why: a sentence more, or nothing.
    """

    kind: str
    words: str
    why: str = ""


def page(run: Contents, shown: Shown | None, wall_seconds: float | None, state: State) -> str:
    """The whole page.

    Args:
        run: the run folder.
        shown: its newest images, if there are any.
        wall_seconds: wall time up to the last checkpoint.
        state: whether the run is finished.
    """
    parts = [
        _header(run, shown, state),
        _images(shown),
        f'<h2>How it went</h2><div class="charts">{"".join(chart.html() for chart in charts(run))}</div>',
        _outcome(run, wall_seconds),
        f"<h2>Updates that were not applied</h2>{guard(run)}",
        _settings(run),
        _again(run, shown),
        f"{MADE_BY}{escape(VERSION)} on {datetime.now().astimezone():%d %B %Y, %H:%M}.</footer>",
    ]
    style = (resources.files("pydistill.runs.report") / "page.css").read_text(encoding="utf-8")
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><link rel="icon" href="data:,">'
        f"<title>{escape(_title(run, shown))}</title><style>{style}</style>"
    )
    body = "\n".join(parts)
    return f'{BEGINNING}<html lang="en"><head>{head}</head>\n<body><main>{body}</main></body></html>\n'


def _title(run: Contents, shown: Shown | None) -> str:
    artefact = None if shown is None else shown.artefact
    name = dig(run.recipe, "data", "name", default="")
    name = name if artefact is None else dig(artefact.provenance, "dataset", "name", default=name)
    method = str(dig(run.recipe, "distill", "method", default="")).upper()
    if not method:  # nothing tells the recipe
        return f"A distillation of {name}" if name else "A distillation"
    ipc = dig(run.recipe, "distill", "ipc", default=0)
    return f"{name} by {method}, {ipc} image{'' if ipc == 1 else 's'} per class"


def _header(run: Contents, shown: Shown | None, state: State) -> str:
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in tiles(run))
    lost = (
        f"{METRICS_NAME} lacks {run.lost:,} of {run.done:,} iterations: curves and times are of what is there."
        if run.lost
        else ""
    )
    why = "".join(f"<p>{escape(each)}</p>" for each in (state.why, lost) if each)
    return (
        f"<header><h1>{escape(_title(run, shown))}</h1>"
        f'<p><span class="state {state.kind}">{escape(state.words)}</span> <code>{escape(str(run.path))}</code></p>'
        f"{why}</header>"
        f'<dl class="tiles">{rows}</dl>'
    )


def _images(shown: Shown | None) -> str:
    if shown is None:
        return '<h2>Images</h2><p class="note">There are none yet: the first are saved with the first checkpoint.</p>'
    by_class = shown_per_class(shown)
    most = max((len(numbers) for numbers in by_class.values()), default=1)
    columns = min(most, MOST_COLUMNS)
    figures = []
    for label, numbers in by_class.items():
        name = shown.names[label] if label < len(shown.names) else f"class {label}"
        pair = "".join(
            f'<div><small>{told}</small><div class="set">'
            + "".join(
                f'<img src="{data_uri(images[number])}" width="{images.shape[3]}" height="{images.shape[2]}" '
                f'alt="{escape(name)}, {told}">'
                for number in numbers
            )
            + "</div></div>"
            for told, images in (("before", shown.before), ("after", shown.after))
            if images is not None
        )
        figures.append(
            f'<figure class="card"><figcaption>{escape(name)}</figcaption><div class="pair">{pair}</div></figure>'
        )
    count = len(shown.classes)
    left_out = count - sum(len(numbers) for numbers in by_class.values())
    note = f"{count:,} images, before the first iteration and after iteration {shown.iteration:,}. {shown.note}"
    if left_out:
        note += f" The first {most} of each class are shown."
    wide = "17vw" if columns == 1 else f"{90 + 100 * columns}px"
    many = " many" if columns > 1 else ""
    return (
        f'<h2>Images</h2><p class="note">{escape(note)}</p>'
        f'<div class="images{many}" style="--columns: {columns}; --wide: {wide}">{"".join(figures)}</div>'
    )


def _outcome(run: Contents, wall_seconds: float | None) -> str:
    compared = comparison(run)
    first = f"<h2>Fresh networks trained on the set</h2>{networks(run)}"
    left = f"<section><h2>Compared with</h2>{table(('trained on', 'test accuracy'), compared)}</section>"
    spent = [list(row) for row in costs(run, wall_seconds)]
    right = "<section><h2>Time and memory</h2>"
    right += table(("what", "how much"), spent) if spent else '<p class="note">Not measured yet.</p>'
    return f'{first}<div class="two">{left if compared else ""}{right}</section></div>'


def _settings(run: Contents) -> str:
    whole = escape(json.dumps(run.recipe, indent=2, ensure_ascii=False))
    return (
        '<h2>Settings</h2><p class="note">The resolved recipe; what differs from the defaults stands out.</p>'
        f'<div class="settings">{settings(run)}</div>'
        f"<details><summary>recipe.json</summary><pre>{whole}</pre></details>"
    )


def _again(run: Contents, shown: Shown | None) -> str:
    artefact = None if shown is None else shown.artefact
    known = None if artefact is None else dig(artefact.provenance, "dataset", "name")
    told = (
        "The same versions, data and number of threads give the same images, bit for bit, on a CPU."
        if known in (None, dig(run.recipe, "data", "name"))
        else "The data were made in Python, so do the run again from there (pydistill.runs.run.run_distillation) with "
        "this recipe; the commands below take the data that the recipe names."
    )
    if needs_its_experts(run):
        told += (
            " EXPERTS are the very experts of this run, which were not made by this recipe: keep their files, whose "
            "digest is below."
        )
    same = f'<div class="long">{table(("what", "value"), identity(run, shown))}</div>'
    return f'<h2>Do it again</h2><p class="note">{escape(told)}</p><pre>{escape(commands(run))}</pre>{same}'
