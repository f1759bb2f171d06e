"""Key tables that are encrypted to auditors: the same findings with the key, nothing without it."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.factories import World, make_world, write_copy
from tests.verifier.test_bundle import rebuilt
from verifier import archive, sealed
from verifier.bundle import ENVELOPE, Bundle
from verifier.cli import cli
from verifier.errors import InputError, TrustError
from verifier.inspect import inspect_copy
from verifier.sealed import CHUNK_BYTES, TAG_BYTES, Opening, Sealing

PHI = "models/flowers/keys/phi.bin"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), keys=20)


@pytest.fixture(scope="module")
def auditor() -> X25519PrivateKey:
    return X25519PrivateKey.generate()


@pytest.fixture(scope="module")
def path(world: World, auditor: X25519PrivateKey) -> Path:
    return world.bundle("sealed.bundle", auditors=[auditor.public_key()])


def run(*arguments: Any, **options: Any) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], **options)


def make_key(folder: Path, name: str = "auditor", *options: str, **more: Any) -> Path:
    made = run("key", "new", "--out", folder / name, *options, **more)
    assert made.exit_code == 0, made.output
    return folder / name


def test_with_the_key_findings_are_the_same_and_without_it_there_are_none(
    world: World, tmp_path: Path
) -> None:
    key = make_key(tmp_path)
    bundle = world.bundle("one.bundle", auditors=[sealed.load_public(tmp_path / "auditor.pub")])
    arguments = ["check", world.save_image(3), world.save_foreign(1), "--json", "--device", "cpu", "--bundle"]
    opened, plain = run(*arguments, bundle, "--key", key), run(*arguments, world.bundle())
    assert opened.exit_code == plain.exit_code == 1, opened.output
    found, expected = (
        [{**json.loads(line), "elapsed_ms": 0} for line in result.stdout.splitlines()]
        for result in (opened, plain)
    )
    assert found == expected
    assert found[0]["copies"][0]["recipient"] == "bruno@example.com"
    assert found[0]["ledger"]["verified"]
    without = run(*arguments, bundle)
    assert (without.exit_code, "encrypted to an auditor" in without.stderr) == (2, True)
    assert "--key FILE" in without.stderr
    assert run(*arguments, world.bundle(), "--key", key).exit_code == 1, "plain bundles need none"


def test_the_file_holds_nothing_of_the_key_table(world: World, path: Path) -> None:
    data, issued = path.read_bytes(), world.models[0]
    for row in range(20):
        assert issued.phi[row].tobytes() not in data
        assert issued.records["key_id"][row].tobytes() not in data
        assert issued.records["recipient"][row].tobytes() not in data
    assert b"bruno@example.com" not in data
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = world.bundle("again.bundle", auditors=[X25519PrivateKey.generate().public_key()])
    assert bytes(archive.Archive(again).read(f"{PHI}.sealed")) not in data


def test_each_of_several_auditors_can_read_and_nobody_else(world: World) -> None:
    first, second, stranger = (X25519PrivateKey.generate() for _ in range(3))
    several = world.bundle("several.bundle", auditors=[first.public_key(), second.public_key()])
    for key in (first, second):
        bundle = Bundle.open(several, auditor=key)
        np.testing.assert_array_equal(bundle.phi(bundle.models[0]), world.models[0].phi)
        assert bundle.records(bundle.models[0]).tobytes() == world.models[0].records.tobytes()
    bundle = Bundle.open(several, auditor=stranger)
    with pytest.raises(TrustError, match=f"not to this key .{sealed.key_id(stranger.public_key())}"):
        bundle.phi(bundle.models[0])


def test_another_key_ends_with_3(world: World, path: Path, tmp_path: Path) -> None:
    result = run("check", world.save_image(3), "--bundle", path, "--key", make_key(tmp_path))
    assert (result.exit_code, "is encrypted to" in result.stderr) == (3, True)
    for wrong in (path, tmp_path / "auditor.pub", tmp_path / "none"):
        assert run("check", world.save_image(3), "--bundle", path, "--key", wrong).exit_code == 2


@pytest.mark.parametrize("name", [f"{PHI}.sealed", "models/flowers/keys/certificates.bin.sealed", ENVELOPE])
def test_altered_and_truncated_members_are_refused_even_if_signed(
    path: Path, auditor: X25519PrivateKey, name: str, tmp_path: Path
) -> None:
    """The signature over the digests fails first; without it each chunk's own tag does."""
    content = bytes(archive.Archive(path).read(name))
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    for number, change in enumerate((bytes(flipped), content[:-3], content[:5], b"")):
        for seed in (None, 1):
            # A file of its own: one that is still mapped must not be overwritten.
            folder = tmp_path / f"{number}-{seed}"
            folder.mkdir()
            target = rebuilt(Path(shutil.copy(path, folder)), {name: change}, key_seed=seed)
            with pytest.raises(TrustError):
                opened = Bundle.open(target, auditor=auditor)
                opened.phi(opened.models[0])
                opened.records(opened.models[0])
                opened.verify()


def test_an_altered_file_ends_with_3(
    world: World, path: Path, tmp_path: Path, auditor: X25519PrivateKey
) -> None:
    key = make_key(tmp_path)
    own = world.bundle("own.bundle", auditors=[sealed.load_public(sealed.public_path(key))])
    data = bytearray(own.read_bytes())
    content = bytes(archive.Archive(own).read(f"{PHI}.sealed"))
    data[data.index(content) + 9] ^= 1
    for name, altered in (("flipped", bytes(data)), ("cut", own.read_bytes()[:-100])):
        target = tmp_path / name
        target.write_bytes(altered)
        result = run("check", world.save_image(3), "--bundle", target, "--key", key)
        assert result.exit_code == 3, result.output
        assert len(result.stderr.strip().splitlines()) == 1


