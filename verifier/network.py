"""Attribution networks: an image in, one integer reading per key bit out.

    network = Network.load("models/flowers", device="auto")
    reading = network.read(load_image("suspect.png").image)
    reading.logits, reading.pose, reading.confidence

A network package is ``network.onnx`` (input ``pixels`` uint8 [n, S, S, 3], RGB; output ``logits`` float32
[n, k], calibrated log odds of each bit) and ``network.json``, which fixes everything else, so that two
implementations read the same:

- An image whose sides are both 16 S or more is first averaged over whole blocks of
  ``min(width, height) // (8 S)`` pixels a side (Pillow's ``reduce``).
- A JPEG may have been decoded at 1/2, 1/4 or 1/8 of its size before, if its short side is ``MARGIN`` S or
  more after that; for the verdict's bound it does not matter, as it looks at the image alone.
- A *pose* places the image, resized with Pillow's filter ``resample``, on an S x S canvas of grey ``fill``.
  The identity pose is the whole canvas, whatever the image's proportions.
- Logits are clipped to +- ``clip``, divided by ``quantum`` and rounded (halves to even): integers, the
  same on every device up to one step, for which the bound of :mod:`verifier.evidence` is exact.
- The confidence of a pose is the mean over the bits of ``log cosh L`` with L the clipped, rounded logits in
  natural-log units.
- Packages may hold test vectors, ``vectors.npz``: ``pixels`` (n, S, S, 3) uint8 and the ``logits`` (n, k)
  float32 that the CPU gives for them. A device that reads them with more than TOLERANCE quanta of
  difference is refused.
- Packages with test vectors may hold the network in half precision as well, ``network.fp16.onnx``. Graphics
  cards take it where it reads the vectors with no more than TOLERANCE quanta of difference, and else go on
  in single precision. CPUs never do: they would compute in single precision all the same.

**The pose rule** looks at the image alone, never at keys, so it costs no evidence. The identity pose
is taken alone if its confidence reaches ``sufficient``. Otherwise the image is also tried mirrored, and as
a crop: its longer side as each of ``sides``, at every offset that is a multiple of ``stride``; then the
``top`` best of these again with left, top and side changed by up to ``refine``. If none of all these
reaches ``sufficient`` either, the image is also tried *turned*: the whole canvas by each of ``angles``
(degrees, anticlockwise, about its centre; Pillow's ``rotate`` with its bicubic filter, the corners that
turn in of grey ``fill``), then by up to two whole degrees more or less than the ``top`` best of these. A
description without ``angles`` has those of ``ANGLES``; an empty list tries none. The readings are ranked
by confidence, of equals the earlier one first.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from verifier.devices import Bound, Device, open_session, start
from verifier.errors import InputError, VerifierError
from verifier.evidence import log_cosh

SCHEMA = "hallmark/network/1"
VECTORS = "vectors.npz"
HALF = "network.fp16.onnx"
TOLERANCE = 1
"""Quanta by which a device's logits may differ from the test vectors': rounding, and no more."""

BATCHES = {"cpu": 16}
"""Canvases per run: on a CPU what the caches hold of so many makes up a tenth of the speed."""

BATCH = 128
"""Canvases per run on other devices; a few hundred MB at most."""

MARGIN = 4
"""A JPEG decoded at reduced scale keeps so many pixels for one of the canvas, or more.

