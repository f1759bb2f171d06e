"""Scans: whose copies made any of very many images, as one table.

    summary = scan(["crawl/", "s3://bucket/more/"], Path("findings.parquet"), checker)

A scan lists its sources, reads every image, puts the images into groups, judges the groups, and writes a
Parquet file (:mod:`verifier.scan.table`). All of it goes through a journal beside the output
(:mod:`verifier.scan.journal`), so that a scan that was stopped goes on where it was, and memory does not grow
with the number of images. The journal is deleted at the end.

**Groups.** Images of one source are tested together, because weak readings add up. What says that two
images may have one source is the folder they lie in and how their files were made (format, size,
quantisation tables, camera, software): nothing that was computed with a key. Keys are independent of such a
choice, so it costs no evidence, however it is made (METHOD, section 4); what it costs is that a wrong group
dilutes. Therefore groups are small, and every image's own readings are tested beside the pooled one
(:func:`verifier.check.weighted_tests`): an image is called attributed only where one of these names a copy.
Folders that somebody sorted by findings of the same keys would not be independent: scan what was not sorted
so, or with the rule ``none``.

**Alpha.** It bounds the probability that the scan as a whole names anyone falsely. The number of groups is
known before the first one is judged, and each has an equal share: a copy is named where ``H p / w <= alpha
/ groups``, with H all keys ever issued and w the test's weight. The weights of a group's tests sum to one,
so all shares sum to alpha.
"""

from __future__ import annotations

import hashlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

from verifier.check import GROUPS_AT_A_TIME, IMAGES_AT_A_TIME, Checker, Group, network_package
from verifier.devices import processors
from verifier.errors import InputError
from verifier.evidence import ALPHA
from verifier.finding import Finding
from verifier.lineage import IMAGES
from verifier.reading import Reader
from verifier.scan import local, table
from verifier.scan.journal import RULES, Journal
from verifier.scan.sources import listed
from verifier.scan.table import Summary

__all__ = ["ENGINES", "RULES", "Stopped", "Summary", "scan"]

ENGINES = ("local", "ray")
JOURNAL = ".journal"

_SEARCHED = 2
"""Items in a batch where poses are searched, which takes up to seconds an image; IMAGES_AT_A_TIME otherwise.
A process that is killed may have to read so many again, for each of its workers."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C: the message says what was kept."""


class Progress(Protocol):
    """What a display needs: the stage that begins, how much there is of it, and every step."""

    def __call__(self, stage: str, total: int | None = None) -> Callable[[int], None]: ...


def silent(stage: str, total: int | None = None) -> Callable[[int], None]:  # noqa: ARG001
    """No display."""
    return lambda _: None


def scan(
    sources: Sequence[str],
    out: Path,
    checker: Checker,
    *,
    alpha: float = ALPHA,
    pose_search: bool = True,
    rule: str = "source",
    engine: str = "local",
    workers: int | None = None,
    address: str | None = None,
    so_far: bool = False,
    retry_errors: bool = False,
    progress: Progress = silent,
) -> Summary:
    """Scan the sources (:mod:`verifier.scan.sources`) and write the table ``out``.

    ``so_far`` judges what an interrupted scan has read, and keeps its journal; ``retry_errors`` reads files
    that failed once more after all others; ``address`` is that of a Ray cluster. :class:`InputError` for a
    request that makes no sense or sources without any image, :class:`Stopped` after Ctrl-C.
    """
    if not 0 < alpha < 1:
        raise InputError(f"alpha must lie between 0 and 1, not {alpha}.")
    if rule not in RULES or engine not in ENGINES:
        raise ValueError((rule, engine))
    if not out.parent.is_dir():
        raise InputError(f"{out.parent} is no folder to write {out.name} into.")
    if out.is_dir():
        raise InputError(f"{out} is a folder.", "Give --out the name of a file.")
    began = time.monotonic()
    path = out.with_name(out.name + JOURNAL)
    if so_far and not path.exists():
        raise InputError(f"there is no {path}: no scan with this --out was interrupted.")
    networks = [network.digest for network in checker.networks]
    if checker.lineage_members is not None:
        networks.append(hashlib.sha256(checker.lineage_members[IMAGES]).hexdigest())
    order = {"sources": list(sources), "networks": networks, "pose_search": pose_search}
    over = False
    try:
        with Journal.open(path, order) as journal, _stoppable() as stopped:
            try:
                if not so_far:
                    _list(journal, sources, stopped, progress)
                    reading = (checker, pose_search, engine, workers, address, stopped, progress)
                    _read(journal, *reading)
                    if retry_errors and journal.forget_failures():
                        _read(journal, *reading)
                summary = _judge(journal, checker, alpha, rule, out, stopped, progress)
                over = summary.complete
            except InputError:
                over = not so_far and journal.empty()  # a mistake that stands in the way of nothing
                raise
            except Stopped:
                raise
            except KeyboardInterrupt:
                raise _kept(journal) from None
    finally:
        if over:
            for name in ("", "-wal", "-shm"):
                path.with_name(path.name + name).unlink(missing_ok=True)
    summary.elapsed_s = round(time.monotonic() - began, 1)
    return summary


