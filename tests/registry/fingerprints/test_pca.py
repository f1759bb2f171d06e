import numpy as np
import pytest
import torch

from registry.errors import InputError
from registry.fingerprints.pca import choose_strength, copy_psnr, principal_directions, psnr_db
from registry.generators.adapters import Generator, get_adapter
from tests.registry.support import TinyModel


@pytest.fixture(scope="module")
def generator(tiny: TinyModel) -> Generator:
    return get_adapter("latent-diffusion").load(tiny.weights)


@pytest.fixture(scope="module")
def latents(generator: Generator) -> torch.Tensor:
    return torch.randn((40, *generator.latent_shape), generator=torch.Generator().manual_seed(0))


def test_rows_are_ordered_by_variance_and_orthonormal() -> None:
    rng = torch.Generator().manual_seed(1)
    spread = torch.arange(12, 0, -1).float()
    latents = (torch.randn((4000, 12), generator=rng) * spread).view(-1, 3, 2, 2)
    directions = principal_directions(latents, bits=8, shift=2)
    rows = directions.reshape(8, 12).astype(float)
    np.testing.assert_allclose(rows @ rows.T, np.eye(8), atol=1e-6)
    assert rows.argmax(1).tolist() == list(range(2, 10)), "row i follows the axis of the i-th variance"
    deviations = (latents.flatten(1).numpy() @ rows.T).std(0)
    assert (np.diff(deviations) < 0).all()
    assert np.array_equal(directions, principal_directions(latents, bits=8, shift=2))


@pytest.mark.parametrize(("bits", "shift", "n"), [(8, 6, 100), (16, 0, 100), (8, -1, 100), (8, 0, 20)])
def test_more_rows_than_there_are_or_too_few_latents_are_refused(bits: int, shift: int, n: int) -> None:
    with pytest.raises(InputError):
        principal_directions(torch.randn(n, 3, 2, 2), bits, shift)


def test_psnr_is_that_of_the_8_bit_images() -> None:
    a = torch.zeros(1, 3, 4, 4)
    assert float(psnr_db(a, a + 10 / 255)[0]) == pytest.approx(20 * np.log10(255 / 10), abs=1e-4)
    assert float(psnr_db(a, a + 0.4 / 255)[0]) == pytest.approx(120)


def test_the_strength_reaches_its_target(generator: Generator, latents: torch.Tensor) -> None:
    directions = np.linalg.qr(np.random.default_rng(0).standard_normal((64, 64)))[0][:16]
    directions = directions.reshape(16, *generator.latent_shape).astype(np.float32)
    strength, reached = choose_strength(generator, directions, latents, target_db=38.0)
    assert reached == pytest.approx(38.0, abs=0.02)
    assert float(copy_psnr(generator, directions, strength, latents).mean()) == pytest.approx(reached)
    assert float(copy_psnr(generator, directions, strength / 2, latents).mean()) > 41


def test_an_impossible_target_is_refused(generator: Generator, latents: torch.Tensor) -> None:
    nowhere = np.zeros((16, *generator.latent_shape), np.float32)
    with pytest.raises(InputError, match="no strength"):
        choose_strength(generator, nowhere, latents, target_db=38.0)
