from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from registry import cli
from registry.accounts import service as accounts
from registry.backup import service, tables
from registry.backup.archive import SCHEMA, new_archive, opened_archive
from registry.config import DATABASE_VARIABLE, STORAGE_VARIABLE
from registry.copies import service as copies
from registry.db import Database, migrate
from registry.errors import InputError, IntegrityError, StateError
from registry.home import Home
from registry.keys import service as keys
from registry.keys.models import UserKey
from registry.sealing import FileMasterKey
from registry.storage import Manifest, Storage
from registry.verification import verify_ledger
from tests.migrations.rows import content, fill_empty
from tests.registry.object_store import ObjectStore
from tests.registry.support import MODEL, RECIPIENT, TinyModel, postgres_database, register
from verifier import signing
from verifier.errors import TrustError

PASSPHRASE = "correct horse battery staple"


@dataclass(frozen=True)
class Used:
    """A registry that has issued, delivered and revoked, and its backup."""

    home: Home
    delivered: str
    sha256: str
    backup: Path
    escrow: Path


@pytest.fixture
def used(ready: Home, tmp_path: Path) -> Used:
    first, second = keys.Issuer.open(ready, MODEL, RECIPIENT).issue(2)
    delivery = copies.download(ready, first["key_id"], tmp_path / "copy")
    keys.revoke(ready, second["key_id"], "leaked")
    escrow = Path(shutil.copy(ready.settings.master_key, tmp_path / "escrow.key"))
    service.backup(ready, tmp_path / "backup")
    return Used(ready, first["key_id"], delivery.receipt["sha256"], tmp_path / "backup", escrow)


def as_it_was(home: Home) -> dict[str, list[dict[str, object]]]:
    with home.database.write() as session:
        return content(session.connection())


def destroy(home: Home) -> None:
    """The machine burns: home, stored files and database are gone."""
    home.close()
    shutil.rmtree(home.settings.home)


