"""The demonstration from a fresh home to the report.

succeeded = run(Plan(Path("demo")))
"""

from __future__ import annotations

import itertools
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from registry.attribution.attacks import ATTACKS
from registry.demo.commands import Commands, json_objects
from registry.demo.drawings import draw_flower
from registry.demo.page import write_page
from registry.demo.results import Report, Result, Tally, Truth, tally
from registry.generators.builtin import resolve_builtin
from registry.progress import progress

MODEL = "flowers"
BUILTIN = "builtin:flowers-ldm@1"
RECIPIENTS = ("ada", "bruno", "chen", "dalia", "emeka")
DOMAIN = "example.com"
SET_SIZE = 4
DRAWN_SIDE = 64
VISITOR = "demo"
"""Who may look at the registry in its console."""

console = Console(highlight=False)


@dataclass(frozen=True)
class Plan:
    """How much to do, and where."""

    out: Path
    decoys: int = 100_000
    images: int = 12
    foreign: int = 36


@dataclass(frozen=True)
class Copy:
    """An issued and downloaded copy."""

    recipient: str
    id: str
    folder: Path


Made = TypeVar("Made")
Job = tuple[str, Truth, tuple[Path, ...]]
"""(attack or source, truth, images that belong together)"""


def run(plan: Plan) -> bool:
    """Play the whole story; true if every goal was met."""
    started = time.monotonic()
    out = plan.out
    _clear(out)
    commands = Commands(out / "home")

    with _step("a fresh registry and the model"):
        (created,) = json_objects(commands.registry("init", "--json"))
        commands.registry("model", "add", MODEL, "--adapter", "latent-diffusion", "--weights", BUILTIN)
    with _step(f"{len(RECIPIENTS)} recipients, a copy each, and {plan.decoys:,} decoy keys"):
        issue = partial(_issue, commands, out / "copies")
        copies = _in_parallel([partial(issue, name) for name in RECIPIENTS])
        _issue_decoys(commands, plan.decoys)
        commands.registry("ledger", "verify")
    with _step("images as the recipients make them, and attacks on them"):
        attacked = _in_parallel([partial(_attacked, commands, plan, i, c) for i, c in enumerate(copies)])
        jobs = list(itertools.chain(*attacked))
    with _step("images that no copy of this registry made"):
        foreign_jobs = _in_parallel([partial(make, commands, plan) for make in (_base, _stranger, _drawn)])
    bundle = out / "bundle.zip"
    with _step("a bundle for the auditor"):
        commands.registry("bundle", "export", "--out", bundle, "--with-keys", "--with-recipients")

    password = secrets.token_urlsafe(12)
    commands.registry("person", "add", VISITOR, "--role", "admin")
    commands.registry("person", "password", VISITOR, "--stdin", typed=password + "\n")

    with _step("every image checked alone and in sets of four"):
        trusting = commands.trusting(created["registry"])
        report = _check_all(trusting, bundle, jobs, foreign_jobs, out)
    elapsed = time.monotonic() - started
    keys = plan.decoys + len(RECIPIENTS)
    (out / "report.json").write_text(json.dumps({**report.record(), "keys": keys}, indent=1) + "\n")
    write_page(report, out, keys, elapsed)
    _print(report)
    _print_ending(report, out, elapsed, password)
    return not report.failures()


def _clear(out: Path) -> None:
    """Remove what an earlier run has written, and nothing else that may lie in the folder."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("home", "stranger", "copies", "images", "bundle.zip", "report.json", "report.html"):
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _issue(commands: Commands, folder: Path, name: str) -> Copy:
    email = f"{name}@{DOMAIN}"
    folder.mkdir(parents=True, exist_ok=True)
    commands.registry("recipient", "add", email)
    (certificate,) = json_objects(commands.registry("issue", "--model", MODEL, "--to", email))
    commands.registry("download", certificate["copy_id"], "--out", folder / name)
    return Copy(email, certificate["copy_id"], folder / name)


def _issue_decoys(commands: Commands, count: int) -> None:
    email = f"decoys@{DOMAIN}"
    commands.registry("recipient", "add", email)
    commands.registry("issue", "--model", MODEL, "--to", email, "--count", str(count))


def _attacked(commands: Commands, plan: Plan, number: int, copy: Copy) -> list[Job]:
    """Sample from ``copy`` as its recipient would and save every attack's version of each image."""
    folder = plan.out / "images" / copy.recipient.partition("@")[0]
    samples = _sample(commands, copy.folder, plan.images, folder / "sampled", seed=1 + number)
    jobs = []
    for attack, apply in ATTACKS.items():
        paths = []
        for i, path in enumerate(samples):
            rng = np.random.default_rng([number, i, *attack.encode()])
            with Image.open(path) as image:
                paths.append(_save(apply(image.convert("RGB"), rng), folder / attack / f"{i:02}.png"))
        jobs.append((attack, Truth(copy.recipient, copy.id), tuple(paths)))
    return jobs


def _base(commands: Commands, plan: Plan) -> Job:
    """The model as it was before any fingerprint."""
    folder = plan.out / "images" / "foreign" / "base"
    images = _sample(commands, resolve_builtin(BUILTIN).weights, plan.foreign, folder, seed=100)
    return "base model", Truth(), tuple(images)


