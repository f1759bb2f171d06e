"""Checking images: whose copy made them, and how sure that is.

    verifier = Verifier.from_bundle("flowers.bundle", trust="<registry id>")
    for finding in verifier.check(["a.png", "b.png"]):
        print(finding.statement())

Each image is a group of its own, or all of them are one (``as_set``). For every group and model: read
the images at the poses of the image-only rule, pool the integer logits of each image's most confident
pose, search all keys, bound the tail (:mod:`verifier.evidence`), multiply by the keys ever issued under any
model of the bundle, and compare with alpha divided by the number of groups. A copy is named only after
its certificate's signature and its place in the ledger were verified.

**Further readings.** A fingerprint is nearly periodic on the latent grid, so a crop may look as readable
a few pixels off its true place: confidence alone cannot settle the pose. So up to TESTS_MOST - 1 further
readings of single images, ranked by confidence, are tested as well, and paid for: the pooled reading
may err with FIRST_SHARE of alpha, the others share the rest equally (a weighted union bound). Weights
depend on images alone. Where there is one reading only, it has all of alpha.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from verifier import evidence, lineage
from verifier.bundle import Bundle, BundleModel
from verifier.certificate import Certificate
from verifier.devices import processors
from verifier.errors import InputError, TrustError
from verifier.evidence import ALPHA
from verifier.finding import (
    CopyEntry,
    EvidenceEntry,
    Finding,
    ImageEntry,
    LedgerEntry,
    ModelEntry,
    NetworkEntry,
)
from verifier.lineage import Lineage, Vectors
from verifier.network import HALF, VECTORS, Network, NetworkSpec, Package, Pose, Reading
from verifier.reading import Reader, ReadImage, file_at, in_parallel
from verifier.resolve import AdaptiveKeys, Found, Keys

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    from verifier.online import OnlineVerifier

COPIES_MOST = 16
"""Copies named in one finding at most: more colluders than any bound here can tell apart."""

HOPELESS = 3.0
"""Decades by which Chernoff's bound may miss alpha before the exact tail is not computed: it is at most
some 1.5 decades loose, and leaving a test out can only lose an attribution, never make one."""

TESTS_MOST = 128
"""Readings of a group that are tested against the keys: a crop's true pose is among so many for 19 of 20
images where the most confident one is right for 12 of 20."""

FIRST_SHARE = 0.9
"""Share of alpha of the pooled most confident readings: it costs them 0.05 decades of evidence."""

GROUPS_AT_A_TIME = 16
"""Groups judged together, times the number of workers that read."""

IMAGES_AT_A_TIME = 32
"""Images read together by one worker: decoders and network take turns, and find the caches cold each time.
Ctrl-C waits for them."""

SEARCHED_AT_A_TIME = 4
"""The same where poses are searched, which takes up to seconds an image: Ctrl-C waits for them."""

_TESTS_AT_A_TIME = 512  # searched together, see Keys.top_batch
_BOUNDS_AT_A_TIME = 32  # Chernoff's, whose intermediate results the caches hold then


@dataclass(frozen=True)
class _Model:
    """A model of the bundle, ready for use."""

    entry: BundleModel
    network: Network
    keys: Keys
    plus: NDArray[np.float64] | None
    """``P(phi_j = +1)`` where keys are biased."""

    def log10_p(self, logits: NDArray[np.int64], score: int) -> float:
        """Bound for one key of this model, conditioned on its having passed the screening."""
        tail = evidence.log10_tail(logits, score, self.plus)
        return evidence.log10_family(tail, 1, self.entry.acceptance)


@dataclass(frozen=True)
class Group:
    """Images judged together: an entry each, and per model the ranked readings of the readable ones."""

    entries: list[ImageEntry]
    readings: list[list[list[Reading]]]
    features: list[Vectors | None] = field(default_factory=list)
    """What lineage is told from, for each entry."""

    @classmethod
    def empty(cls, networks: int) -> Group:
        """A group without images as yet."""
        return cls([], [[] for _ in range(networks)])

    def add(self, image: ReadImage) -> None:
        """One image more."""
        self.entries.append(image.entry)
        self.features.append(image.features)
        if image.entry.error is None:
            for mine, ranked in zip(self.readings, image.readings, strict=True):
                mine.append(ranked)

    def first(self, model: int) -> list[Reading]:
        """Each image's most confident reading."""
        return [ranked[0] for ranked in self.readings[model]]

    def posed(self, model: int) -> list[ImageEntry]:
        """The entries, with the pose of each image's most confident reading."""
        return [
            replace(entry, pose=_pose_document(reading.pose)) if reading else entry
            for entry, reading in _paired(self.entries, self.first(model))
        ]


