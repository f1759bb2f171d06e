from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import create_engine, text
from werkzeug.test import TestResponse

from registry.accounts.models import Recipient, SecurityEvent
from registry.accounts.permissions import Role
from registry.api.document import Api
from registry.app import create_app
from registry.copies import deliveries
from registry.copies.models import Download, Transfer
from registry.home import Home
from registry.keys.service import Issuer, revoke
from registry.storage import manifest_digest
from registry.verification import verify_ledger
from tests.registry.api.client import Client, client
from tests.registry.support import MODEL, RECIPIENT
from verifier import countersign, signing

CARRIER = "vqvae/diffusion_pytorch_model.safetensors"


@pytest.fixture
def app(ready: Home) -> Api:
    return create_app(ready)


@pytest.fixture
def issuer(app: Api, ready: Home) -> Client:
    return client(app, ready, Role.ISSUER)


def issue(home: Home) -> str:
    return str(Issuer.open(home, MODEL, RECIPIENT).issue(1)[0]["copy_id"])


def read(response: TestResponse) -> bytes:
    """The body, after which the delivery is recorded."""
    content = response.get_data()
    response.close()
    return content


def downloads(issuer: Client) -> list[dict[str, Any]]:
    found = issuer.get("/downloads").json
    assert found is not None
    return list(found["items"])


def break_off(response: TestResponse, chunks: int) -> bytes:
    """Read some chunks as a client that then disconnects."""
    body = iter(response.response)
    got = b"".join(next(body) for _ in range(chunks))
    response.close()
    return got


