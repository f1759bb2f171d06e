"""The differentiable attacks beside Pillow's, and their gradients."""

import numpy as np
import pytest
import torch
from PIL import Image

from registry.attribution import attacks, differentiable
from registry.attribution.network import FILL
from registry.generators.adapters import to_images


def smooth(side: int = 32, n: int = 3) -> torch.Tensor:
    """Images without much detail, as photographs are, (n, 3, side, side)."""
    coarse = torch.rand((n, 3, 6, 6), generator=torch.Generator().manual_seed(1))
    large = torch.nn.functional.interpolate(coarse, side, mode="bicubic").clamp(0.05, 0.95)
    return (large * 255).round() / 255


def tensor(images: list[Image.Image]) -> torch.Tensor:
    pixels = np.stack([np.asarray(image) for image in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("quality", [30, 50, 80, 95])
def test_jpeg_is_close_to_a_real_file(quality: int) -> None:
    images = smooth()
    ours = differentiable.jpeg(images, torch.full((3,), float(quality)))
    real = tensor([attacks.recompress(image, "JPEG", quality) for image in to_images(images)])
    lost = (real - images).square().mean().sqrt()
    assert (ours - real).square().mean().sqrt() < 0.6 * lost
    assert float((ours - images).square().mean().sqrt() / lost) == pytest.approx(1, abs=0.25)


def test_blur_is_close_to_pillows() -> None:
    images = smooth()
    ours = differentiable.blurred(images, torch.full((3,), 1.5))
    real = tensor([attacks.blur(image, 1.5) for image in to_images(images)])
    assert (ours - real).abs().mean() < 0.3 * (images - real).abs().mean()


def test_a_side_that_is_no_multiple_of_the_blocks_keeps_its_margin() -> None:
    images = smooth(28)
    ours = differentiable.jpeg(images, torch.full((3,), 40.0))
    assert torch.equal(ours[:, :, 16:], images[:, :, 16:])
    assert not torch.equal(ours[:, :, :16, :16], images[:, :, :16, :16])


def test_every_attack_passes_gradients_and_stays_an_image() -> None:
    images = smooth(n=64).requires_grad_()
    attacked, grey = differentiable.attack(images, torch.Generator().manual_seed(3))
    assert attacked.shape == images.shape
    assert grey.shape == (64, 1, 32, 32)
    assert ((attacked >= 0) & (attacked <= 1)).all()
    weights = torch.randn(images.shape, generator=torch.Generator().manual_seed(4))
    (slope,) = torch.autograd.grad((attacked * weights).sum(), images)
    assert slope.isfinite().all()
    assert (slope.abs().sum((1, 2, 3)) > 0).all()
    cut = grey.sum((1, 2, 3)) > 0
    assert 0 < cut.sum() < 64
    covered = grey.expand(-1, 3, -1, -1) > 0
    assert (attacked[covered] == FILL / 255).all()


def test_the_same_generator_draws_the_same_attacks() -> None:
    images = smooth(n=16)
    first, again = (differentiable.attack(images, torch.Generator().manual_seed(5))[0] for _ in range(2))
    assert torch.equal(first, again)
    other = differentiable.attack(images, torch.Generator().manual_seed(6))[0]
    assert not torch.equal(first, other)
