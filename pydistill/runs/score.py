"""Score a distilled set: what remains of its accuracy without soft labels, and without augmentation."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pydistill._util.checks import check_path
from pydistill._util.files import read_json
from pydistill._util.layout import BEST_NAME, CONFIG_NAME, CONVEXIFIED_NAME, SET_NAME, holds_experts
from pydistill._util.progress import Bar, is_shown
from pydistill._util.tensor_file import tensor_sha256
from pydistill.artefact.distilled_set import DistilledSet, Which, load
from pydistill.data import Dataset
from pydistill.errors import InputError, MismatchError, Name, SettingError
from pydistill.evaluation.baselines import Label, StoredEvaluator
from pydistill.evaluation.evaluate import Evaluation, Row
from pydistill.evaluation.scores import Scores
from pydistill.evaluation.settings import EvaluationSettings
from pydistill.nn import Network, name_of
from pydistill.nn.registry import is_custom, settings_of
from pydistill.recipes.recipe import default_recipe
from pydistill.runs.comparison import distilled_name, rates_of
from pydistill.runs.run import ExpertNetworks
from pydistill.synthesis.labels import teacher_probabilities
from pydistill.training.experts import ExpertSettings, experts_record
from pydistill.trajectories import TrajectoryStore

LABELS = "labelled by the experts"


def score(
    run: DistilledSet | str | os.PathLike[str],
    *,
    experts: TrajectoryStore | str | os.PathLike[str] | None = None,
    data: Dataset | str | os.PathLike[str] | None = None,
    model: str | Network | None = None,
    protocol: str | None = None,
    repeats: int | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    full_accuracy: float | None = None,
    which: Which = "final",
    device: torch.device | str | None = None,
    progress: bool | None = None,
) -> Scores:
    """Compute the label-robust and the augmentation-robust score of a distilled set, with the formulas of `Scores`.

    Every cell is the accuracy of fresh networks by one protocol: the set's own, or a published one by name. Random real
    images, another draw for every network, are as many per class as the set has, or with a decoder as its storage
    holds; of the learning rates at which the distillation began and ended the better counts. For a set with soft labels
    their labels are the mean probabilities of the experts. Cells are stored in the run's baselines.json, also those
    that `distill` and `evaluate` have measured.

    Args:
        run: a run folder, a distilled set's file, or a set; of a set nothing is stored.
        experts: the experts that label random images, if the set has soft labels; None: those in the run folder.
        data, device, progress, repeats, epochs, seed, protocol: as in `DistilledSet.evaluate`.
        model: the network; None: the student's.
        full_accuracy: of networks trained on all real data, in [0, 1], if it is known; None: it is measured, at
            `evaluation.full_epochs` of the recipe.
        which: for a run folder, the "final" or the "best" set.

    Raises:
        InputError: the set has soft labels and there are no experts; `run` is neither a set nor a path; or as
            `DistilledSet.evaluate`.
        MismatchError: the experts are not those of the run, or of another architecture or other data.
    """
    if full_accuracy is not None and not 0 <= full_accuracy <= 1:
        raise SettingError("full_accuracy", full_accuracy, "a share from 0 to 1, such as 0.848")
    if not isinstance(run, DistilledSet):
        check_path("run", run)
    folder = None if isinstance(run, DistilledSet) or not Path(run).is_dir() else Path(run)
    distilled = run if isinstance(run, DistilledSet) else load(run, which=which)
    settings = distilled.protocol(protocol, repeats=repeats, epochs=epochs, seed=seed)
    (network,) = distilled.networks([distilled.student if model is None else model])
    store = None if distilled.labels.ndim == 1 else _experts(experts, _run_of(run))
    dataset = distilled.test_data(data, device)
    label, about = None, {}
    if store is not None:
        label, about = _labelling(store, dataset, network), {"labels": LABELS, "experts": store.digest}
    rates = rates_of(distilled.artefact)
    ipc = distilled.artefact.ipc
    plain = replace(settings, training=replace(settings.training, dsa=None))
    augmented = settings
    if settings.training.dsa is None or not settings.training.dsa.parts:
        dsa = default_recipe(distilled.recipe.data.name).evaluation.training.dsa
        augmented = replace(settings, training=replace(settings.training, dsa=dsa))
    is_table = dataset.image_size == (1, 1)
    protocols = dict.fromkeys([settings] if is_table else [settings, augmented, plain])
    few = len(protocols) * (1 + len({*rates})) + (store is not None)
    total = settings.repeats * (few * settings.training.epochs)
    total += settings.repeats * settings.full_epochs if full_accuracy is None else 0
    with Bar("epochs", total, quiet=not is_shown(progress)) as bar:
        evaluators = {one: StoredEvaluator(dataset, network, one, folder, bar) for one in protocols}
        recorded = _recorded(distilled, settings, network)
        sets = {one: _distilled_row(distilled, evaluator) for one, evaluator in evaluators.items() if one != settings}
        sets[settings] = recorded or _distilled_row(distilled, evaluators[settings])
        random = {one: evaluator.random_real(ipc, rates, label, **about) for one, evaluator in evaluators.items()}
        cells = {"distilled": sets[settings], "random": random[settings], "distilled_hard": sets[settings]}
        if store is not None:
            cells["distilled_hard"] = _distilled_row(distilled, evaluators[settings], hard=True)
        if not is_table:
            cells |= {"distilled_augmented": sets[augmented], "random_augmented": random[augmented]}
            cells |= {"distilled_plain": sets[plain], "random_plain": random[plain]}
        if full_accuracy is None:
            cells["real_hard"] = evaluators[settings].all_real()
        else:
            stated = Evaluation(name_of(network), (float(full_accuracy),), 0.0, protocol="given")
            cells["real_hard"] = ("all real images", stated)
    return Scores(cells)


def _distilled_row(distilled: DistilledSet, evaluator: StoredEvaluator, *, hard: bool = False) -> Row:
    """Evaluate the set with its own labels, or with the classes in their place."""
    artefact = distilled.artefact
    labels = artefact.classes if hard else artefact.labels
    name = distilled_name(artefact) + (", hard labels" if hard else "")
    digests = {"images_sha256": tensor_sha256(artefact.images), "labels_sha256": tensor_sha256(labels)}
    return evaluator.evaluate(name, artefact.images, labels, artefact.lr, **digests)


def _recorded(distilled: DistilledSet, settings: EvaluationSettings, network: Network) -> Row | None:
    """Return the evaluation with which the run wrote the set, if it is one of this network by these settings."""
    record = distilled.provenance.get("accuracy")
    own = distilled.recipe.evaluation
    same = [(one.training, one.best_every, one.repeats, one.seed) for one in (own, settings)]
    if not isinstance(record, dict) or "protocol" not in record or same[0] != same[1]:
        return None
    if record["model"] != name_of(network):
        return None
    return distilled_name(distilled.artefact), Evaluation.from_record({**record, "seconds": 0.0})


def _run_of(run: DistilledSet | str | os.PathLike[str]) -> Path | None:
    """Return the run folder, also of a set's file in it; None for a set that has left its run."""
    if isinstance(run, DistilledSet):
        return None
    folder = Path(run) if Path(run).is_dir() else Path(run).parent
    return folder if Path(run).is_dir() or Path(run).name in (SET_NAME, BEST_NAME) else None


