"""Every decoder: images by literal loops, the pull-back as the transpose or by gradcheck, storage, refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pydistill.errors import SettingError
from pydistill.synthesis.decoders import Decoder, DecoderSettings, make_decoder
from pydistill.synthesis.set import SyntheticSet

SHAPE = (2, 4, 8)
CLASSES = 3
KINDS: dict[str, dict[str, Any]] = {
    "pixels": {},
    "upsample": {"factor": 2},
    "mirror": {},
    "dct": {"coefficients": 5},
    "gaussians": {"images": 3, "stored": "float32", "fit_steps": 3},
    "siren": {"width": 3, "layers": 2, "fit_steps": 3},
}
LINEAR = ("pixels", "upsample", "mirror", "dct")


def settings(kind: str, **changes: Any) -> DecoderSettings | None:
    return None if kind == "pixels" else DecoderSettings(kind=kind, **KINDS[kind] | changes)  # type: ignore[arg-type]


def synthetic(
    kind: str, ipc: int = 1, shape: tuple[int, int, int] = SHAPE, dtype: torch.dtype = torch.float64, **changes: Any
) -> tuple[SyntheticSet, Tensor]:
    """A set whose codes encode random images, and these images."""
    generator = torch.Generator().manual_seed(0)
    decoder = make_decoder(settings(kind, **changes), shape, ipc)
    images = torch.randn(CLASSES * decoder.images_per_class, *shape, generator=generator, dtype=dtype)
    classes = torch.arange(CLASSES).repeat_interleave(decoder.images_per_class)
    encoded = decoder.encode(images, classes, generator)
    codes = {name: code.clone().requires_grad_() for name, code in encoded.items()}
    return SyntheticSet(decoder, codes, classes, None, "hard", torch.tensor(0.1, dtype=dtype)), images


def random_codes(of: SyntheticSet) -> dict[str, Tensor]:
    return {name: torch.randn_like(code) for name, code in of.codes.items()}


@pytest.mark.parametrize("kind", LINEAR)
@pytest.mark.parametrize("ipc", [1, 3])
def test_pull_back_is_the_transpose(kind: str, ipc: int) -> None:
    """⟨Dz, g⟩ = ⟨z, Dᵀg⟩ with Dᵀg as the distiller computes it."""
    torch.manual_seed(1)
    some = synthetic(kind, ipc)[0]
    codes, gradient = random_codes(some), torch.randn_like(some.images)
    pulled = some.matched().pull_back({"images": gradient})
    forward = torch.sum(some.decoder.decode(codes) * gradient)
    backward = sum(torch.sum(codes[name] * pulled[name]) for name in codes)
    torch.testing.assert_close(forward, backward, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["gaussians", "siren"])
def test_derivative(kind: str) -> None:
    decoder: Decoder
    some = synthetic(kind, fit_steps=0, **({"first_omega": 3.0, "omega": 2.0} if kind == "siren" else {}))[0]
    decoder, names = some.decoder, list(some.codes)

    def images(*codes: Tensor) -> Tensor:
        return decoder.decode(dict(zip(names, codes, strict=True)))

    assert torch.autograd.gradcheck(images, tuple(some.codes.values()))


def test_upsample_by_hand() -> None:
    some = synthetic("upsample", factor=4)[0]
    small = random_codes(some)["small_images"]
    images = some.decoder.decode({"small_images": small})

    def weights(place: int, size: int) -> list[tuple[int, float]]:
        """The two neighbours of an output pixel's centre, and their weights."""
        source = min(max((place + 0.5) / 4 - 0.5, 0.0), size - 1.0)
        lower = int(source)
        upper = min(lower + 1, size - 1)
        return [(lower, 1 - (source - lower)), (upper, source - lower)]

    assert small.shape == (CLASSES * 16, 2, 1, 2)
    for row in range(4):
        for column in range(8):
            expected = sum(
                down * across * small[:, :, i, j] for i, down in weights(row, 1) for j, across in weights(column, 2)
            )
            torch.testing.assert_close(images[:, :, row, column], expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        images, functional.interpolate(small, scale_factor=4, mode="bilinear", align_corners=False)
    )


def test_upsample_stores_means_of_blocks() -> None:
    some, images = synthetic("upsample")
    expected = (
        images[..., 0::2, 0::2] + images[..., 1::2, 0::2] + images[..., 0::2, 1::2] + images[..., 1::2, 1::2]
    ) / 4
    torch.testing.assert_close(some.codes["small_images"].detach(), expected)


def test_mirror_images_follow_their_originals() -> None:
    some, images = synthetic("mirror", ipc=2)
    decoded = some.images
    for number in range(len(decoded)):
        for column in range(8):
            source = images[number - number % 2][..., 7 - column if number % 2 else column]
            assert torch.equal(decoded[number][..., column], source)


