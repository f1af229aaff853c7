"""Representative images: the real ones nearest to the centroids of k-means on a network's features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pydistill.errors import InputError, SettingError
from pydistill.nn.modes import evaluating
from pydistill.synthesis.logits import chunks

MAX_ITERATIONS = 100
_ROUNDING = 1e-10


def kmeans_choice(features: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Choose k rows that represent all of them: for each of k clusters the row nearest to its centroid.

        minimise Σ_i min_c ‖x_i − m_c‖²    over centroids m_1 … m_k
        choice_c = argmin_i ‖x_i − m_c‖    among the rows that are not chosen yet, c = 1 … k

    Lloyd's algorithm from k-means++ centroids (Arthur and Vassilvitskii, SODA 2007), in float64, until no row changes
    its cluster or for 100 iterations. A cluster that loses its last row continues at the row farthest from its
    centroid. Of rows that are equally near up to rounding, as both rows of a cluster of two are, the first is chosen.
    On the CPU the choice depends on the features and the generator alone, bit for bit.

    Args:
        features: [n, d], such as `features` returns.
        k: the number of rows to choose, from 1 to n.
        generator: on the CPU; draws the first centroids.

    Returns:
        k different indices, int64 [k], on the features' device.

    Raises:
        InputError: k is not in 1 … n, or features are not finite.

    Source: Liu et al., "DREAM: Efficient dataset distillation by representative matching", ICCV 2023, which does not
    filter a row that is nearest to two centroids.
    """
    if features.ndim != 2 or not bool(features.isfinite().all()):
        raise InputError(f"features must be finite numbers [n, d], not {features.dtype} {list(features.shape)}")
    if not 1 <= k <= len(features):
        raise SettingError("k", k, f"from 1 to {len(features)}, the number of features")
    points = features.detach().double()
    points = points - points.mean(dim=0)  # distances lose fewer digits near the origin
    centroids = _lloyd(points, points[_seeds(points, k, generator)])
    distances = _squared_distances(points, centroids)
    rounding = _ROUNDING * points.square().sum(dim=1).max()
    chosen = []
    for cluster in range(k):
        distance = distances[:, cluster]
        chosen.append(int((distance <= distance.min() + rounding).nonzero()[0]))
        distances[chosen[-1]] = torch.inf
    return torch.tensor(chosen, device=features.device)


def features(network: nn.Module, images: Tensor) -> Tensor:
    """Compute the features of images: the inputs of the network's last linear layer, flattened to [n, d].

    The network runs in evaluation mode, without gradients, on 256 images at a time; its modes are restored.

    Args:
        network: any module that applies an `nn.Linear`; the last one that it applies is the classifier.
        images: [n, C, H, W] with n of at least 1, preprocessed as for the network.

    Raises:
        InputError: the network applies no `nn.Linear`.
    """
    inputs: list[Tensor] = []

    def record(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        inputs[:] = arguments[:1]

    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]
    hooks = [linear.register_forward_pre_hook(record) for linear in linears]
    parts = []
    try:
        with evaluating(network):
            for chunk in chunks(network, images):
                network(chunk)
                if not inputs:
                    name = type(network).__name__
                    raise InputError(
                        f"the network {name} applies no nn.Linear, whose inputs are the features that k-means needs; "
                        "use another network, or another initialisation than kmeans"
                    )
                parts.append(inputs.pop().flatten(1))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(parts)


def _seeds(points: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Draw k different rows by k-means++: each with probability ∝ squared distance to the nearest one drawn before."""
    free = torch.ones(len(points), dtype=torch.float64)
    nearest = free.clone()
    drawn: list[int] = []
    for _ in range(k):
        weights = nearest * free
        # Rows that equal one drawn before have distance 0; they are drawn if no others are left.
        weights = weights if float(weights.sum()) > 0 else free
        cumulative = weights.cumsum(0)
        bound = torch.rand((), generator=generator, dtype=torch.float64) * cumulative[-1]
        drawn.append(int((cumulative > bound).nonzero()[0]))
        free[drawn[-1]] = 0
        distance = _squared_distances(points, points[drawn[-1:]])[:, 0].cpu()
        nearest = distance if len(drawn) == 1 else torch.minimum(nearest, distance)
    return torch.tensor(drawn, device=points.device)


def _lloyd(points: Tensor, centroids: Tensor) -> Tensor:
    """Move the centroids [k, d] to the means of the points nearest to them until no point changes its cluster."""
    previous = None
    for _ in range(MAX_ITERATIONS):
        distance, cluster = _squared_distances(points, centroids).min(dim=1)
        sizes = cluster.bincount(minlength=len(centroids))
        for empty in (sizes == 0).nonzero()[:, 0].tolist():
            farthest = torch.where(sizes[cluster] > 1, distance, -1).argmax()
            sizes[cluster[farthest]] -= 1
            sizes[empty], cluster[farthest] = 1, empty
        if previous is not None and torch.equal(cluster, previous):
            break
        previous = cluster
        members = nn.functional.one_hot(cluster, len(centroids)).to(points)
        centroids = (members.T @ points) / sizes[:, None]
    return centroids


def _squared_distances(points: Tensor, centroids: Tensor) -> Tensor:
    """Compute ‖x_i − m_c‖² as [n, k]."""
    products = points @ centroids.T
    return (points.square().sum(1)[:, None] - 2 * products + centroids.square().sum(1)).clamp_min(0)
