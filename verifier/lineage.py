"""Lineage: which registered model made a set of images, told without keys.

    lineage = Lineage.from_bundle(bundle)             # None where the bundle has none
    features = lineage.features([window(image, lineage.spec.window) for image in images])
    found = lineage.of(features)
    found.entry.model, found.entry.confidence, found.notes

Members of a bundle: ``lineage/images.onnx`` (input ``pixels`` uint8 [n, h, w, 3], RGB; output ``features``
float32 [n, f], of each image alone), ``lineage/sets.onnx`` (inputs ``features`` and ``membership`` float32
[s, n], each row a set's weights of the images, which sum to one; output ``embeddings`` float32 [s, d], unit
length), ``lineage/lineage.json`` (:class:`LineageSpec`) and ``lineage/fingerprints.json``: for each model
the direction in which sets of its own samples lie. The first ``source`` numbers of embeddings tell models
apart; the rest say how models resemble each other, and change with what happens to images on their way.

- Of an image the central square of at most ``window`` pixels is read, never resized: resampling would
  blur what tells models apart. Images with a side below ``smallest`` are left out, and that is said.
- A set's distance from a model is one less the cosine between the ``source`` parts of embedding and
  fingerprint; between two models it is that of whole fingerprints. Alternative k
  has the weight ``exp(-distance_k / temperature)``, "none of the registered models" has
  ``exp(-reject / temperature)``; the heaviest is the answer, its share of all weights the confidence. Both
  numbers depend on how many images there are: they were calibrated on sets of every number in ``sizes``, so
  that a model's own sets are turned away with probability ``false_rejection``.
- Models whose fingerprints lie nearer each other than ``relative`` (the same weights under two names, pruned
  ones) are one alternative: no set of images tells them apart. The nearest of them is named, the note names
  the others.
- A set is called a mixture of two models if "each image is of one of the two" is likelier than "all are of
  one", by more than ``mixed`` in natural logarithms, and both parts are then told as their models'.
  Likelihoods are those of single images. ``mixed`` too depends on how many images there are: it was
  calibrated so that a model's own set is called mixed with probability ``false_mixture``.

Nothing here is evidence against anyone: a model says nothing of whose copy made an image.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from verifier.errors import InputError, TrustError, VerifierError
from verifier.finding import ImageEntry, LineageEntry

if TYPE_CHECKING:
    from verifier.bundle import Bundle

SCHEMA = "hallmark/lineage/1"
IMAGES, SETS = "lineage/images.onnx", "lineage/sets.onnx"
SPEC, FINGERPRINTS = "lineage/lineage.json", "lineage/fingerprints.json"
MIXED_LEAST = 3
"""Images of each part of a mixture: fewer are told too badly to speak of."""
CANDIDATES = 16
"""Models, the likeliest, of which each pair is tried as a mixture."""
RUN = 256
"""Images read at a time at most."""

Pixels = NDArray[np.uint8]
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class LineageSpec:
    """``lineage.json``: how the network's embeddings are read; see the module.

    ``relative`` is the distance between two models' fingerprints below which one descends from the other.
    """

    version: int
    source: int
    smallest: int
    window: int
    sizes: tuple[int, ...]
    temperature: tuple[float, ...]
    reject: tuple[float, ...]
    false_rejection: float
    mixed: tuple[float, ...]
    false_mixture: float
    relative: float

    @classmethod
    def parse(cls, document: Any, name: str = SPEC) -> LineageSpec:
        """From the JSON object; :class:`InputError` naming the field that cannot be used."""
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise InputError(f"{name} is no description of a lineage network: expected schema {SCHEMA}.")
        try:
            values = {field: document[field] for field in cls.__dataclass_fields__}
            lists = {field: tuple(values[field]) for field in ("sizes", "temperature", "reject", "mixed")}
            spec = cls(**{**values, **lists})
            faults = {
                "sizes": spec.sizes[:1] == (1,) and list(spec.sizes) == sorted(set(spec.sizes)),
                "temperature": len(spec.temperature) == len(spec.sizes) and min(spec.temperature) > 0,
                "reject": len(spec.reject) == len(spec.sizes) and min(spec.reject) > 0,
                "mixed": len(spec.mixed) == len(spec.sizes) and bool(np.isfinite(spec.mixed).all()),
                "source": spec.source >= 1,
                "smallest": 1 <= spec.smallest <= spec.window,
                "window": spec.window <= 4096,
            }
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{name} lacks or misnames a field: {error}.") from None
        for field, sound in faults.items():
            if not sound:
                raise InputError(f"{name}: {field} has a value that cannot be used.")
        return spec

    def at(self, images: int) -> tuple[float, float]:
        """Temperature and threshold for a set of so many images."""
        return self._between(images, self.temperature), self._between(images, self.reject)

    def mixed_at(self, images: int) -> float:
        """What the gain of two models over one must exceed in a set of so many images."""
        return self._between(images, self.mixed)

    def _between(self, images: int, calibrated: Sequence[float]) -> float:
        return float(np.interp(np.log(images), np.log(self.sizes), calibrated))


@dataclass(frozen=True)
class Fingerprint:
    """A registered model's: ``embedding`` (d,) of unit length, from ``samples`` images of side ``size``."""

    model: str
    embedding: tuple[float, ...]
    samples: int
    size: int

    @classmethod
    def parse(cls, document: Any) -> Fingerprint:
        """From the JSON object; KeyError, TypeError or ValueError where it is none."""
        embedding = tuple(map(float, document["embedding"]))
        if not abs(sum(value * value for value in embedding) - 1) <= 1e-3:
            raise ValueError("an embedding is not of unit length")
        return cls(str(document["model"]), embedding, int(document["samples"]), int(document["size"]))


