"""Decoding in a process of its own, for files that might take long, fill the memory or crash a decoder.

    decode_guarded(data, "suspect.tif", MAX_PIXELS, None)     # as verifier.images.decode

A decoder cannot be interrupted from within its own process, and a crash in one takes the process along. So a
child process decodes: it may take SECONDS (of processor time, so that a busy machine refuses nothing that an
idle one reads) and MEMORY, and what happens to it is an :class:`InputError` about that one image. Children
are kept and used again, one for each thread that decodes at a time: the first costs the start of a Python
that loads Pillow and nothing else (0.1 s), each further image the way through two pipes (some 10 ms where
12 megapixels come back).

The protocol: a line of JSON and the file's bytes to the child; a line of JSON and the pixels (mode RGB) back.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import Image

from verifier.errors import InputError, VerifierError

try:
    import resource
except ImportError:  # Windows, where neither memory nor processor time is limited so
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from verifier.images import Decoded

SECONDS = 20
"""Processor time for one image: some ten times what the largest honest file takes."""

PATIENCE = 6
"""The time on the clock that is allowed, in SECONDS: for a child that sleeps, and where the system cannot
limit processor time."""

MEMORY = 4 << 30
"""Address space of a child (where the system can limit it): MAX_PIXELS with transparency take 3 GB."""

_CPU_TIME_OVER = getattr(signal, "SIGXCPU", 0)
_READY = b"ready\n"
_PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from verifier.guard import serve; serve()"
# One thread decodes, so that address space goes to pixels and not to the stacks and arenas of many.
_ENVIRONMENT = {"MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

_idle: dict[int, list[_Child]] = {}  # by process: after a fork, the parent's children are not the child's


def decode_guarded(data: bytes, name: str, max_pixels: int, side: int | None) -> Decoded:
    """:func:`verifier.images.decode` in a child; :class:`VerifierError` where no child can be started."""
    idle = _idle.setdefault(os.getpid(), [])
    child = _take(idle)
    try:
        request = {"name": name, "max_pixels": max_pixels, "side": side, "seconds": SECONDS}
        reply, pixels = child.exchange(request, data)
    except BaseException:
        child.end()
        raise
    idle.append(child)
    if "error" in reply:
        raise InputError(reply["error"], reply["hint"])
    from verifier.images import Decoded

    image = Image.frombytes("RGB", tuple(reply["size"]), pixels)
    told = tuple(reply["notes"]), tuple(reply["traits"])
    return Decoded(image, reply["width"], reply["height"], *told)


def waiting() -> list[int]:
    """The ids of this process's children that wait for work."""
    return [child.pid for child in _idle.get(os.getpid(), [])]


def _take(idle: list[_Child]) -> _Child:
    """A child that waits for work, or a new one."""
    while idle:
        child = idle.pop()
        if child.alive:
            return child
        child.end()
    return _Child()


class _Child:
    """A decoding process, seen from outside."""

    def __init__(self) -> None:
        paths = [os.path.abspath(path) for path in sys.path]  # noqa: PTH100 - "" is the current folder
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _PROGRAM, *paths],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **_ENVIRONMENT},
            )
        except OSError as error:
            raise VerifierError(f"cannot start a process to decode images: {error.strerror}.") from None
        self._ready = self._expired = False

    def exchange(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        """Send a file, receive the reply; :class:`InputError` if the child took too long or died over it."""
        sent, received = self._process.stdin, self._process.stdout
        assert sent is not None
        assert received is not None
        deadline = threading.Timer(PATIENCE * request["seconds"], self._expire)
        deadline.daemon = True
        deadline.start()
        try:
            if not self._ready and received.readline() != _READY:
                raise VerifierError("the process that decodes images does not start.")
            self._ready = True
            sent.write(json.dumps({**request, "bytes": len(data)}).encode() + b"\n")
            sent.write(data)
            sent.flush()
            reply = json.loads(received.readline())
            pixels = received.read(3 * reply["size"][0] * reply["size"][1]) if "size" in reply else b""
        except (OSError, ValueError):  # it is gone, in the middle of our sentence or of its own
            name = request["name"]
            if self._expired or self._process.wait() == -_CPU_TIME_OVER:
                raise InputError(f"{name} was not decoded within {request['seconds']} seconds.") from None
            raise InputError(f"{name} made its decoder crash or run out of memory.") from None
        finally:
            deadline.cancel()
        return reply, pixels

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        """Kill the process and forget it."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):  # what was not sent any more
                pipe.close()
        self._process.wait()

    def _expire(self) -> None:
        self._expired = True
        self._process.kill()


@atexit.register
def _end_all() -> None:
    for child in _idle.pop(os.getpid(), []):
        child.end()


def serve() -> None:
    """The child's side: answer requests from standard input until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing else may write into the replies
    _limit_memory()
    replies.write(_READY)
    replies.flush()
    while line := requests.readline():
        request = json.loads(line)
        _limit_time(request.pop("seconds"))
        _answer(request, requests.read(request.pop("bytes")), replies)
        replies.flush()


def _answer(request: dict[str, Any], data: bytes, replies: BinaryIO) -> None:
    from verifier.images import decode_here

    try:
        decoded = decode_here(data, **request)
        pixels = decoded.image.tobytes()
    except InputError as error:
        reply: dict[str, Any] = {"error": str(error), "hint": error.hint}
        pixels = b""
    else:
        reply = {name: value for name, value in vars(decoded).items() if name != "image"}
        reply["size"] = decoded.image.size
    replies.write(json.dumps(reply).encode() + b"\n")
    replies.write(pixels)


def _limit_memory() -> None:
    if resource is not None:
        _limit(resource.RLIMIT_AS, MEMORY)
        _limit(resource.RLIMIT_CORE, 0)


def _limit_time(seconds: int) -> None:
    """Let the process run for so long from now on; the system ends it then."""
    if resource is not None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime) + seconds)


def _limit(which: int, value: int) -> None:
    assert resource is not None
    _, most = resource.getrlimit(which)
    resource.setrlimit(which, (value if most == resource.RLIM_INFINITY else min(value, most), most))
