"""The engine's classes in Python: named fields, the exceptions of their checks, and other threads meanwhile."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from pydistill.engine.student import architecture_of, fused_student
from pydistill.nn import MLP, ConvNet, flatten
from tests.matching.problems import needs_engine

pytestmark = needs_engine


def test_an_architecture_has_named_fields() -> None:
    actual = architecture_of(ConvNet(2, 3, 8, width=4, depth=2, pooling="max", first_padding=3), [5, 2, 8, 8])
    assert (actual.kind, actual.channels, actual.height, actual.width, actual.classes) == ("convnet", 2, 8, 8, 3)
    assert (actual.units, actual.depth, actual.norm, actual.pooling) == (4, 2, "instance", "max")
    assert (actual.eps, actual.first_padding) == (1e-5, 3)
    assert architecture_of(MLP(2, 3, 8), [5, 2, 8, 8]).kind == "mlp"


def test_architectures_with_equal_fields_are_equal() -> None:
    model = ConvNet(2, 3, 8, width=4, depth=2)
    one, same = (architecture_of(model, [batch, 2, 8, 8]) for batch in (1, 5))
    other = architecture_of(ConvNet(2, 3, 8, width=5, depth=2), [1, 2, 8, 8])
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != "convnet"
    assert "convnet" in repr(one)


@pytest.mark.parametrize(
    "change", [{"kind": "vit"}, {"norm": "batch"}, {"pooling": "min"}, {"width": 0}, {"eps": -1.0}]
)
def test_an_architecture_that_is_not_known_is_a_value_error(change: dict[str, object]) -> None:
    from pydistill import _C

    fields = {"kind": "convnet", "channels": 2, "height": 8, "width": 8, "classes": 3, "units": 4, "depth": 2}
    with pytest.raises(ValueError, match=next(iter(change))):
        _C.Architecture(**(fields | change))  # type: ignore[arg-type]


def test_arguments_of_the_wrong_type_are_type_errors() -> None:
    from pydistill import _C

    with pytest.raises(TypeError):
        _C.Architecture("convnet")  # type: ignore[call-arg,misc]
    student = fused_student(ConvNet(2, 3, 8, width=4, depth=1), [1, 2, 8, 8], torch.empty(0))
    with pytest.raises(TypeError):
        student.classify([0.0], torch.zeros(1, 2, 8, 8))  # type: ignore[arg-type]


def test_other_threads_run_while_the_engine_works() -> None:
    """One call of about half a second; another thread notes the time every millisecond."""
    model = ConvNet(3, 10, 32, width=64, depth=3)
    images, labels, theta = torch.randn(128, 3, 32, 32), torch.arange(128) % 10, flatten(model)
    student = fused_student(model, list(images.shape), images)
    student.gradient(theta, images, labels)
    ticks: list[float] = []
    done = threading.Event()

    def tick() -> None:
        while not done.wait(0.001):
            ticks.append(time.perf_counter())

    ticking = threading.Thread(target=tick)
    ticking.start()
    start = time.perf_counter()
    student.gradient(theta, images, labels)
    quarter = (time.perf_counter() - start) / 4
    done.set()
    ticking.join()
    assert any(start + quarter < moment < start + 3 * quarter for moment in ticks)
