"""Silence for C libraries that write to standard error on their own (libtiff, onnxruntime)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Point file descriptor 2 at nothing while the block runs; failures still come as exceptions.

    Such lines would land between the lines of a report or progress bar and tell a user nothing that the
    exception does not. It holds for the whole process, so blocks should be short.
    """
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
