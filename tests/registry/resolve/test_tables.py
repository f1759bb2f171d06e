from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
from sqlalchemy import delete, update

from registry.errors import IntegrityError, StateError
from registry.generators import service as generators
from registry.home import Home
from registry.keys import service as keys
from registry.keys.models import KeyCount, UserKey
from registry.resolve import tables
from registry.resolve.tables import Keys, KeyTables
from tests.registry.resolve.support import issue, signs, user_key_ids
from tests.registry.support import BITS, MODEL
from verifier import resolve
from verifier.phi import unpack
from verifier.resolve import KeyTable
from verifier.segments import SavedIndex


def current(home: Home, known: KeyTables) -> Keys:
    with home.database.read() as session:
        model = generators.get_model(session, MODEL)
        issued = keys.count(session, model)
    return known.of(home, model, issued)


def all_keys(home: Home) -> KeyTable:
    """Every key, derived afresh."""
    with home.database.read() as session:
        model = generators.get_model(session, MODEL)
        rows = list(keys.rows(session, model))
        secret = generators.model_secret(home.master, model)
        return KeyTable(
            keys.derive_table(secret, model, [row.key_id for row in rows], [row.redraws for row in rows])
        )


def test_keys_come_in_the_order_of_issue_and_grow(ready: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    derived: list[int] = []
    derive = keys.derive_table

    def counted(secret, model, key_ids, redraws):
        derived.append(len(key_ids))
        return derive(secret, model, key_ids, redraws)

    monkeypatch.setattr(tables.key_service, "derive_table", counted)
    known = KeyTables()
    assert len(current(ready, known)) == 0
    for count in (3, 1, 5):
        issue(ready, count)
        found = current(ready, known)
    assert derived == [3, 1, 5]  # only what is new
    assert [found.user_key(row) for row in range(9)] == user_key_ids(ready)
    current(ready, known)
    assert derived == [3, 1, 5]


@pytest.mark.parametrize("recent", [1, 4, 1000])
def test_old_and_recent_keys_are_searched_as_one(
    sqlite_ready: Home, monkeypatch: pytest.MonkeyPatch, recent: int
) -> None:
    monkeypatch.setattr(tables, "RECENT", recent)
    known = KeyTables()
    rng = np.random.default_rng(1)
    for count in (3, 1, 7, 2, 20, 1):
        issue(sqlite_ready, count)
        found, expected = current(sqlite_ready, known), all_keys(sqlite_ready)
        assert len(found) == len(expected)
        readings = rng.integers(-128, 129, (9, BITS))
        readings[0] = 0
        for m in (1, 5):
            for (rows, scores), (all_rows, all_scores) in zip(
                found.top_batch(readings, m), expected.top_batch(readings, m), strict=True
            ):
                assert rows.tolist() == all_rows.tolist()
                assert scores.tolist() == all_scores.tolist()
    assert (len(found.ids) > 0) == (recent < 1000)  # in the saved index


def test_a_refresh_during_a_bulk_issue_misses_nothing(ready: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "RECENT", 16)
    known, failures = KeyTables(), []

    def issuing() -> None:
        for _ in range(6):
            issue(ready, 10)

    def looking() -> None:
        try:
            for _ in range(12):
                current(ready, known)
        except Exception as error:  # noqa: BLE001 - reported below
            failures.append(error)

    threads = [threading.Thread(target=issuing) for _ in range(2)]
    threads += [threading.Thread(target=looking) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    found = current(ready, known)
    assert [found.user_key(row) for row in range(len(found))] == user_key_ids(ready)
    packed = found.packed()
    expected = all_keys(ready)
    assert all((unpack(packed[row]) == expected.signs(row)).all() for row in range(len(found)))


def test_each_model_has_its_own_keys(sqlite_ready: Home, tiny) -> None:
    issue(sqlite_ready, 2)
    other = generators.add_model(sqlite_ready, "other", "latent-diffusion", str(tiny.weights))
    known = KeyTables()
    with pytest.raises(StateError, match="no fingerprint basis"):
        known.of(sqlite_ready, other, 0)
    with sqlite_ready.database.write() as session:
        generators.install_basis(session, sqlite_ready.storage, other, tiny.basis)
    with sqlite_ready.database.read() as session:
        model = generators.get_model(session, "other")
    assert len(known.of(sqlite_ready, model, 0)) == 0
    assert len(current(sqlite_ready, known)) == 2


def test_the_key_found_is_the_one_issued(sqlite_ready: Home) -> None:
    issued = issue(sqlite_ready, 20)
    found = current(sqlite_ready, KeyTables())
    for number in (0, 7, 19):
        ((rows, scores),) = found.top_batch(signs(sqlite_ready, issued[number])[None], 1)
        assert (int(rows[0]), int(scores[0])) == (number, BITS)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys join the index soon, and an index has several segments."""
    monkeypatch.setattr(tables, "RECENT", 4)
    monkeypatch.setattr(resolve, "SEGMENT", 32)


def no_derivation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables.key_service, "derive_table", lambda *_: pytest.fail("keys were derived"))


@pytest.mark.usefixtures("small")
def test_a_saved_index_is_opened_and_not_derived_again(ready: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    issue(ready, 70)
    first = current(ready, KeyTables())
    assert len(first.ids) == 70
    issue(ready, 3)
    second = current(ready, KeyTables())  # another worker derives the three that are new
    assert (len(second.ids), len(second)) == (70, 73)
    issue(ready, 9)
    current(ready, KeyTables())
    with monkeypatch.context() as patched:
        no_derivation(patched)
        found = current(ready, KeyTables())
    assert (len(found.ids), len(found)) == (82, 82)
    assert [found.user_key(row) for row in range(82)] == user_key_ids(ready)
    assert (unpack(found.packed()) == np.stack([all_keys(ready).signs(row) for row in range(82)])).all()


@pytest.mark.usefixtures("small")
def test_an_index_is_built_ahead_and_anew(sqlite_ready: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    issue(sqlite_ready, 100)
    with sqlite_ready.database.read() as session:
        model = generators.get_model(session, MODEL)
    seen: list[int] = []
    assert tables.build(sqlite_ready, model, lambda total: seen.append(total) or seen.append) == 100
    assert seen == [100, 32, 64, 96, 100]
    assert tables.build(sqlite_ready, model) == 0
    issue(sqlite_ready, 40)

    def stop() -> None:
        if len(list(folder.glob("*.segment"))) == 4 and seen[-1] == 28:
            raise KeyboardInterrupt

    folder = sqlite_ready.settings.home / tables.FOLDER / str(model.id)
    with pytest.raises(KeyboardInterrupt):  # after the segment that was begun is full
        tables.build(sqlite_ready, model, lambda total: seen.append(total) or seen.append, check=stop)
    assert tables.build(sqlite_ready, model) == 12
    assert tables.build(sqlite_ready, model, again=True) == 140
    no_derivation(monkeypatch)
    assert len(current(sqlite_ready, KeyTables())) == 140


@pytest.mark.usefixtures("small")
def test_an_index_of_a_later_state_of_the_database_is_discarded(sqlite_ready: Home) -> None:
    """A database was restored from its backup, and went on differently."""
    issue(sqlite_ready, 40)
    assert len(current(sqlite_ready, KeyTables()).ids) == 40
    with sqlite_ready.database.write() as session:
        session.execute(delete(UserKey).where(UserKey.id > user_key_ids(sqlite_ready)[19]))
        session.execute(update(KeyCount).values(issued=20))
    found = current(sqlite_ready, KeyTables())
    assert [found.user_key(row) for row in range(len(found))] == user_key_ids(sqlite_ready)
    assert len(found) == 20


@pytest.mark.usefixtures("small")
def test_an_altered_index_gives_no_verdict(sqlite_ready: Home) -> None:
    issue(sqlite_ready, 40)
    known = KeyTables()
    current(sqlite_ready, known)
    (path, *_) = (sqlite_ready.settings.home / tables.FOLDER).rglob("*.segment")
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    del known
    gc.collect()
    with pytest.raises(IntegrityError, match="does not open") as caught:
        current(sqlite_ready, KeyTables())
    assert "registry index build tiny@1 --again" in caught.value.hint


def test_an_index_older_than_the_ledger_gives_no_verdict(
    sqlite_ready: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    issue(sqlite_ready, 5)
    nothing = tables._Issued.none(BITS // 8)
    monkeypatch.setattr(tables, "_issued_after", lambda *_, **__: nothing)
    with pytest.raises(IntegrityError, match=r"knows 0 keys .* the ledger 5"):
        current(sqlite_ready, KeyTables())


@pytest.mark.usefixtures("small")
def test_without_room_on_disk_keys_are_indexed_in_memory(
    sqlite_ready: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SavedIndex, "extend", full)
    known = KeyTables()
    current(sqlite_ready, known)
    for count in (10, 30, 1):
        issue(sqlite_ready, count)
        found = current(sqlite_ready, known)
    assert len(found.ids) == 40
    assert [found.user_key(row) for row in range(41)] == user_key_ids(sqlite_ready)
    assert (
        unpack(found.packed()) == np.stack([all_keys(sqlite_ready).signs(row) for row in range(41)])
    ).all()
