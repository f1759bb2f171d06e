"""The served trust root with python-tuf's own client: updates, rotations and what must be refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from sqlalchemy import select
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata

from registry import storage
from registry.config import STORAGE_VARIABLE
from registry.db import unix_now
from registry.errors import InputError, StateError, UnavailableError
from registry.generators import service as generators
from registry.home import Home
from registry.keys import service as keys
from registry.trust import service
from registry.trust.models import TrustKey
from tests.registry.object_store import ObjectStore
from tests.registry.support import MODEL, RECIPIENT, TinyModel, register
from tests.registry.trust.clients import Between, Verifier, served
from verifier.archive import ArchiveWriter
from verifier.bundle import Bundle
from verifier.merkle import Checkpoint

DAY = 86_400


@dataclass
class World:
    """A served registry with a trust root, and one verifier."""

    home: Home
    root_key: Ed25519PrivateKey
    url: str
    between: Between
    verifier: Verifier
    folder: Path

    def another_verifier(self) -> Verifier:
        return Verifier(self.folder / "another", self.url, service.first_root(self.home))


@pytest.fixture
def root_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def world(sqlite_ready: Home, root_key: Ed25519PrivateKey, tmp_path: Path) -> Iterator[World]:
    service.create(sqlite_ready, [root_key])
    with served(sqlite_ready) as (url, between):
        verifier = Verifier(tmp_path / "verifier", url, service.first_root(sqlite_ready))
        yield World(sqlite_ready, root_key, url, between, verifier, tmp_path)


def issue(home: Home) -> str:
    """Issue one key and return its id."""
    return str(keys.Issuer.open(home, MODEL, RECIPIENT).issue(1)[0]["key_id"])


def model(home: Home) -> Any:
    with home.database.read() as session:
        return generators.get_model(session, MODEL)


def test_a_first_update_brings_checkpoint_and_revocations(world: World) -> None:
    note = world.verifier.fetch("checkpoint.txt").decode()
    assert Checkpoint.open(note, world.home.identity.public).size == 1
    assert json.loads(world.verifier.fetch("revocations.json")) == []
    assert json.loads(world.verifier.fetch("trust.json"))["registry"] == world.home.identity.registry
    assert world.verifier.versions() == {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 2}


def test_an_update_brings_what_was_published_since(world: World) -> None:
    world.verifier.update()
    key_id = issue(world.home)
    keys.revoke(world.home, key_id, "leaked by ada")
    assert json.loads(world.verifier.fetch("revocations.json")) == [], "not published yet"
    service.publish(world.home)
    (revocation,) = json.loads(world.verifier.fetch("revocations.json"))
    assert (revocation["key_id"], revocation["reason"]) == (key_id, "")
    note = world.verifier.fetch("checkpoint.txt").decode()
    assert Checkpoint.open(note, world.home.identity.public).size == 3


def test_the_targets_of_a_model_are_its_bundle(world: World) -> None:
    issue(world.home)
    assert not any("bundles/" in path for path in targets(world.verifier)), (
        "no network unless it is asked for"
    )
    service.publish(world.home, add=[model(world.home)])
    prefix = f"bundles/{MODEL}-1-{model(world.home).ledger_index}/"
    members = {
        path.removeprefix(prefix): world.verifier.fetch(path)
        for path in targets(world.verifier)
        if path.startswith(prefix)
    }
    bundle = world.folder / "assembled.bundle"
    order = [*(name for name in members if name != "manifest.json"), "manifest.json"]
    with bundle.open("wb") as file, ArchiveWriter(file) as archive:
        for name in order:
            archive.add(name, members[name])
    opened = Bundle.open(bundle, trust=world.home.identity.registry)
    opened.verify()
    assert [found.name for found in opened.models] == [MODEL]
    service.publish(world.home, withdraw=[model(world.home)])
    assert not any("bundles/" in path for path in targets(world.verifier))


def targets(verifier: Verifier) -> list[str]:
    verifier.update()
    return sorted(verifier.update()._trusted_set.targets.targets)


def test_a_trust_root_in_an_object_store(
    s3: ObjectStore,
    tiny: TinyModel,
    root_key: Ed25519PrivateKey,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(STORAGE_VARIABLE, s3.bucket())
    monkeypatch.setattr(storage, "TRIES", 1)
    Home.create(tmp_path / "home")
    home = register(Home.open(tmp_path / "home"), tiny)
    service.create(home, [root_key])
    with served(home) as (url, _):
        verifier = Verifier(tmp_path / "verifier", url, service.first_root(home))
        service.publish(home, add=[model(home)])
        network = next(path for path in targets(verifier) if path.endswith("network.onnx"))
        assert verifier.fetch(network) == (tiny.network / "network.onnx").read_bytes()
        before = service.status(home)
        with s3.outage():
            with pytest.raises(UnavailableError):
                service.publish(home)
            with pytest.raises(DownloadError):
                verifier.update()
        assert service.status(home) == before
        service.publish(home)
        verifier.update()
    home.close()


def test_only_what_changed_is_fetched_again(world: World) -> None:
    service.publish(world.home, add=[model(world.home)])
    network = next(path for path in targets(world.verifier) if path.endswith("network.onnx"))
    world.verifier.fetch(network)
    issue(world.home)
    service.publish(world.home)
    updater = world.verifier.update()
    info = updater.get_targetinfo(network)
    assert info is not None
    assert updater.find_cached_target(info) is not None


@pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp"])
def test_an_online_key_is_replaced(world: World, role: str) -> None:
    world.verifier.update()
    before = key_ids(world.home, role)
    service.rotate(world.home, role, [world.root_key])
    world.verifier.update()
    assert world.verifier.versions()["root"] == 2
    assert not before & key_ids(world.home, role)
    issue(world.home)
    service.publish(world.home)
    note = world.verifier.fetch("checkpoint.txt").decode()
    assert Checkpoint.open(note, world.home.identity.public).size == 2
    assert world.another_verifier().fetch("checkpoint.txt").decode() == note, "from root 1 as well"


def key_ids(home: Home, role: str) -> set[str]:
    return {key for status in service.status(home) if status.role == role for key in status.keys}


def test_the_root_key_is_replaced_and_the_old_one_ends(world: World) -> None:
    world.verifier.update()
    fresh = Ed25519PrivateKey.generate()
    service.rotate_root(world.home, [world.root_key], [fresh])
    root = Metadata.from_bytes(world.between.content("/tuf/metadata/2.root.json"))
    assert len(root.signatures) == 2, "signed by N and by N+1"
    service.rotate(world.home, "timestamp", [fresh])
    world.verifier.update()
    assert world.verifier.versions()["root"] == 3
    with pytest.raises(InputError, match="no root key"):
        service.rotate(world.home, "timestamp", [world.root_key])
    assert world.verifier.versions()["root"] == 3
    world.another_verifier().update()


def test_what_an_attacker_with_the_old_timestamp_key_signs_is_refused(world: World) -> None:
    world.verifier.update()
    stolen = world.between.content("/tuf/metadata/timestamp.json")
    service.rotate(world.home, "timestamp", [world.root_key])
    world.between.altered["/tuf/metadata/timestamp.json"] = stolen
    with pytest.raises(UnsignedMetadataError):
        world.verifier.update()


def test_a_rollback_is_refused(world: World) -> None:
    """The server is put back to yesterday's state, keys and all."""
    world.verifier.update()
    yesterday = Path(shutil.copytree(world.home.settings.home, world.folder / "yesterday"))
    issue(world.home)
    service.publish(world.home)
    world.verifier.update()
    old = Home.open(yesterday)
    with served(old) as (_, between):
        for name in ("timestamp.json", "2.snapshot.json", "2.targets.json"):
            world.between.altered[f"/tuf/metadata/{name}"] = between.content(f"/tuf/metadata/{name}")
        with pytest.raises(BadVersionNumberError):
            world.verifier.update()
    old.close()


