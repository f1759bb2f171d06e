"""What ``config.toml`` says about sign-in, and its defaults.

    settings = AccountSettings.load(home.settings)
    settings.url, settings.idle_seconds, settings.providers["corporate"].issuer

All of it is optional::

    [serving]
    url = "https://registry.example.org"    # what browsers see, HALLMARK_URL; else as each request says

    [sign_in]
    idle_minutes = 60
    longest_hours = 12

    [limits]
    storage = "redis://127.0.0.1:6379/1"    # HALLMARK_LIMITS_URL overrides it
    requests = "6000/minute"                # of one token or person; "" switches a limit off
    strangers = "3000/minute"               # of one address without credentials
    sign_in = "20/minute; 200/hour"         # of one address

    [oidc.corporate]
    title = "Example Corp"
    issuer = "https://login.example.org"
    client_id = "hallmark"
    client_secret = "environment"           # then in HALLMARK_OIDC_CORPORATE_SECRET
    link_verified_email = false
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

from registry.config import CONFIG_NAME, Settings
from registry.errors import InputError

URL_VARIABLE = "HALLMARK_URL"
LIMITS_VARIABLE = "HALLMARK_LIMITS_URL"
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")

_PROVIDER = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
Value = TypeVar("Value", str, int, bool)


@dataclass(frozen=True)
class Provider:
    """An OpenID provider at which people may sign in.

    With ``link_verified_email`` a person who was invited with an address is recognised by it at his first
    sign-in, if the provider says that it verified the address; otherwise he links his account himself.
    """

    name: str
    title: str
    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    link_verified_email: bool = False


@dataclass(frozen=True)
class Limits:
    """Rate limits in the notation of the `limits` library, ``""`` for none, and where they are counted."""

    storage: str = "memory://"
    requests: str = "6000/minute"
    strangers: str = "3000/minute"
    sign_in: str = "20/minute; 200/hour"


@dataclass(frozen=True)
class AccountSettings:
    """Everything about sign-in that an operator may choose."""

    url: str | None = None
    idle_seconds: int = 3600
    longest_seconds: int = 12 * 3600
    limits: Limits = Limits()
    providers: Mapping[str, Provider] = field(default_factory=dict)

    @classmethod
    def load(cls, settings: Settings, environment: Mapping[str, str] = os.environ) -> AccountSettings:
        """Read the home's configuration; :class:`InputError` names what cannot be understood."""
        sign_in = _table(settings.table("sign_in"), "sign_in", ("idle_minutes", "longest_hours"))
        limits = _table(settings.table("limits"), "limits", ("storage", "requests", "strangers", "sign_in"))
        return cls(
            url=_url(settings, environment),
            idle_seconds=60 * _value(sign_in, "sign_in", "idle_minutes", 60),
            longest_seconds=3600 * _value(sign_in, "sign_in", "longest_hours", 12),
            limits=Limits(
                storage=environment.get(LIMITS_VARIABLE)
                or _value(limits, "limits", "storage", Limits.storage),
                requests=_value(limits, "limits", "requests", Limits.requests),
                strangers=_value(limits, "limits", "strangers", Limits.strangers),
                sign_in=_value(limits, "limits", "sign_in", Limits.sign_in),
            ),
            providers={
                name: _provider(name, table, environment) for name, table in settings.table("oidc").items()
            },
        )


def _url(settings: Settings, environment: Mapping[str, str]) -> str | None:
    url = environment.get(URL_VARIABLE) or _value(settings.table("serving"), "serving", "url", "")
    if not url:
        return None
    _require_https(url, "[serving] url")
    if urlsplit(url).path.strip("/"):
        raise _wrong("[serving] url", "give it without a path")
    return url.rstrip("/")


def _provider(name: str, table: Any, environment: Mapping[str, str]) -> Provider:
    where = f"oidc.{name}"
    if not _PROVIDER.fullmatch(name) or not isinstance(table, dict):
        raise _wrong(f"[{where}]", "name a provider in lower-case letters, digits and hyphens")
    _table(table, where, ("title", "issuer", "client_id", "client_secret", "link_verified_email"))
    issuer, client_id = (_value(table, where, key, "") for key in ("issuer", "client_id"))
    secret = _value(table, where, "client_secret", "environment")
    if secret == "environment":  # noqa: S105
        secret = environment.get(f"HALLMARK_OIDC_{name.upper().replace('-', '_')}_SECRET", "")
    if not issuer or not client_id or not secret:
        raise _wrong(f"[{where}]", "it needs issuer, client_id and client_secret")
    _require_https(issuer, f"[{where}] issuer")
    return Provider(
        name=name,
        title=_value(table, where, "title", name),
        issuer=issuer,
        client_id=client_id,
        client_secret=secret,
        link_verified_email=_value(table, where, "link_verified_email", False),
    )


def _table(table: Mapping[str, Any], where: str, known: tuple[str, ...]) -> Mapping[str, Any]:
    """The table, unless it holds a name that nobody reads: a limit with a typing error would be none."""
    for name in table:
        if name not in known:
            raise _wrong(f"[{where}] {name}", f"known are {', '.join(known)}")
    return table


def _value(table: Mapping[str, Any], where: str, key: str, default: Value) -> Value:
    found = table.get(key, default)
    if type(found) is not type(default) or (type(found) is int and found < 1):
        raise _wrong(f"[{where}] {key}", f"give a {type(default).__name__} such as {default!r}")
    return found


def _require_https(url: str, what: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOCAL_HOSTS):
        raise _wrong(what, "give an https URL")


def _wrong(what: str, advice: str) -> InputError:
    return InputError(f"{CONFIG_NAME}: {what} cannot be used; {advice}.", "Correct it.")
