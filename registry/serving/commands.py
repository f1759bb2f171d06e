"""`registry serve`."""

from __future__ import annotations

import os
import shutil
import tempfile

import click

from registry.command_line import chosen_home, home_option

COMPUTING = "OMP_NUM_THREADS"


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True)
@click.option("--bind", multiple=True, metavar="HOST:PORT|unix:PATH", help="In place of --host and --port.")
@click.option(
    "--workers", type=click.IntRange(1, 256), default=2, show_default=True, help="Server processes."
)
@click.option(
    "--threads", type=click.IntRange(2, 256), default=16, show_default=True, help="Requests at a time, each."
)
@click.option(
    "--grace",
    type=click.IntRange(1, 86_400),
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="How long requests and downloads in progress may take after SIGTERM.",
)
@click.option(
    "--jobs",
    type=click.IntRange(0, 64),
    help="Background jobs at a time, in a process beside [default: 1, or 0 where the queue is Redis: then "
    "run `registry worker`].",
)
@home_option
def serve(
    host: str, port: int, bind: tuple[str, ...], workers: int, threads: int, grace: int, jobs: int | None
) -> None:
    """Serve the console and the HTTP API, and run background jobs beside them.

    One command is enough on SQLite and local files. In production set a proxy in front that ends TLS; see
    deploy/README.md.
    """
    # What runs side by side here is requests: each computes with one thread. Jobs compute with all.
    chosen = os.environ.get(COMPUTING)
    os.environ.setdefault(COMPUTING, "1")

    from registry import observability
    from registry.home import Home
    from registry.operations import Operations

    folder = chosen_home()
    home = Home.open(folder)  # says now what the worker processes would fail at
    operations = Operations.load(home.settings)
    home.close()
    observability.configure()
    # Worker processes are forks that end inside this very call: only the first process may clean up.
    own, counts = os.getpid(), tempfile.mkdtemp(prefix="hallmark-metrics-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = counts  # before the counters are made
    try:
        from registry.serving.server import Options, Server

        for_jobs = {name: value for name, value in os.environ.items() if chosen or name != COMPUTING}
        at_once = jobs if jobs is not None else int(operations.redis_url is None)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        Server(folder, Options(bind or (address,), workers, threads, grace, at_once, for_jobs)).run()
    finally:
        if os.getpid() == own:
            shutil.rmtree(counts, ignore_errors=True)
