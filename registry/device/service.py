"""The networks that somebody may read images with, and their files.

with home.database.read() as session:
    readable = service.networks(session, organisation)       # one for each model, the newest
    name = service.file(session, organisation, digest, "network.onnx")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from registry.attribution.models import NetworkVersion
from registry.errors import NotFoundError
from registry.generators import service as generators
from registry.resolve import grants

FILES = ("network.json", "network.onnx")
"""What a reader needs of a network package."""


@dataclass(frozen=True)
class Readable:
    """A model as queries name it, and the digest (hex) of its newest network package."""

    label: str
    digest: str


def networks(session: Session, organisation: int) -> list[Readable]:
    """The newest network of each model that the organisation may resolve on, where it has one."""
    rows = session.execute(grants.targets(organisation)).all()
    targets = [grants.Target(*row[:3]) for row in rows]
    found = [(target, generators.networks(session, target.model)) for target in targets]
    return [Readable(target.label, installed[-1].digest.hex()) for target, installed in found if installed]


def file(session: Session, organisation: int, digest: str, name: str) -> str:
    """Where the storage has a file of a network package; :class:`NotFoundError` for what is not for them."""
    if name in FILES:
        for row in session.execute(grants.targets(organisation)):
            network = _of(generators.networks(session, row.Model), digest)
            if network is not None:
                return f"{generators.network_name(network)}/{name}"
    raise NotFoundError("there is no such network.", "Reload the page.")


def _of(installed: Sequence[NetworkVersion], digest: str) -> NetworkVersion | None:
    return next((network for network in installed if network.digest.hex() == digest), None)
