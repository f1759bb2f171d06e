"""Every key ever issued of a model, searched by all workers of a machine and kept up to date.

    keys = tables.of(home, model, issued)
    rows, scores = keys.top_batch(logits, 16)[0]          # rows in the order of issue
    keys.user_key(rows[0])                                # the id of its UserKey

    build(home, model, progress)                          # `registry index build`

Most keys are in a saved index (:mod:`verifier.segments`) under ``search/`` in the registry's home: encrypted,
in no backup, and decrypted into memory that the workers share. The newest are derived by each worker and
searched one by one until there are RECENT of them; then one worker appends them to the index, while all go on
with what they have. Revoking changes nothing here: revoked keys are searched for like any other. Whatever is
saved can be derived again, so an index that is not there, or not of this database, is made anew.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray
from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from registry.errors import IntegrityError
from registry.generators import service as generators
from registry.generators.models import Model
from registry.home import Home
from registry.keys import service as key_service
from registry.keys.models import UserKey
from registry.resolve.secrets import secret
from verifier import phi, resolve
from verifier.errors import InputError, TrustError, VerifierError
from verifier.phi import Packed
from verifier.resolve import Found, KeyIndex, KeysInTurn, KeyTable, Logits
from verifier.segments import SavedIndex

RECENT = 1 << 14
"""Keys searched one by one at most, 3 ms at 256 bits, before they join the index."""

FOLDER = "search"
SECRET = "search"  # noqa: S105  (the name of one)

_Ids = NDArray[np.int64]

log = structlog.get_logger()


@dataclass(frozen=True)
class _Issued:
    """Keys in the order of issue: the ids of their rows, their ledger indices and their bits."""

    ids: _Ids
    places: _Ids
    packed: Packed

    @classmethod
    def none(cls, octets: int) -> _Issued:
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, octets), np.uint8))

    def and_then(self, later: _Issued) -> _Issued:
        return _Issued(
            np.concatenate([self.ids, later.ids]),
            np.concatenate([self.places, later.places]),
            np.concatenate([self.packed, later.packed]),
        )

    def after(self, place: int) -> _Issued:
        first = int(np.searchsorted(self.places, place, side="right"))
        return _Issued(self.ids[first:], self.places[first:], self.packed[first:])


@dataclass(frozen=True)
class Keys:
    """The keys at one moment; what is issued later makes other ``Keys``."""

    index: KeyIndex
    ids: _Ids
    mark: int
    """The ledger index of the last key in the index."""
    recent: _Issued

    def __len__(self) -> int:
        return len(self.ids) + len(self.recent.ids)

    @property
    def last(self) -> int:
        """The ledger index of the newest key."""
        return int(self.recent.places[-1]) if len(self.recent.places) else self.mark

    def user_key(self, row: int) -> int:
        """The id of the ``UserKey`` behind a row."""
        first = len(self.ids)
        return int(self.ids[row] if row < first else self.recent.ids[row - first])

    def signs(self, row: int) -> NDArray[np.int64]:
        """The key of a row as (k,) of -1 and +1."""
        first = len(self.ids)
        bits = self.index.rows(np.array([row]))[0] if row < first else self.recent.packed[row - first]
        return phi.unpack(bits).astype(np.int64)

    def packed(self) -> Packed:
        """The bits of all keys, (n, bits / 8)."""
        return np.concatenate([self.index.rows(np.arange(len(self.ids))), self.recent.packed])

    def top_batch(self, logits: Logits, m: int, floors: NDArray[np.float64] | None = None) -> list[Found]:
        """The ``m`` best keys for each of the readings (q, k): :meth:`verifier.resolve.Keys.top_batch`."""
        return KeysInTurn([self.index, KeyTable(self.recent.packed)]).top_batch(logits, m, floors)


class KeyTables:
    """The keys of every model that was asked about."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: dict[int, _Growing] = {}

    def of(self, home: Home, model: Model, issued: int) -> Keys:
        """All keys of a model that has ``issued`` of them, or those and later ones.

        :class:`StateError` for a model without a basis, :class:`IntegrityError` where the saved index was
        altered or fewer keys are found than were counted: no verdict is given then.
        """
        generators.basis_name(model)
        with self._lock:
            growing = self._models.setdefault(model.id, _Growing(model))
        return growing.holding(home, model, issued)


