"""The report's charts, each made of a run's metrics."""

from __future__ import annotations

from pydistill._util import format as words
from pydistill.runs.report.chart import Band, Chart, Dots, Layer, Level, Line
from pydistill.runs.report.contents import Contents, as_list, dig, is_number, points
from pydistill.runs.report.series import means, ranges, sample, spaced

RAW_POINTS = 400
SMOOTH_POINTS = 40
WAYS = 6
REFERENCES = {
    "accuracy_full_data": ("all real data", "c2"),
    "accuracy_experts": ("the experts", "c3"),
    "accuracy_random_real": ("random real images", "c1"),
}


def charts(run: Contents) -> list[Chart]:
    """All charts that the run's metrics give."""
    found = [_accuracy(run), _loss(run), _chosen_step(run), _distance(run), _learning_rate(run)]
    return [*found, _seconds(run)] if points(run.events("iteration"), "seconds") else found


def _accuracy(run: Contents) -> Chart:
    lines = [line for line in run.events("evaluation") if is_number(line.get("mean")) and is_number(line.get("std"))]
    mean = [(float(line["iteration"]), 100 * line["mean"]) for line in lines]
    spread = [
        (float(line["iteration"]), 100 * (line["mean"] - line["std"]), 100 * (line["mean"] + line["std"]))
        for line in lines
    ]
    networks = [(x, 100 * y) for x, y in points(lines, "runs")]
    tips = [
        f"iteration {line['iteration']:,}: {words.accuracy_of(line['mean'], line['std'], count)} "
        f"({words.networks(count)})"
        for line in lines
        for count in (len(as_list(line.get("runs"))),)
    ]
    layers: list[Layer] = [
        Level(100 * run.summary[name]["mean"], colour, told)
        for name, (told, colour) in REFERENCES.items()
        if is_number(dig(run.summary, name, "mean"))
    ]
    if mean:
        layers.append(Band(spread, "c0", "± standard deviation"))
        layers.append(Dots(sample(networks, RAW_POINTS), "c0", "one network", radius=1.5, faint=True))
        layers.append(Line(mean, "c0"))
        layers.append(Dots(mean, "c0", "distilled, mean", radius=3.5, tips=tips))
    return Chart("Test accuracy (%)", "iteration", layers, until=run.done)


def _loss(run: Contents) -> Chart:
    found = points(run.events("iteration"), "loss")
    layers: list[Layer] = []
    if found:
        layers = [Band(ranges(found), "c0", "range"), Line(means(found, SMOOTH_POINTS), "c0", "mean")]
        if len(found) <= RAW_POINTS:
            layers[0] = Line(found, "c0", "each iteration", faint=True)
    rejected = _rejected(run)
    if rejected:
        layers.append(Dots(rejected, "c4", "update not applied", radius=3))
    values = [y for _, y in found]
    log = bool(values) and min(values) > 0 and max(values) > 20 * min(values)
    note = "‖θ_K − θ*‖² / ‖θ_0 − θ*‖²: 1 is where the student started, 0 is the expert's target."
    return Chart("Matching loss", "iteration", layers, note, until=run.done, log=log)


def _rejected(run: Contents) -> list[tuple[float, float]]:
    """Iterations whose update was not applied, at their loss, or at the least one if they have none."""
    lines = run.events("iteration")
    low = min((y for _, y in points(lines, "loss")), default=1.0)
    refused = [line for line in lines if line.get("rejected")]
    losses = [line.get("loss") for line in refused]
    return [
        (float(line["iteration"]), loss if is_number(loss) else low) for line, loss in zip(refused, losses, strict=True)
    ]


def _chosen_step(run: Contents) -> Chart:
    found = points(run.events("iteration"), "step")
    steps = dig(run.recipe, "distill", "steps")
    layers: list[Layer] = []
    if found:
        layers = [Dots(sample(found, 2 * RAW_POINTS), "c0", "each iteration", radius=1.5, faint=True)]
        layers.append(Line(means(found, SMOOTH_POINTS), "c1", "mean"))
    note = f"K of N = {steps} student steps: the one compared with the target." if steps else ""
    if found and len({step for _, step in found}) == 1:
        note += " This method always takes the last." if found[0][1] == steps else ""
    return Chart("Chosen step", "iteration", layers, note, until=run.done, whole=True, bottom=0)


def _distance(run: Contents) -> Chart:
    """ATT's figure: how near each student step comes, in early iterations and in late ones."""
    ways = [line for line in run.events("distances") if isinstance(line.get("distances"), list)]
    ways = [line for line in ways if line["distances"] and is_number(line["distances"][0]) and line["distances"][0] > 0]
    layers: list[Layer] = []
    chosen = [ways[number] for number in spaced(len(ways), WAYS)]
    for number, line in enumerate(chosen):
        start = line["distances"][0]
        way = [(float(step), value / start) for step, value in enumerate(line["distances"]) if is_number(value)]
        colour = f"r{round(number * (WAYS - 1) / max(1, len(chosen) - 1))}"
        layers.append(Line(way, colour, f"iteration {line['iteration']:,}"))
        layers.append(Dots([each for each in way if each[0] == line.get("step")], colour, radius=3.5))
    note = "d(θ_k, θ*) / d(θ_0, θ*) along the student's steps; the dot is the chosen step." if chosen else ""
    log = any(isinstance(layer, Line) and max(y for _, y in layer.points) > 20 for layer in layers)
    return Chart("Distance to the target", "student step k", layers, note, log=log)


def _learning_rate(run: Contents) -> Chart:
    found = points(run.events("iteration"), "lr")
    layers: list[Layer] = [Line(means(found), "c0")] if found else []
    values = [y for _, y in found]
    log = bool(values) and min(values) > 0 and max(values) > 20 * min(values)
    return Chart("The student's learning rate α", "iteration", layers, until=run.done, log=log)


def _seconds(run: Contents) -> Chart:
    found = points(run.events("iteration"), "seconds")
    layers: list[Layer] = [
        Band(ranges(found, SMOOTH_POINTS), "c0", "range"),
        Line(means(found, SMOOTH_POINTS), "c0", "mean"),
    ]
    return Chart(
        "Time per iteration (s)", "iteration", layers, "Evaluations are not counted.", until=run.done, bottom=0
    )
