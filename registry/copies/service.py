"""Delivering copies: composed while they are written, recorded, receipted.

    delivery = download(home, "copy-<key id>", Path("ada"), Path("ada.receipt.json"))
    delivery.receipt["sha256"]

A copy is the model's template with the key's deltas added to a few tensors and the certificate written
into the file headers, plus ``hallmark.json``: a signed list of the files. It is never stored; every
rebuild gives the same bytes, and a rebuild that does not is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import socket
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.accounts import service as accounts
from registry.copies.models import DeliveredCopy, Download
from registry.copies.splice import Delta, Spliced, splice, whole
from registry.db import stream, unix_now
from registry.errors import InputError, IntegrityError, StateError
from registry.fingerprints.basis import Basis
from registry.generators import service as generators
from registry.generators.models import Model
from registry.home import Home
from registry.identity import signature_bytes, signature_text
from registry.interrupts import between_steps
from registry.keys import service as keys
from registry.keys.models import UserKey
from registry.keys.service import IssuedKey
from registry.ledger import service as ledger
from registry.ledger.audit import Record
from registry.storage import (
    Manifest,
    Storage,
    atomic_file,
    atomic_folder,
    manifest_digest,
    require_new_folder,
)
from verifier import inspect, signing
from verifier.bundle import utc
from verifier.certificate import COPY_PREFIX, leaf
from verifier.inspect import CERTIFICATE_METADATA, PUBLIC_KEY_METADATA
from verifier.phi import unpack

STARTED, DELIVERED, ABORTED = "started", "delivered", "aborted"

Seen = Callable[[int], None]


@dataclass(frozen=True)
class Plan:
    """All files of one copy as byte ranges: path -> (storage name of its base, pieces)."""

    files: Mapping[str, tuple[str, Spliced]]

    @property
    def size(self) -> int:
        """Bytes of all files together, ``hallmark.json`` aside."""
        return sum(spliced.size for _, spliced in self.files.values())


@dataclass(frozen=True)
class Delivery:
    """A delivered copy's signed receipt and the file that holds it."""

    receipt: signing.Document
    receipt_path: Path


def plan(home: Home, key: IssuedKey) -> Plan:
    """Lay out the copy of ``key``: which bytes come from the template and which are its own."""
    template = generators.template_name(key.model)
    deltas = _deltas(home, key)
    metadata = {
        CERTIFICATE_METADATA: signing.canonical(key.document).decode(),
        PUBLIC_KEY_METADATA: home.identity.public_text,
    }
    files = {}
    for path, size in home.storage.files(template).items():
        name = f"{template}/{path}"
        files[path] = (name, _spliced(home.storage, name, size, deltas.pop(path, {}), metadata))
    if deltas:
        raise IntegrityError(f"{template} lacks {sorted(deltas)[0]}, which the basis changes.")
    return Plan(files)


def compose(home: Home, key: IssuedKey, copy: Plan, folder: Path, seen: Seen = lambda _: None) -> Manifest:
    """Write the copy into ``folder`` and return its manifest; ``seen`` is told the bytes written."""
    manifest: Manifest = {}
    written = 0
    for path, (name, spliced) in copy.files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with home.storage.open(name) as base, target.open("xb") as file:
            for chunk in spliced.chunks(base):
                file.write(chunk)
                digest.update(chunk)
                written += len(chunk)
                seen(written)
            file.flush()
            os.fsync(file.fileno())
        manifest[path] = {"sha256": digest.hexdigest(), "size": spliced.size}
    (folder / inspect.MANIFEST).write_bytes(_copy_document(home, key, manifest))
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
        started, placed = _start(home, key), False
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
                    _compare_digest(session, key, sha256)
                check()
            placed = True
            document = _finish(home, key, started, sha256, copy.size)
        except BaseException:
            if placed:
                shutil.rmtree(out, ignore_errors=True)
            _abort(home, started)
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


def records(session: Session, registry: str) -> Generator[Record]:
    """All receipts in ledger order, rebuilt from their rows."""
    query = (
        select(Download, UserKey.key_id, UserKey.recipient_commitment)
        .join(UserKey, UserKey.id == Download.user_key_id)
        .where(Download.state == DELIVERED)
        .order_by(Download.ledger_index)
    )
    for row, key_id, recipient in stream(session, query):
        assert row.ledger_index is not None, "a delivery and its ledger entry are one transaction"
        assert row.signature is not None
        unsigned = _receipt(registry, row, key_id, recipient)
        yield row.ledger_index, {**unsigned, "signature": signature_text(row.signature)}


