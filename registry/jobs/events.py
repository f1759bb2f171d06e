"""A job as server-sent events: its log, its progress, its end.

    for text in follow(home, row_id, after=0, seconds=60): ...      # `event: log`, `progress`, `end`

The id of an event is the number of the last log line sent, so that a client that comes back with
`Last-Event-ID` misses none and sees none twice. A stream ends after a while even if the job does not:
browsers come back by themselves, and no thread of the server is held for ever.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from registry.api.shutdown import stopping
from registry.home import Home
from registry.jobs import service
from registry.jobs.models import Job
from verifier.bundle import utc

POLL_SECONDS = 1.0
COMMENT_SECONDS = 15.0
"""Proxies close connections on which nothing is sent for a minute or so."""
RETRY_MILLISECONDS = 1_000


def follow(home: Home, row: int, after: int, seconds: float) -> Iterator[str]:
    """The events of a job behind log line ``after``, until it ends, ``seconds`` pass or the server stops."""
    yield f"retry: {RETRY_MILLISECONDS}\n\n"
    shown: dict[str, Any] | None = None
    started = said = time.monotonic()
    while True:
        with home.database.read() as session:
            job = session.get_one(Job, row)
            found = service.describe(job)
            lines = service.lines(session, job, after)
        for line in lines:
            after = line.id
            yield _event("log", {"at": utc(line.at), "text": line.text}, after)
        now = time.monotonic()
        if found != shown:
            shown = found
            ended = found["state"] in service.ENDED
            yield _event("end" if ended else "progress", found, after)
            if ended:
                return
        elif not lines and now - said >= COMMENT_SECONDS:
            yield ": still there\n\n"
        else:
            now = said
        said = now
        if time.monotonic() - started >= seconds or stopping.wait(POLL_SECONDS):
            return


def _event(name: str, data: dict[str, Any], number: int) -> str:
    return f"event: {name}\nid: {number}\ndata: {json.dumps(data)}\n\n"
