"""Receipts that recipients confirm with their own keys (:mod:`verifier.countersign`).

add(home, key, download, document)                   # verified, stored, logged
find(session, registry, download)                    # the document again, rebuilt from its row
"""

from __future__ import annotations

from collections.abc import Generator

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.accounts.models import Recipient
from registry.copies import deliveries
from registry.copies.models import Countersignature, Download
from registry.db import stream, unix_now
from registry.errors import StateError
from registry.home import Home
from registry.identity import signature_bytes, signature_text
from registry.keys.models import UserKey
from registry.ledger import service as ledger
from registry.ledger.audit import Record
from verifier import countersign, signing
from verifier.certificate import leaf


def add(home: Home, key: UserKey, download: Download, document: signing.Document) -> signing.Document:
    """Log the recipient's confirmation of a delivery; the same one again changes nothing.

    :class:`StateError` for a delivery without a receipt or a recipient without a registered key,
    :class:`verifier.errors.TrustError` for a signature that does not hold.
    """
    if download.state != deliveries.DELIVERED:
        raise StateError(f"{download.download_id} is {download.state}, so there is no receipt to confirm.")
    with home.database.read() as session:
        public = session.get_one(Recipient, key.recipient_id).public_key
    if public is None:
        raise StateError(
            "the recipient has no public key here.", "Register it with `registry recipient add --public-key`."
        )
    receipt = deliveries.receipt(home.identity.registry, download, key.key_id, key.recipient_commitment)
    countersign.verify_countersignature(document, receipt, Ed25519PublicKey.from_public_bytes(public))
    with home.database.write() as session:
        session.execute(select(Download.id).where(Download.id == download.id).with_for_update())
        if session.get(Countersignature, download.id) is None:
            session.add(
                Countersignature(
                    download_id=download.id,
                    signature=signature_bytes(document),
                    signed_at=unix_now(),
                    ledger_index=ledger.append(
                        session, home.identity, ledger.COUNTERSIGNATURE, [leaf(document)]
                    ),
                )
            )
    return document


def find(session: Session, registry: str, download: Download) -> signing.Document | None:
    """The recipient's confirmation of a delivery, ``None`` where there is none."""
    query = _SELECTED.where(Download.id == download.id)
    found = session.execute(query).one_or_none()
    return None if found is None else _document(registry, *found)


def records(session: Session, registry: str) -> Generator[Record]:
    """All countersignatures in ledger order, rebuilt from their rows."""
    for row in stream(session, _SELECTED.order_by(Countersignature.ledger_index)):
        yield row.Countersignature.ledger_index, _document(registry, *row)


_SELECTED = (
    select(Countersignature, Download, UserKey.key_id, UserKey.recipient_commitment)
    .join(Download, Download.id == Countersignature.download_id)
    .join(UserKey, UserKey.id == Download.user_key_id)
)


def _document(
    registry: str, row: Countersignature, download: Download, key_id: bytes, recipient: bytes
) -> signing.Document:
    receipt = deliveries.receipt(registry, download, key_id, recipient)
    return {**countersign.unsigned(receipt), "signature": signature_text(row.signature)}
