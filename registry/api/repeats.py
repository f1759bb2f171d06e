"""Idempotency keys: a request that is sent again is answered again, not done again.

    def issue(keep: Keep) -> str:
        with home.database.write() as session:
            ...
            keep(session, text)
        return text

    return repeats.once(home, organisation, 201, issue)

The answer is stored in the transaction that does the work, so both exist or neither. A repeat finds the row
when it would insert its own: its work is not done and it is answered from there, also where the state of the
registry would refuse it by now. The usual request, which is new, pays for nothing but the insert. Answers are
kept for KEPT_DAYS; a running `registry worker` deletes older ones (:func:`forget_old`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Annotated, Any

from flask import Response, make_response, request
from pydantic import Field, StringConstraints
from sqlalchemy import CursorResult, ForeignKey, Integer, TextClause, text
from sqlalchemy.orm import Mapped, Session, mapped_column

from registry.api.problems import Problem
from registry.api.schemas import Described
from registry.db import DAY_SECONDS, Base, table, unix_now
from registry.errors import RegistryError, StateError
from registry.home import Home

HEADER = "Idempotency-Key"
KEPT_DAYS = 30
_FORGOTTEN_AT_ONCE = 10_000  # rows of one transaction
_KEY = re.compile(r"[\x21-\x7e]{1,128}")


class IdempotencyKey(Base):
    """The answer to a request that must not be done twice."""

    __tablename__ = "idempotency_key"

    organisation_id: Mapped[int] = mapped_column(ForeignKey("organisation.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[bytes]
    status: Mapped[int] = mapped_column(Integer())
    body: Mapped[str]
    created_at: Mapped[int] = mapped_column(index=True)


class RepeatHeader(Described):
    """The header of requests that may be sent again."""

    idempotency_key: Annotated[
        Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[!-~]+$")] | None,
        Field(
            alias=HEADER,
            description="Any text of your choice, new for each new request: sent again, the request is "
            f"answered as the first time and not done again, for {KEPT_DAYS} days.",
        ),
    ] = None


Row = dict[str, Any]


class Keep:
    """Stores the JSON answer to one request within the transaction that makes it true."""

    def __init__(self, request_row: Row | None) -> None:
        self._row = request_row

    def __call__(self, session: Session, body: str) -> None:
        """:class:`StateError`, which leaves the transaction usable, if the request was answered before."""
        (refusal,) = keep_all(session, [self.row(body)])
        if refusal is not None:
            raise refusal

    def row(self, body: str) -> Row | None:
        """The answer as :func:`keep_all` takes it: ``None`` for a request without an idempotency key."""
        return None if self._row is None else {**self._row, "body": body, "created_at": unix_now()}


def keep_all(session: Session, rows: Sequence[Row | None]) -> list[StateError | None]:
    """Store several answers in one statement: for each the refusal if its request was answered before."""
    given = [row for row in rows if row is not None]
    stored: set[tuple[int, str]] = set()
    if given:
        values = {f"{name}_{i}": value for i, row in enumerate(given) for name, value in row.items()}
        stored = {(row.organisation_id, row.key) for row in session.execute(_keep(len(given)), values)}
    refusals: list[StateError | None] = [None] * len(rows)
    for i, row in enumerate(rows):
        if row is None:
            continue
        named = (row["organisation_id"], row["key"])
        if named not in stored:
            refusals[i] = StateError(f"this {HEADER} was used before.")
        stored.discard(named)  # of two equal requests at once the first one counts
    return refusals


@lru_cache
def _keep(count: int) -> TextClause:
    names = table(IdempotencyKey).columns.keys()
    values = ", ".join(f"({', '.join(f':{name}_{i}' for name in names)})" for i in range(count))
    return text(
        f"INSERT INTO idempotency_key ({', '.join(names)}) VALUES {values} "  # noqa: S608  (no input in it)
        "ON CONFLICT (organisation_id, key) DO NOTHING RETURNING organisation_id, key"
    )


_OLD = text(
    "DELETE FROM idempotency_key WHERE (organisation_id, key) IN "
    "(SELECT organisation_id, key FROM idempotency_key WHERE created_at < :before LIMIT :most)"
)


def once(home: Home, organisation: int, status: int, work: Callable[[Keep], str]) -> Response:
    """Do ``work``, whose JSON is the answer, under the idempotency key of the present request if it has one.

    :class:`Problem` 409 for a key that belongs to another request.
    """
    key = request.headers.get(HEADER)
    if key is None:
        return _json(work(Keep(None)), status)
    if not _KEY.fullmatch(key):
        raise Problem(422, f"{HEADER} must have 1 to 128 printable characters.", "Choose another.")
    said = b"\0".join((request.method.encode(), request.full_path.encode(), request.get_data(cache=True)))
    digest = hashlib.sha256(said).digest()

    row = {"organisation_id": organisation, "key": key, "request_sha256": digest, "status": status}
    try:
        return _json(work(Keep(row)), status)
    except RegistryError:
        with home.database.read() as session:
            known = session.get(IdempotencyKey, (organisation, key))
        if known is None:
            raise
        return _again(known, digest)


def forget_old(home: Home) -> int:
    """Delete the answers that are older than KEPT_DAYS; how many there were."""
    old = {"before": unix_now() - KEPT_DAYS * DAY_SECONDS, "most": _FORGOTTEN_AT_ONCE}
    forgotten, deleted = 0, _FORGOTTEN_AT_ONCE
    while deleted == _FORGOTTEN_AT_ONCE:
        with home.database.write() as session:
            found = session.execute(_OLD, old)
            assert isinstance(found, CursorResult)
            deleted = found.rowcount
        forgotten += deleted
    return forgotten


def _again(known: IdempotencyKey, digest: bytes) -> Response:
    if known.request_sha256 != digest:
        raise Problem(409, f"this {HEADER} was used for another request.", "Choose a new one.")
    response = _json(known.body, known.status)
    response.headers["Idempotency-Replayed"] = "true"
    return response


def _json(body: str, status: int) -> Response:
    response = make_response(body, status)
    response.mimetype = "application/json"
    return response
