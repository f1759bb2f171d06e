"""The queue that wakes workers: huey on SQLite in the home, or on Redis.

    queue = Queue.open(home, execute)
    queue.deliver()                # tell it of the jobs that wait; every worker does so every second

Only workers touch the queue: a job is asked for by its row alone (a transactional outbox), so asking works
while the queue is away. A message holds a job's name and nothing else, as JSON: huey's own pickles would let
whoever can write to the queue run code in the workers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from huey import RedisHuey, SqliteHuey
from huey.api import Huey
from huey.exceptions import ConfigurationError
from huey.registry import Message
from huey.serializer import Serializer
from sqlalchemy import select, update

from registry.db import unix_now
from registry.errors import InputError
from registry.home import Home
from registry.jobs.models import Job
from registry.jobs.service import State
from registry.operations import REDIS_VARIABLE, Operations

QUEUE_FILE = "queue.db"


class JsonMessages(Serializer):  # type: ignore[misc]
    """Messages as JSON arrays."""

    def serialize(self, data: Message) -> bytes:
        return json.dumps(data).encode()

    def deserialize(self, data: bytes) -> Message:
        return Message(*json.loads(data))


class Queue:
    """One registry's queue; ``work`` is called with the name of a job in a worker's thread."""

    def __init__(self, home: Home, huey: Huey, work: Callable[[str], None]) -> None:
        self.home, self.huey = home, huey
        self._put = huey.task(name="run")(work)

    @classmethod
    def open(cls, home: Home, work: Callable[[str], None]) -> Queue:
        """The queue that the home's configuration names; Redis is not connected yet."""
        options: dict[str, Any] = {"results": False, "serializer": JsonMessages()}
        redis = Operations.load(home.settings).redis_url
        if redis is None:
            file = str(home.settings.home / QUEUE_FILE)
            return cls(home, SqliteHuey("hallmark", filename=file, **options), work)
        try:
            # Several registries may share one Redis.
            huey = RedisHuey(f"hallmark_{home.identity.registry}", url=redis, **options)
        except ConfigurationError:
            raise InputError(
                "the queue is on Redis, whose client is not installed.",
                "Run `pip install 'hallmark[redis]'`.",
            ) from None
        except ValueError:  # its message may quote the password
            raise InputError("the queue's URL cannot be used.", f"Correct {REDIS_VARIABLE}.") from None
        return cls(home, huey, work)

    def deliver(self) -> int:
        """Put the jobs that wait and that the queue does not hold into it; their number.

        A job may be delivered twice, and is claimed once. What was delivered before is delivered again only
        to an empty queue: then its message was lost.
        """
        waiting = select(Job.job_id, Job.delivered_at).where(Job.state == State.QUEUED).order_by(Job.id)
        with self.home.database.read() as session:
            rows = session.execute(waiting).all()
        found = [row.job_id for row in rows if row.delivered_at is None]
        if len(found) < len(rows) and not self.huey.pending_count():
            found = [row.job_id for row in rows]
        for job_id in found:
            self._put(job_id)
        if found:
            with self.home.database.write() as session:
                chosen = update(Job).where(Job.job_id.in_(found), Job.state == State.QUEUED)
                session.execute(chosen.values(delivered_at=unix_now()))
        return len(found)
