"""`verifier report --check`: everything in a report that can be checked, line by line, without a network.

    checked = check(content, Checking(bundle=bundle, images=[Path("images")], trust="<registry id>"))
    for line in checked.lines:
        print(line.outcome, line.what, line.detail)

Whoever is accused needs the images, the report and a bundle without keys (the network is in it), and for
score and probability the opened commitment, in the report or in a file of its own. What cannot be checked is
said to be so; what does not hold makes the check fail, and the lines go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from numpy.typing import NDArray

from verifier import dsse, merkle, phi, proof, signing
from verifier.bundle import SCHEMA as BUNDLE_SCHEMA
from verifier.bundle import Bundle, BundleModel
from verifier.certificate import Certificate, ModelReference
from verifier.check import Group, Verifier, network_package
from verifier.errors import InputError, TrustError, VerifierError
from verifier.finding import CopyEntry, Finding
from verifier.network import TOLERANCE as QUANTA
from verifier.network import Network
from verifier.opening import Opening, check_commitment, public_key
from verifier.reading import Reader, file_at
from verifier.recompute import Recomputed, recompute
from verifier.report.container import opened
from verifier.report.files import ImageFiles
from verifier.report.html import render_html
from verifier.report.making import Progress, compare
from verifier.report.page import compose
from verifier.report.pdf import render_pdf
from verifier.report.signatures import verified
from verifier.report.statement import Exhibit, Named, Opened, Report, decode

SCHEMA = "hallmark/report-check/1"

Outcome = Literal["holds", "fails", "not checked"]

_ABSENT = "the report does not include it"


@dataclass(frozen=True)
class Line:
    """One thing that was checked, or could not be."""

    what: str
    outcome: Outcome
    detail: str = ""


@dataclass
class Checked:
    """What was found; ``report`` is what the signature covers."""

    report: Report
    lines: list[Line] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return any(line.outcome == "fails" for line in self.lines)

    @property
    def complete(self) -> bool:
        """Whether everything was checked, and held."""
        return all(line.outcome == "holds" for line in self.lines)

    def document(self) -> dict[str, Any]:
        """The JSON object of schema ``hallmark/report-check/1``."""
        lines = [asdict(line) for line in self.lines]
        return {"schema": SCHEMA, "failed": self.failed, "complete": self.complete, "lines": lines}


@dataclass(frozen=True)
class Checking:
    """What a report is checked with: ``trust`` is the registry's id and ``signer`` the author's key
    (SHA-256), as the reader knows them by another way; images are looked for ``beside`` the report, too."""

    bundle: Bundle | None = None
    images: Sequence[Path] = ()
    openings: Sequence[Opening] = ()
    trust: str | None = None
    signer: str | None = None
    device: str = "auto"
    beside: Path = Path()


def check(
    content: bytes, using: Checking, name: str = "this file", progress: Progress = lambda: None
) -> Checked:
    """Check the report in ``content`` (HTML, PDF or JSON); ``progress`` is called for every image read.

    :class:`InputError` where there is no report in it, :class:`TrustError` where it is not signed or its
    signature does not hold: then no line of it is worth reading.
    """
    envelope = opened(content, name)
    report, blocks = decode(envelope.content)
    signer = verified(envelope, report)
    checker = _Check(report, using, progress)
    checker.author(signer)
    checker.words(compose(report) == blocks)
    checker.layout(content, envelope)
    checker.registry()
    for number, exhibit in enumerate(report.exhibits, 1):
        label = f"finding {number}: " if len(report.exhibits) > 1 else ""
        _CheckExhibit(checker, exhibit, label).run()
    return checker.checked


def content_of(content: bytes, name: str) -> Report:
    """The report in ``content``, not verified; :class:`InputError` where there is none."""
    return decode(opened(content, name).content)[0]


class _Check:
    """A check in progress: of what the whole report rests on."""

    def __init__(self, report: Report, using: Checking, progress: Progress) -> None:
        self.report, self.using, self.progress = report, using, progress
        self.checked = Checked(report)
        self.key: Ed25519PublicKey | None = None
        self.models: list[BundleModel] | None = None
        self.network_digests: dict[str, BundleModel] = {}
        self.head: merkle.Checkpoint | None = None
        self.files = ImageFiles(using.beside, using.images)
        self._networks: dict[str, Network] = {}

    def say(self, what: str, outcome: Outcome, detail: str = "") -> None:
        self.checked.lines.append(Line(what, outcome, detail))

    @contextmanager
    def line(self, what: str, detail: str = "") -> Iterator[Callable[[str], None]]:
        """A line that holds unless the block raises; the block may tell more."""
        told = [detail]
        try:
            yield told.append
        except TrustError as error:
            self.say(what, "fails", error.diagnostics())
        except VerifierError as error:
            self.say(what, "not checked", error.diagnostics())
        else:
            self.say(what, "holds", next((text for text in reversed(told) if text), ""))

    def author(self, signer: str) -> None:
        """The signature holds, or nobody would be here; whose it is the reader has to know."""
        named = self.report.signer
        self.say("signature of the report", "holds", f"key {signer}, named {named.name if named else ''!r}")
        if self.using.signer is None:
            self.say(
                "whose signature it is", "not checked", f"compare the key, and name it with --signer {signer}"
            )
            return
        with self.line("whose signature it is", "the key is the one you named"):
            if self.using.signer.lower() != signer:
                raise TrustError(f"the report is signed by the key {signer}, not by {self.using.signer}.")

    def words(self, same: bool) -> None:
        mine = _version()
        theirs = self.report.software.get("hallmark", mine)
        if same:
            self.say("words of the report", "holds", "they are those that its data give")
        elif mine == theirs:
            self.say("words of the report", "fails", "its sentences are not those that its data give")
        else:
            self.say(
                "words of the report",
                "not checked",
                f"they were composed by Hallmark {theirs}, this is {mine}; they are signed, as the data are",
            )

    def layout(self, content: bytes, envelope: dsse.Envelope) -> None:
        """Whether the visible pages are laid out from the signed data: anybody can edit a file's looks."""
        what = "the visible pages"
        advice = "lay it out anew with `verifier report REPORT --out FRESH.html`, and read that"
        if content.lstrip()[:1] == b"{":
            return
        if content.startswith(b"%PDF-"):
            try:
                same = render_pdf(envelope) == content
            except InputError as error:
                self.say(what, "not checked", f"{error.diagnostics()} Or {advice}")
                return
            outcome: Outcome = "holds" if same else "not checked"
            told = "they differ from what is signed, or another version of fpdf2 made them: "
        else:
            same = render_html(envelope) == content
            outcome = "holds" if same else "fails"
            told = "they are not what is signed, or another version of Hallmark made them: "
        self.say(what, outcome, "they are laid out from the signed data" if same else told + advice)

    def registry(self) -> None:
        """The registry's key, and what it signed: bundle and checkpoint."""
        origin, trust = self.report.origin, self.using.trust
        with self.line("the registry's key"):
            self.key = public_key(origin.public_key, origin.registry)
        with self.line("the registry", f"{origin.registry}, which you trust"):
            if trust is None:
                raise InputError(f"it is {origin.registry}; name the one you trust with --trust.")
            if trust != origin.registry:
                raise TrustError(f"the report is about registry {origin.registry}, not {trust}.")
        with self.line("what the registry signed: the bundle that was used") as tell:
            self._manifest(tell)
        with self.line("what the registry signed: the ledger's tree head") as tell:
            if self.key is None or origin.checkpoint is None:
                raise InputError(f"{_ABSENT}.")
            self.head = merkle.Checkpoint.open(origin.checkpoint, self.key)
            if self.head.origin != f"hallmark/{origin.registry}":
                raise TrustError(f"it is of the ledger {self.head.origin}.")
            tell(f"{self.head.size} entries")

    def _manifest(self, tell: Callable[[str], None]) -> None:
        manifest = self.report.origin.manifest
        if self.key is None or manifest is None:
            raise InputError(f"{_ABSENT}.")
        body = signing.verify(manifest, self.key, BUNDLE_SCHEMA)
        try:
            models = [BundleModel.parse(entry) for entry in body["models"]]
            self.network_digests = {
                str(body["files"][f"{model.folder}/network.onnx"]["sha256"]): model for model in models
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise TrustError(f"the bundle's manifest lacks a field: {error}.") from None
        self.models = models
        tell(f"number {body.get('serial')}, {sum(model.keys_issued for model in models)} keys issued")

    def network(self, digest: str | None) -> tuple[Network, BundleModel]:
        """The bundle's network with this digest; :class:`InputError` where there is none."""
        bundle = self.using.bundle
        if bundle is None:
            raise InputError("no bundle was given.", "Name one with --bundle; it needs no keys.")
        if bundle.registry != self.report.origin.registry:
            raise InputError(f"the bundle is of registry {bundle.registry}.")
        entry = bundle.network_of(digest)
        if entry is None:
            raise InputError(
                f"the bundle does not hold the network {digest}.",
                "Ask the registry for a bundle with the network that the report names.",
            )
        if entry.folder not in self._networks:
            self._networks[entry.folder] = network_package(bundle, entry).open(self.using.device)
        return self._networks[entry.folder], entry


class _CheckExhibit:
    """One finding of the report."""

    def __init__(self, check: _Check, exhibit: Exhibit, label: str) -> None:
        self.check, self.exhibit, self.label = check, exhibit, label
        self.finding: Finding = exhibit.finding

    def run(self) -> None:
        paths = self._images()
        self._tested()
        for place, copy in enumerate(self.finding.copies):
            named = self.exhibit.named[place] if self.exhibit.named else Named()
            self._copy(copy, self._with_opening(copy, named), paths)
        if not self.finding.attributed:
            self._not_attributed(paths)

    def _line(self, what: str, detail: str = "") -> Any:
        return self.check.line(f"{self.label}{what}", detail)

    def _images(self) -> list[Path] | None:
        """The files of the images that were read, in order; None if one is missing."""
        paths = []
        for image in self.finding.images:
            if image.error is not None:
                continue
            with self._line(f"image {image.path}") as tell:
                paths.append(self.check.files.find(image))
                tell(f"SHA-256 {image.sha256}")
        return paths if len(paths) == sum(image.error is None for image in self.finding.images) else None

    def _tested(self) -> None:
        """The network and the number of hypotheses, against what the registry signed."""
        with self._line("network and number of keys") as tell:
            models, evidence = self.check.models, self.finding.evidence
            if models is None:
                raise InputError(f"no bundle is described in the report: {_ABSENT}.")
            keys = sum(model.keys_issued for model in models)
            digest = self.finding.network.digest
            if digest is not None and digest not in self.check.network_digests:
                raise TrustError(f"the network {digest} is not in the bundle that the report names.")
            if evidence.hypotheses < keys and any(image.error is None for image in self.finding.images):
                raise TrustError(
                    f"{evidence.hypotheses} hypotheses were counted, but {keys} keys were issued."
                )
            tell(f"{evidence.hypotheses} hypotheses for {keys} keys")

    def _with_opening(self, copy: CopyEntry, named: Named) -> Named:
        """With what a file of its own opens, where the report does not."""
        for opening in self.check.using.openings:
            if opening.key_id == copy.key_id:
                bits = Opened(opening.phi, opening.blinder)
                return Named(
                    named.certificate or opening.certificate, named.inclusion or opening.inclusion, bits
                )
        return named

    def _copy(self, copy: CopyEntry, named: Named, paths: list[Path] | None) -> None:
        certificate: list[Certificate] = []
        with self._line(f"certificate of {copy.name}") as tell:
            certificate.append(self._certificate(copy, named))
            tell(f"signed by the registry, issued at {certificate[0].issued_at}")
        with self._line("its place in the ledger") as tell:
            tell(self._inclusion(named))
        with self._line("the opened commitment", "the bits are those that were committed to at issue"):
            if named.opened is None or named.opened.blinder is None:
                raise InputError("it is not opened.", "Ask the registry, and give its file with --opening.")
            if not certificate:
                raise InputError("there is no certificate to compare with.")
            check_commitment(named.opened.phi, named.opened.blinder, certificate[0])
        again: list[Recomputed] = []
        with self._line("readings, score and probability") as tell:
            again.append(self._recomputed(copy, named, paths, tell))
        if again and copy is self.finding.copies[0]:
            with self._line("what each image adds") as tell:
                tell(self._each(again[0]))

    def _certificate(self, copy: CopyEntry, named: Named) -> Certificate:
        if named.certificate is None or self.check.key is None:
            raise InputError(f"{_ABSENT}.", "Ask the registry for it.")
        certificate = Certificate.parse(named.certificate, self.check.key)
        if (certificate.copy_id, certificate.key_id) != (copy.id, copy.key_id):
            raise TrustError(f"it is the certificate of {certificate.copy_id}.")
        model = self.finding.model
        assert model is not None
        said = ModelReference(model.name, model.version, model.digest)
        if copy is self.finding.copies[0] and certificate.model != said:
            raise TrustError(
                f"it is for a copy of {certificate.model.name}, version {certificate.model.version}."
            )
        if copy.issued_at != certificate.issued_at or certificate.bits != self.finding.evidence.bits:
            raise TrustError("the report states another time of issue, or another number of bits.")
        return certificate

    def _inclusion(self, named: Named) -> str:
        if named.inclusion is None or named.certificate is None:
            raise InputError(f"the proof: {_ABSENT}.", "`registry ledger prove` writes one.")
        registry, head = self.check.report.origin.registry, self.check.head
        index = proof.check_inclusion(named.inclusion, registry, named.certificate)
        size = named.inclusion.get("size")
        if (
            head is not None
            and size == head.size
            and named.inclusion.get("root") not in (None, head.root.hex())
        ):
            raise TrustError("the proof is of another tree than the report's tree head.")
        return f"entry {index} of {size}"

    def _recomputed(
        self, copy: CopyEntry, named: Named, paths: list[Path] | None, tell: Callable[[str], None]
    ) -> Recomputed:
        bits = self._bits(copy, named)
        network, entry = self._network(paths, self._digest(copy, named))
        plus = self._plus(entry, named)
        group = self._group(network, paths)
        signs = phi.unpack(np.frombuffer(bits, np.uint8))
        if len(signs) != network.spec.bits:
            raise TrustError(f"the key has {len(signs)} bits, the network reads {network.spec.bits}.")
        models = self.check.models or [entry]
        keys = sum(model.keys_issued for model in models)
        screened = self.check.network_digests.get(network.digest, entry)
        again = recompute(group.readings[0], signs, keys, screened.acceptance, plus)
        compare(self.finding, copy, again.log10_p_family)
        stated = f", stated 10^{copy.log10_p_family:.2f}" if copy.log10_p_family is not None else ""
        tell(
            f"{again.matching_bits} of {len(signs)} bits; the bound for all keys is "
            f"10^{again.log10_p_family:.2f}{stated}, needed "
            f"10^{math.log10(self.finding.evidence.alpha / self.finding.evidence.groups):.2f}"
        )
        return again

    def _plus(self, entry: BundleModel, named: Named) -> NDArray[np.float64] | None:
        """The biases of a collusion-resistant model, which an opening does not disclose; else None."""
        bundle, scheme = self.check.using.bundle, (named.certificate or {}).get("scheme", entry.scheme)
        assert bundle is not None
        if phi.BIASED not in (scheme, entry.scheme):
            return None
        if not bundle.readable or not bundle.has_keys(entry):
            raise InputError(
                "the copy is of a collusion-resistant model: an opened key is not enough for its bound.",
                "Give a bundle that holds the key table.",
            )
        bundle.verify()
        return bundle.probabilities(entry)

    def _bits(self, copy: CopyEntry, named: Named) -> bytes:
        """The key's bits: opened, or of the reader's own key table."""
        if named.opened is not None:
            try:
                return bytes.fromhex(named.opened.phi)
            except ValueError:
                raise TrustError("the disclosed bits are no hexadecimal digits.") from None
        bundle = self.check.using.bundle
        if bundle is not None and bundle.readable and (place := bundle.find(copy.key_id)) is not None:
            bundle.verify()
            return bytes(bundle.phi(place[0])[place[1]])
        raise InputError(
            "the bits of the key are not at hand.", "Ask the registry to open them, and give --opening FILE."
        )

    def _digest(self, copy: CopyEntry, named: Named) -> str | None:
        """The network that read for a copy: the finding's, or where it is of another model that model's."""
        if copy is not self.finding.copies[0] and named.certificate is not None:
            model = named.certificate.get("model")
            for digest, entry in self.check.network_digests.items():
                if model == {"name": entry.name, "version": entry.version, "digest": entry.digest}:
                    return digest
        return self.finding.network.digest

    def _network(self, paths: list[Path] | None, digest: str | None) -> tuple[Network, BundleModel]:
        if paths is None:
            raise InputError("not all images are at hand.")
        if not paths:
            raise InputError("no image could be read when the finding was made.")
        return self.check.network(digest)

    def _group(self, network: Network, paths: list[Path] | None) -> Group:
        group, reader = Group.empty(1), Reader([network], self.exhibit.pose_search is not False)
        for path in paths or ():
            (read,) = reader.read([file_at(path)])
            if read.entry.error is not None:
                raise InputError(f"{path} cannot be read here: {read.entry.error}")
            group.add(read)
            self.check.progress()
        return group

    def _each(self, again: Recomputed) -> str:
        """Readings and bounds of single images against those stated."""
        stated = [row for row in self.exhibit.readings if row is not None]
        if stated and len(stated) != len(again.readings):
            raise TrustError("the report has readings of another number of images.")
        apart = [
            int(np.abs(np.asarray(row, np.int64) - reading.logits).max(initial=0))
            for row, reading in zip(stated, again.readings, strict=False)
        ]
        if max(apart, default=0) > QUANTA:
            raise TrustError(
                f"readings differ from those stated by up to {max(apart)} quanta; 1 is rounding."
            )
        images = [image for image in self.finding.images if image.error is None]
        for image, own in zip(images, again.own, strict=True):
            if image.log10_p is not None and own > image.log10_p + 0.5:
                raise TrustError(
                    f"{image.path}: a bound of 10^{image.log10_p:.2f} is stated, 10^{own:.2f} found."
                )
        return f"{len(images)} readings agree"

    def _not_attributed(self, paths: list[Path] | None) -> None:
        """That nobody can be named takes a key table to confirm."""
        with self._line("that no copy can be named") as tell:
            bundle = self.check.using.bundle
            if not paths:
                raise InputError("no image is at hand.")
            if bundle is None or not bundle.readable or not all(map(bundle.has_keys, bundle.models)):
                raise InputError("only who has the key table can search it.", "Give a bundle with keys.")
            verifier = Verifier(bundle, self.check.using.device)
            evidence = self.finding.evidence
            reader = Reader(verifier.networks, self.exhibit.pose_search is not False)
            group = Group.empty(len(verifier.networks))
            for path in paths:
                group.add(reader.read([file_at(path)])[0])
                self.check.progress()
            fresh = verifier.judge([group], evidence.alpha, evidence.groups)[0]
            if fresh.attributed:
                raise TrustError(f"with this bundle {fresh.statement()}.")
            tell("the key table names none either")


def _version() -> str:
    from importlib.metadata import version

    return version("hallmark")
