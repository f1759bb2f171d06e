"""The image files that findings are about, found by their digests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from verifier.errors import InputError, TrustError
from verifier.finding import ImageEntry
from verifier.images import MAX_BYTES

FILES_MOST = 20_000
"""Files of a folder that are hashed in search of an image."""


class ImageFiles:
    """Files beside a finding, and those in the folders or files that were named."""

    def __init__(self, beside: Path, named: Sequence[Path] = ()) -> None:
        """:class:`InputError` where something that was named does not exist."""
        self._beside, self._named = beside, list(named)
        for path in self._named:
            if not path.exists():
                raise InputError(f"{path}: no such file or folder.", "Name where the images are.")

    def find(self, entry: ImageEntry) -> Path:
        """The file of an image that was read.

        :class:`InputError` where it is missing, :class:`TrustError` where the file of that name has another
        digest.
        """
        wanted, other = entry.sha256, None
        for path in self._likely(entry.path):
            found = _sha256(path)
            if found == wanted:
                return path
            other = other or (path, found)
        if wanted is not None and wanted in self._by_digest:
            return self._by_digest[wanted]
        if other is not None:
            raise TrustError(
                f"{other[0]} is not the image that was checked: its SHA-256 is {other[1]}, not {wanted}.",
                "It was changed since, or it is another file of that name.",
            )
        raise InputError(
            f"the image {entry.path} (SHA-256 {wanted}) was not found.", "Name its folder with --images."
        )

    def _likely(self, name: str) -> Iterator[Path]:
        path = Path(name)
        folders = [folder for folder in self._named if folder.is_dir()]
        places = [self._beside / path, self._beside / path.name, path]
        places += [place for folder in folders for place in (folder / path.name,)]
        places += [file for file in self._named if file.is_file()]
        yield from (place for place in dict.fromkeys(places) if place.is_file() and _small(place))

    @cached_property
    def _by_digest(self) -> dict[str, Path]:
        """Every file in the named folders, by its digest: images may have been renamed."""
        found: dict[str, Path] = {}
        for folder in self._named:
            for number, path in enumerate(sorted(folder.rglob("*")) if folder.is_dir() else ()):
                if number >= FILES_MOST:
                    raise InputError(
                        f"{folder} holds more than {FILES_MOST} files.", "Name a smaller folder."
                    )
                if path.is_file() and _small(path):
                    found.setdefault(_sha256(path), path)
        return found


def _small(path: Path) -> bool:
    return path.stat().st_size <= MAX_BYTES


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from None