@dataclass(frozen=True)
class Test:
    """Logits (k,) and their share of alpha; of one ``image`` at one pose, or pooled over several."""

    logits: NDArray[np.int64]
    weight: float
    image: int | None = None
    reading: Reading | None = None

    def among(self, tested: EvidenceEntry) -> int:
        """The hypotheses that its share of alpha comes down to."""
        return math.ceil(tested.hypotheses / self.weight)


def weighted_tests(images: Sequence[Sequence[Reading]]) -> list[Test]:
    """What is tested against the keys, given each image's ranked readings: see the module's docstring.

    The weights sum to one. No image may be without a reading.
    """
    own = 1 if len(images) == 1 else 0  # a single image's first reading is the pooled one
    further = [(reading, image) for image, ranked in enumerate(images) for reading in ranked[own:]]
    further = sorted(further, key=lambda found: -found[0].confidence)[: TESTS_MOST - 1]
    pooled = _pool([ranked[0] for ranked in images])
    whose = 0 if own else None
    if not further:
        return [Test(pooled, 1.0, whose)]
    weight = (1 - FIRST_SHARE) / len(further)
    alone = [Test(reading.logits.astype(np.int64), weight, image, reading) for reading, image in further]
    return [Test(pooled, FIRST_SHARE, whose), *alone]


@dataclass(frozen=True)
class Named:
    """A copy that was named, its model, and its certificate's place in the ledger (None where it was not
    verified). A set's copies may be of several models."""

    copy: CopyEntry
    model: str
    version: int
    ledger_index: int | None


@dataclass(frozen=True)
class _Match:
    """A key whose family-wise bound is within alpha: model and row, the test and its bounds."""

    model: int
    row: int
    test: Test
    log10_p: float
    log10_p_family: float


def _pool(readings: Sequence[Reading]) -> NDArray[np.int64]:
    """Sum of integer logits, shape (k,)."""
    return np.asarray(np.stack([reading.logits for reading in readings]).sum(axis=0), np.int64)


