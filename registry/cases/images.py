"""Images on their way into a case: single files and zip archives, each file taken or refused by itself.

    received = add(home, principal, case_id, [("a.png", data), ("more.zip", data)])
    received[0].image_id, received[1].error

What is taken has been decoded once, is stored, and its hash is in the ledger, before anything is tested. One
upload is one transaction: what is complete stays, whatever happens to the next.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import secrets
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sqlalchemy import select

from registry.accounts.permissions import Principal
from registry.cases import service
from registry.cases.models import Case, CaseImage
from registry.db import unix_now
from registry.errors import InputError, StateError
from registry.home import Home
from verifier import images
from verifier.display import printable
from verifier.errors import InputError as ImageError

LARGEST_UPLOAD = 256 << 20
"""Bytes of one upload, archive or image."""

LARGEST_IMAGE = 64 << 20
MOST_FILES = 500
"""Files of one upload."""

MOST_IMAGES = 5_000
"""Images of one case."""

PIXELS_MOST = 1 << 26
"""67 megapixels: more than cameras give, some 200 MB decoded."""

THUMBNAIL = ".thumbnail"
_LONGEST_NAME = 200


@dataclass(frozen=True)
class Received:
    """What became of one file: an image of the case, or why not."""

    name: str
    image_id: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class _Taken:
    name: str
    data: bytes
    sha256: bytes
    decoded: images.Decoded


def add(home: Home, principal: Principal, case_id: str, files: Iterable[tuple[str, bytes]]) -> list[Received]:
    """Add images to a case; the fate of every file, in order.

    :class:`NotFoundError`, :class:`StateError` for a closed case.
    """
    with home.database.read() as session:
        case = _taking(service.get_case(session, case_id, principal.organisation))
        known = {image.sha256: image.image_id for image in service.images(session, case)}
    taken: list[_Taken] = []
    received: list[Received | _Taken] = []
    for name, data, refusal in _unpacked(files):
        found = Received(name, error=refusal) if refusal is not None else _look(name, data)
        if isinstance(found, _Taken):
            if found.sha256 in known or any(found.sha256 == other.sha256 for other in taken):
                found = Received(name, known.get(found.sha256), "This image is in the case already.")
            elif len(known) + len(taken) >= MOST_IMAGES:
                found = Received(name, error=f"A case holds {MOST_IMAGES} images at most.")
            else:
                _store(home, case_id, found)
                taken.append(found)
        received.append(found)
    rows = _record(home, principal, case_id, taken) if taken else {}
    return [
        entry if isinstance(entry, Received) else Received(entry.name, rows[entry.sha256])
        for entry in received
    ]


def content_name(case_id: str, sha256: bytes) -> str:
    """Storage name of an image's file."""
    return f"{service.folder_name(case_id)}/{sha256.hex()}"


def _taking(case: Case) -> Case:
    if case.status == service.Status.CLOSED:
        raise StateError(f"{case.case_id} is closed.", "Open it again to add images.")
    return case


def _record(home: Home, principal: Principal, case_id: str, taken: list[_Taken]) -> dict[bytes, str]:
    """Timestamp the images and enter them; their ids by digest."""
    identity = home.identity
    with home.database.write() as session:
        case = _taking(service.get_case(session, case_id, principal.organisation, lock=True))
        query = select(CaseImage.sha256, CaseImage.image_id).where(CaseImage.investigation_id == case.id)
        ids = {row.sha256: row.image_id for row in session.execute(query)}
        fresh = [entry for entry in taken if entry.sha256 not in ids]  # somebody else was quicker
        if fresh:
            stamp = service.timestamp(session, identity, case, [entry.sha256 for entry in fresh])
            for entry in fresh:
                ids[entry.sha256] = f"image-{secrets.token_hex(8)}"
                session.add(
                    CaseImage(
                        image_id=ids[entry.sha256],
                        investigation_id=case.id,
                        timestamp_id=stamp.id,
                        name=entry.name,
                        sha256=entry.sha256,
                        size=len(entry.data),
                        width=entry.decoded.width,
                        height=entry.decoded.height,
                        notes=json.dumps(entry.decoded.notes),
                        added_by=principal.label,
                        added_at=unix_now(),
                    )
                )
            service.say(
                session, case, principal.label, "images added",
                images=[ids[entry.sha256] for entry in fresh], ledger_index=stamp.ledger_index,
            )  # fmt: skip
        return ids


def _store(home: Home, case_id: str, entry: _Taken) -> None:
    from verifier.report import thumbnail

    name = content_name(case_id, entry.sha256)
    home.storage.put_bytes(name, entry.data)
    home.storage.put_bytes(name + THUMBNAIL, base64.b64decode(thumbnail(entry.decoded.image)))


def _look(name: str, data: bytes) -> _Taken | Received:
    """The file decoded, or why it is no image that can be used."""
    if len(data) > LARGEST_IMAGE:
        return Received(name, error=f"It is larger than {LARGEST_IMAGE >> 20} MB.")
    if not data:
        return Received(name, error="It is empty.")
    try:
        decoded = images.decode(data, "this file", PIXELS_MOST)
    except ImageError as error:
        return Received(
            name, error=" ".join(part[:1].upper() + part[1:] for part in (str(error), error.hint) if part)
        )
    return _Taken(name, data, hashlib.sha256(data).digest(), decoded)


def _unpacked(files: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes, str | None]]:
    """Name, bytes and, for what cannot be read, the reason; archives file by file."""
    count = 0
    for name, data in files:
        inner = _members(name, data) if data[:4] in (b"PK\x03\x04", b"PK\x05\x06") else [(name, data, None)]
        for path, content, refusal in inner:
            count += 1
            if count > MOST_FILES:
                raise InputError(f"this upload has more than {MOST_FILES} files.", "Send it in parts.")
            yield _clean(path), content, refusal


def _members(name: str, data: bytes) -> Iterator[tuple[str, bytes, str | None]]:
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        yield name, b"", "This archive is damaged or incomplete."
        return
    with archive:
        entries = [entry for entry in archive.infolist() if not _ignored(entry)]
        if not entries:
            yield name, b"", "This archive holds no files."
        if len(entries) > MOST_FILES:
            raise InputError(f"{_clean(name)} has more than {MOST_FILES} files.", "Send it in parts.")
        room = 2 * LARGEST_UPLOAD
        for entry in entries:
            path = f"{name}/{entry.filename}"
            try:
                if entry.flag_bits & 1:
                    raise NotImplementedError
                with archive.open(entry) as file:
                    content = file.read(min(LARGEST_IMAGE, room) + 1)
            except NotImplementedError:
                yield path, b"", "It is encrypted or packed in a way that is not read here."
            except RuntimeError:
                yield path, b"", "It is encrypted."
            except Exception:  # noqa: BLE001 - decompressors raise what they like on hostile bytes
                yield path, b"", "It is damaged within the archive."
            else:
                if len(content) > room:
                    raise InputError(f"{_clean(name)} is too large when unpacked.", "Send it in parts.")
                room -= len(content)
                yield path, content, None


def _ignored(entry: zipfile.ZipInfo) -> bool:
    """Folders, and what systems put beside files."""
    parts = entry.filename.split("/")
    return entry.is_dir() or "__MACOSX" in parts or parts[-1] in (".DS_Store", "Thumbs.db", "desktop.ini")


def _clean(name: str) -> str:
    """A file name as one line of printable text."""
    text = printable(name.replace("\\", "/")).strip() or "image"
    return text if len(text) <= _LONGEST_NAME else f"…{text[1 - _LONGEST_NAME :]}"
