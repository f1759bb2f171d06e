"""Telling the model that made images, and nothing else: no key is needed, and no registry is asked.

    teller = Teller([Bundle.open("flowers.bundle")])
    for told in teller.tell(["a.png", "b.png"]):
        told.images, told.lineage

For whoever has a bundle without keys, or images of models that carry none. What it says is no evidence
against anyone (:mod:`verifier.lineage`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from verifier.bundle import Bundle
from verifier.check import lineage_members
from verifier.errors import InputError
from verifier.finding import ImageEntry, LineageEntry
from verifier.lineage import Lineage, Vectors
from verifier.reading import Reader, file_at

SCHEMA = "hallmark/told/1"
TOGETHER = 16
"""Images decoded at a time."""


@dataclass(frozen=True)
class Told:
    """The answer for one image or one set; ``lineage`` is None where none of the images could be read."""

    images: list[ImageEntry]
    lineage: LineageEntry | None

    @property
    def has_errors(self) -> bool:
        """Whether some image could not be read."""
        return any(image.error is not None for image in self.images)

    def document(self) -> dict[str, Any]:
        """The JSON object of schema ``hallmark/told/1``."""
        fields = ("path", "sha256", "width", "height", "error", "notes")
        return {
            "schema": SCHEMA,
            "images": [{name: getattr(image, name) for name in fields} for image in self.images],
            "lineage": None if self.lineage is None else asdict(self.lineage),
        }


class Teller:
    """The lineage of some bundles of one registry, on one device."""

    def __init__(self, bundles: Sequence[Bundle], device: str = "auto") -> None:
        """:class:`InputError` where no bundle has lineage or the device is not available."""
        members = lineage_members(bundles)
        if members is None:
            raise InputError(
                "the bundle has no lineage: it cannot tell models without keys.",
                "Ask its registry for one that was made after `registry lineage compute`.",
            )
        self._lineage = Lineage.open(members, device)
        self.models = sorted(self._lineage.models)
        self._reader = Reader([], pose_search=False, lineage=self._lineage)

    def tell(
        self,
        images: Sequence[Path | str],
        *,
        as_set: bool = False,
        progress: Callable[[], None] = lambda: None,
    ) -> Iterator[Told]:
        """One answer per image, or one for all of them ``as_set``; files that cannot be read are entries."""
        entries: list[ImageEntry] = []
        features: list[Vectors | None] = []
        for start in range(0, len(images), TOGETHER):
            for read in self._reader.read([file_at(path) for path in images[start : start + TOGETHER]]):
                entries.append(read.entry)
                features.append(read.features)
                progress()
            if not as_set:
                yield from (self._told([e], [f]) for e, f in zip(entries, features, strict=True))
                entries, features = [], []
        if entries:
            yield self._told(entries, features)

    def _told(self, entries: list[ImageEntry], features: list[Vectors | None]) -> Told:
        readable = [number for number, entry in enumerate(entries) if entry.error is None]
        found = self._lineage.of([features[number] for number in readable])
        return Told(found.noted(entries, readable), found.entry)
