"""What sign-in needs of a browser's request and gives to its response.

return signed_in(done, reply)          # with the session's cookie
site()                                 # the origin that passkeys and OpenID providers know us by
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from flask import Response, jsonify, request
from werkzeug.wrappers import Response as AnyResponse

from registry.accounts import sessions
from registry.accounts.passkeys import Site
from registry.accounts.settings import LOCAL_HOSTS
from registry.accounts.signin import SignedIn
from registry.addresses import counted_as
from registry.api.access import account_settings, csrf_given, limiter, principal, web_session
from registry.api.limits import SIGN_IN
from registry.errors import AuthenticationError, ForbiddenError


def site() -> Site:
    """The configured ``[serving] url``, else what the request was sent to."""
    origin = account_settings().url or request.host_url.rstrip("/")
    return Site(origin=origin, host=urlsplit(origin).hostname or "")


def set_session(response: AnyResponse, done: SignedIn) -> AnyResponse:
    """Hand the browser the secret of its new session."""
    set_cookie(response, sessions.COOKIE, done.secret, account_settings().longest_seconds)
    return response


def clear_session(response: AnyResponse) -> AnyResponse:
    """Take the secret of an ended session from the browser."""
    response.delete_cookie(sessions.COOKIE, secure=_secure(), httponly=True, samesite="Lax")
    return response


def set_cookie(response: AnyResponse, name: str, value: str, seconds: int, path: str = "/") -> None:
    """A cookie that scripts cannot read and other sites' forms do not send."""
    response.set_cookie(
        name, value, max_age=seconds, path=path, secure=_secure(), httponly=True, samesite="Lax"
    )


def signed_in_person() -> sessions.Current:
    """The session of the person who makes this request; :class:`ForbiddenError` for a token."""
    current = web_session()
    if current is None or principal().token is not None:
        raise ForbiddenError("only a person who is signed in can do this.", "Sign in; a token will not do.")
    return current


def owing_session() -> sessions.Current:
    """The session that owes its second factor; :class:`AuthenticationError` if there is none."""
    current = web_session()
    if current is None or current.row.complete:
        raise AuthenticationError("no sign-in waits for a second factor.", "Begin with the password.")
    sessions.require_csrf(current, csrf_given())
    return current


def count_sign_in() -> None:
    """Count an attempt to sign in from this address."""
    limiter().hit(SIGN_IN, counted_as(request.remote_addr))


def reply(document: dict[str, Any], status: int = 200) -> Response:
    """A JSON response to which cookies can be added, and which nobody keeps."""
    response = jsonify(document)
    response.status_code = status
    response.headers["Cache-Control"] = "no-store"
    return response


def _secure() -> bool:
    """Whether cookies are kept to https: always, except on this very machine."""
    parts = urlsplit(site().origin)
    return not (parts.scheme == "http" and parts.hostname in LOCAL_HOSTS)
