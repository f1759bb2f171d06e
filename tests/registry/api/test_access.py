from __future__ import annotations

import pytest
from flask import Flask

from registry.accounts import tokens
from registry.accounts.permissions import PERMISSIONS, Permission, Role
from registry.api import access
from registry.api.document import Api
from registry.db import unix_now
from registry.home import Home
from tests.registry.api.client import Client, client


def test_a_stranger_is_told_how_to_sign_in_and_nothing_else(app: Api) -> None:
    refused = Client(app, None).get("/keys/ffffffffffffffffffffffff")
    assert refused.status_code == 401
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")
    # Checked before the input: malformed requests of strangers get the same answer.
    assert Client(app, None).post("/keys", data="{", content_type="text/plain").status_code == 401


@pytest.mark.parametrize("secret", ["", "hm_", "hm_000000000000_" + "a" * 43, "Basic x", "é"])
def test_a_token_that_nobody_gave_out_does_not_hold(app: Api, secret: str) -> None:
    assert Client(app, secret.encode().decode("latin-1")).get("/models").status_code == 401


def test_an_expired_or_revoked_token_does_not_hold(app: Api, ready: Home) -> None:
    with ready.database.write() as session:
        old, first = tokens.create(session, 1, "old", Role.VIEWER)
        old.expires_at = unix_now()
        gone, second = tokens.create(session, 1, "gone", Role.VIEWER)
        _, third = tokens.create(session, 1, "good", Role.VIEWER)
        tokens.revoke(session, 1, gone.prefix)
    assert [Client(app, secret).get("/models").status_code for secret in (first, second, third)] == [
        401,
        401,
        200,
    ]


def test_roles_and_scopes_limit_what_a_token_may(app: Api, ready: Home) -> None:
    order = {"model": "tiny", "recipient": "ada@example.org"}
    assert client(app, ready, Role.VIEWER).post("/keys", json=order).status_code == 403
    narrow = client(app, ready, Role.ADMIN, scopes=(Permission.READ_MODELS,))
    assert narrow.get("/models").status_code == 200
    assert narrow.post("/keys", json=order).status_code == 403
    assert client(app, ready, Role.ISSUER).post("/keys", json=order).status_code == 201


def test_who_may_not_read_recipients_sees_keys_without_names(app: Api, ready: Home) -> None:
    client(app, ready).post("/keys", json={"model": "tiny", "recipient": "ada@example.org"})
    (named,) = client(app, ready, Role.ISSUER).get("/keys").json["items"]
    (blank,) = client(app, ready, Role.VIEWER).get("/keys").json["items"]
    assert named["recipient"] == "ada@example.org"
    assert blank["recipient"] is None


def test_administrators_may_everything_and_viewers_change_nothing_but_their_own_account() -> None:
    assert PERMISSIONS[Role.ADMIN] == frozenset(Permission)
    writes = {p for p in PERMISSIONS[Role.VIEWER] if not p.value.endswith(":read")}
    assert writes <= {Permission.WRITE_ACCOUNT}


def test_a_route_that_names_no_permission_cannot_be_served() -> None:
    app = Flask(__name__, static_folder=None)
    app.add_url_rule("/silent", view_func=lambda: "", endpoint="silent")
    with pytest.raises(RuntimeError, match="silent"):
        access.check_routes(app)
