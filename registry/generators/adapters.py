"""Adapters: what the registry needs to know of a generator architecture, and nothing more.

    adapter = get_adapter("latent-diffusion")
    adapter.check(folder)                               # raises InputError naming the file or tensor
    generator = adapter.load(folder)                    # a base model or a copy
    images = generator.sample(16, seed=1)
    latents = generator.sample_latents(100, seed=1)
    pixels = generator.render(latents, offsets)         # offsets: a fingerprint for each sample

An adapter turns weights into a *template* (the base plus zero-valued tensors that a key fills) and
loads templates, bases and copies alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import torch
from numpy.typing import NDArray
from PIL import Image

from registry.errors import InputError
from registry.progress import Progress


class Generator(ABC):
    """A loaded generator ``g: latent -> image`` whose fingerprint is an offset that may differ per sample."""

    size: int
    """Side of the images in pixels."""
    latent_shape: tuple[int, ...]

    @abstractmethod
    def sample_latents(self, n: int, seed: int, bar: Progress | None = None) -> torch.Tensor:
        """``n`` latents as the sampler draws them: float32 (n, *latent_shape), the same for a seed."""

    @abstractmethod
    def render(self, latents: torch.Tensor, offsets: torch.Tensor | None = None) -> torch.Tensor:
        """Images float32 (n, 3, size, size) in [0, 1]; ``offsets`` broadcasts against ``latents``."""

    def sample(self, n: int, seed: int) -> list[Image.Image]:
        """``n`` images of 8 bit, as a recipient of these weights would make them."""
        pixels = self.render(self.sample_latents(n, seed))
        return to_images(pixels)


class Adapter(ABC):
    """One generator architecture."""

    name: ClassVar[str]

    @abstractmethod
    def check(self, weights: Path) -> None:
        """Raise :class:`InputError`, naming file or tensor, unless ``weights`` is a whole sound model."""

    @abstractmethod
    def prepare(self, weights: Path, template: Path) -> None:
        """Write the folder ``template``: the base model with zero tensors where a key's deltas go."""

    @abstractmethod
    def load(self, folder: Path) -> Generator:
        """Load a base model, template or copy."""

    @abstractmethod
    def carrier(self, folder: Path) -> tuple[str, str]:
        """(file in the template, tensor name) of the tensor that carries a latent offset."""


def to_images(pixels: torch.Tensor) -> list[Image.Image]:
    """Pillow images of float pixels (n, 3, h, w) in [0, 1], rounded to 8 bit."""
    rounded = pixels.mul(255).round_().clamp_(0, 255).byte().permute(0, 2, 3, 1)
    return [Image.fromarray(image) for image in _array(rounded)]


def _array(tensor: torch.Tensor) -> NDArray:  # type: ignore[type-arg]
    return tensor.contiguous().numpy()


def get_adapter(name: str) -> Adapter:
    """The adapter called ``name``; :class:`InputError` lists the known ones."""
    from registry.generators.latent_diffusion import LatentDiffusionAdapter

    adapters = {adapter.name: adapter for adapter in (LatentDiffusionAdapter,)}
    if name not in adapters:
        raise InputError(f"unknown adapter {name!r}.", f"Known: {', '.join(sorted(adapters))}.")
    return adapters[name]()
