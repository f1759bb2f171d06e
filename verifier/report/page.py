"""The page of a report, composed from its content: what is said, in which order.

    blocks = compose(report)
    envelope = sealed(report, private_key)                # composed, encoded and signed

The words about verdicts are those of :mod:`verifier.words`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from verifier import dsse, phi, signing, words
from verifier.errors import InputError
from verifier.finding import CopyEntry, Finding, ImageEntry
from verifier.report.blocks import (
    Bits,
    Block,
    Bullets,
    Fact,
    Facts,
    Gallery,
    Heading,
    Note,
    Paragraph,
    Picture,
    Verdict,
)
from verifier.report.statement import Exhibit, Named, Report, Signer, encode

_NOT_KNOWN = "not recorded"


def sealed(report: Report, key: signing.Signer | None, name: str = "") -> dsse.Envelope:
    """The report with its page, signed by ``key`` in the ``name`` of whoever answers for it.

    Without a key it is a draft that nobody vouches for.
    """
    if key is None:
        report = replace(report, signer=None)
        return dsse.wrap(encode(report, compose(report)), dsse.IN_TOTO)
    report = replace(report, signer=Signer(name, signing.public_text(key.public_key())))
    return dsse.sign(encode(report, compose(report)), dsse.IN_TOTO, key)


def compose(report: Report) -> list[Block]:
    """The blocks of the page."""
    return list(_blocks(report))


def _blocks(report: Report) -> Iterator[Block]:
    if not report.exhibits:
        raise InputError("a report needs a finding.", "Give what `verifier check --json` printed.")
    yield Heading(report.title, 1)
    yield Facts(list(_head(report)))
    several = len(report.exhibits) > 1
    if several:
        yield Heading("Findings in short")
        for number, exhibit in enumerate(report.exhibits, 1):
            yield _verdict(exhibit, f"Finding {number}")
    for number, exhibit in enumerate(report.exhibits):
        label = f"Finding {number + 1}" if several else ""
        yield Heading(label or "What was found")
        yield from _exhibit(exhibit, number, label)
    if report.case is not None and report.case.notes:
        yield Heading("Notes of the case")
        for note in report.case.notes:
            yield from (Paragraph(line) for line in note.splitlines() if line.strip())
    yield Heading("What was used")
    yield Facts(list(_inputs(report)))
    yield Heading("Words used here")
    yield Facts([Fact(word, explained) for word, explained in words.GLOSSARY])
    yield Heading("Limits of the method")
    yield Bullets(list(dict.fromkeys(limit for e in report.exhibits for limit in words.limits(e.finding))))
    yield Heading("How to check this report")
    yield from _how_to_check(report)


def _head(report: Report) -> Iterator[Fact]:
    yield Fact("made", report.created_at)
    if report.signer is not None:
        yield Fact("by", report.signer.name or "the holder of the key below")
    if report.case is not None:
        opened = f", opened {report.case.opened_at}" if report.case.opened_at else ""
        yield Fact("case", f"{': '.join(filter(None, (report.case.id, report.case.title)))}{opened}")
    yield Fact("registry", report.origin.registry, code=True)
    images = {image.sha256 for e in report.exhibits for image in e.finding.images if image.sha256}
    counted = words.counted(len(images), "image"), words.counted(len(report.exhibits), "finding")
    yield Fact("subject", ", ".join(counted))


def _verdict(exhibit: Exhibit, label: str) -> Verdict:
    finding = exhibit.finding
    verdict = "attributed" if finding.attributed else "not attributed"
    return Verdict(
        f"{label}: {verdict}" if label else verdict,
        words.headline(finding),
        words.chance(finding),
        "strong" if finding.attributed else "plain",
    )


def _exhibit(exhibit: Exhibit, number: int, label: str) -> Iterator[Block]:
    finding = exhibit.finding
    yield _verdict(exhibit, label)
    if finding.attributed and not exhibit.recomputed:
        yield Note(
            "The score and the bound were not computed again where this report was made: the bits of the key "
            "were not at hand there. They are the word of whoever made the finding.",
            "warning",
        )
    yield Heading("What this means", 3)
    yield from (Paragraph(text) for text in words.meaning(finding))
    for place, copy in enumerate(finding.copies):
        named = exhibit.named[place] if exhibit.named else Named()
        yield Heading("The copy" if len(finding.copies) == 1 else f"Copy {place + 1}", 3)
        yield Facts(list(_copy(exhibit, copy, named)))
        if (bits := _bits(exhibit, place, named)) is not None:
            yield bits
        if named.opened is not None:
            yield Note(words.DISCLOSED, "warning")
    yield Heading("The images" if len(finding.images) > 1 else "The image", 3)
    if len(finding.images) > 1 and finding.attributed:
        yield Paragraph(
            "With each image stands the bound for its own score under this one key, and that of the others "
            "without it. They show what each image adds; the verdict is about all of them together."
        )
    yield Gallery(
        [
            Picture(number, place, image.path, list(_image(image)))
            for place, image in enumerate(finding.images)
        ]
    )
    yield Heading("What was tested", 3)
    yield Facts(list(_tested(exhibit)))


def _copy(exhibit: Exhibit, copy: CopyEntry, named: Named) -> Iterator[Fact]:
    finding = exhibit.finding
    assert finding.model is not None
    if copy.id is not None:
        yield Fact("copy", copy.id, code=True)
        yield Fact("key", copy.key_id, code=True)
    else:
        yield Fact("pseudonym", f"{copy.key_id} (the registry does not disclose the copy)")
    yield Fact("recipient", copy.recipient or "not disclosed to the author of this report")
    yield Fact("model", f"{finding.model.name}, version {finding.model.version}")
    yield Fact("base weights", finding.model.digest, code=True)
    yield Fact("issued", copy.issued_at or _NOT_KNOWN)
    yield Fact("revoked", "yes" if copy.revoked else "no")
    if copy.id is not None:
        yield Fact("files", copy.sha256 or "never delivered in full", code=copy.sha256 is not None)
    if copy.matching_bits is not None:
        yield Fact("bits", f"{copy.matching_bits} of {finding.evidence.bits} read as this key has them")
    if copy.log10_p is not None:
        yield Fact("for this key", f"a score as high by accident: at most {words.odds(copy.log10_p)}")
    if copy.log10_p_family is not None:
        yield Fact("for all keys", f"at most {words.odds(copy.log10_p_family)}")
    yield from _proofs(finding, named)


def _proofs(finding: Finding, named: Named) -> Iterator[Fact]:
    certificate, inclusion = named.certificate, named.inclusion
    if certificate is None:
        yield Fact("certificate", "not included")
    else:
        yield Fact("certificate", f"SHA-256 {signing.digest(certificate).hex()}", code=True)
        yield Fact("commitment", str(certificate.get("commitment", _NOT_KNOWN)), code=True)
    if inclusion is None:
        index = finding.ledger.index
        place = "the registry's word" if index is None else f"entry {index} of {finding.ledger.tree_size}"
        yield Fact("ledger", f"{place}; no proof is included")
    else:
        yield Fact(
            "ledger", f"entry {inclusion.get('index')} of {inclusion.get('size')}; the proof is included"
        )
        yield Fact("tree head", str(inclusion.get("root", _NOT_KNOWN)), code=True)
    opened = {
        (False, False): "not opened: the bits of the key stay secret",
        (True, False): "the bits are disclosed here, from a key table; the commitment is not opened",
        (True, True): "opened: bits and blinder are included",
    }[named.opened is not None, named.opened is not None and named.opened.blinder is not None]
    yield Fact("key bits", opened)


def _bits(exhibit: Exhibit, place: int, named: Named) -> Bits | None:
    """The plot, for a reader who may see the bits: of the first copy, whose score ``tested`` made."""
    if place or named.opened is None or exhibit.tested is None:
        return None
    signs = phi.unpack(np.frombuffer(bytes.fromhex(named.opened.phi), np.uint8))
    logits = np.asarray(exhibit.tested, np.int64)
    if len(signs) != len(logits):
        raise InputError(f"the key has {len(signs)} bits, the readings {len(logits)}.")
    largest = max(int(np.abs(logits).max(initial=0)), 1)
    agrees = (logits * signs > 0).astype(int).tolist()
    uniform = named.certificate is not None and named.certificate.get("scheme") == phi.SCHEME
    by_chance = " Of a key that the images do not depend on, about half would point each way."
    return Bits(
        f"Bit by bit: {sum(agrees)} of {len(agrees)} bits were read as the key has them (up), "
        f"{len(agrees) - sum(agrees)} otherwise (down). The height is how clearly a bit was read."
        + (by_chance if uniform else ""),
        [round(abs(value) / largest, 4) for value in logits.tolist()],
        agrees,
    )


def _image(image: ImageEntry) -> Iterator[Fact]:
    if image.error is not None:
        yield Fact("not read", image.error)
        return
    yield Fact("size", f"{image.width} x {image.height} pixels")
    yield Fact("SHA-256", image.sha256 or _NOT_KNOWN, code=True)
    if image.pose is not None and image.width is not None:
        yield Fact("read at", _pose(image.pose))
    if image.log10_p is not None:
        yield Fact("its own bound", _bound(image.log10_p))
    if image.log10_p_without is not None:
        yield Fact("the others", _bound(image.log10_p_without))
    if image.alone:
        yield Fact("by itself", f"names {', '.join(image.alone)}")
    for note in image.notes:
        yield Fact("note", note)


def _bound(log10_p: float) -> str:
    odds = words.odds(log10_p)
    return "no evidence" if odds == words.NO_ODDS else f"at most {odds}"


def _pose(pose: dict[str, Any]) -> str:
    place = f"{pose.get('width')} x {pose.get('height')} at ({pose.get('left')}, {pose.get('top')})"
    turned = f", turned by {pose['angle']}°" if pose.get("angle") else ""
    return f"{place} on the network's canvas{', mirrored' if pose.get('mirrored') else ''}{turned}"


def _tested(exhibit: Exhibit) -> Iterator[Fact]:
    finding, network = exhibit.finding, exhibit.network
    evidence = finding.evidence
    yield Fact("hypotheses", f"{words.count(evidence.hypotheses)} (keys ever issued, times readings tested)")
    shared = f", shared by {words.count(evidence.groups)} tests" if evidence.groups > 1 else ""
    yield Fact("bound", f"{words.alpha(evidence.alpha)} (alpha = {evidence.alpha:g}){shared}")
    yield Fact("key length", f"{evidence.bits} bits")
    if finding.network.digest is not None:
        yield Fact("network", f"SHA-256 {finding.network.digest}", code=True)
    if network is not None:
        yield Fact("", f"version {network.version}, reads {network.size} x {network.size} pixels")
    yield Fact("read on", finding.network.device)
    searched = {None: _NOT_KNOWN, True: "crops, mirrored and turned images were looked for", False: "none"}
    yield Fact("pose search", searched[exhibit.pose_search])
    if finding.lineage is not None:
        lineage = finding.lineage
        yield Fact("lineage", f"{lineage.statement()}; told without keys, and evidence against nobody")
    yield Fact("ledger size", f"{words.count(finding.ledger.tree_size)} entries")


def _inputs(report: Report) -> Iterator[Fact]:
    origin = report.origin
    yield Fact("registry", origin.registry, code=True)
    yield Fact("its key", origin.public_key, code=True)
    if (manifest := origin.manifest) is not None:
        validity = f"{manifest.get('created_at')} to {manifest.get('expires_at')}"
        yield Fact("bundle", f"number {manifest.get('serial')}, valid {validity}")
        yield Fact("its manifest", f"SHA-256 {signing.digest(manifest).hex()}", code=True)
    if origin.bundle_sha256 is not None:
        yield Fact("its file", f"SHA-256 {origin.bundle_sha256}", code=True)
    if origin.checkpoint is not None:
        lines = origin.checkpoint.splitlines()
        yield Fact(
            "checkpoint", f"{lines[1]} entries, signed by the registry" if len(lines) > 1 else _NOT_KNOWN
        )
        yield Fact("", f"SHA-256 {hashlib.sha256(origin.checkpoint.encode()).hexdigest()}", code=True)
    for name, version in report.software.items():
        yield Fact(name, version)


def _how_to_check(report: Report) -> Iterator[Block]:
    named = [entry for exhibit in report.exhibits for entry in exhibit.named]
    opened = bool(named) and all(entry.opened is not None and entry.opened.blinder for entry in named)
    yield Paragraph(
        "Everything here can be checked on one's own computer, without the registry and without trusting the "
        "author: pip install hallmark, the image files, this report, and a bundle of the registry, which "
        "needs "
        "no keys (it holds the network and is given to whoever is accused)."
    )
    yield Bullets(
        [f"verifier report --check REPORT --images FOLDER --bundle BUNDLE --trust {report.origin.registry}"],
        code=True,
    )
    yield Paragraph(
        "It compares the digests of the images, the author's signature, the certificate's signature, its "
        "place "
        "in the ledger, and the network; "
        + (
            "as the commitment to the key is opened here, it also computes readings, score and probability "
            "again."
            if opened
            else "score and probability can be computed again once the registry opens the commitment to the "
            "key (registry key open), with --opening FILE, or by whoever has the key table."
        )
    )
