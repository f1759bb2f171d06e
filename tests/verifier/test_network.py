from __future__ import annotations

import json
import math
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from registry.attribution.half import half_precision, write_half
from tests.factories import BASIS, SUFFICIENT, background, paint, patterns, write_network
from verifier.devices import Bound, Device
from verifier.errors import InputError, VerifierError
from verifier.evidence import chernoff_log10
from verifier.images import load_image
from verifier.network import ANGLES, BATCH, HALF, Network, NetworkSpec, Pose

SIGNS = (np.random.default_rng(4).integers(0, 2, 64) * 2 - 1).astype(np.int8)
WHOLE = Pose(0, 0, 32, 32)
POSES = {"sides": [32, 30], "stride": 2, "refine": 1, "top": 2, "sufficient": SUFFICIENT}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def network(folder: Path) -> Network:
    return Network.load(folder, device="cpu")


def bits_right(network: Network, image: Image.Image, pose_search: bool = True) -> float:
    return float((network.read(image, pose_search).logits * SIGNS > 0).mean())


def test_the_package_is_what_its_files_say(folder: Path, network: Network) -> None:
    assert (network.spec.bits, network.spec.size, network.spec.basis) == (64, 32, BASIS)
    assert network.spec.poses.sides == (32, 30, 28, 26, 24)
    assert network.device == "cpu"
    assert len(network.digest) == 64


def test_logits_are_the_networks(network: Network) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (300, 32, 32, 3), np.uint8)  # more than a batch
    scale = 4 / (20 * math.sqrt(32 * 32 * 3 / 64))
    expected = scale * (pixels.reshape(300, -1) - 128.0) @ patterns(64, 32).T
    assert np.allclose(network.logits(pixels), expected, atol=1e-3)
    assert network.logits(pixels[:0]).shape == (0, 64)


def test_readings_are_clipped_and_rounded_to_whole_quanta(network: Network) -> None:
    logits = np.array([0.0, 0.03, 0.04, -0.04, 0.09375, 7.99, 8.5, -1e6], np.float32)
    assert network.quantise(logits).tolist() == [0, 0, 1, -1, 2, 128, 128, -128]
    with pytest.raises(VerifierError, match="not numbers"):
        network.quantise(np.array([math.nan], np.float32))


def test_confidence_is_the_mean_of_log_cosh_in_natural_units(network: Network) -> None:
    readings = np.array([[16, -16] * 32, [0] * 64], np.int32)
    assert network.confidence(readings) == pytest.approx([math.log(math.cosh(1)), 0])


def test_an_image_of_a_key_is_read_as_it_is(network: Network) -> None:
    reading = network.read(paint(SIGNS, 32, 1))
    assert reading.pose == WHOLE
    assert reading.confidence > SUFFICIENT
    assert (reading.logits * SIGNS > 0).all()


@pytest.mark.parametrize("box", [(8, 4, 56, 52), (0, 0, 56, 56), (11, 7, 63, 59), (10, 2, 60, 46)])
def test_a_crop_is_put_back_to_its_place(network: Network, box: tuple[int, int, int, int]) -> None:
    whole = paint(SIGNS, 32, 1).resize((64, 64), Image.Resampling.BICUBIC)
    crop = whole.crop(box).resize((70, round(70 * (box[3] - box[1]) / (box[2] - box[0]))))
    reading = network.read(crop)
    assert abs(reading.pose.left - box[0] / 2) <= 1
    assert abs(reading.pose.top - box[1] / 2) <= 1
    assert abs(reading.pose.width - (box[2] - box[0]) / 2) <= 2
    assert bits_right(network, crop) > 0.95 > bits_right(network, crop, pose_search=False)


def test_a_mirrored_image_is_turned_back(network: Network) -> None:
    mirrored = paint(SIGNS, 32, 1).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    reading = network.read(mirrored)
    assert reading.pose == Pose(0, 0, 32, 32, mirrored=True)
    assert (reading.logits * SIGNS > 0).all()


def rotated(degrees: float) -> Image.Image:
    """An image of the key, turned. Its corners are grey: a linear network takes black ones for a signal."""
    return paint(SIGNS, 32, 1).rotate(degrees, Image.Resampling.BILINEAR, fillcolor=(128, 128, 128))


