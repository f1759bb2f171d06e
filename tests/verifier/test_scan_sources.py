"""What a scan lists, and how items are read out of folders, lists, archives and buckets."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.registry.object_store import ObjectStore
from verifier.errors import InputError
from verifier.scan.sources import Item, is_image, listed, read_item

PNG = b"\x89PNG\r\n\x1a\n"


def names(*sources: object) -> list[str]:
    """What is listed, sorted; without errors."""
    items = list(listed(map(str, sources)))
    assert not [item.error for item in items if item.error]
    return sorted(item.name for item in items)


def tree(folder: Path, *paths: str) -> Path:
    """Files whose content is their path."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path)
    return folder


def only_error(*sources: object) -> str:
    (item,) = listed(map(str, sources))
    with pytest.raises(InputError) as caught:
        read_item(item)
    return caught.value.diagnostics()


def test_folders_are_walked_and_each_real_folder_once(tmp_path: Path) -> None:
    top = tree(tmp_path / "top", "a", "sub/b", "sub/deep/c")
    tree(tmp_path / "elsewhere", "d")
    (top / "loop").symlink_to(top)
    (top / "sub" / "up").symlink_to("..")
    (top / "beside").symlink_to(tmp_path / "elsewhere")
    (top / "beside-again").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(top / "pipe")
    found = names(top)
    assert [Path(name).name for name in found if "elsewhere" not in str(Path(name).resolve())] == [
        "a",
        "b",
        "c",
    ]
    assert [
        Path(name).resolve()
        for name in found
        if name not in {str(top / p) for p in ("a", "sub/b", "sub/deep/c")}
    ] == [tmp_path / "elsewhere" / "d"]


def test_what_cannot_be_listed_or_read_is_an_item_that_says_why(tmp_path: Path) -> None:
    (tmp_path / "self").symlink_to("self")
    assert "symbolic links" in only_error(tmp_path)
    assert "No such file" in only_error(tmp_path / "nothing.png")
    assert "no file matches this pattern" in only_error(tmp_path / "*.png")
    (tmp_path / "self").unlink()
    (tmp_path / "bad.tar").write_bytes(b"no archive at all" * 100)
    assert "damaged or truncated archive" in only_error(tmp_path)


def test_patterns_and_lists_name_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "a.png", "sub/b.png", "sub/c.txt", "sub/[odd].png")
    monkeypatch.chdir(tmp_path)
    assert names("**/*.png") == ["a.png", "sub/[odd].png", "sub/b.png"]
    assert names("sub/[odd].png") == ["sub/[odd].png"]  # a name that looks like a pattern
    Path("list.txt").write_text("a.png\n\nsub\r\nsub/*.txt\n")
    assert names("list.txt") == ["a.png", "sub/[odd].png", "sub/b.png", "sub/c.txt", "sub/c.txt"]
    Path("lists.txt").write_text("list.txt\n")  # a list in a list is a file like others
    assert names("lists.txt") == ["list.txt"]


def test_names_that_are_no_text_stay_what_they_are(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    Path(os.fsdecode(odd)).write_bytes(PNG)
    (item,) = listed([str(tmp_path)])
    assert os.fsencode(item.name) == odd
    assert read_item(item) == PNG


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_archives_are_read_where_they_are(tmp_path: Path, kind: str) -> None:
    contents = {f"in/{number}.png": PNG + bytes([number]) * 5000 for number in range(5)}
    path = tmp_path / f"it.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.mkdir("in")
            for name, data in contents.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(path, f"w:{kind[4:]}") as archive:  # type: ignore[call-overload]
            for name, data in contents.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
            link = tarfile.TarInfo("link")
            link.type = tarfile.SYMTYPE
            archive.addfile(link)
    for source in (path, tmp_path):  # named, and found in a folder
        items = list(listed([str(source)]))
        assert {item.member: read_item(item) for item in items} == contents
        assert [read_item(item) for item in reversed(items)] == list(contents.values())[::-1]
        assert items[0].name == f"{path}!/in/0.png"
        assert all(is_image(item) for item in items)
    path.touch()
    os.utime(path, ns=(1, 1))
    with pytest.raises(InputError, match="changed since it was listed"):
        read_item(items[0])


def test_damaged_archives_give_what_is_sound_and_say_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "it.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("a", "b"):
            info = tarfile.TarInfo(name)
            info.size = 2000
            archive.addfile(info, io.BytesIO(name.encode() * 2000))
    path.write_bytes(path.read_bytes()[:3500])  # within the second member
    items = list(listed([str(path)]))
    assert read_item(items[0]) == b"a" * 2000
    with pytest.raises(InputError, match=r"cut off|damaged or truncated"):
        read_item(items[-1])
    zipped = tmp_path / "it.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("a", b"a" * 2000)
        archive.writestr("b", b"b" * 2000)
    data = zipped.read_bytes().replace(b"b" * 2000, b"b" * 1999 + b"c")
    zipped.write_bytes(data)
    first, second = listed([str(zipped)])
    assert read_item(first) == b"a" * 2000
    with pytest.raises(InputError, match=r"it.zip!/b cannot be read: Bad CRC"):
        read_item(second)
    assert read_item(first) == b"a" * 2000
    central = data.rindex(b"PK\1\2")
    zipped.write_bytes(data[: central + 8] + b"\1" + data[central + 9 :])  # says it is encrypted
    assert [item.error.endswith("it.zip!/b is encrypted.") for item in listed([str(zipped)])] == [False, True]


def test_members_are_bounded_like_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verifier.scan.sources.MAX_BYTES", 1000)
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("large", b"\0" * 10**6)
        archive.writestr("empty", b"")
    large, empty = listed([str(path)])
    with pytest.raises(InputError, match="larger than"):
        read_item(large)
    with pytest.raises(InputError, match="is empty"):
        read_item(empty)


def test_objects_of_a_bucket(s3: ObjectStore) -> None:
    client = s3.client()
    client.create_bucket(Bucket="scans")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("in.png", PNG + b"zipped")
    objects = {"a/1.png": PNG, "a/b/2.png": PNG + b"2", "a/c.zip": packed.getvalue(), "other": b"x"}
    for key, data in objects.items():
        client.put_object(Bucket="scans", Key=key, Body=data)
    found = {item.name: read_item(item) for item in listed(["s3://scans/a/"])}
    assert found == {
        "s3://scans/a/1.png": PNG,
        "s3://scans/a/b/2.png": PNG + b"2",
        "s3://scans/a/c.zip!/in.png": PNG + b"zipped",
    }
    assert names("s3://scans/a/*.png") == ["s3://scans/a/1.png", "s3://scans/a/b/2.png"]
    assert names("s3://scans/other") == ["s3://scans/other"]
    assert "no object of this name" in only_error("s3://scans/a/*.gif")
    assert "cannot list" in only_error("s3://scans/nothing/*.png")
    assert "cannot list" in only_error("s3://missing/")
    with pytest.raises(InputError, match="cannot read"):
        read_item(Item("s3://scans/gone.png"))
