"""What `verifier report` does with its options."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from verifier import opening as commitments
from verifier.bundle import Bundle
from verifier.cli import ATTRIBUTED, NOT_ATTRIBUTED, _auditor, _bundles, _passphrase, _print_rows, _progress
from verifier.countersign import load_private_key
from verifier.display import Row
from verifier.dsse import Envelope
from verifier.errors import InputError, TrustError
from verifier.report import checking, making
from verifier.report.container import opened, read, serialised
from verifier.report.html import render_html
from verifier.report.page import sealed
from verifier.report.pdf import render_pdf
from verifier.report.statement import Case

Render = Callable[[Envelope], bytes]

_RENDERERS: dict[str, Render] = {
    ".html": render_html,
    ".htm": render_html,
    ".pdf": render_pdf,
    ".json": lambda envelope: serialised(envelope) + b"\n",
}
_COLOURS = {"holds": "green", "fails": "red", "not checked": "yellow"}


def make(files: Sequence[str], outs: Sequence[str], key: str | None, name: str, **options: Any) -> int:
    """Make a report, or lay out anew the one in ``files``, and write it."""
    targets = [(Path(out), _renderer(Path(out))) for out in outs]
    paths = [Path(path) for path in files]
    signer = None if key is None else load_private_key(Path(key), _passphrase)
    if (envelope := _report_in(paths)) is not None:
        if signer is not None:
            raise InputError("a report is signed by its author; it can only be laid out anew.", "Omit --key.")
    else:
        found = making.read_findings(paths)
        bundle = _bundle(options["bundle"], options)
        using = making.Making(
            bundle,
            None if options["bundle"] is None else Path(options["bundle"]),
            [Path(path) for path in options["images"]],
            [commitments.read(Path(path)) for path in options["openings"]],
            show_bits=options["show_bits"],
            device=options["device"],
        )
        with _progress(sum(len(finding.images) for _, finding in found)) as advance:
            report = making.make(
                found,
                using,
                title=options["title"],
                created_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                case=_case(options["case"], options["notes"]),
                progress=advance,
            )
        envelope = sealed(report, signer, name)
    contents = [(path, render(envelope)) for path, render in targets]
    for path, content in contents:
        write(path, content)
        click.echo(f"{path}: {len(content):,} bytes")
    if not envelope.signatures:
        click.echo("It is a draft, not signed: sign with --key FILE.")
    return 0


def check(files: Sequence[str], signer: str | None, as_json: bool, **options: Any) -> int:
    """Check reports, line by line."""
    opening = [commitments.read(Path(path)) for path in options["openings"]]
    code = ATTRIBUTED
    for path in map(Path, files):
        content = read(path)
        report = checking.content_of(content, str(path))
        bundle = None
        if options["bundle"] is not None:
            bundle = _bundle(options["bundle"], options, report.created_at)
        else:
            with suppress(InputError):  # nothing was fetched: then what needs a bundle stays unchecked
                bundle = _bundle(None, options)
        using = checking.Checking(
            bundle,
            [Path(image) for image in options["images"]],
            opening,
            options["trust"],
            signer,
            options["device"],
            path.parent,
        )
        images = sum(len(exhibit.finding.images) for exhibit in report.exhibits)
        with _progress(images) as advance:
            found = checking.check(content, using, str(path), advance)
        if as_json:
            click.echo(json.dumps({"path": str(path), **found.document()}))
        else:
            _print_rows([Row("", str(path), ""), *map(_row, found.lines), _conclusion(found)])
        code = max(code, TrustError.exit_code if found.failed else 0 if found.complete else NOT_ATTRIBUTED)
    return code


def write(path: Path, content: bytes) -> None:
    """Write a file, complete or not at all; :class:`InputError` where it cannot be written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}.", "Name another file with --out, or make room."
        ) from None


def _renderer(path: Path) -> Render:
    """What makes a file of this name; before any work it is seen whether it can be written there at all."""
    render = _RENDERERS.get(path.suffix.lower())
    if render is None:
        raise InputError(f"{path}: the name must end with .html, .pdf or .json.", "Name the file so.")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError(f"cannot write {path}: there is no such folder.", "Name another file with --out.")
    return render


def _report_in(paths: Sequence[Path]) -> Envelope | None:
    """The report, where the only file is one and no finding."""
    if len(paths) != 1:
        return None
    content = read(paths[0])
    if b'"payloadType"' not in content:
        return None
    return opened(content, str(paths[0]))


def _bundle(path: str | None, options: dict[str, Any], made_at: str | None = None) -> Bundle:
    """The bundle named, or the one that was fetched; one that has expired since a report was ``made_at`` "
    "too."""
    if path is None or made_at is None:
        found = _bundles(path, None, options["home"], options["trust"], options["auditor_key"])
        if len(found) != 1:
            raise InputError("several bundles were fetched.", "Name one with --bundle.")
        return found[0]
    key = options["auditor_key"]
    now = datetime.fromisoformat(made_at).timestamp()
    return Bundle.open(path, options["trust"], now, None if key is None else _auditor(Path(key)))


def _case(text: str | None, notes: Sequence[str]) -> Case | None:
    if text is None and not notes:
        return None
    return Case(text or "without a number", "", None, list(notes))


def _row(line: checking.Line) -> Row:
    mark = {"holds": "holds", "fails": "FAILS", "not checked": "unchecked"}[line.outcome]
    return Row(mark, f"{line.what}{f': {line.detail}' if line.detail else ''}", _COLOURS[line.outcome])


def _conclusion(found: checking.Checked) -> Row:
    held = sum(line.outcome == "holds" for line in found.lines)
    counted = f"{held} of {len(found.lines)} lines hold"
    if found.failed:
        return Row("", f"{counted}. Something does not hold: do not rely on this report.", "red")
    if not found.complete:
        return Row("", f"{counted}; the others could not be checked with what was given.", "yellow")
    return Row("", f"{counted}. The report is what it says.", "green")
