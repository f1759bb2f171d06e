"""Findings: the result for one image or one set, as typed values and as JSON.

    print(json.dumps(finding.document()))                 # schema hallmark/finding/1
    finding = parse(json.loads(line))                     # and back; InputError for anything else

Logarithms are decimal; times are UTC text; digests are lower-case hex. Below alpha a finding holds no
id, bits, probability or runner-up: an answer that grew warmer would be an oracle for removing a
fingerprint.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from verifier.errors import InputError

SCHEMA = "hallmark/finding/1"

Verdict = Literal["attributed", "not-attributed"]

SURE = 0.8
"""Confidence below which a model is named with a "perhaps"."""


@dataclass(frozen=True)
class ImageEntry:
    """One image. ``error`` says why it was not read; then the other fields but ``path`` may be None.

    ``pose`` is the place on the network's canvas that the image-only rule chose. For an attributed
    finding ``log10_p`` bounds the chance of this image's own score for the (first) copy named, and
    ``log10_p_without`` that of the rest of the set (None for an image alone): a set's verdict is
    about the set, these two show what each image adds to it. ``alone`` are the copies that a test of this
    image by itself names, whatever the others are. ``notes`` says how the file was decoded where that is
    not a matter of course (:mod:`verifier.images`).
    """

    path: str
    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    error: str | None = None
    pose: dict[str, Any] | None = None
    log10_p: float | None = None
    log10_p_without: float | None = None
    alone: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class CopyEntry:
    """A copy that the images depend on. ``sha256`` is None if it was never delivered in full,
    ``recipient`` unless the bundle discloses it. ``log10_p`` bounds the chance of its score for one key,
    ``log10_p_family`` for any of the hypotheses.

    A registry that was asked discloses no bits and bounds, and under a grant only a pseudonymous
    ``key_id`` and ``revoked``: the others are None then.
    """

    id: str | None
    key_id: str
    sha256: str | None
    recipient: str | None
    issued_at: str | None
    revoked: bool
    matching_bits: int | None
    log10_p: float | None
    log10_p_family: float | None

    @property
    def name(self) -> str:
        """What it is called in sentences."""
        return self.id or f"pseudonym {self.key_id}"


@dataclass(frozen=True)
class ModelEntry:
    """The model whose key was found."""

    name: str
    version: int
    digest: str


@dataclass(frozen=True)
class LineageEntry:
    """Which model the images descend from, told without keys (:mod:`verifier.lineage`).

    ``model`` is its ``name@version``, or None for none of the registered ones. ``note`` says that, or which
    models the images are a mixture of, or which other models cannot be told from the one named.
    """

    model: str | None
    confidence: float
    note: str = ""

    def statement(self) -> str:
        """What people are told; the confidence is rounded down, so that it is 1.00 only if it is 1."""
        sure = f"(confidence {math.floor(100 * self.confidence + 1e-6) / 100:.2f})"
        if self.model is None:
            return f"{self.note} {sure}"
        said = f"{'' if self.confidence >= SURE else 'perhaps '}made by {self.model} {sure}"
        return f"{said}, {self.note}" if self.note else said


@dataclass(frozen=True)
class EvidenceEntry:
    """What the verdict was held against: attributed means ``p_family <= alpha / groups``.

    ``hypotheses`` counts keys times readings tested; for an attributed finding, keys divided by the share
    of alpha of the reading that named the copy (:mod:`verifier.check`).
    """

    bits: int
    hypotheses: int
    alpha: float
    groups: int

    @property
    def limit(self) -> float:
        """What ``log10_p_family`` must reach."""
        return math.log10(self.alpha / self.groups)


@dataclass(frozen=True)
class NetworkEntry:
    """The network that read the images (SHA-256 of its ONNX file; None if several models' did).

    ``device`` ends with ``fp16`` where it read them in half precision.
    """

    digest: str | None
    device: str


@dataclass(frozen=True)
class LedgerEntry:
    """The named certificate's place in the ledger (None below alpha), and the checkpoint's size.

    ``verified``: the checkpoint's signature and, where a copy is named, its certificate's signature and
    inclusion proof hold, as this device found.
    """

    index: int | None
    tree_size: int
    verified: bool


@dataclass(frozen=True)
class Finding:
    """The verdict on ``images``: one image, or a set, of which then *at least one* depends on the key."""

    images: list[ImageEntry]
    verdict: Verdict
    copies: list[CopyEntry]
    model: ModelEntry | None
    lineage: LineageEntry | None
    evidence: EvidenceEntry
    network: NetworkEntry
    ledger: LedgerEntry
    elapsed_ms: float

    @property
    def attributed(self) -> bool:
        return self.verdict == "attributed"

    @property
    def has_errors(self) -> bool:
        """Whether some image could not be read."""
        return any(image.error is not None for image in self.images)

    @property
    def contradiction(self) -> tuple[ImageEntry, ImageEntry] | None:
        """Two images that contradict each other, see :func:`contradicting`."""
        pair = contradicting([image.alone for image in self.images])
        return None if pair is None else (self.images[pair[0]], self.images[pair[1]])

    def consistent(self) -> Finding:
        """The finding, or what is left of it where its images contradict each other: no verdict, and which
        copies each of them names by itself."""
        if self.contradiction is None:
            return self
        return replace(
            self,
            images=[replace(image, log10_p=None, log10_p_without=None) for image in self.images],
            verdict="not-attributed",
            copies=[],
            model=None,
            ledger=replace(self.ledger, index=None),
        )

    def document(self) -> dict[str, Any]:
        """The JSON object of schema ``hallmark/finding/1``."""
        return {"schema": SCHEMA, **asdict(self)}

    def statement(self) -> str:
        """The verdict as a sentence that claims no more than was proved."""
        several = len([image for image in self.images if image.error is None]) > 1
        if self.attributed:
            what = "at least one of these images depends" if several else "this image depends"
            names = ", ".join(copy.name for copy in self.copies)
            keys = "the keys of" if len(self.copies) > 1 else "the key of"
            return f"{what} on {keys} {names}"
        if all(image.error is not None for image in self.images):
            return "nothing could be read"
        if (apart := self.contradiction) is not None:
            first, second = apart
            return (
                "these images contradict each other, so there is no verdict about them as a set: "
                f"{first.path} names {', '.join(first.alone)}, {second.path} {', '.join(second.alone)}; "
                "check them one by one"
            )
        what = "these images" if several else "this image"
        return f"no copy can be named for {what} at this alpha"


@dataclass(frozen=True)
class OnlineFinding(Finding):
    """A registry's answer about readings of this device.

    ``resolution`` is its number in the registry's log. It is ``provisional``: nobody but the asker saw the
    image.
    """

    resolution: str
    provisional: bool


def contradicting(alone: Sequence[Collection[Any]]) -> tuple[int, int] | None:
    """The first two images of a set that contradict each other, given what each names by itself: both name
    somebody, and none in common. No verdict holds for a set of both.

    (Images of a mixture of copies have those in common that they name.)
    """
    naming = [number for number, names in enumerate(alone) if names]
    pairs = itertools.combinations(naming, 2)
    return next(((a, b) for a, b in pairs if set(alone[a]).isdisjoint(alone[b])), None)


def parse(value: Any, where: str = "the finding") -> Finding:
    """The finding in a JSON object; :class:`InputError` for another schema or one that contradicts itself."""
    from verifier.typed import load

    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise InputError(
            f"{where} is no finding: expected schema {SCHEMA}.", "Give what `verifier check --json` printed."
        )
    body = {name: item for name, item in value.items() if name != "schema"}
    try:
        finding = load(OnlineFinding if "resolution" in body else Finding, body, where)
        _check(finding, where)
    except ValueError as error:
        raise InputError(f"{error}.", "Give what `verifier check --json` printed.") from None
    return finding


def _check(finding: Finding, where: str) -> None:
    """``ValueError`` where the fields cannot be those of one finding."""
    evidence = finding.evidence
    bounds = [bound for copy in finding.copies for bound in (copy.log10_p, copy.log10_p_family)]
    faults = {
        "names copies exactly if it is attributed": finding.attributed == bool(finding.copies),
        "names the model of its copies": finding.attributed == (finding.model is not None),
        "is about images": bool(finding.images),
        "states an alpha between 0 and 1": 0 < evidence.alpha < 1,
        "counts its tests": evidence.groups > 0 and evidence.hypotheses >= 0 and evidence.bits > 0,
        "states bounds that are probabilities": all(bound is None or bound <= 0 for bound in bounds),
        "has digests of the images it read": all(
            image.error is not None or _is_digest(image.sha256) for image in finding.images
        ),
    }
    for what, holds in faults.items():
        if not holds:
            raise ValueError(f"{where} is not one that {what}")


def _is_digest(text: str | None) -> bool:
    return text is not None and len(text) == 64 and all(c in "0123456789abcdef" for c in text)
