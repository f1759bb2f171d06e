from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.factories import CREATED, World, make_world, safetensors, signing_key, write_copy
from verifier import signing
from verifier.bundle import Bundle, Revocation
from verifier.errors import InputError, TrustError
from verifier.inspect import copy_digest, inspect_copy, read_metadata

WEIGHTS = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path, keys=6)


@pytest.fixture
def copy(world: World) -> Path:
    return write_copy(world, 1, world.folder / "copy")


def test_a_folder_is_compared_file_by_file(world: World, copy: Path) -> None:
    for path in (copy, copy / "hallmark.json"):
        inspection = inspect_copy(path)
        files = json.loads((copy / "hallmark.json").read_text())["files"]
        assert inspection.certificate.copy_id == world.copy_id(1)
        assert (inspection.complete, inspection.files, inspection.digest) == (True, 2, copy_digest(files))
        assert (inspection.pinned, inspection.revoked, inspection.delivered) == (False, None, None)
        document = json.loads(json.dumps(inspection.document()))
        assert document["schema"] == "hallmark/inspection/1"
        assert document["registry"] == world.registry
        assert document["recipient_commitment"] == world.models[0].documents[1]["recipient"]


def test_the_model_signature_is_no_part_of_the_list(copy: Path) -> None:
    digest = inspect_copy(copy).digest
    (copy / "model.sig").write_text("{}")
    assert inspect_copy(copy).digest == digest
    (copy / "vae" / "model.sig").write_text("{}")
    with pytest.raises(TrustError, match=r"vae/model\.sig"):
        inspect_copy(copy)


def test_the_digest_is_that_of_the_canonical_list_of_files() -> None:
    files = {"b": {"size": 1, "sha256": "00"}, "a": {"sha256": "ff", "size": 2}}
    text = b'{"a":{"sha256":"ff","size":2},"b":{"sha256":"00","size":1}}'
    import hashlib

    assert copy_digest(files) == hashlib.sha256(text).hexdigest()


def test_one_file_tells_its_certificate_only(world: World, copy: Path) -> None:
    inspection = inspect_copy(copy / WEIGHTS, trust=world.registry)
    assert inspection.certificate.copy_id == world.copy_id(1)
    assert (inspection.complete, inspection.digest, inspection.files) == (False, None, 1)
    assert inspection.pinned


def test_every_flipped_byte_is_found(copy: Path) -> None:
    rng = np.random.default_rng(1)
    for path in sorted(copy.rglob("*")):
        if path.is_dir():
            continue
        data = path.read_bytes()
        for position in range(0, len(data), 3):
            altered = bytearray(data)
            altered[position] ^= 1 << int(rng.integers(8))
            path.write_bytes(altered)
            with pytest.raises(TrustError):
                inspect_copy(copy)
        path.write_bytes(data)
    assert inspect_copy(copy).complete


def test_missing_extra_and_cut_files_are_found_by_name(copy: Path) -> None:
    (copy / "notes.txt").write_text("mine")
    with pytest.raises(TrustError, match=r"holds notes\.txt"):
        inspect_copy(copy)
    (copy / "notes.txt").unlink()
    data = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(data[:-1])
    with pytest.raises(TrustError, match=f"{WEIGHTS} was altered"):
        inspect_copy(copy)
    (copy / WEIGHTS).unlink()
    with pytest.raises(TrustError, match=f"lacks {WEIGHTS}"):
        inspect_copy(copy)


def resigned(copy: Path, key_seed: int, **changes: object) -> None:
    """The copy's statement with ``changes``, signed honestly by a registry's key."""
    path = copy / "hallmark.json"
    document = {**json.loads(path.read_text()), **changes}
    document.pop("signature")
    signed = signing.sign(document, signing_key(key_seed))
    path.write_text(json.dumps(signed, indent=2, sort_keys=True) + "\n")


