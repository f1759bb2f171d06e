"""Table of the attribution networks that read a model's fingerprints."""

from __future__ import annotations

from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from registry.db import Base


class NetworkVersion(Base):
    """One installed network package; later versions for the same basis resolve older copies too.

    ``digest`` is the digest of the package folder's manifest, ``foreign_images`` the number of foreign
    images whose logits screen keys at issue.
    """

    __tablename__ = "network_version"
    __table_args__ = (UniqueConstraint("model_id", "version"), UniqueConstraint("model_id", "digest"))

    id: Mapped[int] = mapped_column(primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("model.id"))
    version: Mapped[int]
    digest: Mapped[bytes]
    foreign_images: Mapped[int]
    installed_at: Mapped[int]
