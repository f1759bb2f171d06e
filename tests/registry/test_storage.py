from __future__ import annotations

import hashlib
import io
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from registry import storage as storage_module
from registry.errors import InputError, IntegrityError, UnavailableError
from registry.storage import Storage, atomic_file, atomic_folder, folder_manifest, manifest_digest
from tests.registry.object_store import ObjectStore

WEIGHTS = bytes(range(256)) * 10


@pytest.fixture(params=["local", "s3", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A local folder and object stores behave alike."""
    if request.param == "s3":
        return Storage(request.getfixturevalue("s3").bucket())
    return Storage(str(tmp_path / "storage") if request.param == "local" else f"memory://{tmp_path.name}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "part").mkdir(parents=True)
    (source / "a.json").write_bytes(b"{}")
    (source / "part" / "weights.bin").write_bytes(WEIGHTS)
    (source / ".cache").mkdir()
    (source / ".cache" / "junk").write_bytes(b"junk")
    return source


def test_folders_come_back_as_they_were_stored(storage: Storage, folder: Path) -> None:
    storage.put_folder("models/x", folder)
    assert storage.files("models/x") == {"a.json": 2, "part/weights.bin": 2560}
    assert storage.read("models/x/part/weights.bin") == WEIGHTS
    with storage.open("models/x/part/weights.bin") as file:
        file.seek(250)
        assert file.read(10) == bytes(range(256))[250:] + bytes(range(4))
        assert file.tell() == 260
        file.seek(-5, io.SEEK_END)
        assert file.read() == WEIGHTS[-5:]
    with storage.local("models/x") as local:
        assert folder_manifest(local) == folder_manifest(folder)
    with storage.local("models/x/a.json") as local:
        assert local.read_bytes() == b"{}"


def test_all_files_are_listed(storage: Storage, folder: Path) -> None:
    assert storage.all_files() == {}
    storage.put_folder("models/x", folder)
    storage.put_bytes("bases/y", b"basis")
    assert storage.all_files() == {"bases/y": 5, "models/x/a.json": 2, "models/x/part/weights.bin": 2560}


def test_what_is_missing_is_named(storage: Storage) -> None:
    storage.check()
    assert not storage.exists("bases/none")
    with pytest.raises(IntegrityError, match="bases/none"):
        storage.read("bases/none")
    with pytest.raises(IntegrityError, match="models/none"):
        storage.files("models/none")
    with pytest.raises(IntegrityError, match="models/none"), storage.local("models/none"):
        pass


def test_an_interrupted_folder_leaves_nothing(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(str(tmp_path / "storage"))
    put_file = storage.put_file

    def interrupted(name: str, path: Path) -> None:
        if path.name == "weights.bin":
            assert list(storage.all_files()) == []
            raise KeyboardInterrupt
        put_file(name, path)

    monkeypatch.setattr(storage, "put_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        storage.put_folder("models/x", folder)
    assert not storage.exists("models/x")
    assert list((tmp_path / "storage" / "models").iterdir()) == []


def test_storing_the_same_content_again_keeps_it(tmp_path: Path, folder: Path) -> None:
    storage = Storage(str(tmp_path / "storage"))
    storage.put_folder("models/x", folder)
    before = (tmp_path / "storage/models/x/a.json").stat().st_ino
    storage.put_folder("models/x", folder)
    assert (tmp_path / "storage/models/x/a.json").stat().st_ino == before
    assert [path.name for path in (tmp_path / "storage/models").iterdir()] == ["x"]


def test_an_upload_that_died_half_way_is_completed_and_nothing_of_it_is_trusted(
    s3: ObjectStore, folder: Path
) -> None:
    (folder / "big.bin").write_bytes(WEIGHTS)
    storage = Storage(s3.bucket())
    storage.put_file("models/x/a.json", folder / "a.json")
    storage.put_bytes("models/x/big.bin", b"cut off")
    storage.put_bytes("models/x/part/weights.bin", bytes(len(WEIGHTS)))  # as long, but damaged
    storage.put_folder("models/x", folder)
    with storage.local("models/x") as local:
        assert folder_manifest(local) == folder_manifest(folder)


def test_a_whole_folder_is_not_sent_again(s3: ObjectStore, folder: Path) -> None:
    url = s3.bucket()
    storage = Storage(url)
    bucket = url.split("/")[2]
    storage.put_folder("models/x", folder)
    before = s3.client().list_objects_v2(Bucket=bucket)["Contents"]
    storage.put_folder("models/x", folder)
    assert s3.client().list_objects_v2(Bucket=bucket)["Contents"] == before


def test_a_large_file_appears_only_when_all_its_parts_arrived(
    s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_module, "PART_BYTES", 5 << 20)
    source = tmp_path / "large"
    source.write_bytes(bytes(11 << 20))
    url = s3.bucket()
    storage, bucket = Storage(url), url.split("/")[2]
    storage.put_file("large", source)
    head = s3.client().head_object(Bucket=bucket, Key="registry/large")
    assert head["ETag"].strip('"').endswith("-3")  # three parts
    assert storage.sha256("large") == hashlib.sha256(bytes(11 << 20)).hexdigest()

    def fails(*_: object, **__: object) -> None:
        raise OSError("the connection broke")

    monkeypatch.setattr(type(storage._files), "_upload_file_part_concurrent", fails)
    with pytest.raises(UnavailableError, match="connection broke"):
        storage.put_file("second", source)
    assert not storage.exists("second")
    assert "Uploads" not in s3.client().list_multipart_uploads(Bucket=bucket)


def test_reading_a_large_file_of_an_object_store_takes_constant_memory(
    s3: ObjectStore, tmp_path: Path
) -> None:
    source = tmp_path / "large"
    source.write_bytes(bytes(96 << 20))
    url = s3.bucket()
    Storage(url).put_file("large", source)
    reader = subprocess.run([sys.executable, "-c", READER, url], capture_output=True, text=True, check=True)
    read, grown_kilobytes = map(int, reader.stdout.split())
    assert read == 95 << 20
    assert grown_kilobytes < 32 << 10


READER = """
import resource, sys
from registry.storage import Storage
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read = before = 0
with Storage(sys.argv[1]).open("large") as file:
    file.seek(1 << 20)
    while chunk := file.read(1 << 20):
        before = before or peak()
        read += len(chunk)
print(read, peak() - before)
"""


def test_an_outage_of_the_object_store_is_told_and_passes(
    s3: ObjectStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_module, "TRIES", 1)
    storage = Storage(s3.bucket())
    storage.put_folder("models/x", folder)
    with storage.open("models/x/part/weights.bin") as reading, s3.outage():
        for ask in (
            lambda: reading.read(1),
            lambda: storage.read("models/x/a.json"),
            lambda: storage.exists("models/x"),
            lambda: storage.files("models/x"),
            lambda: storage.put_bytes("bases/y", b""),
            lambda: storage.put_folder("models/z", folder),
            storage.check,
        ):
            with pytest.raises(UnavailableError, match="does not answer"):
                ask()
    storage.check()


def test_a_missing_bucket_and_wrong_credentials_are_told_apart(
    s3: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnavailableError, match="no bucket"):
        Storage("s3://no-such-bucket/x").put_bytes("a", b"")
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    with pytest.raises(UnavailableError, match="credentials"):
        Storage("s3://no-such-bucket/y").put_bytes("a", b"")


def test_what_was_fetched_is_kept_while_there_is_room(
    s3: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_module, "CACHE_BYTES", 25)
    storage = Storage(s3.bucket())
    for name in "abc":
        storage.put_bytes(name, name.encode() * 10)

    def place(name: str) -> Path:
        with storage.local(name) as path:
            assert path.read_bytes() == name.encode() * 10
            return path

    first = place("a")
    assert place("a") == first
    place("b")
    place("a")
    with storage.local("b") as held:
        place("c")  # no room for three: a goes, for b is in use
        assert held.exists()
        assert not first.exists()
    assert place("b") == held


def test_a_forked_process_connects_anew(s3: ObjectStore) -> None:
    storage = Storage(s3.bucket())
    storage.put_bytes("a", b"content")
    with storage.local("a") as path:
        child = multiprocessing.get_context("fork").Process(target=_read_in_child, args=(storage,))
        child.start()
        child.join(60)
        assert child.exitcode == 0
        assert path.exists()


def _read_in_child(storage: Storage) -> None:
    with storage.local("a") as path:
        assert path.read_bytes() == b"content"


def test_the_manifest_names_every_file_and_changes_with_each(folder: Path) -> None:
    manifest = folder_manifest(folder)
    assert manifest["a.json"] == {"sha256": hashlib.sha256(b"{}").hexdigest(), "size": 2}
    assert list(manifest) == ["a.json", "part/weights.bin"]
    before = manifest_digest(manifest)
    (folder / "a.json").write_bytes(b"[]")
    assert manifest_digest(folder_manifest(folder)) != before


def test_an_empty_folder_has_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no files"):
        folder_manifest(tmp_path)


def test_atomic_file_keeps_the_old_content_when_the_block_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with atomic_file(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    with atomic_file(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "folder"

    def interrupted() -> None:
        with atomic_folder(path) as fresh:
            (fresh / "x").write_bytes(b"")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    path.mkdir()  # an empty folder is as good as none
    with atomic_folder(path) as fresh:
        (fresh / "x").write_bytes(b"")
    assert [entry.name for entry in path.iterdir()] == ["x"]
    with pytest.raises(InputError, match="already exists"), atomic_folder(path):
        pass


def test_an_unknown_kind_of_storage_is_refused() -> None:
    with pytest.raises(InputError, match="storage URL"):
        Storage("nosuch://bucket")
