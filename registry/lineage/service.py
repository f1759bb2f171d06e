"""Lineage of registered models: fingerprints from their own samples, relatives, what bundles carry.

    install(database, model, fingerprint_of(images))      # at registration and training
    compare_weights(home, model)                          # at registration
    relatives(session, model)[0]                          # the nearest registered model, and how near
    nearest(session)                                      # that of each model
    tree(session, organisation).svg()                     # dendrogram and distance matrix
    told(fingerprints(session), images)                   # which of them made a set of images
    members(session, models)                              # lineage/... of a bundle

A fingerprint is the mean direction of embeddings of disjoint sets of samples. The network is the one that
ships with this package; fingerprints of another are never compared with it. How embeddings are read is
:mod:`verifier.lineage`'s, once for both packages.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from registry.accounts import service as accounts
from registry.db import Database, unix_now
from registry.errors import InputError, IntegrityError, StateError
from registry.generators import service as generators
from registry.generators.models import Model
from registry.home import Home
from registry.lineage.models import LineageFingerprint, WeightKin
from registry.lineage.weights import DERIVED, Weights
from verifier import lineage as reading
from verifier.lineage import (
    Fingerprint,
    Lineage,
    LineageFinding,
    LineageNetwork,
    LineageSpec,
    Pixels,
    window,
)

if TYPE_CHECKING:
    import torch

    from registry.generators.adapters import Adapter, Generator
    from registry.lineage.tree import Tree

FOLDER = Path(__file__).resolve().parent / "network"
"""The lineage network that ships with the package, and its card."""
IMAGES, SETS, SPEC = "images.onnx", "sets.onnx", "lineage.json"
SHIPPED = "lineage.json"
"""A builtin's fingerprint, beside its weights."""
SAMPLES, QUICK_SAMPLES, LEAST = 256, 128, 64
"""Samples that a fingerprint is made of; those drawn at registration; and the fewest possible."""
SET = 16
CHUNK = 64
SEED = 71


@dataclass(frozen=True)
class Relative:
    """Another registered model.

    ``distance`` is that of the images (one less the cosine), None where one of the two has no fingerprint;
    ``weights`` the likeness of the weights (:mod:`registry.lineage.weights`), None unless they descend from
    each other. ``derived``: by its weights, or as near as fine-tuned or pruned weights are by their images,
    and no independent training.
    """

    model: str
    distance: float | None
    derived: bool
    weights: float | None = None


@functools.cache
def network() -> LineageNetwork:
    """The shipped network on the CPU."""
    spec = LineageSpec.parse(json.loads((FOLDER / SPEC).read_bytes()))
    parts = (FOLDER / IMAGES).read_bytes(), (FOLDER / SETS).read_bytes()
    return LineageNetwork(*parts, spec, "cpu", threads=1)


@functools.cache
def network_digest() -> bytes:
    """SHA-256 of the shipped network's two parts."""
    return hashlib.sha256((FOLDER / IMAGES).read_bytes() + (FOLDER / SETS).read_bytes()).digest()


def fingerprint_of(images: Sequence[Image.Image], name: str = "the model") -> Fingerprint:
    """The fingerprint of the model that made ``images``, all of one size.

    :class:`InputError` for too few of them or too small ones.
    """
    spec = network().spec
    if len(images) < LEAST:
        raise InputError(
            f"{name} gave {len(images)} images; a lineage fingerprint needs {LEAST} of them.",
            "Give more samples.",
        )
    if min(min(image.size) for image in images) < spec.smallest:
        raise InputError(
            f"{name}'s images are smaller than the {spec.smallest} x {spec.smallest} pixels that the lineage "
            "network sees at once.",
            "Lineage cannot be told from them; keys can.",
        )
    return _fingerprint(_windows(images), name, max(images[0].size))


def _windows(images: Sequence[Image.Image]) -> list[Pixels]:
    """What is read of images: as they are, never resized, whatever their modes."""
    return [window(image.convert("RGB"), network().spec.window) for image in images]


def _fingerprint(pixels: Sequence[Pixels], name: str, size: int) -> Fingerprint:
    features = np.stack([found for found in network().features(pixels) if found is not None])
    sets = [range(start, start + SET) for start in range(0, len(pixels) - SET + 1, SET)]
    total = network().embed(features, sets).sum(0)
    direction = total / np.linalg.norm(total)
    return Fingerprint(name, tuple(direction.tolist()), len(pixels), size)


def available() -> bool:
    """Whether this installation has a lineage network."""
    return (FOLDER / SPEC).is_file()


