"""Checking images with a registry: they are read here, and only their readings leave this device.

    verifier = OnlineVerifier(store.bundles(), Client("https://registry.example", token))
    for finding in verifier.check(["a.png"]):
        print(finding.statement())

Networks come from bundles, such as `verifier update` fetches; what is sent are the integers that they read,
no image, no file name, no digest. The registry searches its keys with the same test as :mod:`verifier.check`
and answers with a finding. What it says about a copy of one's own organisation is verified: the certificate's
signature, its place in the ledger, and that this ledger extends the one of the bundle. Under a grant the
registry names pseudonyms; there is nothing to verify, and the finding says so. Where several models are
asked about, they share alpha.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from verifier import merkle, proof
from verifier.bundle import CHECKPOINT, Bundle, BundleModel
from verifier.certificate import Certificate, ModelReference
from verifier.check import Checker, Group, Named, open_network, weighted_tests
from verifier.client import Client, RefusedError
from verifier.errors import InputError, TrustError
from verifier.evidence import ALPHA
from verifier.finding import (
    SCHEMA,
    CopyEntry,
    EvidenceEntry,
    Finding,
    LedgerEntry,
    ModelEntry,
    NetworkEntry,
    OnlineFinding,
)
from verifier.network import Network, Reading

IMAGES_MOST = 64
"""Images in one query."""

FORBIDDEN = 403


@dataclass(frozen=True)
class _Target:
    """A model that may be asked about: ``label`` is its name in queries; ``own`` if not by a grant."""

    bundle: Bundle
    entry: BundleModel
    network: Network
    label: str
    own: bool


@dataclass(frozen=True)
class _Answer:
    """What the registry says about a group and a model, as far as it could be verified."""

    target: int
    resolution: str
    provisional: bool
    hypotheses: int
    copies: list[CopyEntry]
    ledger: LedgerEntry
    alone: list[list[str]]
    """For each image the copies that it names by itself, as far as the registry says so."""


class OnlineVerifier(Checker):
    """Bundles' networks here, and the keys at a registry. ``left_out`` are models not open to the token."""

    def __init__(
        self, bundles: Sequence[Bundle], client: Client, device: str = "auto", parallel: bool = False
    ) -> None:
        """:class:`InputError` where the registry cannot be asked about any model of the bundles."""
        self._client = client
        offered = list(client.resolvable())
        models = [(bundle, entry) for bundle in bundles for entry in bundle.models]
        targets = [_target(offered, bundle, entry, device, int(parallel)) for bundle, entry in models]
        self._targets = [target for target in targets if target is not None]
        self.left_out = [
            f"{entry.name}@{entry.version}"
            for (_, entry), target in zip(models, targets, strict=True)
            if target is None
        ]
        if not self._targets:
            names = ", ".join(self.left_out) or "no model"
            raise InputError(
                f"{client.url}: the token may not ask about {names}.",
                "Ask the distributor for a grant, or use a token of its own organisation.",
            )
        first = self._targets[0]
        self._extended: set[merkle.Checkpoint] = set()
        tested = EvidenceEntry(first.entry.bits, 0, ALPHA, 1)
        # First that of the first model asked about; the others have lineage to tell, asked about or not.
        others = [bundle for bundle in bundles if bundle is not first.bundle]
        networks = [target.network for target in self._targets]
        super().__init__([first.bundle, *others], networks, tested, parallel)

    @property
    def sources(self) -> list[tuple[Bundle, BundleModel]]:
        return [(target.bundle, target.entry) for target in self._targets]

    def named(self, finding: Finding) -> dict[str, Named]:
        model, place = finding.model, finding.ledger.index
        return {copy.name: Named(copy, model.name, model.version, place) for copy in finding.copies if model}

    def _judge(self, groups: Sequence[Group], tested: EvidenceEntry) -> Iterator[Finding]:
        if tested.alpha > ALPHA:
            raise InputError(f"a registry answers at an alpha of {ALPHA:g} at most.", "Lower --alpha.")
        tested = replace(tested, groups=tested.groups * len(self._targets))
        for group in groups:
            readable = len(group.readings[0])
            if readable > IMAGES_MOST:
                raise InputError(
                    f"a registry takes {IMAGES_MOST} images in a set, not {readable}.", "Use fewer."
                )
            asked = range(len(self._targets)) if readable else ()
            yield self._finding(group, [self._ask(group, number, tested) for number in asked], tested)

    def _ask(self, group: Group, number: int, tested: EvidenceEntry) -> _Answer:
        target = self._targets[number]
        images = [
            {"readings": [reading.logits.tolist() for reading in readings]}
            for readings in needed(group.readings[number])
        ]
        query: dict[str, Any] = {
            "model": target.label,
            "network": target.network.digest,
            "images": images,
            "alpha": tested.alpha,
            "groups": tested.groups,
        }
        document = self._client.resolve(query)
        try:
            attributed = {"attributed": True, "not-attributed": False}[document["verdict"]]
            copies = [CopyEntry(**copy) for copy in document["copies"]]
            alone = [[str(name) for name in image["alone"]] for image in document["images"]]
            known = bool(copies) == attributed and document["schema"] == SCHEMA and len(alone) == len(images)
            model = ModelEntry(**document["model"]) if attributed else None
            answer = _Answer(
                number,
                str(document["resolution"]),
                bool(document["provisional"]),
                int(document["evidence"]["hypotheses"]),
                copies,
                LedgerEntry(None, target.bundle.checkpoint.size, not attributed),
                alone,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise TrustError(f"{self._client.url} answers with no finding: {error}.") from None
        if not known or model not in (None, _model_entry(target.entry)):
            raise TrustError(f"{self._client.url} answers with a finding that contradicts itself.")
        return self._verified(answer) if copies and target.own else answer

    def _verified(self, answer: _Answer) -> _Answer:
        """The answer with copies as their certificates say, and the first one's place in the ledger.

        Without the right to read certificates it stays what it is, not verified.
        """
        target = self._targets[answer.target]
        copies, places = [], []
        for copy in answer.copies:
            try:
                described = self._client.key(copy.key_id)
            except RefusedError as error:
                if error.status == FORBIDDEN:
                    return answer
                raise
            certificate = Certificate.parse(described.get("certificate"), target.bundle.key)
            entry = target.entry
            of = (certificate.key_id, certificate.model, certificate.basis)
            if of != (copy.key_id, ModelReference(entry.name, entry.version, entry.digest), entry.basis):
                raise TrustError(f"the certificate of {copy.key_id} is of another key or model.")
            places.append(self._place(target, described))
            copies.append(
                replace(
                    copy,
                    id=certificate.copy_id,
                    issued_at=certificate.issued_at,
                    revoked=copy.revoked or copy.key_id in target.bundle.revocations,
                )
            )
        return replace(answer, copies=copies, ledger=places[0])

    def _place(self, target: _Target, described: dict[str, Any]) -> LedgerEntry:
        """A certificate's place in a ledger that extends the bundle's, both proved."""
        registry, index = target.bundle.registry, described.get("ledger_index")
        if not isinstance(index, int):
            raise TrustError(f"{self._client.url} names no place in the ledger.")
        document = self._client.inclusion(index)
        proof.check_inclusion(document, registry, described["certificate"])
        head = merkle.Checkpoint.open(document["checkpoint"], target.bundle.key)
        if head not in self._extended:
            growth = self._client.consistency(target.bundle.checkpoint.size, head.size)
            seen = bytes(target.bundle.read(CHECKPOINT)).decode()
            if proof.check_consistency(growth, registry, seen) != head:
                raise TrustError(f"{self._client.url} shows two ledgers of {head.size} entries.")
            self._extended.add(head)
        return LedgerEntry(index, head.size, True)

    def _finding(self, group: Group, answers: Sequence[_Answer], tested: EvidenceEntry) -> Finding:
        """One finding of what was said about each model."""
        naming = [answer for answer in answers if answer.copies]
        chosen = naming[0].target if naming else 0
        digests = {network.digest for network in self.networks}
        digest = self.networks[chosen].digest if naming or len(digests) == 1 else None
        size = self.bundle.checkpoint.size
        copies = [copy for answer in naming for copy in answer.copies]
        alone = iter(zip(*(answer.alone for answer in answers), strict=True))  # of each readable image
        images = [
            image
            if image.error
            else replace(image, alone=[name for names in next(alone, ()) for name in names])
            for image in group.posed(chosen)
        ]
        finding = Finding(
            images=images,
            verdict="attributed" if naming else "not-attributed",
            copies=copies,
            model=_model_entry(self._targets[chosen].entry) if naming else None,
            lineage=None,
            evidence=replace(
                tested,
                bits=self._targets[chosen].entry.bits,
                hypotheses=sum(answer.hypotheses for answer in answers),
            ),
            network=NetworkEntry(digest, self.told),
            ledger=naming[0].ledger if naming else LedgerEntry(None, size, True),
            elapsed_ms=0.0,
        ).consistent()
        if not answers:  # no image could be read, so nobody was asked
            return finding
        said = naming or answers
        return OnlineFinding(
            **vars(finding),
            resolution=said[0].resolution,
            provisional=any(answer.provisional for answer in said),
        )


def needed(images: Sequence[Sequence[Reading]]) -> list[list[Reading]]:
    """Of each image's ranked readings those that enter the test, as the registry will make it."""
    kept = [[ranked[0]] for ranked in images]
    for test in weighted_tests(images)[1:]:
        if test.image is not None and test.reading is not None and test.reading is not images[test.image][0]:
            kept[test.image].append(test.reading)
    return kept


def _model_entry(entry: BundleModel) -> ModelEntry:
    return ModelEntry(entry.name, entry.version, entry.digest)


def _target(
    offered: Sequence[dict[str, Any]], bundle: Bundle, entry: BundleModel, device: str, threads: int
) -> _Target | None:
    """The model as the registry offers it, or None if it is not open to the token."""
    label = f"{entry.name}@{entry.version}"
    digest = bundle.digest(f"{entry.folder}/network.onnx")
    try:
        same = [
            each
            for each in offered
            if str(each["model"]).rpartition("/")[2] == label and each["digest"] == entry.digest
        ]
        accepting = [each for each in same if digest in {network["digest"] for network in each["networks"]}]
    except (KeyError, TypeError):
        raise TrustError("the registry answers with something that is no list of models.") from None
    if not same:
        return None
    if not accepting:
        raise InputError(
            f"the registry accepts no readings of this network of {label} any more.",
            "Run `verifier update`, or get a fresh bundle.",
        )
    found = accepting[0]
    network = open_network(bundle, entry, device, threads)
    return _Target(bundle, entry, network, str(found["model"]), not found.get("granted"))
