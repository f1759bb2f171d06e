from __future__ import annotations

import hashlib
import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.attribution.half import write_half
from tests.factories import CREATED, EXPIRES, World, make_world, signing_key
from verifier import archive, bundle, signing
from verifier.bundle import RECORD, Bundle, KeyContent, ModelContent, Revocation, unix, utc, write_bundle
from verifier.check import network_package
from verifier.errors import InputError, TrustError
from verifier.network import Network


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path, keys=6)


def opened(path: Path, **options: Any) -> Bundle:
    """Opened and completely verified."""
    found = Bundle.open(path, **options)
    found.verify()
    return found


def test_what_was_written_is_read(world: World) -> None:
    world.revocations = [Revocation(world.models[0].documents[2]["key_id"], CREATED, "leaked")]
    found = opened(world.bundle(), trust=world.registry)
    model = found.models[0]
    issued = world.models[0]
    assert (found.registry, found.pinned, found.serial) == (world.registry, True, 3)
    assert (found.created_at, found.expires_at) == (CREATED, EXPIRES)
    assert model == replace(issued.entry, folder="models/flowers")
    assert model.acceptance == pytest.approx(1 - 110e-5)
    assert found.has_keys(model)
    assert np.array_equal(found.phi(model), issued.phi)
    assert found.records(model).tobytes() == issued.records.tobytes()
    assert list(found.revocations) == [issued.documents[2]["key_id"]]
    assert found.checkpoint.size == 7
    for name in bundle.NETWORK_FILES:
        assert bytes(found.read(f"models/flowers/{name}")) == (issued.network / name).read_bytes()
    for row, document in enumerate(issued.documents):
        record = found.records(model)[row]
        certificate = found.certificate(model, record)
        assert certificate.sign(world.key) == document
        assert found.recipient(model, record) == world.recipients[row % 2]


def test_test_vectors_and_half_precision_travel_where_the_network_has_them(world: World) -> None:
    plain = world.bundle("plain")
    network = world.models[0].network
    pixels = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)
    logits = Network.load(network, "cpu").logits(pixels)
    np.savez_compressed(network / "vectors.npz", pixels=pixels, logits=logits)
    assert write_half(network)
    found = opened(world.bundle("more"))
    package = network_package(found, found.models[0])
    assert package.vectors == (network / "vectors.npz").read_bytes()
    assert package.half == (network / "network.fp16.onnx").read_bytes()
    assert package.open("cpu").told == "cpu"
    less = network_package(opened(plain), found.models[0])
    assert (less.vectors, less.half) == (None, None)


def test_the_record_is_laid_out_as_documented() -> None:
    assert RECORD.itemsize == 12 + 2 + 32 + 32 + 8 + 8 + 8 + 32 + 4 + 64
    assert RECORD["issued_at"].byteorder == ">"


def test_the_same_content_gives_the_same_bytes_and_secrets_are_the_owners(world: World) -> None:
    first, again = world.bundle("one"), world.bundle("two")
    assert first.read_bytes() == again.read_bytes()
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    assert not list(world.folder.glob(".*partial"))


def test_a_bundle_without_keys_holds_none(world: World) -> None:
    path = world.bundle(with_keys=False)
    found = opened(path)
    assert not found.has_keys(found.models[0])
    assert [name for name in archive.Archive(path).names() if "keys" in name or "ledger" in name] == []
    assert world.models[0].phi.tobytes() not in path.read_bytes()


def test_recipients_stay_undisclosed_without_a_list(world: World) -> None:
    issued = world.models[0]
    records = issued.records.copy()
    records["recipient_number"] = 0
    path = world.folder / "anonymous"
    content = ModelContent(issued.entry, issued.network, KeyContent(issued.phi, records, None))
    options = {"checkpoint": world.checkpoint, "serial": 1, "ledger": world.levels}
    write_bundle(path, world.key, [content], created_at=CREATED, expires_at=EXPIRES, **options)
    found = opened(path)
    assert found.recipient(found.models[0], found.records(found.models[0])[1]) is None
    assert b"ada@example.com" not in path.read_bytes()