@dataclass(frozen=True)
class LineageFinding:
    """The answer for a set, None where no image could be read; ``notes`` say what concerns single images."""

    entry: LineageEntry | None
    notes: Mapping[int, str]

    def noted(self, images: Sequence[ImageEntry], places: Sequence[int]) -> list[ImageEntry]:
        """``images`` with the notes; ``places`` says where among them each image of the set stands."""
        found = list(images)
        for number, note in self.notes.items():
            entry = found[places[number]]
            found[places[number]] = replace(entry, notes=[*entry.notes, note])
        return found


class LineageNetwork:
    """The set encoder on one device, in its two parts. May be used by several threads at a time."""

    def __init__(
        self,
        images: bytes | memoryview,
        sets: bytes | memoryview,
        spec: LineageSpec,
        device: str = "auto",
        threads: int = 0,
    ) -> None:
        """:class:`InputError` if the device is not available or the graphs are no lineage network."""
        self.spec = spec
        # Here: a registry puts fingerprints into bundles without starting onnxruntime.
        from verifier.devices import open_session

        self._images, self.device, _ = open_session(bytes(images), device, threads)
        self._sets, _, _ = open_session(bytes(sets), "cpu", 1)
        expected = (["pixels"], ["features"]), (["features", "membership"], ["embeddings"])
        for session, names in zip((self._images, self._sets), expected, strict=True):
            found = (
                [node.name for node in session.get_inputs()],
                [node.name for node in session.get_outputs()],
            )
            if found != names:
                raise InputError(
                    f"the ONNX file is no part of a lineage network: it has {found}, not {names}."
                )

    def features(self, images: Sequence[Pixels]) -> list[Vectors | None]:
        """Of each image (h, w, 3) its features (f,), None for one smaller than the network sees at once."""
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for number, image in enumerate(images):
            if min(image.shape[:2]) >= self.spec.smallest:
                by_shape.setdefault(image.shape, []).append(number)
        found: list[Vectors | None] = [None] * len(images)
        for numbers in by_shape.values():
            for start in range(0, len(numbers), RUN):
                part = numbers[start : start + RUN]
                read = self._run(self._images, {"pixels": np.stack([images[number] for number in part])})
                for number, row in zip(part, read, strict=True):
                    found[number] = row
        return found

    def embed(self, features: Vectors, sets: Sequence[Sequence[int]]) -> Vectors:
        """Unit embeddings (s, d) of ``sets``, each a choice among the images with ``features`` (n, f)."""
        membership = np.zeros((len(sets), len(features)), np.float32)
        for row, chosen in zip(membership, sets, strict=True):
            for number in chosen:
                row[number] += 1 / len(chosen)
        return self._run(self._sets, {"features": features, "membership": membership})

    def _run(self, session: Any, feed: Mapping[str, NDArray[Any]]) -> Vectors:
        try:
            (found,) = session.run(None, feed)
        except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions share no base
            reason = str(error).splitlines()[0]
            raise VerifierError(f"the lineage network failed on {self.device}: {reason}.") from None
        return np.asarray(found, np.float32)


