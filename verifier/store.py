"""The verifier's own folder: what `verifier update` fetched, kept apart for each registry.

    store = Store.at("https://registry.example", home)
    bundles = store.bundles()                             # of the registry that the trust root names

    HOME/registry.example/store.json                      the address, and the registry's id once it is known
    HOME/registry.example/metadata, targets               python-tuf's metadata, and files as they came
    HOME/registry.example/bundles/flowers-1-0.bundle      what `verifier check` reads
    HOME/registry.example/checkpoint.txt, revocations.json

The folder holds no secret. Whoever may write to it can replace what is trusted, as with any program's files.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from verifier.bundle import REVOCATIONS, Bundle, Revocation, read_revocations
from verifier.errors import InputError

SCHEMA = "hallmark/store/1"
DESCRIPTION = "store.json"


@dataclass(frozen=True)
class Store:
    """What was fetched from the registry at ``url``, in ``folder``."""

    url: str
    folder: Path

    @classmethod
    def at(cls, url: str, home: Path) -> Store:
        """The store of a registry's address; it may be empty. :class:`InputError` for what is no address."""
        address = normal_url(url)
        return cls(address, home / quote(address.partition("://")[2], safe=""))

    @classmethod
    def all(cls, home: Path) -> list[Store]:
        """Every store below ``home`` that was updated."""
        stores = (cls("", path.parent) for path in sorted(home.glob(f"[!.]*/{DESCRIPTION}")))
        return [cls(store._described("url"), store.folder) for store in stores]

    @property
    def exists(self) -> bool:
        """Whether an update ever succeeded."""
        return (self.folder / DESCRIPTION).is_file()

    @property
    def registry(self) -> str:
        """The registry's id, as the trust root names it."""
        return self._described("registry")

    def describe(self, registry: str) -> None:
        """Remember which registry this is: from now on the store exists."""
        document = {"schema": SCHEMA, "url": self.url, "registry": registry}
        replace_file(self.folder / DESCRIPTION, json.dumps(document, indent=1).encode() + b"\n")

    def bundle_path(self, name: str) -> Path:
        """Where the bundle that is published under ``name`` lies."""
        return self.folder / "bundles" / f"{name}.bundle"

    def bundles(self) -> list[Bundle]:
        """The bundles, opened. :class:`InputError` where there are none, otherwise as :meth:`Bundle.open`."""
        if not self.exists:
            raise InputError(
                f"nothing was fetched from {self.url} yet.", f"Run `verifier update --registry {self.url}`."
            )
        found = sorted((self.folder / "bundles").glob("*.bundle"))
        if not found:
            raise InputError(
                f"{self.url} published no network when it was asked last.",
                "Ask the registry for a bundle, and name it with --bundle.",
            )
        return [Bundle.open(path, self.registry) for path in found]

    def revocations(self) -> dict[str, Revocation]:
        """The newest revocations, by key id."""
        try:
            return read_revocations((self.folder / REVOCATIONS).read_bytes())
        except OSError as error:
            raise InputError(
                f"cannot read {error.filename}: {error.strerror}.", "Run `verifier update` again."
            ) from None

    def _described(self, field: str) -> str:
        path = self.folder / DESCRIPTION
        try:
            document = json.loads(path.read_bytes())
            if document["schema"] != SCHEMA:
                raise ValueError(f"expected schema {SCHEMA}")
            return str(document[field])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} cannot be used ({error}).", f"Delete {self.folder} and run `verifier update` again."
            ) from None


def default_home() -> Path:
    """Where `verifier update` keeps what it fetched: HALLMARK_VERIFIER_HOME, else a configuration folder."""
    import click

    return Path(os.environ.get("HALLMARK_VERIFIER_HOME") or click.get_app_dir("hallmark-verifier"))


def normal_url(url: str) -> str:
    """A registry's address without a slash at its end; :class:`InputError` for anything but http(s)."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        sound = False
    if not sound or parts.query or parts.fragment or parts.username or parts.password:
        raise InputError(f"{url} is no address of a registry.", "It looks like https://registry.example.")
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def replace_file(path: Path, content: bytes) -> None:
    """Write a file completely or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
