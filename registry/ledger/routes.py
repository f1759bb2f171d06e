"""The ledger over HTTP, for anybody: tiles by C2SP tlog-tiles below /ledger, JSON below /api/v1/ledger.

Nothing here is personal: entries are hashes of records. Full and partial tiles never change and may be
cached for good; the checkpoint may be a few seconds old.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from flask import Response, make_response
from flask_openapi3 import APIBlueprint, Tag
from pydantic import Field
from sqlalchemy import select

from registry.api.access import home, public
from registry.api.document import problem
from registry.api.pages import PageQuery, page
from registry.api.schemas import LARGEST, Path, Query, Reply, Sha256
from registry.errors import NotFoundError
from registry.ledger import service
from registry.ledger.models import LedgerEntry
from verifier import merkle, note
from verifier.bundle import utc

TAG = Tag(name="ledger", description="The append-only log of what the registry signed.")
ledger = APIBlueprint("ledger", __name__, url_prefix="/api/v1/ledger", abp_tags=[TAG])
tiles = APIBlueprint("tiles", __name__, url_prefix="/ledger", abp_tags=[TAG])

FOREVER = "public, max-age=31536000, immutable"
A_MOMENT = "public, max-age=2"
_NUMBER = re.compile(r"((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")
_MOST_PARTS = 6
_TEXT = {"description": "OK", "content": {"text/plain": {"schema": {"type": "string"}}}}
_BYTES = {
    "description": "OK",
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}

Index = Annotated[int, Field(ge=0, le=LARGEST)]
Size = Annotated[int, Field(ge=1, le=LARGEST, description="Of the tree [default: the newest].")]


class CheckpointReply(Reply):
    """The newest tree head and the key that signed it, also as text for other programs."""

    origin: str
    size: int
    root: str
    checkpoint: str = Field(description="A C2SP signed note.")
    public_key: str
    verifier_key: str


class EntryReply(Reply):
    """One logged record: what it is and the SHA-256 of its canonical signed document."""

    index: int
    kind: str
    digest: str
    logged_at: str


class EntryPage(Reply):
    """Entries of the ledger."""

    items: list[EntryReply]
    next: str | None


class ProofReply(Reply):
    """What both kinds of proof have. ``checkpoint`` is null for a tree that was never signed."""

    registry: str
    public_key: str
    size: int
    root: str
    checkpoint: str | None
    proof: list[str]


class InclusionReply(ProofReply):
    """An entry's audit path (RFC 6962, section 2.1.1), from the leaf upwards."""

    schema_: Literal["hallmark/inclusion/1"] = Field(alias="schema")
    index: int
    kind: str
    digest: str


class ConsistencyReply(ProofReply):
    """That the ledger only grew (RFC 6962, section 2.1.2)."""

    schema_: Literal["hallmark/consistency/1"] = Field(alias="schema")
    old_size: int
    old_root: str


class EntryQuery(PageQuery):
    """Which entries."""

    order: Literal["newest", "oldest"] = "newest"


class IndexPath(Path):
    """Which entry."""

    index: Index


class DigestPath(Path):
    """Which record."""

    digest: Sha256


class TreeQuery(Query):
    """Which tree."""

    size: Size | None = None


class GrowthQuery(TreeQuery):
    """From which tree to which."""

    old: Annotated[int, Field(ge=1, le=LARGEST, description="Entries of the earlier tree.")]


class TilePath(Path):
    """Which tile: level and number (C2SP tlog-tiles), such as ``x001/234`` or ``000.p/17``."""

    level: Annotated[int, Field(ge=0, le=63)]
    number: str


class BundlePath(Path):
    """Which entry bundle, numbered as tiles are."""

    number: str


@ledger.get("/checkpoint", responses={200: CheckpointReply})
@public
def show_checkpoint() -> Response:
    """The newest signed tree head."""
    with home().database.read() as session:
        signed = service.checkpoint(session)
    identity = home().identity
    head = merkle.Checkpoint.open(signed, identity.public)
    response = make_response(
        {
            "origin": head.origin,
            "size": head.size,
            "root": head.root.hex(),
            "checkpoint": signed,
            "public_key": identity.public_text,
            "verifier_key": note.verifier_key(head.origin, identity.public),
        }
    )
    response.headers["Cache-Control"] = A_MOMENT
    return response


