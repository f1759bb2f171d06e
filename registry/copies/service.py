"""Delivering copies: composed while they are written or sent, recorded, receipted.

    delivery = download(home, "copy-<key id>", Path("ada"), Path("ada.receipt.json"))
    delivery.receipt["sha256"]

What a copy consists of is in :mod:`registry.copies.build`, what is recorded of its deliveries in
:mod:`registry.copies.deliveries`; over HTTP (:mod:`registry.copies.routes`) the same bytes are streamed. A
copy is never stored; every rebuild gives the same bytes, and a rebuild that does not is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.accounts import service as accounts
from registry.copies.build import Plan, Seen, assemble, plan
from registry.copies.countersignatures import records as countersignature_records
from registry.copies.deliveries import (
    ABORTED,
    DELIVERED,
    FOLDER,
    STARTED,
    Requester,
    abort,
    compare_digest,
    finish,
    records,
    refuse,
    start,
)
from registry.copies.models import DeliveredCopy, Download
from registry.errors import InputError, StateError
from registry.generators.models import Model
from registry.home import Home
from registry.interrupts import between_steps
from registry.keys import service as keys
from registry.keys.models import UserKey
from registry.keys.service import IssuedKey
from registry.storage import Manifest, atomic_file, atomic_folder, manifest_digest, require_new_folder
from verifier import signing

__all__ = [
    "ABORTED",
    "DELIVERED",
    "STARTED",
    "Delivery",
    "compose",
    "copy_digests",
    "countersignature_records",
    "download",
    "downloads",
    "is_copy",
    "plan",
    "records",
]


@dataclass(frozen=True)
class Delivery:
    """A delivered copy's signed receipt and the file that holds it."""

    receipt: signing.Document
    receipt_path: Path


def compose(home: Home, key: IssuedKey, copy: Plan, folder: Path, seen: Seen = lambda _: None) -> Manifest:
    """Write the copy into ``folder`` and return its manifest; ``seen`` is told the bytes written."""
    manifest: Manifest = {}
    written = 0
    for path, layout in copy.files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with target.open("xb") as file:
            for chunk in layout.chunks(home.storage):
                file.write(chunk)
                digest.update(chunk)
                written += len(chunk)
                seen(written)
            file.flush()
            os.fsync(file.fileno())
        manifest[path] = {"sha256": digest.hexdigest(), "size": layout.size}
    for path, content in assemble(home, key, copy, manifest).statements.items():
        (folder / path).write_bytes(content)
    return manifest


def download(
    home: Home,
    reference: str,
    out: Path,
    receipt: Path | None = None,
    progress: Callable[[int], Seen] = lambda _: lambda _: None,
) -> Delivery:
    """Deliver a copy into the new folder ``out`` and its receipt into the file ``receipt``.

    The delivery is recorded when it starts; the copy's digest at the first full delivery. Whatever
    stops it (an error, Ctrl-C) leaves no folder and a delivery recorded as aborted.
    :class:`InputError` for an unknown copy or an ``out`` that exists, :class:`StateError` for a revoked
    key, :class:`IntegrityError` where the rebuilt bytes are not those delivered before.
    """
    receipt = receipt or out.with_name(f"{out.name}.receipt.json")
    with home.database.read() as session:
        key = keys.get_key(session, home.identity.registry, reference)
    _refuse(key, out, receipt)
    with between_steps() as check:  # from the renamed folder to the receipt nothing may come between
        started, placed = start(home, key, _here(), FOLDER), False
        try:
            with atomic_folder(out) as folder:
                copy = plan(home, key)
                seen = progress(copy.size)

                def step(done: int) -> None:
                    check()
                    seen(done)

                manifest = compose(home, key, copy, folder, step)
                sha256 = manifest_digest(manifest)
                with home.database.read() as session:
                    compare_digest(session, key, sha256)
                check()
            placed = True
            document = finish(home, key, started, sha256, copy.size)
        except BaseException:
            if placed:
                shutil.rmtree(out, ignore_errors=True)
            abort(home, started)
            raise
        with atomic_file(receipt) as file:
            file.write(json.dumps(document, indent=2).encode() + b"\n")
    return Delivery(document, receipt)


def copy_digests(session: Session, model: Model) -> dict[int, bytes]:
    """Digests of the delivered copies of a model by the id of their key."""
    query = (
        select(DeliveredCopy.user_key_id, DeliveredCopy.sha256)
        .join(UserKey, UserKey.id == DeliveredCopy.user_key_id)
        .where(UserKey.model_id == model.id)
    )
    return {row.user_key_id: row.sha256 for row in session.execute(query)}


def downloads(session: Session) -> Sequence[Download]:
    """All deliveries in the order they were started."""
    return session.execute(select(Download).order_by(Download.id)).scalars().all()


def is_copy(home: Home, weights: Path) -> bool:
    """Whether the weights (file or folder) depend on the key of a copy of any model: see `registry trace`.

    Whoever asks has checked them: what `registry trace` cannot read, such as a pickle that nobody needs
    beside safetensors, is no copy.
    """
    from registry.copies.trace import trace

    try:
        return trace(home, weights).attributed
    except (InputError, StateError):  # the latter: no model has a basis yet, so there is no copy
        return False


def _refuse(key: IssuedKey, out: Path, receipt: Path) -> None:
    require_new_folder(out)
    refuse(key)
    if receipt.exists():
        raise InputError(f"{receipt} already exists.", "Name another file with --receipt.")
    if receipt.parent != out.parent and not receipt.parent.is_dir():
        raise InputError(f"{receipt.parent}: no such folder.", "Name a file in a folder that exists.")


def _here() -> Requester:
    """Who runs this command, on this machine."""
    return Requester(accounts.user_name(), socket.gethostname())
