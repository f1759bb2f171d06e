"""A scan's memory: what was listed, read and judged so far, in one SQLite file beside the output.

    with Journal.open(Path("findings.parquet.journal"), order) as journal:
        journal.keep(items, ...)
        for batch in journal.unread(8): journal.record(records)
        journal.group("source")
        for groups in journal.unjudged(64): journal.judge(verdicts)

Every batch is a transaction, so a process that is killed loses what it had under way and nothing else, and
going on means doing what is not in the file yet. A reading takes some 0.5 kB (an image that was searched for
its pose up to 30), a name twice its length; nothing is held in memory but the batch at hand. The journal
holds no key, and nothing that was computed with one until groups are judged.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np

from verifier.check import TESTS_MOST
from verifier.errors import InputError
from verifier.finding import ImageEntry
from verifier.network import Pose, Reading
from verifier.reading import ReadImage
from verifier.scan.sources import Item

SCHEMA = "hallmark/scan-journal/1"

GROUP_MOST = 16
"""Images in a group at most: enough for weak readings to add up, and few enough that each image's own
readings are among those that a group has tested (:data:`verifier.check.TESTS_MOST`)."""

RULES = {"source": "folder(items.name), traits", "folder": "folder(items.name)", "none": "item"}
"""What the images of a group have in common: their folder and how they were made, their folder, nothing."""

_PAGE = 1000
_TABLES = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE items (id INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE, place BLOB NOT NULL,
    member BLOB NOT NULL, offset INTEGER NOT NULL, size INTEGER NOT NULL, stamp INTEGER NOT NULL,
    named INTEGER NOT NULL, error BLOB NOT NULL);
CREATE TABLE readings (item INTEGER PRIMARY KEY, state TEXT NOT NULL, entry TEXT NOT NULL,
    traits BLOB NOT NULL, body BLOB NOT NULL, features BLOB NOT NULL);
CREATE TABLE grouped (place INTEGER PRIMARY KEY, number INTEGER NOT NULL, item INTEGER NOT NULL);
CREATE INDEX by_number ON grouped (number);
CREATE TABLE findings (number INTEGER PRIMARY KEY, document BLOB NOT NULL);
"""

IMAGE, FAILED, PASSED = "image", "failed", "passed"


@dataclass(frozen=True)
class Record:
    """An item as it was read: an image, one that ``failed``, or something else that was ``passed`` over.

    ``entry`` is JSON, ``traits`` 8 bytes that are equal for files made alike, ``body`` the packed readings,
    ``features`` float32 for the lineage.
    """

    item: int
    state: str
    entry: str
    traits: bytes
    body: bytes
    features: bytes

    @classmethod
    def of(cls, item: int, read: ReadImage, passed: bool = False) -> Record:
        """What is kept of an image."""
        state = PASSED if passed else IMAGE if read.entry.error is None else FAILED
        text = "\0".join(read.traits).encode(errors="backslashreplace")
        traits = hashlib.sha256(text).digest()[:8]
        features = b"" if read.features is None else read.features.astype("<f4").tobytes()
        return cls(item, state, json.dumps(vars(read.entry)), traits, pack(read.readings), features)


@dataclass(frozen=True)
class Tally:
    """How many items were listed, and of these read, read as images, failed, and passed over."""

    items: int
    read: int
    images: int
    failed: int
    passed: int