@pytest.mark.parametrize("degrees", [-45, -31, 12, 22.5, 40])
def test_a_turned_image_is_turned_back(network: Network, degrees: float) -> None:
    turned = rotated(degrees)
    reading = network.read(turned)
    assert abs(reading.pose.angle + degrees) <= 1
    assert reading.pose == Pose(0, 0, 32, 32, angle=reading.pose.angle)
    assert bits_right(network, turned) > 0.9 > bits_right(network, turned, pose_search=False)


def test_a_squashed_turned_image_is_turned_back_in_its_own_proportions(network: Network) -> None:
    squashed = rotated(20).resize((96, 64), Image.Resampling.BICUBIC)
    assert abs(network.read(squashed).pose.angle + 20) <= 1
    assert bits_right(network, squashed) > 0.9


def test_what_turns_in_is_grey(network: Network) -> None:
    (canvas,) = network._canvases(Image.new("RGB", (40, 40), (255, 0, 0)), [Pose(0, 0, 32, 32, angle=45)])
    assert canvas[0, 0].tolist() == canvas[31, 0].tolist() == [128, 128, 128]
    assert canvas[16, 16].tolist() == [255, 0, 0]


def test_a_squashed_image_is_read_at_the_identity(network: Network) -> None:
    squashed = paint(SIGNS, 32, 1).resize((64, 40), Image.Resampling.BICUBIC)
    assert network.read(squashed).pose == WHOLE
    assert bits_right(network, squashed) == 1


def test_the_rule_tries_the_documented_poses_and_keeps_the_most_confident(network: Network) -> None:
    for image in (background(5), background(6, 48).resize((48, 30)), background(7).resize((20, 90))):
        tried = network._search(image, network.read(image, pose_search=False))
        poses = [reading.pose for reading in tried]
        assert poses[:2] == [WHOLE, Pose(0, 0, 32, 32, mirrored=True)]
        assert len(set(poses)) == len(poses)
        for pose in poses:
            assert 0 <= pose.left <= 32 - pose.width
            assert 0 <= pose.top <= 32 - pose.height
        coarse = {
            (left, top, side)
            for side in (32, 30, 28, 26, 24)
            for left in range(0, 33 - round(side * image.width / max(image.size)), 2)
            for top in range(0, 33 - round(side * image.height / max(image.size)), 2)
        }
        assert coarse <= {(p.left, p.top, max(p.width, p.height)) for p in poses}
        best = network.read(image)
        assert best.confidence == max(reading.confidence for reading in tried)


def test_angles_are_tried_last_and_only_if_no_window_is_sure(network: Network) -> None:
    foreign = background(5)
    poses = [r.pose for r in network._search(foreign, network.read(foreign, pose_search=False))]
    turned = [pose for pose in poses if pose.angle]
    assert poses[-len(turned) :] == turned
    assert tuple(pose.angle for pose in turned[: len(ANGLES)]) == ANGLES
    assert {-45, -5, 5, 20, 45} <= set(ANGLES) <= set(range(-45, 46, 5)) - {0}
    finer = [pose.angle for pose in turned[len(ANGLES) :]]
    assert 4 <= len(finer) <= 4 * network.spec.poses.top
    assert all(min(abs(angle - coarse) for coarse in ANGLES) <= 2 for angle in finer)
    mirrored = paint(SIGNS, 32, 1).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    tried = network._search(mirrored, network.read(mirrored, pose_search=False))
    assert not any(reading.pose.angle for reading in tried)


def test_a_package_states_its_own_angles_or_has_the_rules(folder: Path, tmp_path: Path) -> None:
    document = json.loads((folder / "network.json").read_text())
    assert "angles" not in document["poses"], "as packages written before angles were tried"
    foreign, tried = background(5), {}
    for name, angles in (("absent", None), ("none", []), ("own", [90, -7.5]), ("default", list(ANGLES))):
        poses = document["poses"] if angles is None else {**document["poses"], "angles": angles}
        package = Network.load(write_network(tmp_path / name, poses=poses), device="cpu")
        tried[name] = {reading.pose for reading in package.ranked([foreign])[0]}
    assert tried["absent"] == tried["default"]
    assert not any(pose.angle for pose in tried["none"])
    turned = {pose.angle for pose in tried["own"] if pose.angle}
    assert turned == {88, 89, 90, 91, 92, -9.5, -8.5, -7.5, -6.5, -5.5}


def test_a_confident_identity_ends_the_search(network: Network) -> None:
    image = paint(SIGNS, 32, 1)
    assert len(network._search(image, network.read(image, pose_search=False))) == 1


