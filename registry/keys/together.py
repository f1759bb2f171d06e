"""Committing together what is issued at the same moment.

    together = Together(home)
    together.issue(draw)                # returns when the batch that `draw` made is committed
    together.commit(batch)              # the same of one that is drawn already

The ledger takes one transaction after the other, and each costs a flush to disk and most of what a key costs.
Requests that arrive meanwhile wait in a line; whoever finds nobody committing takes the whole line into one
transaction, and waits a moment for as many as there were the last time: under load the clients that were just
answered come again. On an idle server there was one, and a batch is committed at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from registry.errors import StateError
from registry.home import Home
from registry.keys.service import Batch, commit_each

LONGEST_LINE = 64
"""Batches in one transaction: enough to share its cost, few enough for an even pace."""

PATIENCE = 0.02
"""Seconds to wait for others at most; drawing a batch takes a few milliseconds."""


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
        self._lock = threading.Condition()
        self._line: list[_Place] = []
        self._drawing = 0
        self._expected = 1
        self._busy = False

    def commit(self, batch: Batch) -> None:
        """Commit ``batch``; raises what its own transaction raised, never what another's did."""
        self.issue(lambda: batch)

    def issue(self, draw: Callable[[], Batch]) -> None:
        """Commit the batch that ``draw`` makes, for which whoever commits meanwhile waits a moment."""
        own, waits = self._joined(draw)
        if waits:
            own.turn.wait()
        if not own.settled:
            self._serve()
        if own.error is not None:
            raise own.error

    def _joined(self, draw: Callable[[], Batch]) -> tuple[_Place, bool]:
        """A place at the end of the line, and whether somebody is committing already."""
        with self._lock:
            self._drawing += 1
        own = None
        try:
            own = _Place(draw())
        finally:
            with self._lock:
                self._drawing -= 1
                self._lock.notify_all()
                waits = self._busy
                if own is not None:
                    self._line.append(own)
                    self._busy = True
        return own, waits

    def _serve(self) -> None:
        """Commit the line as it stands, then hand over to whoever came meanwhile."""
        with self._lock:
            self._lock.wait_for(self._all_here, PATIENCE)
            taken, self._line = self._line[:LONGEST_LINE], self._line[LONGEST_LINE:]
        try:
            self._commit(taken)
        finally:
            with self._lock:
                self._expected = len(taken) + len(self._line)
                successor = self._line[0] if self._line else None
                self._busy = successor is not None
            for place in [*taken, *([] if successor is None else [successor])]:
                place.turn.set()

    def _all_here(self) -> bool:
        line = len(self._line)
        return line >= LONGEST_LINE or (line >= self._expected and not self._drawing)

    def _commit(self, taken: list[_Place]) -> None:
        for place in taken:
            place.settled, place.error = (
                True,
                StateError("the server was stopped before the keys were issued."),
            )
        try:
            refusals = commit_each(self._home, [place.batch for place in taken])
        except Exception as error:  # noqa: BLE001  (it is raised where it belongs)
            if len(taken) == 1:
                taken[0].error = error
                return
            for place in taken:  # one of them does not go through: each on its own, so that it fails alone
                self._commit([place])
            return
        for place, refusal in zip(taken, refusals, strict=True):
            place.error = refusal
