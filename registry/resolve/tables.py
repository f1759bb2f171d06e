"""Every key ever issued of a model, held in memory and kept up to date.

    keys = tables.of(home, session, model)
    rows, scores = keys.top_batch(logits, 16)[0]          # rows in the order of issue
    keys.user_key(rows[0])                                # the id of its UserKey

The first query of a model derives all of its keys (some seconds for a million); later ones only what was
issued since. Most keys are behind an index; the newest are searched one by one until there are so many that
a new index is worth its second, which one request pays while the others go on with what there is.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from registry.db import STREAM_ROWS
from registry.generators import service as generators
from registry.generators.models import Model
from registry.home import Home
from registry.keys import service as key_service
from registry.keys.models import UserKey
from verifier.phi import Packed
from verifier.resolve import INDEXED_BITS, Indices, KeyIndex, KeyTable, Logits, Scores

RECENT = 1 << 14
"""Keys searched one by one at most, 3 ms at 256 bits, before they join the index."""

_Ids = NDArray[np.int64]


@dataclass(frozen=True)
class _Part:
    """Keys in the order of issue: the ids of their rows, their bits and the search among them."""

    ids: _Ids
    packed: Packed
    table: KeyTable | KeyIndex

    @classmethod
    def made(cls, ids: _Ids, packed: Packed) -> _Part:
        indexed = len(ids) > RECENT and 8 * packed.shape[1] <= INDEXED_BITS
        return cls(ids, packed, KeyIndex.of(packed, threads=1) if indexed else KeyTable(packed))

    def joined(self, ids: _Ids, packed: Packed) -> _Part:
        return _Part.made(np.concatenate([self.ids, ids]), np.concatenate([self.packed, packed]))


@dataclass(frozen=True)
class Keys:
    """The keys at one moment; what is issued later makes other ``Keys``."""

    old: _Part
    recent: _Part
    last: int = -1
    """The ledger index of the newest."""

    def __len__(self) -> int:
        return len(self.old.ids) + len(self.recent.ids)

    def user_key(self, row: int) -> int:
        """The id of the ``UserKey`` behind a row."""
        first = len(self.old.ids)
        return int(self.old.ids[row] if row < first else self.recent.ids[row - first])

    def top_batch(self, logits: Logits, m: int) -> list[tuple[Indices, Scores]]:
        """The ``m`` best keys for each of the readings (q, k), as :meth:`KeyTable.top_batch`."""
        first = len(self.old.ids)
        found = []
        pairs = zip(self.old.table.top_batch(logits, m), self.recent.table.top_batch(logits, m), strict=True)
        for (old_rows, old_scores), (rows, scores) in pairs:
            all_rows = np.concatenate([old_rows, rows + first])
            all_scores = np.concatenate([old_scores, scores])
            order = np.lexsort((all_rows, -all_scores))[:m]
            found.append((all_rows[order], all_scores[order]))
        return found


class KeyTables:
    """The keys of every model that was asked about."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: dict[int, _Growing] = {}

    def of(self, home: Home, session: Session, model: Model) -> Keys:
        """All keys that this session sees issued; :class:`StateError` for a model without a basis."""
        generators.basis_name(model)
        assert model.basis_bits is not None
        with self._lock:
            growing = self._models.setdefault(model.id, _Growing(model.basis_bits // 8))
        return growing.refreshed(home, session, model)


class _Growing:
    def __init__(self, octets: int) -> None:
        self._lock = threading.Lock()
        self._empty = _Part.made(np.zeros(0, np.int64), np.zeros((0, octets), np.uint8))
        self._keys = Keys(self._empty, self._empty)
        self._indexing = False

    def refreshed(self, home: Home, session: Session, model: Model) -> Keys:
        with self._lock:
            ids, packed, last = _issued_after(home, session, model, self._keys.last)
            if len(ids):
                self._keys = Keys(self._keys.old, self._keys.recent.joined(ids, packed), last)
            keys = self._keys
            index_now = len(keys.recent.ids) > RECENT and not self._indexing
            self._indexing |= index_now
        return self._indexed(keys) if index_now else keys

    def _indexed(self, keys: Keys) -> Keys:
        """Move the recent keys of ``keys`` behind the index, without making others wait for it."""
        try:
            old = keys.old.joined(keys.recent.ids, keys.recent.packed)
            with self._lock:
                moved, recent = len(keys.recent.ids), self._keys.recent
                rest = _Part.made(recent.ids[moved:], recent.packed[moved:])
                self._keys = Keys(old, rest, self._keys.last)
                return self._keys
        finally:
            self._indexing = False


# Built once: every query asks for what is new.
_ISSUED = (
    select(UserKey.id, UserKey.key_id, UserKey.redraws, UserKey.ledger_index)
    .where(UserKey.model_id == bindparam("model"), UserKey.ledger_index > bindparam("last"))
    .order_by(UserKey.ledger_index)
)


def _issued_after(home: Home, session: Session, model: Model, last: int) -> tuple[_Ids, Packed, int]:
    """Ids and bits of the keys that come after ``last`` in the ledger, and the last one's index.

    Whoever issues holds the ledger until his keys are committed, so none with a smaller index comes later.
    """
    many = {"yield_per": STREAM_ROWS} if last < 0 else {}
    rows = session.execute(_ISSUED, {"model": model.id, "last": last}, execution_options=many).fetchall()
    if not rows:
        return np.zeros(0, np.int64), np.zeros((0, 0), np.uint8), last
    ids, key_ids, redraws, indices = zip(*rows, strict=True)
    secret = generators.model_secret(home.master, model)
    return np.array(ids, np.int64), key_service.derive_table(secret, model, key_ids, redraws), indices[-1]
