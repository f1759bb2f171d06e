"""What Prometheus is told: requests, what was issued, delivered and resolved, jobs, the ledger.

    KEYS_ISSUED.inc(3)
    exposition(home)                   # the text of /metrics, over all worker processes

No label names an organisation, a person, a model or a key.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import REGISTRY, Collector
from sqlalchemy.exc import SQLAlchemyError

from registry.home import Home
from registry.jobs import service as jobs
from registry.ledger import service as ledger

PROCESSES_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Where worker processes keep their counts; must be set before this module is imported."""

REQUESTS = Counter("hallmark_http_requests", "Requests answered.", ["method", "route", "status"])
SECONDS = Histogram(
    "hallmark_http_request_seconds",
    "From the request to the last byte of its answer.",
    ["route"],
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300),
)
SENT = Counter("hallmark_http_sent_bytes", "Bytes of answers.", ["route"])
KEYS_ISSUED = Counter("hallmark_keys_issued", "Keys issued over HTTP.")
DOWNLOADS = Counter("hallmark_downloads", "Answers that send a copy or a part of it.")
RESOLVES = Counter("hallmark_resolves", "Resolve queries.", ["verdict"])


def exposition(home: Home) -> bytes:
    """All metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    if PROCESSES_VARIABLE in os.environ:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    else:
        registry.register(REGISTRY)
    registry.register(_Stored(home))
    return generate_latest(registry)


class _Stored(Collector):
    """What the database knows; left out while it does not answer."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def describe(self) -> list[GaugeMetricFamily]:
        return []  # registering must not ask the database

    def collect(self) -> Iterator[GaugeMetricFamily]:
        try:
            with self._home.database.read() as session:
                states, size = jobs.counts(session), ledger.size(session)
        except SQLAlchemyError:
            yield GaugeMetricFamily("hallmark_database_up", "Whether the database answers.", 0)
            return
        yield GaugeMetricFamily("hallmark_database_up", "Whether the database answers.", 1)
        yield GaugeMetricFamily("hallmark_ledger_entries", "Entries of the ledger.", size)
        family = GaugeMetricFamily("hallmark_jobs", "Jobs by state.", labels=["state"])
        for state, count in states.items():
            family.add_metric([state], count)
        yield family
