"""Backups of a whole registry, and their restoring on an empty machine.

    backup(home, Path("monday.backup"), passphrase)
    restore(Path("monday.backup"), Path("/srv/hallmark"), master_key=Path("escrow/master.key"), ...)

A backup is one snapshot of the database, taken while others go on issuing, then every stored file, then the
configuration; never the master key, which is escrowed apart. Stored files are written before the rows that
name them and never changed, so whatever the snapshot speaks of is among them. Its tables are plain rows:
a backup of SQLite is restored on PostgreSQL and the other way round.
"""

from __future__ import annotations

import base64
import errno
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import MetaData
from sqlalchemy.orm import Session

from registry.backup import tables
from registry.backup.archive import SCHEMA, Archive, ArchiveWriter, Seen, new_archive, opened_archive
from registry.config import CONFIG_NAME, Settings
from registry.db import REVISION, Base, Database, migrate, unix_now
from registry.errors import IntegrityError, StateError
from registry.home import Home
from registry.identity import Identity, SigningKey, registry_keys
from registry.ledger import service as ledger
from registry.ledger.audit import Report
from registry.sealing import adopt_master_key
from registry.storage import CHUNK_BYTES, Manifest, Storage, atomic_folder, file_sha256
from registry.verification import verify_within
from verifier import merkle, signing
from verifier.bundle import utc

TABLES, FILES = "tables", "storage"

Progress = Callable[[int], Seen]
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


@dataclass(frozen=True)
class Restored:
    """A restored registry: its name and its verified ledger."""

    registry: str
    report: Report


def backup(
    home: Home, out: Path, passphrase: str | None = None, progress: Progress = lambda _: lambda _: None
) -> signing.Document:
    """Write the new file ``out`` and return its signed manifest; ``progress`` counts the stored bytes.

    :class:`InputError` if ``out`` exists, :class:`StateError` where there is no room for it. Whatever stops
    a backup leaves nothing that could be taken for one.
    """
    with _room(out), new_archive(out, passphrase) as archive:
        with home.database.read() as session:
            described = {t.name: _dump(archive, session, t) for t in all_tables().sorted_tables}
            size, note = ledger.size(session), ledger.checkpoint(session)
        _add_files(archive, home.storage, progress)
        with archive.member(CONFIG_NAME) as file:
            file.write((home.settings.home / CONFIG_NAME).read_bytes())
        root = merkle.Checkpoint.open(note, home.identity.public).root

        def manifest(members: Manifest) -> signing.Document:
            return home.identity.sign(
                {
                    "schema": SCHEMA,
                    "registry": home.identity.registry,
                    "public_key": home.identity.public_text,
                    "created_at": utc(unix_now()),
                    "revision": REVISION,
                    "ledger": {"size": size, "root": root.hex()},
                    "tables": described,
                    "members": members,
                }
            )

        return archive.close_with(manifest)


def restore(
    source: Path,
    folder: Path,
    master_key: Path,
    passphrase: str | None = None,
    progress: Progress = lambda _: lambda _: None,
) -> Restored:
    """Restore the backup ``source`` into the new home ``folder``, an empty database and the storage.

    Where database and storage are, the restored configuration and the environment say. Everything is checked
    before anything is written: the signature, the digest of every member, and that ``master_key`` opens the
    signing key. Then all of it happens or nothing, but for stored files: those that arrived are kept and not
    sent again by the next attempt. The ledger is verified before the database is committed.
    """
    with _room(folder), opened_archive(source, passphrase) as archive:
        _check_signature(archive)
        archive.check(progress(archive.size))
        with atomic_folder(folder) as fresh:
            fresh.chmod(0o700)
            home = _new_home(archive, fresh, master_key)
            try:
                _check_identity(archive, home)
                if home.database.revision() is not None:
                    raise StateError(
                        f"{home.database} already holds a registry; nothing was changed.",
                        "Name an empty one in HALLMARK_DATABASE_URL.",
                    )
                _restore_files(archive, home.storage, progress)
                report = _restore_tables(archive, home, progress)
            finally:
                home.close()
        return Restored(archive.manifest["registry"], report)


def all_tables() -> MetaData:
    """Every table of this version."""
    return Base.metadata


def _dump(archive: ArchiveWriter, session: Session, table: Any) -> tables.Description:
    with archive.member(f"{TABLES}/{table.name}.jsonl", compressed=True) as file:
        return tables.dump(session, table, file.write)


