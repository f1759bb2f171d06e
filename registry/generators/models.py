"""Table of registered models."""

from __future__ import annotations

from sqlalchemy import ForeignKey, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column

from registry.db import Base


class Model(Base):
    """A registered generator: base weights by digest, the secret of its keys, its fingerprint basis.

    ``scheme``, ``bits``, ``strength``, ``shift`` and ``psnr`` are what was asked for when the model was
    added (empty: left to the training); ``basis`` is the digest of the basis once there is one, and
    ``basis_bits`` and ``basis_strength`` (decimal text) are read from it. ``collusion_resistant`` models draw
    biased keys (:mod:`verifier.phi`).
    """

    __tablename__ = "model"
    __table_args__ = (UniqueConstraint("organisation_id", "name", "version"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    organisation_id: Mapped[int] = mapped_column(ForeignKey("organisation.id"), index=True)
    name: Mapped[str]
    version: Mapped[int]
    adapter: Mapped[str]
    digest: Mapped[bytes]
    scheme: Mapped[str | None]
    bits: Mapped[int | None]
    strength: Mapped[float | None]
    shift: Mapped[int | None]
    psnr: Mapped[float | None]
    collusion_resistant: Mapped[bool] = mapped_column(default=False, server_default=false())
    basis: Mapped[bytes | None]
    basis_bits: Mapped[int | None]
    basis_strength: Mapped[str | None]
    sealed_secret: Mapped[bytes]
    secret_commitment: Mapped[bytes]
    registered_at: Mapped[int]
    signature: Mapped[bytes]
    ledger_index: Mapped[int] = mapped_column(unique=True)

    @property
    def digest_text(self) -> str:
        """The digest of the base weights as documents carry it."""
        return f"sha256:{self.digest.hex()}"

    @property
    def label(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"
