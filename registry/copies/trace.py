"""`registry trace`: whose copy are these weights, by projection on the basis.

    found = trace(home, Path("leak.safetensors"))
    found.attributed, [copy.id for copy in found.copies], found.statement()

The way of the data: the suspect's files become tensors (:mod:`registry.copies.suspects`); each registered
model whose template has tensors of these names and shapes is tried, the closest first; what the
suspect differs by from that template is projected on the model's basis
(:mod:`registry.fingerprints.projection`), which gives integer logits as a network gives for an
image; all keys ever issued of the model are searched, and the exact bound of
:mod:`verifier.evidence` decides. The null hypothesis is that of METHOD section 4 with weights for
images: *these weights are independent of this key*.

**Hypotheses.** H counts all keys ever issued of all models that are tried, revoked and expired ones too.
Which models are tried, in which order, which tensor stands for which, by what they were multiplied and how
they are grouped follows from the suspect's weights, the templates and the bases, none of which depends
on a key; so it is free. Readings of a part of the tensors are paid for: the reading of all
tensors may err with FIRST_SHARE of alpha, the further ones share the rest equally (a weighted union
bound). Copies that were averaged or interleaved are all named, as far as their bound is within alpha.

The certificate inside a suspect is another matter: it is read, its signature is checked, and it is said
whether it agrees with the weights; it never decides.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from registry.accounts import service as accounts
from registry.copies import service as copies
from registry.copies.suspects import SAFETENSORS, Match, Suspect, weight_file
from registry.errors import InputError, StateError
from registry.fingerprints.basis import Basis, Target
from registry.fingerprints.projection import Projection, Reading, observe, project
from registry.generators import service as generators
from registry.generators.models import Model
from registry.home import Home
from registry.keys import service as keys
from registry.storage import folder_files
from verifier import evidence, inspect
from verifier.certificate import Certificate
from verifier.check import COPIES_MOST, FIRST_SHARE, HOPELESS
from verifier.display import Row, power
from verifier.errors import InputError as NotReadable
from verifier.errors import TrustError
from verifier.evidence import ALPHA
from verifier.finding import CopyEntry, EvidenceEntry, ModelEntry, Verdict
from verifier.resolve import KeyTable

SCHEMA = "hallmark/trace/1"

State = Literal["tested", "unmarked", "stripped", "no-keys"]
"""What became of a model that was tried: ``unmarked``, the weights are the base's along the basis;
``stripped``, the tensors that carry its keys are missing."""

Progress = Callable[[int], Callable[[int], None]]

_RELATED = 0.5
"""Distance below which weights without their carrier are said to be of a model."""


@dataclass(frozen=True)
class TriedModel:
    """A model whose template has the suspect's tensors: which part of the suspect, how many of the
    tensors that carry its key were found, the distance to the template (0 alike, 1 strangers)."""

    name: str
    version: int
    state: State
    part: str
    tensors: int
    tensors_missing: int
    distance: float
    keys: int


@dataclass(frozen=True)
class Statement:
    """A certificate found in the suspect at ``source``.

    ``copy_id`` is None where it cannot be read; ``signature`` says whether it holds under the key of this
    ``registry``; ``problem`` what does not hold (also: files that differ from those it was issued for);
    ``agrees`` whether it names a copy that the weights name (None where they name none).
    """

    source: str
    copy_id: str | None
    signature: bool
    problem: str | None
    agrees: bool | None = None


@dataclass(frozen=True)
class TracedCopy(CopyEntry):
    """A copy that the weights depend on, and its model: weights may be mixed from several versions.

    Nothing of it is withheld: whoever traces has the registry.
    """

    id: str
    issued_at: str
    matching_bits: int
    log10_p: float
    log10_p_family: float
    model: ModelEntry


@dataclass(frozen=True)
class Trace:
    """The verdict on one suspect; below alpha it names no copy."""

    path: str
    verdict: Verdict
    copies: list[TracedCopy]
    model: ModelEntry | None
    models: list[TriedModel]
    certificates: list[Statement]
    evidence: EvidenceEntry
    notes: list[str]
    elapsed_ms: float

    @property
    def attributed(self) -> bool:
        return self.verdict == "attributed"

    def document(self) -> dict[str, Any]:
        """The JSON object of schema ``hallmark/trace/1``."""
        return {"schema": SCHEMA, **asdict(self)}

    def statement(self) -> str:
        """The verdict as a sentence that claims no more than was proved."""
        if not self.attributed:
            return "no copy can be named for these weights at this alpha"
        several = "the keys of" if len(self.copies) > 1 else "the key of"
        return f"these weights depend on {several} {', '.join(copy.id for copy in self.copies)}"


@dataclass(frozen=True)
class _Candidate:
    """A model that is tried: its key table and what the suspect says under its basis."""

    model: Model
    tried: TriedModel
    projection: Projection | None
    issued: int
    acceptance: float


@dataclass(frozen=True)
class _Hit:
    """A key whose family-wise bound is within alpha."""

    model: Model
    key_id: bytes
    matching_bits: int
    log10_p: float
    log10_p_family: float
    hypotheses: int


def trace(
    home: Home,
    path: Path,
    model: str | None = None,
    alpha: float = ALPHA,
    progress: Progress = lambda _: lambda _: None,
) -> Trace:
    """Lead the weights at ``path`` (file or folder) back to the copies they were made from.

    ``model`` (NAME or NAME@VERSION) restricts the search to one model; ``progress`` is given the number of
    keys and returns what is told the keys searched. :class:`InputError` where the suspect is not readable,
    :class:`StateError` where no model has a basis yet.
    """
    began = time.perf_counter()
    if not 0 < alpha < 1:
        raise InputError(f"--alpha {alpha}: give a number between 0 and 1.")
    with home.database.read() as session:
        registered = _registered(session, model)
        suspect = Suspect.open(path)
        candidates = [found for entry in registered if (found := _try(home, session, suspect, entry))]
        candidates.sort(key=lambda candidate: candidate.tried.distance)
        hypotheses = sum(candidate.issued for candidate in candidates)
        seen = progress(hypotheses)
        hits: list[_Hit] = []
        for candidate in candidates:
            hits += _search(home, session, candidate, hypotheses, alpha, seen)
        hits = sorted(hits, key=lambda hit: hit.log10_p_family)[:COPIES_MOST]
        named = [_entry(home, session, hit) for hit in hits]
    tests = sum(c.issued * len(c.projection.readings) for c in candidates if c.projection is not None)
    bits = [candidate.model.basis_bits or 0 for candidate in candidates]
    return Trace(
        path=str(path),
        verdict="attributed" if hits else "not-attributed",
        copies=named,
        model=_model_entry(hits[0].model) if hits else None,
        models=[candidate.tried for candidate in candidates],
        certificates=_agreeing(_statements(home, path), named),
        evidence=EvidenceEntry(
            bits=(hits[0].model.basis_bits or 0) if hits else max(bits, default=0),
            hypotheses=hits[0].hypotheses if hits else tests,
            alpha=alpha,
            groups=1,
        ),
        notes=_notes(candidates, bool(hits)),
        elapsed_ms=round(1000 * (time.perf_counter() - began), 1),
    )


def _registered(session: Session, name: str | None) -> list[Model]:
    """The models to try; :class:`StateError` where none of them has a basis."""
    if name is not None:
        model = generators.get_model(session, name)
        generators.basis_name(model)  # says what to do where there is no basis yet
        return [model]
    found = [model for model in generators.models(session) if model.basis is not None]
    if not found:
        raise StateError("no model has a fingerprint basis yet.", "Run `registry model train NAME`.")
    return found


def _try(home: Home, session: Session, suspect: Suspect, model: Model) -> _Candidate | None:
    """The suspect under the model's basis; None where it has nothing of the model's tensors."""
    with home.storage.local(generators.basis_name(model)) as path:
        basis = Basis.load(path)
    with home.storage.local(generators.template_name(model)) as template:
        matches = {
            file: match
            for file in sorted({file for file, _ in basis.directions})
            if (match := suspect.match(weight_file(template / file, file))) is not None
        }
        if not matches:
            return None
        distance = max(match.distance for match in matches.values())
        found = [target for target in basis.directions if _holds(matches, target)]
        if not found and distance > _RELATED:
            return None
        projection = _project(matches, basis, found) if found else None
    issued = keys.count(session, model)
    state: State = "tested"
    if projection is None:
        state = "stripped"
    elif projection.unmarked:
        state = "unmarked"
    elif not issued:
        state = "no-keys"
    tried = TriedModel(
        name=model.name,
        version=model.version,
        state=state,
        part=", ".join(sorted({match.part.label for match in matches.values()})),
        tensors=len(found),
        tensors_missing=len(basis.directions) - len(found),
        distance=round(distance, 6),
        keys=issued,
    )
    q, images = keys.screening(session, model)
    return _Candidate(model, tried, projection, issued, 1 - images * float(q))


def _holds(matches: Mapping[str, Match], target: Target) -> bool:
    file, name = target
    return file in matches and name in matches[file].names


def _project(matches: Mapping[str, Match], basis: Basis, found: Sequence[Target]) -> Projection:
    observed = {
        (file, name): observe(
            basis.directions[file, name] * np.float32(basis.strength),
            matches[file].template.read(name),
            matches[file].read(name),
        )
        for file, name in found
    }
    return project(observed, basis.bits)


def shares(readings: Sequence[Reading]) -> list[float]:
    """What share of alpha each reading has; they sum to one."""
    if len(readings) == 1:
        return [1.0]
    return [FIRST_SHARE] + [(1 - FIRST_SHARE) / (len(readings) - 1)] * (len(readings) - 1)


def _search(
    home: Home,
    session: Session,
    candidate: _Candidate,
    hypotheses: int,
    alpha: float,
    seen: Callable[[int], None],
) -> list[_Hit]:
    """All keys of a model against all readings: the strongest hit of each key within alpha."""
    if candidate.projection is None or not candidate.issued:
        return []
    rows = list(keys.rows(session, candidate.model))
    secret = generators.model_secret(home.master, candidate.model)
    packed = keys.derive_table(
        secret, candidate.model, [row.key_id for row in rows], [row.redraws for row in rows]
    )
    table, plus = KeyTable(packed), keys.probabilities(home.master, candidate.model)
    readings = candidate.projection.readings
    best = table.top_batch(np.stack([reading.logits for reading in readings]), COPIES_MOST)
    hits: dict[int, _Hit] = {}
    for reading, share, (numbers, scores) in zip(readings, shares(readings), best, strict=True):
        tested = math.ceil(hypotheses / share)
        for number, score in zip(numbers.tolist(), scores.tolist(), strict=True):
            log10_p = _log10_p(reading.logits, score, tested, candidate.acceptance, math.log10(alpha), plus)
            if log10_p is None:
                break
            family = evidence.log10_family(log10_p, tested)
            known = hits.get(number)
            if known is None or family < known.log10_p_family:
                matching = int(np.count_nonzero(reading.logits * table.signs(number) > 0))
                hits[number] = _Hit(
                    candidate.model, bytes(rows[number].key_id), matching, log10_p, family, tested
                )
    seen(candidate.issued)
    return list(hits.values())


def _log10_p(
    logits: NDArray[np.int64],
    score: int,
    hypotheses: int,
    acceptance: float,
    limit: float,
    plus: NDArray[np.float64] | None,
) -> float | None:
    """Bound for one key that passed the screening; None where all ``hypotheses`` miss alpha's logarithm."""
    at_most = float(evidence.chernoff_log10(logits, score, plus))
    if evidence.log10_family(at_most, hypotheses, acceptance) > limit + HOPELESS:
        return None
    log10_p = evidence.log10_family(evidence.log10_tail(logits, score, plus), 1, acceptance)
    return log10_p if evidence.log10_family(log10_p, hypotheses) <= limit else None