class _Growing:
    def __init__(self, model: Model) -> None:
        self._lock = threading.Lock()
        self._octets = _octets(model)
        self._saved: SavedIndex | None = None
        self._keys: Keys | None = None
        self._saving = False

    def holding(self, home: Home, model: Model, issued: int) -> Keys:
        with self._lock:
            keys = self._keys
            if self._saved is None or keys is None or len(keys) < issued:
                with home.database.read() as session:
                    keys = self._refreshed(home, session, model)
            save_now = len(keys.recent.ids) > RECENT and not self._saving
            self._saving |= save_now
        if len(keys) < issued:
            raise IntegrityError(
                f"the search knows {len(keys)} keys of model {model.label}, the ledger {issued}.",
                f"Make the index anew: registry index build {model.label} --again.",
            )
        assert self._saved is not None
        return self._moved(keys, self._saved) if save_now else keys

    def _refreshed(self, home: Home, session: Session, model: Model) -> Keys:
        if self._saved is None or self._keys is None:
            self._saved = saved_index(home, model)
            self._keys = self._loaded(home, session, model, self._saved)
        keys = self._keys
        later = _issued_after(home, session, model, keys.last)
        if len(later.ids):
            keys = self._keys = Keys(keys.index, keys.ids, keys.mark, keys.recent.and_then(later))
        return keys

    def _loaded(self, home: Home, session: Session, model: Model, saved: SavedIndex) -> Keys:
        """What is saved, after a model's missing keys were added where they are many."""
        index, ids, mark = _load(saved, model)
        if len(ids) and not _belongs(session, model, int(ids[-1]), mark):
            log.warning("search-index-discarded", model=model.label, keys=len(ids))
            with saved.extending():
                saved.clear()
            index, ids, mark = _load(saved, model)
        if _more_than(session, model, mark, RECENT):
            try:
                build(home, model, saved=saved)
                index, ids, mark = _load(saved, model)
            except InputError as error:
                log.warning("search-index-not-saved", model=model.label, reason=error.diagnostics())
        return Keys(index, ids, mark, _Issued.none(self._octets))

    def _moved(self, keys: Keys, saved: SavedIndex) -> Keys:
        """Move the recent keys of ``keys`` into the index, without making others wait for it."""
        try:
            index, ids, mark = self._appended(keys, saved)
            with self._lock:
                assert self._keys is not None
                self._keys = Keys(index, ids, mark, self._keys.recent.after(mark))
                return self._keys
        finally:
            self._saving = False

    def _appended(self, keys: Keys, saved: SavedIndex) -> tuple[KeyIndex, _Ids, int]:
        """The index with these keys: written for all, or by another worker, or in this process's memory."""
        try:
            with saved.extending(wait=False) as mine:
                if not mine:
                    return keys.index, keys.ids, keys.mark
                index, ids, mark = saved.load(threads=1)
                more = keys.recent.after(mark)
                if mark >= keys.mark:  # else it is being made anew
                    if len(more.ids):  # else another worker was quicker
                        saved.extend(more.packed, more.ids, int(more.places[-1]))
                        index, ids, mark = saved.load(threads=1)
                    return index, ids, mark
        except (VerifierError, OSError) as error:
            log.warning("search-index-not-saved", reason=str(error))
        recent = keys.recent
        ids = np.concatenate([keys.ids, recent.ids])
        return keys.index.extended(recent.packed), ids, int(recent.places[-1])


def saved_index(home: Home, model: Model) -> SavedIndex:
    """Where the index of a model is kept on this machine."""
    label = f"{home.identity.registry}/{model.id}/{model.secret_commitment.hex()}"
    folder = home.settings.home / FOLDER / str(model.id)
    return SavedIndex(folder, secret(home, SECRET), label, _octets(model))