def dct_by_definition(image: Tensor) -> Tensor:
    """The orthonormal DCT-II of one channel [H, W], every coefficient a double sum."""
    height, width = image.shape
    result = torch.zeros_like(image)
    for h in range(height):
        for w in range(width):
            scale = math.sqrt((1 if h == 0 else 2) / height) * math.sqrt((1 if w == 0 else 2) / width)
            for i in range(height):
                for j in range(width):
                    down = math.cos(math.pi * (2 * i + 1) * h / (2 * height))
                    across = math.cos(math.pi * (2 * j + 1) * w / (2 * width))
                    result[h, w] += scale * down * across * image[i, j]
    return result


def test_dct_chooses_the_frequencies_that_vary_most() -> None:
    some, images = synthetic("dct")
    per_class = some.decoder.images_per_class
    assert per_class == 32 // 5
    spectra = torch.stack([torch.stack([dct_by_definition(channel) for channel in image]) for image in images])
    frequencies = some.decoder.buffers["frequencies"]
    assert frequencies.dtype == torch.int16
    for label in range(CLASSES):
        of_class = spectra[label * per_class : (label + 1) * per_class]
        variance = of_class.mean(dim=1).var(dim=0, correction=0).flatten()
        chosen = sorted(sorted(range(32), key=lambda place: -float(variance[place]))[:5])
        assert frequencies[label].tolist() == chosen
        stored = some.codes["coefficients"][label * per_class : (label + 1) * per_class]
        torch.testing.assert_close(stored.detach(), of_class.flatten(2)[..., chosen], rtol=1e-12, atol=1e-12)


