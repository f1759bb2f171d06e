"""Who may resolve on whose models, and under which names he sees keys.

    grant = create(home, principal, "flowers", "Auditors Ltd", expires_days=90)
    target = find_target(session, organisation, "acme/flowers@1")       # own, or granted
    target, moment = find_now(session, organisation, "acme/flowers@1")  # with what a verdict is held against
    target.pseudonym(home.master, key_id)

A pseudonym is ``HMAC-SHA-256(the grant's secret, key id)``, cut to the length of a key id: the same key has
the same pseudonym in all answers under one grant, and another under every other.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Select, String, and_, bindparam, func, or_, select
from sqlalchemy.orm import Session

from registry.accounts import security
from registry.accounts.models import Organisation
from registry.accounts.permissions import Principal
from registry.attribution.models import NetworkVersion
from registry.db import DAY_SECONDS, unix_now
from registry.errors import NotFoundError, StateError
from registry.generators import service as generators
from registry.generators.models import Model
from registry.home import Home
from registry.keys.models import KeyCount
from registry.ledger.models import LedgerHead
from registry.resolve.budgets import GRANT_UNITS, OWN_UNITS
from registry.resolve.models import ResolveGrant
from registry.sealing import MasterKey
from verifier.bundle import utc
from verifier.phi import KEY_ID_BYTES

GRANTED, WITHDRAWN = "grant.created", "grant.withdrawn"
LONGEST_DAYS = 3660
MOST_UNITS = 1_000_000


@dataclass(frozen=True)
class Target:
    """A model that an organisation may resolve on, and why: its own where there is no grant."""

    model: Model
    owner: str
    grant: ResolveGrant | None

    @property
    def label(self) -> str:
        """How the model is named in requests."""
        return self.model.label if self.grant is None else f"{self.owner}/{self.model.label}"

    @property
    def scope(self) -> str:
        """Whose budget pays."""
        if self.grant is None:
            return f"organisation/{self.model.organisation_id}"
        return f"grant/{self.grant.grant_id}"

    @property
    def daily_units(self) -> int:
        """That budget's units a day."""
        return OWN_UNITS if self.grant is None else self.grant.daily_units

    def pseudonym(self, master: MasterKey, key_id: bytes) -> str:
        """The name of a key for whoever asks: its own id for the owner."""
        if self.grant is None:
            return key_id.hex()
        secret = master.open(self.grant.sealed_secret, _purpose(self.grant.grant_id))
        return hmac.digest(secret, key_id, "sha256")[:KEY_ID_BYTES].hex()


@dataclass(frozen=True)
class Moment:
    """What a verdict is held against: the model's networks and keys so far, and the size of the ledger."""

    networks: int
    keys: int
    ledger: int


def targets(organisation: int) -> Select[Model, str, ResolveGrant]:
    """The models that an organisation may resolve on, its own and granted ones, with owner and grant."""
    return _TARGETS.params(organisation=organisation, now=unix_now())


def _in_force(now: int | ColumnElement[int]) -> Sequence[ColumnElement[bool]]:
    return (
        ResolveGrant.withdrawn_at.is_(None),
        or_(ResolveGrant.expires_at.is_(None), ResolveGrant.expires_at > now),
    )


def _asker() -> ColumnElement[int]:
    return bindparam("organisation", type_=BigInteger)


# Built once: every query asks for its target.
_TARGETS = (
    select(Model, Organisation.name, ResolveGrant)
    .join(Organisation, Organisation.id == Model.organisation_id)
    .outerjoin(
        ResolveGrant,
        and_(
            ResolveGrant.model_id == Model.id,
            ResolveGrant.organisation_id == _asker(),
            *_in_force(bindparam("now", type_=BigInteger)),
        ),
    )
    .where(or_(Model.organisation_id == _asker(), ResolveGrant.id.is_not(None)))
)
_MOMENT = (
    select(func.count()).where(NetworkVersion.model_id == Model.id).scalar_subquery(),
    func.coalesce(select(KeyCount.issued).where(KeyCount.model_id == Model.id).scalar_subquery(), 0),
    select(LedgerHead.size).scalar_subquery(),
)
_NAMED = (
    _TARGETS.add_columns(*_MOMENT)
    .where(
        Model.name == bindparam("name", type_=String),
        or_(
            Model.version == bindparam("version", type_=BigInteger),
            bindparam("version", type_=BigInteger) == 0,
        ),
    )
    .order_by(Model.version.desc())
    .limit(1)
)
_OWN_NAMED = _NAMED.where(Model.organisation_id == _asker())
_OWNERS_NAMED = _NAMED.where(Organisation.name == bindparam("owner", type_=String))


