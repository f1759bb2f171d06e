"""Where a registry lives: its home folder and what the environment may override.

    settings = Settings.load(home_folder())
    settings.database_url, settings.storage_url, settings.master_key

The home holds ``config.toml``, ``master.key`` (0600) and, for the embedded default, ``registry.db`` and
``storage/``. ``HALLMARK_DATABASE_URL`` names another database, for instance
``postgresql+psycopg://user@host/hallmark``, and ``HALLMARK_STORAGE_URL`` another storage, for instance
``s3://bucket/prefix``. No secret stands in the configuration: credentials come from the environment.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.errors import InputError, StateError

HOME_VARIABLE = "HALLMARK_HOME"
DATABASE_VARIABLE = "HALLMARK_DATABASE_URL"
STORAGE_VARIABLE = "HALLMARK_STORAGE_URL"
CONFIG_NAME = "config.toml"
MASTER_KEY_NAME = "master.key"
DATABASE_NAME = "registry.db"
STORAGE_NAME = "storage"
STORAGE_OPTIONS = ("endpoint", "region")

_TEMPLATE = """\
# Home of a Hallmark registry. Paths are relative to this folder.
# Keep master.key safe and apart from backups of the database: without it no copy can be built and
# no certificate signed; with it and the database every user key can be derived.

[database]
# A SQLAlchemy URL; HALLMARK_DATABASE_URL in the environment overrides it. "environment" means that the
# variable must be set, so that no password needs to stand here.
url = "{database}"

[storage]
# A folder or any fsspec URL, such as s3://bucket/prefix; HALLMARK_STORAGE_URL overrides it, and "environment"
# means that the variable must be set. Credentials come from the environment (AWS_ACCESS_KEY_ID and
# AWS_SECRET_ACCESS_KEY, a profile, or the machine's role), never from this file.
url = "{storage}"
# For a store other than Amazon's:
# endpoint = "https://store.example.org"
# region = "eu-central-1"
"""


@dataclass(frozen=True)
class Settings:
    """What one home says, with the environment's overrides applied."""

    home: Path
    database_url: str
    storage_url: str
    storage_options: Mapping[str, str]

    @property
    def master_key(self) -> Path:
        return self.home / MASTER_KEY_NAME

    def table(self, name: str) -> Mapping[str, Any]:
        """A further table of the configuration, for the feature that it belongs to; empty where absent."""
        found = tomllib.loads((self.home / CONFIG_NAME).read_text(encoding="utf-8")).get(name, {})
        if not isinstance(found, dict):
            raise InputError(f"{self.home / CONFIG_NAME}: [{name}] is no table.", "Correct it.")
        return found

    @classmethod
    def load(cls, home: Path, environment: Mapping[str, str] = os.environ) -> Settings:
        """Read ``home``'s configuration; :class:`StateError` where there is no registry yet."""
        path = home / CONFIG_NAME
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StateError(
                f"{home}: there is no registry here.",
                f"Run `registry init --home {home}`, or name another home with --home or {HOME_VARIABLE}.",
            ) from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"{path}: cannot be read ({error}).", "Restore or correct it.") from None
        return cls(
            home,
            _database_url(home, _text(path, values, "database"), environment),
            _storage_url(home, _text(path, values, "storage"), environment),
            _storage_options(path, values["storage"]),
        )

    @classmethod
    def write_new(
        cls, home: Path, environment: Mapping[str, str] = os.environ, config: Path | None = None
    ) -> Settings:
        """Write a fresh home's configuration: that in ``config``, or embedded database and local files."""
        if config is not None:
            (home / CONFIG_NAME).write_bytes(config.read_bytes())
            return cls.load(home, environment)
        database = "environment" if environment.get(DATABASE_VARIABLE) else f"sqlite:///{DATABASE_NAME}"
        storage = "environment" if environment.get(STORAGE_VARIABLE) else STORAGE_NAME
        text = _TEMPLATE.format(database=database, storage=storage)
        (home / CONFIG_NAME).write_text(text, encoding="utf-8")
        return cls.load(home, environment)


def home_folder(given: Path | None = None, environment: Mapping[str, str] = os.environ) -> Path:
    """The home in use: the one given, else ``HALLMARK_HOME``, else the user's data folder."""
    if given is not None:
        return given.absolute()
    if named := environment.get(HOME_VARIABLE):
        return Path(named).absolute()
    data = environment.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "hallmark"


def _text(path: Path, values: Mapping[str, Any], section: str) -> str:
    table = values.get(section)
    url = table.get("url") if isinstance(table, Mapping) else None
    if not isinstance(url, str) or not url:
        raise InputError(f"{path}: [{section}] url is missing.", "Restore or correct it.")
    return url


def _database_url(home: Path, configured: str, environment: Mapping[str, str]) -> str:
    if override := environment.get(DATABASE_VARIABLE):
        return override
    if configured == "environment":
        raise StateError(
            f"{DATABASE_VARIABLE} is not set, and {home / CONFIG_NAME} leaves the database to it.",
            f"Set {DATABASE_VARIABLE}, for example to postgresql+psycopg://user@host/hallmark.",
        )
    relative = configured.removeprefix("sqlite:///")
    if relative != configured and not Path(relative).is_absolute():
        return f"sqlite:///{home / relative}"
    return configured


def _storage_url(home: Path, configured: str, environment: Mapping[str, str]) -> str:
    if override := environment.get(STORAGE_VARIABLE):
        return override
    if configured == "environment":
        raise StateError(
            f"{STORAGE_VARIABLE} is not set, and {home / CONFIG_NAME} leaves the storage to it.",
            f"Set {STORAGE_VARIABLE}, for example to s3://bucket/prefix.",
        )
    return configured if "://" in configured else str(home / configured)


def _storage_options(path: Path, table: Mapping[str, Any]) -> dict[str, str]:
    options = {name: value for name, value in table.items() if name != "url"}
    for name, value in options.items():
        if name not in STORAGE_OPTIONS or not isinstance(value, str):
            raise InputError(
                f"{path}: [storage] {name} is not understood.",
                f"Known are url, {', '.join(STORAGE_OPTIONS)}; credentials belong in the environment.",
            )
    return {name: str(value) for name, value in options.items()}