def test_a_statement_with_a_certificate_of_another_registry_is_refused(copy: Path) -> None:
    import base64

    stranger = signing_key(2).public_key()
    public = base64.b64encode(signing.public_bytes(stranger)).decode()
    resigned(copy, 2, public_key=public, registry=signing.registry_id(stranger))
    with pytest.raises(TrustError, match="signature of the certificate"):
        inspect_copy(copy)
    resigned(copy, 2)
    with pytest.raises(TrustError):
        inspect_copy(copy)


@pytest.mark.parametrize(
    "changes",
    [
        {"registry": "0" * 32},
        {"files": []},
        {"certificate": None},
        {"public_key": "AA=="},
        {"public_key": None},
    ],
)
def test_a_statement_that_makes_no_sense_is_refused(copy: Path, changes: dict[str, object]) -> None:
    resigned(copy, 1, **changes)
    with pytest.raises(TrustError):
        inspect_copy(copy)


def test_a_pinned_registry_must_have_signed(world: World, copy: Path) -> None:
    assert inspect_copy(copy, trust=world.registry).pinned
    for path in (copy, copy / WEIGHTS):
        with pytest.raises(TrustError, match=f"{world.registry}, not by {'0' * 32}"):
            inspect_copy(path, trust="0" * 32)


def test_a_bundle_tells_revocation_and_delivery(world: World, copy: Path) -> None:
    world.revocations = [Revocation(world.models[0].documents[1]["key_id"], CREATED, "leaked")]
    inspection = inspect_copy(copy, bundle=Bundle.open(world.bundle()))
    assert (inspection.pinned, inspection.revoked, inspection.delivered) == (True, True, False)
    digest = bytes.fromhex(inspection.digest or "")
    world.models[0].records["copy_sha256"][1] = np.frombuffer(digest, np.uint8)
    assert inspect_copy(copy, bundle=Bundle.open(world.bundle())).delivered is True
    world.models[0].records["copy_sha256"][1] = 0
    assert inspect_copy(copy, bundle=Bundle.open(world.bundle())).delivered is None
    public = Bundle.open(world.bundle("public", with_keys=False))
    assert inspect_copy(copy, bundle=public).delivered is None
    stranger = make_world(world.folder / "stranger", keys=1, key_seed=2)
    with pytest.raises(TrustError, match="not by"):
        inspect_copy(copy, bundle=Bundle.open(stranger.bundle()))


def test_what_is_no_copy_is_an_input_error(tmp_path: Path) -> None:
    plain = tmp_path / "plain.safetensors"
    plain.write_bytes(safetensors({"w": np.zeros(3, np.float32)}, {"format": "pt"}))
    text = tmp_path / "text.safetensors"
    text.write_text("hello, this is text")
    short = tmp_path / "short.safetensors"
    short.write_bytes(b"\xff")
    for path, reason in {
        tmp_path / "nothing": "there is no copy",
        tmp_path: r"holds no hallmark\.json",
        plain: "carries no Hallmark certificate",
        text: "no safetensors file",
        short: "no safetensors file",
    }.items():
        with pytest.raises(InputError, match=reason):
            inspect_copy(path)
    assert read_metadata(plain) == {"format": "pt"}


def test_damaged_metadata_is_a_trust_error(world: World, tmp_path: Path) -> None:
    path = tmp_path / "damaged.safetensors"
    certificate = signing.canonical(world.models[0].documents[1]).decode()
    good = read_metadata(write_copy(world, 1, tmp_path / "copy") / WEIGHTS)
    for metadata in (
        {"hallmark.certificate": certificate},
        {**good, "hallmark.certificate": "{"},
        {**good, "hallmark.certificate": certificate.replace("flowers", "powers")},
        {**good, "hallmark.public_key": "AAAA"},
    ):
        path.write_bytes(safetensors({"w": np.zeros(3, np.float32)}, metadata))
        with pytest.raises(TrustError, match=r"damaged\.safetensors"):
            inspect_copy(path)
