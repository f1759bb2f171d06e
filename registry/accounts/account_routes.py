"""A person's own account over HTTP: password, second factors, linked identities.

All of it is for a person who is signed in, never for a token, so that a token that leaked changes nothing
that its owner signs in with. What adds or removes a key of the account needs a sign-in of the last minutes.
"""

from __future__ import annotations

from typing import Annotated, Any

from flask import Response, request
from flask_openapi3 import APIBlueprint, Tag
from pydantic import Field, StringConstraints
from sqlalchemy.orm import Session

from registry.accounts import (
    factors,
    lockout,
    oidc,
    passkeys,
    passwords,
    people,
    security,
    sessions,
)
from registry.accounts.browser import count_sign_in, reply, signed_in_person, site
from registry.accounts.models import Organisation, Person
from registry.accounts.permissions import Permission
from registry.accounts.security import Event
from registry.accounts.session_routes import OptionsReply
from registry.accounts.sessions import Current
from registry.api.access import account_settings, home, public, requires
from registry.api.document import problem
from registry.api.schemas import LARGEST, Body, Path, Reply
from registry.errors import ForbiddenError, StateError

account_routes = APIBlueprint(
    "account",
    __name__,
    url_prefix="/api/v1/account",
    abp_tags=[Tag(name="account", description="Your own account: password, second factors, passkeys.")],
)

NewPassword = Annotated[str, StringConstraints(min_length=passwords.SHORTEST, max_length=passwords.LONGEST)]
Label = Annotated[str, StringConstraints(pattern=r"^[!-~]([ -~]{0,78}[!-~])?$")]
"""One line of printable ASCII."""

_CONFLICT: dict[str | int, Any] = {409: problem("It does not fit the account's present state")}

_GUESSED: dict[str | int, Any] = {409: problem("The password is easily guessed")}


class PasskeyReply(Reply):
    """A passkey."""

    id: int
    name: str
    created_at: str
    last_used_at: str | None


class IdentityReply(Reply):
    """An account at an OpenID provider."""

    id: int
    issuer: str
    created_at: str


class AccountReply(Reply):
    """Your account."""

    name: str
    email: str | None
    role: str
    organisation: str
    has_password: bool
    factors: list[str]
    recovery_codes_left: int
    passkeys: list[PasskeyReply]
    identities: list[IdentityReply]


class PasswordChange(Body):
    """A new password; `current` is needed unless none is set."""

    current: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    new: NewPassword


class Acceptance(Body):
    """An invitation and the password to set with it."""

    invitation: Annotated[str, StringConstraints(pattern=r"^hmi_[0-9A-Za-z_-]{43}$")]
    password: NewPassword


class TotpReply(Reply):
    """A new authenticator, which counts once it is confirmed."""

    secret: str = Field(description="Base32.")
    uri: str = Field(description="`otpauth:`, for a QR code.")


class TotpCode(Body):
    """A code of the new authenticator."""

    code: Annotated[str, StringConstraints(pattern=r"^[0-9]{6}$")]


class RecoveryReply(Reply):
    """Recovery codes: each replaces the second factor once. They are shown this once."""

    recovery_codes: list[str]


class NewPasskey(Body):
    """What `navigator.credentials.create()` gave, as JSON, and a name for it."""

    name: Label
    credential: dict[str, Any]


class NewIdentity(Body):
    """At which provider."""

    provider: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]


class RedirectReply(Reply):
    """Where the browser goes next."""

    url: str


class NumberPath(Path):
    """Which one."""

    number: Annotated[int, Field(ge=1, le=LARGEST)]


@account_routes.get("", responses={200: AccountReply})
@requires(Permission.READ_ACCOUNT)
def show_account() -> dict[str, Any]:
    """Your account."""
    person = signed_in_person().person
    with home().database.read() as session:
        return {
            "name": person.name,
            "email": person.email,
            "role": person.role,
            "organisation": session.get_one(Organisation, person.organisation_id).name,
            "has_password": person.password_hash is not None,
            "factors": factors.factors(session, person.id),
            "recovery_codes_left": factors.recovery_codes_left(session, person.id),
            "passkeys": [passkeys.describe(found) for found in passkeys.passkeys(session, person.id)],
            "identities": [oidc.describe(found) for found in oidc.identities(session, person.id)],
        }


@account_routes.put("/password", responses={204: None, **_GUESSED})
@requires(Permission.WRITE_ACCOUNT)
def change_password(body: PasswordChange) -> tuple[str, int]:
    """Change your password; everywhere else you are signed out."""
    current = signed_in_person()
    if current.person.password_hash is None:
        sessions.require_recent(current)
    else:
        require_password(current.person, body.current)
    with home().database.write() as session:
        people.set_password(session, _mine(session, current), body.new, current)
    return "", 204


@account_routes.post(
    "/invitation", responses={204: None, 401: problem("The invitation does not hold"), **_GUESSED}
)
@public
def accept_invitation(body: Acceptance) -> tuple[str, int]:
    """Set the password of an account that you were invited to."""
    count_sign_in()
    with home().database.write() as session:
        people.accept_invitation(session, body.invitation, body.password)
    return "", 204


