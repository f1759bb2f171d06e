"""The network of a generator without a latent grid: the regression it begins as, and its form."""

import numpy as np
import pytest
import torch

from registry.attribution.network import FILL, Resolution
from registry.attribution.pixel_network import (
    NOISE_FLOOR,
    PixelNetwork,
    grey_area,
    linear_reading,
    read_side,
)

SIDE, BITS = 8, 4


def marked(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, 3, 8, 8) of a few strong patterns and, for each bit, a weak one; their bits."""
    rng, fixed = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(99)
    pixels = 3 * SIDE**2
    content, patterns = (
        torch.randn((10, pixels), generator=fixed),
        torch.randn((BITS, pixels), generator=fixed),
    )
    bits = torch.randint(0, 2, (n, BITS), generator=rng).float()
    x = torch.randn((n, 10), generator=rng) @ content + 0.1 * (2 * bits - 1) @ patterns
    x = x + NOISE_FLOOR * torch.randn(x.shape, generator=rng)
    return x.reshape(n, 3, SIDE, SIDE), bits


def test_the_regression_reads_weak_patterns_beneath_the_content() -> None:
    reading = linear_reading([marked(500, 1), marked(500, 2)])
    images, bits = marked(400, 3)
    logits = images.flatten(1) @ reading.weight.T + reading.bias
    assert ((logits > 0) == (bits > 0)).float().mean() > 0.99


def test_the_regression_does_not_depend_on_how_images_are_batched() -> None:
    images, bits = marked(300, 1)
    last = marked(50, 2)
    once = linear_reading([(images, bits), last])
    parts = linear_reading([*zip(images.split(77), bits.split(77), strict=True), last])
    torch.testing.assert_close(once.weight, parts.weight, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(once.bias, parts.bias, rtol=1e-4, atol=1e-4)


def test_a_regression_needs_images_to_fit_and_to_judge() -> None:
    for batches in ([], [marked(10, 1)]):
        with pytest.raises(ValueError, match="two batches"):
            linear_reading(batches)


def test_a_regression_of_too_few_images_is_not_sure_of_itself() -> None:
    few, many = (linear_reading([marked(n, 1), marked(200, 2)]) for n in (5, 2000))
    images, _ = marked(200, 3)
    sure, unsure = (
        (images.flatten(1) @ reading.weight.T + reading.bias).abs().mean() for reading in (many, few)
    )
    assert sure > 4
    assert unsure < 1


@pytest.mark.parametrize("size", [16, 28, 64, 128])
def test_the_network_begins_as_the_regression(size: int) -> None:
    network = PixelNetwork(BITS, Resolution.of(size, (512,))).eval()
    rng = torch.Generator().manual_seed(0)
    side = read_side(size)
    assert side <= 32
    assert size % side == 0
    images = torch.rand((6, 3, side, side), generator=rng) * 2 - 1
    bits = torch.randint(0, 2, (6, BITS), generator=rng).float()
    reading = linear_reading([(images, bits), (images, bits)])
    network.start_from(reading)
    pixels = torch.randint(0, 256, (3, size, size, 3), dtype=torch.uint8, generator=rng)
    x = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    seen = x.reshape(3, 3, side, size // side, side, size // side).mean((3, 5))
    expected = seen.flatten(1) @ reading.weight.T + reading.bias
    with torch.no_grad():
        torch.testing.assert_close(network(pixels), expected, rtol=1e-3, atol=1e-3)


def test_the_last_layers_can_be_fitted_to_what_the_network_makes_of_images() -> None:
    torch.manual_seed(0)
    network = PixelNetwork(BITS, Resolution.of(16, (512,))).eval()
    for layer in network.last.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.normal_(layer.weight, std=0.1)
    pixels = torch.randint(0, 256, (40, 16, 16, 3), dtype=torch.uint8)
    bits = torch.randint(0, 2, (40, BITS)).float()
    x = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        features = torch.cat(network.features(x, grey_area(pixels)), 1)
        reading = linear_reading([(features[:30], bits[:30]), (features[30:], bits[30:])])
        network.refit(reading)
        expected = features @ reading.weight.T + reading.bias
        torch.testing.assert_close(network(pixels), expected, rtol=1e-3, atol=1e-3)


def test_grey_is_told_from_an_image_that_has_some_of_it() -> None:
    rng = np.random.default_rng(0)
    canvas = np.full((1, 12, 12, 3), FILL, np.uint8)
    canvas[:, 4:, 4:] = rng.integers(0, 256, (1, 8, 8, 3))
    canvas[:, 8, 8] = FILL
    grey = grey_area(torch.from_numpy(canvas))[0, 0].numpy()
    assert grey[:3].all()
    assert grey[:, :3].all()
    assert not grey[3:, 3:].any(), "the rim touches the image"
