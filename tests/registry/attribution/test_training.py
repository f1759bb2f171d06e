"""Training, calibration and export on the tiny model: short, but the real thing from end to end."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from PIL import Image

from registry.attribution import service
from registry.attribution.attacks import ATTACKS
from registry.attribution.calibration import calibrate, reliability
from registry.attribution.export import write_foreign, write_package
from registry.attribution.network import AttributionNetwork, Resolution
from registry.attribution.training import (
    FILL,
    RenderedImages,
    evidence_under,
    read,
    registered_window,
    standard_views,
    train_network,
    whole,
)
from registry.fingerprints.basis import Basis
from registry.generators.adapters import get_adapter
from registry.onnx_export import STORED_HALF
from tests.registry.support import SIDE, TinyModel
from verifier.network import Network


@pytest.fixture(scope="module")
def source(tiny: TinyModel) -> RenderedImages:
    generator = get_adapter("latent-diffusion").load(tiny.weights)
    latents = torch.randn((200, *generator.latent_shape), generator=torch.Generator().manual_seed(0)) * 0.1
    basis = Basis.load(tiny.basis)
    return RenderedImages(generator, basis.with_strength(6.0, {}), latents)


@pytest.fixture(scope="module")
def trained(source: RenderedImages, tmp_path_factory: pytest.TempPathFactory) -> AttributionNetwork:
    network = train_network(source, tmp_path_factory.mktemp("work"), steps=150, renders=16)
    return network.eval()


def test_each_image_carries_its_own_key(source: RenderedImages) -> None:
    images, bits = source.draw(6, torch.Generator().manual_seed(1))
    assert bits.shape == (6, source.basis.bits)
    assert set(bits.unique().tolist()) == {0.0, 1.0}
    again, same = source.draw(6, torch.Generator().manual_seed(1))
    assert torch.equal(bits, same)
    assert [i.tobytes() for i in images] == [i.tobytes() for i in again]
    flipped = source.render(source.latents[:1], 1 - bits[:1])[0]
    assert flipped.tobytes() != source.render(source.latents[:1], bits[:1])[0].tobytes()


def test_a_window_is_put_back_where_it_was() -> None:
    gradient = np.stack([*np.meshgrid(np.arange(64) * 4, np.arange(64) * 4), np.full((64, 64), 255)], -1)
    image = Image.fromarray(gradient.astype(np.uint8))
    for seed in range(20):
        canvas = registered_window(image, ATTACKS["clean"], 64, np.random.default_rng(seed)).astype(int)
        shown = canvas[..., 2] == 255
        rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
        assert len(rows) == len(columns) >= 0.7 * 64 - 2
        assert (canvas[~shown] == FILL).all()
        assert np.abs(canvas[..., 0] - gradient[..., 0])[shown].mean() < 4 * 2.5, "off by two pixels at most"


def test_the_network_learns_the_key_and_its_package_reads_the_same(
    source: RenderedImages, trained: AttributionNetwork, tmp_path: Path
) -> None:
    images, bits = source.draw(64, torch.Generator().manual_seed(9))
    pixels = np.stack([whole(image, SIDE) for image in images])
    logits = read(trained, pixels)
    assert ((logits > 0) == (bits > 0)).float().mean() > 0.75

    write_package(trained, tmp_path, "ab" * 32, {"clean": 1.0})
    package = Network.load(tmp_path, device="cpu")
    np.testing.assert_allclose(package.logits(pixels), logits.numpy(), atol=0.02)
    one = package.read(images[0], pose_search=False).logits
    np.testing.assert_allclose(one / 16, np.clip(logits[0].numpy(), -8, 8), atol=0.04)

    write_foreign(tmp_path, images[:3])
    foreign = np.load(tmp_path / "foreign.npz")["logits"]
    assert foreign.shape == (3, source.basis.bits)
    assert foreign.dtype == np.int16


def test_evidence_is_stronger_for_the_true_key_than_chance(
    source: RenderedImages, trained: AttributionNetwork
) -> None:
    images, bits = source.draw(40, torch.Generator().manual_seed(4))
    table = evidence_under(trained, images, bits, standard_views(SIDE))
    assert table["clean"]["evidence_50"] > 2
    assert table["clean"]["bits_right"] > 0.75
    strangers = evidence_under(trained, images, 1 - bits, standard_views(SIDE))
    assert strangers["clean"]["evidence_50"] < 0.5


def test_training_goes_on_where_it_stopped(source: RenderedImages, tmp_path: Path) -> None:
    train_network(source, tmp_path, steps=2, renders=4)
    assert torch.load(tmp_path / "network.pt", weights_only=True)["step"] == 2
    train_network(source, tmp_path, steps=4, renders=4)
    assert torch.load(tmp_path / "network.pt", weights_only=True)["step"] == 4


def test_calibration_makes_confidence_true(source: RenderedImages, trained: AttributionNetwork) -> None:
    images, bits = source.draw(200, torch.Generator().manual_seed(7))
    pixels = np.stack([whole(image, SIDE) for image in images])
    boastful = AttributionNetwork(trained.bits, Resolution(SIDE, SIDE // 4))
    boastful.load_state_dict(trained.state_dict())
    boastful.eval().head.weight.data.mul_(5)
    before = reliability(boastful, pixels, bits)["cross_entropy"][0]
    calibrate(boastful, pixels, bits)
    after = reliability(boastful, pixels, bits)
    assert after["cross_entropy"][0] < before
    claimed, observed, share = (np.array(after[name]) for name in ("claimed", "observed", "share"))
    filled = share > 0.05
    assert np.abs(claimed - observed)[filled].max() < 0.08


def test_synthetic_extremes_are_images_of_the_stated_size() -> None:
    extremes = service.synthetic_extremes(24)
    assert len(extremes) > 20
    assert {(image.size, image.mode) for image in extremes} == {((24, 24), "RGB")}


def test_a_package_describes_how_it_is_read(trained: AttributionNetwork, tmp_path: Path) -> None:
    write_package(trained, tmp_path, "cd" * 32, {"clean": {"evidence_5": 3.5}}, version=2)
    description = json.loads((tmp_path / "network.json").read_text())
    assert description["basis"] == "cd" * 32
    assert description["evidence"] == {"clean": {"evidence_5": 3.5}}
    assert (description["version"], description["bits"], description["size"]) == (2, trained.bits, SIDE)


def test_an_exported_network_is_compact_and_computes_in_full(
    trained: AttributionNetwork, tmp_path: Path
) -> None:
    write_package(trained, tmp_path, "ab" * 32, {})
    graph = onnx.load(tmp_path / "network.onnx").graph
    large = [tensor for tensor in graph.initializer if np.prod(tensor.dims) >= STORED_HALF]
    assert large
    assert all(tensor.data_type == TensorProto.FLOAT16 for tensor in large)
    casts = {node.input[0]: node for node in graph.node if node.op_type == "Cast"}
    assert all(casts[tensor.name].attribute[0].i == TensorProto.FLOAT for tensor in large)
    assert not any(node.metadata_props for node in graph.node)


@pytest.mark.parametrize(
    ("right", "wrong", "sufficient"),
    [(2.0, 0.4, 0.65), (2.0, 0.9, 0.9), (0.3, 0.2, 0.3), (0.3, 0.5, 0.3)],
    ids=["usual", "sure of wrong poses too", "never sure", "surer of wrong poses than of right ones"],
)
def test_a_search_ends_where_right_poses_lie_and_wrong_ones_do_not(
    right: float, wrong: float, sufficient: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([np.full(100, right), np.full(100, wrong)])
    monkeypatch.setattr(service, "_confidence", lambda network, images: next(found))
    network = AttributionNetwork(8, Resolution(16, 4))
    image = Image.new("RGB", (16, 16))
    assert service.sufficient_search(network, [image], np.random.default_rng(0)).sufficient == sufficient


def test_a_displaced_image_is_turned_or_cropped() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(1, 256, (64, 64, 3), np.uint8))
    displaced = [service.displaced(image, np.random.default_rng(seed)) for seed in range(12)]
    corners = [bool((np.asarray(each)[0, 0] == 0).all()) for each in displaced]
    assert any(corners), "turned: a corner turned in"
    assert not all(corners), "cropped"
    assert all(each.size == image.size and each != image for each in displaced)