def test_the_archive_is_the_copy_and_its_delivery_is_receipted(ready: Home, issuer: Client) -> None:
    copy_id = issue(ready)
    response = issuer.get(f"/copies/{copy_id}/archive")
    content = read(response)
    assert (response.status_code, len(content)) == (200, response.content_length)
    assert response.headers["Content-Disposition"] == f"attachment; filename={copy_id}.tar"
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = {m.name.removeprefix(f"{copy_id}/"): tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    statement = json.loads(members.pop("hallmark.json"))
    assert "dsseEnvelope" in json.loads(members.pop("model.sig"))
    listed = {
        path: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        for path, data in members.items()
    }
    assert signing.verify(statement, ready.identity.public, "hallmark/copy/1")["files"] == listed
    (download,) = downloads(issuer)
    assert (download["state"], download["bytes_sent"]) == ("delivered", len(content))
    assert download["sha256"] == manifest_digest(listed)
    assert (download["actor"][:6], download["origin"]) == ("token ", "127.0.0.1")
    receipt = issuer.get(f"/downloads/{download['download_id']}/receipt").json["receipt"]  # type: ignore[index]
    assert (
        signing.verify(receipt, ready.identity.public, "hallmark/receipt/1")["sha256"] == download["sha256"]
    )
    shown = issuer.get(f"/copies/{copy_id}").json
    assert shown is not None
    assert {f["path"]: {"sha256": f["sha256"], "size": f["size"]} for f in shown["files"]} == listed
    assert shown["sha256"] == download["sha256"]
    assert verify_ledger(ready).size == 3


def test_a_download_that_breaks_off_is_resumed_as_the_same_delivery(
    ready: Home, issuer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.copies.splice.PART_BYTES", 1000)
    url = f"/copies/{issue(ready)}/archive"
    response = issuer.get(url)
    tag = response.headers["ETag"]
    got = break_off(response, 5)
    (download,) = downloads(issuer)
    assert download["state"] == "aborted"
    assert 0 < download["bytes_sent"] <= len(got)
    assert issuer.get(f"/downloads/{download['download_id']}/receipt").status_code == 409
    rest = issuer.get(url, headers={"Range": f"bytes={len(got)}-", "If-Range": tag})
    assert rest.status_code == 206
    again = break_off(rest, 3)
    middle = len(got) + len(again)
    for start in (middle - 1500, middle):  # a client may have less than was sent to it
        (download,) = downloads(issuer)
        assert (download["state"], download["ended_at"] is None) == ("aborted", False)
        last = issuer.get(url, headers={"Range": f"bytes={start}-", "If-Range": tag})
        if start < middle:
            break_off(last, 1)
    whole = got + again + read(last)
    (download,) = downloads(issuer)
    assert (download["state"], download["bytes_sent"]) == ("delivered", len(whole))
    assert read(issuer.get(url)) == whole
    assert [entry["state"] for entry in downloads(issuer)] == ["delivered", "delivered"]
    assert verify_ledger(ready).size == 4


def test_every_range_is_that_part_of_the_whole(sqlite_ready: Home) -> None:
    issuer = client(create_app(sqlite_ready), sqlite_ready, Role.ISSUER)
    copy_id = issue(sqlite_ready)
    for path in ("archive", f"files/{CARRIER}", "files/model.sig", "files/hallmark.json"):
        url = f"/copies/{copy_id}/{path}"
        whole = read(issuer.get(url))
        size = len(whole)
        for header, start, stop in (
            ("bytes=0-0", 0, 1),
            (f"bytes=7-{size * 10}", 7, size),
            (f"bytes={size - 1}-", size - 1, size),
            ("bytes=-10", size - 10, size),
            (f"bytes=-{size * 2}", 0, size),
            (f"bytes={size // 3}-{size // 2}", size // 3, size // 2 + 1),
        ):
            response = issuer.get(url, headers={"Range": header})
            assert response.status_code == 206
            assert response.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{size}"
            assert response.content_length == stop - start
            assert read(response) == whole[start:stop]
        for header in (f"bytes={size}-", f"bytes={size + 5}-{size + 9}", "bytes=99999999999999999999999-"):
            response = issuer.get(url, headers={"Range": header})
            assert (response.status_code, response.headers["Content-Range"]) == (416, f"bytes */{size}")
        for header in ("bytes=0-1,5-6", "bytes=9-3", "bytes=-0", "lines=1-2", "bytes", "bytes=" + "9" * 5000):
            response = issuer.get(url, headers={"Range": header})
            assert (response.status_code, read(response)) == (200, whole)


def test_conditions_and_digests(sqlite_ready: Home) -> None:
    issuer = client(create_app(sqlite_ready), sqlite_ready, Role.ISSUER)
    url = f"/copies/{issue(sqlite_ready)}/files/{CARRIER}"
    head = issuer.request("HEAD", url, headers={"Range": "bytes=0-5"})
    assert (head.status_code, head.get_data(), downloads(issuer)) == (200, b"", [])
    assert head.headers["Accept-Ranges"] == "bytes"
    whole = read(issuer.get(url))
    assert head.content_length == len(whole)
    digest = hashlib.sha256(whole)
    assert head.headers["Repr-Digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    assert head.headers["ETag"] == f'"{digest.hexdigest()}"'
    tag = head.headers["ETag"]
    assert issuer.get(url, headers={"If-None-Match": tag}).status_code == 304
    assert issuer.get(url, headers={"If-Match": '"other"'}).status_code == 412
    for condition, status in (
        (tag, 206),
        ('"other"', 200),
        (f"W/{tag}", 200),
        ("Mon, 01 Jan 2024 00:00:00 GMT", 200),
    ):
        response = issuer.get(url, headers={"Range": "bytes=1-2", "If-Range": condition})
        assert response.status_code == status
        assert read(response) == (whole[1:3] if status == 206 else whole)
        assert response.headers["Repr-Digest"] == head.headers["Repr-Digest"]


def test_files_one_by_one_are_one_delivery(ready: Home, issuer: Client) -> None:
    copy_id = issue(ready)
    shown = issuer.get(f"/copies/{copy_id}").json
    assert shown is not None
    assert (shown["sha256"], shown["files"][0]["sha256"]) == (None, None)
    for entry in reversed(shown["files"]):
        assert [d["state"] for d in downloads(issuer)] in ([], ["aborted"])
        content = read(issuer.get(f"/copies/{copy_id}/files/{entry['path']}"))
        assert len(content) == entry["size"]
    (download,) = downloads(issuer)
    assert (download["state"], download["form"], download["size"]) == ("delivered", "files", shown["size"])
    assert issuer.get(f"/copies/{copy_id}/files/../../etc/passwd").status_code == 404
    assert issuer.get(f"/copies/{copy_id}/files/none").status_code == 404


def test_a_killed_response_stays_visible_and_its_sequel_completes_it(
    ready: Home, issuer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.copies.splice.PART_BYTES", 1000)
    monkeypatch.setattr(deliveries.Sending, "close", lambda self: None)  # kill -9 runs nothing any more
    url = f"/copies/{issue(ready)}/archive"
    got = break_off(issuer.get(url), 5)
    monkeypatch.undo()
    (download,) = downloads(issuer)
    assert (download["state"], download["ended_at"]) == ("started", None)
    read(issuer.get(url, headers={"Range": f"bytes={len(got)}-"}))
    receipt = f"/downloads/{download['download_id']}/receipt"
    assert issuer.get(receipt).status_code == 409  # the first response may still be going on
    now = deliveries.unix_now()
    monkeypatch.setattr(deliveries, "unix_now", lambda: now + deliveries.DEAD_SECONDS + 2)
    assert issuer.get(receipt).status_code == 200
    (download,) = downloads(issuer)
    assert download["state"] == "delivered"
    with ready.database.read() as session:
        assert session.query(Transfer).count() == 0
    assert verify_ledger(ready).size == 3


def test_a_link_is_good_for_one_complete_download(ready: Home, app: Api, issuer: Client) -> None:
    copy_id = issue(ready)
    made = issuer.post(f"/copies/{copy_id}/links", json={"hours": 1}).json
    assert made is not None
    recipient = app.test_client()
    path = made["url"].removeprefix("http://localhost")
    offer = recipient.get(path)
    assert offer.json["copy_id"] == copy_id  # type: ignore[index]
    assert (offer.headers["Cache-Control"], offer.headers["Referrer-Policy"]) == ("no-store", "no-referrer")
    page = recipient.get(path, headers={"Accept": "text/html,*/*;q=0.8"})
    assert page.mimetype == "text/html"
    assert f"{path}/archive" in page.text
    assert recipient.get(f"{path}/receipt").status_code == 404
    half = break_off(recipient.get(f"{path}/archive"), 3)
    rest = recipient.get(f"{path}/archive", headers={"Range": f"bytes={len(half)}-"})
    content = half + read(rest)
    assert content == read(issuer.get(f"/copies/{copy_id}/archive"))
    for replayed in (path, f"{path}/archive", f"{path}/files/model.sig"):
        assert recipient.get(replayed).status_code == 410
    assert recipient.get(f"{path}/receipt").json["receipt"]["copy_id"] == copy_id  # type: ignore[index]
    by_link = next(d for d in downloads(issuer) if d["link_id"])
    assert (by_link["link_id"], by_link["state"]) == (made["link_id"], "delivered")
    (listed,) = issuer.get(f"/copies/{copy_id}/links").json["items"]  # type: ignore[index]
    assert listed["used_at"] is not None
    assert "url" not in listed
    with ready.database.read() as session:
        events = [event.kind for event in session.query(SecurityEvent)]
    assert "link.refused" in events
    secret = path.removeprefix("/d/")
    with ready.database.read() as session:
        assert secret not in str([vars(event) for event in session.query(SecurityEvent)])
    assert verify_ledger(ready).size == 4


def test_a_withdrawn_expired_or_invented_link_is_refused(
    ready: Home, app: Api, issuer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_id = issue(ready)
    paths = [
        issuer.post(f"/copies/{copy_id}/links", json={}).json["url"].removeprefix("http://localhost")  # type: ignore[index]
        for _ in range(2)
    ]
    (_, first) = issuer.get(f"/copies/{copy_id}/links").json["items"]  # type: ignore[index]
    recipient = app.test_client()
    assert issuer.request("DELETE", f"/copies/{copy_id}/links/{first['link_id']}").status_code == 204
    assert recipient.get(paths[0]).status_code == 410
    assert recipient.get(paths[1]).status_code == 200
    other = paths[1][:-1] + ("A" if paths[1][-1] != "A" else "B")
    assert recipient.get(other).status_code == 404
    assert recipient.get("/d/short").status_code == 422
    now = deliveries.unix_now()
    monkeypatch.setattr("registry.copies.links.unix_now", lambda: now + 73 * 3600)
    assert recipient.get(paths[1]).status_code == 410
    assert recipient.get(f"{paths[1]}/archive").status_code == 410
    assert downloads(issuer) == []


def test_a_recipient_counter_signs_with_his_own_key(ready: Home, app: Api, issuer: Client) -> None:
    private = Ed25519PrivateKey.generate()
    with ready.database.write() as session:
        session.query(Recipient).one().public_key = private.public_key().public_bytes_raw()
    copy_id = issue(ready)
    path = issuer.post(f"/copies/{copy_id}/links", json={}).json["url"].removeprefix("http://localhost")  # type: ignore[index]
    recipient = app.test_client()
    read(recipient.get(f"{path}/archive"))
    receipt = recipient.get(f"{path}/receipt").json["receipt"]  # type: ignore[index]
    url = f"/downloads/{receipt['download_id']}/countersignature"
    assert issuer.get(url).status_code == 404
    forged = countersign.countersign(receipt, Ed25519PrivateKey.generate())
    assert recipient.put(f"{path}/countersignature", json=forged).status_code == 422
    document = countersign.countersign(receipt, private)
    altered = {**document, "receipt": "0" * 64}
    assert recipient.put(f"{path}/countersignature", json=altered).status_code == 422
    for _ in range(2):
        signed = recipient.put(f"{path}/countersignature", json=document)
        assert (signed.status_code, signed.json) == (200, {"countersignature": document})
    assert issuer.get(url).json == {"countersignature": document}
    assert issuer.request("PUT", url, json=document).status_code == 200
    assert downloads(issuer)[0]["countersigned"] is True
    assert verify_ledger(ready).size == 4
    with ready.database.write() as session:  # erasing the person leaves every proof valid
        session.query(Recipient).one().public_key = None
    assert verify_ledger(ready).size == 4


def test_a_recipient_without_a_key_cannot_counter_sign(sqlite_ready: Home) -> None:
    app = create_app(sqlite_ready)
    issuer = client(app, sqlite_ready, Role.ISSUER)
    copy_id = issue(sqlite_ready)
    read(issuer.get(f"/copies/{copy_id}/archive"))
    download_id = downloads(issuer)[0]["download_id"]
    receipt = issuer.get(f"/downloads/{download_id}/receipt").json["receipt"]  # type: ignore[index]
    document = countersign.countersign(receipt, Ed25519PrivateKey.generate())
    refused = issuer.request("PUT", f"/downloads/{download_id}/countersignature", json=document)
    assert refused.status_code == 409
    assert verify_ledger(sqlite_ready).size == 3


def test_nothing_of_another_organisation_is_shown(sqlite_ready: Home) -> None:
    app = create_app(sqlite_ready)
    issuer, stranger = client(app, sqlite_ready), client(app, sqlite_ready, Role.ADMIN, "other")
    copy_id = issue(sqlite_ready)
    link = issuer.post(f"/copies/{copy_id}/links", json={}).json["link_id"]  # type: ignore[index]
    read(issuer.get(f"/copies/{copy_id}/archive"))
    (download,) = downloads(issuer)
    number = download["download_id"]
    for method, path, options in (
        ("GET", f"/copies/{copy_id}", {}),
        ("GET", f"/copies/{copy_id}/archive", {}),
        ("GET", f"/copies/{copy_id}/files/model.sig", {}),
        ("GET", f"/copies/{copy_id}/links", {}),
        ("POST", f"/copies/{copy_id}/links", {"json": {}}),
        ("DELETE", f"/copies/{copy_id}/links/{link}", {}),
        ("GET", f"/downloads/{number}", {}),
        ("GET", f"/downloads/{number}/receipt", {}),
        ("GET", f"/downloads/{number}/countersignature", {}),
        ("GET", f"/downloads?copy_id={copy_id}", {}),
    ):
        assert stranger.request(method, path, **options).status_code == 404, path
    assert downloads(stranger) == []
    viewer = client(app, sqlite_ready, Role.VIEWER)
    assert viewer.get(f"/copies/{copy_id}/archive").status_code == 403
    assert len(downloads(issuer)) == 1


def test_a_revoked_copy_is_sent_to_nobody(sqlite_ready: Home) -> None:
    app = create_app(sqlite_ready)
    issuer = client(app, sqlite_ready, Role.ISSUER)
    copy_id = issue(sqlite_ready)
    path = issuer.post(f"/copies/{copy_id}/links", json={}).json["url"].removeprefix("http://localhost")  # type: ignore[index]
    revoke(sqlite_ready, copy_id, "leaked")
    assert issuer.get(f"/copies/{copy_id}/archive").status_code == 409
    assert issuer.post(f"/copies/{copy_id}/links", json={}).status_code == 409
    assert app.test_client().get(f"{path}/archive").status_code == 409
    assert issuer.get(f"/copies/{copy_id}").status_code == 200


def test_a_template_that_changed_is_noticed_before_and_while_it_is_sent(sqlite_ready: Home) -> None:
    issuer = client(create_app(sqlite_ready), sqlite_ready, Role.ISSUER)
    copy_id = issue(sqlite_ready)
    url = f"/copies/{copy_id}/archive"
    (template,) = (sqlite_ready.settings.home / "storage" / "templates").iterdir()
    original = (template / CARRIER).read_bytes()

    def alter() -> None:
        (template / CARRIER).write_bytes(original[:-1] + bytes([original[-1] ^ 1]))

    response = issuer.get(url)
    alter()
    read(response)
    assert [d["state"] for d in downloads(issuer)] == ["aborted"]
    (template / CARRIER).write_bytes(original)
    read(issuer.get(url))
    assert downloads(issuer)[0]["state"] == "delivered"
    alter()
    assert issuer.get(url).status_code == 500
    assert len(downloads(issuer)) == 1


def test_of_two_downloads_at_once_through_a_link_one_completes(ready: Home, app: Api, issuer: Client) -> None:
    copy_id = issue(ready)
    path = issuer.post(f"/copies/{copy_id}/links", json={}).json["url"].removeprefix("http://localhost")  # type: ignore[index]
    url = f"{path}/archive"
    first, second = (app.test_client().get(url) for _ in range(2))
    bodies = [iter(first.response), iter(second.response)]
    size = first.content_length
    got = [b"", b""]
    with pytest.raises(BrokenPipeError):
        while True:
            for i in (0, 1):
                got[i] += next(bodies[i])
    for i in (0, 1):
        got[i] += b"".join(bodies[i])
    first.close()
    second.close()
    assert sorted(len(part) == size for part in got) == [False, True]
    assert app.test_client().get(url).status_code == 410
    assert [d["state"] for d in downloads(issuer)] == ["delivered"]


def test_a_download_stops_when_its_copy_is_revoked_or_its_link_withdrawn(
    sqlite_ready: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(sqlite_ready)
    issuer = client(app, sqlite_ready, Role.ISSUER)
    monkeypatch.setattr(deliveries, "BEAT_SECONDS", -1)
    copy_id = issue(sqlite_ready)
    made = issuer.post(f"/copies/{copy_id}/links", json={}).json
    assert made is not None
    by_link = app.test_client().get(made["url"].removeprefix("http://localhost") + "/archive")
    by_token = issuer.get(f"/copies/{copy_id}/archive")
    link_body, token_body = iter(by_link.response), iter(by_token.response)
    assert next(link_body)
    assert next(token_body)
    issuer.request("DELETE", f"/copies/{copy_id}/links/{made['link_id']}")
    with pytest.raises(BrokenPipeError):
        list(link_body)
    assert next(token_body)
    revoke(sqlite_ready, copy_id, "leaked")
    with pytest.raises(BrokenPipeError):
        list(token_body)
    by_link.close()
    by_token.close()
    assert {d["state"] for d in downloads(issuer)} == {"aborted"}


@pytest.mark.parametrize("ready", ["postgresql"], indirect=True)
def test_a_download_outlives_the_database_s_restart(ready: Home, app: Api, issuer: Client) -> None:
    response = issuer.get(f"/copies/{issue(ready)}/archive")
    body = iter(response.response)
    content = next(body)
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND {}"
    operator = create_engine(ready.database.url)
    with operator.connect() as connection:
        ended = connection.execute(text(end.format("pid <> pg_backend_pid()"))).all()
        assert len(ended) > 0
    operator.dispose()
    content += b"".join(body)
    response.close()
    assert len(content) == response.content_length
    with ready.database.read() as session:
        assert [row.state for row in session.query(Download)] == ["delivered"]
    assert verify_ledger(ready).size == 3