def test_dct_images_have_these_coefficients_alone() -> None:
    some = synthetic("dct")[0]
    codes = random_codes(some)
    frequencies = some.decoder.buffers["frequencies"].long()
    for number, image in enumerate(some.decoder.decode(codes)):
        expected = torch.zeros(2, 32, dtype=torch.float64)
        expected[:, frequencies[number // some.decoder.images_per_class]] = codes["coefficients"][number]
        spectrum = torch.stack([dct_by_definition(channel) for channel in image]).flatten(1)
        torch.testing.assert_close(spectrum, expected, rtol=1e-12, atol=1e-12)


def test_dct_with_all_coefficients_is_exact() -> None:
    some, images = synthetic("dct", coefficients=32)
    torch.testing.assert_close(some.images, images, rtol=1e-12, atol=1e-12)


def gaussians_by_pixel(gaussians: Tensor, channels: int, height: int, width: int) -> Tensor:
    """One image of Gaussians [p, 6 + C], point by point."""
    image = torch.zeros(channels, height, width, dtype=gaussians.dtype)
    for values in gaussians:
        x, y, l1, l2, l3, opacity = values[:6].tolist()
        lower = torch.tensor([[l1, 0.0], [l2, l3]], dtype=gaussians.dtype)
        inverse = torch.linalg.inv(lower @ lower.T + torch.eye(2, dtype=gaussians.dtype) / 12)
        centre = torch.tensor([(x + 1) * width / 2, (y + 1) * height / 2], dtype=gaussians.dtype)
        for row in range(height):
            for column in range(width):
                for down, across in ((0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75)):
                    away = torch.tensor([column + across, row + down], dtype=gaussians.dtype) - centre
                    density = math.exp(-float(away @ inverse @ away) / 2)
                    image[:, row, column] += opacity * density * values[6:] / 4
    return image


def test_gaussians_point_by_point() -> None:
    torch.manual_seed(1)
    some = synthetic("gaussians", ipc=2)[0]
    gaussians = some.codes["gaussians"].detach() + 0.3 * random_codes(some)["gaussians"]
    assert gaussians.shape == (9, 5, 8)  # 2 · 64 numbers of a class for 3 images of p · 8
    images = some.decoder.decode({"gaussians": gaussians})
    for number in (0, 4, 8):
        expected = gaussians_by_pixel(gaussians[number], *SHAPE)
        torch.testing.assert_close(images[number], expected, rtol=1e-11, atol=1e-11)


def test_gaussians_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two images give the images and gradients of one block."""
    some = synthetic("gaussians", ipc=2)[0]
    gradient = torch.randn_like(some.images)
    whole, pulled = some.images, some.matched().pull_back({"images": gradient})
    monkeypatch.setattr("pydistill.synthesis.decoders.gaussians._AT_ONCE", 2 * 4 * 32 * 5)
    torch.testing.assert_close(some.images, whole, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(some.matched().pull_back({"images": gradient}), pulled, rtol=1e-12, atol=1e-13)


def test_gaussians_are_rounded_to_bfloat16() -> None:
    """The images are those of the stored numbers, bit for bit; the gradient passes by the rounding."""
    some = synthetic("gaussians", stored="bfloat16", dtype=torch.float32)[0]
    assert some.codes["gaussians"].shape == (9, 5, 8)  # twice the points of float32
    stored = some.decoder.compact(some.codes)
    assert stored["gaussians"].dtype == torch.bfloat16
    exact = {"gaussians": stored["gaussians"].float().requires_grad_()}
    images = some.decoder.decode(exact)
    assert torch.equal(some.images, images)
    assert not torch.equal(some.codes["gaussians"], exact["gaussians"])
    gradient = torch.randn_like(images)
    some.decoder.boundary = 0.0  # type: ignore[attr-defined]
    expected = torch.autograd.grad(images, exact["gaussians"], gradient)[0]
    assert torch.equal(some.matched().pull_back({"images": gradient})["gaussians"], expected)


def test_boundary_term_of_gaussians() -> None:
    """It is added to the gradient, and grows towards the boundary, which projection keeps."""
    some = synthetic("gaussians", boundary=0.3)[0]
    nothing = torch.zeros_like(some.images)
    gradient = some.matched().pull_back({"images": nothing})["gaussians"]
    x = some.codes["gaussians"].detach()[..., :2]
    count = x[..., 0].numel()
    torch.testing.assert_close(gradient[..., :2], 0.3 * 2 * x / (1 - x.square()) / count, rtol=1e-12, atol=1e-12)
    assert not gradient[..., 2:].any()
    expected = -(torch.log(1 - x[..., 0] ** 2) + torch.log(1 - x[..., 1] ** 2)).mean() * 0.3
    torch.testing.assert_close(some.decoder.penalty(some.codes), expected.requires_grad_(False))
    far = {"gaussians": some.codes["gaussians"].detach() * 5}
    kept = some.decoder.project(far)["gaussians"]
    assert torch.equal(kept[..., :2], far["gaussians"][..., :2].clamp(-0.999, 0.999))
    assert torch.equal(kept[..., 2:], far["gaussians"][..., 2:])


def test_siren_by_hand() -> None:
    some = synthetic("siren", ipc=2)[0]
    weights = some.codes["weights"].detach()
    assert weights.shape == (CLASSES * (128 // 29), 29)  # 2·3 + 3, 3·3 + 3, 3·2 + 2
    for number in (0, len(weights) - 1):
        parts = weights[number].split([6, 3, 9, 3, 6, 2])
        first, second, last = parts[0].view(3, 2), parts[2].view(3, 3), parts[4].view(2, 3)
        for row in range(4):
            for column in range(8):
                place = torch.tensor([(column + 0.5) / 4 - 1, (row + 0.5) / 2 - 1], dtype=torch.float64)
                hidden = torch.sin(30 * (first @ place + parts[1]))
                hidden = torch.sin(10 * (second @ hidden + parts[3]))
                expected = last @ hidden + parts[5]
                torch.testing.assert_close(some.images[number, :, row, column], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", ["gaussians", "siren"])
def test_fit_comes_nearer(kind: str) -> None:
    errors = []
    for steps in (0, 200):
        some, images = synthetic(kind, ipc=4, fit_steps=steps)
        errors.append(float((some.images - images).square().mean()))
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize("kind", ["gaussians", "siren"])
def test_images_are_fitted_one_by_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = synthetic(kind)[0].images
    monkeypatch.setattr(f"pydistill.synthesis.decoders.{kind}._AT_ONCE", 1)
    torch.testing.assert_close(synthetic(kind)[0].images, whole, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("ipc", [1, 2, 7])
def test_storage_is_at_most_that_of_pixels(kind: str, ipc: int) -> None:
    some = synthetic(kind, ipc, fit_steps=0) if kind in ("gaussians", "siren") else synthetic(kind, ipc)
    stored = some[0].decoder.compact(some[0].codes)
    assert sum(code.numel() for code in stored.values()) <= CLASSES * ipc * math.prod(SHAPE)
    assert some[0].images.shape == (CLASSES * some[0].decoder.images_per_class, *SHAPE)


@pytest.mark.parametrize(
    ("kind", "changes", "name"),
    [
        ("upsample", {"factor": 3}, "factor"),
        ("dct", {"coefficients": 33}, "coefficients"),
        ("dct", {"coefficients": 17}, "coefficients"),
        ("gaussians", {"images": 9, "stored": "float32"}, "images"),
        ("siren", {"width": 7}, "width"),
        ("mirror", {"factor": 4}, "factor"),
        ("dct", {"fit_steps": 3}, "fit_steps"),
        ("siren", {"stored": "float32"}, "stored"),
    ],
)
def test_refused(kind: str, changes: dict[str, Any], name: str) -> None:
    with pytest.raises(SettingError) as caught:
        make_decoder(settings(kind, **changes), SHAPE, ipc=1)
    assert caught.value.setting == name


def test_largest_values_are_allowed() -> None:
    assert make_decoder(settings("dct", coefficients=16), SHAPE, ipc=1).images_per_class == 2
    assert make_decoder(settings("dct", coefficients=32), SHAPE, ipc=1).images_per_class == 1
    assert make_decoder(settings("dct", coefficients=32), SHAPE, ipc=2).images_per_class == 2
    assert make_decoder(settings("gaussians", images=8), SHAPE, ipc=1).points == 1  # type: ignore[attr-defined]
    assert make_decoder(settings("siren", width=3), SHAPE, ipc=1).images_per_class == 2
