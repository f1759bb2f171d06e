"""Exporting bundles: networks, checkpoint and revocations, and for auditors the key table.

    export(home, Path("flowers.bundle"), BundleOptions(with_keys=True, auditors=[public_key]))

Everything is read in one snapshot, so that the key table, the ledger's tiles and the checkpoint agree
while others go on issuing. The file format is the verifier's (:mod:`verifier.bundle`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from sqlalchemy.orm import Session

from registry.accounts import service as accounts
from registry.copies import service as copies
from registry.db import DAY_SECONDS, unix_now
from registry.errors import InputError, StateError
from registry.generators import service as generators
from registry.generators.models import Model
from registry.home import Home
from registry.keys import service as keys
from registry.ledger import service as ledger
from registry.lineage import service as lineage
from verifier import signing
from verifier.bundle import RECORD, BundleModel, KeyContent, ModelContent, Revocation, utc, write_bundle

Seen = Callable[[int], None]


@dataclass(frozen=True)
class BundleOptions:
    """What goes into a bundle.

    ``with_keys`` adds the key table (for authorised auditors only: it is secret), ``with_recipients``
    the recipients' addresses too; only ``auditors`` can read them, where any are named. ``model`` restricts
    it to one model. The models are those of ``organisation``; ``None`` stands for that of the command line.
    """

    with_keys: bool = False
    with_recipients: bool = False
    model: str | None = None
    organisation: int | None = None
    expires_days: int = 30
    auditors: Sequence[X25519PublicKey] = ()


def export(
    home: Home, out: Path, options: BundleOptions, progress: Callable[[int], Seen] = lambda _: lambda _: None
) -> signing.Document:
    """Write a bundle to ``out`` and return its manifest.

    ``progress`` is given the number of keys and returns what is told the keys done. :class:`StateError`
    where no model has a network yet.
    """
    _check(out, options)
    now = unix_now()
    with home.database.read() as session, ExitStack() as folders:
        chosen = _models(session, options)
        seen = progress(sum(keys.count(session, model) for model in chosen) if options.with_keys else 0)
        contents = []
        for model in chosen:
            network = generators.network_name(generators.newest_network(session, model))
            contents.append(
                ModelContent(
                    model=_describe(session, model),
                    network=folders.enter_context(home.storage.local(network)),
                    keys=_key_table(home, session, model, options, seen) if options.with_keys else None,
                )
            )
        return write_bundle(
            out,
            home.identity.signer,
            contents,
            checkpoint=ledger.checkpoint(session),
            # Seconds since 1970 grow from bundle to bundle without a counter to keep.
            serial=now,
            created_at=utc(now),
            expires_at=utc(now + options.expires_days * DAY_SECONDS),
            revocations=[
                # A reason may name people, as addresses do.
                Revocation(
                    revoked.key_id.hex(),
                    utc(revoked.revoked_at),
                    revoked.reason if options.with_recipients else "",
                )
                for revoked in keys.revocations(session, chosen)
            ],
            ledger=_levels(session) if options.with_keys else (),
            auditors=options.auditors,
            lineage=lineage.members(session, chosen if options.model else _everything(session, options)),
        )


def _check(out: Path, options: BundleOptions) -> None:
    if options.with_recipients and not options.with_keys:
        raise InputError("--with-recipients needs --with-keys.", "Addresses belong to keys.")
    if options.auditors and not options.with_keys:
        raise InputError("only a bundle with keys can be for auditors.", "Add --with-keys.")
    keys.check_expiry(options.expires_days)
    if out.is_dir():
        raise InputError(f"{out} is a folder.", "Name the file to write with --out.")
    if not out.absolute().parent.is_dir():
        raise InputError(f"{out.absolute().parent}: no such folder.", "Name a file in a folder that exists.")


def _models(session: Session, options: BundleOptions) -> Sequence[Model]:
    owner = accounts.owner(session, options.organisation)
    if options.model is not None:
        return [generators.get_model(session, options.model, owner)]
    trained = [model for model in generators.models(session, owner) if generators.networks(session, model)]
    if not trained:
        raise StateError("no model has an attribution network yet.", "Run `registry model train NAME`.")
    return trained


def _everything(session: Session, options: BundleOptions) -> Sequence[Model]:
    """All models of the organisation: lineage is told of those without keys too."""
    return generators.models(session, accounts.owner(session, options.organisation))


def _describe(session: Session, model: Model) -> BundleModel:
    q, images = keys.screening(session, model)
    assert model.basis is not None
    assert model.basis_bits is not None
    assert model.basis_strength is not None
    return BundleModel(
        name=model.name,
        version=model.version,
        digest=model.digest_text,
        adapter=model.adapter,
        bits=model.basis_bits,
        basis=model.basis.hex(),
        scheme=keys.scheme(model),
        strength=model.basis_strength,
        secret_commitment=model.secret_commitment.hex(),
        keys_issued=keys.count(session, model),
        screening_q=q,
        screening_images=images,
    )


def _key_table(home: Home, session: Session, model: Model, options: BundleOptions, seen: Seen) -> KeyContent:
    delivered = copies.copy_digests(session, model)
    everyone = accounts.recipients(session) if options.with_recipients else []
    numbers = {recipient.id: i for i, recipient in enumerate(everyone, 1)}
    records = np.zeros(keys.count(session, model), RECORD)
    for i, row in enumerate(keys.rows(session, model)):
        records[i] = (
            _octets(row.key_id),
            row.redraws,
            _octets(row.recipient_commitment),
            _octets(row.commitment),
            row.issued_at,
            row.expires_at or 0,
            row.ledger_index,
            _octets(delivered.get(row.id, bytes(32))),
            numbers.get(row.recipient_id, 0),
            _octets(row.signature),
        )
        seen(i + 1)
    secret = generators.model_secret(home.master, model)
    key_ids = [key_id.tobytes() for key_id in records["key_id"]]
    return KeyContent(
        phi=keys.derive_table(secret, model, key_ids, records["redraws"].tolist()),
        records=records,
        biases=keys.biases(home.master, model),
        recipients=[recipient.email for recipient in everyone] if options.with_recipients else None,
    )


def _octets(value: bytes) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.frombuffer(value, np.uint8)


def _levels(session: Session) -> list[bytes]:
    levels: list[bytes] = []
    while hashes := ledger.level_hashes(session, len(levels)):
        levels.append(hashes)
    return levels