def find_target(session: Session, organisation: int, reference: str) -> Target:
    """The model ``NAME[@VERSION]`` of the organisation itself, or ``OWNER/NAME[@VERSION]`` by a grant.

    :class:`NotFoundError` where there is none, or none for this organisation: the two look alike.
    """
    return find_now(session, organisation, reference)[0]


def find_now(session: Session, organisation: int, reference: str) -> tuple[Target, Moment]:
    """:func:`find_target`, and how far things are at this moment: one statement."""
    owner, _, model = reference.rpartition("/")
    name, _, version = model.partition("@")
    wanted: dict[str, Any] = {"organisation": organisation, "now": unix_now(), "name": name, "version": 0}
    if version:
        wanted["version"] = int(version) if version.isdecimal() else -1
    query = _OWN_NAMED
    if owner:
        query, wanted["owner"] = _OWNERS_NAMED, owner
    row = session.execute(query, wanted).one_or_none()
    if row is None:
        raise NotFoundError(
            f"no model {reference} is open to you.", "See the list of models that you may resolve on."
        )
    return Target(*row[:3]), Moment(*row[3:])


def create(
    home: Home,
    principal: Principal,
    model: str,
    organisation: str,
    *,
    daily_units: int = GRANT_UNITS,
    expires_days: int | None = None,
) -> tuple[ResolveGrant, Model]:
    """Let the organisation of this name resolve on a model of the principal's own.

    :class:`NotFoundError` for a model or organisation that does not exist, :class:`InputError` for one's
    own organisation, :class:`StateError` where a grant is in force already.
    """
    grant_id, now = secrets.token_hex(8), unix_now()
    with home.database.write() as session:
        found = generators.get_model(session, model, principal.organisation)
        session.execute(select(Model.id).where(Model.id == found.id).with_for_update())
        grantee = session.execute(
            select(Organisation).where(Organisation.name == organisation)
        ).scalar_one_or_none()
        if grantee is None:
            raise NotFoundError(f"there is no organisation {organisation}.", "Ask it how it is named here.")
        if grantee.id == principal.organisation:
            raise StateError("your own organisation needs no grant.", "Its auditors may resolve already.")
        in_force = select(ResolveGrant.id).where(
            ResolveGrant.model_id == found.id, ResolveGrant.organisation_id == grantee.id, *_in_force(now)
        )
        if session.execute(in_force).first() is not None:
            raise StateError(
                f"{organisation} has a grant on {found.label} already.", "Withdraw it first to change it."
            )
        grant = ResolveGrant(
            grant_id=grant_id,
            model_id=found.id,
            organisation_id=grantee.id,
            sealed_secret=home.master.seal(os.urandom(32), _purpose(grant_id)),
            daily_units=daily_units,
            granted_by=principal.label,
            created_at=now,
            expires_at=None if expires_days is None else now + expires_days * DAY_SECONDS,
            withdrawn_at=None,
        )
        session.add(grant)
        security.record(session, GRANTED, grant=grant_id, model=found.label, organisation_named=organisation)
    return grant, found


def withdraw(home: Home, principal: Principal, grant_id: str) -> None:
    """End a grant; one that has ended stays so. :class:`NotFoundError`."""
    with home.database.write() as session:
        grant, model, organisation = find(session, principal.organisation, grant_id)
        if grant.withdrawn_at is None:
            grant.withdrawn_at = unix_now()
            security.record(
                session, WITHDRAWN, grant=grant_id, model=model.label, organisation_named=organisation
            )


def given(organisation: int) -> Select[ResolveGrant, Model, str]:
    """The grants on an organisation's models, with the model and the name of who has them."""
    return (
        select(ResolveGrant, Model, Organisation.name)
        .join(Model, Model.id == ResolveGrant.model_id)
        .join(Organisation, Organisation.id == ResolveGrant.organisation_id)
        .where(Model.organisation_id == organisation)
    )


def find(session: Session, organisation: int, grant_id: str) -> tuple[ResolveGrant, Model, str]:
    """One of them; :class:`NotFoundError`."""
    row = session.execute(given(organisation).where(ResolveGrant.grant_id == grant_id)).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no grant {grant_id}.", "See the list of grants.")
    return row.ResolveGrant, row.Model, row.name


def describe(grant: ResolveGrant, model: Model, organisation: str) -> dict[str, Any]:
    """A grant as the API shows it to who gave it."""
    return {
        "id": grant.grant_id,
        "model": model.label,
        "organisation": organisation,
        "daily_units": grant.daily_units,
        "granted_by": grant.granted_by,
        "created_at": utc(grant.created_at),
        "expires_at": None if grant.expires_at is None else utc(grant.expires_at),
        "withdrawn_at": None if grant.withdrawn_at is None else utc(grant.withdrawn_at),
    }


def _purpose(grant_id: str) -> str:
    return f"resolve-grant/{grant_id}"
