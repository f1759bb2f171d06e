"""`registry worker` and `registry job`."""

from __future__ import annotations

import os
from typing import Any

import click

from registry.command_line import home_option, json_option, opened, print_json

STATES = ("queued", "running", "done", "failed", "cancelled")


@click.command()
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True, help="Jobs at a time.")
@click.option(
    "--stale-seconds",
    type=click.FloatRange(2),
    default=60.0,
    show_default=True,
    help="When a worker that is not heard of counts as dead.",
)
@click.option("--with-parent", is_flag=True, hidden=True, help="End when the starting process ends.")
@home_option
def worker(threads: int, stale_seconds: float, with_parent: bool) -> None:
    """Run background jobs: training, studies, exports.

    SIGTERM or Ctrl-C lets the running jobs finish a step; they wait for the next worker and go on from
    there. Any number of workers may serve one registry.
    """
    from registry import observability
    from registry.jobs.worker import Worker

    parent = os.getppid() if with_parent else None
    observability.configure()
    with opened() as home:
        Worker(home, threads=threads, stale_seconds=stale_seconds, parent=parent).run()


@click.group()
def job() -> None:
    """See and control background jobs."""


@job.command("list")
@click.option("--state", type=click.Choice(STATES), help="Only jobs in this state.")
@click.option("--last", type=click.IntRange(1), default=50, show_default=True, help="How many.")
@home_option
@json_option
def job_list(state: str | None, last: int, as_json: bool) -> None:
    """List the newest jobs of all organisations."""
    from registry.jobs import service
    from registry.jobs.models import Job

    chosen = service.select_jobs(state=None if state is None else service.State(state))
    with opened() as home, home.database.read() as session:
        rows = session.execute(chosen.order_by(Job.id.desc()).limit(last)).scalars().all()
        found = [service.describe(row) for row in rows]
    if as_json:
        print_json(found)
        return
    for entry in found:
        click.echo(f"{entry['job_id']}  {entry['kind']}  {entry['state']}  {_progress(entry)}".rstrip())


@job.command("show")
@click.argument("job_id")
@home_option
@json_option
def job_show(job_id: str, as_json: bool) -> None:
    """Show a job and its log."""
    from registry.jobs import service
    from verifier.bundle import utc

    with opened() as home, home.database.read() as session:
        row = service.get_job(session, job_id)
        found = service.describe(row)
        log = [{"at": utc(line.at), "text": line.text} for line in service.lines(session, row)]
    if as_json:
        print_json({**found, "log": log})
        return
    for field, value in found.items():
        shown = _progress(found) if field == "progress" else value
        click.echo(f"{field.replace('_', ' '):>12}  {'-' if value is None else shown}")
    for line in log:
        click.echo(f"{line['at']}  {line['text']}")


@job.command("cancel")
@click.argument("job_id")
@home_option
def job_cancel(job_id: str) -> None:
    """Stop a job between two of its steps; `registry job retry` goes on from there."""
    from registry.jobs import service

    with opened() as home, home.database.write() as session:
        row = service.get_job(session, job_id)
        service.cancel(session, row)
        state = row.state
    click.echo(
        f"{job_id} is cancelled." if state == "cancelled" else f"{job_id} stops after its present step."
    )


@job.command("retry")
@click.argument("job_id")
@home_option
def job_retry(job_id: str) -> None:
    """Queue a job that failed or was cancelled again."""
    from registry.jobs import service

    with opened() as home, home.database.write() as session:
        service.retry(session, service.get_job(session, job_id))
    click.echo(f"{job_id} is queued.")


def _progress(entry: dict[str, Any]) -> str:
    seen = entry["progress"]
    counted = f" {seen['done']}/{seen['total']}" if seen["total"] else ""
    return f"{seen['stage']}{counted}"
