from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flask.testing import FlaskClient

from registry.app import create_app
from registry.errors import IntegrityError
from registry.home import Home
from registry.ledger import service as ledger
from registry.trust import service


@pytest.fixture
def rooted(home: Home) -> Home:
    service.create(home, [Ed25519PrivateKey.generate()])
    return home


@pytest.fixture
def web(rooted: Home) -> FlaskClient:
    return create_app(rooted).test_client()


def checkpoint_path(home: Home) -> tuple[str, bytes]:
    with home.database.read() as session:
        content = ledger.checkpoint(session).encode()
    return f"/tuf/targets/{hashlib.sha256(content).hexdigest()}.checkpoint.txt", content


def test_versioned_metadata_may_be_kept_and_the_timestamp_not(rooted: Home, web: FlaskClient) -> None:
    before = web.get("/tuf/metadata/timestamp.json")
    assert before.headers["Cache-Control"] == "no-cache"
    assert web.get("/tuf/metadata/2.timestamp.json").data == before.data
    assert web.get("/tuf/metadata/1.root.json").headers["Cache-Control"].endswith("immutable")
    same = web.get("/tuf/metadata/timestamp.json", headers={"If-None-Match": before.headers["ETag"]})
    assert (same.status_code, same.data) == (304, b"")
    service.refresh(rooted)
    after = web.get("/tuf/metadata/timestamp.json", headers={"If-None-Match": before.headers["ETag"]})
    assert (after.status_code, after.json["signed"]["version"]) == (200, 3)


def test_targets_are_streamed_with_their_hash_as_etag(rooted: Home, web: FlaskClient) -> None:
    path, content = checkpoint_path(rooted)
    with web.get(path) as response:
        assert response.data == content
        assert response.headers["Content-Length"] == str(len(content))
        assert response.headers["ETag"] == f'"{hashlib.sha256(content).hexdigest()}"'
    with web.get(path, headers={"If-None-Match": response.headers["ETag"]}) as again:
        assert again.status_code == 304
    with web.get(path, headers={"Range": "bytes=10-19"}) as part:
        assert (part.status_code, part.data) == (206, content[10:20])
    with web.head(path) as head:
        assert head.headers["Content-Length"] == str(len(content))


def test_a_withdrawn_target_stays_for_updates_in_progress(rooted: Home, web: FlaskClient) -> None:
    path, content = checkpoint_path(rooted)
    with rooted.database.write() as session:
        ledger.append(session, rooted.identity, ledger.CERTIFICATE, [bytes(32)])
    service.publish(rooted)
    assert checkpoint_path(rooted)[0] != path
    with web.get(path) as response:
        assert response.data == content


@pytest.mark.parametrize(
    "path",
    [
        "metadata/root.json",
        "metadata/0.root.json",
        "metadata/01.root.json",
        "metadata/9.root.json",
        "metadata/9999999999999999.root.json",
        "metadata/99999999999999999999.root.json",
        "metadata/1.mirrors.json",
        "metadata/1.root.json.bak",
        "metadata/..%2f1.root.json",
        "targets/checkpoint.txt",
        f"targets/{'0' * 64}.checkpoint.txt",
        f"targets/../{'0' * 64}.checkpoint.txt",
        f"targets/{'0' * 64}.%00",
        f"targets/bundles/{'0' * 64}.",
        f"targets/{'f' * 600}",
    ],
)
def test_what_was_never_published_is_not_found(web: FlaskClient, path: str) -> None:
    response = web.get(f"/tuf/{path}")
    assert response.status_code in (404, 422)
    assert response.content_type == "application/problem+json"


def test_without_a_trust_root_nothing_is_served(sqlite_home: Home) -> None:
    web = create_app(sqlite_home).test_client()
    for path in ("metadata/timestamp.json", "metadata/1.root.json", f"targets/{'0' * 64}.trust.json"):
        assert web.get(f"/tuf/{path}").status_code == 404


def test_metadata_that_was_altered_in_the_storage_is_noticed(rooted: Home) -> None:
    with rooted.database.read() as session:
        row = service.newest_row(session, "targets")
    rooted.storage.put_bytes(service.file_name(row.sha256), b"{}")
    with pytest.raises(IntegrityError, match="was altered"):
        service.publish(rooted)