def _list(journal: Journal, sources: Sequence[str], stopped: Callable[[], bool], progress: Progress) -> None:
    step = progress("listing")
    journal.keep(takewhile(lambda _: not stopped(), listed(sources)), step, lambda: not stopped())
    if stopped():
        raise Stopped(
            "interrupted while files were listed; nothing was read yet. Repeat the command to begin anew."
        )


def _read(
    journal: Journal,
    checker: Checker,
    pose_search: bool,
    engine: str,
    workers: int | None,
    address: str | None,
    stopped: Callable[[], bool],
    progress: Progress,
) -> None:
    tally = journal.tally()
    step = progress("reading", tally.items)
    step(tally.read)
    size = _SEARCHED if pose_search else IMAGES_AT_A_TIME
    batches = takewhile(lambda _: not stopped(), journal.unread(size))
    workers = workers or processors()
    if engine == "ray" and tally.read < tally.items:
        from verifier.scan.cluster import Cluster

        packages = [network_package(bundle, entry) for bundle, entry in checker.sources]
        with Cluster(
            packages, checker.lineage_members, checker.device, pose_search, workers, size, address
        ) as cluster:
            for records in cluster.read(batches):
                journal.record(records)
                step(len(records))
                if stopped():
                    break
    else:
        for records in local.read(
            Reader(checker.networks, pose_search, checker.lineage), batches, workers, stopped
        ):
            journal.record(records)
            step(len(records))
    if stopped():
        raise _kept(journal)
    tally = journal.tally()
    if tally.read < tally.items:
        raise InputError(
            f"{tally.items - tally.read} of {tally.items} files were not read.", "Repeat the command."
        )


def _judge(
    journal: Journal,
    checker: Checker,
    alpha: float,
    rule: str,
    out: Path,
    stopped: Callable[[], bool],
    progress: Progress,
) -> Summary:
    tally = journal.tally()
    if not tally.images and not tally.failed:
        found = f" among {tally.passed} files" if tally.passed else ""
        raise InputError(
            f"there is no image{found} in what was to be scanned.", "Name folders that hold images."
        )
    sources = [
        [bundle.serial, entry.name, entry.version, entry.keys_issued] for bundle, entry in checker.sources
    ]
    judging = {"alpha": alpha, "registry": checker.bundle.registry, "models": sources}
    groups = journal.group(rule, judging)
    step = progress("judging", groups)
    step(journal.judged)
    bits = [network.spec.bits for network in checker.networks]
    for batch in takewhile(lambda _: not stopped(), journal.unjudged(GROUPS_AT_A_TIME, bits)):
        together = []
        for _, images in batch:
            together.append(Group.empty(len(bits)))
            for image in images:
                together[-1].add(image)
        findings = checker.judge(together, alpha, groups)
        journal.judge(
            [
                (number, {"finding": finding.document(), "named": _named(checker, finding)})
                for (number, _), finding in zip(batch, findings, strict=True)
            ]
        )
        step(len(batch))
    if stopped():
        raise _kept(journal)
    complete = tally.read == tally.items
    summary = Summary(str(out), complete, passed_over=tally.passed, alpha=alpha)
    about: dict[str, Any] = {**judging, "groups": groups, "rule": rule, "complete": complete}
    table.write(out, journal, about, summary)
    return summary


def _named(checker: Checker, finding: Finding) -> dict[str, Any]:
    return {name: asdict(named) for name, named in checker.named(finding).items()}


def _kept(journal: Journal) -> Stopped:
    tally = journal.tally()
    return Stopped(
        f"interrupted; {tally.read} of {tally.items} files were read and are kept in {journal.path}. "
        "Repeat the command to go on, or add --so-far to judge what was read."
    )


@contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed, or the process asked to end: what is under way is finished first. Pressed
    again it interrupts at once."""
    asked = False

    def stop(number: int, _: Any) -> None:
        nonlocal asked
        if asked:
            signal.default_int_handler(number, None)
        asked = True

    previous = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                previous[number] = signal.signal(number, stop)
            except ValueError:  # not the main thread: whoever runs this handles signals
                break
        yield lambda: asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
