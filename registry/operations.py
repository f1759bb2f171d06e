"""What an operator sets about how a registry runs: queue, proxies, metrics.

    operations = Operations.load(home.settings)
    operations.redis_url, operations.proxies, operations.metrics_token

It stands in ``config.toml`` beside the database and the storage; the environment overrides it, so that no
password needs to stand there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from registry.config import CONFIG_NAME, Settings
from registry.errors import InputError

REDIS_VARIABLE = "HALLMARK_REDIS_URL"
PROXIES_VARIABLE = "HALLMARK_PROXIES"
METRICS_VARIABLE = "HALLMARK_METRICS_TOKEN"

MOST_PROXIES = 8
SHORTEST_TOKEN = 16


@dataclass(frozen=True)
class Operations:
    """``redis_url``: the queue of jobs, by default an SQLite file in the home. ``proxies``: how many reverse
    proxies stand in front, whose X-Forwarded-* headers are believed. ``metrics_token``: the bearer token of
    /metrics, which answers only this machine without one."""

    redis_url: str | None = None
    proxies: int = 0
    metrics_token: str | None = None

    @classmethod
    def load(cls, settings: Settings, environment: Mapping[str, str] = os.environ) -> Operations:
        """Read the tables ``[jobs]``, ``[serving]`` and ``[metrics]`` of the configuration."""
        redis = environment.get(REDIS_VARIABLE) or _text(settings, "jobs", "redis")
        token = environment.get(METRICS_VARIABLE) or _text(settings, "metrics", "token")
        proxies = environment.get(PROXIES_VARIABLE) or settings.table("serving").get("proxies", 0)
        if redis is not None and not redis.startswith(("redis://", "rediss://", "unix://")):
            raise InputError(
                "the queue's URL is none of Redis.", f"Correct [jobs] redis or {REDIS_VARIABLE}."
            )
        if token is not None and len(token) < SHORTEST_TOKEN:
            raise InputError(
                f"the token of /metrics has less than {SHORTEST_TOKEN} characters.",
                f"Correct [metrics] token or {METRICS_VARIABLE}.",
            )
        return cls(redis, _count(proxies), token)


def _text(settings: Settings, section: str, name: str) -> str | None:
    value = settings.table(section).get(name)
    if value is not None and (not isinstance(value, str) or not value):
        raise InputError(f"[{section}] {name} of {CONFIG_NAME} must be text.", "Correct or remove it.")
    return value


def _count(value: Any) -> int:
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if not isinstance(number, int) or not 0 <= number <= MOST_PROXIES:
        raise InputError(
            f"[serving] proxies must be 0 to {MOST_PROXIES}.", "Count the reverse proxies in front."
        )
    return number
