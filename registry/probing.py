"""Whoever asks for what belongs to another organisation is told that it does not exist, and it is logged.

    probing.install(app, home)

The event is the operator's to read: in the log of the one who asked it would confirm that the id exists. It
is looked up after the answer was sent, so that the answer takes as long as for an id that nobody has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import structlog
from flask import Flask, Response, g, request
from sqlalchemy import Select, select
from sqlalchemy.exc import SQLAlchemyError

from registry.accounts import security
from registry.accounts.models import ApiToken
from registry.accounts.security import Event, Source
from registry.cases.models import Case
from registry.copies.models import Download, DownloadLink
from registry.generators.models import Model
from registry.home import Home
from registry.jobs.models import Job
from registry.keys.models import UserKey
from registry.resolve.models import ResolveGrant, Unmasking
from verifier.certificate import normal_key_id

LONGEST = 100
"""Characters of an id; whatever is longer is none."""

log = structlog.get_logger(__name__)


def _of_key(value: str) -> Select[int]:
    key_id = bytes.fromhex(normal_key_id(value))
    return (
        select(Model.organisation_id)
        .join(UserKey, UserKey.model_id == Model.id)
        .where(UserKey.key_id == key_id)
    )


def _of_link(value: str) -> Select[int]:
    return (
        select(Model.organisation_id)
        .join(UserKey, UserKey.model_id == Model.id)
        .join(DownloadLink, DownloadLink.user_key_id == UserKey.id)
        .where(DownloadLink.link_id == value)
    )


def _of_grant(value: str) -> Select[int]:
    grants = select(Model.organisation_id).join(ResolveGrant, ResolveGrant.model_id == Model.id)
    return grants.where(ResolveGrant.grant_id == value)


def _of_model(value: str) -> Select[int]:
    name = value.rpartition("/")[2].partition("@")[0]
    return select(Model.organisation_id).where(Model.name == name)


OWNERS: dict[str, Callable[[str], Select[int]]] = {
    "key_id": _of_key,
    "copy_id": _of_key,
    "model": _of_model,
    "case_id": lambda value: select(Case.organisation_id).where(Case.case_id == value),
    "download_id": lambda value: select(Download.organisation_id).where(Download.download_id == value),
    "link_id": _of_link,
    "job_id": lambda value: select(Job.organisation_id).where(Job.job_id == value),
    "grant_id": _of_grant,
    "unmasking_id": lambda value: select(Unmasking.owner_id).where(Unmasking.unmasking_id == value),
    "prefix": lambda value: select(ApiToken.organisation_id).where(ApiToken.prefix == value),
}
"""By the name of a path parameter or a field of a body: whose is the thing with this id?"""


def install(app: Flask, home: Home) -> None:
    """Watch the application's answers."""

    def watch(response: Response) -> Response:
        if response.status_code == 404 and g.get("principal") is not None:
            asked = list(_ids())
            if asked:
                source = security.present()
                response.call_on_close(partial(_look, home, source, g.principal.organisation, asked))
        return response

    app.after_request(watch)


def _ids() -> Iterator[tuple[str, str]]:
    """The ids in a request's path and in its JSON body."""
    body = request.get_json(silent=True) if request.is_json else None
    for given in (request.view_args or {}, body if isinstance(body, dict) else {}):
        for name, value in given.items():
            if name in OWNERS and isinstance(value, str) and 0 < len(value) <= LONGEST:
                yield name, value


def _look(home: Home, source: Source, organisation: int, asked: list[tuple[str, str]]) -> None:
    for name, value in asked:
        try:
            with home.database.read() as session:
                owners: set[Any] = set(session.execute(OWNERS[name](value)).scalars())
        except (ValueError, SQLAlchemyError) as error:
            log.info("an id was not looked up", kind=name, error=type(error).__name__)
            continue
        if owners and organisation not in owners:
            security.log(
                home, Event.FOREIGN_ID, source=source, organisation=security.OPERATOR, **{name: value}
            )
