"""Search beyond one machine's memory: the segments of a saved index, shared out over Ray actors.

    source = Source(folder, secret, label, octets=8)      # a folder that all machines can read
    with ShardedKeys(source, shards=4, keys=10**9) as keys:
        keys.top_batch(logits, m=16)                      # as if all keys were here

Each actor opens its part of the segments and gives the exact best of it; the best of all are among these.
With an answer it says which rows it has searched. **An answer is whole or there is none**: parts that do not
cover all rows, from the first to the last, each once, are an error, and so is a part that does not come. A
part whose actor died is asked for once more, of a new actor.

The secret travels to the actors, and a query to all of them: who runs this keeps the cluster's network to
himself (Ray encrypts with ``RAY_USE_TLS=1`` only). Needs the extra ``scan``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verifier import resolve
from verifier.errors import InputError, VerifierError
from verifier.phi import Packed
from verifier.resolve import Found, Indices, Keys, Logits
from verifier.segments import SavedIndex

SECONDS_MOST = 600.0
"""Within which a part answers, opening its segments included, even over a slow network."""


class ShardError(VerifierError):
    """Not all keys could be searched, so that there is no answer."""


@dataclass(frozen=True)
class Source:
    """A saved index, as each machine opens it (see :class:`verifier.segments.SavedIndex`)."""

    folder: Path
    secret: bytes
    label: str
    octets: int

    def opened(self) -> SavedIndex:
        """The index on this machine."""
        return SavedIndex(self.folder, self.secret, self.label, self.octets)


@dataclass(frozen=True)
class _Part:
    """Segments ``first`` to ``end`` - 1, which hold the rows ``rows``."""

    first: int
    end: int
    rows: range


class _Shard:
    """What an actor does."""

    def __init__(self, source: Source, part: _Part) -> None:
        index, _, _ = source.opened().load(only=range(part.first, part.end))
        if len(index) != len(part.rows):
            raise ShardError(f"{source.folder} holds {len(index)} of {len(part.rows)} keys here.")
        self._index, self._part = index, part

    def top_batch(self, logits: Logits, m: int, floors: NDArray[Any] | None) -> tuple[int, int, list[Found]]:
        """The first row and the number of rows that were searched, and what was found, by row of all keys."""
        first = self._part.rows.start
        found = self._index.top_batch(logits, m, floors)
        return first, len(self._index), [(rows + first, scores) for rows, scores in found]

    def rows(self, rows: Indices) -> Packed:
        """Keys by row of all keys."""
        return self._index.rows(rows - self._part.rows.start)


class ShardedKeys(Keys):
    """All keys of a saved index, in ``shards`` actors of the Ray cluster that the process is connected to."""

    def __init__(self, source: Source, shards: int, keys: int) -> None:
        """``keys`` is how many there must be. :class:`InputError` for another number, or without Ray."""
        try:
            import ray
        except ImportError:
            raise InputError(
                "sharding needs Ray, which is not installed.", "pip install 'hallmark[scan]'"
            ) from None
        self._ray: Any = ray
        self._source, self._octets = source, source.octets
        self._parts = _shared_out([file.count for file in source.opened().files()], shards)
        held = self._parts[-1].rows.stop if self._parts else 0
        if held != keys:
            raise InputError(
                f"the index in {source.folder} holds {held} keys, not {keys}.",
                "Build it again: registry index build.",
            )
        self._actors = [self._actor(part) for part in self._parts]

    def __enter__(self) -> ShardedKeys:
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._actors:
            self._ray.kill(actor)

    def __len__(self) -> int:
        return self._parts[-1].rows.stop if self._parts else 0

    @property
    def bits(self) -> int:
        return 8 * self._octets

    def rows(self, rows: Indices) -> Packed:
        found = np.empty((len(rows), self._octets), np.uint8)
        for number, part in enumerate(self._parts):
            chosen = (rows >= part.rows.start) & (rows < part.rows.stop)
            if chosen.any():
                (found[chosen],) = self._asked("rows", (rows[chosen],), [number])
        return found

    def top_batch(self, logits: Logits, m: int, floors: NDArray[Any] | None = None) -> list[Found]:
        readings = np.stack([self._checked(row) for row in np.atleast_2d(np.asarray(logits))])
        answers = self._asked("top_batch", (readings, m, floors), range(len(self._parts)))
        searched = 0
        for first, count, found in answers:
            if first != searched or len(found) != len(readings):
                raise ShardError(f"keys from number {searched} on were not searched: there is no answer.")
            searched += count
        if searched != len(self):
            raise ShardError(f"{searched} of {len(self)} keys were searched: there is no answer.")
        parts = [[found[i] for _, _, found in answers] for i in range(len(readings))]
        return [resolve.joined(found, m) for found in parts]

    def _actor(self, part: _Part) -> Any:
        return self._ray.remote(num_cpus=1)(_Shard).remote(self._source, part)

    def _asked(self, method: str, arguments: tuple[Any, ...], numbers: Sequence[int]) -> list[Any]:
        """The answers of these parts; of new actors where the first ones fail.

        :class:`ShardError` where these fail too.
        """
        pending = {number: getattr(self._actors[number], method).remote(*arguments) for number in numbers}
        return [self._answer(number, asked, method, arguments) for number, asked in pending.items()]

    def _answer(self, number: int, asked: Any, method: str, arguments: tuple[Any, ...]) -> Any:
        part, failures = self._parts[number], self._ray.exceptions.RayError
        try:
            return self._ray.get(asked, timeout=SECONDS_MOST)
        except failures:
            self._ray.kill(self._actors[number])
        self._actors[number] = self._actor(part)
        try:
            again = getattr(self._actors[number], method).remote(*arguments)
            return self._ray.get(again, timeout=SECONDS_MOST)
        except failures as error:
            reason = str(error).strip().splitlines()[-1]
            raise ShardError(
                f"keys {part.rows.start} to {part.rows.stop - 1} cannot be searched, so there is no answer "
                f"({reason}).",
                "See whether the machines of the cluster can read the index, and try again.",
            ) from None


def _shared_out(counts: Sequence[int], shards: int) -> list[_Part]:
    """Segments of so many keys each, in ``shards`` runs of about the same number."""
    if shards < 1:
        raise InputError(f"{shards} shards: give at least one.")
    borders = np.linspace(0, len(counts), min(shards, len(counts)) + 1).round().astype(int).tolist()
    firsts = [0, *np.cumsum(counts).tolist()]
    return [
        _Part(first, end, range(firsts[first], firsts[end])) for first, end in itertools.pairwise(borders)
    ]
