import numpy as np
import pytest
import torch

from registry.errors import InputError
from registry.fingerprints.pca import principal_rows


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
