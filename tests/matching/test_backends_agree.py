"""The adjoint sweep against the whole graph, in fp64: same loss, step, distances and gradients to everything."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import nn

from pydistill.data.dsa import DsaSettings
from pydistill.matching import match
from tests.matching.problems import ALL, LEAVES, SWEEPS, assert_same, make_case, needs_engine

BOUND = 1e-9

SELECTIONS = [
    {"selection": "last"},
    {"selection": "nearest", "distance": "l1"},
    {"selection": "nearest", "distance": "l2"},
]


@pytest.mark.parametrize("backend", SWEEPS)
@pytest.mark.parametrize("gradient", ["exact", "truncated"])
@pytest.mark.parametrize("options", SELECTIONS, ids=lambda options: "-".join(options.values()))
@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_convnet(steps: int, options: dict[str, str], gradient: str, backend: str) -> None:
    case = make_case(steps=steps, gradient=gradient, **options)
    assert_same(case.run(backend), case.run("autograd"), BOUND)


FUSED_NETWORKS = ["convnet1-w4", "convnet3-w4", "convnet2-w5-nonorm-max", "convnet2-w4-p3-nopool", "mlp-w8", "mlp1"]


@pytest.mark.parametrize(
    ("network", "backend"),
    [(network, "torch") for network in [*FUSED_NETWORKS, "resnet18-w4"]]
    + [pytest.param(network, "fused", marks=needs_engine) for network in FUSED_NETWORKS],
)
@pytest.mark.parametrize("augmented", [False, True])
def test_networks(network: str, augmented: bool, backend: str) -> None:
    dsa = DsaSettings(mode="M") if augmented else None
    case = make_case(network, steps=5, dsa=dsa, selection="nearest")
    assert_same(case.run(backend), case.run("autograd"), BOUND)


@pytest.mark.parametrize("norm", ["none", "group", "layer", "batch"])
def test_norms(norm: str) -> None:
    from pydistill.nn import ConvNet

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ConvNet(2, 3, 8, width=8, depth=2, norm=norm)
    if norm == "batch":
        model.eval()
    case = make_case(model=model, steps=4)
    assert_same(case.run("torch"), case.run("autograd"), BOUND)


@pytest.mark.parametrize("backend", SWEEPS)
@pytest.mark.parametrize("gradient", ["exact", "truncated"])
@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("per_step_lr", [False, True])
@pytest.mark.parametrize("labels", ["hard", "soft", "logits"])
def test_labels_and_learning_rates(
    labels: str, per_step_lr: bool, augmented: bool, gradient: str, backend: str
) -> None:
    dsa = DsaSettings() if augmented else None
    case = make_case(steps=6, labels=labels, per_step_lr=per_step_lr, gradient=gradient, dsa=dsa)
    assert_same(case.run(backend), case.run("autograd"), BOUND)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("augmented", [False, True])
def test_pairs_and_recipe_are_the_same_problem(augmented: bool, backend: str) -> None:
    dsa = DsaSettings() if augmented else None
    case = make_case(steps=5, labels="soft", dsa=dsa, selection="nearest", per_step_lr=True)
    assert_same(case.run(backend, recipe=False), case.run(backend, recipe=True), 1e-12)


@pytest.mark.parametrize("backend", SWEEPS)
def test_pairs_that_share_some_of_their_tensors(backend: str) -> None:
    """Batches of several sizes, images and labels given for several steps, some of them wanted and some not."""
    case = make_case(labels="soft", selection="nearest")
    actual = {}
    for name in (backend, "autograd"):
        one, other = (case.images[:k].clone().requires_grad_() for k in (2, 5))
        fixed, rows = case.images[1:3].clone(), case.labels[:2].clone().requires_grad_()
        numbers = torch.tensor([0, 2])
        pairs = [(one, rows), (other, case.labels[:5]), (one, numbers), (fixed, rows), (fixed, numbers)]
        outcome = match(case.model, case.start, case.target, pairs, case.lr, backend=name)
        gradients = torch.autograd.grad(outcome.loss, [one, other, rows])
        actual[name] = outcome, dict(zip(("one", "other", "rows"), gradients, strict=True))
    assert_same(actual[backend], actual["autograd"], BOUND)


@pytest.mark.parametrize("backend", SWEEPS)
@pytest.mark.parametrize("augmented", [False, True])
def test_an_image_several_times_in_one_batch(augmented: bool, backend: str) -> None:
    case = make_case(steps=4, labels="soft", dsa=DsaSettings() if augmented else None)
    case.index = torch.tensor([[0, 0, 1, 0], [2, 5, 5, 2], [3, 3, 3, 3], [0, 1, 2, 4]])
    assert_same(case.run(backend), case.run("autograd"), BOUND)


@pytest.mark.parametrize("backend", SWEEPS)
@pytest.mark.parametrize("options", SELECTIONS, ids=lambda options: "-".join(options.values()))
def test_an_early_step_is_chosen(options: dict[str, str], backend: str) -> None:
    """A large learning rate overshoots a near target, so that `nearest` stops before the last step."""
    case = make_case(steps=12, lr=0.5, distance_to_target=0.002, per_step_lr=True, **options)
    actual = case.run(backend)
    assert (actual[0].step == 12) == (options["selection"] == "last")
    assert_same(actual, case.run("autograd"), BOUND)


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_of_equal_steps_the_later_is_chosen(distance: str, backend: str) -> None:
    """With steps of length zero all points are the start, and all are equally near."""
    case = make_case(steps=4, lr=0.0, selection="nearest", distance=distance)
    case.lr = torch.tensor([0.1, 0.0, 0.0, 1.0], dtype=torch.float64)
    case.target = case.start + 0.02  # the last step goes far away from it
    outcome, gradients = case.run(backend)
    assert outcome.step == 3
    assert torch.equal(outcome.distances[1:4], outcome.distances[1].expand(3))
    assert gradients["lr"][0] != 0
    assert gradients["lr"][3] == 0


@pytest.mark.parametrize("gradient", ["exact", "truncated"])
@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("backend", SWEEPS)
def test_every_subset_of_the_gradients(backend: str, augmented: bool, gradient: str) -> None:
    """Gradients that are not requested are None; the others do not depend on what is requested."""
    case = make_case(
        "convnet1-w3", steps=3, labels="soft", size=4, dsa=DsaSettings() if augmented else None, gradient=gradient
    )
    loss, everything = case.run("autograd")
    for count in range(1, len(LEAVES) + 1):
        for needed in combinations(LEAVES, count):
            expected = {name: everything[name] for name in needed}
            assert_same(case.run(backend, wanted=needed), (loss, expected), BOUND)


def test_dropout_draws_the_same_numbers_in_the_sweep() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Flatten(), nn.Linear(128, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3))
    case = make_case(model=model, steps=5)
    actual = case.run("torch")
    assert_same(actual, case.run("autograd"), BOUND)
    model.eval()
    assert not torch.equal(case.run("torch")[0].loss, actual[0].loss)


def test_the_mode_may_change_before_backward() -> None:
    """Both sweeps run the module as it was when `match` was called."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    case = make_case(model=model, steps=2)
    gradients = []
    for training in (True, False):
        images = case.images.clone().requires_grad_()
        torch.manual_seed(5)
        pairs = [(images, case.labels)] * 2
        loss = match(case.model.train(), case.start, case.target, pairs, case.lr, backend="torch").loss
        model.train(training)
        loss.backward()
        gradients.append(images.grad)
    assert torch.equal(*gradients)


