"""Logs: one JSON object a line on standard error, with request ids and without secrets.

    configure()                        # once, by what serves: `registry serve`, `registry worker`
    log = structlog.get_logger(__name__)
    log.info("key issued", key_id=...)

On a terminal the lines are for people. ``HALLMARK_LOG_FORMAT`` (json or console) and ``HALLMARK_LOG_LEVEL``
override that. Everything that the libraries log goes the same way, and through the same :func:`redact`.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

FORMAT_VARIABLE = "HALLMARK_LOG_FORMAT"
LEVEL_VARIABLE = "HALLMARK_LOG_LEVEL"
REDACTED = "[redacted]"

_SECRET_NAMES = re.compile(
    r"(?i)pass(word|phrase|wd)|authori[sz]ation|cookie|secret|(^|_|-)(token|totp|otp|pin|code_verifier|private)"
    r"($|_|-)|csrf|api_?key|master_?key|credential"
)
"""Names of values that are secret whatever they look like."""

_SECRET_TEXTS: tuple[tuple[re.Pattern[str], str], ...] = (
    # An API token keeps its prefix, which names it in the list of tokens.
    (re.compile(r"\b(hm_[0-9a-f]{12})_[0-9A-Za-z_-]+"), rf"\1_{REDACTED}"),
    (re.compile(r"(?i)\b(bearer|basic|digest)\s+[^\s\"',]+"), rf"\1 {REDACTED}"),
    (re.compile(r"(/d/)[^/?#\s\"'<]+"), rf"\1{REDACTED}"),
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://[^\s:/@\"']*:)[^\s@\"']+@"), rf"\1{REDACTED}@"),
    (
        re.compile(
            r"(?i)((?:\b(?:password|passwd|secret|token|cookie|set-cookie|x-amz-signature)|[?&]code)"
            r"[\"']?\s*[=:]\s*[\"']?)[^\s&\"',;}]+"
        ),
        rf"\1{REDACTED}",
    ),
)
"""What secrets look like inside a text: in a URL, a header, a message of a library, a traceback."""

_QUIET = ("huey", "werkzeug", "sqlalchemy", "urllib3", "botocore", "s3fs", "fsspec", "PIL", "alembic")


def configure(environment: Mapping[str, str] = os.environ) -> None:
    """Send all logs of this process to standard error as described above."""
    as_json = environment.get(FORMAT_VARIABLE, "console" if sys.stderr.isatty() else "json") != "console"
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                redact,
                structlog.processors.JSONRenderer(default=str)
                if as_json
                else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(environment.get(LEVEL_VARIABLE, "INFO").upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The processor that takes secrets out of an event, by the names of values and by how they look."""
    return {name: _clean(name, value) for name, value in event.items()}


def redacted(text: str) -> str:
    """``text`` without what looks like a secret."""
    for pattern, replacement in _SECRET_TEXTS:
        text = pattern.sub(replacement, text)
    return text


def _clean(name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if _SECRET_NAMES.search(name):
        return REDACTED
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, bytes | bytearray):
        return f"{len(value)} bytes"
    if isinstance(value, Mapping | MutableMapping):
        return {str(key): _clean(str(key), entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(name, entry) for entry in value]
    return redacted(str(value))
