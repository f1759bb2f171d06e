"""Opening a key's commitment, for a dispute: its bits and blinder, with everything that proves them.

    document = openings.open_commitment(home, key_id, "court order 12/26")    # hallmark/opening/1

With the document (:mod:`verifier.opening`) anybody can compute the registry's verdict about this key again,
and forge this key's fingerprint. So it is for administrators, and the security log keeps who asked, and why.
Other keys stay secret: bits and blinders are derived key by key.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from registry.accounts import security
from registry.errors import InputError
from registry.generators import service as generators
from registry.home import Home
from registry.keys import service
from registry.ledger import service as ledger
from verifier.opening import Opening

OPENED = "key.opened"
LONGEST_REASON = 500


def opening_of(home: Home, session: Session, key: service.IssuedKey) -> Opening:
    """What opens a key's commitment, verified as a reader will. It is secret, and nothing is logged here.

    :class:`TrustError` if what is stored does not prove what is derived.
    """
    secret = generators.model_secret(home.master, key.model)
    opening = Opening(
        registry=home.identity.registry,
        public_key=home.identity.public_text,
        certificate=key.document,
        inclusion=ledger.describe_inclusion(
            session, home.identity, ledger.entry(session, key.row.ledger_index)
        ),
        phi=service.derive(home, key).tobytes().hex(),
        blinder=secret.blinders([key.row.key_id], [key.row.redraws])[0].tobytes().hex(),
    )
    opening.verify(home.identity.registry)
    return opening


def open_commitment(
    home: Home, reference: str, reason: str, organisation: int | None = None
) -> dict[str, Any]:
    """The opened commitment of a key (of an organisation's models), for its reader; it is logged.

    :class:`NotFoundError` if no such key was issued, :class:`InputError` without a ``reason``; otherwise as
    :func:`opening_of`, and where that raises nothing is disclosed.
    """
    reason = " ".join(reason.split())
    if not reason or len(reason) > LONGEST_REASON:
        raise InputError("--reason is empty or too long.", "Say in a sentence why the key is opened.")
    with home.database.write() as session:
        key = service.get_key(session, home.identity.registry, reference, organisation)
        opening = opening_of(home, session, key)
        whose = key.model.organisation_id
        security.record(session, OPENED, organisation=whose, key=opening.key_id, reason=reason)
    return opening.document()
