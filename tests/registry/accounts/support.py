"""A browser for tests: cookies, the CSRF token, and a passkey of its own."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass, field
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from flask.testing import FlaskClient
from webauthn.helpers import base64url_to_bytes, bytes_to_base64url
from werkzeug.test import TestResponse

from registry.accounts import people
from registry.accounts.permissions import Role
from registry.app import create_app
from registry.home import Home

PASSWORD = "correct horse battery staple"
ADMIN = "ada"
ORIGIN = "http://localhost"


def add_admin(home: Home, name: str = ADMIN, organisation: str | None = None) -> None:
    """An administrator with :data:`PASSWORD`, of the operator's organisation or a new one."""
    add_person(home, name, Role.ADMIN, organisation)


def add_person(home: Home, name: str, role: Role, organisation: str | None = None) -> None:
    """A person with :data:`PASSWORD`."""
    with home.database.write() as session:
        known = {found.name for found in people.organisations(session)}
        if organisation is not None and organisation not in known:
            people.add_organisation(session, organisation)
        owner = people.organisation(session, organisation)
        person = people.add_person(session, owner.id, name, role)
        people.set_password(session, person, PASSWORD)


def admins_browser(home: Home) -> Browser:
    """That of an administrator who is new and signed in."""
    add_admin(home)
    browser = Browser(home)
    browser.sign_in()
    return browser


class Browser:
    """A browser on the application of ``home``."""

    def __init__(self, home: Home, app: Any = None) -> None:
        self.app = app or create_app(home)
        self.client: FlaskClient = self.app.test_client()
        self.csrf = ""

    def sign_in(self, name: str = ADMIN, password: str = PASSWORD) -> TestResponse:
        return self._keep(self.client.post("/api/v1/session", json={"name": name, "password": password}))

    def get(self, path: str) -> TestResponse:
        return self.client.get(f"/api/v1{path}")

    def send(self, method: str, path: str, body: Any = None, csrf: bool = True) -> TestResponse:
        headers = {"X-CSRF-Token": self.csrf} if csrf else {}
        sent = {} if body is None else {"json": body}
        return self._keep(self.client.open(f"/api/v1{path}", method=method, headers=headers, **sent))

    def state(self) -> dict[str, Any]:
        return dict(self.get("/session").get_json())

    def cookie(self) -> str:
        found = self.client.get_cookie("hallmark_session")
        return "" if found is None else found.value

    def _keep(self, response: TestResponse) -> TestResponse:
        if response.status_code == 200 and response.is_json:
            self.csrf = response.get_json().get("csrf_token") or self.csrf
        return response


@dataclass
class Key:
    """A software authenticator (ES256, attestation "none"), as a browser would answer with it."""

    verifies_user: bool = True
    counter: int = 0
    private: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    @property
    def id(self) -> bytes:
        return hashlib.sha256(str(self.private.private_numbers().private_value).encode()).digest()

    def create(self, options: dict[str, Any], origin: str = ORIGIN) -> dict[str, Any]:
        """The answer of ``navigator.credentials.create()``."""
        numbers = self.private.public_key().public_numbers()
        cose = {1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32, "big"), -3: numbers.y.to_bytes(32, "big")}
        data = self._data(options["rp"]["id"], attested=True)
        data += bytes(16) + struct.pack(">H", len(self.id)) + self.id + cbor2.dumps(cose)
        attestation = cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": data})
        client = self._client("webauthn.create", options["challenge"], origin)
        return self._answer(clientDataJSON=client, attestationObject=attestation)

    def get(self, options: dict[str, Any], origin: str = ORIGIN) -> dict[str, Any]:
        """The answer of ``navigator.credentials.get()``."""
        self.counter += 1
        data = self._data(options["rpId"])
        client = self._client("webauthn.get", options["challenge"], origin)
        signed = self.private.sign(data + hashlib.sha256(client).digest(), ec.ECDSA(hashes.SHA256()))
        return self._answer(clientDataJSON=client, authenticatorData=data, signature=signed)

    def _data(self, host: str, attested: bool = False) -> bytes:
        flags = 0x01 | (0x04 if self.verifies_user else 0) | (0x40 if attested else 0)
        return hashlib.sha256(host.encode()).digest() + struct.pack(">BI", flags, self.counter)

    def _client(self, kind: str, challenge: str, origin: str) -> bytes:
        assert len(base64url_to_bytes(challenge)) == 32
        return json.dumps({"type": kind, "challenge": challenge, "origin": origin}).encode()

    def _answer(self, **response: bytes) -> dict[str, Any]:
        name = bytes_to_base64url(self.id)
        encoded = {key: bytes_to_base64url(value) for key, value in response.items()}
        return {"id": name, "rawId": name, "type": "public-key", "response": encoded}