class Checker(ABC):
    """Networks that read images, and somebody who judges the readings.

    ``bundles`` (of one registry) are where the ``networks`` come from, ``bundle`` is the first of them,
    ``device`` where they run and ``chosen`` why, ``told`` the device as findings name it.
    ``lineage`` tells models without keys, from ``lineage_members``; None where no bundle has any.
    ``parallel``: several images are read at a time, with one thread each.
    """

    def __init__(
        self,
        bundles: Sequence[Bundle],
        networks: Sequence[Network],
        tested: EvidenceEntry,
        parallel: bool = False,
    ) -> None:
        self.bundle, self.networks, self._tested = bundles[0], networks, tested
        self.device, self.chosen, self.told = networks[0].device, networks[0].chosen, networks[0].told
        members = self.lineage_members = lineage_members(bundles)
        self.lineage = None if members is None else Lineage.open(members, self.device, int(parallel))
        self._workers = processors() if parallel else 1

    def check(
        self,
        images: Sequence[Path | str],
        *,
        as_set: bool = False,
        alpha: float = ALPHA,
        pose_search: bool = True,
    ) -> list[Finding]:
        """One finding per image, or one for all of them ``as_set``; files that cannot be read are entries.

        ``alpha`` bounds the probability that this call names anyone falsely. :class:`InputError` for a
        request that makes no sense, :class:`TrustError` if the bundle's contents do not hold.
        """
        return list(self.findings(images, as_set=as_set, alpha=alpha, pose_search=pose_search))

    def findings(
        self,
        images: Sequence[Path | str],
        *,
        as_set: bool = False,
        alpha: float = ALPHA,
        pose_search: bool = True,
        progress: Callable[[], None] = lambda: None,
    ) -> Iterator[Finding]:
        """:meth:`check`, finding by finding; ``progress`` is called after each image was read."""
        if not 0 < alpha < 1:
            raise InputError(f"alpha must lie between 0 and 1, not {alpha}.")
        if not images:
            raise InputError("no image was given.")
        groups = [list(images)] if as_set else [[image] for image in images]
        tested = replace(self._tested, alpha=alpha, groups=len(groups))
        together = GROUPS_AT_A_TIME * self._workers
        for start in range(0, len(groups), together):
            began = time.perf_counter()
            batch = groups[start : start + together]
            judged = self._told(self._read(batch, pose_search, progress), tested)
            elapsed_ms = round(1000 * (time.perf_counter() - began) / len(judged), 1)
            yield from (replace(finding, elapsed_ms=elapsed_ms) for finding in judged)

    @property
    @abstractmethod
    def sources(self) -> list[tuple[Bundle, BundleModel]]:
        """Where each of the ``networks`` comes from."""

    @abstractmethod
    def named(self, finding: Finding) -> dict[str, Named]:
        """What is known of the copies that a finding names, or an image of it by itself, by their names."""

    def judge(self, groups: Sequence[Group], alpha: float, of: int) -> list[Finding]:
        """The findings of groups that were read before; ``alpha`` is shared by ``of`` groups in all."""
        return self._told(groups, replace(self._tested, alpha=alpha, groups=of))

    def _told(self, groups: Sequence[Group], tested: EvidenceEntry) -> list[Finding]:
        """The findings with their lineage, where the bundle can tell it: beside the keys, and no evidence."""
        found = list(self._judge(groups, tested))
        if self.lineage is None:
            return found
        return [_with_lineage(self.lineage, *pair) for pair in zip(groups, found, strict=True)]

    @abstractmethod
    def _judge(self, groups: Sequence[Group], tested: EvidenceEntry) -> Iterator[Finding]:
        """The finding of each group."""

    def _read(
        self, groups: Sequence[Sequence[Path | str]], pose_search: bool, progress: Callable[[], None]
    ) -> list[Group]:
        """Load and read the images of some groups, a few at a time across their borders."""
        found = [Group.empty(len(self.networks)) for _ in groups]
        files = [file_at(path) for paths in groups for path in paths]
        reader = Reader(self.networks, pose_search, self.lineage)
        batches: dict[int, list[ReadImage]] = {}
        share = math.ceil(len(files) / self._workers)
        size = min(share, SEARCHED_AT_A_TIME if pose_search else IMAGES_AT_A_TIME)

        def work(start: int) -> tuple[int, list[ReadImage]]:
            return start, reader.read(files[start : start + size])

        for start, batch in in_parallel(work, range(0, len(files), size), self._workers):
            batches[start] = batch
            for _ in batch:
                progress()
        images = (image for _, batch in sorted(batches.items()) for image in batch)
        for group, paths in zip(found, groups, strict=True):
            for image in itertools.islice(images, len(paths)):
                group.add(image)
        return found