class Journal:
    """An open journal; one process at a time."""

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self.path, self._database = path, database
        database.create_function("folder", 1, _folder, deterministic=True)

    @classmethod
    @contextmanager
    def open(cls, path: Path, order: dict[str, Any]) -> Iterator[Journal]:
        """The journal at ``path``, new or to go on with. :class:`InputError` if it is of another ``order``
        (which files are to be read, by which networks), or another process has it."""
        known = path.exists()
        with _explained(path):
            path.touch(mode=0o600)  # verdicts name recipients
            database = sqlite3.connect(path, timeout=0.5, isolation_level=None)
        try:
            with _explained(path):
                database.execute("PRAGMA locking_mode = EXCLUSIVE")
                database.execute("PRAGMA journal_mode = WAL")
                database.execute("PRAGMA synchronous = NORMAL")
                database.execute("BEGIN IMMEDIATE")
                tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
                database.execute("COMMIT")
                journal = cls(path, database)
                if not tables:
                    database.executescript(f"BEGIN; {_TABLES} COMMIT;")
                    journal._set("schema", SCHEMA)
                    journal._set("order", json.dumps(order, sort_keys=True))
            try:
                same = json.loads(journal._get("order") or "") == json.loads(json.dumps(order))
            except ValueError:
                same = False
            if known and not same:
                raise InputError(
                    f"{path} is the journal of another scan: of other sources, networks or poses.",
                    "Repeat that scan's command to finish it, give another --out, or delete the journal.",
                )
            yield journal
        finally:
            with suppress(sqlite3.Error):
                database.close()

    def keep(
        self, items: Iterable[Item], progress: Callable[[int], None], complete: Callable[[], bool]
    ) -> None:
        """Keep the items, each name once; nothing happens if they were listed completely before.

        ``complete`` says afterwards whether these were all.
        """
        if self._get("listed"):
            return
        with self._transaction():
            self._database.execute("DELETE FROM items")
            self._database.execute("DELETE FROM readings")
        rows = iter(items)
        while page := list(islice(rows, _PAGE)):
            with self._transaction():
                self._database.executemany(
                    "INSERT OR IGNORE INTO items (name, place, member, offset, size, stamp, named, error)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    [_row_of(item) for item in page],
                )
            progress(len(page))
        if complete():
            self._set("listed", "1")

    def tally(self) -> Tally:
        """Counts so far."""
        states = dict(self._rows("SELECT state, count(*) FROM readings GROUP BY state"))
        ((items,),) = self._rows("SELECT count(*) FROM items")
        counts = [states.get(state, 0) for state in (IMAGE, FAILED, PASSED)]
        return Tally(items, sum(counts), *counts)

    def empty(self) -> bool:
        """Whether there is nothing in it that a table could tell: no image, and no file that failed."""
        try:
            tally = self.tally()
        except InputError:  # there is no telling, so it is kept
            return False
        return not tally.images and not tally.failed

    def unread(self, size: int) -> Iterator[list[tuple[int, Item]]]:
        """Batches of what was not read yet, in the order in which it was listed."""
        last = 0
        most = _PAGE // size * size
        while page := self._rows(
            "SELECT id, place, member, offset, size, stamp, named, error FROM items WHERE id > ?"
            " AND NOT EXISTS (SELECT 1 FROM readings WHERE item = id) ORDER BY id LIMIT ?",
            last,
            most,
        ):
            last = page[-1][0]
            for start in range(0, len(page), size):
                yield [(row[0], _item(row[1:])) for row in page[start : start + size]]

    def record(self, records: Sequence[Record]) -> None:
        """Keep what was read; an item that was kept before stays as it is."""
        with self._transaction():
            self._database.executemany(
                "INSERT OR IGNORE INTO readings VALUES (?, ?, ?, ?, ?, ?)", map(astuple, records)
            )

    def forget_failures(self) -> int:
        """Count the items that failed among those that were not read yet; says how many they are."""
        with self._transaction():
            return self._database.execute("DELETE FROM readings WHERE state = 'failed'").rowcount

    def group(self, rule: str, judging: dict[str, Any]) -> int:
        """Put the images that were read into groups by a rule of RULES, and count these.

        Groups and verdicts stay where neither the images nor ``judging`` (what verdicts depend on) changed.
        """
        asked = json.dumps([rule, self.tally().images, judging], sort_keys=True)
        if self._get("judging") != asked:
            with self._transaction():
                self._database.execute("DELETE FROM grouped")
                self._database.execute("DELETE FROM findings")
                ordered = self._database.execute(
                    f"SELECT item, {RULES[rule]} FROM readings JOIN items ON id = item WHERE state = 'image'"  # noqa: S608
                    f" ORDER BY {RULES[rule]}, items.name"
                )
                self._database.executemany(
                    "INSERT INTO grouped (number, item) VALUES (?, ?)", _numbered(ordered)
                )
            self._set("judging", asked)
        ((groups,),) = self._rows("SELECT count(DISTINCT number) FROM grouped")
        return int(groups)

    def unjudged(self, size: int, bits: Sequence[int]) -> Iterator[list[tuple[int, list[ReadImage]]]]:
        """Batches of groups without a verdict: their numbers and images. ``bits`` are each network's."""
        last = -1
        while numbers := self._rows(
            "SELECT DISTINCT number FROM grouped WHERE number > ? AND number NOT IN"
            " (SELECT number FROM findings) ORDER BY number LIMIT ?",
            last,
            size,
        ):
            last = numbers[-1][0]
            rows = self._rows(
                "SELECT number, entry, body, features FROM grouped JOIN readings USING (item)"
                " WHERE number BETWEEN ? AND ? AND number NOT IN (SELECT number FROM findings)"
                " ORDER BY place",
                numbers[0][0],
                last,
            )
            yield [
                (number, [_read(row[1], unpack(row[2], bits), row[3]) for row in group])
                for number, group in groupby(rows, lambda row: row[0])
            ]

    def judge(self, verdicts: Sequence[tuple[int, dict[str, Any]]]) -> None:
        """Keep the verdicts (JSON objects) on groups."""
        packed = [(number, zlib.compress(json.dumps(found).encode(), 1)) for number, found in verdicts]
        with self._transaction():
            self._database.executemany("INSERT OR REPLACE INTO findings VALUES (?, ?)", packed)

    @property
    def judged(self) -> int:
        """Groups with a verdict."""
        ((count,),) = self._rows("SELECT count(*) FROM findings")
        return int(count)

    def verdicts(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Groups' numbers and verdicts, in order."""
        last = -1
        while page := self._rows(
            "SELECT number, document FROM findings WHERE number > ? ORDER BY number LIMIT 64", last
        ):
            last = page[-1][0]
            for number, document in page:
                yield number, json.loads(zlib.decompress(document))

    def failures(self) -> Iterator[ImageEntry]:
        """The images that could not be read."""
        last = 0
        while page := self._rows(
            "SELECT item, entry FROM readings WHERE item > ? AND state = 'failed' ORDER BY item LIMIT 1000",
            last,
        ):
            last = page[-1][0]
            for _, entry in page:
                yield ImageEntry(**json.loads(entry))

    def _rows(self, query: str, *values: Any) -> list[Any]:
        with _explained(self.path):
            return self._database.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _explained(self.path):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                with suppress(sqlite3.Error):
                    self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    def _get(self, name: str) -> str | None:
        found = self._rows("SELECT value FROM about WHERE name = ?", name)
        return str(found[0][0]) if found else None

    def _set(self, name: str, value: str) -> None:
        with self._transaction():
            self._database.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (name, value))


