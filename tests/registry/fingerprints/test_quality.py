import numpy as np
import pytest
import torch

from registry.errors import InputError
from registry.fingerprints.basis import Basis
from registry.fingerprints.quality import choose_strength, copy_psnr, psnr_db
from registry.generators.adapters import Generator, get_adapter
from tests.registry.support import TinyModel


@pytest.fixture(scope="module")
def generator(tiny: TinyModel) -> Generator:
    return get_adapter("latent-diffusion").load(tiny.weights)


@pytest.fixture(scope="module")
def latents(generator: Generator) -> torch.Tensor:
    return torch.randn((40, *generator.latent_shape), generator=torch.Generator().manual_seed(0))


def basis_of(tiny: TinyModel, rows: np.ndarray) -> Basis:
    return Basis("pca", 0.2, 0, "sha256:0", get_adapter("latent-diffusion").fold(tiny.weights, rows))


def test_psnr_is_that_of_the_8_bit_images() -> None:
    a = torch.zeros(1, 3, 4, 4)
    assert float(psnr_db(a, a + 10 / 255)[0]) == pytest.approx(20 * np.log10(255 / 10), abs=1e-4)
    assert float(psnr_db(a, a + 0.4 / 255)[0]) == pytest.approx(120)


def test_the_strength_reaches_its_target(
    tiny: TinyModel, generator: Generator, latents: torch.Tensor
) -> None:
    rows = np.linalg.qr(np.random.default_rng(0).standard_normal((64, 64)))[0][:16]
    rows = rows.reshape(16, *generator.latent_shape).astype(np.float32)
    chosen = choose_strength(generator, basis_of(tiny, rows), latents, target_db=38.0)
    assert chosen.quality["psnr_db"] == pytest.approx(38.0, abs=0.02)
    reached = float(copy_psnr(generator, chosen, latents).mean())
    assert reached == pytest.approx(chosen.quality["psnr_db"], abs=1e-3)
    weaker = chosen.with_strength(chosen.strength / 2, {})
    assert float(copy_psnr(generator, weaker, latents).mean()) > 41


def test_an_impossible_target_is_refused(
    tiny: TinyModel, generator: Generator, latents: torch.Tensor
) -> None:
    nowhere = basis_of(tiny, np.zeros((16, *generator.latent_shape), np.float32))
    with pytest.raises(InputError, match="no strength"):
        choose_strength(generator, nowhere, latents, target_db=38.0)
