"""Which bytes of a delivery were sent, over however many responses.

sent = Sent.of({"": archive.size}, tag=..., sha256=..., size=...)
sent.add("", 0, 1_000_000)
sent.complete                                    # once nothing is missing
text = sent.dump(); sent = Sent.load(text)       # as the table of downloads keeps it
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

MOST_RANGES = 256
"""Separate ranges kept of one part. A client that asks for more of them at random is not reading a file."""

Ranges = list[list[int]]


@dataclass
class Sent:
    """Ranges (start, stop) that were sent of each part: of the archive (part ""), or of each file.

    ``tag`` stands for the exact bytes that are sent, so that those of two different builds are never
    added up; ``sha256`` (hex) and ``size`` are those of the copy.
    """

    tag: str
    sha256: str
    size: int
    sizes: dict[str, int]
    ranges: dict[str, Ranges]

    @classmethod
    def of(cls, sizes: Mapping[str, int], *, tag: str, sha256: str, size: int) -> Self:
        """Nothing sent yet of parts of these ``sizes``."""
        return cls(tag, sha256, size, dict(sizes), {})

    @classmethod
    def load(cls, text: str) -> Self:
        """What :meth:`dump` wrote."""
        return cls(**json.loads(text))

    def dump(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))

    def add(self, part: str, start: int, stop: int) -> None:
        """Bytes ``start <= i < stop`` of ``part`` were sent."""
        if start < stop:
            self.ranges[part] = merged([*self.ranges.get(part, []), [start, stop]])

    @property
    def bytes_sent(self) -> int:
        """Different bytes that were sent so far, of all parts."""
        return sum(stop - start for ranges in self.ranges.values() for start, stop in ranges)

    @property
    def complete(self) -> bool:
        """Whether every byte of every part was sent."""
        return all(self.ranges.get(part) == [[0, size]] for part, size in self.sizes.items() if size)


def merged(ranges: Ranges) -> Ranges:
    """The same bytes as disjoint ranges in order; the shortest are forgotten where they are too many."""
    found: Ranges = []
    for start, stop in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1][1] = max(found[-1][1], stop)
        else:
            found.append([start, stop])
    if len(found) > MOST_RANGES:
        found = sorted(sorted(found, key=lambda found: found[0] - found[1])[:MOST_RANGES])
    return found