@account_routes.post("/totp", responses={201: TotpReply, **_CONFLICT})
@requires(Permission.WRITE_ACCOUNT)
def begin_totp() -> tuple[dict[str, Any], int]:
    """Begin with an authenticator (TOTP)."""
    current = recent_session()
    with home().database.write() as session:
        secret, uri = factors.begin_totp(session, home().master, current.person)
    return {"secret": secret, "uri": uri}, 201


@account_routes.post("/totp/confirmation", responses={200: RecoveryReply, **_CONFLICT})
@requires(Permission.WRITE_ACCOUNT)
def confirm_totp(body: TotpCode) -> dict[str, Any]:
    """Take the new authenticator into use."""
    current = recent_session()
    with home().database.write() as session:
        codes = factors.confirm_totp(session, home().master, current.person, body.code)
        security.record(session, Event.TOTP_ADDED)
    return {"recovery_codes": codes}


@account_routes.delete("/totp", responses={204: None})
@requires(Permission.WRITE_ACCOUNT)
def remove_totp() -> tuple[str, int]:
    """Remove your authenticator and its recovery codes."""
    current = recent_session()
    with home().database.write() as session:
        factors.remove_totp(session, current.person.id)
        security.record(session, Event.TOTP_REMOVED)
    return "", 204


@account_routes.post("/recovery-codes", responses={200: RecoveryReply, **_CONFLICT})
@requires(Permission.WRITE_ACCOUNT)
def make_recovery_codes() -> dict[str, Any]:
    """New recovery codes in place of the old ones."""
    current = recent_session()
    with home().database.write() as session:
        if not factors.factors(session, current.person.id):
            raise StateError("there is no second factor to recover.", "Add an authenticator or a passkey.")
        codes = factors.make_recovery_codes(session, current.person.id)
        security.record(session, Event.RECOVERY_CODES)
    return {"recovery_codes": codes}


@account_routes.post("/passkeys/options", responses={200: OptionsReply})
@requires(Permission.WRITE_ACCOUNT)
def passkey_options() -> dict[str, Any]:
    """What the browser needs to make a passkey."""
    current = recent_session()
    with home().database.write() as session:
        return {"options": passkeys.begin_registration(session, site(), current.person)}


@account_routes.post("/passkeys", responses={201: PasskeyReply, **_CONFLICT})
@requires(Permission.WRITE_ACCOUNT)
def add_passkey(body: NewPasskey) -> tuple[dict[str, Any], int]:
    """Add the passkey that the browser made."""
    current = recent_session()
    made = passkeys.finish_registration(home(), site(), current.person, body.credential)
    with home().database.write() as session:
        added = passkeys.add(session, current.person.id, body.name, made)
        security.record(session, Event.PASSKEY_ADDED, passkey=body.name)
        return passkeys.describe(added), 201


@account_routes.delete("/passkeys/<int:number>", responses={204: None})
@requires(Permission.WRITE_ACCOUNT)
def remove_passkey(path: NumberPath) -> tuple[str, int]:
    """Remove one of your passkeys."""
    current = recent_session()
    with home().database.write() as session:
        removed = passkeys.remove(session, current.person.id, path.number)
        security.record(session, Event.PASSKEY_REMOVED, passkey=removed.name)
    return "", 204


@account_routes.post("/identities", responses={200: RedirectReply, 404: problem("No such provider")})
@requires(Permission.WRITE_ACCOUNT)
def link_identity(body: NewIdentity) -> Response:
    """Link your account at an OpenID provider: send the browser to the URL."""
    current = recent_session()
    provider = oidc.get_provider(account_settings(), body.provider)
    journey = oidc.begin(home(), provider, site(), person=current.person.id)
    response = reply({"url": journey.url})
    oidc.bind(response, journey)
    return response


@account_routes.delete("/identities/<int:number>", responses={204: None})
@requires(Permission.WRITE_ACCOUNT)
def unlink_identity(path: NumberPath) -> tuple[str, int]:
    """Unlink an account at an OpenID provider."""
    current = recent_session()
    with home().database.write() as session:
        removed = oidc.unlink(session, current.person.id, path.number)
        security.record(session, Event.IDENTITY_UNLINKED, issuer=removed.issuer)
    return "", 204


def recent_session() -> Current:
    """The person's own session of the last minutes; :class:`ForbiddenError` for an older one or a token."""
    current = signed_in_person()
    sessions.require_recent(current)
    return current


def _mine(session: Session, current: Current) -> Person:
    return session.get_one(Person, current.person.id)


def require_password(person: Person, given: str | None) -> None:
    """:class:`ForbiddenError` for a wrong password, which counts as a failed attempt to sign in."""
    own, there = lockout.account(person.name), lockout.address(request.remote_addr)
    lockout.attempt(home(), own, there)
    if not passwords.verify(person.password_hash, given or ""):
        raise ForbiddenError("the current password is wrong.", "Type it again.")
    with home().database.write() as session:
        lockout.passed(session, own, there)