class Lineage:
    """A lineage network and the fingerprints of the registered models."""

    def __init__(self, network: LineageNetwork, fingerprints: Sequence[Fingerprint]) -> None:
        self.network, self.spec = network, network.spec
        self.fingerprints = tuple(fingerprints)
        self.models = [fingerprint.model for fingerprint in fingerprints]
        embeddings = np.array([fingerprint.embedding for fingerprint in fingerprints], np.float32)
        self._directions = source_parts(embeddings, self.spec.source)
        self._kin = kin(embeddings, self.spec.relative)
        self._in_order = [place for places in self._kin for place in places]
        self._starts = np.cumsum([0, *map(len, self._kin[:-1])])
        self.side = max((fingerprint.size for fingerprint in fingerprints), default=0)
        """Side of the largest registered images: no smaller may a file be decoded."""

    @classmethod
    def from_bundle(cls, bundle: Bundle, device: str = "auto", threads: int = 0) -> Lineage | None:
        """That of a bundle, None where it has none; :class:`TrustError` where it cannot be used."""
        found = members(bundle)
        return None if found is None else cls.open(found, device, threads)

    @classmethod
    def open(cls, found: Mapping[str, bytes], device: str = "auto", threads: int = 0) -> Lineage:
        """From the :func:`members` of a bundle; :class:`TrustError` where they cannot be used."""
        try:
            spec = LineageSpec.parse(json.loads(found[SPEC]))
            entries = json.loads(found[FINGERPRINTS])["fingerprints"]
            fingerprints = [Fingerprint.parse(entry) for entry in entries]
            widths = {len(fingerprint.embedding) for fingerprint in fingerprints}
            if len(widths) != 1 or min(widths) < spec.source:
                raise ValueError(
                    "fingerprints of one width, which the network's embeddings have, are expected"
                )
        except (InputError, KeyError, TypeError, ValueError) as error:
            raise TrustError(f"the bundle's lineage cannot be used: {error}") from None
        return cls(LineageNetwork(found[IMAGES], found[SETS], spec, device, threads), fingerprints)

    def features(self, images: Sequence[Pixels]) -> list[Vectors | None]:
        """Of each image, as :func:`window` cuts it, what :meth:`of` needs; None where it is too small."""
        return self.network.features(images)

    def of(self, images: Sequence[Vectors | None]) -> LineageFinding:
        """Which model made the set of images with these features."""
        least = self.spec.smallest
        notes = {
            number: f"lineage: smaller than {least} x {least} pixels, too little to tell the model"
            for number, features in enumerate(images)
            if features is None
        }
        numbers = [number for number in range(len(images)) if number not in notes]
        readable = [features for features in images if features is not None]
        if not readable:
            return LineageFinding(None, notes)
        features = np.stack(readable)
        entry = self.answer(self.network.embed(features, [range(len(features))])[0], len(features))
        if parts := self._parts(features):
            told = [f"{model} ({len(chosen)} images)" for model, chosen, _ in parts]
            for model, chosen, _ in parts:
                note = f"lineage: of a mixed set, like the images of {model}"
                notes.update({numbers[number]: note for number in chosen})
            confidence = min(confidence for _, _, confidence in parts)
            entry = LineageEntry(None, confidence, f"the set mixes models: {' and '.join(told)}")
        return LineageFinding(entry, notes)

    def answer(self, embedding: Vectors, images: int) -> LineageEntry:
        """The answer for a set of ``images`` images with this ``embedding`` (d,)."""
        best, confidence, nearest = self._told(embedding, images)
        if best is None:
            return LineageEntry(None, confidence, "none of the registered models")
        others = [self.models[place] for place in self._kin[best] if place != nearest]
        note = f"or by {', '.join(others)}, whose images are alike" if others else ""
        return LineageEntry(self.models[nearest], confidence, note)

    def _told(self, embedding: Vectors, images: int) -> tuple[int | None, float, int]:
        """The likeliest alternative (a place in ``_kin``, None for no model), the confidence in it, and its
        nearest model."""
        temperature, reject = self.spec.at(images)
        likeness = self._directions @ source_parts(embedding[None], self.spec.source)[0]
        distances = np.append(1 - self._alternatives(likeness[None])[0], reject).astype(np.float64)
        weights = np.exp(-(distances - distances.min()) / temperature)
        best = int(np.argmin(distances))
        confidence = round(float(weights[best] / weights.sum()), 4)
        if best == len(self._kin):
            return None, confidence, int(likeness.argmax())
        return best, confidence, max(self._kin[best], key=lambda place: float(likeness[place]))

    def _alternatives(self, likeness: Vectors) -> Vectors:
        """From likeness (n, m) to models that to alternatives (n, k): that of the nearest of each."""
        found: Vectors = np.maximum.reduceat(likeness[:, self._in_order], self._starts, axis=1)
        return found

    def _parts(self, features: Vectors) -> list[tuple[str, list[int], float]]:
        """The two parts of a mixed set, with the confidence in each, or nothing."""
        count = len(features)
        if count < 2 * MIXED_LEAST or len(self._kin) < 2:
            return []
        runs = [features[start : start + RUN] for start in range(0, count, RUN)]
        alone = [self.network.embed(run, [[number] for number in range(len(run))]) for run in runs]
        sources = source_parts(np.concatenate(alone), self.spec.source)
        likeness = self._alternatives(sources @ self._directions.T)
        gain, pair = mixture(likeness, self.spec.temperature[0])
        if gain <= self.spec.mixed_at(count):
            return []
        nearer = likeness[:, pair].argmax(1)
        chosen = [np.flatnonzero(nearer == side).tolist() for side in (0, 1)]
        if min(map(len, chosen)) < MIXED_LEAST:
            return []
        found = []
        for expected, part, embedding in zip(pair, chosen, self.network.embed(features, chosen), strict=True):
            best, confidence, nearest = self._told(embedding, len(part))
            if best != expected:
                return []
            found.append((self.models[nearest], part, confidence))
        return found


