from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pydistill import ops
from pydistill.data import DsaDraw, DsaSettings, augment
from pydistill.data.dsa import COLUMNS, draw_tables
from pydistill.errors import InputError, SettingError
from pydistill.ops.build_info import build_config
from tests.data.slow_dsa import slow

OPERATIONS = ("color", "crop", "cutout", "flip", "scale", "rotate")
SIZES = [(1, 1, 1, 1), (3, 1, 8, 8), (2, 3, 7, 5), (4, 3, 9, 12), (2, 2, 2, 3)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_images(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_operation_equals_the_slow_computation(operation: str, shape: tuple[int, int, int, int], seed: int) -> None:
    images = some_images(*shape)
    draw = DsaSettings(strategy=operation).draw(shape[0], shape[2], shape[3], generator(seed))
    torch.testing.assert_close(augment(images, draw), slow(images, draw), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_sequence_of_operations_equals_the_slow_computation(seed: int) -> None:
    images = some_images(3, 3, 8, 6)
    settings = DsaSettings(strategy="rotate_color_crop_flip_cutout_scale", mode="M")
    draw = settings.draw(3, 8, 6, generator(seed))
    assert draw.operations == ("rotate", "color", "crop", "flip", "cutout", "scale")
    torch.testing.assert_close(augment(images, draw), slow(images, draw), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_gradient_in_fp64(operation: str) -> None:
    draw = DsaSettings(strategy=operation).draw(3, 5, 6, generator(3))
    images = some_images(3, 2, 5, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augment(x, draw), (images,), fast_mode=False)


@pytest.mark.parametrize("operation", ["color", "crop", "cutout", "flip"])
def test_second_derivative(operation: str) -> None:
    draw = DsaSettings(strategy=operation).draw(2, 4, 4, generator(3))
    images = some_images(2, 2, 4, 4).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: augment(x, draw), (images,))


@pytest.mark.parametrize("operation", ["scale", "rotate"])
def test_second_derivative_of_resampling_is_right_or_raises(operation: str) -> None:
    draw = DsaSettings(strategy=operation).draw(2, 4, 4, generator(3))
    images = some_images(2, 2, 4, 4).requires_grad_()
    try:
        assert torch.autograd.gradgradcheck(lambda x: augment(x, draw), (images,))
    except RuntimeError as error:  # older PyTorch without compiled ops lacks this derivative of grid_sample
        if build_config()["compiled"] or "not implemented" not in str(error):
            raise


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_replay_is_equal_bit_for_bit(operation: str, dtype: torch.dtype) -> None:
    images = some_images(5, 3, 8, 8, dtype=dtype)
    draw = DsaSettings(strategy=operation).draw(5, 8, 8, generator(7))
    first = augment(images, draw)
    assert first.dtype == dtype
    assert torch.equal(first, augment(images, draw))
    again = DsaSettings(strategy=operation).draw(5, 8, 8, generator(7))
    assert torch.equal(first, augment(images, again))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_images_of_a_batch_are_independent(operation: str) -> None:
    images = some_images(4, 3, 6, 6)
    draw = DsaSettings(strategy=operation).draw(4, 6, 6, generator(2))
    one = DsaDraw(draw.operations, draw.parameters[2:3], 6, 6)
    torch.testing.assert_close(augment(images, draw)[2:3], augment(images[2:3], one), rtol=1e-12, atol=1e-12)


def test_memory_layout_does_not_change_the_result() -> None:
    images = some_images(3, 3, 8, 8)
    draw = DsaSettings(mode="M").draw(3, 8, 8, generator(4))
    channels_last = images.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(augment(channels_last, draw), augment(images, draw), rtol=1e-12, atol=1e-12)
    strided = torch.stack([images, images], dim=4)[..., 0]
    torch.testing.assert_close(augment(strided, draw), augment(images, draw), rtol=1e-12, atol=1e-12)


def test_shared_draws_one_set_of_parameters_per_batch() -> None:
    settings = DsaSettings(mode="M", shared=True)
    draw = settings.draw(5, 8, 8, generator(1))
    assert draw.parameters.shape[0] == 1
    image = some_images(1, 3, 8, 8)
    result = augment(image.expand(5, 3, 8, 8), draw)
    for row in result[1:]:
        torch.testing.assert_close(row, result[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result, slow(image.expand(5, 3, 8, 8), draw), rtol=1e-9, atol=1e-9)


def test_parameters_differ_between_images_unless_shared() -> None:
    image = some_images(1, 3, 8, 8).expand(5, 3, 8, 8)
    result = augment(image, DsaSettings(strategy="color").draw(5, 8, 8, generator(1)))
    assert not torch.allclose(result[0], result[1])


def test_mode_s_draws_one_operation_per_batch() -> None:
    settings, source = DsaSettings(), generator(0)
    drawn = [settings.draw(2, 8, 8, source).operations for _ in range(600)]
    assert all(len(operations) == 1 for operations in drawn)
    counts = {operation: drawn.count((operation,)) for operation in OPERATIONS}
    assert all(60 < count < 140 for count in counts.values()), counts


def test_mode_m_applies_all_operations_in_order() -> None:
    draw = DsaSettings(strategy="flip_color_crop", mode="M").draw(2, 8, 8, generator())
    assert draw.operations == ("flip", "color", "crop")
    assert draw.parameters.shape == (2, 1 + 3 + 2)
    assert torch.equal(draw.parameter("color"), draw.parameters[:, 1:4])


@pytest.mark.parametrize("strategy", ["", "none"])
@pytest.mark.parametrize("mode", ["S", "M"])
def test_empty_strategy_is_the_identity(strategy: str, mode: str) -> None:
    images = some_images(2, 3, 4, 4)
    draw = DsaSettings(strategy=strategy, mode=mode).draw(2, 4, 4, generator())  # type: ignore[arg-type]
    assert draw.operations == ()
    assert torch.equal(augment(images, draw), images)


def test_empty_batch() -> None:
    for shared in (False, True):
        draw = DsaSettings(mode="M", shared=shared).draw(0, 8, 8, generator())
        assert augment(torch.empty(0, 3, 8, 8), draw).shape == (0, 3, 8, 8)


def test_draws_fill_the_published_ranges() -> None:
    def column(operation: str) -> Tensor:
        return DsaSettings(strategy=operation).draw(4000, 32, 20, generator(0)).parameter(operation)

    brightness, saturation, contrast = column("color").unbind(1)
    assert -0.5 <= brightness.min() < -0.49
    assert 0.49 < brightness.max() < 0.5
    assert 0 <= saturation.min() < 0.01
    assert 1.99 < saturation.max() < 2
    assert 0.5 <= contrast.min() < 0.51
    assert 1.49 < contrast.max() < 1.5
    assert sorted(column("crop")[:, 0].unique().tolist()) == list(range(-4, 5))
    assert sorted(column("crop")[:, 1].unique().tolist()) == list(range(-3, 4))
    first_row, end_row, first_column, end_column = column("cutout").unbind(1)
    assert (first_row.min(), end_row.max(), first_column.min(), end_column.max()) == (0, 32, 0, 20)
    assert sorted((end_row - first_row).unique().tolist()) == list(range(8, 17))
    assert sorted((end_column - first_column).unique().tolist()) == list(range(5, 11))
    assert 0.47 < column("flip").mean() < 0.53
    assert column("flip").unique().tolist() == [0, 1]
    assert 1 / 1.2 <= column("scale").min() < 0.84
    assert 1.19 < column("scale").max() < 1.2
    angle = math.radians(15)
    assert -angle <= column("rotate").min() < -0.99 * angle
    assert 0.99 * angle < column("rotate").max() < angle


def test_draws_do_not_use_the_global_random_state() -> None:
    state = torch.random.get_rng_state()
    DsaSettings(mode="M").draw(3, 8, 8, generator())
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("strategy", "color_colour"),
        ("mode", "T"),
        ("flip", 1.5),
        ("scale", 0.5),
        ("rotate", math.nan),
        ("crop", -0.1),
        ("contrast", math.inf),
    ],
)
def test_settings_outside_their_limits(name: str, value: object) -> None:
    with pytest.raises(SettingError) as raised:
        DsaSettings(**{name: value})  # type: ignore[arg-type]
    assert raised.value.setting == name


def test_draw_for_other_images_is_refused() -> None:
    draw = DsaSettings().draw(3, 8, 8, generator())
    with pytest.raises(InputError, match=r"a draw for 3 images of 8×8 on cpu does not fit images \[4, 1, 8, 8\]"):
        augment(torch.zeros(4, 1, 8, 8), draw)
    with pytest.raises(InputError, match=r"does not fit images"):
        augment(torch.zeros(3, 1, 8, 9), draw)
    with pytest.raises(InputError, match=r"floating point"):
        augment(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), draw)
    with pytest.raises(InputError, match=r"batch=-1"):
        DsaSettings().draw(-1, 8, 8, generator())
    with pytest.raises(InputError, match="'unknown'"):
        draw.parameter("unknown")


@pytest.mark.parametrize("mode", ["S", "M"])
@pytest.mark.parametrize("shared", [False, True])
def test_rows_of_the_tables_are_draws(mode: str, shared: bool) -> None:
    images, source = some_images(3, 3, 8, 6), generator(5)
    settings = DsaSettings(mode=mode, shared=shared)  # type: ignore[arg-type]
    draws = [settings.draw(3, 8, 6, source) for _ in range(12)]
    operations, parameters = draw_tables(draws, "cpu", torch.float64)
    width = 13 if mode == "M" else max(COLUMNS[draw.operations[0]] for draw in draws)
    assert (operations.dtype, operations.shape) == (torch.int64, (12, 6 if mode == "M" else 1))
    assert (parameters.dtype, parameters.shape) == (torch.float64, (12, 1 if shared else 3, width))
    for row, draw in enumerate(draws):
        assert torch.equal(ops.augment(images, operations[row], parameters[row]), augment(images, draw))


def test_tables_of_draws_that_differ_in_length() -> None:
    images = some_images(2, 3, 8, 6)
    settings = [DsaSettings("flip"), DsaSettings("none"), DsaSettings("cutout_color", mode="M", shared=True)]
    draws = [choice.draw(2, 8, 6, generator()) for choice in settings]
    operations, parameters = draw_tables(draws, "cpu", torch.float64)
    assert operations.tolist() == [[3, -1], [-1, -1], [2, 0]]
    assert parameters.shape == (3, 2, 7)
    assert not parameters[0, :, 1:].any()
    for row, draw in enumerate(draws):
        assert torch.equal(ops.augment(images, operations[row], parameters[row]), augment(images, draw))


def test_tables_of_no_draws() -> None:
    operations, parameters = draw_tables([], "cpu", torch.float32)
    assert operations.shape == (0, 0)
    assert parameters.shape == (0, 1, 0)


def test_tables_of_draws_for_different_images_are_refused() -> None:
    with pytest.raises(InputError, match=r"one size, not for images of \[\(8, 6\), \(8, 8\)\] and batches of \[2\]"):
        draw_tables([DsaSettings().draw(2, 8, width, generator()) for width in (6, 8)], "cpu", torch.float32)
    with pytest.raises(InputError, match=r"batches of \[2, 3\]"):
        draw_tables([DsaSettings().draw(batch, 8, 8, generator()) for batch in (2, 3)], "cpu", torch.float32)


def test_first_call_in_inference_mode_does_not_affect_later_calls() -> None:
    images = some_images(2, 3, 5, 5)
    draw = DsaSettings(strategy="flip_cutout_crop", mode="M").draw(
        2, 5, 5, generator()
    )  # an order that no other test uses
    with torch.inference_mode():
        augment(images, draw)
    leaf = images.clone().requires_grad_()
    augment(leaf, draw).sum().backward()
    assert leaf.grad is not None


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_gpu_agrees_with_cpu(operation: str) -> None:
    images = some_images(3, 3, 9, 7)
    draw = DsaSettings(strategy=operation).draw(3, 9, 7, generator())
    on_gpu = augment(images.cuda(), draw.to("cuda"))
    torch.testing.assert_close(on_gpu.cpu(), augment(images, draw), rtol=1e-9, atol=1e-9)
