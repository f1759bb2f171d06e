"""`verifier update` against the served trust root: what it brings, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata

from registry.db import unix_now
from registry.generators import service as generators
from registry.home import Home
from registry.keys import service as keys
from registry.ledger import service as ledger
from registry.trust import service
from tests.registry.support import MODEL, RECIPIENT
from tests.registry.trust.clients import Between, served
from verifier import cli
from verifier.bundle import Bundle
from verifier.errors import TrustError
from verifier.store import Store
from verifier.update import update

DAY = 86_400
BUNDLE = f"{MODEL}-1-0"


@dataclass
class World:
    """A served registry that publishes its model, and a device that fetches from it."""

    home: Home
    root_key: Ed25519PrivateKey
    folder: Path
    url: str = ""
    between: Between = field(default_factory=lambda: Between(lambda *_: []))

    @property
    def device(self) -> Path:
        return self.folder / "device"

    @property
    def root(self) -> Path:
        path = self.folder / "root.json"
        path.write_bytes(service.first_root(self.home))
        return path

    def run(self, *arguments: Any) -> Result:
        """`verifier update --registry URL ARGUMENTS`."""
        shown = ["update", "--registry", self.url, "--home", str(self.device), *map(str, arguments)]
        return CliRunner().invoke(cli.cli, shown)

    def first(self) -> None:
        """The first update."""
        result = self.run("--root", self.root)
        assert result.exit_code == 0, result.output

    def bundle(self) -> Bundle:
        (found,) = Store.at(self.url, self.device).bundles()
        found.verify()
        return found

    def publish(self, count: int = 1) -> list[str]:
        """Issue keys and publish; their ids."""
        made = [str(each["key_id"]) for each in keys.Issuer.open(self.home, MODEL, RECIPIENT).issue(count)]
        service.publish(self.home)
        return made


@pytest.fixture
def world(sqlite_ready: Home, tmp_path: Path) -> Iterator[World]:
    made = World(sqlite_ready, Ed25519PrivateKey.generate(), tmp_path)
    service.create(sqlite_ready, [made.root_key])
    with sqlite_ready.database.read() as session:
        model = generators.get_model(session, MODEL)
    service.publish(sqlite_ready, add=[model])
    with served(sqlite_ready) as (made.url, made.between):
        yield made


def last_line(result: Result) -> dict[str, Any]:
    """The JSON that was printed; the served registry writes its log to the same stream."""
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return answer


def refused(world: World, result: Result, *said: str) -> None:
    """Ended with 3 and one line that says all of this; the bundle of before is still there."""
    assert result.exit_code == 3, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    for text in said:
        assert text in result.stderr
    assert world.bundle().registry == world.home.identity.registry


def test_a_first_update_brings_a_bundle_that_holds_offline(world: World) -> None:
    result = world.run("--root", world.root)
    assert result.exit_code == 0, result.output
    assert f"Registry {world.home.identity.registry}: 1 ledger entries, 0 revocations" in result.stdout
    bundle = world.bundle()
    assert (bundle.registry, bundle.pinned) == (world.home.identity.registry, True)
    (model,) = bundle.models
    with world.home.database.read() as session:
        registered = generators.get_model(session, MODEL)
        network = generators.network_name(generators.newest_network(session, registered))
    assert bundle.read(f"{model.folder}/network.onnx") == world.home.storage.read(f"{network}/network.onnx")


def test_the_first_root_may_be_pinned_by_its_digest(world: World) -> None:
    assert world.run().exit_code == 2, "without a root nothing is trusted"
    wrong = world.run("--root", "0" * 64)
    assert wrong.exit_code == 3
    assert "not " + "0" * 64 in wrong.stderr
    assert not world.device.exists() or not list(world.device.iterdir()), "no trust is left"
    digest = hashlib.sha256(world.root.read_bytes()).hexdigest()
    assert world.run("--root", digest).exit_code == 0
    assert world.run("--root", digest).exit_code == 0, "naming it again does no harm"
    other = world.run("--root", "0" * 64)
    refused(world, other, "trusts another root")


def test_an_update_brings_revocations_and_only_what_changed(world: World) -> None:
    world.first()
    (key_id,) = world.publish()
    keys.revoke(world.home, key_id, "leaked by ada")
    service.publish(world.home)
    world.between.asked.clear()
    result = world.run("--json")
    found = last_line(result)
    assert (found["entries"], found["revocations"], list(found["bundles"])) == (3, 1, [BUNDLE])
    assert list(world.bundle().revocations) == [key_id]
    assert world.bundle().checkpoint.size == 3
    assert not [path for path in world.between.asked if path.endswith("network.onnx")]
    again = last_line(world.run("--json"))
    assert again["fetched"] < 2_000, "the timestamp alone"


def test_the_bundle_can_be_written_elsewhere(world: World) -> None:
    out = world.folder / "flowers.bundle"
    assert world.run("--root", world.root, "--model", MODEL, "--out", out).exit_code == 0
    Bundle.open(out, world.home.identity.registry).verify()
    missing = world.run("--model", "absent")
    assert missing.exit_code == 2
    assert f"published: {MODEL}@1" in missing.stderr
    assert world.run("--out", world.folder / "none" / "bundle").exit_code == 2


def test_a_withdrawn_network_goes(world: World) -> None:
    world.first()
    with world.home.database.read() as session:
        model = generators.get_model(session, MODEL)
    service.publish(world.home, withdraw=[model])
    result = world.run("--out", world.folder / "bundle")
    assert result.exit_code == 2
    assert not list((Store.at(world.url, world.device).folder / "bundles").iterdir())
    assert "publishes no network" in world.run().stdout


def test_keys_are_replaced_and_followed(world: World) -> None:
    world.first()
    service.rotate(world.home, "timestamp", [world.root_key])
    fresh = Ed25519PrivateKey.generate()
    service.rotate_root(world.home, [world.root_key], [fresh])
    service.rotate(world.home, "targets", [fresh])
    world.publish()
    assert world.run().exit_code == 0
    assert world.bundle().checkpoint.size == 2


def yesterday(world: World, names: tuple[str, ...]) -> dict[str, bytes]:
    return {f"/tuf/metadata/{name}": world.between.content(f"/tuf/metadata/{name}") for name in names}


def test_a_rollback_is_refused(world: World) -> None:
    world.first()
    old = yesterday(world, ("timestamp.json",))
    world.publish()
    assert world.run().exit_code == 0
    world.between.altered = old
    refused(world, world.run(), "is older than what this device has seen", "earlier state", "--beyond")


def test_a_rollback_of_the_whole_server_is_refused(world: World) -> None:
    copy = Path(shutil.copytree(world.home.settings.home, world.folder / "yesterday"))
    world.publish()
    world.first()
    old = Home.open(copy)
    with served(old) as (_, between):
        world.between.altered = yesterday_of(between)
        refused(world, world.run(), "is older than what this device has seen")
    old.close()


def yesterday_of(between: Between) -> dict[str, bytes]:
    names = ("timestamp.json", "3.snapshot.json", "3.targets.json")
    return {f"/tuf/metadata/{name}": between.content(f"/tuf/metadata/{name}") for name in names}


def test_a_freeze_is_noticed_when_the_timestamp_expires(world: World) -> None:
    world.first()
    service.publish(world.home, now=unix_now() - 3 * DAY)
    refused(world, world.run(), "timestamp.json is expired", "keeps newer metadata", "clock")


def test_an_expired_root_is_refused(world: World) -> None:
    world.first()
    service.renew_root(world.home, [world.root_key], now=unix_now() - 400 * DAY)
    refused(world, world.run(), "root.json is expired", "does not renew it")


def test_a_mix_of_old_and_new_is_refused(world: World) -> None:
    world.first()
    old = world.between.content("/tuf/metadata/3.targets.json")
    world.publish()
    world.between.altered["/tuf/metadata/4.targets.json"] = old
    refused(world, world.run(), "does not belong with the rest", "mixes an old state")


def test_an_old_snapshot_under_a_new_name_is_refused(world: World) -> None:
    world.first()
    old = world.between.content("/tuf/metadata/3.snapshot.json")
    world.publish()
    world.between.altered["/tuf/metadata/4.snapshot.json"] = old
    refused(world, world.run(), "does not belong with the rest", "mixes an old state")


def signed_by_somebody(content: bytes) -> bytes:
    document: Metadata[Any] = Metadata.from_bytes(content)
    document.signed.version += 1
    document.sign(CryptoSigner(Ed25519PrivateKey.generate()))
    return document.to_bytes()


def test_another_key_is_refused(world: World) -> None:
    world.first()
    path = "/tuf/metadata/timestamp.json"
    world.between.altered[path] = signed_by_somebody(world.between.content(path))
    refused(world, world.run(), "not signed by the keys that your trust root names", "another way")


def test_a_root_that_the_present_one_did_not_sign_is_refused(world: World) -> None:
    world.first()
    root = signed_by_somebody(world.between.content("/tuf/metadata/1.root.json"))
    world.between.altered["/tuf/metadata/2.root.json"] = root
    refused(world, world.run(), "2.root.json is not signed by the keys")


def test_a_root_of_another_registry_leaves_no_trust_behind(world: World) -> None:
    other = world.folder / "other.json"
    document = Metadata.from_bytes(world.root.read_bytes())
    stranger = CryptoSigner(Ed25519PrivateKey.generate())
    for role in ("root", "timestamp"):
        for key_id in list(document.signed.roles[role].keyids):
            document.signed.revoke_key(key_id, role)
        document.signed.add_key(stranger.public_key, role)
    document.sign(stranger)
    other.write_bytes(document.to_bytes())
    result = world.run("--root", other)
    assert result.exit_code == 3
    assert "the root that you began with is another's" in result.stderr
    world.first()
    assert world.bundle().registry == world.home.identity.registry


@pytest.mark.parametrize("name", ["timestamp.json", "4.snapshot.json", "4.targets.json"])
def test_truncated_metadata_is_refused(world: World, name: str) -> None:
    world.first()
    world.publish()
    path = f"/tuf/metadata/{name}"
    world.between.altered[path] = world.between.content(path)[:-40]
    refused(world, world.run(), f"{name} cannot be read", "cut off or altered")


@pytest.mark.parametrize(
    "change",
    [lambda old: old[:-1] + bytes([old[-1] ^ 1]), lambda old: old[:-9], lambda old: old + b"more"],
    ids=["altered", "truncated", "longer"],
)
@pytest.mark.parametrize("target", ["checkpoint.txt", "revocations.json", "manifest.json"])
def test_an_altered_target_is_refused(world: World, target: str, change: Callable[[bytes], bytes]) -> None:
    world.first()
    (key_id,) = world.publish()
    keys.revoke(world.home, key_id, "leaked")
    service.publish(world.home)
    assert world.between.altered == {}
    probe = update(world.url, world.folder / "probe", root=str(world.root))
    assert probe.revocations == 1
    asked = [path for path in world.between.asked if path.endswith(f".{target}")]
    path = asked[-1]
    world.between.altered[path] = change(world.between.content(path))
    refused(world, world.run(), target, "is not what the registry signed")
    assert world.bundle().revocations == {}


def test_a_ledger_that_was_rewritten_is_noticed(world: World) -> None:
    """The registry itself, with all its keys, shows a ledger without an entry that it showed before."""
    copy = Path(shutil.copytree(world.home.settings.home, world.folder / "before"))
    world.publish(2)
    world.first()
    kept = Store.at(world.url, world.device).folder / "checkpoint.txt"
    other = Home.open(copy)
    with other.database.write() as session:
        ledger.append(session, other.identity, ledger.CERTIFICATE, [bytes(32)] * 4)
    service.publish(other, beyond=100)
    with served(other) as (url, _):
        shutil.copytree(Store.at(world.url, world.device).folder, Store.at(url, world.device).folder)
        with pytest.raises(TrustError, match="its ledger of 5 entries extends the one of 3"):
            update(url, world.device)
        assert kept.read_bytes() == (Store.at(url, world.device).folder / "checkpoint.txt").read_bytes()
    other.close()


def test_what_cannot_be_reached_ends_with_2_and_changes_nothing(world: World) -> None:
    world.first()
    world.between.app = absent_at(world.between.app, "/tuf/metadata/timestamp.json")
    result = world.run()
    assert result.exit_code == 2
    assert "timestamp.json cannot be fetched: the server answers 404" in result.stderr
    arguments = ["update", "--registry", "http://127.0.0.1:9", "--home", str(world.device)]
    nobody = CliRunner().invoke(cli.cli, [*arguments, "--root", "0" * 64])
    assert nobody.exit_code == 2
    assert "Check the network and the address" in nobody.stderr
    assert world.bundle().checkpoint.size == 1
    for url in ("registry.example", "ftp://registry.example", "https://", "https://a:b@registry.example"):
        wrong = CliRunner().invoke(cli.cli, ["update", "--registry", url, "--home", str(world.device)])
        assert (wrong.exit_code, "is no address" in wrong.stderr) == (2, True)


def absent_at(app: Any, path: str) -> Any:
    def answer(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == path:
            start_response("404 Not Found", [("Content-Length", "0")])
            return []
        return app(environ, start_response)

    return answer


def test_a_terminal_sees_how_far_it_is(world: World) -> None:
    """In a process of its own: progress is for a terminal on standard error only."""
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "verifier", "update", "--registry", world.url, "--root", str(world.root)]
    command += ["--home", str(world.device)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=end, text=True)
    os.close(end)
    shown = b""
    with suppress(OSError):  # which is how a terminal ends
        while part := os.read(terminal, 1 << 16):
            shown += part
    os.close(terminal)
    said, _ = process.communicate(timeout=120)
    assert (process.returncode, f"Registry {world.home.identity.registry}" in said) == (0, True)
    assert b"fetching" in shown
    assert "fetching" not in said


def test_an_update_that_was_killed_leaves_nothing_that_is_trusted(world: World) -> None:
    world.first()
    folder = Store.at(world.url, world.device).folder
    shutil.copytree(folder, folder.with_name(f".{folder.name}.1.new"))
    assert [store.url for store in Store.all(world.device)] == [world.url]