def source_parts(embeddings: Vectors, width: int) -> Vectors:
    """The first ``width`` numbers, which tell models apart, of embeddings (n, d), brought to unit length."""
    parts = embeddings[:, :width]
    found: Vectors = parts / np.maximum(np.linalg.norm(parts, axis=1, keepdims=True), 1e-9)
    return found


def kin(embeddings: Vectors, relative: float) -> list[list[int]]:
    """Rows of ``embeddings`` (m, d), of unit length, in groups: those that a chain of steps of at most
    ``relative`` (one less the cosine) joins."""
    group = np.arange(len(embeddings))
    for start in range(0, len(embeddings), RUN):
        near = embeddings[start : start + RUN] @ embeddings.T >= 1 - relative
        for one, other in zip(*np.nonzero(near), strict=True):
            if group[start + one] != group[other]:
                group[group == group[start + one]] = group[other]
    return [np.flatnonzero(group == each).tolist() for each in dict.fromkeys(group.tolist())]


def mixture(likeness: NDArray[Any], temperature: float) -> tuple[float, list[int]]:
    """The two models that best explain single images with this ``likeness`` (n, m) to m > 1 models, and by
    how much better than the best one: a difference of log likelihoods."""
    scores = likeness.astype(np.float64) / temperature
    share = np.exp(scores - scores.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    likeliest = np.argsort(-share.sum(0), kind="stable")[:CANDIDATES]
    share = share[:, likeliest] + 1e-12
    first, second = np.triu_indices(len(likeliest), 1)
    both = np.log((share[:, first] + share[:, second]) / 2).sum(0)
    best = int(both.argmax())
    gain = both[best] - np.log(share).sum(0).max()
    return float(gain), likeliest[[first[best], second[best]]].tolist()


def members(bundle: Bundle) -> dict[str, bytes] | None:
    """A bundle's members that lineage needs, None where it has none of them."""
    names = (IMAGES, SETS, SPEC, FINGERPRINTS)
    held = [name for name in names if bundle.holds(name)]
    if not held:
        return None
    if missing := sorted(set(names) - set(held)):
        raise TrustError(f"the bundle lacks {missing[0]}")
    return {name: bytes(bundle.read(name)) for name in names}


def window(image: Image.Image, side: int) -> Pixels:
    """The central square of at most ``side`` pixels of an RGB image, (h, w, 3): what lineage is told from."""
    width, height = min(side, image.width), min(side, image.height)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return np.asarray(image.crop((left, top, left + width, top + height)), np.uint8)