Its canvas then differs from that of the full decode by what rounding to 8 bits does anyway: some 0.2
grey levels on average, one or two at most. Its logits do so without a direction, by two quanta on average;
the evidence for a key, some 46 decades, by up to one decade, up more often than down.
"""

ANGLES = tuple(angle for angle in range(-45, 46, 5) if angle)
"""Degrees tried where a description states none: half a step off, a reading is still told from chance."""

TURNS = (-2, -1, 1, 2)
"""Degrees by which the best angles are changed: with ``ANGLES`` they reach every whole degree."""

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

SINGLE, HALF_PRECISION = "fp32", "fp16"

Readings = NDArray[np.int32]


@dataclass(frozen=True)
class PoseRule:
    """The numbers of the pose rule: lengths in pixels of the canvas, ``sufficient`` a confidence, ``angles``
    in degrees."""

    sides: tuple[int, ...]
    stride: int
    refine: int
    top: int
    sufficient: float
    angles: tuple[float, ...] = ANGLES

    @classmethod
    def parse(cls, document: Any) -> PoseRule:
        """From the JSON object; KeyError or TypeError where a field is missing or is no list."""
        sides = tuple(document["sides"])
        numbers = {name: document[name] for name in ("stride", "refine", "top", "sufficient")}
        return cls(sides=sides, angles=tuple(document.get("angles", ANGLES)), **numbers)


@dataclass(frozen=True)
class NetworkSpec:
    """``network.json``: see the module's docstring. ``basis`` is the digest of the basis it reads."""

    version: int
    bits: int
    size: int
    basis: str
    resample: str
    fill: int
    clip: float
    quantum: float
    poses: PoseRule

    @classmethod
    def parse(cls, document: Any, name: str = "network.json") -> NetworkSpec:
        """From the JSON object; :class:`InputError` naming the field that cannot be used."""
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise InputError(f"{name} is no network description: expected schema {SCHEMA}.")
        try:
            spec = cls(
                **{field: document[field] for field in cls.__dataclass_fields__ if field != "poses"},
                poses=PoseRule.parse(document["poses"]),
            )
            faults = {
                "bits": spec.bits > 0 and spec.bits % 8 == 0,
                "size": 8 <= spec.size <= 4096,
                "resample": spec.resample in _FILTERS,
                "fill": 0 <= spec.fill <= 255,
                "clip": 0 < spec.clip < 1e4,
                "quantum": 0 < spec.quantum <= spec.clip,
                "poses.sides": all(1 <= side <= spec.size for side in spec.poses.sides),
                "poses.stride": spec.poses.stride >= 1,
                "poses.refine": 0 <= spec.poses.refine <= 8,
                "poses.top": spec.poses.top >= 0,
                "poses.sufficient": spec.poses.sufficient >= 0,
                "poses.angles": all(0 < abs(angle) <= 180 for angle in spec.poses.angles),
            }
        except (KeyError, TypeError) as error:
            raise InputError(f"{name} lacks or misnames a field: {error}.") from None
        for field, sound in faults.items():
            if not sound:
                raise InputError(f"{name}: {field} has a value that cannot be used.")
        return spec


@dataclass(frozen=True)
class Pose:
    """A window of the canvas, in its pixels, that the whole image fills (mirrored first, if so).

    Then the canvas is turned by ``angle`` degrees, anticlockwise.
    """

    left: int
    top: int
    width: int
    height: int
    mirrored: bool = False
    angle: float = 0


@dataclass(frozen=True)
class Reading:
    """Integer logits (k,) in units of the quantum, the pose they were read at and its confidence."""

    logits: Readings
    pose: Pose
    confidence: float


@dataclass(frozen=True)
class Package:
    """A network package's contents: the ONNX file, its description and digest, the test vectors, and the
    network in half precision."""

    onnx: bytes
    spec: NetworkSpec
    digest: str
    vectors: bytes | None = None
    half: bytes | memoryview | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """To another process, with memory of its own."""
        half = None if self.half is None else bytes(self.half)
        return Package, (self.onnx, self.spec, self.digest, self.vectors, half)

    def open(self, device: str, threads: int = 0) -> Network:
        """The network on a device; for ``threads`` and errors see :class:`Network`."""
        return Network(self.onnx, self.spec, device, self.digest, self.vectors, threads, self.half)