def sample_fingerprint(generator: Generator, name: str, count: int = SAMPLES) -> Fingerprint:
    """From ``count`` samples that ``generator`` draws now; errors as :func:`fingerprint_of`."""
    from registry.interrupts import between_steps
    from registry.progress import progress

    images: list[Image.Image] = []
    with progress("samples for lineage", count) as bar, between_steps() as check:
        while len(images) < count:
            check()
            images += generator.sample(min(CHUNK, count - len(images)), SEED + len(images))
            bar.update(len(images))
    return fingerprint_of(images, name)


def quick_fingerprint(adapter: Adapter, folder: Path, name: str) -> Fingerprint | None:
    """That of the model in ``folder``, None where it samples slowly or its images are too small."""
    generator = adapter.load(folder)
    if not generator.quick_sampling or generator.size < network().spec.smallest:
        return None
    return sample_fingerprint(generator, name, QUICK_SAMPLES)


def rendered_fingerprint(generator: Generator, latents: torch.Tensor, name: str) -> Fingerprint | None:
    """From latents (n, ...) that were drawn already; None where they are too few, or its images too small."""
    from registry.generators.adapters import to_images

    if generator.size < network().spec.smallest or len(latents) < LEAST:
        return None
    images: list[Image.Image] = []
    for part in latents[:SAMPLES].split(CHUNK):
        images += to_images(generator.render(part))
    return fingerprint_of(images, name)


def install(database: Database, model: Model, found: Fingerprint) -> None:
    """Store ``found`` as the model's fingerprint under the shipped network, in place of an older one."""
    with database.write() as session:
        kept = _row(session, model)
        if kept is None:
            kept = LineageFingerprint(model_id=model.id, network=network_digest())
            session.add(kept)
        kept.embedding = np.asarray(found.embedding, "<f4").tobytes()
        kept.samples, kept.size, kept.computed_at = found.samples, found.size, unix_now()


def read_shipped(path: Path) -> Fingerprint | None:
    """A builtin's fingerprint, if there is one of the shipped network."""
    if not path.is_file():
        return None
    document = json.loads(path.read_bytes())
    if document["network"] != network_digest().hex():
        return None
    return Fingerprint.parse({"model": "", **document["fingerprint"]})


def write_shipped(found: Fingerprint, path: Path) -> None:
    """The inverse of :func:`read_shipped`."""
    body = {"embedding": [round(v, 6) for v in found.embedding], "samples": found.samples, "size": found.size}
    path.write_text(json.dumps({"network": network_digest().hex(), "fingerprint": body}) + "\n", "utf-8")


def fingerprint(session: Session, model: Model) -> Fingerprint | None:
    """The model's own, None before there is one."""
    row = _row(session, model) if available() else None
    return None if row is None else _parsed(row, model.label)


def compare_weights(home: Home, model: Model) -> None:
    """Note which model of its organisation, registered before, the weights of ``model`` descend from."""
    with home.database.read() as session:
        query = select(Model).where(
            Model.organisation_id == model.organisation_id,
            Model.adapter == model.adapter,
            Model.id < model.id,
        )
        others = session.execute(query.order_by(Model.id)).scalars().all()
    own = Weights(home.storage, generators.base_name(model))
    best, kin = DERIVED, None
    for other in others:
        found = 1.0 if other.digest == model.digest else _likeness(own, home, other)
        if found > best:
            best, kin = found, other
    if kin is not None:
        with home.database.write() as session:
            session.merge(WeightKin(model_id=model.id, kin_id=kin.id, likeness=best))


def _likeness(own: Weights, home: Home, other: Model) -> float:
    """0 where they cannot be compared: to register a model, no other's files need to be whole."""
    try:
        found = own.likeness(Weights(home.storage, generators.base_name(other)))
    except (IntegrityError, ValueError):
        return 0.0
    return found or 0.0


def relatives(session: Session, model: Model) -> list[Relative]:
    """The organisation's other models, derived ones first, then by distance; none before one is known."""
    kin = _kin(session, model.organisation_id).get(model.label, {})
    return _relatives(model.label, _directions(session, model.organisation_id), kin)


def nearest(session: Session, organisation: int | None = None) -> dict[str, Relative]:
    """Of each model of an organisation that has one, its nearest relative."""
    owner = accounts.owner(session, organisation)
    known, kin = _directions(session, owner), _kin(session, owner)
    found = {label: _relatives(label, known, kin.get(label, {})) for label in sorted({*known, *kin})}
    return {label: ranked[0] for label, ranked in found.items() if ranked}


def _directions(session: Session, owner: int) -> dict[str, NDArray[np.float64]]:
    return {one.model: np.asarray(one.embedding) for one in fingerprints(session, owner)}


