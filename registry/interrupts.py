"""Ctrl-C between steps, for work that is committed step by step.

    with between_steps() as check:
        for step in steps:
            work(step)
            check()            # KeyboardInterrupt here if Ctrl-C came meanwhile

Python raises ``KeyboardInterrupt`` wherever the program happens to be. Inside a finaliser or the callback
of a weak reference, of which a database session has thousands, it is printed and lost, and the work
would go on to its end.

Work that runs in a thread has no Ctrl-C; who runs it says when it shall stop:

    with interruptible(lambda: cancelled):
        train(...)             # KeyboardInterrupt between two of its steps
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType

_asked: ContextVar[Callable[[], bool] | None] = ContextVar("asked", default=None)


@contextmanager
def interruptible(asked: Callable[[], bool]) -> Iterator[None]:
    """Inside the block, work is interrupted between its steps as soon as ``asked()`` is true."""
    before = _asked.set(asked)
    try:
        yield
    finally:
        _asked.reset(before)


@contextmanager
def between_steps() -> Iterator[Callable[[], None]]:
    """Note Ctrl-C inside the block and raise it from the function given; a second one acts at once."""
    noted = threading.Event()
    asked = _asked.get()

    def check() -> None:
        if noted.is_set() or (asked is not None and asked()):
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread only
        yield check
        return

    def note(_number: int, _frame: FrameType | None) -> None:
        noted.set()
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, previous)
