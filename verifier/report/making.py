"""`verifier report FINDING.json`: what findings say, checked against the images and the bundle, as a report.

    report = make(findings, files, bundle, openings=[opening], device="cpu")

Nothing goes into a report unseen. Every image is found by its digest and read again. With a key table the
finding is made anew from these readings, and what is reported is that one; where the file says otherwise,
nothing is reported. With an opened commitment the score and bound of its key are computed again and compared.
With neither the report says that they were not.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from verifier import finding as findings
from verifier import phi, signing
from verifier.bundle import CHECKPOINT, Bundle, BundleModel
from verifier.check import Group, Verifier, network_package
from verifier.errors import InputError, TrustError
from verifier.finding import CopyEntry, Finding, ImageEntry
from verifier.images import load_image
from verifier.network import Network
from verifier.opening import Opening
from verifier.reading import Reader, ReadImage, file_at
from verifier.recompute import Recomputed, recompute
from verifier.report.files import ImageFiles
from verifier.report.statement import Case, Exhibit, Named, NetworkFacts, Opened, Origin, Report
from verifier.report.thumbnails import SIDE, thumbnail
from verifier.typed import parse_json

TOLERANCE = 0.5
"""Decades by which a bound may differ between devices: their logits may, by one quantum each."""

EXHIBITS_MOST = 500
"""Findings in one report: some ten thousand pages are nobody's."""

_SOFTWARE = ("hallmark", "numpy", "onnxruntime", "onnxruntime-gpu", "pillow", "cryptography")
_LARGEST = 64 << 20

Progress = Callable[[], None]


def read_findings(paths: Sequence[Path]) -> list[tuple[Path, Finding]]:
    """The findings in files as `verifier check --json` prints them, one or more each, with their file.

    :class:`InputError` says which file, line and field cannot be used.
    """
    found = [(path, finding) for path in paths for finding in _findings_in(path)]
    if len(found) > EXHIBITS_MOST:
        raise InputError(
            f"{len(found)} findings are too many for a report.", f"Give {EXHIBITS_MOST} at most."
        )
    return found


def _findings_in(path: Path) -> list[Finding]:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from None
    lines = [(number, line) for number, line in enumerate(content.splitlines(), 1) if line.strip()]
    try:
        values = [(str(path), parse_json(content))]
    except ValueError:
        values = []
        for number, line in lines:
            where = f"{path}, line {number}"
            try:
                values.append((where, parse_json(line)))
            except ValueError as error:
                raise InputError(
                    f"{where} is no finding ({error}).", "Give what `verifier check --json` printed."
                ) from None
    values = [pair for where, value in values for pair in _flat(where, value)]
    if not values:
        raise InputError(f"{path} holds no finding.", "Give what `verifier check --json` printed.")
    return [findings.parse(value, where) for where, value in values]


def _flat(where: str, value: object) -> list[tuple[str, object]]:
    return [(where, item) for item in value] if isinstance(value, list) else [(where, value)]


@dataclass(frozen=True)
class Making:
    """What a report is made from, apart from its findings: see :func:`make`.

    ``openings`` are disclosed in the report. ``known`` ones are not: a registry, which can derive every key,
    computes with them and shows certificate and proof alone.
    """

    bundle: Bundle
    bundle_path: Path | None = None
    images: Sequence[Path] = ()
    openings: Sequence[Opening] = ()
    known: Sequence[Opening] = ()
    show_bits: bool = False
    device: str = "auto"


def make(
    found: Sequence[tuple[Path, Finding]],
    using: Making,
    *,
    title: str,
    created_at: str,
    case: Case | None = None,
    progress: Progress = lambda: None,
) -> Report:
    """The report of findings that came from the files named with them; ``progress`` is called per image.

    ``show_bits`` puts the bits of keys from a key table into the report, for every reader to see.
    :class:`InputError` where something is missing, :class:`TrustError` where a finding does not hold.
    """
    bundle = using.bundle
    if bundle.readable:
        bundle.verify()
    for opening in (*using.openings, *using.known):
        opening.verify(bundle.registry)
    maker = _Maker(using, progress)
    exhibits = [maker.exhibit(finding, ImageFiles(path.parent, using.images)) for path, finding in found]
    origin = Origin(
        bundle.registry,
        signing.public_text(bundle.key),
        bytes(bundle.read(CHECKPOINT)).decode(),
        bundle.manifest,
        None if using.bundle_path is None else _file_digest(using.bundle_path),
    )
    return Report(title, created_at, origin, exhibits, software(), case)