class Verifier(Checker):
    """A bundle's networks and keys, ready to check images."""

    def __init__(self, bundle: Bundle, device: str = "auto", parallel: bool = False) -> None:
        """:class:`InputError` for a bundle without keys or a device that is not available.

        ``parallel`` is worth it from some dozens of images on.
        """
        if not bundle.models:
            raise InputError("the bundle holds no model.", "Export it again after `registry model add`.")
        self._models = [_open_model(bundle, entry, device, int(parallel)) for entry in bundle.models]
        self._certificates: dict[tuple[int, int], Certificate] = {}
        self._named: dict[str, Named] = {}  # in findings so far
        self.hypotheses = sum(entry.keys_issued for entry in bundle.models)
        tested = EvidenceEntry(bundle.models[0].bits, self.hypotheses, ALPHA, 1)
        super().__init__([bundle], [model.network for model in self._models], tested, parallel)

    @classmethod
    def from_bundle(
        cls,
        path: Path | str,
        *,
        trust: str | None = None,
        device: str = "auto",
        auditor: X25519PrivateKey | None = None,
        parallel: bool = False,
    ) -> Verifier:
        """Open a bundle file; see :meth:`Bundle.open` for ``trust``, ``auditor`` and the errors raised."""
        return cls(Bundle.open(path, trust, auditor=auditor), device, parallel)

    @staticmethod
    def from_registry(
        url: str,
        *,
        token: str | None = None,
        bundle: Path | str | None = None,
        trust: str | None = None,
        home: Path | str | None = None,
        device: str = "auto",
        parallel: bool = False,
    ) -> OnlineVerifier:
        """A verifier that has no keys: it reads images here and asks the registry about the readings.

        ``token`` is a registry's API token (by default HALLMARK_TOKEN). The networks come from a ``bundle``
        file, which needs no keys, or else from what `verifier update` keeps in ``home``. :class:`InputError`
        where nothing was fetched or the registry cannot be asked, :class:`TrustError` where the bundle is not
        of the registry ``trust``.
        """
        from verifier.client import Client, read_token
        from verifier.online import OnlineVerifier
        from verifier.store import Store, default_home

        if bundle is not None:
            bundles = [Bundle.open(bundle, trust)]
        else:
            store = Store.at(url, default_home() if home is None else Path(home))
            bundles = store.bundles()
            if trust is not None and trust != store.registry:
                raise TrustError(f"{url} is registry {store.registry}, not {trust}.", "Check trust.")
        client = Client(url, read_token(None) if token is None else token)
        return OnlineVerifier(bundles, client, device, parallel)

    @property
    def sources(self) -> list[tuple[Bundle, BundleModel]]:
        return [(self.bundle, model.entry) for model in self._models]

    def named(self, finding: Finding) -> dict[str, Named]:
        names = [copy.name for copy in finding.copies]
        names += [name for image in finding.images for name in image.alone]
        return {name: self._named[name] for name in names}

    def _judge(self, groups: Sequence[Group], tested: EvidenceEntry) -> Iterator[Finding]:
        self.bundle.verify()  # from here on the key table is used
        matches: list[list[_Match]] = [[] for _ in groups]
        readable = [i for i, group in enumerate(groups) if group.readings[0]]
        for number, model in enumerate(self._models):
            if not readable or not len(model.keys):
                continue
            tests = [(i, test) for i in readable for test in weighted_tests(groups[i].readings[number])]
            for start in range(0, len(tests), _TESTS_AT_A_TIME):
                batch = tests[start : start + _TESTS_AT_A_TIME]
                best = model.keys.top_batch(np.stack([test.logits for _, test in batch]), COPIES_MOST)
                hopeful = self._hopeful(model, [test for _, test in batch], best, tested)
                for (i, test), (rows, scores), most in zip(batch, best, hopeful, strict=True):
                    matches[i] += self._within_alpha(number, test, rows[:most], scores[:most], tested)
        for group, found in zip(groups, matches, strict=True):
            finding = self._finding(group, _one_for_each_key(found), tested)
            yield self._with_alone(finding, found) if found else finding

    def _hopeful(
        self, model: _Model, tests: Sequence[Test], best: Sequence[Found], tested: EvidenceEntry
    ) -> list[int]:
        """How many of the ``best`` rows of each test Chernoff's bound does not rule out. It is computed for
        many tests at a time, which is several times cheaper."""
        limit = tested.limit + HOPELESS
        hopeful = [0] * len(tests)
        for start in range(0, len(tests), _BOUNDS_AT_A_TIME):
            left = list(range(start, min(start + _BOUNDS_AT_A_TIME, len(tests))))
            for rank in range(COPIES_MOST):
                left = [n for n in left if rank < len(best[n][1])]
                if not left:
                    break
                logits = np.stack([tests[n].logits for n in left])
                scores = np.array([best[n][1][rank] for n in left])
                bounds = np.atleast_1d(evidence.chernoff_log10(logits, scores, model.plus)).tolist()
                at_most = [
                    evidence.log10_family(bound, tests[n].among(tested), model.entry.acceptance)
                    for n, bound in zip(left, bounds, strict=True)
                ]
                left = [n for n, bound in zip(left, at_most, strict=True) if bound <= limit]
                for n in left:
                    hopeful[n] += 1
        return hopeful

    def _within_alpha(
        self,
        number: int,
        test: Test,
        rows: NDArray[np.int64],
        scores: NDArray[np.int64],
        tested: EvidenceEntry,
    ) -> Iterator[_Match]:
        """The keys among ``rows`` (best first) whose family-wise bound is within alpha."""
        model = self._models[number]
        for row, score in zip(rows.tolist(), scores.tolist(), strict=True):
            log10_p = model.log10_p(test.logits, score)
            family = evidence.log10_family(log10_p, test.among(tested))
            if family > tested.limit:
                return
            yield _Match(number, row, test, log10_p, family)

    def _finding(self, group: Group, matches: Sequence[_Match], tested: EvidenceEntry) -> Finding:
        size = self.bundle.checkpoint.size
        if not matches:
            digests = {model.network.digest for model in self._models}
            return Finding(
                images=group.posed(0),
                verdict="not-attributed",
                copies=[],
                model=None,
                lineage=None,
                evidence=replace(tested, hypotheses=self._hypotheses(group)),
                network=NetworkEntry(digests.pop() if len(digests) == 1 else None, self.told),
                ledger=LedgerEntry(None, size, True),
                elapsed_ms=0.0,
            )
        matches = matches[:COPIES_MOST]
        first = self._models[matches[0].model]
        records = self.bundle.records(first.entry)
        return Finding(
            images=self._image_entries(group, matches[0]),
            verdict="attributed",
            copies=[self._copy_entry(match) for match in matches],
            model=ModelEntry(first.entry.name, first.entry.version, first.entry.digest),
            lineage=None,
            evidence=replace(
                tested,
                bits=first.entry.bits,
                hypotheses=matches[0].test.among(tested),
            ),
            network=NetworkEntry(first.network.digest, first.network.told),
            ledger=LedgerEntry(int(records[matches[0].row]["ledger_index"]), size, True),
            elapsed_ms=0.0,
        )

    def _with_alone(self, finding: Finding, matches: Sequence[_Match]) -> Finding:
        """The finding with the copies that each image names by a test of its own."""
        readable = [entry for entry in finding.images if entry.error is None]
        for match in sorted(matches, key=lambda match: match.log10_p_family):
            number = match.test.image
            name = self._certificate(match).copy_id
            if number is not None and name not in readable[number].alone:
                readable[number].alone.append(name)
                if name not in self._named:
                    self._copy_entry(match)
        return finding.consistent()

    def _certificate(self, match: _Match) -> Certificate:
        """A key's certificate, verified when it is named first; :class:`TrustError` if it does not hold."""
        place = match.model, match.row
        if place not in self._certificates:
            entry = self._models[match.model].entry
            record = self.bundle.records(entry)[match.row]
            self._certificates[place] = self.bundle.certificate(entry, record)
        return self._certificates[place]

    def _hypotheses(self, group: Group) -> int:
        """Tests made on a group: keys of each model times readings."""
        return sum(
            model.entry.keys_issued
            * (len(weighted_tests(group.readings[number])) if group.readings[number] else 1)
            for number, model in enumerate(self._models)
        )

    def _copy_entry(self, match: _Match) -> CopyEntry:
        """What the registry signed about a key; :class:`TrustError` if signature or inclusion fail."""
        model = self._models[match.model]
        record = self.bundle.records(model.entry)[match.row]
        certificate = self._certificate(match)
        sha256 = record["copy_sha256"].tobytes()
        signs = model.keys.signs(match.row)
        place = int(record["ledger_index"])
        copy = CopyEntry(
            id=certificate.copy_id,
            key_id=certificate.key_id,
            sha256=sha256.hex() if any(sha256) else None,
            recipient=self.bundle.recipient(model.entry, record),
            issued_at=certificate.issued_at,
            revoked=certificate.key_id in self.bundle.revocations,
            matching_bits=int(np.count_nonzero(match.test.logits * signs > 0)),
            log10_p=match.log10_p,
            log10_p_family=match.log10_p_family,
        )
        self._named[certificate.copy_id] = Named(copy, model.entry.name, model.entry.version, place)
        return copy

    def _image_entries(self, group: Group, match: _Match) -> list[ImageEntry]:
        """The group's entries with what each image adds to the evidence for ``match``."""
        model, readings = self._models[match.model], group.first(match.model)
        if match.test.image is not None and match.test.reading is not None:
            readings[match.test.image] = match.test.reading
        signs = model.keys.signs(match.row).astype(np.int64)
        pooled = _pool(readings)
        entries = []
        for entry, reading in _paired(group.entries, readings):
            if reading is None:
                entries.append(entry)
                continue
            if len(readings) == 1:  # its own test is the one that named the copy
                posed = replace(entry, pose=_pose_document(reading.pose), log10_p=match.log10_p)
                entries.append(posed)
                continue
            own, rest = reading.logits.astype(np.int64), pooled - reading.logits
            entries.append(
                replace(
                    entry,
                    pose=_pose_document(reading.pose),
                    log10_p=model.log10_p(own, int(own @ signs)),
                    log10_p_without=model.log10_p(rest, int(rest @ signs)),
                )
            )
        return entries


