from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.factories import ledger_levels, signing_key, tile_reader
from verifier import merkle, proof, signing
from verifier.cli import cli
from verifier.errors import InputError, TrustError

KEY = signing_key()
TRUST = signing.registry_id(KEY.public_key())
RECORDS = [signing.sign({"schema": "hallmark/test/1", "number": i}, KEY) for i in range(300)]
READ = tile_reader(ledger_levels([merkle.leaf_hash(signing.digest(record)) for record in RECORDS]))


def checkpoint(size: int, origin: str = f"hallmark/{TRUST}", seed: int = 1) -> str:
    return merkle.Checkpoint(origin, size, merkle.tree_root(size, READ)).sign(signing_key(seed))


def common(schema: str, size: int) -> dict[str, Any]:
    public = base64.b64encode(signing.public_bytes(KEY.public_key())).decode()
    return {"schema": schema, "public_key": public, "size": size, "checkpoint": checkpoint(size)}


def inclusion(index: int = 7, size: int = 300) -> dict[str, Any]:
    path = merkle.inclusion_proof(index, size, READ)
    digest = signing.digest(RECORDS[index]).hex()
    return {
        **common(proof.INCLUSION, size),
        "index": index,
        "digest": digest,
        "proof": [h.hex() for h in path],
    }


def consistency(old: int = 100, size: int = 300) -> dict[str, Any]:
    path = merkle.consistency_proof(old, size, READ)
    return {**common(proof.CONSISTENCY, size), "old_size": old, "proof": [h.hex() for h in path]}


def test_a_record_is_proved_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "proof.json"
    path.write_text(json.dumps(inclusion()))
    assert proof.check_inclusion(proof.read(path), TRUST, RECORDS[7]) == 7
    assert proof.check_inclusion(proof.read(path), TRUST, seen=checkpoint(300)) == 7


def test_growth_is_proved_from_a_kept_checkpoint() -> None:
    assert proof.check_consistency(consistency(), TRUST, checkpoint(100)).size == 300
    assert proof.check_consistency(consistency(300, 300), TRUST, checkpoint(300)).size == 300


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": proof.CONSISTENCY}, "no proof of inclusion"),
        ({"public_key": "AAAA"}, "no public key"),
        ({"public_key": None}, "no public key"),
        (
            {"public_key": base64.b64encode(signing.public_bytes(signing_key(2).public_key())).decode()},
            "not of",
        ),
        ({"index": 8}, "expected root"),
        ({"index": True}, "lacks its index"),
        ({"digest": "00" * 32}, "expected root"),
        ({"digest": "00"}, "no hash"),
        ({"proof": "00"}, "lacks its proof"),
        ({"proof": [None]}, "no hash"),
        ({"proof": []}, "too short"),
        ({"size": 299}, "another tree"),
        ({"checkpoint": None}, "lacks its checkpoint"),
        ({"checkpoint": checkpoint(300, seed=2)}, "not signed"),
        ({"checkpoint": checkpoint(300, origin="hallmark/other")}, "of the ledger hallmark/other"),
    ],
)
def test_a_proof_that_does_not_hold_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(TrustError, match=said):
        proof.check_inclusion({**inclusion(), **change}, TRUST)


def test_a_proof_of_another_record_is_refused() -> None:
    with pytest.raises(TrustError, match="another record"):
        proof.check_inclusion(inclusion(), TRUST, RECORDS[8])


def test_a_ledger_that_was_rewritten_is_refused() -> None:
    other = merkle.Checkpoint(f"hallmark/{TRUST}", 100, bytes(32)).sign(KEY)
    for seen in (other, checkpoint(99)):
        with pytest.raises(TrustError):
            proof.check_consistency(consistency(), TRUST, seen)


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff", b"[" * 100_000])
def test_an_unreadable_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "proof.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="no proof can be read"):
        proof.read(path)


def test_the_command_says_what_holds(tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli, ["proof", *arguments])
        return result.exit_code, result.output

    for name, content in (
        ("entry.json", json.dumps(inclusion())),
        ("growth.json", json.dumps(consistency())),
        ("record.json", json.dumps(RECORDS[7])),
        ("other.json", json.dumps(RECORDS[8])),
        ("float.json", "[1.5]"),
        ("seen", checkpoint(100)),
        ("rewritten", merkle.Checkpoint(f"hallmark/{TRUST}", 100, bytes(32)).sign(KEY)),
    ):
        (tmp_path / name).write_text(content)
    entry, growth, record, other, broken, seen, rewritten = (
        str(tmp_path / name)
        for name in (
            "entry.json",
            "growth.json",
            "record.json",
            "other.json",
            "float.json",
            "seen",
            "rewritten",
        )
    )
    trust = ("--trust", TRUST)
    assert run(entry, *trust) == (0, f"Entry 7 is in the ledger of registry {TRUST}.\n")
    assert run(entry, *trust, "--record", record)[0] == 0
    assert run(growth, *trust, "--seen", seen)[1].endswith("only grew, to 300 entries.\n")
    for arguments in ((entry, *trust, "--record", other), (entry, *trust, "--record", broken)):
        assert run(*arguments)[0] == 3
    assert run(growth, *trust, "--seen", rewritten)[0] == 3
    assert run(entry, "--trust", "00")[0] == 3
    assert run(growth, *trust)[0] == 2
    assert run(entry)[0] == 2
    assert run(seen, *trust)[0] == 2
    assert run(growth, *trust, "--seen", "none")[0] == 2
