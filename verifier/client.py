"""A registry's HTTP API as the verifier uses it.

    client = Client("https://registry.example", token)
    client.resolvable()                                   # models that the token may ask about
    client.resolve({"model": "flowers@1", "network": digest, "images": [{"readings": [[...]]}]})

A token goes over an encrypted connection only (or to this machine itself), never to where a redirection
points, and is in no message. :class:`RefusedError` where the registry answers with a refusal,
:class:`InputError` where it cannot be reached, :class:`TrustError` for an answer that is none.
"""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from verifier.errors import InputError, TrustError
from verifier.store import normal_url

TOKEN_VARIABLE = "HALLMARK_TOKEN"  # noqa: S105  (a name)
SECONDS = 60
"""Patience with a connection that says nothing."""

LARGEST_ANSWER = 16 << 20
_LARGEST_TOKEN = 4096
_LOCAL = {"localhost", "127.0.0.1", "::1"}

_REFUSALS = {
    401: (
        "the registry does not accept the token: it expired, was revoked, or is another registry's.",
        "Get a new one from the registry.",
    ),
    403: ("the token may not do this.", "Ask for one of an auditor, with the scopes resolve and keys:read."),
    404: ("nothing of this name is open to the token.", "Ask the distributor for a grant on the model."),
    409: ("the registry cannot answer for this network.", "Run `verifier update`, then check again."),
    413: ("this is more than the registry takes at once.", "Check fewer images together."),
    429: ("the budget of queries is spent.", "Wait, or ask the distributor for more."),
}
"""What a status means here; the registry's own sentence is added."""


class RefusedError(InputError):
    """The registry refused a request; ``status`` is HTTP's."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.status = status


class _NoRedirection(HTTPRedirectHandler):
    """Redirections are answers like others: a token must not follow them."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Client:
    """Requests to the registry at ``url``."""

    def __init__(self, url: str, token: str | None = None) -> None:
        """:class:`InputError` for what is no address, or one to which no token may be sent."""
        self.url, self._token = normal_url(url), token
        parts = urlsplit(self.url)
        if token is not None and parts.scheme != "https" and parts.hostname not in _LOCAL:
            raise InputError(
                f"{self.url} is not encrypted, so the token cannot be sent there.", "Use https://."
            )
        self._opener = build_opener(_NoRedirection)

    def resolvable(self) -> Iterator[dict[str, Any]]:
        """The models that the token may ask about, with the networks whose readings are accepted."""
        more: dict[str, str] = {}
        while True:
            page = self.get("/resolvable-models", more)
            try:
                yield from page["items"]
                following = page["next"]
            except (KeyError, TypeError):
                raise _no_answer(self.url) from None
            if following is None:
                return
            more = {"after": str(following)}

    def resolve(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """The finding about a query's readings."""
        return self._answer("/resolve", json.dumps(query, separators=(",", ":")).encode())

    def key(self, key_id: str) -> dict[str, Any]:
        """A key of one's own organisation, with its certificate."""
        return self.get(f"/keys/{quote(key_id, safe='')}")

    def inclusion(self, index: int) -> dict[str, Any]:
        """The proof that an entry is in the ledger."""
        return self.get(f"/ledger/entries/{index}/inclusion")

    def consistency(self, old: int, size: int) -> dict[str, Any]:
        """The proof that the ledger of ``size`` entries extends the one of ``old`` entries."""
        return self.get("/ledger/consistency", {"old": str(old), "size": str(size)})

    def get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The JSON object below ``/api/v1``."""
        return self._answer(f"{path}?{urlencode(query)}" if query else path)

    def _answer(self, path: str, body: bytes | None = None) -> dict[str, Any]:
        headers = {"Accept": "application/json", "User-Agent": "hallmark-verifier"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        request = Request(f"{self.url}/api/v1{path}", body, headers)  # noqa: S310  (http or https only)
        try:
            with self._opener.open(request, timeout=SECONDS) as response:
                content = response.read(LARGEST_ANSWER)
        except HTTPError as error:
            with error:
                raise _refused(self.url, error) from None
        except (OSError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, URLError) else error
            raise InputError(
                f"{self.url} cannot be reached: {' '.join(str(reason).split()) or type(reason).__name__}.",
                "Check the network and the address.",
            ) from None
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise _no_answer(self.url)
        return answer


def read_token(path: str | None) -> str:
    """The token in a file, or in the environment (``HALLMARK_TOKEN``); :class:`InputError` without one."""
    if path is None:
        token = os.environ.get(TOKEN_VARIABLE, "")
        where = TOKEN_VARIABLE
    else:
        where = path
        try:
            with Path(path).open(encoding="utf-8") as file:
                token = file.read(_LARGEST_TOKEN)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the token from {path}: {error}.") from None
    token = token.strip()
    if not token:
        raise InputError(
            "asking a registry needs a token.",
            f"Put it into {TOKEN_VARIABLE}, or name its file with --token-file.",
        )
    if not token.isascii() or not token.isprintable() or " " in token:
        raise InputError(f"{where} holds no token.", "It is one line of letters and digits.")
    return token


def _refused(url: str, error: HTTPError) -> RefusedError:
    """A refusal: what its status means here, and what the registry says."""
    try:
        problem = json.loads(error.read(LARGEST_ANSWER))
        detail = " ".join(str(problem["detail"]).split())
    except (OSError, ValueError, KeyError, TypeError, RecursionError, http.client.HTTPException):
        detail = ""
    message, hint = _REFUSALS.get(
        error.code,
        (f"the request was refused ({error.code}).", "")
        if error.code < 500
        else (f"the registry failed ({error.code}).", "Try again later, or tell the registry."),
    )
    if error.code == 429 and (wait := error.headers.get("Retry-After", "")).isdecimal():
        hint = f"Try again in {wait} seconds, or ask the distributor for more."
    said = f" It says: {detail}" if detail else ""
    return RefusedError(error.code, f"{url}: {message}{said}", hint)


def _no_answer(url: str) -> TrustError:
    return TrustError(f"{url} answers with something that no registry answers.", "Check the address.")
