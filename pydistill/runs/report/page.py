"""The report as one HTML page that loads nothing from outside."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import datetime
from html import escape
from importlib import resources
from typing import Any

from pydistill.artefact.figures import curves_figure, figure_bytes
from pydistill.errors import MissingDependencyError
from pydistill.runs.report.contents import Contents, dig
from pydistill.runs.report.pictures import newest_images
from pydistill.runs.report.tables import (
    changed_settings,
    commands,
    costs,
    identity,
    needs_its_experts,
    networks,
    outcome,
    progress,
    rejected_updates,
    table,
)
from pydistill.version import VERSION

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # nothing may be loaded or run
# A file with both is a report, which may be replaced.
BEGINNING = "<!doctype html>\n"
MADE_BY = "<footer>Made by pydistill "

NO_IMAGES = "There are no images yet: the first checkpoint will hold them."
CURVES = (
    "L = ‖θ_K − θ*‖² / ‖θ_0 − θ*‖²: 1 is where the student starts, 0 is the expert's target. Distances are "
    "d(θ_k, θ*) / d(θ_0, θ*) along the student's steps; dots are the chosen steps. Times are without evaluations."
)
SAME_BITS = "The same versions, data and number of threads give the same images, bit for bit, on a CPU."
OWN_DATA = (
    "The data were in memory, so the run is repeated in Python: pydistill.distill(data, …); "
    "pydistill.load(…).evaluate(data=data) evaluates its set."
)
OWN_EXPERTS = "No command makes these experts again: keep their files, whose digest is below."


def page(run: Contents) -> str:
    """Return the page."""
    title = _title(run)
    style = (resources.files("pydistill.runs.report") / "page.css").read_text(encoding="utf-8")
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{style}</style>"
    )
    body = "\n".join(
        [
            _header(run, title),
            _findings(run),
            _section("Images", _picture(lambda: newest_images(run), "png", "images before and after", NO_IMAGES)),
            _section(
                "Curves", _picture(lambda: curves_figure(run.metrics, run.references), "svg", "curves"), note=CURVES
            ),
            _section("Accuracy of fresh networks", networks(run)),
            _section("Time and memory", costs(run)),
            _section("Rejected updates", rejected_updates(run)),
            _settings(run),
            _again(run),
            f"{MADE_BY}{escape(VERSION)} on {datetime.now().astimezone():%d %B %Y, %H:%M}.</footer>",
        ]
    )
    return f'{BEGINNING}<html lang="en"><head>{head}</head>\n<body><main>{body}</main></body></html>\n'


def _title(run: Contents) -> str:
    name = _dataset_name(run) or "unknown data"
    method, ipc = dig(run.recipe, "distill", "method"), dig(run.recipe, "distill", "ipc")
    if method is None:
        return f"A distillation of {name}"
    return f"{name} by {str(method).upper()}, {ipc} image{'' if ipc == 1 else 's'} per class"


def _dataset_name(run: Contents) -> str | None:
    distilled = run.final or run.best
    name = None if distilled is None else dig(distilled.provenance, "dataset", "name")
    name = name or dig(run.recipe, "data", "name")
    return None if name is None else str(name)


def _header(run: Contents, title: str) -> str:
    sentences = "".join(f"<p>{escape(sentence)}</p>" for sentence in (run.ended_early or "", *run.problems) if sentence)
    numbers = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in outcome(run))
    return (
        f"<header><h1>{escape(title)}</h1><p><b>{escape(progress(run))}</b> <code>{escape(str(run.path))}</code></p>"
        f'{sentences}</header><dl class="outcome">{numbers}</dl>'
    )


def _findings(run: Contents) -> str:
    sentences = "".join(f"<li>{escape(finding.sentence())}</li>" for finding in run.findings)
    return _section("Diagnosis", f"<ul>{sentences}</ul>") if sentences else ""


def _section(heading: str, content: str, note: str = "") -> str:
    note = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(heading)}</h2>{note}{content}</section>"


def _picture(draw: Callable[[], Any | None], kind: str, alt: str, missing: str = "") -> str:
    """Return a figure as an <img> with its content, or a sentence why there is none."""
    try:
        figure = draw()
    except MissingDependencyError as error:
        return f'<p class="note">{escape(str(error))}</p>'
    if figure is None:
        return f'<p class="note">{escape(missing)}</p>'
    content = base64.b64encode(figure_bytes(figure, kind)).decode("ascii")
    mime = "image/svg+xml" if kind == "svg" else "image/png"
    return f'<img src="data:{mime};base64,{content}" alt="{escape(alt)}">'


def _settings(run: Contents) -> str:
    rows = changed_settings(run)
    content = table(("setting", "value"), rows) if rows else '<p class="note">All settings are the defaults.</p>'
    recipe = escape(json.dumps(run.recipe, indent=2, ensure_ascii=False))
    full = f"<details><summary>The full recipe</summary><pre>{recipe}</pre></details>"
    return _section("Settings that differ from the defaults", content + full)


def _again(run: Contents) -> str:
    note = OWN_DATA if run.is_in_memory else SAME_BITS
    if needs_its_experts(run):
        note += f" {OWN_EXPERTS}"
    lines = "" if run.is_in_memory else f"<pre>{escape(commands(run))}</pre>"
    content = f"{lines}{table(('what', 'value'), identity(run))}"
    return _section("Run it again", content, note=note)
