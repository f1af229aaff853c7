"""Distillation from Python in three calls: `train_experts`, `distill` and `evaluate`.

Each call takes settings as keywords, named like their fields; the settings of a `training` are keywords too:

    train_experts    `ExpertSettings` and its `TrainingSettings`: count, seed, epochs, batch_size, lr, dsa, …
    distill          `DistillSettings`: method, ipc, iterations, steps, lr_image, …; and evaluation={"repeats": 3, …}
    evaluate         `EvaluationSettings` and its `TrainingSettings`: repeats, seed, epochs, momentum, …

Other settings come from the recipe, or have their defaults.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pydistill._util.checks import check_instance, check_path
from pydistill._util.devices import usable_device
from pydistill._util.files import read_json
from pydistill._util.format import counted
from pydistill._util.layout import BEST_NAME, SUMMARY_NAME
from pydistill._util.progress import is_shown
from pydistill._util.settings import as_keywords, keyword_of
from pydistill.artefact.distilled_set import DistilledSet, load
from pydistill.artefact.file import Artefact
from pydistill.data import Dataset
from pydistill.errors import SettingError, UnknownSettingError
from pydistill.evaluation.baselines import read_baselines
from pydistill.evaluation.evaluate import Evaluation, EvaluationSettings, Row, evaluate_networks
from pydistill.evaluation.protocols import with_protocol
from pydistill.nn import ModelSettings, Network, parse, settings_of
from pydistill.recipes.keywords import quick_recipe, recipe_from, with_values
from pydistill.recipes.recipe import Recipe, default_recipe
from pydistill.runs.callbacks import RunCallback
from pydistill.runs.diagnosis import chance_of, diagnose_experts, findings_in
from pydistill.runs.loggers import LogSettings
from pydistill.runs.report import write_report
from pydistill.runs.run import RunResult
from pydistill.runs.workflow import distill_and_report, experts_for, run_folder_for, train_and_store
from pydistill.training.experts import ExpertSettings
from pydistill.trajectories import TrajectoryStore

_log = logging.getLogger("pydistill")

__all__ = ["DistillResult", "distill", "evaluate", "train_experts"]


@dataclass(frozen=True)
class DistillResult:
    """The result of `distill`.

    Attributes:
        set: the distilled set of the last iteration.
        run: how the run went: all evaluations, iterations, seconds.
    """

    set: DistilledSet
    run: RunResult

    def __repr__(self) -> str:
        findings = f", {counted(len(self.findings), 'finding')}" if self.findings else ""
        return f"DistillResult({self.folder}: test accuracy {self.run.accuracy_final.text}, {self.set!r}{findings})"

    @property
    def accuracy(self) -> float:
        """Mean test accuracy of fresh networks trained on the set, in [0, 1]."""
        return self.run.accuracy_final.mean

    @property
    def best(self) -> DistilledSet:
        """The set of the best evaluation of the run, chosen by test accuracy as the papers do."""
        return DistilledSet(Artefact.load(self.folder / BEST_NAME), data=self.set.data)

    @property
    def baselines(self) -> list[Row]:
        """The rows that the set is compared with: what networks were trained on, and their accuracies."""
        return read_baselines(self.folder)

    @property
    def findings(self) -> list[str]:
        """The diagnosis of the run: sentences about what looks wrong, each with the settings to change."""
        summary = read_json(self.folder / SUMMARY_NAME)
        return [finding.sentence(keyword_of) for finding in findings_in(summary)]

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.run.folder.path

    def report(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Write the run's report, one HTML file, and return its path; by default report.html in the run folder."""
        return write_report(self.folder, path)


