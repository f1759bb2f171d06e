"""Reading a scan's items on this machine.

for records in read(reader, journal.unread(8), workers=8): journal.record(records)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from verifier.errors import InputError
from verifier.images import known_format
from verifier.reading import File, Reader, in_parallel
from verifier.scan.journal import Record
from verifier.scan.sources import Item, is_image, read_item

_LARGE = 1 << 20

Batch = Sequence[tuple[int, Item]]
"""Items with their numbers in the journal."""


def read(
    reader: Reader, batches: Iterable[Batch], workers: int, stopped: Callable[[], bool]
) -> Iterator[list[Record]]:
    """The records of each batch, as they are finished; none is begun any more once it is ``stopped``."""
    return in_parallel(lambda batch: [] if stopped() else read_batch(reader, batch), batches, workers)


def read_batch(reader: Reader, batch: Batch) -> list[Record]:
    """A batch's records; whatever cannot be read is one that says why."""
    passed: set[int] = set()
    files = [_file(number, item, passed) for number, item in batch]
    return [
        Record.of(number, image, number in passed)
        for (number, _), image in zip(batch, reader.read(files), strict=True)
    ]


def _file(number: int, item: Item, passed: set[int]) -> File:
    """The item as a reader takes it; it is put among those ``passed`` over where it is no image."""

    def content() -> bytes:
        # A film or a disk image is not read for what its first bytes tell.
        data = b"" if item.size > _LARGE and not item.named and not is_image(item) else read_item(item)
        if not item.named and known_format(data) is None:
            passed.add(number)
            raise InputError(f"{item.name} is no image.")
        return data

    return item.name, content
