"""Against formulas that share no code with either backend."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck
from torch.func import functional_call

from pydistill.matching import Batches, match, select_step
from pydistill.matching.selection import distance_from_sums, distance_sums
from pydistill.nn import ConvNet
from pydistill.nn.flat import layout_of
from tests.matching.problems import ALL, FUSED, SWEEPS, make_case, relative_error


@pytest.mark.parametrize("gradient", ["exact", "truncated"])
@pytest.mark.parametrize("backend", ALL)
def test_pixels_by_forward_mode(backend: str, gradient: str) -> None:
    """One directional derivative in the pixels, carried forward through the unrolled steps by the Hessian's own
    products.

    With v_k = dθ_k along the direction Ẋ:  v_{k+1} = v_k − α (H_k v_k + ∂g_k/∂X Ẋ), without H_k v_k for `truncated`.
    """
    case = make_case("mlp-w8", steps=4, gradient=gradient)
    layout = layout_of(case.model)
    direction = torch.randn(case.images.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def student_gradient(theta: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        def loss(theta: Tensor) -> Tensor:
            return F.cross_entropy(functional_call(case.model, layout.split(theta), (images,)), labels)

        return torch.func.grad(loss)(theta)

    theta, velocity = case.start, torch.zeros_like(case.start)
    for rows in case.index:
        labels = case.labels[rows]
        along_theta = velocity if gradient == "exact" else torch.zeros_like(velocity)
        value, derivative = torch.func.jvp(
            lambda theta, images, labels=labels: student_gradient(theta, images, labels),
            (theta, case.images[rows]),
            (along_theta, direction[rows]),
        )
        theta, velocity = theta - case.lr * value, velocity - case.lr * derivative
    scale = 2 / (case.start - case.target).square().sum()
    expected = scale * torch.dot(theta - case.target, velocity)
    actual = (case.run(backend)[1]["images"] * direction).sum()
    assert relative_error(actual, expected) < 1e-10


@pytest.mark.parametrize("labels", ["hard", "soft", "logits"])
@pytest.mark.parametrize(
    ("backend", "activation"), [("torch", "sigmoid"), pytest.param(*FUSED.values, "relu", marks=FUSED.marks)]
)
def test_gradcheck(backend: str, activation: str, labels: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ConvNet(1, 2, 4, width=1, depth=1, activation=activation).double()
    generator = torch.Generator().manual_seed(0)
    total = layout_of(model).total

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    start, target, images = normal(total), normal(total), normal(2, 1, 4, 4)
    rows = torch.tensor([0, 1]) if labels == "hard" else normal(2, 2)
    if labels == "soft":
        rows = rows.detach().softmax(1).requires_grad_()
    index = torch.tensor([[0, 1], [1, 0], [1, 1]])
    lr = torch.tensor([0.3, 0.2, 0.1], dtype=torch.float64, requires_grad=True)

    def loss(start: Tensor, target: Tensor, lr: Tensor, images: Tensor, rows: Tensor) -> Tensor:
        batches = Batches(images, rows, index)
        return match(model, start, target, batches, lr, backend=backend, label_logits=labels == "logits").loss

    assert gradcheck(loss, (start, target, lr, images, rows))


@pytest.mark.parametrize("backend", SWEEPS)
def test_second_derivative_of_the_sweep_raises(backend: str) -> None:
    case = make_case(steps=2)
    images = case.images.clone().requires_grad_()
    batches = Batches(images, case.labels, case.index)
    loss = match(case.model, case.start, case.target, batches, case.lr, backend=backend).loss
    (gradient,) = torch.autograd.grad(loss, images, create_graph=True)
    with pytest.raises(RuntimeError, match=f"'{backend}'"):
        (gradient.sum() + images.sum()).backward()


@pytest.mark.parametrize("backend", ALL)
def test_truncation_changes_the_gradient(backend: str) -> None:
    exact = make_case(steps=5).run(backend)
    truncated = make_case(steps=5, gradient="truncated").run(backend)
    assert torch.equal(exact[0].loss, truncated[0].loss)
    assert relative_error(truncated[1]["images"], exact[1]["images"]) > 1e-3


def test_selection_takes_the_later_of_equal_steps() -> None:
    distances = torch.tensor([0.5, 3.0, 1.0, 2.0, 1.0, 4.0])
    assert select_step(distances, "nearest") == 4
    assert select_step(distances, "last") == 5


def test_selection_never_takes_the_start_and_has_no_cap() -> None:
    assert select_step(torch.tensor([0.0, 3e9, 2e9]), "nearest") == 2


def test_selection_passes_over_what_is_not_a_number() -> None:
    assert select_step(torch.tensor([1.0, 2.0, torch.nan, torch.inf]), "nearest") == 1


def test_distances() -> None:
    theta, target = torch.tensor([1.0, -2.0]), torch.tensor([0.0, 2.0])
    sums = distance_sums(theta, target)
    assert float(distance_from_sums(sums, "l1")) == 5.0
    assert float(distance_from_sums(sums, "l2")) == pytest.approx(17.0**0.5)
