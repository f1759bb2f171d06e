"""Silence for libraries that write to standard error, or warn, on their own (libtiff, onnxruntime, Pillow).

Both contexts change the whole process, so several threads may be inside at once: the first to come makes the
change and the last to go undoes it.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager


class _Shared:
    """A context that is entered once, however many threads are inside.

    Calling it gives itself, to be entered as often as one likes.
    """

    def __init__(self, context: Callable[[], AbstractContextManager[None]]) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._inside = 0
        self._entered = ExitStack()

    def __call__(self) -> _Shared:
        return self

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._entered.enter_context(self._context())
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._entered.close()


@contextmanager
def _without_descriptor() -> Iterator[None]:
    try:
        sys.stderr.flush()
        kept = os.dup(2)
    except (OSError, ValueError, AttributeError):  # there is no standard error to protect
        yield
        return
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


@contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


quiet_libraries = _Shared(_without_descriptor)
"""Point file descriptor 2 at nothing while the block runs; failures still come as exceptions.

Such lines would land between the lines of a report or progress bar and tell a user nothing that the
exception does not. Blocks should be short.
"""

quiet_warnings = _Shared(_without_warnings)
"""No Python warnings while the block runs: what matters comes as an exception."""
