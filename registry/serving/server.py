"""gunicorn, embedded: worker processes with threads, and beside them a worker for background jobs.

    Server(folder, Options(bind=("127.0.0.1:8080",), workers=2)).run()      # until SIGTERM

SIGTERM ends gracefully: no new connections, requests in progress are answered, streams end at their next
step or after ``grace`` seconds, running jobs stop between two steps and wait for the next start.
"""

from __future__ import annotations

import gc
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import FrameType
from typing import Any

from flask import Flask
from gunicorn import util
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.workers.gthread import ThreadWorker
from prometheus_client import multiprocess
from werkzeug.middleware.proxy_fix import ProxyFix

from registry.api import problems
from registry.api.shutdown import stopping
from registry.app import create_app
from registry.home import Home
from registry.operations import Operations
from registry.serving.probes import Probes

STUCK_SECONDS = 120
"""A worker process whose main thread, which only accepts connections, is silent so long is replaced."""
KEEP_ALIVE_SECONDS = 75
"""Longer than a proxy keeps its connections, so that it is the proxy that closes them."""
RESTART_SECONDS = 5.0
SWITCH_SECONDS = 0.0015
"""A thread that comes back from the database gets the interpreter so soon. With Python's own 5 ms, whoever
holds the ledger's lock would wait for every busy thread at each of its statements."""


@dataclass(frozen=True)
class Options:
    """``bind``: addresses (host:port, unix:path). ``jobs``: threads of the job worker beside, 0 for none.

    ``job_environment`` is what that worker is started with, ``None`` for this process's own.
    """

    bind: tuple[str, ...]
    workers: int = 2
    threads: int = 16
    grace: int = 30
    jobs: int = 0
    job_environment: Mapping[str, str] | None = None


class Server(BaseApplication):  # type: ignore[misc]
    """The registry in ``folder`` as a gunicorn application."""

    def __init__(self, folder: Path, options: Options) -> None:
        self._folder, self._options = folder, options
        super().__init__()

    def load_config(self) -> None:
        options = self._options
        values: dict[str, Any] = {
            "bind": list(options.bind),
            "workers": options.workers,
            "threads": options.threads,
            "graceful_timeout": options.grace,
            "timeout": STUCK_SECONDS,
            "keepalive": KEEP_ALIVE_SECONDS,
            "worker_class": _Worker,
            "logger_class": _Log,
            "control_socket_disable": True,
            "proc_name": "hallmark",
            "child_exit": _forget,
            "worker_exit": lambda _arbiter, _worker: self._close(),
        }
        for name, value in values.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Called in every worker process: each has a database pool and a master key of its own."""
        sys.setswitchinterval(SWITCH_SECONDS)
        self._home = Home.open(self._folder)
        app = application(self._home)
        gc.collect()
        gc.freeze()  # what lives as long as the process: no request waits for it to be searched for garbage
        return app

    def run(self) -> None:
        """Serve until a signal ends the process."""
        _Arbiter(self, _JobWorker(self._folder, self._options)).run()

    def _close(self) -> None:
        if hasattr(self, "_home"):
            self._home.close()


def application(home: Home) -> Flask:
    """The application as it is served: behind its proxies, with probes."""
    operations = Operations.load(home.settings)
    app = create_app(home)
    if operations.proxies:
        number = operations.proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=number, x_proto=number, x_host=number)  # type: ignore[method-assign]
    app.wsgi_app = Probes(app.wsgi_app, home, operations)  # type: ignore[method-assign]
    return app


def _forget(_arbiter: Arbiter, worker: ThreadWorker) -> None:
    multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def _refuse(connection: socket.socket, status: int, _reason: str, _message: str) -> None:
    """Answer what is no request that can be read, and so never reaches the application.

    What gunicorn has to say quotes the request: its log has it, redacted, and the answer has not.
    """
    detail = "something went wrong here." if status >= 500 else "this is no well-formed request."
    body = problems.describe(status, detail).model_dump_json().encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nConnection: close\r\n"
        f"Content-Type: {problems.MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    util.write_nonblock(connection, head.encode("ascii") + body)


util.write_error = _refuse  # gunicorn's own is a page of HTML


class _Worker(ThreadWorker):  # type: ignore[misc]
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        stopping.set()
        super().handle_exit(sig, frame)


class _Log(Logger):  # type: ignore[misc]
    """gunicorn's messages go where all logs go; requests are logged by the application."""

    def setup(self, cfg: Any) -> None:
        self.cfg = cfg
        self.error_log.propagate = True
        self.error_log.setLevel(self.LOG_LEVELS[cfg.loglevel.lower()])

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        pass


class _Arbiter(Arbiter):  # type: ignore[misc]
    """gunicorn's master process, which also keeps the job worker running."""

    def __init__(self, app: BaseApplication, jobs: _JobWorker) -> None:
        self._jobs = jobs
        super().__init__(app)

    def manage_workers(self) -> None:
        super().manage_workers()
        self._jobs.ensure()

    def stop(self, graceful: bool = True) -> None:
        self._jobs.terminate()
        super().stop(graceful)
        self._jobs.wait(self.cfg.graceful_timeout)


class _JobWorker:
    """`registry worker` as a child process: what it loads and leaks never burdens the web workers."""

    def __init__(self, folder: Path, options: Options) -> None:
        self._wanted, self._environment = options.jobs > 0, options.job_environment
        self._command = [sys.executable, "-m", "registry.cli", "worker", "--with-parent"]
        self._command += ["--home", str(folder), "--threads", str(options.jobs)]
        self._process: subprocess.Popen[bytes] | None = None
        self._started = -RESTART_SECONDS

    def ensure(self) -> None:
        """Start the process if it does not run, but not too often."""
        alive = self._process is not None and self._process.poll() is None
        if not self._wanted or alive or time.monotonic() - self._started < RESTART_SECONDS:
            return
        self._started = time.monotonic()
        self._process = subprocess.Popen(self._command, env=self._environment)

    def terminate(self) -> None:
        """Ask the process to end."""
        self._wanted = False
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> None:
        """Give the process ``seconds`` to end."""
        if self._process is not None:
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
