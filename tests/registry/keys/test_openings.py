"""Opening a commitment: what is disclosed proves itself, to administrators only, and is logged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import select

from registry.accounts.models import SecurityEvent
from registry.accounts.permissions import PERMISSIONS, Permission, Role
from registry.cli import cli
from registry.errors import InputError, NotFoundError
from registry.home import Home
from registry.keys import openings, service
from tests.registry.support import MODEL, RECIPIENT
from verifier.errors import TrustError
from verifier.opening import Opening


def issue(home: Home) -> str:
    (document,) = service.Issuer.open(home, MODEL, RECIPIENT).issue(1)
    return str(document["key_id"])


def events(home: Home) -> list[SecurityEvent]:
    with home.database.read() as session:
        query = select(SecurityEvent).where(SecurityEvent.kind == openings.OPENED)
        return list(session.execute(query).scalars())


def test_an_opening_proves_itself_and_is_logged(ready: Home) -> None:
    key_id = issue(ready)
    opening = Opening.parse(openings.open_commitment(ready, f"copy-{key_id}", " court  order 12/26\n"))
    assert opening.verify(ready.identity.registry).key_id == key_id
    with ready.database.read() as session:
        key = service.get_key(session, ready.identity.registry, key_id)
    assert opening.phi == service.derive(ready, key).tobytes().hex()
    (event,) = events(ready)
    assert event.organisation_id == key.model.organisation_id
    assert json.loads(event.detail) == {"key": key_id, "reason": "court order 12/26"}
    assert event.actor.startswith("operator ")
    assert opening.phi not in event.detail
    flipped = f"{int(opening.phi[0], 16) ^ 1:x}{opening.phi[1:]}"
    with pytest.raises(TrustError, match="do not match the commitment"):
        replace(opening, phi=flipped).verify(ready.identity.registry)
    with pytest.raises(TrustError, match="not of"):
        opening.verify("0" * 32)


def test_nothing_is_opened_without_a_reason_a_key_or_the_right(ready: Home) -> None:
    key_id = issue(ready)
    with pytest.raises(InputError, match="reason"):
        openings.open_commitment(ready, key_id, " ")
    with pytest.raises(NotFoundError):
        openings.open_commitment(ready, "0" * 24, "a dispute")
    with pytest.raises(NotFoundError):
        openings.open_commitment(ready, key_id, "a dispute", organisation=999)
    assert events(ready) == []
    assert [role for role in Role if Permission.OPEN_KEYS in PERMISSIONS[role]] == [Role.ADMIN]


def test_the_command_writes_a_new_private_file_or_nothing(sqlite_ready: Home, tmp_path: Path) -> None:
    key_id, out = issue(sqlite_ready), tmp_path / "opening.json"
    command = ["key", "open", key_id, "--reason", "dispute", "--home", str(tmp_path / "home")]
    result = CliRunner().invoke(cli, [*command, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert out.stat().st_mode & 0o777 == 0o600
    assert Opening.parse(json.loads(out.read_bytes())).key_id == key_id
    again = CliRunner().invoke(cli, [*command, "--out", str(out)])
    assert isinstance(again.exception, InputError)
    assert len(events(sqlite_ready)) == 1
    other = tmp_path / "other.json"
    unknown = [argument if argument != key_id else "0" * 24 for argument in command]
    result = CliRunner().invoke(cli, [*unknown, "--out", str(other)])
    assert isinstance(result.exception, NotFoundError)
    assert not other.exists()
