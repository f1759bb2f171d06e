"""The ledger as outsiders see it: tiles, checkpoint and proofs over HTTP, checked without our code."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator

import pymerkle
import pytest
from flask.testing import FlaskClient
from pymerkle.core import _inclusion_path_layout
from pymerkle.proof import InclusionProof

from registry.app import create_app
from registry.home import Home
from registry.ledger import service
from registry.ledger.routes import tile_path
from verifier import proof

SIZES = (1, 2, 254, 3, 300, 40)
TOTAL = sum(SIZES)


def digests(count: int) -> list[bytes]:
    return [hashlib.sha256(b"record %d" % i).digest() for i in range(count)]


def fill(home: Home) -> Home:
    """Let the ledger grow in several transactions to more than two tiles."""
    everything, done = digests(TOTAL), 0
    for count in SIZES:
        with home.database.write() as session:
            service.append(session, home.identity, service.CERTIFICATE, everything[done : done + count])
        done += count
    return home


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Nothing here changes it, so all tests share one."""
    folder = tmp_path_factory.mktemp("ledger") / "home"
    Home.create(folder)
    opened = Home.open(folder)
    yield fill(opened)
    opened.close()


@pytest.fixture(scope="module")
def web(filled: Home) -> FlaskClient:
    return create_app(filled).test_client()


def independent(size: int) -> pymerkle.InmemoryTree:
    """The tree by another implementation of RFC 6962."""
    return pymerkle.InmemoryTree.init_from_entries(digests(size), algorithm="sha256")


def test_the_checkpoint_is_signed_by_the_specification(filled: Home, web: FlaskClient) -> None:
    """Written from c2sp.org/signed-note and tlog-checkpoint with cryptography alone."""
    response = web.get("/ledger/checkpoint")
    assert response.content_type == "text/plain; charset=utf-8"
    assert response.headers["Cache-Control"] == "public, max-age=2"
    text, signature = response.get_data(as_text=True).split("\n\n")
    origin, size, root = text.split("\n")
    dash, name, encoded = signature.removesuffix("\n").split(" ")
    key = filled.identity.public
    marked = base64.b64decode(encoded)
    assert (dash, name, origin) == ("\N{EM DASH}", f"hallmark/{filled.identity.registry}", name)
    assert marked[:4] == hashlib.sha256(name.encode() + b"\n\x01" + key.public_bytes_raw()).digest()[:4]
    key.verify(marked[4:], f"{text}\n".encode())
    assert int(size) == TOTAL
    assert base64.b64decode(root) == independent(TOTAL).get_root()


def test_the_tiles_rebuild_the_tree(web: FlaskClient) -> None:
    """What a monitor does with c2sp.org/tlog-tiles: entries give leaves, leaves give every tile."""
    entries = b"".join(
        web.get(f"/ledger/tile/entries/{name}").data for name in ("000", "001", f"002.p/{TOTAL - 512}")
    )
    found = [entries[i + 2 : i + 34] for i in range(0, len(entries), 34)]
    assert all(entries[i : i + 2] == b"\0\x20" for i in range(0, len(entries), 34))
    assert found == digests(TOTAL)
    leaves = [hashlib.sha256(b"\0" + entry).digest() for entry in found]
    for number, name in enumerate(("000", "001", f"002.p/{TOTAL - 512}")):
        response = web.get(f"/ledger/tile/0/{name}")
        assert response.data == b"".join(leaves[256 * number : 256 * (number + 1)])
        assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert response.content_type == "application/octet-stream"
    roots = [independent(256 * (n + 1))._get_subroot(256 * n, 256) for n in range(2)]
    assert web.get("/ledger/tile/1/000.p/2").data == b"".join(roots)
    assert web.get("/ledger/tile/1/000.p/1").data == roots[0]
    assert web.get("/ledger/tile/0/000.p/3").data == b"".join(leaves[:3]), "full by now, still served"


@pytest.mark.parametrize(
    "path",
    [
        "0/002",
        "0/003",
        f"0/002.p/{TOTAL - 511}",
        "0/000.p/0",
        "0/000.p/256",
        "0/000.p/01",
        "0/0",
        "0/x000/000",
        "0/x001/00",
        "0/000/000",
        "0/../0/000",
        "0/x999/x999/x999/x999/x999/x999/x999/999",
        "64/000",
        "1/000.p/3",
        "-1/000",
        "entries/002",
        "entries/000.p/257",
        "entries/000.p/300",
        "entries/x001/000",
    ],
)
def test_tiles_that_are_not_there_are_not_found(web: FlaskClient, path: str) -> None:
    assert web.get(f"/ledger/tile/{path}").status_code in (404, 422)


def test_tile_numbers_are_written_in_groups() -> None:
    assert tile_path(0) == "000"
    assert tile_path(1_234_067) == "x001/x234/067"
    assert tile_path(1000, 7) == "x001/000.p/7"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 257, 299, 512, TOTAL])
