"""Findings end to end on a small real registry: painted images, real network, real keys and ledger."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.factories import CREATED, World, make_world, paint
from verifier import Verifier, check, evidence
from verifier.bundle import Revocation
from verifier.check import FIRST_SHARE, TESTS_MOST, weighted_tests
from verifier.errors import InputError, TrustError
from verifier.finding import Finding, parse
from verifier.images import load_image
from verifier.network import Pose, Reading


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = make_world(tmp_path_factory.mktemp("world"), keys=50)
    made.revocations = [Revocation(made.models[0].documents[4]["key_id"], CREATED, "leaked")]
    return made


@pytest.fixture(scope="module")
def verifier(world: World) -> Verifier:
    return Verifier.from_bundle(world.bundle(), device="cpu")


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


def weak(world: World, row: int, seed: int) -> Path:
    """An image whose fingerprint is too weak to name it alone, but not in a set."""
    image = paint(world.signs(row), 32, seed, strength=1.6)
    noise = np.random.default_rng(seed).normal(0, 25, (32, 32, 3))
    path = world.folder / f"weak{row}-{seed}.png"
    Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)).save(path)
    return path


def test_an_image_of_a_copy_is_attributed_to_it(world: World, verifier: Verifier) -> None:
    path = world.save_image(7)
    finding = only(verifier.check([path]))
    copy = finding.copies[0]
    assert finding.verdict == "attributed"
    assert (copy.id, copy.recipient) == (world.copy_id(7), "bruno@example.com")
    assert copy.sha256 == world.models[0].records[7]["copy_sha256"].tobytes().hex()
    assert (copy.issued_at, copy.revoked, copy.matching_bits) == (CREATED, False, 64)
    logits = verifier._models[0].network.read(world.image(7)).logits
    expected = evidence.log10_tail(logits, int(logits @ world.signs(7))) - math.log10(1 - 110e-5)
    assert copy.log10_p == pytest.approx(expected)
    assert copy.log10_p_family == pytest.approx(expected + math.log10(50))
    assert finding.images[0].log10_p == copy.log10_p
    assert finding.images[0].log10_p_without is None
    assert finding.statement() == f"this image depends on the key of {world.copy_id(7)}"


def test_the_document_has_the_fields_of_the_schema(world: World, verifier: Verifier) -> None:
    finding = only(verifier.check([world.save_image(7)]))
    document = json.loads(json.dumps(finding.document(), allow_nan=False))
    assert list(document) == [
        *("schema", "images", "verdict", "copies", "model", "lineage", "evidence", "network", "ledger"),
        "elapsed_ms",
    ]
    assert document["schema"] == "hallmark/finding/1"
    assert list(document["images"][0]) == [
        *("path", "sha256", "width", "height", "error", "pose"),
        *("log10_p", "log10_p_without", "alone", "notes"),
    ]
    assert list(document["copies"][0]) == [
        *("id", "key_id", "sha256", "recipient", "issued_at", "revoked"),
        *("matching_bits", "log10_p", "log10_p_family"),
    ]
    assert document["model"] == {
        "name": "flowers",
        "version": 1,
        "digest": world.models[0].entry.digest,
    }
    assert document["lineage"] is None
    assert document["evidence"] == {"bits": 64, "hypotheses": 50, "alpha": 1e-6, "groups": 1}
    assert document["network"] == {"digest": verifier._models[0].network.digest, "device": "cpu"}
    assert document["ledger"] == {"index": 8, "tree_size": 51, "verified": True}
    assert document["elapsed_ms"] > 0


def test_below_alpha_a_finding_discloses_nothing(world: World, verifier: Verifier) -> None:
    for paths in ([world.save_foreign(1)], [weak(world, 3, 1)]):
        document = only(verifier.check(paths)).document()
        assert document["verdict"] == "not-attributed"
        assert document["copies"] == []
        assert document["model"] is None
        assert document["ledger"] == {"index": None, "tree_size": 51, "verified": True}
        image = document["images"][0]
        assert (image["log10_p"], image["log10_p_without"]) == (None, None)
        assert image["pose"] is not None
        assert not any(world.copy_id(row)[5:] in json.dumps(document) for row in range(50))


def test_every_foreign_image_stays_unattributed(world: World, verifier: Verifier) -> None:
    findings = verifier.check([world.save_foreign(seed) for seed in range(40)])
    assert [finding.verdict for finding in findings] == ["not-attributed"] * 40


def test_weak_images_are_attributed_as_a_set_that_says_no_more(world: World, verifier: Verifier) -> None:
    paths = [weak(world, 3, seed) for seed in range(8)]
    # Without the search: a reading this weak is not told from those at wrong poses.
    alone = verifier.check(paths, pose_search=False)
    assert not any(finding.attributed for finding in alone)
    finding = only(verifier.check(paths, as_set=True, pose_search=False))
    assert [copy.id for copy in finding.copies] == [world.copy_id(3)]
    assert finding.statement().startswith("at least one of these images depends on")
    network = verifier._models[0].network
    images = [load_image(path).image for path in paths]
    readings = [network.read(image, pose_search=False).logits.astype(np.int64) for image in images]
    acceptance = math.log10(1 - 110e-5)
    for image, own in zip(finding.images, readings, strict=True):
        rest = sum(readings) - own
        for bound, logits in ((image.log10_p, own), (image.log10_p_without, rest)):
            assert bound == pytest.approx(
                min(0.0, evidence.log10_tail(logits, int(logits @ world.signs(3))) - acceptance)
            )
        assert image.log10_p > finding.copies[0].log10_p


def test_alpha_is_shared_by_the_groups_of_one_call(world: World, verifier: Verifier) -> None:
    seeds = iter(range(400, 500))
    finding = only(verifier.check([path := weak(world, 9, next(seeds))], alpha=0.2))
    while not finding.attributed:
        finding = only(verifier.check([path := weak(world, 9, next(seeds))], alpha=0.2))
    family = 10 ** finding.copies[0].log10_p_family
    assert only(verifier.check([path], alpha=family * 1.01)).attributed
    assert not only(verifier.check([path], alpha=family * 0.99)).attributed
    shared = verifier.check([path, world.save_foreign(1), world.save_foreign(2)], alpha=family * 2.9)
    assert [f.verdict for f in shared] == ["not-attributed"] * 3
    assert shared[0].evidence.groups == 3
    shared = verifier.check([path, world.save_foreign(1), world.save_foreign(2)], alpha=family * 3.1)
    assert [f.attributed for f in shared] == [True, False, False]


def test_an_unreadable_image_is_an_entry_and_the_others_are_checked(world: World, verifier: Verifier) -> None:
    broken = world.folder / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    good, missing = world.save_image(5), world.folder / "missing.png"
    findings = verifier.check([broken, good, missing])
    assert [f.has_errors for f in findings] == [True, False, True]
    assert [f.attributed for f in findings] == [False, True, False]
    assert "damaged" in str(findings[0].images[0].error)
    assert findings[0].statement() == "nothing could be read"
    together = only(verifier.check([broken, good, missing], as_set=True))
    assert together.attributed
    assert together.has_errors
    assert [image.error is None for image in together.images] == [False, True, False]
    assert [image.log10_p is None for image in together.images] == [True, False, True]
    assert together.images[1].log10_p_without is None
    assert not only(verifier.check([broken, missing], as_set=True)).attributed


def test_a_set_says_which_images_name_a_copy_by_themselves(world: World, verifier: Verifier) -> None:
    paths = [world.save_image(1), world.folder / "missing.png", world.save_foreign(3)]
    finding = only(verifier.check(paths, as_set=True))
    assert {copy.id for copy in finding.copies} == {world.copy_id(1)}
    assert [image.alone for image in finding.images] == [[world.copy_id(1)], [], []]
    weak_ones = [weak(world, 3, seed) for seed in range(8)]
    finding = only(verifier.check(weak_ones, as_set=True, pose_search=False))
    assert finding.attributed
    assert not any(image.alone for image in finding.images)


def test_images_that_name_different_copies_get_no_verdict_as_a_set(world: World, verifier: Verifier) -> None:
    paths = [world.save_image(1), world.save_foreign(3), world.save_image(2)]
    finding = only(verifier.check(paths, as_set=True))
    assert (finding.verdict, finding.copies, finding.model) == ("not-attributed", [], None)
    assert [image.alone for image in finding.images] == [[world.copy_id(1)], [], [world.copy_id(2)]]
    assert finding.statement() == (
        "these images contradict each other, so there is no verdict about them as a set: "
        f"{paths[0]} names {world.copy_id(1)}, {paths[2]} {world.copy_id(2)}; check them one by one"
    )
    assert parse(finding.document()) == finding


def test_a_bundle_that_lacks_keys_gives_no_verdict(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check.AdaptiveKeys, "__len__", lambda _: 49)
    with pytest.raises(TrustError, match="holds 49 of the 50 keys"):
        Verifier.from_bundle(world.bundle(), device="cpu")


def test_reading_many_at_a_time_changes_nothing(
    world: World, verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    paths = [world.save_image(row) for row in range(20)]
    paths[7], paths[11] = world.folder / "missing.png", world.save_foreign(5)
    at_once = Verifier.from_bundle(world.bundle(), device="cpu", parallel=True)
    assert at_once._workers == 3
    for as_set in (False, True):
        expected = verifier.check(paths, as_set=as_set, pose_search=False)
        found = at_once.check(paths, as_set=as_set, pose_search=False)
        assert [replace(one, elapsed_ms=0) for one in found] == [
            replace(one, elapsed_ms=0) for one in expected
        ]


def test_a_revoked_key_is_attributed_as_ever_and_marked(world: World, verifier: Verifier) -> None:
    copies = only(verifier.check([world.save_image(4)])).copies
    assert [(copy.id, copy.revoked) for copy in copies] == [(world.copy_id(4), True)]


def test_a_copy_that_was_never_delivered_has_no_digest(world: World, verifier: Verifier) -> None:
    assert only(verifier.check([world.save_image(6)])).copies[0].sha256 is None


def test_colluders_are_all_named(world: World, verifier: Verifier) -> None:
    mixed = (np.asarray(world.image(10), float) + np.asarray(world.image(11), float)) / 2
    path = world.folder / "colluded.png"
    Image.fromarray(mixed.astype(np.uint8)).save(path)
    finding = only(verifier.check([path], alpha=1e-3))
    assert {copy.id for copy in finding.copies} == {world.copy_id(10), world.copy_id(11)}
    bounds = [copy.log10_p_family for copy in finding.copies]
    assert bounds == sorted(bounds)
    assert finding.images[0].log10_p == finding.copies[0].log10_p


def test_a_crop_is_attributed_by_the_pose_search_only(world: World, verifier: Verifier) -> None:
    path = world.folder / "crop.png"
    world.image(12, size=64).crop((8, 4, 56, 52)).save(path)
    finding = only(verifier.check([path]))
    assert [copy.id for copy in finding.copies] == [world.copy_id(12)]
    assert finding.images[0].pose is not None
    assert finding.images[0].pose["width"] < 32
    assert not only(verifier.check([path], pose_search=False)).attributed


def test_many_groups_are_judged_as_each_alone(world: World, verifier: Verifier) -> None:
    paths = [world.save_image(row) if row % 3 else world.save_foreign(row) for row in range(37)]
    findings = verifier.check(paths)
    assert [f.images[0].path for f in findings] == list(map(str, paths))
    for row, finding in enumerate(findings):
        assert [copy.id for copy in finding.copies] == ([world.copy_id(row)] if row % 3 else [])


def test_progress_counts_every_image(world: World, verifier: Verifier) -> None:
    calls: list[None] = []
    paths = [world.save_image(1), world.folder / "missing.png", world.save_foreign(1)]
    list(verifier.findings(paths, progress=lambda: calls.append(None)))
    assert len(calls) == 3


def test_several_models_share_the_hypotheses_and_are_each_read_by_their_network(tmp_path: Path) -> None:
    world = make_world(tmp_path, keys=20, models=("flowers", "birds"))
    verifier = Verifier.from_bundle(world.bundle(), device="cpu")
    findings = verifier.check([world.save_image(3), world.save_image(5, model=1), world.save_foreign(1)])
    assert [[copy.id for copy in f.copies] for f in findings] == [
        [world.copy_id(3)],
        [world.copy_id(5, model=1)],
        [],
    ]
    assert [f.model.name if f.model else None for f in findings] == ["flowers", "birds", None]
    assert [f.evidence.hypotheses for f in findings[:2]] == [40, 40], "one reading of each, both models' keys"
    assert findings[2].evidence.hypotheses > 40, "nothing was sure, so further poses were tested"
    assert findings[0].network.digest != findings[1].network.digest
    assert findings[2].network.digest is None
    assert findings[1].ledger.index == 26


def test_hypotheses_count_every_key_ever_issued(tmp_path: Path) -> None:
    world = make_world(tmp_path, keys=20)
    verifier = Verifier.from_bundle(world.bundle())
    assert verifier.hypotheses == verifier._tested.hypotheses == 20
    verifier._tested = replace(verifier._tested, hypotheses=10**12)
    finding = only(verifier.check([world.save_image(3)], alpha=1e-3))
    assert finding.evidence.hypotheses == 10**12
    assert finding.copies[0].log10_p_family == pytest.approx(finding.copies[0].log10_p + 12)
    assert not only(verifier.check([world.save_image(3)], alpha=1e-8)).attributed


def test_a_named_copy_needs_a_valid_certificate(tmp_path: Path) -> None:
    world = make_world(tmp_path, keys=20)
    world.models[0].records["issued_at"][3] += 1
    verifier = Verifier.from_bundle(world.bundle())
    assert not only(verifier.check([world.save_foreign(1)])).attributed
    with pytest.raises(TrustError, match="signature of the certificate"):
        verifier.check([world.save_image(3)])


def test_an_altered_key_table_is_found_before_it_is_used(tmp_path: Path) -> None:
    world = make_world(tmp_path, keys=20)
    path = world.bundle()
    data = bytearray(path.read_bytes())
    data[data.index(world.models[0].phi.tobytes()) + 9] ^= 1
    path.write_bytes(data)
    verifier = Verifier.from_bundle(path)
    with pytest.raises(TrustError, match=r"phi\.bin"):
        verifier.check([world.save_image(3)])


def test_a_network_for_another_basis_is_refused(tmp_path: Path) -> None:
    world = make_world(tmp_path, keys=3)
    world.models[0].entry = replace(world.models[0].entry, basis="00" * 32)
    with pytest.raises(TrustError, match="another fingerprint basis"):
        Verifier.from_bundle(world.bundle())


def test_a_bundle_without_keys_says_what_to_ask_for(world: World) -> None:
    with pytest.raises(InputError, match="holds no keys") as caught:
        Verifier.from_bundle(world.bundle("public.bundle", with_keys=False))
    assert "--with-keys" in caught.value.hint


@pytest.mark.parametrize("alpha", [0.0, 1.0, -1.0, math.nan, math.inf])
def test_an_alpha_that_is_no_probability_is_refused(world: World, verifier: Verifier, alpha: float) -> None:
    with pytest.raises(InputError, match="alpha"):
        verifier.check([world.save_image(1)], alpha=alpha)


def test_no_image_at_all_is_refused(verifier: Verifier) -> None:
    with pytest.raises(InputError, match="no image"):
        verifier.check([])


def test_the_cheap_test_leaves_out_nothing_that_the_exact_one_names(
    world: World, verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [weak(world, row, seed) for row in range(4) for seed in range(30, 40)]
    options = {"alpha": 0.9, "pose_search": False}
    filtered = [f.verdict for f in verifier.check(paths, **options)]
    assert set(filtered) == {"attributed", "not-attributed"}
    monkeypatch.setattr(check, "HOPELESS", math.inf)
    assert [f.verdict for f in verifier.check(paths, **options)] == filtered


def test_the_package_offers_the_verifier_and_nothing_it_does_not_have() -> None:
    import verifier as package

    missing: Any = "nothing"
    assert package.Verifier is check.Verifier
    with pytest.raises(AttributeError, match="nothing"):
        getattr(package, missing)


def test_readings_share_alpha_by_weights_that_sum_to_one() -> None:
    def ranked(*confidences: float) -> list[Reading]:
        return [Reading(np.arange(8, dtype=np.int32), Pose(0, 0, 8, 8), c) for c in confidences]

    assert [test.weight for test in weighted_tests([ranked(2.0)])] == [1.0]
    for images in ([ranked(0.5, 0.4, 0.3)], [ranked(2.0), ranked(0.5, 0.4)], [ranked(*[0.1] * 500)] * 3):
        tests = weighted_tests(images)
        assert sum(test.weight for test in tests) == pytest.approx(1)
        assert tests[0].weight == FIRST_SHARE
        assert tests[0].image == (0 if len(images) == 1 else None), "pooled over several, or one by itself"
        assert len(tests) == min(TESTS_MOST, sum(map(len, images)) + (len(images) > 1))
    alone = weighted_tests([ranked(2.0), ranked(0.5, 0.4)])[1:]
    assert [(test.image, test.reading.confidence) for test in alone if test.reading] == [
        (0, 2.0),
        (1, 0.5),
        (1, 0.4),
    ], "an image of a set is also tested by itself"


def test_a_further_reading_pays_for_being_tried(tmp_path: Path) -> None:
    world = make_world(tmp_path, keys=20)
    verifier = Verifier.from_bundle(world.bundle(), device="cpu")
    paths = [world.save_image(3), world.save_foreign(1), world.save_foreign(2)]
    (together,) = verifier.check(paths, as_set=True)
    assert [copy.id for copy in together.copies] == [world.copy_id(3)]
    copy, tested = together.copies[0], together.evidence
    assert copy.log10_p_family == pytest.approx(min(0.0, copy.log10_p + np.log10(tested.hypotheses)))
    assert tested.hypotheses >= np.ceil(20 / FIRST_SHARE)
