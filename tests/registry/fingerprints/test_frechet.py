import numpy as np
import pytest
import torch

from registry.fingerprints.frechet import frechet_distance, frechet_increase, image_features

RNG = np.random.default_rng(0)


def test_the_distance_is_that_of_the_fitted_gaussians() -> None:
    a = RNG.standard_normal((4000, 3)) * [1.0, 2.0, 3.0]
    b = RNG.standard_normal((4000, 3)) * [2.0, 2.0, 1.0] + [1.0, 0.0, 0.0]
    # |mean difference|^2 + sum of (sd_a - sd_b)^2 where the covariances are diagonal
    assert frechet_distance(a, b) == pytest.approx(1 + 1 + 0 + 4, rel=0.06)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_the_interval_covers_the_true_increase_and_widens_with_fewer_images() -> None:
    covered, widths = 0, {}
    for n in (300, 1200):
        spans = []
        for seed in range(20):
            rng = np.random.default_rng([n, seed])
            base, real = rng.standard_normal((2, n, 4))
            shift = np.array([0.5, 0, 0, 0])  # true increase: 0.25
            found = frechet_increase(base, base + shift, real, draws=60, seed=seed)
            covered += found.low <= 0.25 <= found.high
            spans.append(found.high - found.low)
            assert found.value == pytest.approx(found.copy - found.base)
        widths[n] = np.mean(spans)
    assert covered >= 34, "a 95 % interval covers about 38 of 40"
    assert widths[1200] < 0.7 * widths[300]


def test_unchanged_copies_show_no_significant_increase() -> None:
    base, real = RNG.standard_normal((2, 500, 4))
    noise = 1e-3 * RNG.standard_normal(base.shape)
    assert not frechet_increase(base, base + noise, real, draws=60).significant
    assert frechet_increase(base, base * 1.5, real, draws=60).significant


def test_features_belong_to_the_picture_not_to_its_size() -> None:
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand((6, 3, 8, 8), generator=rng)
    small, large = (
        torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
        for side in (64, 192)
    )
    at_64, at_192 = image_features(small), image_features(large)
    assert at_64.dtype == np.float64
    assert at_64.shape == at_192.shape == (6, 128)
    to_itself = np.linalg.norm(at_64 - at_192, axis=1)
    to_others = np.linalg.norm(at_64[:, None] - at_192[None], axis=-1) + 1e9 * np.eye(6)
    assert (to_itself < to_others.min(1)).all()


def test_sets_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="same latents"):
        frechet_increase(np.zeros((3, 2)), np.zeros((4, 2)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="two images"):
        frechet_distance(np.zeros((1, 2)), np.zeros((3, 2)))
