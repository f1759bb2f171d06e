"""Organisations, people, API tokens and the security log over HTTP: what administrators look after."""

from __future__ import annotations

from typing import Annotated, Any

from flask_openapi3 import APIBlueprint, Tag
from pydantic import Field, StringConstraints
from sqlalchemy import select

from registry.accounts import factors, people, security, sessions, tokens
from registry.accounts.account_routes import Label
from registry.accounts.models import ApiToken, Organisation, Person, SecurityEvent
from registry.accounts.permissions import Permission, Role
from registry.accounts.security import Event
from registry.api.access import home, principal, requires
from registry.api.document import problem
from registry.api.pages import PageQuery, page
from registry.api.schemas import WHOLE, Body, Email, Name, Path, Reply
from registry.errors import ForbiddenError

organisation_routes = APIBlueprint(
    "organisations",
    __name__,
    url_prefix="/api/v1/organisations",
    abp_tags=[Tag(name="organisations", description="Distributors and auditors on this registry.")],
)
people_routes = APIBlueprint(
    "people",
    __name__,
    url_prefix="/api/v1/people",
    abp_tags=[Tag(name="people", description="People of your organisation.")],
)
token_routes = APIBlueprint(
    "tokens",
    __name__,
    url_prefix="/api/v1/tokens",
    abp_tags=[Tag(name="tokens", description="API tokens.")],
)
security_routes = APIBlueprint(
    "security",
    __name__,
    url_prefix="/api/v1/security-events",
    abp_tags=[Tag(name="security", description="The security log.")],
)

LoginName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,62}$")]
RoleName = Annotated[Role, Field(strict=False)]
Scope = Annotated[Permission, Field(strict=False)]

_TAKEN: dict[str | int, Any] = {409: problem("The name or address is taken")}


class OrganisationReply(Reply):
    """An organisation."""

    name: str
    created_at: str


class OrganisationPage(Reply):
    """Organisations, newest first."""

    items: list[OrganisationReply]
    next: str | None


class PersonReply(Reply):
    """A person."""

    name: str
    email: str | None
    role: str
    created_at: str
    disabled_at: str | None


class PersonPage(Reply):
    """People, newest first."""

    items: list[PersonReply]
    next: str | None


class InvitedReply(Reply):
    """A person and the secret with which he sets his password: shown once, to be handed to him safely."""

    person: PersonReply
    invitation: str


class NewOrganisationReply(InvitedReply):
    """An organisation with its first administrator."""

    organisation: OrganisationReply


class NewPerson(Body):
    """A person to invite."""

    name: LoginName
    role: RoleName
    email: Email | None = None


class FirstAdmin(Body):
    """The first administrator of an organisation."""

    name: LoginName
    email: Email | None = None


class NewOrganisation(Body):
    """An organisation to add."""

    name: Name
    admin: FirstAdmin


class PersonChange(Body):
    """What to change; what is absent stays."""

    role: RoleName | None = None
    disabled: bool | None = None


class PersonPath(Path):
    """Which person."""

    name: LoginName


class TokenReply(Reply):
    """A token without its secret."""

    prefix: str
    name: str
    role: str
    scopes: list[str] = Field(description="What it is restricted to; empty for all that its role may do.")
    created_at: str
    expires_at: str
    revoked_at: str | None
    last_used_at: str | None


class TokenPage(Reply):
    """Tokens, newest first."""

    items: list[TokenReply]
    next: str | None


class NewTokenReply(TokenReply):
    """A new token with its secret, which is shown this once."""

    token: str


class NewToken(Body):
    """A token to create."""

    name: Label
    role: RoleName
    scopes: Annotated[list[Scope], Field(max_length=50, default_factory=list)]
    expires_days: Annotated[int, Field(ge=1, le=tokens.LONGEST_DAYS), WHOLE] = 90


class TokenPath(Path):
    """Which token."""

    prefix: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12}$")]


class EventReply(Reply):
    """Something that happened."""

    id: int
    at: str
    kind: str
    actor: str
    address: str | None
    request_id: str | None
    detail: dict[str, Any]


class EventPage(Reply):
    """Events, newest first."""

    items: list[EventReply]
    next: str | None


class EventQuery(PageQuery):
    """Which events."""

    kind: Annotated[str, StringConstraints(max_length=64, pattern=r"^[a-z.-]+$")] | None = None


@organisation_routes.get("", responses={200: OrganisationPage})
@requires(Permission.READ_ACCOUNT)
def list_organisations(query: PageQuery) -> dict[str, Any]:
    """Your organisation; for the operator's administrators, all."""
    who = principal()
    chosen = select(Organisation)
    with home().database.read() as session:
        everyone = Permission.MANAGE_ORGANISATIONS in who.permissions
        if not (everyone and people.is_operator(session, who.organisation)):
            chosen = chosen.where(Organisation.id == who.organisation)
        rows, more = page(session, chosen, Organisation.id, query)
        return {"items": [people.describe_organisation(row) for row in rows], "next": more}