def test_after_a_restore_versions_go_on_above_what_was_seen(world: World) -> None:
    restored = Path(shutil.copytree(world.home.settings.home, world.folder / "restored"))
    for _ in range(3):
        service.publish(world.home)
    world.verifier.update()
    seen = world.verifier.versions()["timestamp"]
    old = Home.open(restored)
    service.publish(old, beyond=seen)
    with served(old) as (url, _):
        world.verifier.move(url)
        world.verifier.update()
    assert world.verifier.versions() == dict.fromkeys(("timestamp", "snapshot", "targets"), seen + 1) | {
        "root": 1
    }
    old.close()


def test_publishers_at_the_same_time_follow_each_other(home: Home, root_key: Ed25519PrivateKey) -> None:
    service.create(home, [root_key])
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit((service.publish, service.refresh)[i % 2], home) for i in range(8)]:
            future.result()
    found = {row.role: row.version for row in service.status(home)}
    assert found == {"root": 1, "targets": 2 + 4, "snapshot": 2 + 4, "timestamp": 2 + 8}


def test_a_failed_rotation_changes_nothing(home: Home, root_key: Ed25519PrivateKey) -> None:
    service.create(home, [root_key])
    before = service.status(home)
    with pytest.raises(InputError, match="no root key"):
        service.rotate(home, "targets", [Ed25519PrivateKey.generate()])
    assert service.status(home) == before
    service.rotate(home, "targets", [root_key])
    with home.database.read() as session:
        ended = session.execute(select(TrustKey).where(TrustKey.retired_at.is_not(None))).scalars().all()
    assert [(row.role, row.sealed) for row in ended] == [("targets", b"")]


