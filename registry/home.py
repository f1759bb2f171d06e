"""A registry that is open for work: settings, database, storage, master key and identity together.

    identity = Home.create(folder)    # `registry init`
    home = Home.open(folder)          # every other command
    with home.database.write() as session: ...

Services take a home where they need more than a session of its database.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from registry.config import CONFIG_NAME, Settings
from registry.db import Database, migrate
from registry.errors import InputError, StateError
from registry.identity import Identity, registry_keys
from registry.sealing import MasterKey, create_master_key, open_master_key
from registry.storage import Storage, atomic_folder


@dataclass(frozen=True)
class Home:
    """What the services work with."""

    settings: Settings
    database: Database
    storage: Storage
    master: MasterKey

    @cached_property
    def identity(self) -> Identity:
        """The registry's signing key, opened on first use."""
        with self.database.read() as session:
            return Identity.load(session, registry_keys(self.settings, self.master))

    @classmethod
    def open(cls, folder: Path) -> Home:
        """Open the registry in ``folder``; :class:`StateError` says what is missing."""
        settings = Settings.load(folder)
        storage = Storage(settings.storage_url, settings.storage_options)
        database = Database(settings.database_url)
        try:
            database.require_current()
            return cls(settings, database, storage, open_master_key(settings))
        except BaseException:
            database.close()
            raise

    @classmethod
    def create(cls, folder: Path, config: Path | None = None) -> Identity:
        """Create a registry in ``folder``: configuration, master key, schema, signing key, first admin.

        All of it is made beside ``folder`` and renamed into place, so that an interrupted `init` leaves
        nothing. ``config`` is the configuration to begin with. :class:`StateError` if the folder or the
        database holds a registry already.
        """
        if (folder / CONFIG_NAME).exists():
            raise StateError(
                f"{folder} already holds a registry; nothing was changed.", "Name another folder with --home."
            )
        try:
            with atomic_folder(folder) as fresh:
                fresh.chmod(0o700)
                return _create(Settings.write_new(fresh, config=config))
        except OSError as error:
            raise InputError(
                f"{folder}: a registry cannot be created here ({error.strerror}).",
                "Name a folder that you may write to with --home.",
            ) from None

    def close(self) -> None:
        """Close the database."""
        self.database.close()


def _create(settings: Settings) -> Identity:
    from registry.accounts import service as accounts
    from registry.ledger import service as ledger

    master = create_master_key(settings)
    database = Database(settings.database_url)
    try:
        if database.revision() is not None:
            raise StateError(
                f"{database} already holds a registry; nothing was changed.",
                "Use its own home, or name an empty database.",
            )
        with database.write() as session:
            migrate(session.connection())
            accounts.create_first_admin(session)
            identity = Identity.create(session, registry_keys(settings, master))
            ledger.create(session, identity)
    finally:
        database.close()
    return identity
