"""Tables of the models' lineage: fingerprints of their images, and what their weights tell."""

from __future__ import annotations

from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from registry.db import Base


class LineageFingerprint(Base):
    """Where sets of a model's own samples lie under one lineage network.

    ``network`` is the SHA-256 of that network's files, ``embedding`` a unit vector of float32 in little
    endian, from ``samples`` images of side ``size``.
    """

    __tablename__ = "lineage_fingerprint"
    __table_args__ = (UniqueConstraint("model_id", "network"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("model.id"))
    network: Mapped[bytes]
    embedding: Mapped[bytes]
    samples: Mapped[int]
    size: Mapped[int]
    computed_at: Mapped[int]


class WeightKin(Base):
    """The model registered before whose weights a model's descend from (:mod:`registry.lineage.weights`)."""

    __tablename__ = "weight_kin"

    model_id: Mapped[int] = mapped_column(ForeignKey("model.id"), primary_key=True)
    kin_id: Mapped[int] = mapped_column(ForeignKey("model.id"), index=True)
    likeness: Mapped[float]