def test_a_freeze_is_noticed(sqlite_ready: Home, root_key: Ed25519PrivateKey, tmp_path: Path) -> None:
    service.create(sqlite_ready, [root_key], now=unix_now() - 3 * DAY)
    with served(sqlite_ready) as (url, _):
        verifier = Verifier(tmp_path / "verifier", url, service.first_root(sqlite_ready))
        with pytest.raises(ExpiredMetadataError, match="timestamp"):
            verifier.update()
        service.refresh(sqlite_ready)
        verifier.update()
        assert verifier.versions() == {"root": 1, "timestamp": 3, "snapshot": 2, "targets": 2}


def test_a_mix_of_old_and_new_is_refused(world: World) -> None:
    """Today's timestamp and snapshot with yesterday's targets, under today's name."""
    old = world.between.content("/tuf/metadata/2.targets.json")
    service.publish(world.home)
    world.between.altered["/tuf/metadata/3.targets.json"] = old
    with pytest.raises(BadVersionNumberError):
        world.verifier.update()


def test_another_key_is_refused(world: World) -> None:
    document = Metadata.from_bytes(world.between.content("/tuf/metadata/timestamp.json"))
    document.signed.version += 1
    document.sign(CryptoSigner(Ed25519PrivateKey.generate()))
    world.between.altered["/tuf/metadata/timestamp.json"] = document.to_bytes()
    with pytest.raises(UnsignedMetadataError):
        world.verifier.update()


def test_a_root_of_another_registry_is_refused(world: World) -> None:
    document = Metadata.from_bytes(world.between.content("/tuf/metadata/1.root.json"))
    document.signed.version = 2
    document.sign(CryptoSigner(Ed25519PrivateKey.generate()))
    world.between.altered["/tuf/metadata/2.root.json"] = document.to_bytes()
    with pytest.raises(UnsignedMetadataError):
        world.verifier.update()


@pytest.mark.parametrize("name", ["timestamp.json", "2.snapshot.json", "2.targets.json"])
def test_truncated_metadata_is_refused(world: World, name: str) -> None:
    path = f"/tuf/metadata/{name}"
    world.between.altered[path] = world.between.content(path)[:-40]
    with pytest.raises(RepositoryError):
        world.verifier.update()


def test_an_altered_target_is_refused(world: World) -> None:
    updater = world.verifier.update()
    info = updater.get_targetinfo("checkpoint.txt")
    assert info is not None
    path = f"/tuf/targets/{info.hashes['sha256']}.checkpoint.txt"
    content = world.between.content(path)
    world.between.altered[path] = content[:-1] + b" "
    with pytest.raises(LengthOrHashMismatchError):
        updater.download_target(info)
    world.between.altered[path] = content + b"more"
    with pytest.raises((LengthOrHashMismatchError, DownloadError)):
        updater.download_target(info)


def test_two_of_three_root_keys(sqlite_ready: Home, tmp_path: Path) -> None:
    first, second, third = (Ed25519PrivateKey.generate() for _ in range(3))
    service.create(sqlite_ready, [first, second, third], threshold=2)
    with pytest.raises(StateError, match="asks for 2 of its 3 keys; 1 signed"):
        service.rotate(sqlite_ready, "snapshot", [first])
    service.rotate(sqlite_ready, "snapshot", [first, third])
    lost = next(iter(key_ids(sqlite_ready, "root") - {service.public_key(k).keyid for k in (first, third)}))
    fourth = Ed25519PrivateKey.generate()
    service.rotate_root(sqlite_ready, [first, third], [fourth], retire=[lost])
    with served(sqlite_ready) as (url, _):
        verifier = Verifier(tmp_path / "verifier", url, service.first_root(sqlite_ready))
        verifier.update()
        assert verifier.versions()["root"] == 3
    assert len(key_ids(sqlite_ready, "root")) == 3
