"""How much one client may ask: rate limits, counted in memory or, for several workers, in Redis.

    limiter = Limiter(settings.limits)
    limiter.hit(REQUESTS, "token 12ab")            # ThrottledError when it is too much

A Redis that does not answer never stops the registry: meanwhile each worker counts for itself.
"""

from __future__ import annotations

import math
import time

import structlog
from limits import RateLimitItem, parse_many
from limits.errors import ConfigurationError, StorageError
from limits.storage import MemoryStorage, Storage, storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter

from registry.accounts.settings import Limits
from registry.errors import InputError, ThrottledError

REQUESTS, STRANGERS, SIGN_IN = "requests", "strangers", "sign_in"

RETRY_SECONDS = 5
"""How long to leave a storage alone after it failed."""

log = structlog.get_logger(__name__)


class Limiter:
    """The limits of one application, each by the name of its setting."""

    def __init__(self, limits: Limits) -> None:
        self._items = {
            name: _parse(name, getattr(limits, name)) for name in ("requests", "strangers", "sign_in")
        }
        self._shared = SlidingWindowCounterRateLimiter(_storage(limits.storage))
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._failed_at = -math.inf

    def hit(self, limit: str, who: str) -> None:
        """Count one request of ``who``; :class:`ThrottledError` if that is more than ``limit`` allows."""
        for item in self._items[limit]:
            wait = self._count(item, limit, who)
            if wait > 0:
                raise ThrottledError("there were too many requests.", "Wait, then go on more slowly.", wait)

    def _count(self, item: RateLimitItem, limit: str, who: str) -> int:
        if time.monotonic() - self._failed_at >= RETRY_SECONDS:
            try:
                return _wait(self._shared, item, limit, who)
            except StorageError as error:
                self._failed_at = time.monotonic()
                log.warning("rate limits are not shared", error=str(error.storage_error))
        return _wait(self._own, item, limit, who)


def _wait(limiter: SlidingWindowCounterRateLimiter, item: RateLimitItem, limit: str, who: str) -> int:
    """Seconds until the next request is welcome; 0 if this one is."""
    if limiter.hit(item, limit, who):
        return 0
    return max(1, math.ceil(limiter.get_window_stats(item, limit, who).reset_time - time.time()))


def _parse(name: str, text: str) -> list[RateLimitItem]:
    try:
        return parse_many(text) if text.strip() else []
    except ValueError:
        raise InputError(f"[limits] {name} = {text!r} is no limit.", "Write it like 600/minute.") from None


def _storage(url: str) -> Storage:
    options = {"socket_connect_timeout": 1, "socket_timeout": 1} if url.startswith("redis") else {}
    try:
        storage = storage_from_string(url, wrap_exceptions=True, **options)
    except ConfigurationError as error:
        raise InputError(
            f"[limits] storage cannot be used ({error}).", "Use memory:// or redis://..."
        ) from None
    assert isinstance(storage, Storage)
    return storage
