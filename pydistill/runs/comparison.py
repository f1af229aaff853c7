"""Compare a distilled set with real images and with the experts, in one table; its rows are in baselines.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydistill._util.format import size
from pydistill._util.progress import Bar
from pydistill.artefact.file import Artefact
from pydistill.data import Dataset
from pydistill.evaluation.baselines import StoredEvaluator, stored
from pydistill.evaluation.evaluate import Evaluation, Row
from pydistill.evaluation.settings import EvaluationSettings
from pydistill.nn import Network
from pydistill.recipes.recipe import recipe_from_dict
from pydistill.trajectories import TrajectoryStore


def distilled_name(artefact: Artefact) -> str:
    """Name the distilled images in a table: 10 distilled images (ATT), or 40 distilled images (ATT, dct, 3.2 kB)."""
    recipe = artefact.provenance.get("recipe", {})
    parts = [recipe_from_dict(recipe).distill.method.upper()] if "distill" in recipe else []
    if artefact.encoded is not None and artefact.encoded.description is not None:
        parts += [artefact.encoded.description["kind"], size(artefact.storage.bytes)]
    return f"{len(artefact.images):,} distilled images" + (f" ({', '.join(parts)})" if parts else "")


def baselines_of(
    artefact: Artefact,
    dataset: Dataset,
    networks: Sequence[Network],
    settings: EvaluationSettings,
    *,
    run: Path | None = None,
    quiet: bool = False,
) -> list[Row]:
    """Evaluate the baselines of `settings` by the protocol of the distilled set, on as many networks of every kind.

    Random and k-means real images are as many per class as the set has, or with a decoder as its storage holds, with
    class numbers as labels, tried at the learning rates at which the distillation began and ended.

    Args:
        artefact: the distilled set.
        dataset: the real images, with the set's preprocessing.
        run: the run folder, in whose baselines.json every row is stored as soon as it is known, and read the next time;
            None: nothing is stored.

    Raises:
        FormatError: baselines.json is damaged.
        WriteError: baselines.json cannot be written.
    """
    rates = rates_of(artefact)
    ipc = artefact.ipc
    few = len({*rates}) * settings.training.epochs
    epochs = {"random": few, "kmeans": few, "full": settings.full_epochs}
    total = len(networks) * settings.repeats * sum(epochs[name] for name in settings.baselines)
    rows: list[Row] = []
    with Bar("baselines' epochs", total, quiet=quiet or total == 0) as bar:
        for network in networks:
            evaluator = StoredEvaluator(dataset, network, settings, run, bar)
            if "random" in settings.baselines:
                rows.append(evaluator.random_real(ipc, rates))
            if "kmeans" in settings.baselines:
                rows.append(evaluator.kmeans_real(ipc, rates))
            if "full" in settings.baselines:
                rows.append(evaluator.all_real())
    return rows


def rates_of(artefact: Artefact) -> tuple[float, float]:
    """Return the learning rates at which the distillation began and ended."""
    return recipe_from_dict(artefact.provenance.get("recipe", {})).distill.lr_init, artefact.lr


def experts_row(store: TrajectoryStore, model: str, run: Path) -> list[Row]:
    """Return the row of the experts' test accuracies after their last epoch, and add it to baselines.json.

    The list is empty if no accuracies are stored, as with imported experts.
    """
    curves = [store.accuracies(position).get("test") for position in range(len(store))]
    accuracies = tuple(curve[-1] for curve in curves if curve)
    if not accuracies:
        return []
    evaluation = Evaluation(model, accuracies, 0.0, epochs=store.record.epochs, protocol="the experts'")
    name = "the experts themselves"
    return [(name, stored(run, name, {"experts": store.digest}, lambda: evaluation))]