def lineage_members(bundles: Sequence[Bundle]) -> dict[str, bytes] | None:
    """What lineage is told with: the network of the newest bundle that has one, and the fingerprints of all
    bundles whose network it is. (`verifier update` fetches a bundle for each model, with its own alone.)

    None where no bundle has lineage; :class:`TrustError` where it cannot be used.
    """
    found = [
        held
        for bundle in sorted(bundles, key=lambda bundle: -bundle.serial)
        if (held := lineage.members(bundle)) is not None
    ]
    if len(found) < 2:
        return found[0] if found else None
    network = (lineage.IMAGES, lineage.SETS, lineage.SPEC)
    known: dict[str, Any] = {}
    try:
        for held in found:
            if all(held[name] == found[0][name] for name in network):
                for entry in json.loads(held[lineage.FINGERPRINTS])["fingerprints"]:
                    known.setdefault(json.dumps(entry, sort_keys=True), entry)
    except (KeyError, TypeError, ValueError) as error:
        raise TrustError(f"a bundle's lineage cannot be used: {error}") from None
    merged = json.dumps({"fingerprints": list(known.values())}).encode()
    return {**found[0], lineage.FINGERPRINTS: merged}


def _with_lineage(known: Lineage, group: Group, finding: Finding) -> Finding:
    numbers = [number for number, entry in enumerate(group.entries) if entry.error is None]
    told = known.of([group.features[number] for number in numbers])
    return replace(finding, lineage=told.entry, images=told.noted(finding.images, numbers))


