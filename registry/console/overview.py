"""Figures of the dashboard, each by an index, whatever the size of the tables.

    figures = overview(home, principal)
    figures.issued, figures.daily.days, figures.warnings

Rows are numbered as time goes on, so the first row of a day is found by halving (:func:`first_since`), and
what a past day holds is counted once by each process: it never changes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flask import current_app, url_for
from sqlalchemy import Select, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from registry.accounts import people
from registry.accounts.models import ApiToken
from registry.accounts.permissions import Permission, Principal
from registry.accounts.tokens import within_reach
from registry.cases import service as cases
from registry.copies.models import Download
from registry.db import DAY_SECONDS, unix_now
from registry.generators.models import Model
from registry.home import Home
from registry.jobs.models import Job
from registry.jobs.service import State
from registry.keys.models import KeyCount, UserKey
from registry.ledger import service as ledger
from registry.trust import service as trust

DAYS = 30
SOON = 30 * DAY_SECONDS
"""Certificates that expire within this time are worth a warning."""
TOKENS_SOON = 14 * DAY_SECONDS
RECENT_JOBS = 7 * DAY_SECONDS
_MOST_KEPT = 20_000


@dataclass(frozen=True)
class Concern:
    """Something to look at: how bad (warn or bad), what, and where to do something about it."""

    kind: str
    text: str
    url: str


@dataclass(frozen=True)
class Daily:
    """Copies issued and delivered on each of the last days (UTC)."""

    days: Sequence[str]
    issued: Sequence[int]
    delivered: Sequence[int]


@dataclass(frozen=True)
class Overview:
    """What the dashboard shows."""

    models: int
    issued: int
    daily: Daily
    cases: int | None
    running: int
    failed: int
    head: ledger.Head
    warnings: Sequence[Concern]


def overview(home: Home, who: Principal) -> Overview:
    """The figures of a principal's organisation."""
    owner, now = who.organisation, unix_now()
    with home.database.read() as session:
        models, issued = session.execute(
            select(func.count(Model.id), func.coalesce(func.sum(KeyCount.issued), 0))
            .outerjoin(KeyCount, KeyCount.model_id == Model.id)
            .where(Model.organisation_id == owner)
        ).one()
        daily = _daily(session, owner, now)
        opened = None
        if "case_pages.index" in current_app.view_functions and Permission.RESOLVE in who.permissions:
            opened = _count(session, cases.select_cases(owner, cases.Status.OPEN))
        working = (State.QUEUED, State.RUNNING)
        running = _count(session, select(Job.id).where(Job.organisation_id == owner, Job.state.in_(working)))
        failed = _count(
            session,
            select(Job.id).where(
                Job.organisation_id == owner, Job.state == State.FAILED, Job.ended_at >= now - RECENT_JOBS
            ),
        )
        head = ledger.verify_head(session, home.identity)
        warnings = [*_warnings(session, who, now, failed, head)]
        operator = people.is_operator(session, owner)
        rooted = operator and trust.exists(session)
    if rooted and Permission.MANAGE_ORGANISATIONS in who.permissions:
        warnings += [
            Concern(
                "bad" if "has expired" in role.warning else "warn",
                f"Trust root, {role.role}: {role.warning}.",
                url_for("trust_pages.index"),
            )
            for role in trust.status(home)
            if role.warning
        ]
    return Overview(models, int(issued), daily, opened, running, failed, head, warnings)


