"""How much may be asked: units a day, for a grant or an organisation and for each of its tokens and people.

    units, repeated = charge(session, payers, sketches, query, named=1)   # where the query is logged

Every answer tells one bit about the keys. What it costs grows with what it can tell: an image costs one
unit, a *repeat* (readings close to those of a query of the last day) REPEATED units an image, every key
that is named NAMED more. Whether a query is admitted depends on the first two alone, which the asker knows:
a refusal tells nothing about keys.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import BigInteger, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError as DuplicateError
from sqlalchemy.orm import Session

from registry.db import DAY_SECONDS, table, unix_now
from registry.errors import ThrottledError
from registry.resolve.models import Resolution, ResolveBudget

OWN_UNITS = 20_000
"""Units a day of an organisation on all of its own models."""

ACTOR_UNITS = 10_000
"""Units a day of one token or person."""

GRANT_UNITS = 2_000
"""Units a day of a grant that names no number: 95 images of copies, each asked once, or 2 000 others."""

NAMED = 20
REPEATED = 10

READINGS_A_UNIT = 16
"""Readings of one image that a unit pays for; the verifier makes one where an image is whole."""

SKETCH_BITS = 256
NEAR_BITS = 51
"""Sketches that differ in so many bits or fewer are repeats: readings at an angle of 36 degrees or less.

Readings of different copies are about at right angles, 128 bits, and a bit flipped in 256 turns a reading by
7 degrees. Clean images of one copy can be as close as a repeat: they are better asked about as a set.
"""

Sketches = NDArray[np.uint8]


@dataclass(frozen=True)
class Asked:
    """What of a query counts: who pays (``scope`` and ``actor``), its size and its sketches."""

    scope: str
    limit: int
    actor: str
    model: int
    images: int
    sketches: Sketches

    @property
    def payers(self) -> frozenset[str]:
        """Whose units are spent."""
        return frozenset((self.scope, self.actor))


class Sketcher:
    """Sketches of readings: signs of random projections, drawn under a secret.

    Two readings at an angle of t differ in about t / pi of the bits. Without the secret a sketch tells
    nothing about the reading, so that it may be stored.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._projections: dict[int, NDArray[np.float32]] = {}

    def sketches(self, readings: NDArray[np.int64]) -> Sketches:
        """One sketch, 32 bytes, for each of the readings (n, k)."""
        bits = readings.shape[1]
        if bits not in self._projections:
            seed = int.from_bytes(hmac.digest(self._secret, f"{bits} bits".encode(), "sha256"), "big")
            drawn = np.random.Generator(np.random.PCG64(seed)).standard_normal((bits, SKETCH_BITS))
            self._projections[bits] = drawn.astype(np.float32)
        return np.packbits(readings.astype(np.float32) @ self._projections[bits] > 0, axis=1)


