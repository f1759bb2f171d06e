"""The set encoder and its training, on images that are cheap to make."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from registry.lineage.building import (
    Calibration,
    calibrate,
    encoder_embed,
    fingerprint,
    only_source,
    write_network,
)
from registry.lineage.encoder import ENERGIES, SMALLEST, EncoderLayout, SetEncoder, contrastive_loss
from registry.lineage.training import Pixels, Sets, nested, train_encoder
from verifier.lineage import LineageNetwork, LineageSpec

SMALL = EncoderLayout(channels=(4, 4, 4), features=12, patterns=4, hidden=8, embedding=6)


def smooth(count: int, width: int, seed: int, side: int = 24) -> Pixels:
    """Noise averaged over rows of ``width`` pixels: what a generator with such a filter would leave."""
    noise = np.random.default_rng(seed).normal(size=(count, side, side + width, 3))
    mean = np.stack([noise[:, :, start : start + side] for start in range(width)]).mean(0)
    found: Pixels = np.clip(127 + 60 * mean, 0, 255).astype(np.uint8)
    return found


@pytest.fixture(scope="module")
def encoder() -> SetEncoder:
    torch.manual_seed(0)
    made = SetEncoder(SMALL)
    made.standardise(torch.from_numpy(np.concatenate([smooth(32, width, 0) for width in (2, 5, 8)])))
    return made.eval()


def test_an_embedding_is_of_unit_length_and_knows_no_order(encoder: SetEncoder) -> None:
    embed, images = encoder_embed(encoder), smooth(8, 3, 1)
    found = embed(images, [range(8), range(7, -1, -1), [3]])
    assert found.shape == (3, SMALL.embedding + ENERGIES + 1)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert np.allclose(found[0], found[1], atol=1e-5)
    assert not np.allclose(found[0], found[2], atol=1e-2)


@pytest.mark.parametrize("value", [0, 255])
def test_images_of_one_colour_and_of_the_least_side_have_an_embedding(
    encoder: SetEncoder, value: int
) -> None:
    images = np.full((2, SMALLEST, SMALLEST + 5, 3), value, np.uint8)
    assert np.isfinite(encoder_embed(encoder)(images, [[0], [0, 1]])).all()


def test_kin_is_close_for_alike_textures_before_any_training(encoder: SetEncoder) -> None:
    embed = encoder_embed(encoder)
    one, alike, other = (fingerprint(embed, smooth(32, width, width))[6:] for width in (6, 7, 2))
    assert np.linalg.norm(one - alike) < 0.5 * np.linalg.norm(one - other)


def test_sets_of_every_size_count_the_same() -> None:
    membership, places, weights = nested(3, 4)
    assert membership.shape == (12 + 6 + 3, 12)
    assert torch.allclose(membership.sum(1), torch.ones(21))
    sizes = (membership > 0).sum(1)
    for size in (1, 2, 4):
        assert weights[sizes == size].sum() == pytest.approx(1)
    of_images = torch.arange(3).repeat_interleave(4)
    for row, place in zip(membership, places, strict=True):
        assert set(of_images[row > 0].tolist()) == {int(place)}


def test_the_contrastive_loss_is_least_where_models_are_apart() -> None:
    labels, weights = torch.tensor([0, 0, 1, 1]), torch.ones(4)
    apart = torch.eye(2)[labels]
    together = torch.ones(4, 2) / 2**0.5
    assert contrastive_loss(apart, apart, labels, weights) < contrastive_loss(
        together, together, labels, weights
    )
    assert contrastive_loss(apart, apart, labels, weights) < contrastive_loss(
        apart, apart.flip(1), labels, weights
    )


def test_training_tells_models_apart_goes_on_and_is_calibrated(tmp_path: Path) -> None:
    images = {f"m{width}": smooth(80, width, 10 + width) for width in (2, 3, 4)}
    sets = Sets(images)
    train_encoder(images, SMALL, tmp_path / "a", 15, sets=sets)
    trained = train_encoder(images, SMALL, tmp_path / "a", 30, sets=sets).eval()
    source = only_source(encoder_embed(trained), SMALL.embedding)
    directions = np.stack([fingerprint(source, images[name]) for name in sorted(images)])
    fresh = [smooth(40, width, 20 + width) for width in (2, 3, 4)]
    likeness = [source(pixels, [range(16), range(16, 32)]) @ directions.T for pixels in fresh]
    assert [found.argmax(1).tolist() for found in likeness] == [[0, 0], [1, 1], [2, 2]]
    found = calibrate(source, directions, fresh, smooth(40, 12, 5))
    assert len(found.temperature) == len(found.reject) == len(found.mixed) == len(found.sizes)
    assert min(found.temperature) > 0
    assert found.mixed[0] <= 0


def test_the_written_network_says_what_torch_says(encoder: SetEncoder, tmp_path: Path) -> None:
    values = (0.1, 0.1)
    write_network(encoder, Calibration((1, 16), values, values, values), 0.02, tmp_path)
    spec = LineageSpec.parse(json.loads((tmp_path / "lineage.json").read_bytes()))
    assert (spec.source, spec.relative) == (SMALL.embedding, 0.02)
    parts = (tmp_path / "images.onnx").read_bytes(), (tmp_path / "sets.onnx").read_bytes()
    network = LineageNetwork(*parts, spec, "cpu", threads=1)
    for side in (SMALLEST, 40):
        images = smooth(5, 3, 2, side)
        sets = [[0], [1, 2, 3, 4]]
        features = np.stack([found for found in network.features(list(images)) if found is not None])
        assert np.allclose(network.embed(features, sets), encoder_embed(encoder)(images, sets), atol=2e-4)
