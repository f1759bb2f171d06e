"""Organisations, tokens, clients and readings for the tests of resolving."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from flask.testing import FlaskClient
from numpy.typing import NDArray
from sqlalchemy import select

from registry.accounts import tokens
from registry.accounts.models import Organisation
from registry.accounts.permissions import Role
from registry.api.document import Api
from registry.db import unix_now
from registry.generators import service as generators
from registry.home import Home
from registry.keys import service as keys
from registry.keys.models import UserKey
from tests.registry.support import MODEL, RECIPIENT
from verifier import phi

QUANTA = 128
"""The clip of the tiny model's network in its quanta."""


@dataclass(frozen=True)
class Caller:
    """A client of the application with one token."""

    client: FlaskClient
    token: str
    prefix: str

    def request(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        url = path if path.startswith("/c2pa") else f"/api/v1{path}"
        return self.client.open(url, method=method, json=body, headers=headers, **options)

    def get(self, path: str) -> Any:
        return self.request("GET", path)

    def post(self, path: str, body: Any) -> Any:
        return self.request("POST", path, body)


def organisation(home: Home, name: str) -> int:
    with home.database.write() as session:
        found = session.execute(select(Organisation).where(Organisation.name == name)).scalar_one_or_none()
        if found is None:
            found = Organisation(name=name, created_at=unix_now())
            session.add(found)
            session.flush()
        return found.id


def caller(home: Home, app: Api, owner: str = "default", role: Role = Role.AUDITOR) -> Caller:
    number = organisation(home, owner)
    with home.database.write() as session:
        row, secret = tokens.create(session, number, "test", role)
    return Caller(app.test_client(), secret, row.prefix)


def issue(home: Home, count: int = 1) -> list[str]:
    """Key ids (hex) of newly issued keys, in their order."""
    return [document["key_id"] for document in keys.Issuer.open(home, MODEL, RECIPIENT).issue(count)]


def signs(home: Home, key_id: str) -> NDArray[np.int64]:
    """The key itself, as only the registry can derive it."""
    with home.database.read() as session:
        key = keys.get_key(session, home.identity.registry, key_id)
    return phi.unpack(keys.derive(home, key)).astype(np.int64)


def user_key_ids(home: Home) -> list[int]:
    with home.database.read() as session:
        return list(session.execute(select(UserKey.id).order_by(UserKey.id)).scalars())


def network(home: Home) -> str:
    """The package digest of the model's newest network."""
    with home.database.read() as session:
        model = generators.get_model(session, MODEL)
        return generators.newest_network(session, model).digest.hex()


def query(home: Home, *readings: Any, **fields: Any) -> dict[str, Any]:
    """A request about one image with these readings."""
    listed = [np.asarray(reading).astype(int).tolist() for reading in readings]
    return {
        "model": MODEL,
        "network": network(home),
        "images": [{"path": "a.png", "readings": listed}],
        **fields,
    }