@as_keywords()
def train_experts(
    data: Dataset,
    model: str | Network | None = None,
    *,
    out: str | os.PathLike[str],
    recipe: Recipe | str | os.PathLike[str] | None = None,
    trust: bool = False,
    device: torch.device | str | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> TrajectoryStore:
    """Train experts on the data and store their parameters after every epoch; experts that are in `out` stay.

    Args:
        data: the training set, from `pydistill.data`.
        model: a network's name ("convnet3-w64"), its settings, or a factory (in_channels, num_classes, (H, W)) →
            module; None: the recipe's, which is convnet3 by default.
        out: folder of the experts.
        recipe: a `Recipe`, a preset's name, or a recipe's file, of which `expert` and `model` are used.
        trust: allow a recipe's file to name a network by import path, whose module is imported.
        device: where to train; None: where the data are, or on a GPU if they are on the CPU and there is one.
        progress: show a bar; None: on a terminal and in a notebook.
        settings: fields of `ExpertSettings` and its training by name: count, seed, epochs, batch_size, lr, ….

    Raises:
        InputError: a keyword is not a setting, or a value is outside its limits; the network does not fit the data.
        MismatchError: `out` holds experts of another network, data set or training.
        WriteError: the disk cannot hold the experts.
        PydistillError: as `pydistill.training.experts.train_experts`.
    """
    data = _on_device(data, device)
    check_path("out", out)
    base = recipe_from(recipe, data.name, trust=trust)
    base, network = _with_model(replace(base, expert=with_values(base.expert, settings)), model)
    store = train_and_store(data, base, Path(out), quiet=not is_shown(progress), network=network)
    for finding in diagnose_experts(store, chance_of(data)):
        _log.warning("%s", finding.sentence(keyword_of))
    return store


@as_keywords()
def distill(
    data: Dataset,
    experts: TrajectoryStore | str | os.PathLike[str] | None = None,
    model: str | Network | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    recipe: Recipe | str | os.PathLike[str] | None = None,
    trust: bool = False,
    resume: bool = False,
    evaluation: EvaluationSettings | Mapping[str, Any] | None = None,
    callbacks: Sequence[RunCallback] = (),
    log: LogSettings | None = None,
    device: torch.device | str | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> DistillResult:
    """Distil the data into a few images per class, by matching the experts; evaluate them, and write the run folder.

    Args:
        data: the data set that the experts were trained on.
        experts: what `train_experts` returned, or the folder of experts; None: they are trained, by the recipe's
            `expert`, into the folder experts in `out`.
        model: the student, as for `train_experts`; None: the experts' network. A factory must be passed again.
        out: the run folder; None: a folder in the working directory, named after data, method and images per class.
        recipe: a `Recipe`, a preset's name, or a recipe's file, of which `distill` and `evaluation` are used;
            None: the defaults, with the experts' augmentation, or without experts the preset for a first try in
            minutes, quick/images or quick/table.
        trust: as for `train_experts`.
        resume: continue the run in `out` if there is one.
        evaluation: how the set is evaluated: settings, or a mapping of fields of `EvaluationSettings` and its training,
            such as {"repeats": 3, "epochs": 300}.
        callbacks: called during the run.
        log: where metrics are logged besides the run folder (TensorBoard, Weights & Biases).
        device: where to distil, as for `train_experts`.
        progress: show a bar; None: on a terminal and in a notebook.
        settings: fields of `DistillSettings` by name: method, ipc, iterations, steps, lr_image, ….

    Raises:
        InputError: a keyword is not a setting, or a value is outside its limits; `out` holds a run and `resume` is
            false.
        MismatchError: the experts do not fit the data, the model or the settings.
        PydistillError: as `pydistill.runs.run.run_distillation`.
    """
    data = _on_device(data, device)
    if experts is not None and not isinstance(experts, TrajectoryStore):
        check_path("experts", experts)
    if out is not None:
        check_path("out", out)
    check_instance("log", log, LogSettings | None, "LogSettings(tensorboard=…, wandb=…) of pydistill.runs.loggers")
    if not isinstance(callbacks, Sequence) or not all(isinstance(callback, RunCallback) for callback in callbacks):
        raise SettingError("callbacks", callbacks, "a list of RunCallback, the class in pydistill.runs.callbacks")
    store = TrajectoryStore.open(experts) if isinstance(experts, (str, os.PathLike)) else experts
    base = quick_recipe(data) if recipe is None and store is None else recipe_from(recipe, data.name, trust=trust)
    if store is not None:
        base = replace(base, expert=_expert_settings(store, base.expert))
        if recipe is None:
            base = base.with_dsa(base.expert.training.dsa)
    if isinstance(evaluation, EvaluationSettings):
        base = replace(base, evaluation=evaluation)
    elif evaluation is not None and not isinstance(evaluation, Mapping):
        raise SettingError("evaluation", evaluation, "EvaluationSettings or a mapping of its fields")
    base = replace(
        base,
        distill=with_values(base.distill, settings),
        evaluation=with_values(base.evaluation, evaluation if isinstance(evaluation, Mapping) else {}),
    )
    if model is None and store is not None and base.model.name != store.record.architecture:
        model = settings_of(store.record.architecture)  # a network of the user's has its import path
    base, network = _with_model(base, model)
    folder, quiet = run_folder_for(data, base) if out is None else Path(out), not is_shown(progress)
    if store is None:
        store = experts_for(data, base, folder, resume=resume, quiet=quiet, network=network)
    run = distill_and_report(
        data,
        base,
        store,
        folder,
        resume=resume,
        quiet=quiet,
        log=log,
        callbacks=callbacks,
        network=network,
    )
    return DistillResult(DistilledSet(run.final, data=data), run)


@as_keywords()
def evaluate(
    images: Tensor | str | os.PathLike[str],
    labels: Tensor | None = None,
    lr: float | None = None,
    data: Dataset | None = None,
    model: str | Network | None = None,
    *,
    protocol: str | None = None,
    device: torch.device | str | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> Evaluation:
    """Train fresh networks on images, and test them on real test images.

    Args:
        images: [n, C, H, W], preprocessed like the data; or a run folder or a distilled set's file, which also gives
            labels, learning rate and, where they are left out, data, model and settings (see `DistilledSet.evaluate`).
        labels: [n] class numbers, or [n, K] probabilities.
        lr: the learning rate of the training.
        data: the data set whose test images are used.
        model: a network's name, its settings, or a factory; None: convnet3, or the student's network of a set.
        protocol: a published protocol by name: mtt, datm or ddranking; None: the set's own, or the defaults.
        device: where to train, as for `train_experts`.
        progress: show a bar; None: on a terminal and in a notebook.
        settings: fields of `EvaluationSettings` and its training by name: repeats, seed, epochs, ….

    Raises:
        InputError: a keyword is not a setting, a value is outside its limits, or images, labels or network do not fit.
    """
    if isinstance(images, (str, os.PathLike)):
        distilled, known = load(images), ("repeats", "seed", "epochs")
        for name in settings:
            if name not in known:
                raise UnknownSettingError(name, known)
        network = distilled.student if model is None else model
        return distilled.evaluate(
            [network], data=data, protocol=protocol, device=device, progress=progress, **settings
        )[0]
    if labels is None or lr is None:
        raise SettingError("labels" if labels is None else "lr", None, "given for images that are a tensor")
    data = _on_device(data, device)
    network = parse(model or "convnet3") if model is None or isinstance(model, str) else model
    if "models" in settings:
        raise SettingError("models", settings["models"], "left out; `model` names the network to evaluate")
    defaults = default_recipe(data.name).evaluation
    if protocol is not None:
        defaults = with_protocol(defaults, protocol, defaults.training.dsa)
    chosen = with_values(defaults, settings)
    return evaluate_networks(images, labels, lr, data, [network], chosen, progress=is_shown(progress))[0]


def _on_device(data: Dataset | None, device: torch.device | str | None) -> Dataset:
    if not isinstance(data, Dataset):
        raise SettingError("data", data, "a Dataset, which the functions of pydistill.data make")
    return data.to(usable_device(device, data.device))


def _with_model(recipe: Recipe, model: str | Network | None) -> tuple[Recipe, Network | None]:
    """Return the recipe with the model's settings, or unchanged with the factory."""
    if isinstance(model, str):
        model = parse(model)
    if isinstance(model, ModelSettings):
        return replace(recipe, model=model), None
    return recipe, model


def _expert_settings(store: TrajectoryStore, otherwise: ExpertSettings) -> ExpertSettings:
    """Return the settings that the experts were trained with; `otherwise` if another program has trained them."""
    try:
        return with_values(ExpertSettings(count=max(1, len(store))), store.record.training)
    except UnknownSettingError:
        return otherwise
