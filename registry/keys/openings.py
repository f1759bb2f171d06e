"""Opening a key's commitment, for a dispute: its bits and blinder, with everything that proves them.

    document = openings.open_commitment(home, key_id, "court order 12/26")    # hallmark/opening/1

With the document (:mod:`verifier.opening`) anybody can compute the registry's verdict about this key again,
and forge this key's fingerprint. So it is for administrators, and the security log keeps who asked, and why.
Other keys stay secret: bits and blinders are derived key by key.
"""

from __future__ import annotations

from typing import Any

from registry.accounts import security
from registry.errors import InputError
from registry.generators import service as generators
from registry.home import Home
from registry.keys import service
from registry.ledger import service as ledger
from verifier.opening import Opening

OPENED = "key.opened"
LONGEST_REASON = 500


def open_commitment(
    home: Home, reference: str, reason: str, organisation: int | None = None
) -> dict[str, Any]:
    """The opened commitment of a key (of an organisation's models), verified as its reader will, and logged.

    :class:`NotFoundError` if no such key was issued, :class:`InputError` without a ``reason``, a
    :class:`TrustError` if what is stored does not prove what is derived; then nothing is disclosed.
    """
    reason = " ".join(reason.split())
    if not reason or len(reason) > LONGEST_REASON:
        raise InputError("--reason is empty or too long.", "Say in a sentence why the key is opened.")
    registry = home.identity.registry
    with home.database.write() as session:
        key = service.get_key(session, registry, reference, organisation)
        logged = ledger.entry(session, key.row.ledger_index)
        inclusion = ledger.describe_inclusion(session, home.identity, logged)
        secret = generators.model_secret(home.master, key.model)
        blinder = secret.blinders([key.row.key_id], [key.row.redraws])[0].tobytes()
        opening = Opening(
            registry=registry,
            public_key=home.identity.public_text,
            certificate=key.document,
            inclusion=inclusion,
            phi=service.derive(home, key).tobytes().hex(),
            blinder=blinder.hex(),
        )
        opening.verify(registry)
        whose = key.model.organisation_id
        security.record(session, OPENED, organisation=whose, key=opening.key_id, reason=reason)
    return opening.document()