@dataclass
class RecentSketches:
    """The sketches of the queries of one scope and model, read from the log as far as they are new."""

    last: int = 0
    asked_at: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    sketches: Sketches = field(default_factory=lambda: np.zeros((0, SKETCH_BITS // 8), np.uint8))

    def holds_near(self, session: Session, asked: Asked, since: int) -> bool:
        """Whether some query since ``since`` (unix seconds) had a reading near one of ``asked``'s.

        Call it while the scope's budget is locked: queries of one scope are then logged one by one.
        """
        unread = {"payer": asked.scope, "model": asked.model, "last": self.last, "since": since}
        known = self.asked_at >= since
        times, parts = [self.asked_at[known]], [self.sketches[known]]
        for number, at, stored in session.execute(_LOGGED, unread):
            new = np.frombuffer(stored, np.uint8).reshape(-1, SKETCH_BITS // 8)
            times.append(np.full(len(new), at, np.int64))
            parts.append(new)
            self.last = number
        self.asked_at, self.sketches = np.concatenate(times), np.concatenate(parts)
        return any(
            bool((np.bitwise_count(self.sketches ^ sketch).sum(axis=1) <= NEAR_BITS).any())
            for sketch in asked.sketches
        )


def price(asked: Asked, repeated: bool) -> int:
    """Units of a query before anything is named."""
    images = max(asked.images, math.ceil(len(asked.sketches) / READINGS_A_UNIT))
    return images * (REPEATED if repeated else 1)


class Payers:
    """What this process knows of units spent today: no more than were spent, as others spend too."""

    def __init__(self) -> None:
        self._day = 0
        self._spent: dict[str, int] = {}

    def require(self, asked: Asked) -> None:
        """:class:`ThrottledError` for a query that cannot be paid for in any case, before any work."""
        left = _left(asked, self._spent if self._day == _today() else {})
        if (units := price(asked, repeated=False)) > left:
            raise _spent_up(units, left)

    def note(self, day: int, spent: Mapping[str, int]) -> None:
        """Remember what was found on a day."""
        if day != self._day:
            self._day, self._spent = day, {}
        self._spent |= spent


def charge(
    session: Session, payers: Payers, recent: RecentSketches, asked: Asked, named: int
) -> tuple[int, bool]:
    """Take the units of a query that names ``named`` keys; the units, and whether it is a repeat.

    :class:`ThrottledError` where the budget does not allow it: the answer must then not be given.
    """
    today, since = _today(), unix_now() - DAY_SECONDS
    least = price(asked, repeated=False) + NAMED * named
    before = _spend(session, asked.payers, today, least)  # first: it locks out other queries of these payers
    payers.note(today, before)
    repeated = recent.holds_near(session, asked, since)
    units = price(asked, repeated)
    if units > (left := _left(asked, before)):
        raise _spent_up(units, left)
    units += NAMED * named
    if units > least:
        _spend(session, asked.payers, today, units - least)
    return units, repeated


def _left(asked: Asked, spent: Mapping[str, int]) -> int:
    """Units that both payers can still give."""
    return min(asked.limit - spent.get(asked.scope, 0), ACTOR_UNITS - spent.get(asked.actor, 0))


def _spent_up(units: int, left: int) -> ThrottledError:
    return ThrottledError(
        f"this query costs {units} units and {max(left, 0)} are left today.",
        "Ask about several images of one source as a set, or go on tomorrow (UTC).",
        DAY_SECONDS - unix_now() % DAY_SECONDS,
    )


def spent(session: Session, scope: str) -> int:
    """Units that a scope has spent today."""
    query = select(_BUDGET.c.spent).where(_BUDGET.c.scope == scope, _BUDGET.c.day == _today())
    return session.execute(query).scalar() or 0


def _today() -> int:
    return unix_now() // DAY_SECONDS


# Built once: every query runs them.
_BUDGET, _LOG = table(ResolveBudget), table(Resolution)
# Locked in one order, so that no two wait for each other.
_LOCKED = (
    select(_BUDGET.c.scope)
    .where(_BUDGET.c.scope.in_([bindparam("payer"), bindparam("other")]), _BUDGET.c.day == bindparam("today"))
    .order_by(_BUDGET.c.scope)
    .with_for_update()
    .cte("locked")
)
_SPEND = (
    update(_BUDGET)
    .where(_BUDGET.c.scope.in_(select(_LOCKED.c.scope)), _BUDGET.c.day == bindparam("today"))
    .values(spent=_BUDGET.c.spent + bindparam("units", type_=BigInteger))
    .returning(_BUDGET.c.scope, _BUDGET.c.spent)
)
_LOGGED = (
    select(_LOG.c.id, _LOG.c.asked_at, _LOG.c.sketches)
    .where(
        _LOG.c.scope == bindparam("payer"),
        _LOG.c.model_id == bindparam("model"),
        _LOG.c.id > bindparam("last"),
        _LOG.c.asked_at >= bindparam("since"),
    )
    .order_by(_LOG.c.id)
)


def _spend(session: Session, scopes: Set[str], day: int, units: int) -> dict[str, int]:
    """Add ``units`` to what each of these payers spent on a day; what they had spent before.

    Their rows are this transaction's own until it ends.
    """
    rows = session.execute(_SPEND, {"payer": min(scopes), "other": max(scopes), "today": day, "units": units})
    before = {row.scope: row.spent - units for row in rows}
    missing = scopes - before.keys()
    for scope in sorted(missing):
        try:
            with session.begin_nested():
                session.execute(insert(_BUDGET).values(scope=scope, day=day, spent=0))
        except DuplicateError:  # somebody else made it first
            pass
    return before | _spend(session, missing, day, units) if missing else before