def test_inclusion_proofs_hold_for_another_implementation(web: FlaskClient, size: int) -> None:
    tree = independent(size)
    for index in {0, size // 3, size // 2, size - 1}:
        answer = web.get(f"/api/v1/ledger/entries/{index}/inclusion?size={size}").json
        assert answer["root"] == tree.get_root().hex()
        path = [tree.get_leaf(index + 1), *map(bytes.fromhex, answer["proof"])]
        rule, _ = _inclusion_path_layout(index + 1, size)
        theirs = InclusionProof("sha256", True, size, index + 1, rule, path)
        pymerkle.verify_inclusion(tree.get_leaf(index + 1), tree.get_root(), theirs, index + 1, size)
        assert theirs.serialize() == tree.prove_inclusion(index + 1).serialize()


def subproof(tree: pymerkle.InmemoryTree, m: int, start: int, end: int, whole: bool) -> list[bytes]:
    """SUBPROOF of RFC 6962, section 2.1.2, over the hashes of the other implementation."""
    if m == end - start:
        return [] if whole else [tree._get_root(start, end)]
    k = 1
    while 2 * k < end - start:
        k *= 2
    if m <= k:
        return [*subproof(tree, m, start, start + k, whole), tree._get_root(start + k, end)]
    return [*subproof(tree, m - k, start + k, end, False), tree._get_root(start, start + k)]


@pytest.mark.parametrize(("old", "new"), [(1, 2), (3, 7), (1, TOTAL), (256, 512), (257, 560), (560, TOTAL)])
def test_consistency_proofs_are_those_of_another_implementation(web: FlaskClient, old: int, new: int) -> None:
    answer = web.get(f"/api/v1/ledger/consistency?old={old}&size={new}").json
    tree = independent(new)
    assert (answer["old_root"], answer["root"]) == (independent(old).get_root().hex(), tree.get_root().hex())
    assert answer["proof"] == [value.hex() for value in subproof(tree, old, 0, new, True)]
    pymerkle.verify_consistency(
        bytes.fromhex(answer["old_root"]), bytes.fromhex(answer["root"]), tree.prove_consistency(old)
    )


def test_both_databases_answer_alike(home: Home, web: FlaskClient) -> None:
    other = create_app(fill(home)).test_client()
    for path in ("/ledger/tile/0/001", "/ledger/tile/1/000.p/2", f"/ledger/tile/entries/002.p/{TOTAL - 512}"):
        assert other.get(path).data == web.get(path).data
    for path in ("entries/299/inclusion", "entries/7/inclusion?size=300", "consistency?old=257"):
        theirs, ours = (app.get(f"/api/v1/ledger/{path}").json for app in (other, web))
        assert (theirs["proof"], theirs["root"]) == (ours["proof"], ours["root"])


def test_proofs_are_what_the_verifier_checks(filled: Home, web: FlaskClient) -> None:
    trust = filled.identity.registry
    digest = digests(TOTAL)[300].hex()
    assert proof.check_inclusion(web.get(f"/api/v1/ledger/records/{digest}/inclusion").json, trust) == 300
    with filled.database.read() as session:
        seen = service.checkpoint_of(session, 257)
    assert seen is not None
    growth = web.get("/api/v1/ledger/consistency?old=257").json
    assert proof.check_consistency(growth, trust, seen).size == TOTAL


def test_a_tree_that_was_never_signed_has_no_checkpoint(web: FlaskClient) -> None:
    assert web.get("/api/v1/ledger/entries/0/inclusion?size=2").json["checkpoint"] is None
    assert "\n3\n" in web.get("/api/v1/ledger/entries/0/inclusion?size=3").json["checkpoint"]


def test_entries_come_in_pages(web: FlaskClient) -> None:
    first = web.get("/api/v1/ledger/entries?limit=150&order=oldest").json
    assert [item["index"] for item in first["items"]] == list(range(150))
    assert first["items"][7]["digest"] == digests(8)[7].hex()
    assert first["items"][7]["kind"] == "hallmark/certificate/1"
    second = web.get(f"/api/v1/ledger/entries?limit=2&order=oldest&after={first['next']}").json
    assert [item["index"] for item in second["items"]] == [150, 151]
    assert web.get("/api/v1/ledger/entries?limit=1").json["items"][0]["index"] == TOTAL - 1
    assert web.get("/api/v1/ledger/entries/7").json == first["items"][7]


def test_the_checkpoint_as_json_names_the_key(filled: Home, web: FlaskClient) -> None:
    answer = web.get("/api/v1/ledger/checkpoint").json
    assert (answer["size"], answer["root"]) == (TOTAL, independent(TOTAL).get_root().hex())
    assert answer["checkpoint"] == web.get("/ledger/checkpoint").get_data(as_text=True)
    assert base64.b64decode(answer["public_key"]) == filled.identity.public.public_bytes_raw()
    name, key_id, encoded = answer["verifier_key"].split("+", 2)
    assert base64.b64decode(encoded)[1:] == filled.identity.public.public_bytes_raw()
    assert (name, len(key_id)) == (answer["origin"], 8)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"entries/{TOTAL}", 404),
        ("entries/99999999999999999999", 422),
        (f"entries/{TOTAL}/inclusion", 404),
        ("entries/9/inclusion?size=9", 404),
        (f"entries/9/inclusion?size={TOTAL + 1}", 404),
        ("entries/9/inclusion?size=0", 422),
        (f"records/{'0' * 64}/inclusion", 404),
        ("records/zz/inclusion", 422),
        ("consistency", 422),
        ("consistency?old=0", 422),
        ("consistency?old=9&size=8", 404),
        (f"consistency?old={TOTAL + 1}", 404),
    ],
)
def test_what_was_never_logged_is_refused(web: FlaskClient, path: str, status: int) -> None:
    response = web.get(f"/api/v1/ledger/{path}")
    assert (response.status_code, response.content_type) == (status, "application/problem+json")


def test_an_empty_ledger_has_a_checkpoint_and_nothing_else(sqlite_home: Home) -> None:
    web = create_app(sqlite_home).test_client()
    assert web.get("/api/v1/ledger/checkpoint").json["size"] == 0
    assert web.get("/ledger/tile/0/000").status_code == 404
    assert web.get("/api/v1/ledger/entries").json == {"items": [], "next": None}
    assert web.get("/api/v1/ledger/consistency?old=1").status_code == 404
