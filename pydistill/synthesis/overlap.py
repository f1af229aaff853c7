"""Synthetic images of a class that have become alike, and their replacement by real images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pydistill.data import Dataset
from pydistill.synthesis.kmeans import features

CANDIDATES = 256
"""Real images of a class among which a replacement is chosen."""


@dataclass(frozen=True)
class Redraw:
    """A synthetic image that is replaced by a real one.

    Attributes:
        image: its number in the set.
        like: the image of its class that it overlaps with.
        similarity: the cosine similarity of the two.
        real: the index of the training image in its place.
    """

    image: int
    like: int
    similarity: float
    real: int


def redraws(
    dataset: Dataset,
    images: Tensor,
    classes: Tensor,
    activity: Tensor,
    network: nn.Module,
    generator: torch.Generator,
    *,
    above: float,
    at_most: int,
) -> list[Redraw]:
    """Choose the synthetic images that overlap with another one of their class, and real ones in their places.

        o_ij = cos(f_i − μ, f_j − μ)    for two images of a class

    f are features of the network (see `pydistill.synthesis.kmeans.features`), μ their mean over the candidates, up to
    256 random real images of the class. Without μ any two features were alike, as features after a ReLU are positive.
    Pairs with o_ij > above are visited from the most alike on. If neither image is replaced yet, the one with less
    activity is: by the first candidate in random order whose o with every image of the class that stays, or has been
    put in, is at most `above`; if there is none, by the candidate whose largest o is smallest.

    Args:
        images, classes: the synthetic set, [n, C, H, W] and [n] int64.
        activity: [n], such as the norm of each image's velocity: how much the distillation is changing it.
        network: a trained network; its last linear layer's inputs are the features.
        generator: on the CPU; draws the candidates, of every class of two or more images.
        above: the similarity above which two images overlap, above 0.
        at_most: the number of images replaced at once.

    Returns:
        The replacements, in the order of `image`.
    """
    groups = [
        _Class.of(dataset, label, images, members, network, generator)
        for label in range(dataset.num_classes)
        if len(members := (classes == label).nonzero()[:, 0]) > 1
    ]
    pairs: list[tuple[float, int, int]] = []
    for group in groups:
        similar = (group.rows @ group.rows.T).triu(1)
        for i, j in (similar > above).nonzero().tolist():
            pairs.append((float(similar[i, j]), group.members[i], group.members[j]))
    leaving: dict[int, tuple[int, float]] = {}
    active = activity.tolist()
    for similarity, one, other in sorted(pairs, key=lambda pair: (-pair[0], *pair[1:])):
        if len(leaving) < at_most and one not in leaving and other not in leaving:
            less, more = (one, other) if active[one] <= active[other] else (other, one)
            leaving[less] = more, similarity
    chosen = []
    for group in groups:
        others = group.rows[[member not in leaving for member in group.members]]
        for image in filter(leaving.__contains__, group.members):
            largest = (group.candidate_rows @ others.T).amax(dim=1)
            far = (largest <= above).nonzero()
            taken = int(far[0]) if len(far) else int(largest.argmin())
            chosen.append(Redraw(image, *leaving[image], int(group.candidates[taken])))
            others = torch.cat([others, group.candidate_rows[taken : taken + 1]])
    return sorted(chosen, key=lambda redraw: redraw.image)


def put_real_images(
    replaced: Sequence[Redraw], dataset: Dataset, images: Iterable[Tensor], velocities: Iterable[Tensor]
) -> None:
    """Write the real images into each of `images`, and 0 into each of `velocities`, [n, C, H, W], in place."""
    if not replaced:
        return
    places = [redraw.image for redraw in replaced]
    real = torch.tensor([redraw.real for redraw in replaced], device=dataset.device)
    replacements = dataset.train_pictures.batch(real)
    for holder in images:
        holder[places] = replacements
    for velocity in velocities:
        velocity[places] = 0


@dataclass(frozen=True)
class _Class:
    """The synthetic images of a class and its candidates, with their directions (f − μ) / ‖f − μ‖ as rows."""

    members: list[int]
    rows: Tensor
    candidates: Tensor
    candidate_rows: Tensor

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        label: int,
        images: Tensor,
        members: Tensor,
        network: nn.Module,
        generator: torch.Generator,
    ) -> _Class:
        """Draw the candidates, and compute all features in float64."""
        indices = dataset.class_indices(label)
        candidates = indices[torch.randperm(len(indices), generator=generator)[:CANDIDATES].to(indices.device)]
        real = features(network, dataset.train_pictures.batch(candidates)).double()
        synthetic = features(network, images[members]).double()
        mean = real.mean(dim=0)
        rows, candidate_rows = (nn.functional.normalize(rows - mean, dim=1) for rows in (synthetic, real))
        return cls(members.tolist(), rows, candidates, candidate_rows)