@organisation_routes.post("", responses={201: NewOrganisationReply, **_TAKEN})
@requires(Permission.MANAGE_ORGANISATIONS)
def add_organisation(body: NewOrganisation) -> tuple[dict[str, Any], int]:
    """Add an organisation with its first administrator; for the operator's administrators."""
    with home().database.write() as session:
        if not people.is_operator(session, principal().organisation):
            raise ForbiddenError(
                "only the operator's organisation adds others.", "Ask the operator of this registry."
            )
        added = people.add_organisation(session, body.name)
        admin = people.add_person(session, added.id, body.admin.name, Role.ADMIN, body.admin.email)
        invitation = people.invite(session, admin)
        return {
            "organisation": people.describe_organisation(added),
            "person": people.describe(admin),
            "invitation": invitation,
        }, 201


@people_routes.get("", responses={200: PersonPage})
@requires(Permission.MANAGE_PEOPLE)
def list_people(query: PageQuery) -> dict[str, Any]:
    """People of your organisation."""
    chosen = select(Person).where(Person.organisation_id == principal().organisation)
    with home().database.read() as session:
        rows, more = page(session, chosen, Person.id, query)
        return {"items": [people.describe(row) for row in rows], "next": more}


@people_routes.post("", responses={201: InvitedReply, **_TAKEN})
@requires(Permission.MANAGE_PEOPLE)
def add_person(body: NewPerson) -> tuple[dict[str, Any], int]:
    """Invite a person to your organisation."""
    with home().database.write() as session:
        added = people.add_person(session, principal().organisation, body.name, body.role, body.email)
        return {"person": people.describe(added), "invitation": people.invite(session, added)}, 201


@people_routes.patch("/<name>", responses={200: PersonReply, 409: problem("The last administrator")})
@requires(Permission.MANAGE_PEOPLE)
def change_person(path: PersonPath, body: PersonChange) -> dict[str, Any]:
    """Change a person's role, or disable or enable the account. It takes effect at once."""
    with home().database.write() as session:
        person = people.get_person(session, path.name, principal().organisation)
        if body.role is not None:
            people.change_role(session, person, body.role)
        if body.disabled is not None:
            (people.disable if body.disabled else people.enable)(session, person)
        return people.describe(person)


@people_routes.post(
    "/<name>/invitation", responses={201: InvitedReply, 409: problem("The account is disabled")}
)
@requires(Permission.MANAGE_PEOPLE)
def invite_again(path: PersonPath) -> tuple[dict[str, Any], int]:
    """A new invitation, for who lost the first one or his password."""
    with home().database.write() as session:
        person = people.get_person(session, path.name, principal().organisation)
        return {"person": people.describe(person), "invitation": people.invite(session, person)}, 201


@people_routes.delete("/<name>/factors", responses={204: None})
@requires(Permission.MANAGE_PEOPLE)
def remove_factors(path: PersonPath) -> tuple[str, int]:
    """Remove the second factors of a person who lost them, and sign him out."""
    with home().database.write() as session:
        person = people.get_person(session, path.name, principal().organisation)
        factors.remove_all(session, person.id)
        sessions.end_all(session, person.id)
        security.record(session, Event.FACTORS_REMOVED, person=person.name)
    return "", 204


@token_routes.get("", responses={200: TokenPage})
@requires(Permission.READ_ACCOUNT)
def list_tokens(query: PageQuery) -> dict[str, Any]:
    """Your own tokens; for administrators, all of the organisation."""
    who = principal()
    chosen = select(ApiToken).where(ApiToken.organisation_id == who.organisation, tokens.within_reach(who))
    with home().database.read() as session:
        rows, more = page(session, chosen, ApiToken.id, query)
        return {"items": [tokens.describe(row) for row in rows], "next": more}


@token_routes.post("", responses={201: NewTokenReply})
@requires(Permission.WRITE_ACCOUNT)
def create_token(body: NewToken) -> tuple[dict[str, Any], int]:
    """Create a token, which can do no more than you. A token itself needs `people:write` for it."""
    who = principal()
    if who.token is not None:
        who.require(Permission.MANAGE_PEOPLE)
    with home().database.write() as session:
        row, secret = tokens.create(
            session,
            who.organisation,
            body.name,
            body.role,
            scopes=set(body.scopes),
            expires_days=body.expires_days,
            person=who.person,
            creator=who,
        )
        return {**tokens.describe(row), "token": secret}, 201


@token_routes.delete("/<prefix>", responses={204: None})
@requires(Permission.WRITE_ACCOUNT)
def revoke_token(path: TokenPath) -> tuple[str, int]:
    """Revoke one of your tokens; administrators, any of the organisation."""
    who = principal()
    with home().database.write() as session:
        tokens.get_token(session, who.organisation, path.prefix, who)
        tokens.revoke(session, who.organisation, path.prefix)
    return "", 204


@security_routes.get("", responses={200: EventPage})
@requires(Permission.READ_SECURITY_LOG)
def list_events(query: EventQuery) -> dict[str, Any]:
    """The security log of your organisation; for the operator's, with what strangers did."""
    organisation = principal().organisation
    with home().database.read() as session:
        operator = people.is_operator(session, organisation)
        chosen = security.events(organisation, operator=operator, kind=query.kind)
        rows, more = page(session, chosen, SecurityEvent.id, query)
        return {"items": [security.describe(row) for row in rows], "next": more}