def test_every_flipped_byte_is_a_trust_error(world: World) -> None:
    data = world.bundle().read_bytes()
    path = world.folder / "flipped"
    rng = np.random.default_rng(1)
    # Every byte of what is not the large network, with one of the 8 bits; the network in steps.
    network = (world.models[0].network / "network.onnx").read_bytes()
    start = data.index(network)
    positions = [
        *range(start),
        *range(start, start + len(network), 997),
        *range(start + len(network), len(data)),
    ]
    for position in positions[int(rng.integers(5)) :: 5]:
        altered = bytearray(data)
        altered[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(altered)
        with pytest.raises(TrustError):
            opened(path)


@pytest.mark.parametrize("member", ["models/flowers/network.onnx", "models/flowers/keys/phi.bin", "ledger/0"])
def test_an_altered_member_is_named(world: World, member: str) -> None:
    path = world.bundle()
    data = bytearray(path.read_bytes())
    content = bytes(archive.Archive(path).read(member))
    data[data.index(content) + len(content) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(TrustError, match=member):
        opened(path)
    if member.endswith(".onnx"):
        with pytest.raises(TrustError, match=member):
            Bundle.open(path).read(member)


def test_what_could_not_be_compared_is_not_used(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    network, compare = "models/flowers/network.onnx", Bundle._verify_member

    def fail(self: Bundle, name: str) -> None:
        if name == network:
            raise MemoryError("too large")
        compare(self, name)

    monkeypatch.setattr(Bundle, "_verify_member", fail)
    found = Bundle.open(world.bundle())
    for use in (lambda: found.read(network), found.verify):
        with pytest.raises(TrustError, match="could not be compared"):
            use()


def test_a_truncated_bundle_or_another_file_is_a_trust_error(world: World) -> None:
    data = world.bundle().read_bytes()
    path = world.folder / "cut"
    for content in (b"", b"x", data[:1000], data[:-1], data[: len(data) // 2], b"PK\x05\x06" + bytes(18)):
        path.write_bytes(content)
        with pytest.raises(TrustError):
            opened(path)


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(InputError, match="cannot read the bundle"):
            Bundle.open(path)


def test_a_bundle_expires(world: World) -> None:
    path = world.bundle(created_at="2026-01-01T00:00:00Z", expires_at="2026-02-01T00:00:00Z")
    assert Bundle.open(path, now=unix("2026-02-01T00:00:00Z")).serial == 3
    with pytest.raises(TrustError, match=r"expired at 2026-02-01T00:00:00Z\. .*fresh|expired"):
        Bundle.open(path, now=unix("2026-02-01T00:00:01Z"))


def test_another_registry_is_refused_by_name(world: World) -> None:
    with pytest.raises(TrustError, match=f"{world.registry}.*{'0' * 32}"):
        Bundle.open(world.bundle(), trust="0" * 32)


def rebuilt(path: Path, changes: dict[str, bytes | None], key_seed: int | None = None) -> Path:
    """The bundle with members replaced or left out; re-signed honestly if ``key_seed`` is given."""
    old = archive.Archive(path)
    members = {name: bytes(old.read(name)) for name in old.names()}
    for name, content in changes.items():
        if content is None:
            del members[name]
        else:
            members[name] = content
    if key_seed is not None:
        manifest = json.loads(members.pop("manifest.json"))
        manifest.pop("signature")
        manifest["files"] = {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
            for name, content in members.items()
        }
        members["manifest.json"] = bundle._json(signing.sign(manifest, signing_key(key_seed)))
    target = path.with_name("rebuilt")
    with target.open("wb") as file, archive.ArchiveWriter(file) as writer:
        for name, content in members.items():
            writer.add(name, content)
    return target


def test_members_that_the_manifest_does_not_list_or_that_are_gone_are_refused(world: World) -> None:
    path = world.bundle()
    with pytest.raises(TrustError, match=r"holds extra\.txt"):
        opened(rebuilt(path, {"extra.txt": b"x"}))
    for name in ("ledger/0", "models/flowers/network.json", "checkpoint.txt", "manifest.json", "trust.json"):
        with pytest.raises(TrustError, match=f"lacks {name}"):
            opened(rebuilt(path, {name: None}))


def test_a_manifest_signed_by_another_key_is_refused(world: World) -> None:
    with pytest.raises(TrustError, match="signature of the bundle"):
        opened(rebuilt(world.bundle(), {}, key_seed=2))


def test_a_checkpoint_of_another_ledger_is_refused(world: World) -> None:
    note = bundle.merkle.Checkpoint("hallmark/another", 7, bytes(32)).sign(world.key)
    with pytest.raises(TrustError, match="hallmark/another"):
        opened(rebuilt(world.bundle(), {"checkpoint.txt": note.encode()}, key_seed=1))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("redraws", 7),
        ("issued_at", 5),
        ("signature", 0),
        ("commitment", 1),
        ("ledger_index", 3),
        ("ledger_index", 99),
    ],
)
def test_a_record_that_was_never_signed_or_logged_is_refused(world: World, field: str, value: int) -> None:
    records = world.models[0].records.copy()
    records[field][1] = value
    path = rebuilt(world.bundle(), {"models/flowers/keys/certificates.bin": records.tobytes()}, key_seed=1)
    found = opened(path)  # the registry's own key signed the container: only the record betrays it
    model = found.models[0]
    found.certificate(model, found.records(model)[2])
    with pytest.raises(TrustError):
        found.certificate(model, found.records(model)[1])


def test_a_ledger_that_does_not_lead_to_the_checkpoint_is_refused(world: World) -> None:
    forged = bytearray(world.levels[0])
    forged[5 * 32] ^= 1
    found = opened(rebuilt(world.bundle(), {"ledger/0": bytes(forged)}, key_seed=1))
    with pytest.raises(TrustError, match="expected root"):
        found.certificate(found.models[0], found.records(found.models[0])[1])


@pytest.mark.parametrize(
    ("member", "content"),
    [
        ("models/flowers/keys/phi.bin", b"12345"),
        ("models/flowers/keys/certificates.bin", b"12345"),
        ("models/flowers/keys/certificates.bin", bytes(RECORD.itemsize * 7)),
    ],
)
def test_a_key_table_of_the_wrong_size_is_refused(world: World, member: str, content: bytes) -> None:
    found = opened(rebuilt(world.bundle(), {member: content}, key_seed=1))
    with pytest.raises(TrustError, match=member.rpartition("/")[2]):
        found.phi(found.models[0])


@pytest.mark.parametrize(
    ("field", "value"),
    [("screening_q", "0.5"), ("screening_q", "many"), ("bits", 12), ("keys_issued", -1)],
)
def test_impossible_numbers_in_a_manifest_are_refused(world: World, field: str, value: Any) -> None:
    entry = replace(world.models[0].entry, **{field: value})
    content = ModelContent(entry, world.models[0].network)
    path = world.folder / "impossible"
    options = {"checkpoint": world.checkpoint, "serial": 1, "created_at": CREATED, "expires_at": EXPIRES}
    write_bundle(path, world.key, [content], **options)
    with pytest.raises(TrustError, match=r"manifest\.json"):
        Bundle.open(path)


def test_parts_that_contradict_each_other_are_not_written(world: World) -> None:
    issued = world.models[0]
    target = world.folder / "never"
    good: dict[str, Any] = {
        "checkpoint": world.checkpoint,
        "serial": 1,
        "created_at": CREATED,
        "expires_at": EXPIRES,
        "ledger": world.levels,
    }

    def content(**changes: Any) -> ModelContent:
        keys = {"phi": issued.phi, "records": issued.records, "recipients": world.recipients, **changes}
        return ModelContent(issued.entry, issued.network, KeyContent(**keys))

    bad: list[tuple[list[ModelContent], dict[str, Any]]] = [
        ([content()], {"ledger": ()}),
        ([content()], {"expires_at": CREATED}),
        ([content(), content()], {}),
        ([content(phi=issued.phi[:-1])], {}),
        ([content(phi=issued.phi.astype(np.int16))], {}),
        ([content(records=np.zeros(6))], {}),
        ([content(recipients=["ada@example.com"])], {}),
        ([ModelContent(replace(issued.entry, keys_issued=5), issued.network, content().keys)], {}),
    ]
    for contents, changes in bad:
        with pytest.raises(ValueError):
            write_bundle(target, world.key, contents, **{**good, **changes})
    with pytest.raises(OSError):
        write_bundle(target, world.key, [ModelContent(issued.entry, world.folder / "no-network")], **good)
    assert not target.exists()
    assert not list(world.folder.glob(".*partial"))


def test_a_failed_write_leaves_the_old_bundle(world: World) -> None:
    path = world.bundle()
    before = path.read_bytes()
    (world.models[0].network / "network.json").unlink()
    with pytest.raises(OSError):
        world.bundle()
    assert path.read_bytes() == before


def test_two_versions_of_a_model_have_folders_of_their_own(world: World) -> None:
    issued = world.models[0]
    contents = [ModelContent(replace(issued.entry, version=v), issued.network) for v in (1, 2)]
    path = world.folder / "versions"
    options = {"checkpoint": world.checkpoint, "serial": 1, "created_at": CREATED, "expires_at": EXPIRES}
    write_bundle(path, world.key, contents, **options)
    assert [model.folder for model in opened(path).models] == ["models/flowers", "models/flowers@2"]


def test_times_are_utc_text_and_back() -> None:
    assert utc(0) == "1970-01-01T00:00:00Z"
    assert unix(utc(1_780_000_000)) == 1_780_000_000
    with pytest.raises(ValueError):
        unix("2026-01-01")