def test_images_read_together_are_read_as_alone(network: Network) -> None:
    images = [paint(SIGNS, 32, 1), background(1), paint(SIGNS, 32, 2).crop((2, 2, 28, 28))]
    for together, image in zip(network.read_all(images), images, strict=True):
        alone = network.read(image)
        assert together.pose == alone.pose
        assert np.abs(together.logits - alone.logits).max() <= 1
    assert network.read_all([]) == []


def test_large_images_are_averaged_before_they_are_read(network: Network) -> None:
    large = paint(SIGNS, 32, 1).resize((1536, 1280), Image.Resampling.BICUBIC)
    assert network.reduced(large).size == (308, 256)
    assert network.reduced(paint(SIGNS, 32, 1)).size == (32, 32)
    assert network.reduced(Image.new("RGB", (5000, 40))).size == (5000, 40)
    assert bits_right(network, large) == 1


def test_reduced_scale_costs_no_evidence(network: Network, tmp_path: Path) -> None:
    """What MARGIN's text claims, at a scale that keeps little more than the least."""
    evidence = []
    for seed in range(6):
        large = paint(SIGNS, 32, seed, strength=1.0).resize((1220, 1060), Image.Resampling.BICUBIC)
        grain = np.random.default_rng(seed).integers(-5, 6, (1060, 1220, 1))
        large = Image.fromarray(np.clip(np.asarray(large, int) + grain, 0, 255).astype(np.uint8))
        large.save(tmp_path / "large.jpg", quality=90)
        full = load_image(tmp_path / "large.jpg").image
        small = load_image(tmp_path / "large.jpg", network.side).image
        assert small.size == (153, 133)
        canvases = [network._canvases(network.reduced(image), [WHOLE]).astype(int) for image in (full, small)]
        assert np.abs(canvases[0] - canvases[1]).mean() < 0.25
        assert np.abs(canvases[0] - canvases[1]).max() <= 2
        read = [network.read(image, pose_search=False).logits.astype(np.int64) for image in (full, small)]
        evidence.append([-chernoff_log10(logits, float(logits @ SIGNS)) for logits in read])
    whole, reduced = np.array(evidence).T
    assert whole.min() > 1.5
    assert np.abs(reduced - whole).max() < 0.2, "decades"


def with_vectors(folder: Path, change: float = 0.0) -> Path:
    network = Network.load(write_network(folder), device="cpu")
    pixels = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)
    logits = network.logits(pixels)
    logits[1, 5] += change
    np.savez_compressed(folder / "vectors.npz", pixels=pixels, logits=logits)
    return folder


def test_test_vectors_are_read_when_a_network_is_loaded(tmp_path: Path) -> None:
    assert Network.load(with_vectors(tmp_path / "same"), device="cpu").device == "cpu"
    assert Network.load(with_vectors(tmp_path / "rounded", 1 / 16), device="cpu").device == "cpu"
    with pytest.raises(VerifierError, match=r"cpu reads .* by up to 2 quanta") as caught:
        Network.load(with_vectors(tmp_path / "other", 2 / 16), device="cpu")
    assert caught.value.exit_code == 4


def test_a_network_in_half_precision_is_made_where_it_reads_the_same(tmp_path: Path) -> None:
    folder = with_vectors(tmp_path / "network")
    assert write_half(folder)
    half, single = (folder / HALF).read_bytes(), (folder / "network.onnx").read_bytes()
    assert len(half) < 0.6 * len(single)
    assert not write_half(write_network(tmp_path / "without-vectors"))
    assert not write_half(with_vectors(tmp_path / "other", 2 / 16)), "its test vectors are another network's"
    (folder / "network.onnx").write_bytes(b"not a graph")
    assert not write_half(folder)
    assert not (folder / HALF).exists(), "that of another network is not left"


def test_half_precision_is_taken_where_it_reads_the_test_vectors_and_else_not(tmp_path: Path) -> None:
    """On a CPU, which never takes it by itself: what a graphics card does is done here by hand."""
    folder = with_vectors(tmp_path / "network")
    vectors = (folder / "vectors.npz").read_bytes()
    half = half_precision(folder / "network.onnx")
    (folder / HALF).write_bytes(half)
    network = Network.load(folder, device="cpu")
    assert (network.precision, network.told) == ("fp32", "cpu")
    single = network._session
    pixels = np.random.default_rng(2).integers(0, 256, (40, 32, 32, 3), np.uint8)
    before = network.quantise(network.logits(pixels))

    other = half_precision(write_network(tmp_path / "other", seed=1) / "network.onnx")
    network._halve(single, other, vectors)
    assert re.fullmatch(r"not in half precision: it is \d+ quanta off", network.chosen)
    assert (network.precision, network.told) == ("fp32", "cpu")
    assert (network.quantise(network.logits(pixels)) == before).all()

    network._halve(single, half, vectors)
    assert (network.precision, network.told) == ("fp16", "cpu fp16")
    moved = np.abs(network.quantise(network.logits(pixels)) - before)
    assert moved.max() == 1, "it is another computation, within the tolerance"
    assert moved.mean() < 0.1


