"""Those who would have somebody else accused: a recipient with his own key, an operator, a stranger's key."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.factories import World, ledger_levels, make_world, paint, tile_reader
from verifier import Verifier, merkle, phi
from verifier.certificate import Certificate, leaf
from verifier.errors import TrustError
from verifier.evidence import score_at

FRAMER, VICTIM = 7, 12
BITS, SIZE = 64, 32
STRANGERS = 20_000
SEEDS = range(5)

Signs = NDArray[np.int8]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), keys=50)


@pytest.fixture(scope="module")
def verifier(world: World) -> Verifier:
    return Verifier.from_bundle(world.bundle(), device="cpu")


def checked(verifier: Verifier, image: Image.Image, path: Path) -> set[str | None]:
    """The copies that the verifier names for an image."""
    image.save(path)
    return {copy.id for finding in verifier.check([path]) for copy in finding.copies}


def own(signs: Signs, rng: np.random.Generator) -> Signs:
    return signs


def inverted(signs: Signs, rng: np.random.Generator) -> Signs:
    return np.negative(signs)


def some_flipped(signs: Signs, rng: np.random.Generator) -> Signs:
    return np.where(rng.random(BITS) < 0.25, -signs, signs).astype(np.int8)


def half_guessed(signs: Signs, rng: np.random.Generator) -> Signs:
    return np.concatenate([signs[: BITS // 2], rng.choice(np.array([-1, 1], np.int8), BITS // 2)])


def shuffled(signs: Signs, rng: np.random.Generator) -> Signs:
    return rng.permutation(signs)


@pytest.mark.parametrize("forged", [own, inverted, some_flipped, half_guessed, shuffled])
def test_who_knows_his_own_key_accuses_nobody_else_beyond_chance(
    world: World,
    verifier: Verifier,
    tmp_path: Path,
    forged: Callable[[Signs, np.random.Generator], Signs],
) -> None:
    network = verifier._models[0].network
    strangers = (
        np.random.default_rng(1).choice(np.array([-1, 1], np.int8), (STRANGERS, BITS)).astype(np.int64)
    )
    for seed in SEEDS:
        image = paint(forged(world.signs(FRAMER), np.random.default_rng(seed)), SIZE, seed)
        assert checked(verifier, image, tmp_path / "framed.png") <= {world.copy_id(FRAMER)}
        logits = network.read(image).logits
        for alpha in (1e-2, 1e-3):
            accused = np.count_nonzero(strangers @ logits >= score_at(logits, np.log10(alpha)))
            # The number is at most binomial; five standard deviations are a chance of 1e-6 or less.
            assert accused <= STRANGERS * alpha + 5 * np.sqrt(STRANGERS * alpha) + 5


def test_a_mixture_with_his_own_copy_names_only_those_whose_images_went_in(
    world: World, verifier: Verifier, tmp_path: Path
) -> None:
    mine, theirs = (np.asarray(world.image(row, seed=3), np.float64) for row in (FRAMER, VICTIM))
    allowed = {world.copy_id(FRAMER), world.copy_id(VICTIM)}
    for share in (0.3, 0.5, 0.7):
        mixed = Image.fromarray(np.rint(share * mine + (1 - share) * theirs).astype(np.uint8))
        assert checked(verifier, mixed, tmp_path / "mixed.png") <= allowed


def test_a_key_that_was_never_issued_is_never_reported(
    world: World, verifier: Verifier, tmp_path: Path
) -> None:
    secret = phi.ModelSecret(hashlib.sha256(b"flowers").digest())  # as the registry would derive it
    for seed in SEEDS:
        unissued = phi.unpack(secret.bits([bytes([seed]) * phi.KEY_ID_BYTES], [0], BITS)[0])
        path = tmp_path / "unissued.png"
        assert checked(verifier, paint(unissued, SIZE, seed), path) == set()
        (finding,) = verifier.check([path])
        assert (finding.verdict, finding.copies, finding.model) == ("not-attributed", [], None)


def swapped(world: World) -> NDArray[np.uint8]:
    """The key table of an operator who gave the victim the key of an image at hand."""
    table = world.models[0].phi.copy()
    table[VICTIM] = np.packbits(np.random.default_rng(4).integers(0, 2, BITS, np.uint8))
    return table


def test_a_key_that_was_swapped_does_not_open_the_commitment_in_the_ledger(tmp_path: Path) -> None:
    world = make_world(tmp_path, keys=50)
    issued = world.models[0]
    genuine, issued.phi = issued.phi, swapped(world)
    verifier = Verifier.from_bundle(world.bundle())  # signed by the operator, so it opens
    framed = paint(issued.signs(VICTIM), SIZE, 1)
    # A verdict rests on the table of whoever made the bundle: only an opened commitment binds him.
    assert checked(verifier, framed, tmp_path / "framed.png") == {world.copy_id(VICTIM)}
    bundle = verifier.bundle
    model = bundle.models[0]
    record = bundle.records(model)[VICTIM]
    logged = bundle.certificate(model, record).commitment
    secret = phi.ModelSecret(hashlib.sha256(b"flowers").digest())
    key_id, redraws = record["key_id"].tobytes(), int(record["redraws"])
    blinder = secret.blinders([key_id], [redraws])[0].tobytes()
    assert phi.commitment(genuine[VICTIM].tobytes(), blinder) == logged
    assert phi.commitment(bundle.phi(model)[VICTIM].tobytes(), blinder) != logged
    for other in range(3):  # nor under the blinder of another draw, or with the bits of one
        again = secret.blinders([key_id], [redraws + 1 + other])[0].tobytes()
        assert phi.commitment(bundle.phi(model)[VICTIM].tobytes(), again) != logged
        redrawn = secret.bits([key_id], [redraws + 1 + other], BITS)[0].tobytes()
        assert phi.commitment(redrawn, blinder) != logged


def rewritten(world: World) -> list[bytes]:
    """The victim's certificate made to fit the swapped key and signed by the registry; the ledger to match.

    Returns the levels of the rewritten ledger; the world's own are left as they were.
    """
    issued = world.models[0]
    record = issued.records[VICTIM]
    secret = phi.ModelSecret(hashlib.sha256(b"flowers").digest())
    blinder = secret.blinders([record["key_id"].tobytes()], [int(record["redraws"])])[0].tobytes()
    genuine = Certificate.parse(issued.documents[VICTIM], world.key.public_key())
    issued.phi = swapped(world)
    certificate = replace(genuine, commitment=phi.commitment(issued.phi[VICTIM].tobytes(), blinder))
    document = certificate.sign(world.key)
    record["commitment"] = np.frombuffer(bytes.fromhex(certificate.commitment), np.uint8)
    record["signature"] = np.frombuffer(base64.b64decode(document["signature"]), np.uint8)
    width = merkle.HASH_BYTES
    leaves = [world.levels[0][i : i + width] for i in range(0, len(world.levels[0]), width)]
    leaves[int(record["ledger_index"])] = merkle.leaf_hash(leaf(document))
    return ledger_levels(leaves)


def test_a_certificate_that_was_signed_again_is_not_in_the_ledger(tmp_path: Path) -> None:
    world = make_world(tmp_path, keys=50)
    rewritten(world)
    verifier = Verifier.from_bundle(world.bundle())
    framed = paint(world.signs(VICTIM), SIZE, 1)
    with pytest.raises(TrustError, match="expected root"):
        checked(verifier, framed, tmp_path / "framed.png")


def test_a_ledger_that_was_rewritten_does_not_continue_the_one_that_auditors_saw(tmp_path: Path) -> None:
    world = make_world(tmp_path, keys=50)
    seen = merkle.Checkpoint.open(world.checkpoint, world.key.public_key())
    levels = rewritten(world)
    more = [levels[0], merkle.leaf_hash(b"the next entry")]
    width = merkle.HASH_BYTES
    grown = ledger_levels([b"".join(more)[i : i + width] for i in range(0, sum(map(len, more)), width)])
    read = tile_reader(grown)
    root = merkle.tree_root(seen.size + 1, read)
    proof = merkle.consistency_proof(seen.size, seen.size + 1, read)
    with pytest.raises(TrustError):
        merkle.verify_consistency(seen.size, seen.size + 1, proof, seen.root, root)