class Network:
    """A network package on one device."""

    def __init__(
        self,
        onnx: bytes | memoryview,
        spec: NetworkSpec,
        device: str = "auto",
        digest: str | None = None,
        vectors: bytes | memoryview | None = None,
        threads: int = 0,
        half: bytes | memoryview | None = None,
    ) -> None:
        """:class:`InputError` if the device is not available or the graph is no attribution network.

        ``digest`` is the SHA-256 (hex) of ``onnx`` where the caller has compared it already, ``vectors`` the
        contents of ``vectors.npz``: :class:`VerifierError` where this device reads them otherwise. ``device``
        is then where it runs and ``chosen`` why, if that was left to ``auto``; ``threads`` of one run on a
        CPU are all (0) or so many. ``half`` is the network in half precision: ``precision`` says whether it
        is used.
        """
        self.spec = spec
        self.digest = digest or hashlib.sha256(onnx).hexdigest()
        session, self.device, self.chosen = open_session(bytes(onnx), device, threads)
        self.precision = SINGLE
        self._use(session)
        if vectors is None:
            return
        apart = self._apart(vectors)
        if apart > TOLERANCE:
            raise VerifierError(
                f"{self.device} reads this network's test images otherwise than it should: by up to {apart} "
                f"quanta, and {TOLERANCE} is allowed.",
                "Use another --device, and please report the graphics card and driver.",
            )
        if half is not None and self.device != "cpu":
            self._halve(session, bytes(half), vectors)

    @classmethod
    def load(cls, folder: Path | str, device: str = "auto") -> Network:
        """The package in ``folder``; :class:`InputError` naming the file that cannot be used."""
        folder = Path(folder)
        try:
            onnx = (folder / "network.onnx").read_bytes()
            document = json.loads((folder / "network.json").read_bytes())
            vectors, half = (
                (folder / name).read_bytes() if (folder / name).exists() else None for name in (VECTORS, HALF)
            )
        except OSError as error:
            raise InputError(f"cannot read {error.filename}: {error.strerror}.") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{folder / 'network.json'} is no JSON: {error}.") from None
        spec = NetworkSpec.parse(document, str(folder / "network.json"))
        return cls(onnx, spec, device, vectors=vectors, half=half)

    @property
    def told(self) -> str:
        """Where the network runs, as findings say it: ``cpu``, ``cuda:1``, ``cuda fp16``."""
        return self.device if self.precision == SINGLE else f"{self.device} {self.precision}"

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Raw logits (n, k) of canvases ``pixels`` (n, S, S, 3) uint8, in batches."""
        batch = BATCHES.get(self.device, BATCH)
        try:
            parts = [self._run(pixels[first : first + batch]) for first in range(0, len(pixels), batch)]
        except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions share no base
            reason = str(error).splitlines()[0]
            raise VerifierError(f"the attribution network failed on {self.device}: {reason}.") from None
        return np.concatenate(parts) if parts else np.zeros((0, self.spec.bits), np.float32)

    def _run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The logits of one batch. Full ones go through memory that is kept on the device."""
        if self._bound is not None and len(pixels) == BATCH:
            return self._bound.run(pixels)
        return np.asarray(self._session.run(["logits"], {"pixels": pixels})[0])

    def _use(self, session: Any) -> None:
        """Read with ``session`` from now on; :class:`InputError` unless it is of the description's shapes."""
        self._session, self._bound = session, None
        self._check_graph()
        if self.device != "cpu":
            shapes = (BATCH, self.spec.size, self.spec.size, 3), (BATCH, self.spec.bits)
            self._bound = Bound(session, Device.parse(self.device), *shapes)

    def _halve(self, single: Any, half: bytes, vectors: bytes | memoryview) -> None:
        """Take the network in half precision where it reads the test vectors as it should, or say why not."""
        session, missing = start(half, Device.parse(self.device), half=True)
        if session is not None:
            self._use(session)
            apart = self._apart(vectors)
            if apart <= TOLERANCE:
                self.precision = HALF_PRECISION
                return
            self._use(single)
            missing = f"it is {apart} quanta off"
        self.chosen += f"{'; ' if self.chosen else ''}not in half precision: {missing}"

    def quantise(self, logits: NDArray[np.floating[Any]]) -> Readings:
        """Logits as integers: clipped, in units of the quantum."""
        if not np.isfinite(logits).all():
            raise VerifierError("the attribution network gave values that are not numbers.")
        spec = self.spec
        clipped = np.clip(logits.astype(np.float64), -spec.clip, spec.clip)
        return np.rint(clipped / spec.quantum).astype(np.int32)

    def confidence(self, readings: Readings) -> NDArray[np.float64]:
        """:func:`confidence` of readings (n, k) of this network."""
        return confidence(readings, self.spec.quantum)

    def read(self, image: Image.Image, pose_search: bool = True) -> Reading:
        """Read an RGB ``image`` at the pose that the rule chooses, or at the identity without search."""
        return self.read_all([image], pose_search)[0]

    def read_all(self, images: Sequence[Image.Image], pose_search: bool = True) -> list[Reading]:
        """:meth:`read` of each image."""
        return [ranked[0] for ranked in self.ranked(images, pose_search)]

    def ranked(self, images: Sequence[Image.Image], pose_search: bool = True) -> list[list[Reading]]:
        """For each image its readings at every pose that the rule tries, the most confident first.

        Only one where no search is needed or wanted. The identity poses of all images are read together.
        """
        if not images:
            return []
        images = [self.reduced(image) for image in images]
        size = self.spec.size
        canvases = np.empty((len(images), size, size, 3), np.uint8)
        for canvas, image in zip(canvases, images, strict=True):
            canvas[:] = self._resized(image, (size, size))
        readings = self._readings(canvases, [Pose(0, 0, size, size)] * len(images))
        return [
            _by_confidence(self._search(image, reading)) if pose_search else [reading]
            for image, reading in zip(images, readings, strict=True)
        ]

    @property
    def side(self) -> int:
        """The short side, in pixels, at which an image may be decoded (``load_image``)."""
        return MARGIN * self.spec.size

    def reduced(self, image: Image.Image) -> Image.Image:
        """The image at the size it is read from: large ones averaged over blocks."""
        factor = min(image.size) // (8 * self.spec.size)
        return image.reduce(factor) if factor > 1 else image

    def canvas(self, image: Image.Image) -> Image.Image:
        """All that the identity pose needs of the image: what is read of it is the same, without search."""
        return self._scaled(self.reduced(image), (self.spec.size, self.spec.size))

    def _search(self, image: Image.Image, identity: Reading) -> list[Reading]:
        """Every pose that the rule tries, in its order, given the reading at the identity."""
        size, rule = self.spec.size, self.spec.poses
        if identity.confidence >= rule.sufficient:
            return [identity]
        tried = [identity]
        windows = self._coarse_poses(image)
        tried += self._read_poses(image, [Pose(0, 0, size, size, mirrored=True), *windows])
        crops = [reading for reading in tried if _is_crop(image, reading.pose)]
        crops.sort(key=lambda reading: -reading.confidence)
        finer = {pose: None for r in crops[: rule.top] for pose in self._neighbours(image, r.pose)}
        known = {reading.pose for reading in tried}
        tried += self._read_poses(image, [pose for pose in finer if pose not in known])
        if max(reading.confidence for reading in tried) < rule.sufficient:
            tried += self._search_angles(image)
        return tried

    def _search_angles(self, image: Image.Image) -> list[Reading]:
        """The whole canvas turned, in the rule's order."""
        size, rule = self.spec.size, self.spec.poses
        turned = self._read_poses(image, [Pose(0, 0, size, size, angle=angle) for angle in rule.angles])
        best = [reading.pose.angle for reading in _by_confidence(turned)[: rule.top]]
        known = {0, *rule.angles}
        finer = dict.fromkeys(angle + change for angle in best for change in TURNS)
        poses = [Pose(0, 0, size, size, angle=angle) for angle in finer if angle not in known]
        return turned + self._read_poses(image, poses)

    def _read_poses(self, image: Image.Image, poses: Sequence[Pose]) -> list[Reading]:
        found: list[Reading] = []
        for first in range(0, len(poses), BATCH):
            batch = poses[first : first + BATCH]
            found += self._readings(self._canvases(image, batch), batch)
        return found

    def _readings(self, canvases: NDArray[np.uint8], poses: Sequence[Pose]) -> list[Reading]:
        readings = self.quantise(self.logits(canvases))
        return list(map(Reading, readings, poses, self.confidence(readings).tolist()))

    def _canvases(self, image: Image.Image, poses: Sequence[Pose]) -> NDArray[np.uint8]:
        """The image at each of the poses: (n, S, S, 3) uint8."""
        size = self.spec.size
        canvases = np.full((len(poses), size, size, 3), self.spec.fill, np.uint8)
        windows: dict[tuple[int, int], NDArray[np.uint8]] = {}
        for canvas, pose in zip(canvases, poses, strict=True):
            shape = (pose.width, pose.height)
            if shape not in windows:
                windows[shape] = self._resized(image, shape)
            window = windows[shape][:, ::-1] if pose.mirrored else windows[shape]
            canvas[pose.top : pose.top + pose.height, pose.left : pose.left + pose.width] = window
            if pose.angle:
                grey = (self.spec.fill,) * 3
                upright = Image.fromarray(canvas)
                canvas[:] = np.asarray(upright.rotate(pose.angle, Image.Resampling.BICUBIC, fillcolor=grey))
        return canvases

    def _resized(self, image: Image.Image, shape: tuple[int, int]) -> NDArray[np.uint8]:
        """The image (height, width, 3) with ``shape``, (width, height)."""
        return np.asarray(self._scaled(image, shape))

    def _scaled(self, image: Image.Image, shape: tuple[int, int]) -> Image.Image:
        return image if image.size == shape else image.resize(shape, _FILTERS[self.spec.resample])

    def _coarse_poses(self, image: Image.Image) -> list[Pose]:
        size, stride = self.spec.size, self.spec.poses.stride
        poses = []
        for side in self.spec.poses.sides:
            width, height = _window(image, side)
            lefts, tops = range(0, size - width + 1, stride), range(0, size - height + 1, stride)
            poses += [Pose(left, top, width, height) for top, left in itertools.product(tops, lefts)]
        return [pose for pose in poses if pose != Pose(0, 0, size, size)]

    def _neighbours(self, image: Image.Image, pose: Pose) -> Iterator[Pose]:
        size, refine = self.spec.size, self.spec.poses.refine
        changes = range(-refine, refine + 1)
        for more, down, right in itertools.product(changes, changes, changes):
            side = max(pose.width, pose.height) + more
            if not 1 <= side <= size:
                continue
            width, height = _window(image, side)
            left, top = pose.left + right, pose.top + down
            if 0 <= left <= size - width and 0 <= top <= size - height:
                yield Pose(left, top, width, height)

    def _apart(self, content: bytes | memoryview) -> int:
        """Quanta by which test vectors are read here otherwise than where the network was made, at most."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                pixels, expected = arrays["pixels"], self.quantise(arrays["logits"])
            return int(np.abs(self.quantise(self.logits(pixels)) - expected).max(initial=0))
        except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
            raise InputError(f"{VECTORS} cannot be used: {error}.") from None

    def _check_graph(self) -> None:
        spec = self.spec
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        names = ([node.name for node in inputs], [node.name for node in outputs])
        if names != (["pixels"], ["logits"]) or inputs[0].type != "tensor(uint8)":
            raise InputError("network.onnx is no attribution network: it needs uint8 pixels and logits.")
        shapes = {"pixels": inputs[0].shape[1:], "logits": outputs[0].shape[1:]}
        expected = {"pixels": [spec.size, spec.size, 3], "logits": [spec.bits]}
        if shapes != expected:
            raise InputError(f"network.onnx has shapes {shapes}, network.json implies {expected}.")


def confidence(readings: Readings, quantum: float) -> NDArray[np.float64]:
    """Mean over the bits of ``log cosh L``, shape (n,) for readings (n, k) in units of ``quantum``."""
    return np.asarray(log_cosh(readings.astype(np.float64) * quantum).mean(axis=-1))


def _by_confidence(readings: Iterable[Reading]) -> list[Reading]:
    return sorted(readings, key=lambda reading: -reading.confidence)  # of equals the earlier comes first


def _is_crop(image: Image.Image, pose: Pose) -> bool:
    """Whether the pose keeps the image's proportions, as the windows of the search do."""
    shape = (pose.width, pose.height)
    return not pose.mirrored and shape == _window(image, max(shape))


def _window(image: Image.Image, side: int) -> tuple[int, int]:
    """(width, height) with the image's proportions, the longer one being ``side``."""
    longer = max(image.size)
    return max(1, round(image.width * side / longer)), max(1, round(image.height * side / longer))
