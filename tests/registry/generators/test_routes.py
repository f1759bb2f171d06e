from __future__ import annotations

import hashlib
import io
import threading
from pathlib import Path

import pytest

from registry.accounts.permissions import Role
from registry.api.document import Api
from registry.home import Home
from registry.jobs import running
from registry.storage import folder_files
from tests.registry.api.client import Client, client
from tests.registry.support import TinyModel

BINARY = "application/octet-stream"


def _send(who: Client, upload: str, path: str, content: bytes) -> int:
    return who.request(
        "PUT", f"/uploads/{upload}/files/{path}", data=content, content_type=BINARY
    ).status_code


def _done(home: Home, who: Client, job: str) -> dict[str, object]:
    running.execute(home, job, threading.Event())
    found: dict[str, object] = who.get(f"/jobs/{job}").json
    return found


def test_models_are_shown_with_what_certificates_say_of_them(admin: Client) -> None:
    (listed,) = admin.get("/models").json["items"]
    shown = admin.get("/models/tiny@1").json
    assert listed == shown
    assert shown["bits"] == 32
    assert shown["networks"][0]["foreign_images"] == 20


def test_an_uploaded_folder_becomes_a_model(admin: Client, ready: Home, tiny: TinyModel) -> None:
    for path in folder_files(tiny.weights):
        content = (tiny.weights / path).read_bytes()
        answered = admin.request("PUT", f"/uploads/spring/files/{path}", data=content, content_type=BINARY)
        assert answered.status_code == 201
        assert answered.json["sha256"] == hashlib.sha256(content).hexdigest()
    assert admin.get("/uploads/spring").json["files"].keys() == set(folder_files(tiny.weights))

    order = {"name": "spring", "adapter": "latent-diffusion", "weights": "upload:spring", "bits": 32}
    started = admin.post("/models", json=order)
    assert started.status_code == 202
    ended = _done(ready, admin, started.json["job_id"])
    assert ended["state"] == "done", ended
    assert admin.get("/models/spring").json["digest"] == admin.get("/models/tiny").json["digest"]
    assert admin.get("/uploads/spring").status_code == 404  # it has become the model


def test_what_is_no_model_fails_with_a_reason_and_stays_for_another_try(admin: Client, ready: Home) -> None:
    assert _send(admin, "broken", "model.safetensors", b"no weights") == 201
    order = {"name": "broken", "adapter": "latent-diffusion", "weights": "upload:broken"}
    ended = _done(ready, admin, admin.post("/models", json=order).json["job_id"])
    assert ended["state"] == "failed"
    assert ended["error"]
    assert admin.get("/uploads/broken").status_code == 200
    assert admin.request("DELETE", "/uploads/broken").status_code == 204
    assert admin.get("/uploads/broken").status_code == 404


def test_uploads_belong_to_one_organisation(app: Api, admin: Client, ready: Home) -> None:
    _send(admin, "spring", "a.json", b"{}")
    other = client(app, ready, organisation="other")
    assert other.get("/uploads/spring").status_code == 404
    other.request("DELETE", "/uploads/spring")
    assert admin.get("/uploads/spring").json == {"files": {"a.json": 2}}
    assert _send(client(app, ready, Role.ISSUER), "spring", "a.json", b"") == 403


@pytest.mark.parametrize(
    "path", ["../model", "a/../../b", ".hidden", "a//b", "a/.b", "%2e%2e/b", "a%00b", "/etc/passwd"]
)
def test_no_path_leads_out_of_an_upload(admin: Client, ready: Home, tmp_path: Path, path: str) -> None:
    before = ready.storage.all_files()
    assert _send(admin, "spring", path, b"x") in (404, 405, 422, 308)
    assert ready.storage.all_files() == before


def test_a_body_that_is_cut_off_leaves_nothing(admin: Client, ready: Home) -> None:
    class Broken(io.RawIOBase):
        sent = 0

        def readinto(self, buffer: bytearray) -> int:
            if self.sent >= 10:
                raise OSError("the client went away")
            self.sent += 10
            return 10

    answered = admin.request(
        "PUT",
        "/uploads/spring/files/a",
        content_type=BINARY,
        environ_overrides={"wsgi.input": Broken(), "CONTENT_LENGTH": "100"},
    )
    assert answered.status_code in (400, 503)
    assert admin.get("/uploads/spring").status_code == 404


@pytest.mark.parametrize(
    "weights", ["/etc/passwd", "upload:../x", "builtin:flowers-ldm", "file:///etc", "upload:"]
)
def test_weights_of_the_server_cannot_be_named(admin: Client, weights: str) -> None:
    order = {"name": "x", "adapter": "latent-diffusion", "weights": weights}
    assert admin.post("/models", json=order).status_code == 422