@ledger.get("/entries", responses={200: EntryPage})
@public
def list_entries(query: EntryQuery) -> dict[str, Any]:
    """Entries, newest or oldest first."""
    with home().database.read() as session:
        newest_first = query.order == "newest"
        rows, more = page(session, select(LedgerEntry), LedgerEntry.index, query, newest_first=newest_first)
        return {"items": [_describe(row) for row in rows], "next": more}


@ledger.get("/entries/<int:index>", responses={200: EntryReply})
@public
def show_entry(path: IndexPath) -> dict[str, Any]:
    """One entry."""
    with home().database.read() as session:
        return _describe(service.entry(session, path.index))


@ledger.get("/entries/<int:index>/inclusion", responses={200: InclusionReply})
@public
def prove_entry(path: IndexPath, query: TreeQuery) -> dict[str, Any]:
    """The proof that an entry is in the ledger."""
    with home().database.read() as session:
        logged = service.entry(session, path.index)
        return service.describe_inclusion(session, home().identity, logged, query.size)


@ledger.get("/records/<digest>/inclusion", responses={200: InclusionReply})
@public
def prove_record(path: DigestPath, query: TreeQuery) -> dict[str, Any]:
    """The proof that a record, named by its SHA-256, is in the ledger."""
    with home().database.read() as session:
        logged = service.find_entry(session, bytes.fromhex(path.digest))
        return service.describe_inclusion(session, home().identity, logged, query.size)


@ledger.get("/consistency", responses={200: ConsistencyReply, 404: problem("It never had these sizes")})
@public
def prove_growth(query: GrowthQuery) -> dict[str, Any]:
    """The proof that the ledger of ``size`` entries extends that of ``old`` entries."""
    with home().database.read() as session:
        return service.describe_consistency(session, home().identity, query.old, query.size)


@tiles.get("/checkpoint", responses={200: _TEXT})
@public
def checkpoint_note() -> Response:
    """The newest signed tree head, as a note."""
    with home().database.read() as session:
        response = make_response(service.checkpoint(session))
    response.mimetype = "text/plain"
    response.headers["Cache-Control"] = A_MOMENT
    return response


@tiles.get("/tile/<int:level>/<path:number>", responses={200: _BYTES})
@public
def hash_tile(path: TilePath) -> Response:
    """The hashes of one tile."""
    number, width = _parse(path.number)
    with home().database.read() as session:
        return _forever(service.tile(session, path.level, number, width))


@tiles.get("/tile/entries/<path:number>", responses={200: _BYTES})
@public
def entry_bundle(path: BundlePath) -> Response:
    """The digests of the records below a level 0 tile, each with its length (big endian, 16 bits)."""
    number, width = _parse(path.number)
    with home().database.read() as session:
        digests = service.entry_digests(session, number, width)
    return _forever(b"".join(len(digest).to_bytes(2, "big") + digest for digest in digests))


def tile_path(number: int, width: int = merkle.TILE_WIDTH) -> str:
    """A tile's number and width as its path has them: three digits a part, all but the last with an ``x``."""
    digits = str(number)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    parts = [digits[i : i + 3] for i in range(0, len(digits), 3)]
    partial = "" if width == merkle.TILE_WIDTH else f".p/{width}"
    return "/".join([*(f"x{part}" for part in parts[:-1]), parts[-1]]) + partial


def _parse(text: str) -> tuple[int, int]:
    """The inverse of :func:`tile_path`."""
    found = _NUMBER.fullmatch(text)
    if found is not None and text.count("x") < _MOST_PARTS:
        number = int(found[1].replace("x", "").replace("/", ""))
        width = int(found[2] or merkle.TILE_WIDTH)
        if width <= merkle.TILE_WIDTH and tile_path(number, width) == text:
            return number, width
    raise NotFoundError(f"{text} numbers no tile.")


def _forever(content: bytes) -> Response:
    response = make_response(content)
    response.mimetype = "application/octet-stream"
    response.headers["Cache-Control"] = FOREVER
    return response


def _describe(row: LedgerEntry) -> dict[str, Any]:
    return {
        "index": row.index,
        "kind": row.kind,
        "digest": row.digest.hex(),
        "logged_at": utc(row.logged_at),
    }
