"""What pages are made with: rendering, forms, lists, and what is said after something was done.

return render("copies/index.html", copies=listing(session, query, UserKey.id))
return done(url_for("copy_pages.index"), "The copy is revoked.")
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from flask import Response, g, make_response, redirect, render_template, request
from sqlalchemy.orm import InstrumentedAttribute, Session
from werkzeug.wrappers import Response as AnyResponse

from registry.accounts.browser import set_cookie
from registry.api.access import web_session
from registry.api.pages import PageQuery, page
from registry.api.problems import status_of
from registry.errors import InputError, RegistryError, StateError
from verifier.errors import VerifierError

Answer = str | AnyResponse | tuple[str | AnyResponse, int]
"""What a view of the console returns."""

FLASH = "hallmark_flash"
ROWS = 50
_CURSOR = re.compile(r"[0-7][0-9a-f]{15}")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def render(template: str, **values: Any) -> str:
    """A page."""
    return render_template(template, **values)


def allow_wasm() -> None:
    """Let the present page run WebAssembly and workers from our own files; others may not."""
    g.console_wasm = True


# --- after something was done -------------------------------------------------------------------------------


def done(url: str, message: str, kind: str = "good") -> AnyResponse:
    """Send the browser on to ``url``, which says ``message`` once; ``kind`` is good, warn or bad."""
    response = redirect(url, 303)
    current = web_session()
    if current is not None:
        body = base64.urlsafe_b64encode(json.dumps([kind, message[:1000]]).encode()).decode()
        set_cookie(response, FLASH, f"{_seal(current.secret, body)}.{body}", 60, path="/console")
    return response


def flashed() -> tuple[str, str] | None:
    """What the page before this one had to say: kind and message. Only of the same session."""
    current, given = web_session(), request.cookies.get(FLASH, "")
    mac, _, body = given.partition(".")
    if current is None or not hmac.compare_digest(mac.encode(), _seal(current.secret, body).encode()):
        return None
    g.console_flashed = True
    kind, message = json.loads(base64.urlsafe_b64decode(body))
    return str(kind), str(message)


def _seal(secret: str, body: str) -> str:
    return hmac.new(secret.encode(), b"hallmark/flash/v1" + body.encode(), hashlib.sha256).hexdigest()


# --- lists --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Listing:
    """One page of a long list, with the addresses of the next (``more``) and, if it is another, the first."""

    rows: Sequence[Any]
    more: str | None
    first: str | None

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def each(self, rows: Sequence[Any]) -> Listing:
        """The same page with other rows in it."""
        return Listing(rows, self.more, self.first)


def listing(
    session: Session,
    query: Any,
    number: InstrumentedAttribute[int],
    rows: int = ROWS,
    *,
    newest_first: bool = True,
) -> Listing:
    """The page of a list that the address asks for with ``after`` (see :mod:`registry.api.pages`)."""
    asked = request.args.get("after")
    after = asked if asked is not None and _CURSOR.fullmatch(asked) else None
    found, more = page(session, query, number, PageQuery(limit=rows, after=after), newest_first=newest_first)
    return Listing(found, None if more is None else _here(after=more), None if after is None else _here())


def _here(**changed: str) -> str:
    """The present address with other parameters; without ``after`` unless that is given."""
    from urllib.parse import urlencode

    kept = [(name, value) for name, value in request.args.items(multi=True) if name != "after"]
    query = urlencode(kept + list(changed.items()))
    return f"{request.path}?{query}" if query else request.path


# --- forms --------------------------------------------------------------------------------------------------


class Form:
    """What a form holds and what is wrong with it: by field in ``errors``, as a whole in ``problem``."""

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        self.values: dict[str, str] = dict(values or {})
        self.errors: dict[str, str] = {}
        self.problem: str | None = None

    @classmethod
    def sent(cls) -> Form:
        """The form that came with this request."""
        return cls(request.form.to_dict())

    @property
    def ok(self) -> bool:
        """Whether nothing was found wrong so far."""
        return not self.errors and self.problem is None

    def get(self, name: str) -> str:
        """What the field holds, as it was typed."""
        return self.values.get(name, "")

    def text(
        self,
        name: str,
        *,
        needed: bool = True,
        longest: int = 500,
        pattern: str | None = None,
        wanted: str = "",
        lines: bool = False,
    ) -> str:
        """A field's text without space around it. ``wanted`` says what ``pattern`` allows."""
        value = self.get(name).replace("\r\n", "\n").strip()
        if not value:
            if needed:
                self.errors[name] = "Fill this in."
        elif len(value) > longest:
            self.errors[name] = f"This is longer than {longest} characters."
        elif _CONTROL.search(value) or (not lines and "\n" in value):
            self.errors[name] = "This holds characters that cannot be shown."
        elif pattern is not None and not re.fullmatch(pattern, value):
            self.errors[name] = wanted or "This does not have the right form."
        return value

    def number(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number between two others."""
        value = self.get(name).strip()
        if not value and default is not None:
            return default
        if re.fullmatch(r"-?[0-9]{1,15}", value) and low <= int(value) <= high:
            return int(value)
        self.errors[name] = f"Give a whole number from {low} to {high}."
        return low

    def choice(self, name: str, options: Collection[str]) -> str:
        """One of some values."""
        value = self.get(name)
        if value not in options:
            self.errors[name] = "Choose one of these."
        return value

    def flag(self, name: str) -> bool:
        """Whether a box is ticked."""
        return self.get(name) not in ("", "off", "false")

    def refuse(self, error: RegistryError | VerifierError, field: str | None = None) -> None:
        """Say in the form why something could not be done."""
        said = " ".join(part[:1].upper() + part[1:] for part in (str(error), error.hint) if part)
        if field is None:
            self.problem = said
        else:
            self.errors[field] = said

    def refusals(self, field: str | None = None) -> Refusals:
        """What is refused within the block is said in the form; failures of the registry itself are not."""
        return Refusals(self, field)

    def require_unchanged(self, seen: str, now: Mapping[str, Any], name: str = "seen") -> None:
        """:class:`StateError` if what the form was filled in on has changed since (``seen`` names the thing).

        The form carries ``state_of(...)`` of it in the hidden field ``name``. The form that is shown again
        carries the present state, so that sending it once more is a decision.
        """
        given, present = self.get(name), state_of(now)
        self.values[name] = present
        if given != present:
            raise StateError(
                f"{seen} was changed by somebody else while you had this page open.",
                "What you entered is kept below: compare, and send it again if it should still hold.",
            )


@dataclass(frozen=True)
class Refusals:
    """The context of :meth:`Form.refusals`."""

    form: Form
    field: str | None

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, RegistryError | VerifierError) or not 400 <= status_of(error) < 500:
            return False
        self.form.refuse(error, self.field)
        return True


def state_of(thing: Mapping[str, Any]) -> str:
    """A short text that changes when the thing does, for :meth:`Form.require_unchanged`."""
    text = json.dumps(thing, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def uploaded_text(name: str, longest: int = 16 << 20) -> str:
    """The text of an uploaded file or of the text field of the same name; :class:`InputError` for none."""
    file = request.files.get(name)
    raw = file.stream.read(longest + 1) if file is not None and file.filename else b""
    if len(raw) > longest:
        raise InputError(f"the file is larger than {longest >> 20} MB.", "Split it.")
    if not raw:
        return request.form.get(f"{name}_text", "")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError("the file is not text in UTF-8.", "Save it as CSV UTF-8.") from None


def saved(content: str | bytes, name: str, media_type: str) -> Response:
    """Content that the browser saves as ``name``."""
    response = make_response(content)
    response.mimetype = media_type
    response.headers.set("Content-Disposition", "attachment", filename=name)
    return response
