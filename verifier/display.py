"""Findings and inspections for people: rows of a label and a value, plain or in colour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from verifier.finding import OnlineFinding
from verifier.words import count, counted

if TYPE_CHECKING:
    from rich.text import Text

    from verifier.bundle import Bundle
    from verifier.finding import CopyEntry, Finding, ImageEntry
    from verifier.inspect import Inspection
    from verifier.scan import Summary
    from verifier.telling import Told

_LABEL_WIDTH = 14
SHOWN_MOST = 20  # models, recipients and kinds of errors of a scan that are listed on a terminal
_PROVISIONAL = "the registry saw this device's readings, not the image; a signed report needs the image"


@dataclass(frozen=True)
class Row:
    """One line: a heading (no label), or a label and its value; ``style`` is a colour of rich."""

    label: str
    value: str
    style: str = ""

    def plain(self) -> str:
        value = printable(self.value)
        return f"  {self.label:<{_LABEL_WIDTH}}{value}" if self.label else value

    def rich(self) -> Text:
        from rich.text import Text

        value = printable(self.value)
        if not self.label:
            return Text(value, style=f"bold {self.style}".strip())
        return Text.assemble((f"  {self.label:<{_LABEL_WIDTH}}", "dim"), (value, self.style))


def printable(text: str) -> str:
    """``text`` with line breaks and other control characters escaped: a file's name cannot forge a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def finding_rows(finding: Finding, bundle: Bundle) -> list[Row]:
    """A finding: the verdict, the copies with their evidence, each image's part, the ledger."""
    rows = [_heading(finding)]
    if len(finding.images) > 1:
        rows += [Row("image", _image(entry, finding.attributed), _style(entry)) for entry in finding.images]
    if all(image.error is not None for image in finding.images):
        return rows
    rows.append(Row("verdict", finding.statement()))
    if finding.lineage is not None:
        rows.append(Row("lineage", finding.lineage.statement()))
    rows += [Row("note", note) for note in _notes(finding.images)]
    for copy in finding.copies:
        rows += _copy_rows(copy, finding, bundle)
    if isinstance(finding, OnlineFinding) and finding.provisional:
        rows.append(Row("provisional", f"{_PROVISIONAL} (resolution {finding.resolution})", "yellow"))
    evidence = finding.evidence
    shared = f", shared by {evidence.groups} tests" if evidence.groups > 1 else ""
    if finding.attributed:
        rows.append(_ledger_row(finding))
    rows.append(
        Row(
            "tested",
            f"{evidence.hypotheses:,} hypotheses (keys x readings) at alpha {evidence.alpha:g}{shared}",
        )
    )
    return rows


def told_rows(told: Told) -> list[Row]:
    """Which model made an image or a set, told without keys."""
    first = told.images[0]
    read = sum(each.error is None for each in told.images)
    names = first.path if len(told.images) == 1 else f"set of {read} images"
    if told.lineage is None:
        why = first.error or "; ".join(first.notes) if len(told.images) == 1 else "no image could be read"
        return [Row("", f"{names}: ERROR: {why}", "red")]
    style = "yellow" if told.lineage.model is None else "green"
    rows = [Row("", f"{names}: {told.lineage.statement()}", style)]
    rows += [
        Row("image", _image(each, False), _style(each)) for each in told.images if each.error is not None
    ]
    return rows + [Row("note", note) for note in _notes(told.images)]


def _ledger_row(finding: Finding) -> Row:
    ledger = finding.ledger
    if ledger.verified:
        return Row("ledger", f"entry {ledger.index} of {ledger.tree_size}, signature and proof hold")
    return Row("ledger", "the registry's word: what it discloses cannot be verified here", "yellow")


def _heading(finding: Finding) -> Row:
    first = finding.images[0]
    names = first.path if len(finding.images) == 1 else f"set of {len(finding.images)} images"
    if finding.attributed:
        return Row("", f"{names}: ATTRIBUTED", "green")
    if all(image.error is not None for image in finding.images):
        error = first.error if len(finding.images) == 1 else "no image could be read"
        return Row("", f"{names}: ERROR: {error}", "red")
    return Row("", f"{names}: not attributed", "yellow")


def _notes(images: Sequence[ImageEntry]) -> list[str]:
    """How the files were decoded; in a set, of which image that is said."""
    several = len(images) > 1
    return [f"{entry.path}: {note}" if several else note for entry in images for note in entry.notes]


def _style(entry: ImageEntry) -> str:
    return "red" if entry.error is not None else ""


