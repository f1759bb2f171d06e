"""The registry's own secrets for resolving, drawn when they are first needed and sealed under the master key.

secret(home, "sketches")                          # 32 bytes, the same for every worker
"""

from __future__ import annotations

import os

from sqlalchemy.exc import IntegrityError as DuplicateError

from registry.home import Home
from registry.resolve.models import ResolveSecret


def secret(home: Home, purpose: str) -> bytes:
    """The registry's 32 secret bytes for one purpose, drawn when they are first needed."""
    with home.database.read() as session:
        row = session.get(ResolveSecret, purpose)
    if row is None:
        drawn = ResolveSecret(purpose=purpose, sealed=home.master.seal(os.urandom(32), _purpose(purpose)))
        try:
            with home.database.write() as session:
                session.add(drawn)
        except DuplicateError:  # another worker drew it first
            return secret(home, purpose)
        row = drawn
    return home.master.open(row.sealed, _purpose(purpose))


def _purpose(purpose: str) -> str:
    return f"resolve-secret/{purpose}"
