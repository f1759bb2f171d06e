"""Lineage of registered models: fingerprints from their own samples, relatives, what bundles carry.

    install(home, model, fingerprint_of(images))          # at registration and training
    relatives(session, model)[0]                          # the nearest registered model, and how near
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
from sqlalchemy.orm import Session

from registry.accounts import service as accounts
from registry.db import Database, unix_now
from registry.errors import InputError, StateError
from registry.generators.models import Model
from registry.lineage.models import LineageFingerprint
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
    """Another registered model at a ``distance`` (one less the cosine); ``derived``: as near as fine-tuned
    or pruned weights are, and no independent training."""

    model: str
    distance: float
    derived: bool


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
    pixels = [window(image.convert("RGB"), spec.window) for image in images]
    return _fingerprint(pixels, name, max(images[0].size))


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
    row = _row(session, model)
    return None if row is None else _parsed(row, model.label)


def relatives(session: Session, model: Model) -> list[Relative]:
    """The organisation's other models by distance, nearest first; none before there is a fingerprint."""
    own = fingerprint(session, model)
    if own is None:
        return []
    others = fingerprints(session, model.organisation_id)
    direction = np.asarray(own.embedding)
    limit = network().spec.relative
    found = [
        Relative(other.model, round(distance, 5), distance <= limit)
        for other in others
        if other.model != model.label
        for distance in [max(0.0, 1 - float(direction @ np.asarray(other.embedding)))]
    ]
    return sorted(found, key=lambda relative: relative.distance)


def describe(session: Session, model: Model) -> dict[str, object] | None:
    """What `registry model show --json` says of a model's lineage."""
    own = fingerprint(session, model) if available() else None
    if own is None:
        return None
    nearest = next(iter(relatives(session, model)), None)
    return {"samples": own.samples, "size": own.size, "nearest": None if nearest is None else vars(nearest)}


def fingerprints(session: Session, organisation: int | None = None) -> list[Fingerprint]:
    """Those of an organisation's models (``None``: that of the command line), by name and version."""
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

    Nothing is told where none is known. Images are read as they are: never resized, whatever their modes.
    """
    if not known:
        return LineageFinding(None, {})
    lineage = Lineage(network(), known)
    pixels = [window(image.convert("RGB"), lineage.spec.window) for image in images]
    return lineage.of(lineage.features(pixels))


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