def _entry(home: Home, session: Session, hit: _Hit) -> TracedCopy:
    key = keys.get_key(session, home.identity.registry, hit.key_id.hex())
    recipient = {found.id: found.email for found in accounts.recipients(session)}[key.row.recipient_id]
    sha256 = copies.copy_digests(session, hit.model).get(key.row.id)
    return TracedCopy(
        id=str(key.document["copy_id"]),
        key_id=hit.key_id.hex(),
        sha256=None if sha256 is None else sha256.hex(),
        recipient=recipient,
        issued_at=str(key.document["issued_at"]),
        revoked=key.revoked,
        matching_bits=hit.matching_bits,
        log10_p=hit.log10_p,
        log10_p_family=hit.log10_p_family,
        model=_model_entry(hit.model),
    )


def _model_entry(model: Model) -> ModelEntry:
    return ModelEntry(model.name, model.version, model.digest_text)


def _notes(candidates: Sequence[_Candidate], attributed: bool) -> list[str]:
    """What else is to be said of the weights, in sentences."""
    if not candidates:
        return ["No registered model has tensors of these names and shapes."]
    if attributed:
        return []
    notes = []
    for candidate in candidates:
        tried, label = candidate.tried, candidate.model.label
        if tried.state == "stripped":
            notes.append(
                f"These are weights of {label} without the tensors that carry its keys: they were stripped, "
                "and nothing can be traced from the weights that are left."
            )
        elif tried.state == "unmarked" and tried.distance < _RELATED:
            notes.append(f"Along the basis of {label} these weights are the base model's: they carry no key.")
        elif tried.state == "no-keys":
            notes.append(f"No key of {label} was ever issued.")
        elif tried.tensors_missing:
            notes.append(
                f"{tried.tensors_missing} of the {tried.tensors + tried.tensors_missing} tensors that "
                f"carry the keys of {label} are missing."
            )
    return notes