def build(
    home: Home,
    model: Model,
    progress: Callable[[int], Callable[[int], None]] = lambda _: lambda _: None,
    *,
    again: bool = False,
    saved: SavedIndex | None = None,
    check: Callable[[], None] = lambda: None,
) -> int:
    """Add all keys of a model that its saved index lacks (``again``: all keys), and return their number.

    Each segment is whole once it is written, so an interrupted build goes on where it stopped; ``check`` is
    called between them. Several processes that build the same index do so one after the other.
    """
    saved = saved or saved_index(home, model)
    added = 0
    with saved.extending():
        if again:
            saved.clear()
        index, ids, mark = _load(saved, model)
        room = resolve.SEGMENT - len(index) % resolve.SEGMENT
        del index, ids
        with home.database.read() as session:
            seen = progress(_count_after(session, model, mark))
        while True:
            check()
            with home.database.read() as session:
                issued = _issued_after(home, session, model, mark, limit=room)
            if not len(issued.ids):
                return added
            mark = int(issued.places[-1])
            saved.extend(issued.packed, issued.ids, mark)
            added, room = added + len(issued.ids), resolve.SEGMENT
            seen(added)


def describe(home: Home, model: Model) -> dict[str, int]:
    """What is saved of a model's index on this machine."""
    files = saved_index(home, model).files()
    with home.database.read() as session:
        issued = key_service.count(session, model)
    return {
        "keys": sum(file.count for file in files),
        "issued": issued,
        "files": len(files),
        "bytes": sum(file.path.stat().st_size for file in files),
    }


def _octets(model: Model) -> int:
    assert model.basis_bits is not None, "keys are issued only under a basis"
    return model.basis_bits // 8


def _load(saved: SavedIndex, model: Model) -> tuple[KeyIndex, _Ids, int]:
    try:
        return saved.load(threads=1)  # requests compute with one thread each
    except TrustError as error:
        raise IntegrityError(
            f"the search index of model {model.label}: {error}",
            f"Make it anew: registry index build {model.label} --again.",
        ) from None


def _belongs(session: Session, model: Model, user_key: int, place: int) -> bool:
    """Whether the last key of a saved index is one of this database, which may be an older one, restored."""
    query = select(UserKey.id).where(UserKey.model_id == model.id, UserKey.ledger_index == place)
    return session.execute(query).scalar() == user_key


def _more_than(session: Session, model: Model, last: int, many: int) -> bool:
    query = select(UserKey.id).where(UserKey.model_id == model.id, UserKey.ledger_index > last)
    return session.execute(query.order_by(UserKey.ledger_index).offset(many).limit(1)).first() is not None


def _count_after(session: Session, model: Model, last: int) -> int:
    return key_service.count(session, model) if last < 0 else key_service.count_after(session, model, last)


# Built once: every query asks for what is new.
_ISSUED = (
    select(UserKey.id, UserKey.key_id, UserKey.redraws, UserKey.ledger_index)
    .where(UserKey.model_id == bindparam("model"), UserKey.ledger_index > bindparam("last"))
    .order_by(UserKey.ledger_index)
)


def _issued_after(home: Home, session: Session, model: Model, last: int, limit: int | None = None) -> _Issued:
    """The keys that come after ``last`` in the ledger, or the first ``limit`` of them.

    Whoever issues holds the ledger until his keys are committed, so none with a smaller index comes later.
    """
    query = _ISSUED if limit is None else _ISSUED.limit(limit)
    rows = session.execute(query, {"model": model.id, "last": last}).fetchall()
    if not rows:
        return _Issued.none(_octets(model))
    ids, key_ids, redraws, places = zip(*rows, strict=True)
    opened = generators.model_secret(home.master, model)
    packed = _derived(
        lambda part, drawn: key_service.derive_table(opened, model, part, drawn), key_ids, redraws
    )
    return _Issued(np.array(ids, np.int64), np.array(places, np.int64), packed)


def _derived(
    derive: Callable[[Sequence[bytes], Sequence[int]], Packed],
    key_ids: Sequence[bytes],
    redraws: Sequence[int],
) -> Packed:
    """Bits of keys from the PRF; of many in parallel."""
    at_once = 1 << 16
    if len(key_ids) <= at_once:
        return derive(key_ids, redraws)
    starts = range(0, len(key_ids), at_once)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = pool.map(lambda i: derive(key_ids[i : i + at_once], redraws[i : i + at_once]), starts)
        return np.concatenate(list(parts))
