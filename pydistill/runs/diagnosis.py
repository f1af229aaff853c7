"""Diagnose a run: findings about its settings, in sentences, from numbers that it has anyway."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydistill._util.format import counted
from pydistill.data import Dataset, DsaSettings
from pydistill.evaluation.evaluate import Evaluation, Row
from pydistill.evaluation.settings import EvaluationSettings
from pydistill.recipes.recipe import Recipe
from pydistill.training.train import TrainingSettings
from pydistill.trajectories import TrajectoryStore

MIN_ITERATIONS = 10
"""Of a shorter run, the course of losses, steps and α is not diagnosed."""
_NAME = re.compile(r"\{([a-z_.]+)\}")


@dataclass(frozen=True)
class Finding:
    """One thing about a run that looks wrong, or wastes time.

    Attributes:
        what: the observation, with its numbers.
        numbers: these numbers by name.
        remedy: what to change, with every setting's dotted name in braces, such as {distill.steps}.
    """

    what: str
    numbers: Mapping[str, float]
    remedy: str

    @property
    def settings(self) -> tuple[str, ...]:
        """The dotted names of the settings to change."""
        return tuple(_NAME.findall(self.remedy))

    def sentence(self, spell: Callable[[str], str] = str) -> str:
        """Return the finding as a sentence, with settings as `spell` writes them."""
        return f"{self.what}: {_NAME.sub(lambda match: spell(match[1]), self.remedy)}."


def findings_in(summary: Mapping[str, Any]) -> list[Finding]:
    """Return the findings that a run's summary.json holds."""
    return [Finding(**record) for record in summary.get("findings", [])]


def is_finding(record: Any) -> bool:
    """Return whether a record is one that `dataclasses.asdict` makes of a finding."""
    if not isinstance(record, dict) or record.keys() != {"what", "numbers", "remedy"}:
        return False
    return isinstance(record["numbers"], dict) and all(isinstance(record[name], str) for name in ("what", "remedy"))