def _warnings(session: Session, who: Principal, now: int, failed: int, head: ledger.Head) -> list[Concern]:
    found = []
    if head.problem:
        found.append(Concern("bad", f"The ledger: {head.problem}", url_for("ledger_pages.index")))
    if failed:
        jobs = "1 job" if failed == 1 else f"{failed} jobs"
        found.append(
            Concern("warn", f"{jobs} failed in the last week.", url_for("job_pages.index", state="failed"))
        )
    expiring = _count(
        session,
        select(UserKey.id).where(
            UserKey.organisation_id == who.organisation,
            UserKey.expires_at.is_not(None),
            UserKey.expires_at.between(now, now + SOON),
        ),
        most=1_000,
    )
    if expiring:
        copies = "1 copy expires" if expiring == 1 else f"{_up_to(expiring)} copies expire"
        found.append(
            Concern(
                "warn",
                f"{copies} within 30 days; expired copies are no longer delivered.",
                url_for("copy_pages.index", state="expiring"),
            )
        )
    tokens = select(ApiToken.id).where(
        ApiToken.organisation_id == who.organisation,
        ApiToken.revoked_at.is_(None),
        ApiToken.expires_at.between(now, now + TOKENS_SOON),
        within_reach(who),
    )
    if soon := _count(session, tokens):
        these = "1 API token expires" if soon == 1 else f"{soon} API tokens expire"
        found.append(Concern("warn", f"{these} within 14 days.", url_for("admin_pages.list_tokens")))
    return found


def _up_to(number: int) -> str:
    return "1,000 or more" if number >= 1_000 else str(number)


def _count(session: Session, query: Select[Any], most: int | None = None) -> int:
    inner = query.limit(most) if most is not None else query
    return session.execute(select(func.count()).select_from(inner.subquery())).scalar_one()


# --- counts by day ------------------------------------------------------------------------------------------


class _Kept:
    """Counts of past days, by what was counted, whose, and the day."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: OrderedDict[tuple[str, str, int, int], int] = OrderedDict()

    def get(self, key: tuple[str, str, int, int]) -> int | None:
        with self._lock:
            return self._counts.get(key)

    def put(self, key: tuple[str, str, int, int], count: int) -> None:
        with self._lock:
            self._counts[key] = count
            while len(self._counts) > _MOST_KEPT:
                self._counts.popitem(last=False)


_kept = _Kept()


def _daily(session: Session, owner: int, now: int) -> Daily:
    today = now // DAY_SECONDS
    days = list(range(today - DAYS + 1, today + 1))
    issued = _per_day(session, "issued", UserKey.ledger_index, UserKey.issued_at, UserKey, owner, days)
    delivered = _per_day(session, "delivered", Download.id, Download.started_at, Download, owner, days)
    names = [datetime.fromtimestamp(day * DAY_SECONDS, UTC).date().isoformat() for day in days]
    return Daily(names, issued, delivered)


def _per_day(
    session: Session,
    what: str,
    number: InstrumentedAttribute[int],
    time: InstrumentedAttribute[int],
    entity: type[UserKey] | type[Download],
    owner: int,
    days: Sequence[int],
) -> list[int]:
    """Rows of one organisation on each day; counts of the past are kept, today's is made anew."""
    place = str(session.get_bind())
    beyond = (session.execute(select(func.max(number))).scalar() or 0) + 1

    def bound(day: int) -> int:
        """The first row of a day; it stays that once there is one."""
        key = (place, f"{what} from", owner, day)
        found = _kept.get(key)
        if found is None:
            found = first_since(session, number, time, day * DAY_SECONDS)
            if found < beyond:
                _kept.put(key, found)
        return found

    counts = []
    for day in days:
        key, past = (place, what, owner, day), day < days[-1]
        count = _kept.get(key) if past else None
        if count is None:
            within = [entity.organisation_id == owner, number >= bound(day)]
            within += [number < bound(day + 1)] if past else []
            count = session.execute(select(func.count()).select_from(entity).where(*within)).scalar_one()
            if past:
                _kept.put(key, count)
        counts.append(count)
    return counts


def first_since(
    session: Session, number: InstrumentedAttribute[int], time: InstrumentedAttribute[int], moment: int
) -> int:
    """The least ``number`` whose row is of ``moment`` or later, among rows that are numbered in time's order.

    One more than the greatest number where all are earlier. Some twenty look-ups in the index of ``number``.
    """
    least, greatest = (session.execute(select(end(number))).scalar() for end in (func.min, func.max))
    low, high = least or 0, (greatest or 0) + 1
    while low < high:
        middle = (low + high) // 2
        row = session.execute(
            select(number, time).where(number >= middle).order_by(number).limit(1)
        ).one_or_none()
        if row is None or row[1] >= moment:
            high = middle
        else:
            low = row[0] + 1
    return int(low)
