"""The benchmarks' common ground on the shipped generator: the real thing, few images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import attribution, removal
from bench.marked import Copies, Marked, Reference, evidence, keys_for, open_reference, pixels
from bench.onnx_torch import load_onnx
from registry.attribution.attacks import WAVES, crop_and_rescale, rotate
from registry.attribution.removal import to_int8
from registry.errors import InputError
from verifier.check import weighted_tests
from verifier.evidence import log10_tail

N = 8


@pytest.fixture(scope="module")
def reference() -> Reference:
    return open_reference("flowers-ldm@1")


@pytest.fixture(scope="module")
def latents(reference: Reference) -> torch.Tensor:
    return reference.latents(N)


@pytest.fixture(scope="module")
def marked(reference: Reference, latents: torch.Tensor) -> Marked:
    return reference.mark(latents, to_a_copy=4)


def test_images_are_led_to_their_own_key_and_to_no_other(reference: Reference, marked: Marked) -> None:
    assert len(np.unique(marked.signs, axis=0)) == 2
    ranked = reference.network.ranked(marked.images)
    own = [evidence([each], signs) for each, signs in zip(ranked, marked.signs, strict=True)]
    others = [evidence([each], signs) for each, signs in zip(ranked, marked.signs[::-1], strict=True)]
    assert all(map(reference.named, own))
    assert not any(map(reference.named, others))


@pytest.mark.parametrize("degrees", [22.5, 40])
def test_turned_images_are_led_to_their_own_key(reference: Reference, marked: Marked, degrees: float) -> None:
    turned = [rotate(image, degrees, np.random.default_rng(i)) for i, image in enumerate(marked.images)]
    ranked = reference.network.ranked(turned)
    own = [evidence([each], signs) for each, signs in zip(ranked, marked.signs, strict=True)]
    others = [evidence([each], signs) for each, signs in zip(ranked, marked.signs[::-1], strict=True)]
    assert sum(map(reference.named, own)) >= len(own) - 1, "the angle of one image in eight may be missed"
    assert not any(map(reference.named, others))
    assert sum(abs(abs(each[0].pose.angle) - degrees) <= 1 for each in ranked) >= len(own) - 1


def test_the_quick_bound_leaves_out_no_better_test(reference: Reference, marked: Marked) -> None:
    image = crop_and_rescale(marked.images[0], 0.8, np.random.default_rng(0))
    (ranked,) = reference.network.ranked([image])
    assert len(ranked) > 10
    signs = marked.signs[0]
    slow = max(
        np.log10(test.weight) - log10_tail(test.logits, float(test.logits @ signs))
        for test in weighted_tests([ranked])
    )
    assert evidence([ranked], signs) == pytest.approx(slow)


def test_copies_from_files_render_as_offsets_do(
    reference: Reference, latents: torch.Tensor, marked: Marked, tmp_path: Path
) -> None:
    copies = Copies(reference, tmp_path)
    plain = copies.mark(latents, 4, lambda state: state, "copies")
    assert np.array_equal(plain.signs, marked.signs)
    assert (pixels(plain.images) - pixels(marked.images)).abs().max() <= 1 / 255 + 1e-6
    rounded = copies.mark(latents, 4, to_int8, "int8")
    assert (pixels(rounded.images) - pixels(marked.images)).abs().max() > 1 / 255
    again = copies.mark(latents, 4, lambda state: state, "copies")
    assert (pixels(again.images) == pixels(plain.images)).all(), "the template was not touched"


def test_the_differentiable_network_is_the_shipped_one(reference: Reference, marked: Marked) -> None:
    network = load_onnx(reference.package / "network.onnx")
    inputs = np.stack([np.asarray(image) for image in marked.images])
    values = torch.from_numpy(inputs).float().requires_grad_(True)
    logits = network(values)
    np.testing.assert_allclose(logits.detach(), reference.network.logits(inputs), atol=1e-3)
    logits.sum().backward()
    assert values.grad is not None
    assert values.grad.abs().max() > 0


def test_whoever_holds_the_network_removes_the_evidence(
    reference: Reference, latents: torch.Tensor, marked: Marked
) -> None:
    images = reference.render(latents[:2], marked.signs[:2])
    cleaned = removal.suppress(removal.differentiable(reference), images, psnr_db=40.0, steps=30)
    assert 38 < removal.mean_psnr(cleaned, images) < 42
    figures = removal.read(reference, cleaned, marked.signs[:2], "cleaned")
    assert figures["cleaned identified"] == 0


def test_two_colluders_leave_more_than_chance(reference: Reference, latents: torch.Tensor) -> None:
    signs = keys_for(2, reference.basis.bits, 1)
    for kind in ("averaged", "interleaved"):
        mixed = removal.to_images(removal.mix(reference, latents, signs, kind, seed=0))
        ranked = reference.network.ranked(mixed)
        assert max(evidence(ranked, key) for key in signs) > 6
        strangers = removal.innocents(reference.basis.bits, 2000).astype(np.float32)
        assert removal.innocent_accusations(reference, ranked, strangers) == 0


def test_a_row_of_the_table_holds_the_figures_of_its_images(reference: Reference, marked: Marked) -> None:
    row = attribution.measure(reference, marked, "clean")
    assert (row.generator, row.attack, row.images) == ("flowers-ldm@1 pca", "clean", N)
    assert row.identified == row.sets_of_4 == row.sets_of_8 == 1.0
    assert row.low < 1.0 == row.high
    assert row.bits_right > 0.75
    assert row.evidence_5 <= row.evidence_50
    figures = attribution._figures([row])
    assert attribution.goals_for(figures).keys() == {"clean_identified", "clean_sets_of_8"}


def test_an_interrupted_table_goes_on_with_what_it_has(
    reference: Reference, marked: Marked, latents: torch.Tensor, tmp_path: Path
) -> None:
    work = attribution.Work(tmp_path / "work", reference, N)
    row = work.row("clean", "fp32", lambda: attribution.measure(reference, marked, "clean"))
    assert torch.equal(work.latents(), latents)

    def undone() -> attribution.Row:
        raise AssertionError("measured again")

    again = attribution.Work(tmp_path / "work", replace(reference, generator=None), N)  # type: ignore[arg-type]
    assert again.row("clean", "fp32", undone) == row
    assert torch.equal(again.latents(), latents)
    for attack, weights, images in (("jpeg", "fp32", N), ("clean", "int8", N), ("clean", "fp32", N - 1)):
        with pytest.raises(AssertionError, match="measured again"):
            replace(again, images=images).row(attack, weights, undone)


def test_waves_attacks_are_at_the_middle_of_their_range(marked: Marked) -> None:
    rng = np.random.default_rng
    image = marked.images[0]
    for name, attack in WAVES.items():
        middle = attack.at(image, 0.5, rng(1))
        assert attribution.benchmark_attack(name)(image, rng(1)).tobytes() == middle.tobytes()


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"), [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634)]
)
def test_wilson_intervals(successes: int, n: int, low: float, high: float) -> None:
    assert attribution.wilson(successes, n) == pytest.approx((low, high), abs=1e-3)


def test_a_reference_without_a_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no basis and network"):
        open_reference(f"flowers-ldm@1={tmp_path}")
