from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from registry.errors import InputError, IntegrityError
from registry.storage import Storage, atomic_file, atomic_folder, folder_manifest, manifest_digest


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A local folder and an object store behave alike."""
    return Storage(str(tmp_path / "storage") if request.param == "local" else f"memory://{tmp_path.name}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "part").mkdir(parents=True)
    (source / "a.json").write_bytes(b"{}")
    (source / "part" / "weights.bin").write_bytes(bytes(range(256)) * 10)
    (source / ".cache").mkdir()
    (source / ".cache" / "junk").write_bytes(b"junk")
    return source


def test_folders_come_back_as_they_were_stored(storage: Storage, folder: Path) -> None:
    storage.put_folder("models/x", folder)
    assert storage.files("models/x") == {"a.json": 2, "part/weights.bin": 2560}
    assert storage.read("models/x/part/weights.bin") == bytes(range(256)) * 10
    with storage.open("models/x/part/weights.bin") as file:
        file.seek(250)
        assert file.read(10) == bytes(range(256))[250:] + bytes(range(4))
    with storage.local("models/x") as local:
        assert folder_manifest(local) == folder_manifest(folder)
    with storage.local("models/x/a.json") as local:
        assert local.read_bytes() == b"{}"


def test_what_is_missing_is_named(storage: Storage) -> None:
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
