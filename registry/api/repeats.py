"""Idempotency keys: a request that is sent again is answered again, not done again.

    with repeats.guarded(home, principal) as guard:
        if guard.answer is not None:
            return guard.answer
        documents = issuer.issue(1, also=lambda session, made: guard.keep(session, 201, reply(made)))

The answer is stored in the transaction that does the work, so both exist or neither. Of two equal requests
at once, the second finds the first one's row when it inserts its own, and is answered from it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from flask import Response, make_response, request
from pydantic import BaseModel, Field, StringConstraints
from sqlalchemy import ForeignKey, Integer
from sqlalchemy.exc import IntegrityError as DuplicateError
from sqlalchemy.orm import Mapped, Session, mapped_column

from registry.api.problems import Problem
from registry.db import Base, unix_now
from registry.home import Home

HEADER = "Idempotency-Key"
_KEY = re.compile(r"[\x21-\x7e]{1,128}")


class IdempotencyKey(Base):
    """The answer to a request that must not be done twice."""

    __tablename__ = "idempotency_key"

    organisation_id: Mapped[int] = mapped_column(ForeignKey("organisation.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[bytes]
    status: Mapped[int] = mapped_column(Integer())
    body: Mapped[str]
    created_at: Mapped[int]


class RepeatHeader(BaseModel):
    """The header of requests that may be sent again."""

    idempotency_key: Annotated[
        Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[!-~]+$")] | None,
        Field(
            alias=HEADER,
            description="Any text of your choice, new for each new request: sent again, the request is "
            "answered as the first time and not done again.",
        ),
    ] = None


@dataclass
class Guard:
    """One request under its key, or without one: then nothing is kept."""

    home: Home
    organisation: int
    key: str | None
    digest: bytes
    answer: Response | None = None

    def keep(self, session: Session, status: int, body: str) -> None:
        """Store the JSON answer within the transaction that makes it true."""
        if self.key is None:
            return
        session.add(
            IdempotencyKey(
                organisation_id=self.organisation,
                key=self.key,
                request_sha256=self.digest,
                status=status,
                body=body,
                created_at=unix_now(),
            )
        )
        session.flush()

    def find(self) -> Response | None:
        """The stored answer; :class:`Problem` 422 where the key belongs to another request."""
        if self.key is None:
            return None
        with self.home.database.read() as session:
            row = session.get(IdempotencyKey, (self.organisation, self.key))
        if row is None:
            return None
        if row.request_sha256 != self.digest:
            raise Problem(422, f"this {HEADER} was used for another request.", "Choose a new one.")
        response = make_response(row.body, row.status)
        response.mimetype = "application/json"
        response.headers["Idempotency-Replayed"] = "true"
        return response


@contextmanager
def guarded(home: Home, organisation: int) -> Iterator[Guard]:
    """The guard of the present request; its ``answer`` is there before the block if it was done before.

    Where an equal request at the same moment wins, the block's transaction fails on its insert and is rolled
    back, and :class:`Repeated` carries the winner's answer to :func:`respond_again`.
    """
    key = request.headers.get(HEADER)
    if key is not None and not _KEY.fullmatch(key):
        raise Problem(422, f"{HEADER} must have 1 to 128 printable characters.", "Choose another.")
    said = b"\0".join((request.method.encode(), request.path.encode(), request.get_data(cache=True)))
    guard = Guard(home, organisation, key, hashlib.sha256(said).digest())
    guard.answer = guard.find()
    try:
        yield guard
    except DuplicateError:
        won = guard.find()
        if won is None:
            raise
        raise Repeated(won) from None


class Repeated(Exception):  # noqa: N818  (not an error: the request was answered before)
    """Carries the answer of an equal request that finished first."""

    def __init__(self, response: Response) -> None:
        super().__init__("answered before")
        self.response = response


def respond_again(repeated: Repeated) -> Response:
    """The error handler of :class:`Repeated`."""
    return repeated.response
