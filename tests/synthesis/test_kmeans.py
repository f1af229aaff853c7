"""k-means: the choice against a slow loop, the features against hand-written passes, any module, every refusal."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pydistill.errors import InputError, SettingError
from pydistill.nn import ConvNet, ResNet18
from pydistill.synthesis.kmeans import features, kmeans_choice


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def squared(one: list[float], other: list[float]) -> float:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def slow_choice(features: Tensor, k: int, generator: torch.Generator) -> list[int]:
    """k-means as its definition says, number by number."""
    points: list[list[float]] = features.double().tolist()
    seeds: list[int] = []
    while len(seeds) < k:
        weights = [
            0.0 if i in seeds else min((squared(point, points[seed]) for seed in seeds), default=1.0)
            for i, point in enumerate(points)
        ]
        if sum(weights) == 0:
            weights = [0.0 if i in seeds else 1.0 for i in range(len(points))]
        bound = float(torch.rand((), generator=generator, dtype=torch.float64)) * sum(weights)
        total = 0.0
        for i, weight in enumerate(weights):
            total += weight
            if total > bound:
                seeds.append(i)
                break
    centroids = [points[seed] for seed in seeds]
    clusters: list[int] = []
    for _ in range(100):
        distances = [[squared(point, centroid) for centroid in centroids] for point in points]
        nearest = [row.index(min(row)) for row in distances]
        for empty in (cluster for cluster in range(k) if cluster not in list(nearest)):
            shared = [i for i in range(len(points)) if nearest.count(nearest[i]) > 1]
            nearest[max(shared, key=lambda i: min(distances[i]))] = empty
        if nearest == clusters:
            break
        clusters = nearest
        for cluster in range(k):
            members = [point for point, own in zip(points, clusters, strict=True) if own == cluster]
            centroids[cluster] = [sum(values) / len(members) for values in zip(*members, strict=True)]
    mean = [sum(values) / len(points) for values in zip(*points, strict=True)]
    rounding = 1e-10 * max(squared(point, mean) for point in points)
    chosen: list[int] = []
    for centroid in centroids:
        distances_left = {i: squared(point, centroid) for i, point in enumerate(points) if i not in chosen}
        least = min(distances_left.values()) + rounding
        chosen.append(next(i for i, distance in distances_left.items() if distance <= least))
    return chosen


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("n", "k", "d"), [(1, 1, 3), (2, 2, 1), (13, 1, 4), (13, 4, 2), (31, 7, 5), (8, 8, 3)])
def test_the_choice_is_that_of_the_slow_loop(n: int, k: int, d: int, seed: int) -> None:
    points = torch.randn(n, d, generator=generator(seed + 100), dtype=torch.float64)
    chosen = kmeans_choice(points, k, generator(seed))
    assert chosen.tolist() == slow_choice(points, k, generator(seed))
    assert len(set(chosen.tolist())) == k


def test_clusters_that_lie_apart_give_one_row_each() -> None:
    centres = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    points = (centres[:, None] + torch.randn(3, 20, 2, generator=generator())).flatten(0, 1) + 1000
    for seed in range(10):
        chosen = kmeans_choice(points, 3, generator(seed))
        assert sorted((chosen // 20).tolist()) == [0, 1, 2]
        for index in chosen.tolist():  # the row nearest to the mean of its cluster
            members = points[index // 20 * 20 : index // 20 * 20 + 20]
            assert index % 20 == int((members - members.mean(0)).square().sum(1).argmin())


@pytest.mark.parametrize("k", [1, 3, 6])
def test_equal_rows_are_chosen_once_each(k: int) -> None:
    chosen = kmeans_choice(torch.ones(6, 2), k, generator())
    assert len(set(chosen.tolist())) == k
    twice = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    assert sorted(kmeans_choice(twice, 4, generator()).tolist()) == [0, 1, 2, 3]


def test_the_generator_alone_decides() -> None:
    points = torch.randn(200, 16, generator=generator(5))
    assert torch.equal(kmeans_choice(points, 20, generator(1)), kmeans_choice(points, 20, generator(1)))
    strided = torch.stack([points, points], dim=2)[:, :, 0]
    assert torch.equal(kmeans_choice(strided, 20, generator(1)), kmeans_choice(points, 20, generator(1)))
    assert not torch.equal(kmeans_choice(points, 20, generator(1)), kmeans_choice(points, 20, generator(2)))


@pytest.mark.parametrize("k", [0, 4])
def test_more_rows_than_there_are(k: int) -> None:
    with pytest.raises(SettingError, match="from 1 to 3") as raised:
        kmeans_choice(torch.randn(3, 2), k, generator())
    assert raised.value.setting == "k"


@pytest.mark.parametrize("bad", [torch.tensor([[1.0], [float("nan")]]), torch.ones(3)])
def test_features_that_are_not_rows_of_numbers(bad: Tensor) -> None:
    with pytest.raises(InputError, match="features"):
        kmeans_choice(bad, 1, generator())


def test_features_are_the_classifier_s_inputs() -> None:
    torch.manual_seed(0)
    network = ConvNet(1, 3, (8, 8), width=4, depth=2).double().train()
    images = torch.randn(300, 1, 8, 8, dtype=torch.float64)
    found = features(network, images)
    assert found.shape == (300, 4 * 2 * 2)
    assert not found.requires_grad
    [classifier] = [module for module in network.modules() if isinstance(module, nn.Linear)]
    torch.testing.assert_close(F.linear(found, classifier.weight, classifier.bias), network(images), rtol=0, atol=1e-12)
    assert network.training
    assert not classifier._forward_pre_hooks


class Backwards(nn.Module):
    """Declares its classifier first, and drops out in training."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(5, 2)
        self.dropout = nn.Dropout(0.5)
        self.first = nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(self.first(images.flatten(1)).relu()))
        return logits


def test_the_last_layer_is_the_one_applied_last() -> None:
    network = Backwards()
    network.dropout.eval()
    images = torch.randn(3, 1, 2, 2)
    torch.testing.assert_close(features(network, images), network.first(images.flatten(1)).relu().detach())
    assert network.training
    assert not network.dropout.training


def test_batch_norm_is_not_updated() -> None:
    network = ResNet18(1, 3, (8, 8), norm="batch")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert features(network, torch.randn(2, 1, 8, 8)).shape == (2, 512)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_network_without_a_linear_layer() -> None:
    with pytest.raises(InputError, match=r"Flatten applies no nn\.Linear"):
        features(nn.Flatten(), torch.randn(2, 1, 2, 2))