def network_package(bundle: Bundle, entry: BundleModel) -> Package:
    """The network package of a bundle's model."""
    spec = NetworkSpec.parse(bundle.read_json(f"{entry.folder}/network.json"))
    if (spec.bits, spec.basis) != (entry.bits, entry.basis):
        raise TrustError(f"the network of model {entry.name} was made for another fingerprint basis")
    name, vectors, half = (f"{entry.folder}/{file}" for file in ("network.onnx", VECTORS, HALF))
    return Package(
        bytes(bundle.read(name)),
        spec,
        bundle.digest(name),
        bytes(bundle.read(vectors)) if bundle.holds(vectors) else None,
        bundle.read(half) if bundle.holds(half) else None,
    )


def open_network(bundle: Bundle, entry: BundleModel, device: str, threads: int = 0) -> Network:
    """The network of a bundle's model on ``device``; for errors see :class:`verifier.network.Network`."""
    return network_package(bundle, entry).open(device, threads)


def _open_model(bundle: Bundle, entry: BundleModel, device: str, threads: int) -> _Model:
    if not bundle.has_keys(entry):
        raise InputError(
            f"the bundle holds no keys of model {entry.name}, so no copy can be looked up.",
            "Ask its registry with --registry URL, or for one made by `registry bundle export --with-keys`.",
        )
    keys = AdaptiveKeys(bundle.phi(entry))
    if len(keys) < entry.keys_issued:
        raise TrustError(
            f"the bundle holds {len(keys)} of the {entry.keys_issued} keys of model {entry.name}: whoever is "
            "missing could not be found.",
            "Get the bundle again from the registry that wrote it.",
        )
    return _Model(entry, open_network(bundle, entry, device, threads), keys, bundle.probabilities(entry))


def _one_for_each_key(matches: Sequence[_Match]) -> list[_Match]:
    """The strongest match of every key, strongest first."""
    kept: dict[tuple[int, int], _Match] = {}
    for match in sorted(matches, key=lambda match: match.log10_p_family):
        kept.setdefault((match.model, match.row), match)
    return list(kept.values())


def _paired(
    entries: Sequence[ImageEntry], readings: Sequence[Reading]
) -> Iterator[tuple[ImageEntry, Reading | None]]:
    """Each entry with its reading, or None where the image could not be read."""
    remaining = iter(readings)
    for entry in entries:
        yield entry, None if entry.error is not None else next(remaining)


def _pose_document(pose: Pose) -> dict[str, int | bool]:
    return asdict(pose)
