"""The zoo's small generators behind one adapter interface: families ``vae``, ``gan``, ``flow`` and ``score``.

    save_small(network, "vae", folder)                 # zoo.json and weights.safetensors
    images = get_adapter("vae").load(folder).sample(16, seed=1)

``zoo.json`` names the family and the network's layout, and how samples are drawn: ``temperature`` scales the
latent, ``sampler`` and ``steps`` choose a diffusion sampler. They carry no keys: such a model is registered
for its lineage (:mod:`registry.lineage`).
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from registry.errors import InputError
from registry.fingerprints.basis import Basis, Target
from registry.generators.adapters import PICKLES, Adapter, Generator, noise_seed
from registry.generators.small_network import SmallNetwork
from registry.progress import Progress

DESCRIPTION, WEIGHTS = "zoo.json", "weights.safetensors"
TRAINING_ONLY = "encoder."
"""A VAE's encoder is not needed to draw samples, so it is not stored."""
BATCH = 64


class SmallGenerator(Generator):
    """A trained network that turns normal latents into images in [-1, 1]."""

    quick_sampling = True

    def __init__(self, network: SmallNetwork, latent: tuple[int, ...], sampling: Mapping[str, Any]) -> None:
        self.network, self.latent_shape = network, latent
        self.size = int(network.layout.size)
        self.temperature = float(sampling.get("temperature", 1.0))
        self.options = {name: value for name, value in sampling.items() if name != "temperature"}

    def sample_latents(self, n: int, seed: int, bar: Progress | None = None) -> torch.Tensor:
        """Every image has a seed of its own, so the first m of n latents do not depend on n."""
        drawn = []
        for index in range(n):
            rng = torch.Generator().manual_seed(noise_seed(seed, index))
            drawn.append(torch.randn(self.latent_shape, generator=rng) * self.temperature)
            if bar is not None:
                bar.update(index + 1)
        return torch.stack(drawn)

    def render(
        self, latents: torch.Tensor, offsets: Mapping[Target, torch.Tensor] | None = None
    ) -> torch.Tensor:
        if offsets:
            raise InputError("the zoo's generators carry no keys.")
        parts = [self.network.decode(part, **self.options).float() for part in latents.split(BATCH)]
        return ((torch.cat(parts) + 1) / 2).clamp(0, 1)

    @torch.no_grad()
    def sample(self, n: int, seed: int) -> list[Any]:
        return super().sample(n, seed)


class SmallAdapter(Adapter):
    """Folders of one family with ``zoo.json`` and ``weights.safetensors``; see the module."""

    schemes: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def network(self, layout: Mapping[str, Any]) -> SmallNetwork:
        """An untrained network; TypeError, ValueError or AssertionError for a layout that cannot be."""

    @abstractmethod
    def latent(self, layout: Mapping[str, Any]) -> tuple[int, ...]:
        """Shape of one latent."""

    def check(self, weights: Path) -> None:
        """A description of this family, and finite tensors of the names and shapes that it implies."""
        if not weights.is_dir():
            raise InputError(f"{weights}: not a folder.", f"Give a folder with {DESCRIPTION}.")
        for path in sorted(weights.rglob("*")):
            if path.suffix.lower() in PICKLES:
                raise InputError(f"{path}: pickled weights may hold code and are refused.")
        self.load(weights)

    def prepare(self, weights: Path, template: Path, basis: Basis) -> None:  # noqa: ARG002
        raise InputError(f"{weights}: a {self.name} model of the zoo carries no keys.")

    def fold(self, folder: Path, rows: NDArray[np.float32]) -> dict[Target, NDArray[np.float32]]:  # noqa: ARG002
        raise InputError(f"{folder}: a {self.name} model of the zoo carries no keys.")

    def load(self, folder: Path) -> SmallGenerator:
        description = read_description(folder, self.name)
        path = folder / WEIGHTS
        try:
            network = self.network(_tuples(description["layout"]))
        except (TypeError, ValueError, AssertionError, RuntimeError, KeyError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{folder / DESCRIPTION}: layout cannot be used ({reason}).") from error
        try:
            state = load_file(path)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: not a sound safetensors file ({error}).") from error
        wanted = {n: t for n, t in network.state_dict().items() if not n.startswith(TRAINING_ONLY)}
        for name in sorted(wanted.keys() ^ state.keys()):
            wrong = "is missing" if name in wanted else f"belongs to no {self.name} model of this layout"
            raise InputError(f"{path}: tensor {name} {wrong}.")
        for name, tensor in state.items():
            if tensor.shape != wanted[name].shape:
                found, expected = tuple(tensor.shape), tuple(wanted[name].shape)
                raise InputError(f"{path}: tensor {name} has the shape {found}, not {expected}.")
            if not bool(torch.isfinite(tensor).all()):
                raise InputError(f"{path}: tensor {name} holds NaN or infinite values.")
        network.load_state_dict({n: t.to(wanted[n].dtype) for n, t in state.items()}, strict=False)
        latent = self.latent(description["layout"])
        return SmallGenerator(network.eval().requires_grad_(False), latent, description["sampling"])


def save_small(
    network: SmallNetwork, family: str, folder: Path, sampling: Mapping[str, Any] | None = None
) -> None:
    """Write a trained network of ``family`` in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    layout = {name: list(v) if isinstance(v, tuple) else v for name, v in vars(network.layout).items()}
    document = {"family": family, "layout": layout, "sampling": dict(sampling or {})}
    (folder / DESCRIPTION).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    kept = {n: t for n, t in network.state_dict().items() if not n.startswith(TRAINING_ONLY)}
    halved = {n: t.half() if t.is_floating_point() else t for n, t in kept.items()}
    save_file({n: t.contiguous() for n, t in halved.items()}, folder / WEIGHTS)


def read_description(folder: Path, family: str | None = None) -> dict[str, Any]:
    """``zoo.json`` of a folder; :class:`InputError` unless it describes a model (of ``family``)."""
    path = folder / DESCRIPTION
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        named, layout, sampling = document["family"], dict(document["layout"]), dict(document["sampling"])
    except FileNotFoundError:
        raise InputError(f"{path}: missing.", "Give a folder of the zoo (registry/lineage/zoo.py).") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not readable ({error}).") from None
    if family not in (None, named):
        raise InputError(f"{path}: describes a model of the family {named}.", f"Use --adapter {named}.")
    return {"family": named, "layout": layout, "sampling": sampling}


def _tuples(layout: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in layout.items()}