def _kin(session: Session, owner: int) -> dict[str, dict[str, float]]:
    """Of each model those whose weights descend from it or the other way round, with their likeness."""
    first, second = aliased(Model), aliased(Model)
    query = (
        select(first, second, WeightKin.likeness)
        .join(first, first.id == WeightKin.model_id)
        .join(second, second.id == WeightKin.kin_id)
        .where(first.organisation_id == owner)
    )
    found: dict[str, dict[str, float]] = {}
    for one, other, likeness in session.execute(query):
        found.setdefault(one.label, {})[other.label] = likeness
        found.setdefault(other.label, {})[one.label] = likeness
    return found


def _relatives(
    label: str, known: Mapping[str, NDArray[np.float64]], kin: Mapping[str, float]
) -> list[Relative]:
    own = known.get(label)
    found = []
    for other in {*known, *kin} - {label}:
        distance = None
        if own is not None and other in known:
            distance = round(max(0.0, 1 - float(own @ known[other])), 5)
        near = distance is not None and distance <= network().spec.relative
        if distance is not None or other in kin:
            found.append(Relative(other, distance, near or other in kin, kin.get(other)))
    return sorted(found, key=lambda each: (not each.derived, each.distance or 0.0, each.model))


def describe(session: Session, model: Model) -> dict[str, object] | None:
    """What `registry model show --json` says of a model's lineage: ``samples`` are 0 without fingerprint."""
    own, ranked = fingerprint(session, model), relatives(session, model)
    if own is None and not ranked:
        return None
    return {
        "samples": 0 if own is None else own.samples,
        "size": None if own is None else own.size,
        "nearest": vars(ranked[0]) if ranked else None,
    }


def fingerprints(session: Session, organisation: int | None = None) -> list[Fingerprint]:
    """Those of an organisation's models (``None``: that of the command line), by name and version."""
    if not available():
        return []
    owner = accounts.owner(session, organisation)
    query = (
        select(LineageFingerprint, Model)
        .join(Model, Model.id == LineageFingerprint.model_id)
        .where(Model.organisation_id == owner, LineageFingerprint.network == network_digest())
        .order_by(Model.name, Model.version)
    )
    return [_parsed(row, model.label) for row, model in session.execute(query)]


def fingerprints_of(session: Session, labels: Mapping[int, str]) -> list[Fingerprint]:
    """Those of models by id, under the names that ``labels`` gives them; none where there is no network."""
    if not available():
        return []
    query = (
        select(LineageFingerprint)
        .where(LineageFingerprint.model_id.in_(labels), LineageFingerprint.network == network_digest())
        .order_by(LineageFingerprint.model_id)
    )
    return [_parsed(row, labels[row.model_id]) for row in session.execute(query).scalars()]


def told(known: Sequence[Fingerprint], images: Sequence[Image.Image]) -> LineageFinding:
    """Which of the models with the fingerprints ``known`` made ``images``, as one set.

    Nothing is told where none is known.
    """
    if not known:
        return LineageFinding(None, {})
    lineage = Lineage(network(), known)
    return lineage.of(lineage.features(_windows(images)))


def tree(session: Session, organisation: int | None = None) -> Tree:
    """How an organisation's models are related; :class:`StateError` for fewer than two fingerprints."""
    from registry.lineage.tree import Tree  # scipy is loaded for trees alone

    found = fingerprints(session, organisation)
    if len(found) < 2:
        raise StateError(
            f"a tree needs two models with a lineage fingerprint; there are {len(found)}.",
            "Register another model, or run `registry lineage compute NAME`.",
        )
    return Tree.of([one.model for one in found], np.array([one.embedding for one in found]))


def members(session: Session, models: Sequence[Model]) -> Mapping[str, bytes]:
    """A bundle's lineage members; none where no model of it has a fingerprint."""
    if not available():
        return {}
    found = [one for model in models if (one := fingerprint(session, model)) is not None]
    if not found:
        return {}
    document = {
        "fingerprints": [
            {**vars(one), "embedding": [round(value, 6) for value in one.embedding]} for one in found
        ]
    }
    return {
        reading.IMAGES: (FOLDER / IMAGES).read_bytes(),
        reading.SETS: (FOLDER / SETS).read_bytes(),
        reading.SPEC: (FOLDER / SPEC).read_bytes(),
        reading.FINGERPRINTS: json.dumps(document, sort_keys=True).encode() + b"\n",
    }


def _row(session: Session, model: Model) -> LineageFingerprint | None:
    return session.execute(
        select(LineageFingerprint).where(
            LineageFingerprint.model_id == model.id, LineageFingerprint.network == network_digest()
        )
    ).scalar_one_or_none()


def _parsed(row: LineageFingerprint, label: str) -> Fingerprint:
    embedding: NDArray[np.float32] = np.frombuffer(row.embedding, "<f4")
    return Fingerprint(label, tuple(map(float, embedding)), row.samples, row.size)