def _statements(home: Home, path: Path) -> Iterator[Statement]:
    """The certificates inside the suspect: in hallmark.json, and in the metadata of safetensors files."""
    if path.is_dir():
        if (path / inspect.MANIFEST).is_file():
            yield _folder_statement(home, path)
        files = [path / name for name in folder_files(path) if name.endswith(SAFETENSORS)]
    else:
        files = [path]
    for file in files:
        try:
            metadata = inspect.read_metadata(file)
        except NotReadable:  # a checkpoint of another format
            continue
        if inspect.CERTIFICATE_METADATA in metadata:
            source = file.relative_to(path).as_posix() if path.is_dir() else file.name
            yield _certificate(home, source, metadata[inspect.CERTIFICATE_METADATA])


def _folder_statement(home: Home, folder: Path) -> Statement:
    try:
        content = json.loads((folder / inspect.MANIFEST).read_text(encoding="utf-8"))
        certificate = json.dumps(content["certificate"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return Statement(inspect.MANIFEST, None, False, "it cannot be read")
    stated = _certificate(home, inspect.MANIFEST, certificate)
    try:
        inspect.inspect_copy(folder, trust=home.identity.registry)
    except (TrustError, NotReadable) as error:
        return replace(stated, problem=stated.problem or str(error).rstrip("."))
    return stated


def _certificate(home: Home, source: str, text: str) -> Statement:
    """The certificate in ``text``, checked under this registry's key."""
    try:
        document = json.loads(text)
        copy_id = str(document["copy_id"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return Statement(source, None, False, "it cannot be read")
    try:
        Certificate.parse(document, home.identity.public)
    except TrustError:
        issuer = document.get("registry")
        own = issuer == home.identity.registry
        problem = "its signature does not hold" if own else f"it names another registry, {issuer}"
        return Statement(source, copy_id, False, problem)
    return Statement(source, copy_id, True, None)


def _agreeing(statements: Iterator[Statement], named: Sequence[CopyEntry]) -> list[Statement]:
    ids = {copy.id for copy in named}
    return [replace(found, agrees=found.copy_id in ids if ids else None) for found in statements]


def rows(found: Trace) -> list[Row]:
    """A trace for people."""
    heading = "ATTRIBUTED" if found.attributed else "not attributed"
    told = [
        Row("", f"{found.path}: {heading}", "green" if found.attributed else "yellow"),
        Row("verdict", found.statement()),
    ]
    for copy in found.copies:
        told += [
            Row("copy", copy.id, "bold"),
            *([Row("revoked", "yes", "red")] if copy.revoked else []),
            Row("recipient", copy.recipient or "unknown"),
            Row("model", f"{copy.model.name} (version {copy.model.version})"),
            Row("issued", copy.issued_at),
            Row("files", f"SHA-256 {copy.sha256}" if copy.sha256 else "never delivered in full"),
            Row(
                "evidence",
                f"p {power(copy.log10_p)} for one key, {power(copy.log10_p_family)} for all; "
                f"{copy.matching_bits} bits match",
            ),
        ]
    told += [Row("note", note) for note in found.notes]
    told += [Row("certificate", _stated(statement)) for statement in found.certificates]
    tested = f"{found.evidence.hypotheses:,} hypotheses (keys x readings) at alpha {found.evidence.alpha:g}"
    told.append(Row("tested", tested))
    return told


def _stated(statement: Statement) -> str:
    name = statement.copy_id or "unreadable"
    holds = "signature holds" if statement.signature else "NOT VALID"
    problem = f" ({statement.problem})" if statement.problem else ""
    agrees = {True: ", agrees with the weights", False: ", DISAGREES with the weights", None: ""}
    return f"{statement.source}: {name}, {holds}{problem}{agrees[statement.agrees]}"
