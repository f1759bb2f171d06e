from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from sqlalchemy import select

from registry.accounts.models import Person
from registry.config import DATABASE_VARIABLE
from registry.errors import InputError, StateError
from registry.home import Home
from registry.ledger import service as ledger
from verifier.merkle import EMPTY_ROOT, Checkpoint


def test_a_new_registry_has_an_admin_and_an_empty_signed_ledger(home: Home) -> None:
    with home.database.read() as session:
        (admin,) = session.execute(select(Person)).scalars()
        note = ledger.checkpoint(session)
    assert admin.role == "admin"
    assert Checkpoint.open(note, home.identity.public) == Checkpoint(home.identity.origin, 0, EMPTY_ROOT)


def test_a_second_init_changes_nothing(home: Home) -> None:
    folder = home.settings.home
    before = _content(folder)
    with pytest.raises(StateError, match="nothing was changed"):
        Home.create(folder)
    assert _content(folder) == before


def test_a_second_home_on_the_same_database_is_refused(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATABASE_VARIABLE, postgres_url)
    Home.create(tmp_path / "first")
    with pytest.raises(StateError, match="already holds a registry"):
        Home.create(tmp_path / "second")
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


def test_a_failed_init_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ledger, "create", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Home.create(tmp_path / "home")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("keep me")
    with pytest.raises(InputError, match="already exists"):
        Home.create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be created"):
        Home.create(tmp_path / "file" / "home")


def _content(folder: Path) -> dict[str, str]:
    files = (
        path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    )
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