def _stranger(_commands: Commands, plan: Plan) -> Job:
    """A copy that another registry issued: the same model and basis, a key that is unknown here."""
    stranger = Commands(plan.out / "stranger")
    stranger.registry("init")
    stranger.registry("model", "add", MODEL, "--adapter", "latent-diffusion", "--weights", BUILTIN)
    copy = _issue(stranger, plan.out / "copies", "of-another-registry")
    folder = plan.out / "images" / "foreign" / "another-registry"
    images = _sample(stranger, copy.folder, plan.foreign, folder, seed=200)
    return "another registry", Truth(), tuple(images)


def _drawn(_commands: Commands, plan: Plan) -> Job:
    """Another generator: flowers drawn by a program."""
    folder = plan.out / "images" / "foreign" / "drawn"
    images = [
        _save(draw_flower(np.random.default_rng(i), DRAWN_SIDE), folder / f"{i:02}.png")
        for i in range(plan.foreign)
    ]
    return "drawn by program", Truth(), tuple(images)


def _sample(commands: Commands, folder: Path, count: int, out: Path, seed: int) -> list[Path]:
    commands.registry("sample", "--copy", folder, "-n", str(count), "--out", out, "--seed", str(seed))
    return sorted(out.glob("*.png"))


def _save(image: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def _check_all(
    commands: Commands, bundle: Path, jobs: Sequence[Job], foreign_jobs: Sequence[Job], out: Path
) -> Report:
    """One ``verifier check`` for the images of each copy and attack alone, one for each set of four."""
    alone, together = (
        partial(_check, commands, bundle, out, ()),
        partial(_check, commands, bundle, out, ("--set",)),
    )
    parts = (
        [partial(alone, job) for job in jobs],
        [partial(together, job) for job in _sets(jobs)],
        [partial(alone, job) for job in foreign_jobs],
        [partial(together, job) for job in _sets(foreign_jobs)],
    )
    findings = iter(_in_parallel(list(itertools.chain(*parts)), "checks"))
    return Report(*([result for _ in part for result in next(findings)] for part in parts))


def _sets(jobs: Iterable[Job]) -> list[Job]:
    return [
        (attack, truth, paths[i : i + SET_SIZE])
        for attack, truth, paths in jobs
        for i in range(0, len(paths) - SET_SIZE + 1, SET_SIZE)
    ]


def _in_parallel(calls: Sequence[Callable[[], Made]], title: str = "") -> list[Made]:
    """The calls' results in order, with as many processes at a time as there are processors."""
    results = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool, _shown(title, len(calls)) as seen:
        running = [pool.submit(call) for call in calls]
        try:
            for future in running:
                results.append(future.result())
                seen(len(results))
        finally:
            pool.shutdown(cancel_futures=True)
    return results


@contextmanager
def _shown(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar, where the work is long enough to have a title."""
    if not title:
        yield lambda done: None
        return
    with progress(title, total) as bar:
        yield bar.update


def _check(commands: Commands, bundle: Path, out: Path, options: tuple[str, ...], job: Job) -> list[Result]:
    attack, truth, images = job
    return [_result(finding, attack, truth, out) for finding in commands.check(images, bundle, *options)]


def _result(finding: dict[str, Any], attack: str, truth: Truth, out: Path) -> Result:
    copies = finding["copies"]
    return Result(
        images=tuple(Path(image["path"]).relative_to(out).as_posix() for image in finding["images"]),
        attack=attack,
        truth=truth,
        verdict=finding["verdict"],
        recipient=copies[0]["recipient"] if copies else None,
        copies=tuple(copy["id"] for copy in copies),
        log10_p_family=copies[0]["log10_p_family"] if copies else None,
    )


@contextmanager
def _step(title: str) -> Iterator[None]:
    console.print(f"[bold]{title}[/bold]")
    started = time.monotonic()
    yield
    console.print(f"  [dim]{time.monotonic() - started:.0f} s[/dim]")


def _print(report: Report) -> None:
    table = Table(title="attributed to the right recipient, to a wrong one, or to none")
    table.add_column("attack, or source", no_wrap=True)
    for kind in ("alone", "sets"):
        for outcome in ("right", "wrong", "none"):
            table.add_column(f"{kind}\n{outcome}", justify="right", no_wrap=True)
    for attack in report.attacks():
        table.add_row(attack, *_cells(_named(report.singles, attack)), *_cells(_named(report.sets, attack)))
    table.add_section()
    for source in report.sources():
        alone, sets = _named(report.foreign, source), _named(report.foreign_sets, source)
        table.add_row(f"no copy: {source}", *_cells(alone), *_cells(sets))
    console.print(table)


def _named(results: Iterable[Result], attack: str) -> Tally:
    return tally(result for result in results if result.attack == attack)


def _cells(counted: Tally) -> tuple[str, str, str]:
    wrong = f"[bold red]{counted.wrong}[/bold red]" if counted.wrong else "0"
    return str(counted.right), wrong, str(counted.none)


def _print_ending(report: Report, out: Path, elapsed: float, password: str) -> None:
    for sentence in report.failures():
        console.print(f"[bold red]missed:[/bold red] {sentence}")
    here = Path(os.path.relpath(out))
    example = here / report.sets[0].images[0]
    console.print(f"""
{elapsed:.0f} s. Look at next:
  {here / "report.html"}    every image with its verdict (in a browser)
  {here / "report.json"}    the same for programs
  verifier check {example} --bundle {here / "bundle.zip"}
  verifier inspect {here / "copies" / RECIPIENTS[0]}
  registry --help           with HALLMARK_HOME={here / "home"}

The console on all of this:
  registry serve --home {here / "home"}
  then http://localhost:8080 in a browser, as {VISITOR}, with the password {password}""")