def test_full_batches_may_go_through_memory_that_is_kept_on_the_device(network: Network) -> None:
    """On a CPU, whose memory onnxruntime binds as it does a graphics card's."""
    bound = Bound(network._session, Device("cpu"), (BATCH, 32, 32, 3), (BATCH, 64))
    pixels = np.random.default_rng(1).integers(0, 256, (3, BATCH, 32, 32, 3), np.uint8)
    expected = [network.logits(batch) for batch in pixels]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            for found, logits in zip(pool.map(bound.run, pixels), expected, strict=True):
                assert np.allclose(found, logits, atol=1e-4)
    first = bound.run(pixels[0])
    kept = first.copy()
    bound.run(pixels[1])
    assert (first == kept).all(), "an answer is the caller's own"


@pytest.mark.parametrize("kind", ["noise", "empty", "fields", "shape", "cut"])
def test_test_vectors_that_cannot_be_used_are_named(tmp_path: Path, kind: str) -> None:
    path = with_vectors(tmp_path) / "vectors.npz"
    if kind == "fields":
        np.savez(path, images=np.zeros(3))
    elif kind == "shape":
        np.savez(path, pixels=np.zeros((2, 32, 32, 3), np.uint8), logits=np.zeros((2, 63), np.float32))
    else:
        path.write_bytes({"noise": b"noise" * 40, "empty": b"", "cut": path.read_bytes()[:500]}[kind])
    with pytest.raises(InputError, match=r"vectors\.npz cannot be used"):
        Network.load(tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schema": "hallmark/network/2"}, "expected schema"),
        ({"bits": 12}, "bits has a value"),
        ({"bits": "many"}, "bits|field"),
        ({"clip": -1}, "clip has a value"),
        ({"quantum": 0}, "quantum has a value"),
        ({"resample": "nearest"}, "resample has a value"),
        ({"fill": 300}, "fill has a value"),
        ({"poses": {}}, "sides"),
        ({"poses": None}, "lacks or misnames"),
        ({"poses": {**POSES, "angles": [5, 0]}}, "poses.angles has a value"),
        ({"poses": {**POSES, "angles": [181]}}, "poses.angles has a value"),
        ({"poses": {**POSES, "angles": ["left"]}}, "lacks or misnames"),
        ({"poses": {**POSES, "angles": 45}}, "lacks or misnames"),
        ({"size": 64}, "implies"),
        ({"bits": 128}, "implies"),
    ],
)
def test_a_description_that_cannot_be_used_is_refused_by_its_field(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    write_network(tmp_path)
    document = json.loads((tmp_path / "network.json").read_text())
    (tmp_path / "network.json").write_text(json.dumps({**document, **changes}))
    with pytest.raises(InputError, match=reason):
        Network.load(tmp_path)


def test_every_field_of_the_description_is_needed(tmp_path: Path) -> None:
    document = json.loads((write_network(tmp_path) / "network.json").read_text())
    for field in document.keys() - {"evidence"}:
        with pytest.raises(InputError):
            NetworkSpec.parse({name: value for name, value in document.items() if name != field})
    with pytest.raises(InputError):
        NetworkSpec.parse([])


def test_files_that_are_no_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*network\.onnx"):
        Network.load(tmp_path)
    write_network(tmp_path)
    model = onnx.load(tmp_path / "network.onnx")
    for node in model.graph.node:
        node.output[:] = ["answers" if name == "logits" else name for name in node.output]
    model.graph.output[0].name = "answers"
    onnx.save(model, tmp_path / "network.onnx")
    with pytest.raises(InputError, match="no attribution network"):
        Network.load(tmp_path)
    (tmp_path / "network.onnx").write_bytes(b"not a graph")
    with pytest.raises(InputError, match=r"network\.onnx cannot be loaded"):
        Network.load(tmp_path)
    (tmp_path / "network.json").write_text("{")
    with pytest.raises(InputError, match=r"network\.json is no JSON"):
        Network.load(tmp_path)