def _experts(experts: TrajectoryStore | str | os.PathLike[str] | None, run: Path | None) -> TrajectoryStore:
    """Return the experts of the argument, or those in the run folder, as a demo and MCT have them."""
    if experts is None and run is not None:
        experts = next((run / name for name in ("experts", CONVEXIFIED_NAME) if holds_experts(run / name)), None)
    if experts is None:
        raise InputError(
            "the set has soft labels, and random images get theirs from the same experts: give their folder as ",
            Name("experts"),
        )
    store = experts if isinstance(experts, TrajectoryStore) else TrajectoryStore.open(experts)
    config = None if run is None else run / CONFIG_NAME  # a copied set has none
    recorded = read_json(config).get("trajectories") if config is not None and config.exists() else None
    if recorded and recorded["kind"] == store.kind and recorded["digest"] != store.digest:
        raise MismatchError(f"the experts in {store.path} are not those of the run in {run}; give its own")
    return store


def _labelling(store: TrajectoryStore, dataset: Dataset, network: Network) -> Label:
    """Return the function from images to the experts' mean probabilities; its teachers are read one at a time."""
    teacher = network if is_custom(network) else settings_of(store.record.architecture)
    store.record.check(experts_record(dataset, teacher, ExpertSettings()), sides=("the experts", "the set"))

    def label(images: Tensor, classes: Tensor) -> Tensor:
        return teacher_probabilities(ExpertNetworks(teacher, dataset, store), images)

    return label