def test_autocast_around_the_forward_sweep_alone() -> None:
    """The backward sweep runs the steps again in the forward sweep's precision, wherever backward is called."""
    case = make_case(steps=4)
    case = case.to(torch.float32)
    gradients = []
    for inside in (True, False):
        images = case.images.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            pairs = [(images, case.labels)] * 4
            loss = match(case.model, case.start, case.target, pairs, 0.05, backend="torch").loss
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        gradients.append(images.grad)
    assert torch.equal(*gradients)


def test_a_gradient_that_is_an_expanded_view() -> None:
    """The derivative of a sum over pixels is one number seen at every pixel: it cannot be written to."""

    class SumOverPixels(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.sum((2, 3))

    with torch.random.fork_rng():
        torch.manual_seed(1)
        case = make_case(model=nn.Sequential(SumOverPixels(), nn.Linear(2, 3)), steps=3, lr=0.01)
    assert_same(case.run("torch", recipe=False), case.run("autograd", recipe=False), BOUND)
    images = case.images.clone().requires_grad_()
    pairs = [(images, case.labels)] * 3
    actual = [
        match(case.model, case.start, case.target, pairs, case.lr, backend=value) for value in ("torch", "autograd")
    ]
    one, other = (torch.autograd.grad(value.loss, images)[0] for value in actual)
    torch.testing.assert_close(one, other, rtol=BOUND, atol=0)


def test_a_parameter_that_the_output_ignores() -> None:
    class Partial(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Linear(128, 3)
            self.unused = nn.Parameter(torch.ones(2))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.used(images.flatten(1)).square()

    with torch.random.fork_rng():
        torch.manual_seed(1)
        case = make_case(model=Partial(), steps=3, lr=0.01)
    assert_same(case.run("torch"), case.run("autograd"), BOUND)


def test_fp32_error_is_no_larger_than_the_oracles_own() -> None:
    """Over ten seeds the fp32 sweep is, in the median, at most twice as far from fp64 as the fp32 graph is."""
    errors: dict[str, list[float]] = {"torch": [], "autograd": []}
    for seed in range(10):
        case = make_case(steps=4, lr=0.02)
        case.images = torch.randn(case.images.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        exact = case.run("autograd")[1]["images"]
        for backend, actual in errors.items():
            gradient = case.to(torch.float32).run(backend)[1]["images"].double()
            actual.append(float((gradient - exact).norm() / exact.norm()))
    medians = {backend: float(torch.tensor(actual).median()) for backend, actual in errors.items()}
    assert medians["torch"] <= 2 * medians["autograd"] + 1e-6
