"""SSIM and MS-SSIM against scikit-image's and pytorch-msssim's values; the learned distance's behaviour."""

import numpy as np
import pytest
import torch

from registry.fingerprints.similarity import MS_SSIM_SIDE, WINDOW, EncoderDistance, ms_ssim, ssim


def pair(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(7)
    first = rng.random(shape)
    second = 0.7 * first + 0.3 * rng.random(shape)
    return torch.from_numpy(first), torch.from_numpy(second)


def smooth(n: int, side: int) -> torch.Tensor:
    coarse = torch.rand((n, 3, 6, 6), generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)


def test_ssim_has_the_value_of_scikit_image() -> None:
    # structural_similarity(a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    # data_range=1.0, channel_axis=2) of scikit-image 0.26
    rng = np.random.default_rng(7)
    a = rng.random((40, 33, 3))
    b = np.clip(a * 0.8 + 0.2 * rng.random(a.shape), 0, 1)
    first, second = (torch.from_numpy(image).permute(2, 0, 1)[None] for image in (a, b))
    assert ssim(first, second).item() == pytest.approx(0.9497173535267663, abs=1e-12)


def test_ssim_of_flat_images_is_the_luminance_term() -> None:
    a, b = torch.full((1, 3, 20, 20), 0.2, dtype=torch.float64), torch.full((1, 3, 20, 20), 0.6).double()
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert ssim(a, b).item() == pytest.approx(expected, rel=1e-6)


def test_ms_ssim_has_the_value_of_pytorch_msssim() -> None:
    found = ms_ssim(*pair((2, 3, 192, 208)))
    # ms_ssim(a, b, data_range=1, size_average=False) of pytorch-msssim 1.0, whose window is float32
    assert found.tolist() == pytest.approx([0.9079091313453955, 0.9034189840240044], abs=2e-6)


@pytest.mark.parametrize("measure", [ssim, ms_ssim])
def test_equal_images_score_one_and_worse_ones_less(measure) -> None:  # type: ignore[no-untyped-def]
    images = smooth(2, MS_SSIM_SIDE)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    scores = [measure(images, (images + sd * noise).clamp(0, 1)) for sd in (0.0, 0.02, 0.1)]
    assert scores[0].tolist() == pytest.approx([1, 1], abs=1e-5)
    assert (scores[0] > scores[1]).all()
    assert (scores[1] > scores[2]).all()


def test_images_too_small_for_the_window_or_unequal_are_refused() -> None:
    small = torch.zeros(1, 3, WINDOW - 1, 64)
    with pytest.raises(ValueError, match="SSIM of images"):
        ssim(small, small)
    with pytest.raises(ValueError, match="SSIM of images"):
        ssim(torch.zeros(1, 3, 32, 32), torch.zeros(2, 3, 32, 32))
    below = torch.zeros(1, 3, MS_SSIM_SIDE - 1, MS_SSIM_SIDE)
    with pytest.raises(ValueError, match="176 pixels"):
        ms_ssim(below, below)


@pytest.mark.parametrize("side", [16, 264])
def test_the_learned_distance_grows_with_the_change_and_is_symmetric(side: int) -> None:
    images, distance = smooth(1, side), EncoderDistance()
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    slight, strong = ((images + sd * noise).clamp(0, 1) for sd in (0.02, 0.2))
    assert distance(images, images).tolist() == [0]
    assert (distance(images, slight) > 0).all()
    assert (distance(images, slight) < distance(images, strong)).all()
    assert distance(images, strong).tolist() == pytest.approx(distance(strong, images).tolist(), rel=1e-4)


def test_everything_is_differentiable() -> None:
    images = smooth(1, MS_SSIM_SIDE)
    for measure in (ssim, ms_ssim, EncoderDistance()):
        changed = (images * 0.9).requires_grad_()
        measure(images, changed).sum().backward()
        assert changed.grad is not None
        assert changed.grad.abs().sum() > 0
