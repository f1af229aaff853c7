"""Baselines that a distilled set is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from pydistill.data import Dataset
from pydistill.evaluation.evaluate import Evaluation, EvaluationSettings, evaluate
from pydistill.nn import Network
from pydistill.training.train import derive_seed


def random_real(
    dataset: Dataset,
    network: Network,
    settings: EvaluationSettings,
    *,
    ipc: int,
    rates: Sequence[float],
    on_network: Callable[[Evaluation], None] | None = None,
) -> tuple[Evaluation, float]:
    """Evaluate fresh networks on `ipc` random real images per class, a new draw for every network.

    A distilled set learns its learning rate; for a fair comparison, random images are tried at each of `rates`, and the
    best mean accuracy counts.

    Returns:
        The evaluation at the best rate, and that rate.
    """
    tried = []
    for rate in rates:
        parts = []
        for repeat in range(settings.repeats):
            seed = derive_seed("random real", settings.seed, repeat)
            images, labels = dataset.sample_per_class(ipc, torch.Generator().manual_seed(seed))
            one = replace(settings, repeats=1, seed=seed)
            parts.append(evaluate(images, labels, rate, dataset, network, one))
            if on_network is not None:
                on_network(parts[-1])
        evaluation = Evaluation(
            parts[0].model,
            tuple(accuracy for part in parts for accuracy in part.accuracies),
            sum(part.seconds for part in parts),
            sum(part.diverged for part in parts),
        )
        tried.append((evaluation, rate))
    return max(tried, key=lambda pair: pair[0].mean)