def _image(entry: ImageEntry, attributed: bool) -> str:
    if entry.error is not None:
        return f"{entry.path}: ERROR: {entry.error}"
    if not attributed or entry.log10_p is None:
        return entry.path
    without = entry.log10_p_without
    rest = "" if without is None else f", p of the others without it {power(without)}"
    return f"{entry.path}: p {power(entry.log10_p)}{rest}"


def _copy_rows(copy: CopyEntry, finding: Finding, bundle: Bundle) -> Iterator[Row]:
    assert finding.model is not None
    yield Row("copy", copy.name, "bold")
    if copy.revoked:
        known = bundle.revocations.get(copy.key_id)
        told = [known.revoked_at, known.reason] if known else ["yes, as the registry says"]
        yield Row("revoked", ": ".join(filter(None, told)), "red")
    yield Row("recipient", copy.recipient or "not disclosed")
    yield Row("model", f"{finding.model.name} (version {finding.model.version})")
    if copy.id is not None and copy.issued_at is not None:
        yield Row("issued", copy.issued_at)
        yield Row("files", f"SHA-256 {copy.sha256}" if copy.sha256 else "never delivered in full")
    if copy.log10_p is None or copy.log10_p_family is None:
        yield Row("evidence", "within alpha; by how much the registry does not disclose")
        return
    yield Row(
        "evidence",
        f"p {power(copy.log10_p)} for one key, {power(copy.log10_p_family)} for all; "
        f"{copy.matching_bits} of {finding.evidence.bits} bits match",
    )


def inspection_rows(inspection: Inspection) -> list[Row]:
    """What a copy says of itself."""
    certificate = inspection.certificate
    state = "every file is as it was issued" if inspection.complete else "certificate only"
    rows = [
        Row("", f"{inspection.path}: {state}", "green" if inspection.complete else "yellow"),
        Row("copy", certificate.copy_id, "bold"),
        Row("model", f"{certificate.model.name} (version {certificate.model.version})"),
        Row("recipient", f"commitment {certificate.recipient}"),
        Row("issued", certificate.issued_at),
        Row("expires", certificate.expires_at or "never"),
    ]
    if inspection.complete:
        rows.append(Row("digest", f"{inspection.digest} ({inspection.files} files)"))
    else:
        rows.append(Row("digest", "can only be compared on the whole folder"))
    if inspection.revoked is not None:
        rows.append(
            Row("revoked", "yes" if inspection.revoked else "no", "red" if inspection.revoked else "")
        )
    if inspection.delivered is not None:
        told: dict[bool, Any] = {True: "the recorded delivery", False: "NOT the recorded delivery"}
        rows.append(Row("delivered", told[inspection.delivered], "" if inspection.delivered else "red"))
    return rows


def summary_rows(summary: Summary) -> list[Row]:
    """What came of a scan."""
    state = "" if summary.complete else " (of what was read so far)"
    images, groups = counted(summary.images - summary.errors, "image"), counted(summary.groups, "group")
    rows = [
        Row("", f"{images} in {groups}{state}: {summary.out}", "green"),
        Row("attributed", f"{counted(summary.attributed, 'image')} by themselves", "bold"),
        Row("in groups", f"{count(summary.in_attributed_groups)} more in groups that name a copy"),
        Row("undecided", count(summary.undecided)),
    ]
    if summary.passed_over:
        rows.append(Row("passed over", f"{counted(summary.passed_over, 'file')} that hold no image"))
    rows += _shown("not read", [f"{count(n)}: {kind}" for kind, n in summary.by_error.items()], "red")
    counts = (
        ("model", summary.by_model),
        ("recipient", summary.by_recipient),
        ("lineage", summary.by_lineage),
    )
    for label, found in counts:
        rows += _shown(
            label,
            [
                f"{name}: {counted(each['images'], 'image')}, {counted(each['groups'], 'group')}"
                for name, each in found.items()
            ],
        )
    rows.append(Row("alpha", f"{summary.alpha:g} for the whole scan, shared by {groups}"))
    return rows


def _shown(label: str, lines: Sequence[str], style: str = "") -> list[Row]:
    """The first SHOWN_MOST of a list."""
    rows = [Row(label, line, style) for line in lines[:SHOWN_MOST]]
    if len(lines) > SHOWN_MOST:
        rows.append(Row(label, f"and {count(len(lines) - SHOWN_MOST)} more, in the table"))
    return rows


def power(log10_p: float) -> str:
    """A probability from its logarithm, rounded up: never smaller than what was proved."""
    import math

    exponent = math.floor(log10_p)
    mantissa = math.ceil(10 ** (log10_p - exponent + 1)) / 10
    if mantissa >= 10:
        mantissa, exponent = 1.0, exponent + 1
    return f"<= {min(mantissa, 1.0):g}" if exponent >= 0 else f"<= {mantissa:g}e{exponent}"
