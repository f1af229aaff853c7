"""Charts as SVG text: lines, bands, dots and levels over two axes; colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from pydistill.runs.report.series import Points
from pydistill.runs.report.ticks import ticks, told

WIDTH, HEIGHT = 380.0, 236.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 10.0, 10.0, 38.0


@dataclass(frozen=True)
class Line:
    """A line through points; `colour` is a class of the style sheet (c0 … c4, or r0 … r7 from early to late)."""

    points: Points
    colour: str
    name: str | None = None
    faint: bool = False


@dataclass(frozen=True)
class Band:
    """The area between (x, low) and (x, high)."""

    points: Sequence[tuple[float, float, float]]
    colour: str
    name: str | None = None


@dataclass(frozen=True)
class Dots:
    """Points on their own; `tips` are shown when the pointer rests on one."""

    points: Points
    colour: str
    name: str | None = None
    radius: float = 3.0
    faint: bool = False
    tips: Sequence[str] = ()


@dataclass(frozen=True)
class Level:
    """A dashed horizontal line."""

    y: float
    colour: str
    name: str


Layer = Line | Band | Dots | Level


@dataclass(frozen=True)
class Chart:
    """Layers over one pair of axes.

    Attributes:
        title: with the unit of y.
        x_label: below the axis.
        layers: from back to front.
        note: a sentence below the chart.
        log: a logarithmic y axis; what is not above 0 is left out.
        whole: ticks of y at whole numbers only.
        bottom: the axis of y reaches down to this number at least.
        until: the axis of x goes from 0 to this number at least.
    """

    title: str
    x_label: str
    layers: Sequence[Layer]
    note: str = ""
    log: bool = False
    whole: bool = False
    bottom: float | None = None
    until: float | None = None

    def html(self) -> str:
        """The chart as a <figure>, with its key and its note."""
        layers = [layer for layer in map(self._drawable, self.layers) if layer is not None]
        note = f'<p class="note">{escape(self.note)}</p>' if self.note else ""
        body = self._svg(layers) + _key(layers) if layers else '<p class="note">Nothing to draw yet.</p>'
        return f'<figure class="chart"><h3>{escape(self.title)}</h3>{body}{note}</figure>'

    def _drawable(self, layer: Layer) -> Layer | None:
        """The layer without what a logarithm cannot show; None if nothing is left of it."""
        if isinstance(layer, Level):
            return layer if not self.log or layer.y > 0 else None
        if not self.log:
            return layer if layer.points else None
        if isinstance(layer, Band):
            band = [each for each in layer.points if each[1] > 0]
            return Band(band, layer.colour, layer.name) if band else None
        kept = [each for each in layer.points if each[1] > 0]
        if isinstance(layer, Line):
            return Line(kept, layer.colour, layer.name, layer.faint) if kept else None
        return Dots(kept, layer.colour, layer.name, layer.radius, layer.faint) if kept else None

    def _svg(self, layers: Sequence[Layer]) -> str:
        x_low, x_high = _range(x for layer in layers for x in _xs(layer))
        if self.until is not None:
            x_low, x_high = min(0.0, x_low), max(self.until, x_high)
        y_low, y_high = _range(y for layer in layers for y in _ys(layer))
        if self.bottom is not None:
            y_low = min(y_low, self.bottom)
        x_ticks = ticks(x_low, x_high, 5, whole=True)
        y_ticks = ticks(y_low, y_high, 5, log=self.log, whole=self.whole)
        if self.log:
            y_low, y_high = math.log(min(y_low, y_ticks[0])), math.log(max(y_high, y_ticks[-1]))
        else:
            space = 0.05 * (y_high - y_low)
            y_low = y_low - space if self.bottom is None else min(y_low, y_ticks[0])
            y_high += space
        wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

        def x_of(x: float) -> float:
            return LEFT + wide * (x - x_low) / (x_high - x_low)

        def y_of(y: float) -> float:
            return TOP + high * (1 - ((math.log(y) if self.log else y) - y_low) / (y_high - y_low))

        parts = [
            f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{escape(self.title)}" '
            f'xmlns="http://www.w3.org/2000/svg">'
        ]
        for y in y_ticks:
            if TOP - 1 <= y_of(y) <= HEIGHT - BOTTOM + 1:
                parts.append(f'<path class="grid" d="M{LEFT:g} {y_of(y):.1f}H{WIDTH - RIGHT:g}"/>')
                parts.append(
                    f'<text x="{LEFT - 6:g}" y="{y_of(y) + 4:.1f}" text-anchor="end">{told(y, y_ticks)}</text>'
                )
        for x in x_ticks:
            anchor = "end" if x_of(x) > WIDTH - RIGHT - 14 else "middle"
            parts.append(
                f'<text x="{x_of(x):.1f}" y="{HEIGHT - BOTTOM + 16:g}" text-anchor="{anchor}">{told(x, x_ticks)}</text>'
            )
        parts.append(f'<path class="axis" d="M{LEFT:g} {HEIGHT - BOTTOM:g}H{WIDTH - RIGHT:g}"/>')
        middle = LEFT + wide / 2
        parts.append(f'<text x="{middle:g}" y="{HEIGHT - 4:g}" text-anchor="middle">{escape(self.x_label)}</text>')
        for layer in layers:
            if isinstance(layer, Band):
                upper = [(x_of(x), y_of(top)) for x, _, top in layer.points]
                lower = [(x_of(x), y_of(low)) for x, low, _ in reversed(layer.points)]
                parts.append(f'<path class="band {layer.colour}" d="{_path(upper + lower)}Z"/>')
            elif isinstance(layer, Line):
                path = _path([(x_of(x), y_of(y)) for x, y in layer.points])
                parts.append(f'<path class="line {layer.colour}{_faint(layer)}" d="{path}"/>')
            elif isinstance(layer, Level):
                parts.append(
                    f'<path class="level {layer.colour}" d="M{LEFT:g} {y_of(layer.y):.1f}H{WIDTH - RIGHT:g}"/>'
                )
            else:
                parts.append(_dots(layer, [(x_of(x), y_of(y)) for x, y in layer.points]))
        return "".join(parts) + "</svg>"


def _dots(layer: Dots, places: Points) -> str:
    """With tips a circle each; without, one path of round dots, which is shorter."""
    if not layer.tips:
        path = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in places)
        return f'<path class="dots {layer.colour}{_faint(layer)}" stroke-width="{2 * layer.radius:g}" d="{path}"/>'
    return "".join(
        f'<circle class="dot {layer.colour}{_faint(layer)}" cx="{x:.1f}" cy="{y:.1f}" r="{layer.radius:g}">'
        f"<title>{escape(tip)}</title></circle>"
        for (x, y), tip in zip(places, layer.tips, strict=True)
    )


def _path(places: Points) -> str:
    if len(places) == 1:  # a line through one point is a dot
        return f"M{places[0][0]:.1f} {places[0][1]:.1f}h0"
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def _key(layers: Sequence[Layer]) -> str:
    shapes = {Line: "line", Band: "band", Dots: "dots", Level: "level"}
    rows = [
        f'<li><i class="{shapes[type(layer)]} {layer.colour}{_faint(layer)}"></i>{escape(layer.name)}</li>'
        for layer in layers
        if layer.name
    ]
    return f'<ul class="key">{"".join(rows)}</ul>' if rows else ""


def _faint(layer: Layer) -> str:
    return " faint" if isinstance(layer, Line | Dots) and layer.faint else ""


def _xs(layer: Layer) -> list[float]:
    return [] if isinstance(layer, Level) else [each[0] for each in layer.points]


def _ys(layer: Layer) -> list[float]:
    if isinstance(layer, Level):
        return [layer.y]
    return [y for each in layer.points for y in each[1:]]


def _range(values: Iterable[float]) -> tuple[float, float]:
    """The least and the greatest; apart, so that something can be drawn between them."""
    found = list(values)
    low, high = min(found, default=0.0), max(found, default=1.0)
    if low == high:
        space = abs(low) / 2 or 1.0
        return low - space, high + space
    return low, high