def _refuse(key: IssuedKey, out: Path, receipt: Path) -> None:
    require_new_folder(out)
    if key.revoked:
        raise StateError(
            f"key {key.row.key_id.hex()} is revoked, so its copy is no longer delivered.", "Issue a new key."
        )
    if key.row.expires_at is not None and key.row.expires_at < unix_now():
        raise StateError(
            f"the certificate of {key.row.key_id.hex()} expired at {utc(key.row.expires_at)}.",
            "Issue a new key.",
        )
    if receipt.exists():
        raise InputError(f"{receipt} already exists.", "Name another file with --receipt.")
    if receipt.parent != out.parent and not receipt.parent.is_dir():
        raise InputError(f"{receipt.parent}: no such folder.", "Name a file in a folder that exists.")


def _deltas(home: Home, key: IssuedKey) -> dict[str, dict[str, Delta]]:
    """What the key adds, by file and tensor."""
    with home.storage.local(generators.basis_name(key.model)) as path:
        basis = Basis.load(path)
    if key.model.basis is None or basis.digest != key.model.basis.hex():
        raise IntegrityError(f"the stored basis of model {key.model.label} does not have its digest.")
    by_file: dict[str, dict[str, Delta]] = {}
    for (file, tensor), delta in basis.deltas(unpack(keys.derive(home, key))).items():
        by_file.setdefault(file, {})[tensor] = delta
    return by_file


def _spliced(
    storage: Storage, name: str, size: int, deltas: Mapping[str, Delta], metadata: Mapping[str, str]
) -> Spliced:
    if not deltas:
        return whole(size)
    with storage.open(name) as base:
        return splice(base, size, deltas, metadata)


def _copy_document(home: Home, key: IssuedKey, manifest: Manifest) -> bytes:
    document = home.identity.sign(
        {
            "schema": inspect.SCHEMA,
            "registry": home.identity.registry,
            "public_key": home.identity.public_text,
            "adapter": key.model.adapter,
            "certificate": key.document,
            "files": manifest,
        }
    )
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"


def _start(home: Home, key: IssuedKey) -> Download:
    started = Download(
        download_id=f"download-{secrets.token_hex(12)}",
        user_key_id=key.row.id,
        actor=accounts.user_name(),
        origin=socket.gethostname(),
        state=STARTED,
        started_at=unix_now(),
    )
    with home.database.write() as session:
        session.add(started)
    return started


def _abort(home: Home, started: Download) -> None:
    with home.database.write() as session:
        row = session.get_one(Download, started.id)
        row.state, row.ended_at = ABORTED, unix_now()


def _finish(home: Home, key: IssuedKey, started: Download, sha256: str, size: int) -> signing.Document:
    """Record the delivery, its receipt and the copy's digest in one transaction with the ledger."""
    with home.database.write() as session:
        row = session.get_one(Download, started.id)
        row.state, row.ended_at = DELIVERED, unix_now()
        row.sha256, row.size = bytes.fromhex(sha256), size
        unsigned = _receipt(home.identity.registry, row, key.row.key_id, key.row.recipient_commitment)
        document = home.identity.sign(unsigned)
        row.signature = signature_bytes(document)
        row.ledger_index = ledger.append(session, home.identity, ledger.RECEIPT, [leaf(document)])
        # The ledger is locked by now, so of two first deliveries at once one finds the other's digest.
        if not _compare_digest(session, key, sha256):
            session.add(
                DeliveredCopy(
                    user_key_id=key.row.id,
                    sha256=row.sha256,
                    size=size,
                    first_delivered_at=row.ended_at,
                )
            )
    return document


def _compare_digest(session: Session, key: IssuedKey, sha256: str) -> bool:
    """Whether the copy was delivered before; :class:`IntegrityError` if with another digest."""
    known = session.get(DeliveredCopy, key.row.id)
    if known is not None and known.sha256.hex() != sha256:
        raise IntegrityError(
            f"the rebuilt copy has SHA-256 {sha256}, but {known.sha256.hex()} was delivered before; "
            "nothing was delivered.",
            "The storage was altered or damaged; restore it from its backup.",
        )
    return known is not None


def _receipt(registry: str, row: Download, key_id: bytes, recipient: bytes) -> dict[str, Any]:
    assert row.sha256 is not None, "only a finished delivery has a receipt"
    assert row.ended_at is not None
    return {
        "schema": ledger.RECEIPT,
        "registry": registry,
        "download_id": row.download_id,
        "copy_id": COPY_PREFIX + key_id.hex(),
        "key_id": key_id.hex(),
        "recipient": recipient.hex(),
        "sha256": row.sha256.hex(),
        "bytes": row.size,
        "delivered_at": utc(row.ended_at),
    }