def test_an_empty_machine_with_another_database_goes_on_where_the_backup_was(
    used: Used, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, ledger = as_it_was(used.home), verify_ledger(used.home)
    was_sqlite = used.home.database.engine.dialect.name == "sqlite"
    destroy(used.home)
    folder = tmp_path / "new"
    other = request.getfixturevalue("postgres_server") if was_sqlite else None
    with (
        postgres_database(other) if other else _sqlite(tmp_path / "other.db") as url,
        monkeypatch.context() as environment,
    ):
        environment.setenv(DATABASE_VARIABLE, url)
        restored = service.restore(used.backup, folder, used.escrow)
        assert restored.report == ledger
        home = Home.open(folder)
        try:
            assert home.database.engine.dialect.name != ("sqlite" if was_sqlite else "postgresql")
            assert as_it_was(home) == before
            assert verify_ledger(home) == ledger
            again = copies.download(home, used.delivered, tmp_path / "again")
            assert again.receipt["sha256"] == used.sha256
            keys.Issuer.open(home, MODEL, RECIPIENT).issue(2)
            with home.database.write() as session:  # rows are numbered on after those that were restored
                accounts.add_recipient(session, "new@example.org")
            assert verify_ledger(home).size == ledger.size + 3
        finally:
            home.close()


def _sqlite(path: Path) -> AbstractContextManager[str]:
    return nullcontext(f"sqlite:///{path}")


def test_every_row_of_every_table_comes_back(home: Home, tmp_path: Path) -> None:
    """Made-up rows fill the tables that have none; loaded as a restore does, they are the same again."""
    with home.database.write() as session:
        fill_empty(session.connection())
    before = as_it_was(home)
    assert all(before.values())
    service.backup(home, tmp_path / "backup")
    target = Database(f"sqlite:///{tmp_path}/other.db")
    try:
        with opened_archive(tmp_path / "backup", None) as archive, target.reshape() as session:
            migrate(session.connection())
            for table in tables.present(session.connection()).sorted_tables:
                service.load_table(archive, session, table)
            assert content(session.connection()) == before
    finally:
        target.close()


def test_a_ledger_that_does_not_hold_is_not_restored(used: Used, tmp_path: Path) -> None:
    with used.home.database.write() as session:
        session.execute(update(UserKey).values(redraws=7))
    service.backup(used.home, tmp_path / "damaged")
    url = f"sqlite:///{tmp_path}/other.db"
    with pytest.MonkeyPatch.context() as environment, pytest.raises(IntegrityError, match="ledger entry"):
        environment.setenv(DATABASE_VARIABLE, url)
        service.restore(tmp_path / "damaged", tmp_path / "new", used.escrow)
    assert not (tmp_path / "new").exists()
    assert Database(url).revision() is None


def test_a_backup_of_an_older_schema_is_brought_to_the_present_one(
    used: Used, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the version of then would have written it: its tables, its revision."""
    ledger = verify_ledger(used.home)
    used.home.database.upgrade("0001")
    with used.home.database.engine.connect() as connection:
        then = tables.present(connection)
    with monkeypatch.context() as past:
        past.setattr(service, "REVISION", "0001")
        past.setattr(service, "all_tables", lambda: then)
        service.backup(used.home, tmp_path / "old")
    monkeypatch.setenv(DATABASE_VARIABLE, f"sqlite:///{tmp_path}/other.db")
    assert service.restore(tmp_path / "old", tmp_path / "new", used.escrow).report == ledger
    home = Home.open(tmp_path / "new")  # of the present schema
    home.close()


def test_others_go_on_issuing_while_the_backup_is_made(
    ready: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys issued after the snapshot was taken are not in the backup, not even in tables read later."""
    issuer = keys.Issuer.open(ready, MODEL, RECIPIENT)
    issuer.issue(5)
    before = verify_ledger(ready)
    dump, dumped = tables.dump, []

    def issue_meanwhile(*given: Any) -> Any:
        dumped.append(given[1].name)
        found = dump(*given)
        issuer.issue(1)
        return found

    monkeypatch.setattr(tables, "dump", issue_meanwhile)
    service.backup(ready, tmp_path / "backup")
    assert dumped.index("user_key") > 1
    escrow = Path(shutil.copy(ready.settings.master_key, tmp_path / "escrow.key"))
    assert verify_ledger(ready).size == before.size + len(dumped)
    monkeypatch.setenv(DATABASE_VARIABLE, f"sqlite:///{tmp_path}/other.db")
    assert service.restore(tmp_path / "backup", tmp_path / "new", escrow).report.root == before.root


def test_files_of_an_object_store_are_restored_from_where_an_attempt_died(
    s3: ObjectStore, tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STORAGE_VARIABLE, s3.bucket())
    Home.create(tmp_path / "home")
    home = register(Home.open(tmp_path / "home"), tiny)
    stored, ledger = home.storage.all_files(), verify_ledger(home)
    service.backup(home, tmp_path / "backup")
    home.close()

    monkeypatch.setenv(STORAGE_VARIABLE, s3.bucket())
    put_file, sent = Storage.put_file, []

    def dies(storage: Storage, name: str, path: Path) -> None:
        if len(sent) == 3:
            raise KeyboardInterrupt
        sent.append(name)
        put_file(storage, name, path)

    with monkeypatch.context() as dying, pytest.raises(KeyboardInterrupt):
        dying.setattr(Storage, "put_file", dies)
        service.restore(tmp_path / "backup", tmp_path / "new", home.settings.master_key)
    assert not (tmp_path / "new").exists()
    with monkeypatch.context() as watched:
        watched.setattr(Storage, "put_file", lambda *given: (sent.append(given[1]), put_file(*given)))
        found = service.restore(tmp_path / "backup", tmp_path / "new", home.settings.master_key)
    assert sorted(sent) == sorted(stored)  # each once
    assert found.report == ledger
    restored = Home.open(tmp_path / "new")
    assert restored.storage.all_files() == stored
    restored.close()


def test_the_master_key_is_not_in_the_backup_and_must_be_the_right_one(used: Used, tmp_path: Path) -> None:
    secret = used.escrow.read_bytes().strip()
    with zipfile.ZipFile(used.backup) as archive:
        assert not any(secret in archive.read(name) for name in archive.namelist())
    assert used.backup.stat().st_mode & 0o777 == 0o600
    other = tmp_path / "other.key"
    FileMasterKey.create(other)
    with pytest.raises(IntegrityError, match="does not open under this master key"):
        service.restore(used.backup, tmp_path / "new", other)
    assert not (tmp_path / "new").exists()


def test_a_database_that_is_in_use_is_left_alone(used: Used, tmp_path: Path) -> None:
    before = as_it_was(used.home)
    with pytest.MonkeyPatch.context() as environment, pytest.raises(StateError, match="already holds"):
        environment.setenv(DATABASE_VARIABLE, used.home.database.url.render_as_string(hide_password=False))
        service.restore(used.backup, tmp_path / "new", used.escrow)
    assert as_it_was(used.home) == before
    with pytest.raises(InputError, match="already exists"):
        service.restore(used.backup, used.home.settings.home, used.escrow)
    assert as_it_was(used.home) == before


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """The archive with some members changed, or left out where the change is ``None``."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            if (content := change(name, old.read(name))) is not None:
                new.writestr(name, content)
    return target


def manifest_with(**changes: object) -> Callable[[str, bytes], bytes]:
    return lambda name, content: (
        json.dumps({**json.loads(content), **changes}).encode() if name == "manifest.json" else content
    )


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda name, content: content[:-2] + b"]\n" if "user_key" in name else content, IntegrityError),
        (lambda name, content: None if "ledger_tile" in name else content, IntegrityError),
        (lambda name, content: content + b" " if name == "config.toml" else content, IntegrityError),
        (lambda name, content: None if name == "manifest.json" else content, InputError),
        (lambda name, content: b"[]" if name == "manifest.json" else content, InputError),
        (manifest_with(created_at="2020-01-01T00:00:00Z"), TrustError),
        (manifest_with(public_key="AAAA"), IntegrityError),
        (manifest_with(revision="9999"), StateError),
    ],
)
def test_what_was_altered_is_refused_before_anything_is_written(
    backed_up: tuple[Path, Path],
    tmp_path: Path,
    change: Callable[[str, bytes], bytes | None],
    error: type[Exception],
) -> None:
    backup, escrow = backed_up
    with pytest.raises(error):
        service.restore(rewritten(backup, tmp_path / "altered", change), tmp_path / "new", escrow)
    assert [path.name for path in tmp_path.iterdir()] == ["altered"]


@pytest.fixture(scope="module")
def backed_up(ready_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A backup of an unused registry, and its master key."""
    folder = tmp_path_factory.mktemp("backed-up")
    home = Home.open(Path(shutil.copytree(ready_sqlite, folder / "home")))
    service.backup(home, folder / "backup")
    home.close()
    return folder / "backup", home.settings.master_key


def test_a_member_cannot_lead_out_of_the_storage(sqlite_home: Home, tmp_path: Path) -> None:
    """Not even where the registry's own key signed it."""

    def manifest(members: Manifest) -> signing.Document:
        public = sqlite_home.identity.public_text
        stated = {"schema": SCHEMA, "registry": sqlite_home.identity.registry, "public_key": public}
        return sqlite_home.identity.sign({**stated, "revision": "0001", "members": members})

    with new_archive(tmp_path / "stray", None) as archive:
        with archive.member("storage/../../stray") as file:
            file.write(b"x")
        archive.close_with(manifest)
    with pytest.raises(IntegrityError, match="leads out"):
        service.restore(tmp_path / "stray", tmp_path / "new", sqlite_home.settings.master_key)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + bytes(18)])