class _Maker:
    """Makes exhibits; networks are opened once."""

    def __init__(self, using: Making, progress: Progress) -> None:
        self._using, self._bundle, self._progress = using, using.bundle, progress
        with_keys = using.bundle.readable and all(map(using.bundle.has_keys, using.bundle.models))
        self._verifier = Verifier(using.bundle, using.device) if with_keys else None
        self._networks: dict[str, Network] = {}

    def exhibit(self, stated: Finding, files: ImageFiles) -> Exhibit:
        """What a finding says and what proves it."""
        paths = [None if image.error is not None else files.find(image) for image in stated.images]
        entry = self._entry(stated)
        networks = self._verifier.networks if self._verifier else [self._network(entry)]
        number = self._bundle.models.index(entry) if self._verifier else 0
        finding, group, pose_search = self._judged(stated, paths, networks)
        again = None
        if finding.attributed and group.readings[number]:
            again = self._again(finding, group, number, entry)
        first = group.first(number) if again is None else again.readings
        readings = iter(first)
        network = networks[number]
        return Exhibit(
            finding=replace(finding, images=[_named(image) for image in finding.images]),
            named=[self._named(copy) for copy in finding.copies],
            readings=[None if path is None else next(readings).logits.tolist() for path in paths],
            tested=None if again is None else again.tested.tolist(),
            thumbnails=[None if path is None else _thumbnail(path) for path in paths],
            network=NetworkFacts(
                network.digest, network.spec.version, network.spec.size, network.spec.quantum
            ),
            recomputed=again is not None or (self._verifier is not None and not finding.attributed),
            pose_search=pose_search,
        )

    def _entry(self, finding: Finding) -> BundleModel:
        """The model whose network read the images."""
        entry = self._bundle.network_of(finding.network.digest)
        if entry is None and finding.network.digest is None and self._bundle.models:
            entry = self._bundle.models[0]
        if entry is None:
            raise InputError(
                f"the bundle does not hold the network that made the finding ({finding.network.digest}).",
                "Give the bundle that the images were checked with.",
            )
        return entry

    def _network(self, entry: BundleModel) -> Network:
        if entry.folder not in self._networks:
            self._networks[entry.folder] = network_package(self._bundle, entry).open(self._using.device)
        return self._networks[entry.folder]

    def _judged(
        self, stated: Finding, paths: Sequence[Path | None], networks: Sequence[Network]
    ) -> tuple[Finding, Group, bool]:
        """The finding, the readings it rests on, and whether poses were searched.

        With a key table the finding is made anew; first as `verifier check` does it, then without the search.
        """
        fresh = []
        for pose_search in (True, False):
            group = self._read(stated, paths, networks, pose_search)
            if self._verifier is None:
                return stated, group, pose_search
            evidence = stated.evidence
            again = self._verifier.judge([group], evidence.alpha, evidence.groups)[0]
            if _same(stated, again):
                return replace(again, elapsed_ms=stated.elapsed_ms), group, pose_search
            fresh.append(again)
        raise TrustError(
            f"the finding about {stated.images[0].path} does not hold: it says that {stated.statement()}, "
            f"but with this bundle {fresh[0].statement()}.",
            "It was altered, or made with another bundle.",
        )

    def _read(
        self, stated: Finding, paths: Sequence[Path | None], networks: Sequence[Network], pose_search: bool
    ) -> Group:
        lineage = None if self._verifier is None else self._verifier.lineage
        group, reader = Group.empty(len(networks)), Reader(networks, pose_search, lineage)
        for image, path in zip(stated.images, paths, strict=True):
            if path is None:
                group.add(ReadImage(image))
                continue
            (read,) = reader.read([file_at(path)])
            if read.entry.error is not None:
                raise InputError(
                    f"{path} was read when the finding was made, and is not now: {read.entry.error}"
                )
            if read.entry.sha256 != image.sha256:
                raise InputError(f"{path} changed while it was read.", "Try again.")
            group.add(replace(read, entry=replace(read.entry, path=image.path)))
            self._progress()
        return group

    def _again(self, finding: Finding, group: Group, number: int, entry: BundleModel) -> Recomputed | None:
        """Score and bound of the first copy's key, where its bits are at hand."""
        bits = self._phi(finding.copies[0].key_id)
        if bits is None or (entry.scheme == phi.BIASED and not self._bundle.has_keys(entry)):
            return None  # the bound of biased keys needs the key table, which holds their biases
        keys = sum(model.keys_issued for model in self._bundle.models)
        signs = phi.unpack(np.frombuffer(bits, np.uint8))
        again = recompute(group.readings[number], signs, keys, entry.acceptance, self._plus(entry))
        compare(finding, finding.copies[0], again.log10_p_family)
        return again

    def _plus(self, entry: BundleModel) -> NDArray[np.float64] | None:
        return self._bundle.probabilities(entry) if entry.scheme == phi.BIASED else None

    def _phi(self, key_id: str) -> bytes | None:
        """The packed bits of a key, from an opening or the key table."""
        for opening in (*self._using.openings, *self._using.known):
            if opening.key_id == key_id:
                return bytes.fromhex(opening.phi)
        if self._verifier is not None and (place := self._bundle.find(key_id)) is not None:
            model, row = place
            return bytes(self._bundle.phi(model)[row])
        return None

    def _named(self, copy: CopyEntry) -> Named:
        for opening in self._using.openings:
            if opening.key_id == copy.key_id:
                opened = Opened(opening.phi, opening.blinder)
                return Named(opening.certificate, opening.inclusion, opened)
        for opening in self._using.known:
            if opening.key_id == copy.key_id:
                return Named(opening.certificate, opening.inclusion)
        if self._verifier is None or (place := self._bundle.find(copy.key_id)) is None:
            return Named()
        model, row = place
        certificate, inclusion = self._bundle.proved(model, self._bundle.records(model)[row])
        bits = self._bundle.phi(model)[row].tobytes().hex()
        return Named(certificate, inclusion, Opened(bits) if self._using.show_bits else None)


