"""Tables of C2PA: the registry's claim-signing authority and the manifests it signed."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from registry.db import Base


class C2paAuthority(Base):
    """The certificate authority of this registry and its claim signer: one row.

    ``root`` and ``signer`` are certificates in DER, their private keys PKCS #8, sealed; ``sealed_binding``
    holds the 32 bytes under which binding values are blinded.
    """

    __tablename__ = "c2pa_authority"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    root: Mapped[bytes]
    sealed_root_key: Mapped[bytes]
    signer: Mapped[bytes]
    sealed_signer_key: Mapped[bytes]
    sealed_binding: Mapped[bytes]
    created_at: Mapped[int]


class C2paManifest(Base):
    """The manifest of one copy: its C2PA identifier, the blinded value of its soft binding, its digest."""

    __tablename__ = "c2pa_manifest"

    user_key_id: Mapped[int] = mapped_column(ForeignKey("user_key.id"), primary_key=True, autoincrement=False)
    manifest_id: Mapped[str] = mapped_column(unique=True)
    binding: Mapped[bytes] = mapped_column(unique=True)
    sha256: Mapped[bytes]
    built_at: Mapped[int]