def diagnose_run(
    recipe: Recipe, metrics: Sequence[Mapping[str, Any]], images: int, own: Evaluation, baselines: Sequence[Row]
) -> list[Finding]:
    """Return the findings about a run.

    Args:
        recipe: the run's.
        metrics: its events.
        images: the number of distilled images.
        own: the evaluation of its final set.
        baselines: what the set is compared with.
    """
    iterations = [line for line in metrics if line["event"] == "iteration"]
    half = iterations[len(iterations) // 2 :]
    chosen = [step for line in half for step in (line["step"] if isinstance(line["step"], list) else [line["step"]])]
    losses = [line["loss"] for line in half if line["loss"] is not None]
    settings = recipe.distill
    found: list[Finding | None] = [no_better(own, baselines)]
    if len(iterations) >= MIN_ITERATIONS:
        if settings.resolved_method.selection == "nearest":
            found += [early_step(chosen, settings.steps), last_step(chosen, settings.steps, losses)]
        found.append(loss_above_one(losses))
        if settings.lr_lr > 0:
            found.append(still_rate([settings.lr_init, *(line["lr"] for line in iterations)]))
            least = settings.lr_min if settings.lr_form == "clamped" else None
            most = None if settings.max_lr is None else settings.max_lr * settings.lr_init
            found.append(rate_at_bound(iterations[-1]["lr"], least, most))
        epochs = settings.expert_epochs
        distance = statistics.fmean(chosen) * (settings.last_start + epochs) / epochs
        found.append(short_evaluation(recipe.evaluation, images, distance))
    found.append(unequal_augmentation(recipe.expert.training.dsa, settings.dsa, recipe.evaluation.training.dsa))
    return [finding for finding in found if finding is not None]


def chance_of(dataset: Dataset) -> float:
    """Return the test accuracy of always answering the class with the most test images."""
    return float(dataset.test_labels.bincount().max() / len(dataset.test_labels))


def diagnose_experts(store: TrajectoryStore, chance: float) -> list[Finding]:
    """Return the findings about experts.

    Args:
        chance: the test accuracy of always answering the largest class.
    """
    curves = [curve for number in range(len(store)) if (curve := store.accuracies(number).get("test"))]
    if not curves:  # imported experts
        return []
    mean = [statistics.fmean(values) for values in zip(*curves, strict=False)]
    return [finding for finding in (at_chance(mean[-1], chance), still_improving(mean)) if finding is not None]


def early_step(chosen: Sequence[int], steps: int) -> Finding | None:
    """Find that the nearest step is far below N: nine tenths of the chosen steps are within less than half of N."""
    enough = sorted(chosen)[math.ceil(0.9 * len(chosen)) - 1] + 1  # one more shows that the distance rises again
    if 2 * enough > steps:
        return None
    mean = statistics.fmean(chosen)
    what = f"the nearest step is {mean:.1f} of {steps} on average, and the steps after it are computed for nothing"
    remedy = (
        f"lower {{distill.lr_init}}, or set {{distill.steps}} to {enough}, which is {steps / enough:.2g} times faster"
    )
    return Finding(what, {"step": mean, "steps": steps, "enough": enough}, remedy)


def last_step(chosen: Sequence[int], steps: int, losses: Sequence[float]) -> Finding | None:
    """Find that the nearest step is almost always the last, with more than a tenth of the squared way left."""
    share, loss = chosen.count(steps) / len(chosen), statistics.fmean(losses or [0.0])
    if share < 0.9 or loss < 0.1:
        return None
    what = (
        f"the nearest step is the last, {steps}, in {100 * share:.0f} % of the segments, so the loss, {loss:.2f}, "
        "still falls at the end of the students' training"
    )
    remedy = f"raise {{distill.steps}}, for example to {2 * steps}, or {{distill.lr_init}}"
    return Finding(what, {"share": share, "steps": steps, "loss": loss}, remedy)


def loss_above_one(losses: Sequence[float]) -> Finding | None:
    """Find that students end further from the target than they start."""
    loss = statistics.fmean(losses or [0.0])
    if loss <= 1:
        return None
    what = (
        f"the matching loss is {loss:.2f} on average in the second half of the run, where standing still would give 1"
    )
    return Finding(what, {"loss": loss}, "lower {distill.lr_init} or {distill.steps}, with which students go too far")


def still_rate(rates: Sequence[float]) -> Finding | None:
    """Find that a learned α has stayed within 1 % of its first value."""
    if any(not 0.99 < rate / rates[0] < 1.01 for rate in rates):
        return None
    what = f"α has moved from {rates[0]:.4g} to {rates[-1]:.4g} only in {len(rates) - 1} iterations"
    remedy = "raise {distill.lr_lr}, or set it to 0 if α is to be constant"
    return Finding(what, {"first": rates[0], "last": rates[-1]}, remedy)


def rate_at_bound(rate: float, least: float | None, most: float | None) -> Finding | None:
    """Find that α has ended at its least value, or near its largest."""
    if least is not None and rate <= least * (1 + 1e-6):  # α is a float32
        what = f"α has fallen to its least value, {least:.4g}"
        return Finding(what, {"lr": rate, "bound": least}, "lower {distill.lr_lr}, or {distill.lr_min}")
    if most is not None and rate >= 0.9 * most:
        what = f"α has risen to {rate:.4g}, and updates beyond {most:.4g} are rejected"
        return Finding(what, {"lr": rate, "bound": most}, "lower {distill.lr_lr}, or raise {distill.max_lr}")
    return None


def no_better(own: Evaluation, baselines: Sequence[Row]) -> Finding | None:
    """Find that mean − deviation of the set is not above mean + deviation of as many real images."""
    comparable = [
        (name, row)
        for name, row in baselines
        if ("random real" in name or "k-means real" in name) and (row.model, row.protocol) == (own.model, own.protocol)
    ]
    if not comparable:
        return None
    name, best = max(comparable, key=lambda row: row[1].mean)
    if own.mean - own.std > best.mean + best.std:
        return None
    what = f"the set, {own.text}, is within the spread no better than {name}, {best.text}"
    remedy = "raise {distill.iterations}, or change {distill.lr_image} until the matching loss falls"
    return Finding(what, {"own": own.mean, "own_std": own.std, "real": best.mean, "real_std": best.std}, remedy)


def unequal_augmentation(
    expert: DsaSettings | None, distill: DsaSettings | None, evaluation: DsaSettings | None
) -> Finding | None:
    """Find that experts, distillation and evaluation do not augment alike."""
    kinds = {"experts": expert, "distillation": distill, "evaluation": evaluation}
    if expert == distill == evaluation:
        return None
    shown = [f"{name}: {'none' if dsa is None else dsa.strategy}" for name, dsa in kinds.items()]
    what = f"augmentation differs ({', '.join(shown)})"
    return Finding(what, {}, "give one {dsa}, unless the difference is meant")


def short_evaluation(settings: EvaluationSettings, images: int, distance: float) -> Finding | None:
    """Find that networks of the evaluation are trained for less than the students' way from epoch 0 to the last target.

    At one α both go about as far with every update; momentum μ makes an update 1 / (1 − μ) times as long.

    Args:
        images: the number of distilled images.
        distance: the student steps from epoch 0 to the last target.
    """
    training = settings.training
    updates = training.epochs * math.ceil(images / training.batch_size)
    worth = updates * _mean_rate(training) / (1 - training.momentum)
    if worth >= distance:
        return None
    what = (
        f"the {counted(updates, 'update')} of an evaluation are worth {worth:.0f} student steps, and students need "
        f"{distance:.0f} from epoch 0 to the last target"
    )
    return Finding(what, {"updates": updates, "worth": worth, "needed": distance}, "raise {evaluation.training.epochs}")


def _mean_rate(training: TrainingSettings) -> float:
    """Return the mean learning rate of a training, in units of its first."""
    rates = [training.lr_at(epoch) for epoch in range(1, training.epochs + 1)]
    return statistics.fmean(rates) / training.lr


def at_chance(accuracy: float, chance: float) -> Finding | None:
    """Find that the experts have hardly learned anything: less than a tenth of the way from chance to 100 %."""
    if accuracy >= chance + 0.1 * (1 - chance):
        return None
    always_one = f"always answering one class gives {100 * chance:.1f} %"
    what = f"the experts' test accuracy is {100 * accuracy:.1f} %, and {always_one}"
    remedy = "change {expert.training.lr}, raise {expert.training.epochs}, or raise {model.width}"
    return Finding(what, {"accuracy": accuracy, "chance": chance}, remedy)


def still_improving(curve: Sequence[float]) -> Finding | None:
    """Find that the experts' mean test accuracy has risen by more than 3 points in the last fifth of their epochs."""
    last = len(curve) - 1
    since = last - max(1, round(last / 5))
    gain = curve[-1] - curve[since]
    if since < 1 or gain <= 0.03:
        return None
    what = f"the experts still improve, by {100 * gain:.1f} points of test accuracy since epoch {since} of {last}"
    remedy = "raise {expert.training.epochs} or {expert.training.lr}"
    return Finding(what, {"gain": gain, "since": since, "epochs": last}, remedy)
