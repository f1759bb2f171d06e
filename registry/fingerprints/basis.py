"""A fingerprint basis: ``theta(phi) = theta_0 + strength * sum_j phi_j D_j`` (METHOD, section 2).

    basis = Basis.load(Path("basis.safetensors"))
    deltas = basis.deltas(signs)                 # {(file, tensor): float64 array} to add to the template
    offsets = basis.offsets(signs)               # the same for a batch of keys, float32, to render with
    basis.save(Path("basis.safetensors"))

The file is safetensors: one tensor ``D.<i>`` (k, *shape) for each target tensor, one tensor ``R.<i>``
for each base tensor that all copies replace, and one metadata entry that names the targets, the scheme
and the base model. A basis is immutable once
a copy is issued under it; its digest is the SHA-256 of the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from registry.errors import InputError
from registry.storage import atomic_file

if TYPE_CHECKING:
    import torch

SCHEMA = "hallmark/basis/1"
CARD = "hallmark.basis"
SCHEMES = ("pca", "pca-projected", "learned")
Target = tuple[str, str]
"""(file within the model folder, tensor name)"""


@dataclass(frozen=True)
class Basis:
    """Directions D_j for each target tensor, float32 (k, *shape of the tensor).

    ``scheme`` is one of ``SCHEMES``; ``shift`` the first principal component used (0 where learned);
    ``strength`` the sigma that multiplies every direction; ``model_digest`` the base it belongs to
    (``sha256:<hex>``); ``quality`` informational figures such as ``psnr_db``; ``replaced`` the base
    tensors, if any, in whose place every copy has these.
    """

    scheme: str
    strength: float
    shift: int
    model_digest: str
    directions: Mapping[Target, NDArray[np.float32]]
    quality: Mapping[str, float] = field(default_factory=dict)
    replaced: Mapping[Target, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def bits(self) -> int:
        """k, the number of bits of a key."""
        return len(next(iter(self.directions.values())))

    def deltas(self, signs: NDArray[np.int8]) -> dict[Target, NDArray[np.float64]]:
        """What the key ``signs`` (k,) of -1 and +1 adds to each target tensor.

        Summed in double precision in the fixed order of the bits, so that every machine gets the same
        bytes; a matrix product would not promise that.
        """
        if signs.shape != (self.bits,):
            raise ValueError(f"a key of this basis has {self.bits} bits, not {signs.shape}")
        deltas = {}
        for target, directions in self.directions.items():
            total = np.zeros(directions.shape[1:], np.float64)
            for sign, direction in zip(signs, directions, strict=True):
                total += direction if sign > 0 else -direction
            deltas[target] = self.strength * total
        return deltas

    def offsets(self, signs: torch.Tensor) -> dict[Target, torch.Tensor]:
        """What the keys ``signs`` (n, k) add to each target tensor, float32 (n, *shape).

        For rendering many keys at once and for gradients with respect to ``signs``; copies are made with
        :meth:`deltas`.
        """
        import torch

        scaled = self.strength * signs.float()
        return {
            target: torch.tensordot(scaled, torch.from_numpy(directions), 1)
            for target, directions in self.directions.items()
        }

    def with_strength(self, strength: float, quality: Mapping[str, float]) -> Basis:
        """The same directions at another strength."""
        return replace(self, strength=strength, quality=dict(quality))

    def to_bytes(self) -> bytes:
        """The file's content, the same bytes for the same basis."""
        targets, replaced = list(self.directions), list(self.replaced)
        card = {
            "schema": SCHEMA,
            "scheme": self.scheme,
            "strength": self.strength,
            "shift": self.shift,
            "model": self.model_digest,
            "targets": targets,
            **({"replaced": replaced} if replaced else {}),
            "quality": dict(self.quality),
        }
        tensors = {f"D.{i}": np.ascontiguousarray(self.directions[t]) for i, t in enumerate(targets)}
        tensors |= {f"R.{i}": np.ascontiguousarray(self.replaced[t]) for i, t in enumerate(replaced)}
        # One entry only: safetensors writes several in no fixed order.
        return save(tensors, {CARD: json.dumps(card, sort_keys=True)})

    @property
    def digest(self) -> str:
        """SHA-256 of the file, in hex."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the basis to ``path``, whole or not at all."""
        with atomic_file(path) as file:
            file.write(self.to_bytes())

    @classmethod
    def load(cls, path: Path) -> Basis:
        """Read a basis; :class:`InputError` says what is wrong with the file."""
        try:
            with safe_open(path, "np") as file:
                card = json.loads((file.metadata() or {}).get(CARD, "{}"))
                if card.get("schema") != SCHEMA:
                    raise InputError(f"{path}: no fingerprint basis.")
                directions = _tensors(file, "D", card["targets"])
                basis = cls(
                    scheme=card["scheme"],
                    strength=float(card["strength"]),
                    shift=int(card["shift"]),
                    model_digest=card["model"],
                    directions=directions,
                    quality=card["quality"],
                    replaced=_tensors(file, "R", card.get("replaced", [])),
                )
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise InputError(f"{path}: not readable as a fingerprint basis ({error}).") from error
        basis._check(path)
        return basis

    def _check(self, path: Path) -> None:
        if not self.directions or len({len(d) for d in self.directions.values()}) != 1:
            raise InputError(f"{path}: the tensors of the basis disagree on the number of bits.")
        for (file, tensor), values in [*self.directions.items(), *self.replaced.items()]:
            if not np.isfinite(values).all():
                raise InputError(f"{path}: directions of {file}:{tensor} hold NaN or infinite values.")


def _tensors(file: Any, prefix: str, targets: Sequence[Sequence[str]]) -> dict[Target, NDArray[np.float32]]:
    return {(str(t[0]), str(t[1])): file.get_tensor(f"{prefix}.{i}") for i, t in enumerate(targets)}
