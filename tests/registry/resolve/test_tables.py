from __future__ import annotations

import threading

import numpy as np
import pytest

from registry.errors import StateError
from registry.generators import service as generators
from registry.home import Home
from registry.keys import service as keys
from registry.resolve import tables
from registry.resolve.tables import Keys, KeyTables
from tests.registry.resolve.support import issue, signs, user_key_ids
from tests.registry.support import BITS, MODEL
from verifier.phi import unpack
from verifier.resolve import KeyIndex, KeyTable


def current(home: Home, known: KeyTables) -> Keys:
    with home.database.read() as session:
        return known.of(home, session, generators.get_model(session, MODEL))


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
    assert isinstance(found.old.table, KeyIndex) == (recent < 1000)


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
    packed = np.concatenate([found.old.packed, found.recent.packed])
    expected = all_keys(ready)
    assert all((unpack(packed[row]) == expected.signs(row)).all() for row in range(len(found)))


def test_each_model_has_its_own_keys(sqlite_ready: Home, tiny) -> None:
    issue(sqlite_ready, 2)
    other = generators.add_model(sqlite_ready, "other", "latent-diffusion", str(tiny.weights))
    known = KeyTables()
    with sqlite_ready.database.read() as session, pytest.raises(StateError, match="no fingerprint basis"):
        known.of(sqlite_ready, session, other)
    with sqlite_ready.database.write() as session:
        generators.install_basis(session, sqlite_ready.storage, other, tiny.basis)
    with sqlite_ready.database.read() as session:
        model = generators.get_model(session, "other")
        assert len(known.of(sqlite_ready, session, model)) == 0
    assert len(current(sqlite_ready, known)) == 2


def test_the_key_found_is_the_one_issued(sqlite_ready: Home) -> None:
    issued = issue(sqlite_ready, 20)
    found = current(sqlite_ready, KeyTables())
    for number in (0, 7, 19):
        ((rows, scores),) = found.top_batch(signs(sqlite_ready, issued[number])[None], 1)
        assert (int(rows[0]), int(scores[0])) == (number, BITS)
