"""Weights on their way in: files that a distributor uploads before he registers them as a model.

    store(home, organisation, "spring", "unet/model.safetensors", stream)
    with home.storage.local(folder_name(organisation, "spring")) as folder: ...
    discard(home, organisation, "spring")

An upload is a named folder of one organisation, without a row: it is nothing until a model is made of it.
A file that is sent again replaces what was there, so that an upload that broke off is simply sent again.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from pathlib import Path
from typing import BinaryIO

from sqlalchemy.orm import Session

from registry.accounts.people import is_operator
from registry.errors import InputError, IntegrityError, NotFoundError, StateError
from registry.home import Home
from registry.storage import CHUNK_BYTES, Storage

MOST_FILES = 2_000
_PLACED = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


def folder_name(organisation: int, upload: str) -> str:
    """Storage name of an upload's folder."""
    return f"uploads/{organisation}/{upload}"


def store(home: Home, organisation: int, upload: str, path: str, source: BinaryIO) -> dict[str, object]:
    """Store one file of an upload, whole or not at all; its entry of the manifest.

    ``path`` is relative, of plain parts; the caller has checked its form and limits ``source``.
    """
    if len(_files(home.storage, organisation, upload)) >= MOST_FILES:
        raise InputError(f"upload {upload} has {MOST_FILES} files already.", "No model has so many.")
    digest, name = hashlib.sha256(), f"{folder_name(organisation, upload)}/{path}"
    with tempfile.NamedTemporaryFile(prefix="hallmark-upload-") as spool:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            spool.write(chunk)
        spool.flush()
        try:
            home.storage.put_file(name, Path(spool.name))
        except (FileExistsError, IsADirectoryError, NotADirectoryError):
            raise StateError(
                f"{path} cannot be both a file and a folder of upload {upload}.", "Discard the upload first."
            ) from None
        return {"path": path, "sha256": digest.hexdigest(), "size": spool.tell()}


def files(home: Home, organisation: int, upload: str) -> dict[str, int]:
    """Paths and sizes of an upload's files; :class:`NotFoundError` where there are none."""
    found = _files(home.storage, organisation, upload)
    if not found:
        raise NotFoundError(f"there is no upload {upload}.", "Send its files first.")
    return found


def discard(home: Home, organisation: int, upload: str) -> None:
    """Remove an upload."""
    home.storage.remove(folder_name(organisation, upload))


def placed(home: Home, session: Session, organisation: int, name: str) -> Path:
    """What lies under ``name`` in the operator's folder of models; :class:`NotFoundError`, also for others.

    The folder is ``[models] folder`` in config.toml; weights too large to upload are put there.
    """
    found = next((path for path in placeable(home, session, organisation) if path.name == name), None)
    if found is None:
        raise NotFoundError(
            f"there is nothing called {name} in the folder of models.", "See [models] folder."
        )
    return found


def placeable(home: Home, session: Session, organisation: int) -> list[Path]:
    """What the operator's organisation can register from its folder; nothing for other organisations."""
    folder = home.settings.table("models").get("folder")
    if not isinstance(folder, str) or not is_operator(session, organisation):
        return []
    root = home.settings.home / folder
    return sorted(path for path in root.iterdir() if _PLACED.fullmatch(path.name)) if root.is_dir() else []


def _files(storage: Storage, organisation: int, upload: str) -> dict[str, int]:
    try:
        return storage.files(folder_name(organisation, upload))
    except IntegrityError:  # nothing of this name: for what has no row that is no loss
        return {}
