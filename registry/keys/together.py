"""Committing together what is issued at the same moment.

    together = Together(home)
    together.commit(batch)              # returns when the batch is committed, on its own or with others

The ledger takes one transaction after the other, and each costs a flush to disk. Requests that arrive
meanwhile wait in a line; whoever finds nobody committing takes the whole line into one transaction. Nobody
waits for company: on an idle server a batch is committed at once.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from registry.errors import StateError
from registry.home import Home
from registry.keys.service import Batch, commit

LONGEST_LINE = 64
"""Batches in one transaction: enough to share its cost, few enough for an even pace."""


@dataclass(eq=False)
class _Place:
    """A batch in the line. ``turn`` is set once it is settled, or is to be the next to commit."""

    batch: Batch
    turn: threading.Event = field(default_factory=threading.Event)
    settled: bool = False
    error: Exception | None = None


class Together:
    """The line of one process."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._line: list[_Place] = []
        self._busy = False

    def commit(self, batch: Batch) -> None:
        """Commit ``batch``; raises what its own transaction raised, never what another's did."""
        own = _Place(batch)
        with self._lock:
            self._line.append(own)
            waits = self._busy
            self._busy = True
        if waits:
            own.turn.wait()
        if not own.settled:
            self._serve()
        if own.error is not None:
            raise own.error

    def _serve(self) -> None:
        """Commit the line as it stands, then hand over to whoever came meanwhile."""
        with self._lock:
            taken, self._line = self._line[:LONGEST_LINE], self._line[LONGEST_LINE:]
        try:
            self._commit(taken)
        finally:
            with self._lock:
                successor = self._line[0] if self._line else None
                self._busy = successor is not None
            for place in [*taken, *([] if successor is None else [successor])]:
                place.turn.set()

    def _commit(self, taken: list[_Place]) -> None:
        for place in taken:
            place.settled, place.error = (
                True,
                StateError("the server was stopped before the keys were issued."),
            )
        try:
            commit(self._home, [place.batch for place in taken])
        except Exception as error:  # noqa: BLE001  (it is raised where it belongs)
            if len(taken) == 1:
                taken[0].error = error
                return
            for place in taken:  # one of them does not go through: each on its own, so that it fails alone
                self._commit([place])
            return
        for place in taken:
            place.error = None