def _read(entry: str, readings: list[list[Reading]], features: bytes) -> ReadImage:
    kept = np.frombuffer(features, "<f4") if features else None
    return ReadImage(ImageEntry(**json.loads(entry)), readings, features=kept)


def pack(readings: Sequence[Sequence[Reading]]) -> bytes:
    """Each network's ranked readings, as many as may be tested."""
    parts = []
    for ranked in readings:
        kept = ranked[:TESTS_MOST]
        rows = np.zeros(len(kept), _row(len(kept[0].logits) if kept else 0))
        for row, reading in zip(rows, kept, strict=True):
            pose = reading.pose
            row["pose"] = pose.left, pose.top, pose.width, pose.height, pose.mirrored
            row["angle"], row["confidence"], row["logits"] = pose.angle, reading.confidence, reading.logits
        parts.append(len(rows).to_bytes(4, "little") + rows.tobytes())
    return zlib.compress(b"".join(parts), 1)


def unpack(body: bytes, bits: Sequence[int]) -> list[list[Reading]]:
    """The inverse of :func:`pack`, for networks of so many bits."""
    data, at, readings = zlib.decompress(body), 0, []
    for count in bits:
        rows = np.frombuffer(data, _row(count), int.from_bytes(data[at : at + 4], "little"), at + 4)
        at += 4 + rows.nbytes
        readings.append([_reading(row) for row in rows])
    return readings


def _reading(row: Any) -> Reading:
    left, top, width, height, mirrored = row["pose"].tolist()
    angle = float(row["angle"])
    pose = Pose(left, top, width, height, bool(mirrored), int(angle) if angle.is_integer() else angle)
    return Reading(row["logits"], pose, float(row["confidence"]))


def _row(bits: int) -> np.dtype[np.void]:
    return np.dtype(
        [("pose", "<i4", (5,)), ("angle", "<f8"), ("confidence", "<f8"), ("logits", "<i4", (bits,))]
    )


def _numbered(ordered: Iterable[Sequence[Any]]) -> Iterator[tuple[int, int]]:
    """(group, item): runs of rows (item, *common) that agree in ``common``, cut after GROUP_MOST items."""
    number = -1
    for _, run in groupby(ordered, lambda row: row[1:]):
        for place, row in enumerate(run):
            number += place % GROUP_MOST == 0
            yield number, row[0]


def _row_of(item: Item) -> tuple[Any, ...]:
    texts = _octets(item.name), _octets(item.place), _octets(item.member)
    return (*texts, item.offset, item.size, item.stamp, item.named, _octets(item.error))


def _item(row: Sequence[Any]) -> Item:
    place, member, offset, size, stamp, named, error = row
    return Item(_text(place), _text(member), offset, size, stamp, bool(named), _text(error))


def _octets(text: str) -> bytes:
    """File names may be any bytes; Python holds those that are no text as surrogates."""
    return text.encode("utf-8", "surrogateescape")


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")


def _folder(name: bytes) -> bytes:
    return name.rpartition(b"/")[0]


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """SQLite's errors in words."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}.", "Give another --out.") from None
    except sqlite3.Error as error:
        reason = str(error)
        if "locked" in reason:
            raise InputError(f"{path} is in use: another scan writes there.", "Wait for it.") from None
        if "full" in reason:
            raise InputError(
                f"no space is left for {path}; what was read so far is kept there.",
                "Make room, then repeat the command: it goes on where it stopped.",
            ) from None
        if isinstance(error, sqlite3.DatabaseError) and ("not a database" in reason or "malformed" in reason):
            raise InputError(f"{path} is no journal of a scan, or a damaged one.", "Delete it.") from None
        raise InputError(
            f"cannot use {path}: {reason}.", "Is its folder there, and may you write to it?"
        ) from None
