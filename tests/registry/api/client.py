"""A client of the HTTP application, for one organisation and role."""

from __future__ import annotations

from typing import Any

from werkzeug.test import TestResponse

from registry.accounts import service as accounts
from registry.accounts import tokens
from registry.accounts.models import Organisation
from registry.accounts.permissions import Permission, Role
from registry.api.document import Api
from registry.home import Home


class Client:
    """Requests with an API token; paths are below ``/api/v1``."""

    def __init__(self, app: Api, token: str | None) -> None:
        self._client = app.test_client()
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def request(
        self, method: str, path: str, headers: dict[str, str] | None = None, **options: Any
    ) -> TestResponse:
        return self._client.open(
            f"/api/v1{path}", method=method, headers={**self._headers, **(headers or {})}, **options
        )

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> TestResponse:
        return self.request("POST", path, **options)


def client(
    app: Api,
    home: Home,
    role: Role = Role.ADMIN,
    organisation: str | None = None,
    scopes: tuple[Permission, ...] = (),
) -> Client:
    """A client of the organisation called so, which is made if it is new; ``None``: the first one."""
    with home.database.write() as session:
        if organisation is None:
            owner = accounts.default_organisation(session).id
        else:
            row = session.query(Organisation).filter_by(name=organisation).one_or_none()
            if row is None:
                row = Organisation(name=organisation, created_at=0)
                session.add(row)
                session.flush()
            owner = row.id
        _, secret = tokens.create(session, owner, "test", role, scopes=scopes)
    return Client(app, secret)
