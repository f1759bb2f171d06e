"""Saved indexes: what is written comes back, for nobody without the secret, once for all processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from verifier import resolve, segments
from verifier.errors import TrustError
from verifier.resolve import KeyTable
from verifier.segments import SavedIndex

SECRET = bytes(range(32))
LABEL = "registry/flowers@1"


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "SEGMENT", 96)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "shm"
    folder.mkdir()
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "search"


def keys(n: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (n, 8), np.uint8)


def plaintexts(shared: Path) -> list[Path]:
    return sorted(path for path in shared.rglob("*") if path.is_file() and path.name != ".lock")


def extend(saved: SavedIndex, first: int, last: int) -> None:
    with saved.extending() as mine:
        assert mine
        saved.extend(keys(300)[first:last], range(1000 + first, 1000 + last), mark=7 * last)


def test_an_index_grows_and_comes_back(folder: Path, shared: Path) -> None:
    saved = SavedIndex(folder, SECRET, LABEL, 8, shared)
    index, ids, mark = saved.load()
    assert (len(index), len(ids), mark) == (0, 0, -1)
    logits = np.random.default_rng(2).integers(-128, 129, (3, 64))
    for first, last in ((0, 5), (5, 100), (100, 101), (101, 292)):
        full = set(folder.glob("*-96.segment"))
        before = {path: path.stat().st_mtime_ns for path in full}
        extend(saved, first, last)
        assert {path: path.stat().st_mtime_ns for path in full} == before  # a full segment stays as it is
        for reader in (saved, SavedIndex(folder, SECRET, LABEL, 8, shared)):
            index, ids, mark = reader.load()
            assert mark == 7 * last
            assert ids.tolist() == list(range(1000, 1000 + last))
            assert (index.rows(np.arange(last)) == keys(300)[:last]).all()
            for found, expected in zip(
                index.top_batch(logits, 4), KeyTable(keys(300)[:last]).top_batch(logits, 4), strict=True
            ):
                assert found[0].tolist() == expected[0].tolist()
    assert len(list(folder.glob("*.segment"))) == 4


def test_what_is_on_disk_tells_no_key(folder: Path, shared: Path) -> None:
    extend(SavedIndex(folder, SECRET, LABEL, 8, shared), 0, 200)
    (first, *_) = sorted(folder.glob("*.segment"))
    content = first.read_bytes()
    assert first.stat().st_mode & 0o777 == 0o600
    assert segments.blocks.blocked(keys(300)[:96]).tobytes()[:16] not in content
    with pytest.raises(TrustError, match="does not open"):
        SavedIndex(folder, bytes(32), LABEL, 8, shared).load()


@pytest.mark.parametrize("place", [6, 60, 500, -1])
def test_an_altered_file_opens_nothing(folder: Path, shared: Path, place: int) -> None:
    extend(SavedIndex(folder, SECRET, LABEL, 8, shared), 0, 90)
    (path,) = folder.glob("*.segment")
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    saved = SavedIndex(folder, SECRET, LABEL, 8, shared)
    try:
        index, _, _ = saved.load()
    except TrustError:
        return
    assert len(index) == 0  # its label, or its length of keys, is another: it is not of this index


def test_a_file_cut_off_is_refused(folder: Path, shared: Path) -> None:
    extend(SavedIndex(folder, SECRET, LABEL, 8, shared), 0, 90)
    (path,) = folder.glob("*.segment")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(TrustError, match="not whole"):
        SavedIndex(folder, SECRET, LABEL, 8, shared).load()


def test_files_of_other_keys_are_left_alone(folder: Path, shared: Path) -> None:
    extend(SavedIndex(folder, SECRET, LABEL, 8, shared), 0, 90)
    other = SavedIndex(folder, SECRET, "registry/other@1", 8, shared)
    assert len(other.load()[0]) == 0
    assert len(SavedIndex(folder, SECRET, LABEL, 16, shared).load()[0]) == 0


def test_two_writers_stand_in_line(folder: Path, shared: Path) -> None:
    first, second = (SavedIndex(folder, SECRET, LABEL, 8, shared) for _ in range(2))
    with first.extending() as mine, second.extending(wait=False) as theirs:
        assert (mine, theirs) == (True, False)


def test_processes_share_one_plaintext_and_the_last_removes_it(folder: Path, shared: Path) -> None:
    saved = SavedIndex(folder, SECRET, LABEL, 8, shared)
    extend(saved, 0, 250)
    index, _, _ = saved.load()
    assert len(plaintexts(shared)) == 3
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in plaintexts(shared))
    code = (
        "import sys; from pathlib import Path; from verifier import resolve, segments; resolve.SEGMENT = 96\n"
        f"saved = segments.SavedIndex(Path({str(folder)!r}), bytes(range(32)), {LABEL!r}, 8, "
        f"Path({str(shared)!r}))\n"
        "segments.SavedIndex._decrypt = lambda *_: sys.exit('decrypted again')\n"
        "print(len(saved.load()[0]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("250\n", "")
    assert len(plaintexts(shared)) == 3  # this process still has them
    del index, saved
    SavedIndex(folder, SECRET, LABEL, 8, shared)
    assert plaintexts(shared) == []


def test_a_process_that_ends_leaves_no_plaintext(folder: Path, shared: Path) -> None:
    extend(SavedIndex(folder, SECRET, LABEL, 8, shared), 0, 40)
    code = (
        "from pathlib import Path; from verifier import segments\n"
        f"saved = segments.SavedIndex(Path({str(folder)!r}), bytes(range(32)), {LABEL!r}, 8, "
        f"Path({str(shared)!r}))\n"
        "index = saved.load(); room = next(Path({shared!r}).iterdir())\n"
        "print(sum(path.name != '.lock' for path in room.iterdir()))\n"
    ).replace("{shared!r}", repr(str(shared)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("1\n", "")
    assert list(shared.iterdir()) == []  # not even an empty room


def test_what_a_crash_left_is_removed(folder: Path, shared: Path) -> None:
    extend(SavedIndex(folder, SECRET, LABEL, 8, shared), 0, 40)
    code = (
        "import os; from pathlib import Path; from verifier import segments\n"
        f"saved = segments.SavedIndex(Path({str(folder)!r}), bytes(range(32)), {LABEL!r}, 8, "
        f"Path({str(shared)!r}))\n"
        "index = saved.load(); os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert len(plaintexts(shared)) == 1
    (folder / ".00-1.segment.77.partial").write_bytes(b"half")
    saved = SavedIndex(folder, SECRET, LABEL, 8, shared)
    assert plaintexts(shared) == []
    extend(saved, 40, 50)
    assert [path.name for path in folder.iterdir() if path.suffix == ".partial"] == []


def test_without_room_each_process_has_its_own_memory(
    folder: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    saved = SavedIndex(folder, SECRET, LABEL, 8, shared)
    extend(saved, 0, 120)
    index, _, _ = saved.load()
    assert plaintexts(shared) == []
    assert (index.rows(np.arange(120)) == keys(300)[:120]).all()
    index, _, _ = SavedIndex(folder, SECRET, LABEL, 8, None).load()
    assert len(index) == 120


def test_a_room_of_somebody_else_is_not_used(folder: Path, shared: Path) -> None:
    saved = SavedIndex(folder, SECRET, LABEL, 8, shared)
    (room,) = shared.iterdir()
    room.chmod(0o755)
    again = SavedIndex(folder, SECRET, LABEL, 8, shared)
    extend(again, 0, 40)
    again.load()
    assert plaintexts(shared) == []
    del saved
