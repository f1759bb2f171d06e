import numpy as np
import pytest
import torch

from registry.errors import InputError
from registry.fingerprints import pca
from registry.fingerprints.pca import chosen_rows, components, principal_rows


def test_rows_are_ordered_by_variance_and_orthonormal() -> None:
    rng = torch.Generator().manual_seed(1)
    spread = torch.arange(12, 0, -1).float()
    latents = (torch.randn((4000, 12), generator=rng) * spread).view(-1, 3, 2, 2)
    directions, mean = principal_rows(latents, bits=8, shift=2)
    rows = directions.reshape(8, 12).astype(float)
    np.testing.assert_allclose(rows @ rows.T, np.eye(8), atol=1e-6)
    assert rows.argmax(1).tolist() == list(range(2, 10)), "row i follows the axis of the i-th variance"
    deviations = (latents.flatten(1).numpy() @ rows.T).std(0)
    assert (np.diff(deviations) < 0).all()
    assert np.array_equal(directions, principal_rows(latents, bits=8, shift=2)[0])
    np.testing.assert_allclose(mean, latents.mean(0), atol=1e-5)


@pytest.mark.parametrize(("bits", "shift", "n"), [(8, 6, 100), (16, 0, 100), (8, -1, 100), (8, 0, 20)])
def test_more_rows_than_there_are_or_too_few_latents_are_refused(bits: int, shift: int, n: int) -> None:
    with pytest.raises(InputError):
        principal_rows(torch.randn(n, 3, 2, 2), bits, shift)


@pytest.mark.parametrize(
    ("shape", "latents", "expected"),
    [
        ((512,), 10_000, 512),
        ((4, 16, 16), 10_000, 1024),
        ((4, 32, 32), 10_000, 4096),
        ((4, 64, 64), 10_000, 4096),
        ((4, 64, 64), 40_000, 16_384),
        ((16, 128, 128), 10_000, 4096),
        ((4, 96, 96), 10_000, 48 * 48),
        ((4, 97, 97), 10_000, 97 * 97),
    ],
)
def test_large_latents_have_the_components_of_one_pattern(
    shape: tuple[int, ...], latents: int, expected: int
) -> None:
    assert components(shape, latents) == expected


def test_few_latents_give_one_pattern_for_all_channels() -> None:
    """The same rows as the PCA of all channels of all latents, each less its own mean, as samples."""
    rng = torch.Generator().manual_seed(2)
    spread = torch.linspace(5, 1, 16).view(4, 4)
    latents = torch.randn((80, 3, 4, 4), generator=rng) * spread + torch.randn((3, 4, 4), generator=rng)
    rows, mean = principal_rows(latents, bits=8, shift=4)
    assert (rows == rows[:, :1]).all(), "every channel has the same pattern"
    np.testing.assert_allclose(np.einsum("icxy,jcxy->ij", rows, rows), np.eye(8), atol=1e-6)
    np.testing.assert_allclose(mean, latents.mean(0), atol=1e-6)
    observed = (latents - latents.mean(0)).reshape(-1, 16).double()
    _, _, vectors = np.linalg.svd(observed.numpy(), full_matrices=False)
    expected = vectors[4:12]
    expected *= np.sign(expected[np.arange(8), np.abs(expected).argmax(1)])[:, None]
    np.testing.assert_allclose(rows[:, 0].reshape(8, 16) * np.sqrt(3), expected, atol=1e-5)


def test_above_the_largest_side_the_pattern_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pca, "LARGEST_SIDE", 4)
    latents = torch.randn((60, 2, 8, 8), generator=torch.Generator().manual_seed(3))
    rows, _ = principal_rows(latents, bits=8, shift=8)
    tiles = [rows[:, c, y : y + 4, x : x + 4] for c in (0, 1) for y in (0, 4) for x in (0, 4)]
    assert all((tile == tiles[0]).all() for tile in tiles)
    np.testing.assert_allclose(np.einsum("icxy,jcxy->ij", rows, rows), np.eye(8), atol=1e-6)


def test_a_pca_of_full_size_latents_is_possible() -> None:
    bits, shift = chosen_rows(components((4, 64, 64)), None, None, 256)
    assert (bits, shift) == (256, 4096 - 256)
    with pytest.raises(InputError, match="too many for a PCA"):
        chosen_rows(components((4, 97, 97)), None, None, 256)
