"""The content of a report, typed, and the payload that is signed: an in-toto statement about the images.

    payload = encode(report, blocks)                      # bytes
    report, blocks = decode(payload)                      # InputError for anything else

``subject`` are the images by name and SHA-256, the predicate (``urn:hallmark:report:1``) is the report:
findings with what proves them, and the blocks of the page, so that the signature covers every word.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from verifier import finding as findings
from verifier import signing
from verifier.bundle import unix
from verifier.errors import InputError
from verifier.finding import Finding
from verifier.report.blocks import Block, parse_blocks
from verifier.report.thumbnails import decoded
from verifier.typed import load, parse_json

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:hallmark:report:1"


@dataclass(frozen=True)
class Opened:
    """The bits of a key, packed, in hex; with the blinder (hex) they open the certificate's commitment."""

    phi: str
    blinder: str | None = None


@dataclass(frozen=True)
class Named:
    """What proves one copy of a finding, as far as it is at hand: the signed certificate, the proof that it
    is in the ledger (:mod:`verifier.proof`), and the opened commitment."""

    certificate: dict[str, Any] | None = None
    inclusion: dict[str, Any] | None = None
    opened: Opened | None = None


@dataclass(frozen=True)
class NetworkFacts:
    """The network that read the images: SHA-256 of its ONNX file, version, canvas, unit of its logits."""

    digest: str
    version: int
    size: int
    quantum: float


@dataclass(frozen=True)
class Exhibit:
    """One finding and what goes with it.

    ``named`` has an entry for each copy, ``readings`` (integer logits) and ``thumbnails`` one for each image,
    None where there is none. ``tested`` are the logits whose score named the first copy. ``recomputed`` says
    that score and bound were computed from the images where the report was made, ``pose_search`` whether
    crops were looked for; None is not known.
    """

    finding: Finding
    named: list[Named] = field(default_factory=list)
    readings: list[list[int] | None] = field(default_factory=list)
    tested: list[int] | None = None
    thumbnails: list[str | None] = field(default_factory=list)
    network: NetworkFacts | None = None
    recomputed: bool = False
    pose_search: bool | None = None


@dataclass(frozen=True)
class Origin:
    """The registry, its public key (base64), and of the bundle that was used the signed manifest and the
    file's SHA-256; ``checkpoint`` is the ledger's signed tree head."""

    registry: str
    public_key: str
    checkpoint: str | None = None
    manifest: dict[str, Any] | None = None
    bundle_sha256: str | None = None


@dataclass(frozen=True)
class Case:
    """The investigation that a report belongs to; ``notes`` are printed as they are."""

    id: str
    title: str
    opened_at: str | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Signer:
    """Who answers for a report: a name for people, and the public key (base64)."""

    name: str
    public_key: str


@dataclass(frozen=True)
class Report:
    """A report's content. Times are UTC, ``YYYY-MM-DDTHH:MM:SSZ``; ``software`` are versions by name."""

    title: str
    created_at: str
    origin: Origin
    exhibits: list[Exhibit]
    software: dict[str, str] = field(default_factory=dict)
    case: Case | None = None
    signer: Signer | None = None

    def subjects(self) -> list[dict[str, Any]]:
        """Every image that was read, by its digest, once."""
        images = [image for exhibit in self.exhibits for image in exhibit.finding.images]
        named = {image.sha256: image.path for image in reversed(images) if image.sha256 is not None}
        return [{"name": path, "digest": {"sha256": sha256}} for sha256, path in sorted(named.items())]


def encode(report: Report, blocks: list[Block]) -> bytes:
    """The payload: what is signed."""
    body = asdict(report)
    for entry, exhibit in zip(body["exhibits"], report.exhibits, strict=True):
        entry["finding"] = exhibit.finding.document()
    predicate = {**body, "page": [block.document() for block in blocks]}
    statement = {
        "_type": STATEMENT,
        "subject": report.subjects(),
        "predicateType": PREDICATE,
        "predicate": predicate,
    }
    # ASCII: names of files may hold bytes that are no UTF-8.
    return json.dumps(statement, allow_nan=False, separators=(",", ":")).encode()


def decode(payload: bytes) -> tuple[Report, list[Block]]:
    """Report and page of a payload; :class:`InputError` unless it is one, and of one piece."""
    try:
        statement = parse_json(payload)
        kinds = (statement.get("_type"), statement.get("predicateType")) if _is_object(statement) else ()
        if kinds != (STATEMENT, PREDICATE):
            raise ValueError(f"expected an in-toto statement of {PREDICATE}")
        predicate = statement.get("predicate")
        if not _is_object(predicate) or not isinstance(predicate.get("exhibits"), list):
            raise ValueError("its predicate lacks the exhibits")
        body = {name: value for name, value in predicate.items() if name != "page"}
        body["exhibits"] = []
        report = load(Report, body, "the report")
        exhibits = [
            _exhibit(value, f"exhibit {number}") for number, value in enumerate(predicate["exhibits"], 1)
        ]
        report = Report(**{**vars(report), "exhibits": exhibits})
        blocks = parse_blocks(predicate.get("page"))
        unix(report.created_at)
        _check_signed(report.origin.manifest)
        if statement.get("subject") != report.subjects() or not exhibits:
            raise ValueError("its subjects are not the images of its findings")
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"this is no report: {error}.", "Give a file that `verifier report` wrote."
        ) from None
    except InputError as error:
        raise InputError(f"this is no report: {error}") from None
    return report, blocks


def _exhibit(value: Any, where: str) -> Exhibit:
    if not _is_object(value):
        raise ValueError(f"{where} is not an object")
    finding = findings.parse(value.get("finding"), f"the finding of {where}")
    found = load(_Bare, {name: item for name, item in value.items() if name != "finding"}, where)
    exhibit = Exhibit(finding, **vars(found))
    images, copies = len(finding.images), len(finding.copies)
    lengths = (len(exhibit.named), len(exhibit.readings), len(exhibit.thumbnails))
    if not all(
        length in (0, wanted) for length, wanted in zip(lengths, (copies, images, images), strict=True)
    ):
        raise ValueError(f"{where} has not one entry for each of its copies and images")
    bits = finding.evidence.bits
    if any(row is not None and len(row) != bits for row in [*exhibit.readings, exhibit.tested]):
        raise ValueError(f"{where} has readings of another length than {bits} bits")
    for entry in exhibit.named:
        _check_signed(entry.certificate)
        if entry.opened is not None and not _is_hex(entry.opened.phi, bits // 8):
            raise ValueError(f"{where} discloses a key that has not {bits} bits")
    for picture in exhibit.thumbnails:
        if picture is not None:
            decoded(picture)
    return exhibit


@dataclass(frozen=True)
class _Bare:
    """An exhibit without its finding, which has a parser of its own."""

    named: list[Named]
    readings: list[list[int] | None]
    tested: list[int] | None
    thumbnails: list[str | None]
    network: NetworkFacts | None
    recomputed: bool
    pose_search: bool | None


def _check_signed(document: dict[str, Any] | None) -> None:
    """``ValueError`` for what no registry can have signed: it has no canonical form."""
    try:
        signing.canonical(document)
    except TypeError as error:
        raise ValueError(str(error)) from None


def _is_hex(text: str, size: int) -> bool:
    return len(text) == 2 * size and all(c in "0123456789abcdef" for c in text)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)
