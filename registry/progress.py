"""Progress of long work, on a terminal as a bar and elsewhere as a line now and then.

with progress("training", steps) as bar:
    bar.update(step, loss=0.3)

with reported_to(listener):        # in place of standard error, for instance in a background job
    train(...)
"""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

LINE_SECONDS = 20.0


class Progress(ABC):
    """What a long loop reports to: the count done so far and figures worth showing."""

    @abstractmethod
    def update(self, done: int, **figures: float) -> None:
        """``done`` of the total are done; ``figures`` are shown beside."""


class _Bar(Progress):
    def __init__(self, rich: RichProgress, title: str, total: int, done: int) -> None:
        self._rich = rich
        self._task = rich.add_task(title, total=total, completed=done, figures="")

    def update(self, done: int, **figures: float) -> None:
        shown = " ".join(f"{name} {value:.3g}" for name, value in figures.items())
        self._rich.update(self._task, completed=done, figures=shown)


class _Lines(Progress):
    def __init__(self, title: str, total: int, done: int) -> None:
        self._title, self._total, self._first = title, total, done
        self._start = self._printed = time.monotonic()

    def update(self, done: int, **figures: float) -> None:
        now = time.monotonic()
        if now - self._printed < LINE_SECONDS and done < self._total:
            return
        self._printed = now
        rate = (done - self._first) / max(now - self._start, 1e-9)
        left = (self._total - done) / max(rate, 1e-9)
        shown = " ".join(f"{name} {value:.4g}" for name, value in figures.items())
        line = f"{self._title}: {done}/{self._total} {shown} ({left:.0f} s left)"
        print(line, file=sys.stderr, flush=True)


Listener = Callable[[str, int, int], Progress]
"""Is told title, total and count done of a loop that begins; returns what the loop reports to."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def reported_to(listener: Listener) -> Iterator[None]:
    """Report the progress of what runs inside the block to ``listener`` and show nothing."""
    before = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(before)


@contextmanager
def progress(title: str, total: int, done: int = 0) -> Iterator[Progress]:
    """Show ``title`` with ``done`` of ``total`` on standard error while the block runs."""
    listener = _listener.get()
    if listener is not None:
        yield listener(title, total, done)
        return
    if not sys.stderr.isatty():
        yield _Lines(title, total, done)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with RichProgress(*columns, console=Console(stderr=True), transient=False) as rich:
        yield _Bar(rich, title, total, done)
