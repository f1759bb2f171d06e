from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from registry.errors import InputError
from registry.fingerprints.basis import Basis

TARGETS = [("vqvae/weights.safetensors", "fingerprint"), ("vqvae/weights.safetensors", "bias")]


def make_basis(seed: int = 0, bits: int = 16) -> Basis:
    rng = np.random.default_rng(seed)
    shapes = [(2, 3, 3), (5,)]
    directions = {
        target: rng.standard_normal((bits, *shape)).astype(np.float32)
        for target, shape in zip(TARGETS, shapes, strict=True)
    }
    return Basis("pca", 0.75, 8, "sha256:" + "ab" * 32, directions, {"psnr_db": 34.25})


@given(arrays(np.int8, 16, elements=st.sampled_from([-1, 1])))
def test_deltas_are_the_signed_sum_of_the_directions(signs: np.ndarray) -> None:
    basis = make_basis()
    deltas = basis.deltas(signs)
    assert list(deltas) == TARGETS
    for target, delta in deltas.items():
        expected = 0.75 * np.tensordot(signs.astype(float), basis.directions[target].astype(float), 1)
        np.testing.assert_allclose(delta, expected, atol=1e-12)
        assert np.array_equal(delta, -basis.deltas(-signs)[target])


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bits"):
        make_basis().deltas(np.ones(8, np.int8))


def test_a_saved_basis_is_loaded_as_it_was_and_saved_to_the_same_bytes(tmp_path: Path) -> None:
    basis = make_basis()
    basis.save(tmp_path / "basis.safetensors")
    loaded = Basis.load(tmp_path / "basis.safetensors")
    assert (loaded.scheme, loaded.strength, loaded.shift) == ("pca", 0.75, 8)
    assert (loaded.model_digest, loaded.quality, loaded.bits) == (basis.model_digest, basis.quality, 16)
    assert all(np.array_equal(loaded.directions[t], basis.directions[t]) for t in TARGETS)
    assert loaded.to_bytes() == basis.to_bytes() == (tmp_path / "basis.safetensors").read_bytes()
    assert loaded.digest == basis.digest != make_basis(seed=1).digest


def test_another_strength_is_another_basis() -> None:
    basis = make_basis()
    stronger = basis.with_strength(1.5, {"psnr_db": 28.2})
    assert stronger.digest != basis.digest
    signs = np.ones(16, np.int8)
    np.testing.assert_allclose(stronger.deltas(signs)[TARGETS[0]], 2 * basis.deltas(signs)[TARGETS[0]])


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", make_basis().to_bytes()[:200]])
def test_a_file_that_is_no_basis_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.safetensors"):
        Basis.load(path)


def test_directions_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    basis = make_basis()
    basis.directions[TARGETS[1]][3, 2] = np.nan
    basis.save(tmp_path / "basis.safetensors")
    with pytest.raises(InputError, match="bias hold NaN"):
        Basis.load(tmp_path / "basis.safetensors")
