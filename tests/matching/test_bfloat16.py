"""Activations in bfloat16: what is rounded and what is not, how near the gradient is to the exact one, who refuses."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import pydistill
from pydistill.distillation.distiller import DistillSettings
from pydistill.engine.student import fused_student, kept_programs, release_students
from pydistill.errors import BackendError, InputError
from pydistill.matching import Batches, choose_backend, match, match_many
from pydistill.matching.backends.program import Arrangement, key_of
from pydistill.matching.batches import plan_of
from pydistill.nn import MLP, AlexNet, ConvNet, flatten, layout_of
from tests.matching.engine import GradientBackend, Network, Point, by_autograd, by_engine, point_of, student_of
from tests.matching.problems import Case, make_case, needs_engine

pytestmark = needs_engine


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    release_students()
    yield
    release_students()


def network(kind: str = "convnet", **changes: object) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "mlp":
            return MLP(2, 3, (5, 7), **({"width": 32} | changes))
        return ConvNet(2, 3, 16, **({"width": 32, "depth": 2} | changes))


def passes(model: Network, at: Point, activations: str, slice_bytes: int = 0) -> GradientBackend:
    """The engine's, in float32, by ATen's products."""
    batch = len(at.images)
    settings = {"products": "aten", "slice_bytes": slice_bytes, "activations": activations}
    return by_engine(student_of(model, batch, torch.float32, **settings), at)


def cosine(one: Tensor, other: Tensor) -> float:
    one, other = one.double().flatten(), other.double().flatten()
    return float(torch.dot(one, other) / (one.norm() * other.norm()))


def is_bfloat16(values: Tensor) -> bool:
    return torch.equal(values, values.bfloat16().float())


MODELS = {
    "average": network(),
    "max": network(pooling="max"),
    "no norm": network(norm="none"),
    "no pooling": network(pooling="none", depth=1),
    "mlp": network("mlp"),
}


@pytest.mark.parametrize("labels", ["hard", "soft"])
@pytest.mark.parametrize("name", MODELS)
def test_one_step_is_near_the_exact_one_but_not_as_near_as_float32(name: str, labels: str) -> None:
    model = MODELS[name]
    at = point_of(model, 5, labels=labels).to(torch.float32)
    exact = by_autograd(model.double(), at.to(torch.float64))
    rounded, single = passes(model, at, "bfloat16"), passes(model, at, "float32")
    for what in ("gradient", "logits", "product", "images"):
        truth = vars(exact)[what]
        assert vars(rounded)[what].dtype == torch.float32
        # With max pooling another pixel of a window may win, and whole gradients go elsewhere.
        assert cosine(vars(rounded)[what], truth) >= (0.96 if name == "max" else 0.99)
        error, without = ((vars(each)[what].double() - truth).norm() / truth.norm() for each in (rounded, single))
        assert 1e-4 < error < (0.3 if name == "max" else 0.15)  # bfloat16 rounds by up to 4e-3
        assert without < 1e-4


def test_the_classifier_and_its_loss_are_in_float32() -> None:
    """Without hidden layers there are no planes, and nothing differs."""
    model = network("mlp", depth=1)
    at = point_of(model, 6, labels="soft").to(torch.float32)
    rounded, single = passes(model, at, "bfloat16"), passes(model, at, "float32")
    for what, value in vars(single).items():
        assert torch.equal(vars(rounded)[what], value), what
    assert not is_bfloat16(at.theta)
    assert not is_bfloat16(single.logits)


@pytest.mark.parametrize("kind", ["mlp", "convnet"])
def test_planes_that_bfloat16_holds_exactly_give_the_logits_of_float32(kind: str) -> None:
    """Whole numbers in images and hidden weights; hidden biases and a classifier that bfloat16 cannot hold."""
    model = network("mlp", depth=2) if kind == "mlp" else network(norm="none", pooling="none", depth=1)
    at = point_of(model, 4).to(torch.float32)
    generator = torch.Generator().manual_seed(1)
    layout = layout_of(model)
    pieces = layout.split(at.theta.clone())
    names = list(pieces)
    pieces[names[0]] = torch.randint(-1, 2, pieces[names[0]].shape, generator=generator).float()
    pieces[names[1]] = torch.full_like(pieces[names[1]], -1 + 2.0**-10)  # −1 in bfloat16
    at.theta = layout.join(list(pieces.values()))
    pixels = torch.zeros_like(at.images).flatten(1)  # a single one in each image, so that sums are −1, 0 or 1
    pixels[torch.arange(4), torch.tensor([3, 20, 40, 61])] = 1
    at.images = pixels.view_as(at.images)
    rounded, single = passes(model, at, "bfloat16"), passes(model, at, "float32")
    assert torch.equal(rounded.logits, single.logits)
    assert torch.equal(rounded.losses, single.losses)
    without = layout.join([torch.full_like(each, -1) if name == names[1] else each for name, each in pieces.items()])
    other = student_of(model, 4, torch.float32, products="aten").classify(without, at.images)
    assert not torch.equal(other, single.logits), "the biases make no difference, so nothing is compared"


def test_weight_gradients_are_summed_over_slices_in_float32() -> None:
    """Seven times the same image, one in each slice: the sum is seven times a bfloat16 number, and itself none."""
    model = network()
    at = point_of(model, 1).to(torch.float32)
    at.images, at.labels = at.images.expand(7, -1, -1, -1).contiguous(), at.labels.expand(7).contiguous()
    gradient = layout_of(model).split(passes(model, at, "bfloat16", slice_bytes=1).gradient)
    kernels = [each for each in gradient.values() if each.ndim == 4]
    assert len(kernels) == 2
    for each in kernels:
        seventh = (each / 7).bfloat16().float()
        assert torch.equal(7 * seventh, each)
        assert not is_bfloat16(each)


@pytest.fixture(scope="module")
def found() -> dict[str, list[tuple[float, float]]]:
    """Cosine with and relative error from the exact gradient in the images, five steps, for ten seeds."""
    results: dict[str, list[tuple[float, float]]] = {"float32": [], "bfloat16": []}
    for seed in range(10):
        case = case_of(seed)
        exact = case.to(torch.float64).run("autograd", wanted=["images"])[1]["images"]
        for activations, rows in results.items():
            case.options = {"activations": activations}
            gradient = case.run("fused", wanted=["images"])[1]["images"].double()
            rows.append((cosine(gradient, exact), float((gradient - exact).norm() / exact.norm())))
    return results


def case_of(seed: int) -> Case:
    case = make_case(model=ConvNet(2, 3, 8, width=16, depth=2), steps=5).to(torch.float32)
    generator = torch.Generator().manual_seed(seed)
    case.images = torch.randn(case.images.shape, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        case.start = flatten(ConvNet(2, 3, 8, width=16, depth=2)).detach()
    case.target = case.start + 0.02 * torch.randn(case.start.shape, generator=generator)
    return case


def test_the_gradient_of_a_match_points_where_the_exact_one_does(found: dict[str, list[tuple[float, float]]]) -> None:
    cosines, errors = zip(*found["bfloat16"], strict=True)
    assert statistics.median(cosines) >= 0.99
    assert min(cosines) >= 0.9
    assert min(errors) > 1e-3, "nothing was rounded to bfloat16"
    assert statistics.median(error for _, error in found["float32"]) < 1e-4


def test_float32_is_the_default_and_untouched_by_what_ran_before() -> None:
    case = case_of(0)
    before = case.run("fused")
    case.options = {"activations": "bfloat16"}
    rounded = case.run("fused")
    again = case.run("fused")
    assert torch.equal(rounded[0].loss, again[0].loss)
    assert not torch.equal(rounded[0].loss, before[0].loss)
    for options in ({}, {"activations": "float32"}):
        case.options = options
        after = case.run("fused")
        assert torch.equal(after[0].loss, before[0].loss)
        assert all(torch.equal(value, before[1][name]) for name, value in after[1].items())


def test_students_and_programs_are_kept_for_their_activations() -> None:
    case = case_of(0)
    shape = Arrangement(plan_of(Batches(case.images, case.labels, case.index), False)).shape
    keys = {key_of(case.model, case.start, shape, each) for each in ("float32", "bfloat16")}
    assert len(keys) == 2
    students = [fused_student(case.model, [4, 2, 8, 8], case.start, each) for each in ("float32", "bfloat16") * 2]
    at = point_of(case.model, 4).to(torch.float32)
    gradients = [student.gradient(at.theta, at.images, at.labels)[0] for student in students]
    assert torch.equal(gradients[0], gradients[2])
    assert torch.equal(gradients[1], gradients[3])
    assert not torch.equal(gradients[0], gradients[1])
    for case.options in ({"activations": "bfloat16"}, {}, {"activations": "bfloat16"}):
        case.run("fused")
    assert len(kept_programs) == 2


def test_auto_takes_fused_and_match_many_is_match_of_each() -> None:
    case = case_of(0)
    case.options = {"activations": "bfloat16"}
    expected = case.run("auto")
    assert expected[0].backend == "fused"
    batches = Batches(case.images, case.labels, case.index)
    arguments = (case.model, [case.start] * 2, [case.target] * 2, [batches] * 2, case.lr)
    for each in match_many(*arguments, activations="bfloat16"):
        assert torch.equal(each.loss, expected[0].loss)


@pytest.mark.parametrize("backend", ["torch", "autograd"])
def test_other_backends_refuse(backend: str) -> None:
    case = case_of(0)
    case.options = {"activations": "bfloat16"}
    with pytest.raises(BackendError, match=f"backend '{backend}' has no activations in bfloat16: take backend 'fused'"):
        case.run(backend)
    with pytest.raises(InputError, match=f"activations = bfloat16 needs backend fused .or auto., not {backend}"):
        DistillSettings(activations="bfloat16", backend=backend).check()  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["auto", "fused"])
def test_what_cannot_run_is_an_error_and_no_other_backend(backend: str) -> None:
    case = case_of(0).to(torch.float64)
    case.options = {"activations": "bfloat16"}
    with pytest.raises(BackendError, match=r"they go with parameters in float32, not torch.float64; take activations="):
        case.run(backend)
    with pytest.raises(BackendError, match=r"bfloat16: it runs pydistill.nn.ConvNet and MLP, not AlexNet; take"):
        choose_backend(backend, AlexNet(3, 10, 32, width=8), torch.empty(0), activations="bfloat16")


def test_names_that_are_none() -> None:
    case = case_of(0)
    batches = Batches(case.images, case.labels, case.index)
    with pytest.raises(InputError, match="activations must be one of 'float32', 'bfloat16', not 'half'"):
        match(case.model, case.start, case.target, batches, 0.1, activations="half")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="activations must be one of float32, bfloat16, not 'half'"):
        DistillSettings(activations="half").check()  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="activations half is not known"):
        student_of(case.model, 4, torch.float32, activations="half")
    with pytest.raises(ValueError, match="its parameters must be float, not double"):
        student_of(case.model, 4, products="aten", activations="bfloat16")
    with pytest.raises(ValueError, match="on the CPU its products must be aten"):
        student_of(case.model, 4, torch.float32, activations="bfloat16")


SWITCHES = r"allow_tf32\s*=[^=]|fp32_precision\s*=[^=]|set_float32_matmul_precision|[sS]etAllowTF32|setFloat32"


def test_nothing_in_the_package_changes_the_switches_of_tf32() -> None:
    """They are the user's: looked for in the sources, and read after all backends have run."""
    package = Path(pydistill.__file__).parent
    sources = [*package.rglob("*.py"), *(each for each in (package.parent / "csrc").rglob("*.*"))]
    assert len(sources) > 100
    assert [each for each in sources if re.search(SWITCHES, each.read_text())] == []
    assert re.search(SWITCHES, "torch.backends.cuda.matmul.allow_tf32 = True")

    def switches() -> tuple[object, ...]:
        backends = torch.backends
        cudnn = backends.cudnn
        return (
            (backends.cuda.matmul.allow_tf32, cudnn.allow_tf32, torch.get_float32_matmul_precision()),
            (cudnn.enabled, cudnn.benchmark, cudnn.deterministic),
        )

    before = switches()
    case = case_of(0)
    for backend, activations in (
        ("fused", "float32"),
        ("fused", "bfloat16"),
        ("torch", "float32"),
        ("autograd", "float32"),
    ):
        case.options = {"activations": activations}
        case.run(backend)
    assert switches() == before
