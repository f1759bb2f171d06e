"""Lineage on real generators: the zoo's builtins, through a bundle as the verifier gets it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from registry.generators.adapters import get_adapter
from registry.generators.builtin import resolve_builtin
from registry.generators.small import SmallGenerator
from registry.lineage import service
from registry.lineage.degrade import degrade
from verifier.errors import InputError, TrustError
from verifier.lineage import Fingerprint, Lineage, LineageSpec, Pixels, kin, mixture, window

FAMILIES = ("vae", "flow", "score")


def generator(family: str) -> SmallGenerator:
    found = get_adapter(family).load(resolve_builtin(f"builtin:zoo-{family}@1").weights)
    assert isinstance(found, SmallGenerator)
    return found


def pixels(images: list[Image.Image]) -> list[Pixels]:
    return [window(image, service.network().spec.window) for image in images]


@pytest.fixture(scope="module")
def samples() -> dict[str, list[Pixels]]:
    return {family: pixels(generator(family).sample(32, seed=3)) for family in FAMILIES}


@pytest.fixture(scope="module")
def lineage() -> Lineage:
    """The shipped network and fingerprints."""
    found = []
    for family in FAMILIES:
        path = resolve_builtin(f"builtin:zoo-{family}@1").lineage
        assert path is not None
        shipped = service.read_shipped(path)
        assert shipped is not None
        found.append(type(shipped)(f"{family}@1", shipped.embedding, shipped.samples, shipped.size))
    return Lineage(service.network(), found)


def told(lineage: Lineage, images: list[Pixels]) -> tuple[str | None, float, str]:
    entry = lineage.of(lineage.features(images)).entry
    assert entry is not None
    return entry.model, entry.confidence, entry.note


@pytest.mark.parametrize("family", FAMILIES)
def test_a_set_is_told_by_its_model(lineage: Lineage, samples: dict[str, list[Pixels]], family: str) -> None:
    model, confidence, _ = told(lineage, samples[family][:16])
    assert model == f"{family}@1"
    assert confidence > 0.6


def test_a_set_is_told_after_jpeg(lineage: Lineage, samples: dict[str, list[Pixels]]) -> None:
    saved = list(degrade(np.stack(samples["vae"][:16]), "jpeg75", seed=0))
    assert told(lineage, saved)[0] == "vae@1"


def test_one_image_is_answered_with_less_confidence(
    lineage: Lineage, samples: dict[str, list[Pixels]]
) -> None:
    alone = [told(lineage, [image])[1] for image in samples["vae"][:16]]
    assert np.mean(alone) < told(lineage, samples["vae"][:16])[1]


def test_another_sampler_of_the_same_weights_is_the_same_model(lineage: Lineage) -> None:
    score = generator("score")
    other = SmallGenerator(score.network, score.latent_shape, {"sampler": "dpm-solver", "steps": 12})
    assert told(lineage, pixels(other.sample(16, seed=5)))[0] == "score@1"


def test_what_no_registered_model_made_is_turned_away(lineage: Lineage) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (48, 48, 3), dtype=np.uint8) for _ in range(16)]
    model, _, note = told(lineage, noise)
    assert model is None
    assert note == "none of the registered models"


def test_a_set_that_mixes_two_models_is_said_to(lineage: Lineage, samples: dict[str, list[Pixels]]) -> None:
    found = lineage.of(lineage.features([*samples["vae"][:8], *samples["flow"][:8]]))
    assert found.entry is not None
    assert found.entry.model is None
    assert "mixes models" in found.entry.note
    assert {"vae@1", "flow@1"} <= set(found.entry.note.replace("(", " ").split())
    truth = ["vae@1"] * 8 + ["flow@1"] * 8
    assert sum(model in found.notes[i] for i, model in enumerate(truth)) >= 14


def test_models_that_images_do_not_tell_apart_are_one_alternative(
    lineage: Lineage, samples: dict[str, list[Pixels]]
) -> None:
    vae = lineage.fingerprints[FAMILIES.index("vae")]
    renamed = Fingerprint("renamed@1", vae.embedding, vae.samples, vae.size)
    both = Lineage(lineage.network, [*lineage.fingerprints, renamed])
    (_, alone, _), (model, confidence, note) = (told(each, samples["vae"][:16]) for each in (lineage, both))
    assert (model, confidence) == ("vae@1", alone)
    assert note == "or by renamed@1, whose images are alike"
    mixed = both.of(both.features([*samples["vae"][:8], *samples["flow"][:8]]))
    assert mixed.entry is not None
    assert "mixes models" in mixed.entry.note


@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_kin_are_joined_by_steps_and_everybody_is_in_one_group(count: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(count, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    groups = kin(vectors.astype(np.float32), 0.1)
    assert sorted(place for group in groups for place in group) == list(range(count))
    near = vectors @ vectors.T >= 0.9
    for number, group in enumerate(groups):
        outside = [place for other in groups[:number] + groups[number + 1 :] for place in other]
        assert not near[np.ix_(group, outside)].any()
        reached = {group[0]}
        for _ in group:
            reached |= {place for place in group if near[place, sorted(reached)].any()}
        assert reached == set(group)


def test_an_embedding_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="unit length"):
        Fingerprint.parse({"model": "x@1", "embedding": [float("nan")] * 3, "samples": 64, "size": 32})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_set_of_one_model_is_not_said_to_mix(
    lineage: Lineage, samples: dict[str, list[Pixels]], family: str
) -> None:
    found = lineage.of(lineage.features(samples[family]))
    assert found.entry is not None
    assert "mixes" not in found.entry.note
    assert not found.notes


def test_two_models_explain_a_mixture_better_than_one() -> None:
    of_first, of_second = np.array([[0.9, 0.1, 0.0]]), np.array([[0.1, 0.9, 0.0]])
    mixed, pair = mixture(np.repeat([of_first[0], of_second[0]], 8, axis=0), 0.1)
    pure, _ = mixture(of_first.repeat(16, 0), 0.1)
    assert sorted(pair) == [0, 1]
    assert mixed > 10
    assert pure < 0


def test_fingerprints_of_unequal_widths_are_refused() -> None:
    members = {
        "lineage/images.onnx": (service.FOLDER / service.IMAGES).read_bytes(),
        "lineage/sets.onnx": (service.FOLDER / service.SETS).read_bytes(),
        "lineage/lineage.json": (service.FOLDER / service.SPEC).read_bytes(),
    }
    entries = [
        {"model": str(width), "embedding": [1.0] + [0.0] * (width - 1), "samples": 64, "size": 32}
        for width in (97, 96)
    ]
    document = json.dumps({"fingerprints": entries}).encode()
    with pytest.raises(TrustError, match="one width"):
        Lineage.open({**members, "lineage/fingerprints.json": document}, "cpu")


def test_an_image_that_is_too_small_is_left_out_and_said(
    lineage: Lineage, samples: dict[str, list[Pixels]]
) -> None:
    small = np.zeros((8, 40, 3), np.uint8)
    found = lineage.of(lineage.features([small, *samples["vae"][:15]]))
    assert found.entry is not None
    assert found.entry.model == "vae@1"
    assert "smaller than 16 x 16" in found.notes[0]
    assert lineage.of(lineage.features([small])).entry is None


def test_the_order_of_a_set_does_not_matter_and_sizes_may_differ(
    lineage: Lineage, samples: dict[str, list[Pixels]]
) -> None:
    images = [*samples["vae"][:8], *degrade(np.stack(samples["vae"][8:16]), "resize150", seed=0)]
    features = [found for found in lineage.features(images) if found is not None]
    backwards = np.stack(features[::-1])
    network = lineage.network
    forwards = network.embed(np.stack(features), [range(16)])
    assert np.allclose(forwards, network.embed(backwards, [range(16)]), atol=1e-5)


@pytest.mark.parametrize("field", ["sizes", "temperature", "reject", "mixed", "source", "smallest"])
def test_a_description_that_cannot_be_used_names_its_field(field: str) -> None:
    document = json.loads((Path(service.FOLDER) / service.SPEC).read_text())
    document[field] = [] if isinstance(document[field], list) else 0
    with pytest.raises(InputError, match=field):
        LineageSpec.parse(document)
