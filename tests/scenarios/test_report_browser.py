"""The report in a real browser: it renders, at the width of a telephone and of a desk, in light and in dark."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pydistill.evaluation.evaluate import Evaluation
from pydistill.evaluation.evaluations_file import add_evaluations
from pydistill.runs.loggers import LogSettings
from pydistill.runs.report import write_report
from pydistill.runs.workflow import distill_and_report
from tests.helpers.blobs import blobs
from tests.helpers.browser import Browser, browser_path, chromium
from tests.helpers.small_runs import experts, recipe

REQUIRED = os.environ.get("PYDISTILL_BROWSER") == "required"
WIDTHS = (400, 1400)

# Of each text of each chart: its chart's number, its text, its box, and the chart's box.
TEXTS = """[...document.querySelectorAll("figure.chart")].flatMap((chart, number) => {
  const box = (node) => { const b = node.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]; };
  return [...chart.querySelectorAll("text")].map((text) => [number, text.textContent, box(text), box(chart)]);
})"""
# Contrast of every text with the page's or its card's ground, as WCAG defines it: the least there is.
CONTRAST = """Math.min(...[...document.querySelectorAll("h1,h2,h3,p,dt,dd,td,th,li,text,.state")].map((node) => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const linear = (c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  let ground = node;
  while (ground && channels(getComputedStyle(ground).backgroundColor)[3] === 0) ground = ground.parentElement;
  const style = getComputedStyle(node);
  const a = light(channels(node.tagName === "text" ? style.fill : style.color));
  const b = light(channels(getComputedStyle(ground).backgroundColor));
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}))"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    path = browser_path()
    if path is None:
        if REQUIRED:
            pytest.fail("PYDISTILL_BROWSER=required, and there is no chromium on this machine")
        pytest.skip("there is no chromium on this machine")
    with chromium(path, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run with everything in it: two images per class, other networks, a refused update, a long folder name."""
    folder = tmp_path_factory.mktemp("a-folder-whose-name-is-as-long-as-the-names-of-some-folders-unfortunately-are")
    data = blobs(channels=3)
    work = recipe(evaluate_every=2, ipc=2, checkpoint_every=2)
    run = folder / "run"
    distill_and_report(
        data, work, experts(folder / "experts", data), run, resume=False, quiet=True, log=LogSettings(tensorboard=False)
    )
    about: dict[str, Any] = {"which": "final", "iteration": 8, "epochs": 1000, "seed": 0}
    add_evaluations(run, [Evaluation("convnet3-w128-instance-average", (0.5, 0.7), 1234.5)], **about)
    event = {
        "event": "guard",
        "iteration": 8,
        "what": "pixels",
        "reason": "pixels of 12345, above 100 times the data's",
    }
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps(event | {"knob": "lr_image (or set clip_gradient)", "rejections": 1}) + "\n")
    return write_report(run)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_renders(width: int, dark: bool, report: Path, browser: Browser) -> None:
    browser.open(report, width=width, dark=dark)
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [report.as_uri()]
    pictures = browser.value("[...document.images].map((each) => [each.naturalWidth, each.clientWidth, each.complete])")
    assert len(pictures) == 16
    assert all(natural == 8 and shown >= 3 * 8 and complete for natural, shown, complete in pictures)
    pixelated = browser.value(
        "[...document.images].every((each) => getComputedStyle(each).imageRendering === 'pixelated')"
    )
    assert pixelated
    assert browser.value("document.documentElement.scrollWidth") == width  # nothing to scroll sideways to
    assert browser.value("document.querySelectorAll('figure.chart svg').length") == 6
    assert browser.value(CONTRAST) >= 4.5


@pytest.mark.parametrize("width", WIDTHS)
def test_the_charts_numbers_can_be_read(width: int, report: Path, browser: Browser) -> None:
    browser.open(report, width=width)
    texts = browser.value(TEXTS)
    assert len(texts) > 6 * 5
    for number, text, (left, top, right, bottom), chart in texts:
        assert bottom - top >= 12, f"{text!r} is {bottom - top:.1f} pixels high"
        assert chart[0] <= left < right <= chart[2], f"{text!r} leaves its chart"
        for other, beside, box, _ in texts:
            apart = right <= box[0] or box[2] <= left or bottom <= box[1] or box[3] <= top
            assert apart or other != number or beside is text or (text, left) == (beside, box[0]), (
                f"{text!r} on {beside!r}"
            )


def test_dark_is_dark(report: Path, browser: Browser) -> None:
    grounds = []
    for dark in (False, True):
        browser.open(report, width=1400, dark=dark)
        grounds.append(browser.value("getComputedStyle(document.body).backgroundColor"))
    lightness = [sum(int(part) for part in ground[4:-1].split(",")) for ground in grounds]
    assert lightness[0] > 600
    assert lightness[1] < 120


def test_the_browser_tells_what_is_wrong(tmp_path: Path, browser: Browser) -> None:
    """The check of the checks: a page with a missing picture and an error is told apart from a whole one."""
    broken = tmp_path / "broken.html"
    broken.write_text('<img src="nowhere.png"><script>console.error("no"); throw new Error("thrown")</script>')
    browser.open(broken, width=400)
    assert any("no" in each for each in browser.complaints)
    assert any("thrown" in each for each in browser.complaints)
    assert browser.value("document.images[0].naturalWidth") == 0
    assert any(url.endswith("nowhere.png") for url in browser.requests)