def test_other_files_are_no_backups(tmp_path: Path, content: bytes, backed_up: tuple[Path, Path]) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match="no whole backup"):
        service.restore(tmp_path / "file", tmp_path / "new", backed_up[1])


def test_half_a_backup_is_none(backed_up: tuple[Path, Path], tmp_path: Path) -> None:
    whole = backed_up[0].read_bytes()
    (tmp_path / "half").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="no whole backup"):
        service.restore(tmp_path / "half", tmp_path / "new", backed_up[1])


def test_the_commands_encrypt_and_ask_for_the_passphrase(
    sqlite_home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, out, new = str(sqlite_home.settings.home), str(tmp_path / "sealed"), str(tmp_path / "new")
    key = ["--master-key", str(sqlite_home.settings.master_key)]
    monkeypatch.setenv("HALLMARK_BACKUP_PASSPHRASE", "short")
    assert cli.run(["backup", "--out", out, "--home", home]) == 2
    monkeypatch.setenv("HALLMARK_BACKUP_PASSPHRASE", PASSPHRASE)
    assert cli.run(["backup", "--out", out, "--home", home, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["registry"] == sqlite_home.identity.registry
    assert cli.run(["backup", "--out", out, "--home", home]) == 2  # never over another one
    assert "already exists" in capsys.readouterr().err
    monkeypatch.delenv("HALLMARK_BACKUP_PASSPHRASE")
    assert cli.run(["restore", out, *key, "--home", new]) == 2
    assert "encrypted" in capsys.readouterr().err
    (tmp_path / "wrong").write_text("another passphrase\n")
    assert cli.run(["restore", out, *key, "--home", new, "--passphrase-file", str(tmp_path / "wrong")]) == 2
    assert "passphrase does not open" in capsys.readouterr().err
    (tmp_path / "right").write_text(PASSPHRASE + "\n")
    assert cli.run(["restore", out, *key, "--home", new, "--passphrase-file", str(tmp_path / "right")]) == 0
    assert "Its ledger holds: 0 entries" in capsys.readouterr().out
    assert cli.run(["ledger", "verify", "--home", new]) == 0


def test_a_full_disk_is_told_and_leaves_nothing(sqlite_ready: Home, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    limited = subprocess.run(
        [sys.executable, "-c", LIMITED, "backup", "--out", str(out / "backup")],
        env={**os.environ, "HALLMARK_HOME": str(sqlite_ready.settings.home)},
        capture_output=True,
        text=True,
    )
    assert limited.returncode == 2, limited.stderr
    assert "no room left" in limited.stderr
    assert "Traceback" not in limited.stderr
    assert list(out.iterdir()) == []


LIMITED = """
import resource, signal, sys
from registry import cli
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.exit(cli.run(sys.argv[1:]))
"""


def test_a_backup_that_is_killed_leaves_nothing_that_looks_whole(sqlite_ready: Home, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, "backup", "--out", str(out / "backup")],
        env={**os.environ, "HALLMARK_HOME": str(sqlite_ready.settings.home)},
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (out / "backup").exists()
    (left,) = out.iterdir()
    assert left.name.startswith(".backup.partial-")
    assert left.stat().st_size > 0
    with pytest.raises(InputError, match="no whole backup"):
        service.restore(left, tmp_path / "new", sqlite_ready.settings.master_key)


KILLED = """
import os, signal, sys
from registry import cli
from registry.backup import archive
archive.ArchiveWriter.close_with = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # all but the manifest
sys.exit(cli.run(sys.argv[1:]))
"""


def test_a_master_key_that_a_service_wraps_is_wrapped_again(tmp_path: Path) -> None:
    turned = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()[::-1])"
    config = tmp_path / "config.toml"
    config.write_text(
        '[database]\nurl = "sqlite:///registry.db"\n[storage]\nurl = "storage"\n'
        f"[master]\nkeep = 'command'\ncommand = {[sys.executable, '-c', turned]!r}\n"
    )
    Home.create(tmp_path / "home", config)
    home = Home.open(tmp_path / "home")
    service.backup(home, tmp_path / "backup")
    escrow = tmp_path / "escrow.key"
    home.master.escrow(escrow)
    home.close()
    service.restore(tmp_path / "backup", tmp_path / "new", escrow)
    assert not (tmp_path / "new" / "master.key").exists()
    restored = Home.open(tmp_path / "new")
    assert restored.identity.registry == home.identity.registry
    restored.close()