def _add_files(archive: ArchiveWriter, storage: Storage, progress: Progress) -> None:
    stored = storage.all_files()
    seen, done = progress(sum(stored.values())), 0
    for name in stored:
        with archive.member(f"{FILES}/{name}") as file, storage.open(name) as content:
            while chunk := content.read(CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                seen(done)


def _check_signature(archive: Archive) -> None:
    manifest = archive.manifest
    if (revision := str(manifest.get("revision"))) > REVISION:
        raise StateError(
            f"the backup has schema revision {revision}, this version of Hallmark {REVISION}.",
            "Restore it with the version that made it.",
        )
    try:
        public = Ed25519PublicKey.from_public_bytes(base64.b64decode(str(manifest.get("public_key"))))
    except ValueError:
        raise IntegrityError("the backup names no signing key.", "Use another backup.") from None
    signing.verify(manifest, public, SCHEMA)
    if signing.registry_id(public) != manifest["registry"]:
        raise IntegrityError("the backup was signed by another registry than it names.", "Use another one.")


def _new_home(archive: Archive, fresh: Path, master_key: Path) -> Home:
    with archive.open(CONFIG_NAME) as config:
        (fresh / CONFIG_NAME).write_bytes(config.read())
    settings = Settings.load(fresh)
    master = adopt_master_key(settings, master_key)
    storage = Storage(settings.storage_url, settings.storage_options)
    return Home(settings, Database(settings.database_url), storage, master)


def _check_identity(archive: Archive, home: Home) -> None:
    """The master key must open the backup's signing key, and that key have signed the backup."""
    table: Any = SigningKey.__table__
    with tempfile.TemporaryDirectory(prefix="hallmark-") as work:
        scratch = Database(f"sqlite:///{work}/keys.db")
        try:
            with scratch.write() as session:
                table.create(session.connection())
                load_table(archive, session, table)
            with scratch.read() as session:
                identity = _identity(session, home)
        finally:
            scratch.close()
    if identity.public_text != archive.manifest["public_key"]:
        raise IntegrityError("the backup was signed by another key than it holds.", "Use another backup.")


def _restore_files(archive: Archive, storage: Storage, progress: Progress) -> None:
    names = [name for name in archive.members if name.startswith(f"{FILES}/")]
    seen, done = progress(sum(archive.members[name]["size"] for name in names)), 0
    stored = storage.all_files()
    with tempfile.TemporaryDirectory(prefix="hallmark-") as work:
        for name in names:
            entry, target = archive.members[name], name.removeprefix(f"{FILES}/")
            if stored.get(target) != entry["size"] or storage.sha256(target) != entry["sha256"]:
                held = Path(work) / "file"
                with archive.open(name) as content, held.open("wb") as file:
                    shutil.copyfileobj(content, file, CHUNK_BYTES)
                if file_sha256(held) != entry["sha256"]:
                    raise IntegrityError(f"{name} was damaged on its way out of the backup.", "Try again.")
                storage.put_file(target, held)
            done += entry["size"]
            seen(done)


def _restore_tables(archive: Archive, home: Home, progress: Progress) -> Report:
    """Schema of the backup, its rows, then this version's schema and the ledger's audit: one transaction."""
    described = archive.manifest["tables"]
    with home.database.reshape() as session:
        connection = session.connection()
        migrate(connection, archive.manifest["revision"])
        present = tables.present(connection)
        if {*present.tables} != {*described}:
            raise IntegrityError("the backup's tables are not those of its schema.", "Use another backup.")
        seen, done = progress(sum(entry["rows"] for entry in described.values())), 0
        for table in present.sorted_tables:
            done += load_table(archive, session, table)
            tables.count_on(connection, table)
            seen(done)
        migrate(connection)
        report = verify_within(session, _identity(session, home), progress)
        found, expected = {"size": report.size, "root": report.root}, archive.manifest["ledger"]
        if found != expected:
            raise IntegrityError(f"the restored ledger is {found}, the backup had {expected}.", "Report it.")
    return report


def load_table(archive: Archive, session: Session, table: Any) -> int:
    """Fill ``table`` from the archive; the number of rows."""
    description = archive.manifest["tables"][table.name]
    with archive.open(f"{TABLES}/{table.name}.jsonl") as lines:
        loaded = tables.load(session.connection(), table, description, lines)
    if loaded != description["rows"]:
        raise IntegrityError(f"table {table.name} has {loaded} rows instead of {description['rows']}.")
    return loaded


def _identity(session: Session, home: Home) -> Identity:
    return Identity.load(session, registry_keys(home.settings, home.master))


@contextmanager
def _room(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise StateError(
            f"{path}: there is no room left ({error.strerror}); nothing was written.",
            "Free some space or name another place.",
        ) from None
