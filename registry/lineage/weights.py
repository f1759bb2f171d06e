"""Whether a model's weights descend from another's: tensors of one name and shape that still agree.

    mine = Weights(storage, "models/<digest>")
    mine.likeness(Weights(storage, "models/<other digest>"))     # 0.97; None where they share no layout

Fine-tuning and pruning move weights little against their size; independent trainings, also of one
architecture, have nothing in common but what the architecture fixes. So runs of numbers at places that the
tensors' names choose are correlated tensor by tensor, and the median is what counts: it is about 0 for
independent trainings, and close to 1 for derived weights, however much the *images* have changed. Some 200 kB
of each model are read beside its headers, whatever its size.

It sees nothing where the architecture was changed, or neurons were put into another order on purpose; what
the images tell (:mod:`registry.lineage.service`) does not depend on either.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from registry.storage import Storage

DERIVED = 0.5
"""Likeness from which weights are derived: in the middle of the two, and far from either."""
TENSORS, RUN = 96, 512
"""Tensors compared at most, and numbers of each."""
LEAST_TENSORS, LEAST_NUMBERS = 4, 64
LARGEST_HEADER = 1 << 24
AHEAD = 1 << 14
"""Bytes that an object store sends at a time: the runs lie far from each other."""
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_UNSOUND = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


@dataclass(frozen=True)
class _Place:
    """Where a tensor's numbers lie."""

    file: str
    dtype: str
    offset: int
    numbers: int


class Weights:
    """Matrices and kernels of a stored model folder, found at first use; what was read of them is kept."""

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage, self._folder = storage, folder
        self._read: dict[str, NDArray[np.float64]] = {}

    def likeness(self, other: Weights) -> float | None:
        """The median correlation of the tensors of both, -1 to 1.

        None unless the two share most of their tensors' names and shapes. Errors of the storage, and
        ValueError where a file is shorter than its header says.
        """
        ours, theirs = self._places, other._places
        shared = sorted(ours.keys() & theirs.keys(), key=lambda name: hashlib.sha256(name.encode()).digest())
        if len(shared) < max(LEAST_TENSORS, max(len(ours), len(theirs)) / 2):
            return None
        pairs = zip(self._runs(shared[:TENSORS]), other._runs(shared[:TENSORS]), strict=True)
        found = [
            float(np.corrcoef(mine, his)[0, 1]) for mine, his in pairs if mine.std() > 0 and his.std() > 0
        ]
        return round(float(np.median(found)), 4) if len(found) >= LEAST_TENSORS else None

    @cached_property
    def _places(self) -> dict[str, _Place]:
        """By file, name and shape."""
        found: dict[str, _Place] = {}
        for path, size in self._storage.files(self._folder).items():
            if path.endswith(".safetensors"):
                with self._storage.open(f"{self._folder}/{path}", AHEAD) as file, suppress(*_UNSOUND):
                    found |= _places(file, path, size)
        return found

    def _runs(self, names: Sequence[str]) -> list[NDArray[np.float64]]:
        """Of each tensor up to RUN numbers in a row, from a place that its name tells."""
        with ExitStack() as stack:
            opened: dict[str, BinaryIO] = {}
            for name in names:
                if name in self._read:
                    continue
                place = self._places[name]
                if place.file not in opened:
                    file = self._storage.open(f"{self._folder}/{place.file}", AHEAD)
                    opened[place.file] = stack.enter_context(file)
                self._read[name] = _run(opened[place.file], name, place)
        return [self._read[name] for name in names]


def _places(file: BinaryIO, path: str, size: int) -> dict[str, _Place]:
    """The tensors of one file of ``size`` bytes. Registration checks only files that are loaded: others may
    hold anything, and fail with one of ``_UNSOUND``."""
    length = int.from_bytes(file.read(8), "little")
    if length > LARGEST_HEADER:
        return {}
    header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        dtype, shape, numbers = entry["dtype"], entry["shape"], math.prod(map(int, entry["shape"]))
        if dtype in _DTYPES and len(shape) > 1 and numbers >= LEAST_NUMBERS:
            offset = 8 + length + int(entry["data_offsets"][0])
            if not 8 + length <= offset <= size - numbers * np.dtype(_DTYPES[dtype]).itemsize:
                raise ValueError(f"{name} lies outside of {path}")
            found[f"{path}/{name}/{shape}"] = _Place(path, dtype, offset, numbers)
    return found


def _run(file: BinaryIO, name: str, place: _Place) -> NDArray[np.float64]:
    dtype = np.dtype(_DTYPES[place.dtype])
    room = max(place.numbers - RUN, 0) + 1
    first = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") % room
    file.seek(place.offset + first * dtype.itemsize)
    run = np.frombuffer(file.read(min(RUN, place.numbers) * dtype.itemsize), dtype)
    if place.dtype == "BF16":  # the upper half of a float32
        run = (run.astype(np.uint32) << 16).view(np.float32)
    return np.nan_to_num(run.astype(np.float64), posinf=0.0, neginf=0.0)