def test_chunks_cannot_be_moved_dropped_or_taken_from_another_member() -> None:
    auditor = X25519PrivateKey.generate()
    sealing = Sealing.to([auditor.public_key()])
    content = os.urandom(3 * CHUNK_BYTES + 17)
    stored = b"".join(sealing.seal("a", content).parts)
    assert len(stored) == sealing.seal("a", content).nbytes == len(content) + 4 * TAG_BYTES
    opening = Opening.of(json.loads(json.dumps(sealing.envelope())), auditor)
    assert opening.open("a", memoryview(stored)) == content
    step = CHUNK_BYTES + TAG_BYTES
    chunks = [stored[start : start + step] for start in range(0, len(stored), step)]
    for wrong in (chunks[:-1], chunks[1:], [chunks[1], chunks[0], *chunks[2:]], [*chunks, chunks[-1]]):
        with pytest.raises(TrustError, match="does not open"):
            opening.open("a", memoryview(b"".join(wrong)))
    with pytest.raises(TrustError, match="b does not open"):
        opening.open("b", memoryview(stored))


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES])
def test_every_size_comes_back(size: int) -> None:
    auditor = X25519PrivateKey.generate()
    sealing, content = Sealing.to([auditor.public_key()]), os.urandom(size)
    chunks = sealing.seal("a", content)
    stored = b"".join(chunks.parts)
    assert len(stored) == chunks.nbytes
    assert Opening.of(sealing.envelope(), auditor).open("a", memoryview(stored)) == content


def test_decrypting_takes_a_few_chunks_of_memory_beside_the_table() -> None:
    auditor = X25519PrivateKey.generate()
    sealing = Sealing.to([auditor.public_key()])
    stored = memoryview(b"".join(sealing.seal("a", bytes(64 * CHUNK_BYTES)).parts))
    opening = Opening.of(sealing.envelope(), auditor)
    tracemalloc.start()
    content = opening.open("a", stored)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(content) == 64 * CHUNK_BYTES
    assert most < 4 * CHUNK_BYTES, "anonymous mappings are not counted, everything else is"


def test_nothing_is_written_while_a_bundle_is_opened(world: World, path: Path, tmp_path: Path) -> None:
    """Every file that the process opens for writing is seen by an audit hook."""
    key = make_key(tmp_path)
    own = world.bundle("hooked.bundle", auditors=[sealed.load_public(sealed.public_path(key))])
    program = (
        "import os, sys\n"
        "written = []\n"
        "def hook(event, arguments):\n"
        "    writes = os.O_WRONLY | os.O_RDWR\n"
        "    if event == 'open' and isinstance(arguments[2], int) and arguments[2] & writes:\n"
        "        written.append(arguments[0])\n"
        "sys.addaudithook(hook)\n"
        "from pathlib import Path\n"
        "from verifier.bundle import Bundle\n"
        "from verifier.sealed import load_private\n"
        "bundle = Bundle.open(sys.argv[1], auditor=load_private(Path(sys.argv[2])))\n"
        "assert len(bundle.phi(bundle.models[0])) == 20\n"
        "bundle.records(bundle.models[0]); bundle.verify()\n"
        "assert not written, written\n"
        "open(os.devnull, 'w').close()\n"
        "assert written == [os.devnull], 'the hook works'\n"
    )
    command = [sys.executable, "-B", "-c", program, str(own), str(key)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_a_key_is_the_owners_alone_and_never_replaced(tmp_path: Path) -> None:
    path = make_key(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    again = run("key", "new", "--out", path)
    assert (again.exit_code, "File exists" in again.stderr) == (2, True)
    assert path.read_bytes() == before
    assert run("key", "new", "--out", tmp_path / "none" / "key").exit_code == 2
    (tmp_path / "half.pub").write_text("mine")
    assert run("key", "new", "--out", tmp_path / "half").exit_code == 2
    assert not (tmp_path / "half").exists(), "a pair or nothing"
    assert sealed.load_private(path).public_key() == sealed.load_public(tmp_path / "auditor.pub")


def test_a_key_may_have_a_passphrase(world: World, tmp_path: Path) -> None:
    path = make_key(tmp_path, "locked", "--passphrase", input="correct horse\ncorrect horse\n")
    assert b"ENCRYPTED" in path.read_bytes()
    bundle = world.bundle("locked.bundle", auditors=[sealed.load_public(sealed.public_path(path))])
    arguments = ["check", world.save_image(3), "--bundle", bundle, "--key", path]
    assert run(*arguments, input="correct horse\n").exit_code == 0
    assert run(*arguments, input="wrong\n").exit_code == 2
    with pytest.raises(InputError, match="no X25519 public key"):
        sealed.load_public(path)


def test_a_copy_is_inspected_without_the_key_too(world: World, path: Path, auditor: X25519PrivateKey) -> None:
    copy = write_copy(world, 3, world.folder / "copy")
    assert inspect_copy(copy, bundle=Bundle.open(path)).delivered is None
    assert inspect_copy(copy, bundle=Bundle.open(path, auditor=auditor)).delivered is False


def test_what_has_no_keys_cannot_be_encrypted(world: World, auditor: X25519PrivateKey) -> None:
    with pytest.raises(ValueError, match="nothing to encrypt"):
        world.bundle("none.bundle", with_keys=False, auditors=[auditor.public_key()])
