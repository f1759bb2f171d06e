"""The envelope inside a report's file: as inert JSON in a page, attached to a PDF, or on its own.

    envelope = opened(Path("report.pdf").read_bytes())    # InputError where there is none

A page carries it in ``<script type="application/json" id="hallmark-report">``, which browsers do not run. A
PDF carries it as the attachment ``report.dsse.json``, an uncompressed stream, so that it is found without
interpreting the file; where another program packed the PDF anew, save the attachment and give that.
Everything that a reader sees comes from it: where it matters, lay it out anew with
`verifier report REPORT --out FRESH.html`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from verifier.dsse import Envelope
from verifier.errors import InputError
from verifier.typed import parse_json

ATTACHMENT = "report.dsse.json"
SCRIPT_ID = "hallmark-report"
LARGEST = 256 << 20
"""Bytes of the largest report that is read."""

_HINT = "Give an HTML page or a PDF that `verifier report` wrote."
_SCRIPT = re.compile(
    rb'<script type="application/json" id="' + SCRIPT_ID.encode() + rb'">(.*?)</script>', re.DOTALL
)
_ATTACHED = re.compile(rb'\{"payload": "[A-Za-z0-9+/=]*", "payloadType": "[^"]*", "signatures": \[[^\]]*\]\}')


def serialised(envelope: Envelope) -> bytes:
    """The envelope as JSON, which holds no ``<``: base64 and hex alone."""
    return json.dumps(envelope.document(), sort_keys=True).encode()


def read(path: Path) -> bytes:
    """The bytes of the file at ``path``; :class:`InputError` where it cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.", "Name the report's file.") from None
    if len(content) > LARGEST:
        raise InputError(f"{path} is larger than any report.", _HINT)
    return content


def opened(content: bytes, name: str = "this file") -> Envelope:
    """The envelope in a page, a PDF or JSON; :class:`InputError` where there is none, or more than one."""
    if content.lstrip()[:1] == b"{":
        found = [content]
    elif content.startswith(b"%PDF-"):
        found = _ATTACHED.findall(content)
    else:
        found = _SCRIPT.findall(content)
    if len(found) != 1:
        what = "no report" if not found else "more than one report"
        raise InputError(f"{name} holds {what}.", _HINT)
    try:
        value = parse_json(found[0])
    except ValueError as error:
        raise InputError(f"{name}: the report in it is damaged ({error}).", _HINT) from None
    return Envelope.parse(value, name)