def compare(finding: Finding, copy: CopyEntry, log10_p_family: float) -> None:
    """:class:`TrustError` unless the bound that was computed again carries what the finding says of a "
    "copy."""
    limit = float(np.log10(finding.evidence.alpha / finding.evidence.groups))
    if log10_p_family > limit:
        raise TrustError(
            f"the accusation of {copy.name} does not hold: computed from the images, the bound is "
            f"10^{log10_p_family:.2f}, and 10^{limit:.2f} is needed.",
            "The images, the key or the finding are not those that belong together.",
        )
    if copy.log10_p_family is not None and log10_p_family > copy.log10_p_family + TOLERANCE:
        raise TrustError(
            f"the finding claims more about {copy.name} than the images give: a bound of "
            f"10^{copy.log10_p_family:.2f}, and 10^{log10_p_family:.2f} is what they give."
        )


def _same(stated: Finding, fresh: Finding) -> bool:
    copies = [{copy.id for copy in finding.copies} for finding in (stated, fresh)]
    return stated.verdict == fresh.verdict and (copies[0] == copies[1] or copies[0] == {None})


def _named(image: ImageEntry) -> ImageEntry:
    """The entry by the file's name alone: where it lay on its owner's disk is nobody's business."""
    return replace(image, path=Path(image.path).name or image.path)


def _thumbnail(path: Path) -> str:
    return thumbnail(load_image(path, SIDE).image)


def software() -> dict[str, str]:
    """Versions of what computed the findings."""
    found = {"Python": platform.python_version()}
    for name in _SOFTWARE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
