"""Adapters: what the registry needs to know of a generator architecture, and nothing more.

    adapter = get_adapter("latent-diffusion")
    adapter.check(folder)                               # raises InputError naming the file or tensor
    generator = adapter.load(folder)                    # a base model or a copy
    images = generator.sample(16, seed=1)
    latents = generator.sample_latents(100, seed=1)
    pixels = generator.render(latents, basis.offsets(signs))    # a key for each sample

An adapter turns weights into a *template* (the base with whatever a key needs to be added to) and
loads templates, bases and copies alike. It also knows what an offset of the latent is in weights.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from registry.errors import InputError
from registry.fingerprints.basis import SCHEMES, Basis, Target
from registry.progress import Progress

ADAPTERS = {
    "flow": "registry.generators.flow.adapter:FlowAdapter",
    "gan": "registry.generators.gan.adapter:GanAdapter",
    "latent-diffusion": "registry.generators.latent_diffusion:LatentDiffusionAdapter",
    "score": "registry.generators.score.adapter:ScoreAdapter",
    "stylegan2": "registry.generators.stylegan2.adapter:StyleGAN2Adapter",
    "vae": "registry.generators.vae.adapter:VaeAdapter",
}
"""Where each adapter lives: its libraries are loaded when it is asked for, and no others."""
PICKLES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})
"""Endings of files that may hold code; no model folder may contain them."""


class Generator(ABC):
    """A loaded generator ``g: latent -> image`` whose weights may be offset for each sample."""

    size: int
    """Side of the images in pixels."""
    latent_shape: tuple[int, ...]
    slow_sampling: bool = False
    """Whether drawing thousands of latents takes days, so that encoded photographs serve better."""

    quick_sampling: bool = False
    """Whether some dozens of samples cost seconds at most."""

    def sampling_obstacle(self) -> InputError | None:
        """Why :meth:`sample_latents` cannot draw (a part or a library is missing); ``None`` where it can."""
        return None

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Latents float32 (n, *latent_shape) of images (n, 3, size, size) in [0, 1].

        :class:`InputError` where the generator has no encoder.
        """
        raise InputError("this generator has no encoder for photographs.")

    @abstractmethod
    def sample_latents(self, n: int, seed: int, bar: Progress | None = None) -> torch.Tensor:
        """``n`` latents as the sampler draws them: float32 (n, *latent_shape), the same for a seed."""

    @abstractmethod
    def render(
        self, latents: torch.Tensor, offsets: Mapping[Target, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Images float32 (n, 3, size, size) in [0, 1] of latents (n, *latent_shape).

        ``offsets`` are added to the named tensors: float32 (n, *shape of the tensor), one for each sample.
        Differentiable in latents and offsets.
        """

    def sample(self, n: int, seed: int) -> list[Image.Image]:
        """``n`` images of 8 bit, as a recipient of these weights would make them."""
        pixels = self.render(self.sample_latents(n, seed))
        return to_images(pixels)


class Adapter(ABC):
    """One generator architecture."""

    name: ClassVar[str]
    schemes: ClassVar[tuple[str, ...]] = tuple(scheme for scheme in SCHEMES if scheme != "pca-projected")
    """The fingerprint schemes that its weights allow, the default first."""
    bits: ClassVar[int] = 256
    """Length of a key where none is asked for."""

    def schemes_of(self, folder: Path) -> tuple[str, ...]:  # noqa: ARG002
        """Those of ``schemes`` that the model in ``folder`` allows, the default first."""
        return self.schemes

    def choose_scheme(self, folder: Path, scheme: str | None, shift: int | None) -> str:
        """``scheme``, or the default; a ``shift`` asks for principal components.

        :class:`InputError` for a scheme that the model does not allow.
        """
        possible = self.schemes_of(folder)
        chosen = scheme or ("pca" if shift is not None else possible[0])
        if chosen not in possible:
            raise InputError(
                f"--scheme {chosen}: not possible with this {self.name} model.",
                f"Give one of {', '.join(possible)}.",
            )
        if chosen == "learned" and shift is not None:
            raise InputError("--shift has no meaning with --scheme learned.", "Leave one of them out.")
        return chosen

    @abstractmethod
    def check(self, weights: Path) -> None:
        """Raise :class:`InputError`, naming file or tensor, unless ``weights`` is a whole sound model."""

    def import_weights(self, weights: Path, work: Path) -> Path:  # noqa: ARG002
        """The model folder to register: ``weights`` itself, or what it was converted to in ``work``."""
        return weights

    @abstractmethod
    def prepare(self, weights: Path, template: Path, basis: Basis) -> None:
        """Write the folder ``template``: the base model as all copies under ``basis`` share it."""

    @abstractmethod
    def load(self, folder: Path) -> Generator:
        """Load a base model, template or copy."""

    def latent_shape(self, folder: Path) -> tuple[int, ...]:
        """Shape of one latent of a checked model."""
        return self.load(folder).latent_shape

    @abstractmethod
    def fold(self, folder: Path, rows: NDArray[np.float32]) -> dict[Target, NDArray[np.float32]]:
        """What an offset of the latent along each of ``rows`` (k, *latent_shape) is in weights.

        Returns (k, *shape) for each tensor that changes.
        """

    def learnable(self, generator: Generator) -> int:  # noqa: ARG002
        """How many numbers of the weights learned directions can touch, so the most bits they can carry."""
        return 0

    def learn(
        self,
        folder: Path,  # noqa: ARG002
        generator: Generator,  # noqa: ARG002
        latents: torch.Tensor,  # noqa: ARG002
        model_digest: str,  # noqa: ARG002
        bits: int,  # noqa: ARG002
        psnr: float,  # noqa: ARG002
        work: Path,  # noqa: ARG002
    ) -> Basis:
        """The learned basis of ``bits`` directions, at a strength to be chosen that leaves about ``psnr`` dB.

        ``work`` keeps parts, and what the attribution network begins with.
        """
        raise InputError(f"no directions can be learned for {self.name}.", "Use --scheme pca.")

    def project(
        self,
        folder: Path,  # noqa: ARG002
        rows: NDArray[np.float32],  # noqa: ARG002
        mean: NDArray[np.float32],  # noqa: ARG002
    ) -> dict[Target, NDArray[np.float32]]:
        """The tensors that replace the latent's own part along orthonormal ``rows`` by that of ``mean``."""
        raise InputError(
            f"the latent of {self.name} cannot be projected in its weights.", "Use --scheme pca or learned."
        )


def noise_seed(seed: int, index: int) -> int:
    """The torch seed of image ``index``; hashed to 32 bits, since torch ignores the higher ones on a CPU."""
    return int(np.random.SeedSequence((seed, index)).generate_state(1)[0])


def to_images(pixels: torch.Tensor) -> list[Image.Image]:
    """Pillow images of float pixels (n, 3, h, w) in [0, 1], rounded to 8 bit."""
    rounded = pixels.mul(255).round_().clamp_(0, 255).byte().permute(0, 2, 3, 1)
    return [Image.fromarray(image) for image in _array(rounded)]


def _array(tensor: torch.Tensor) -> NDArray:  # type: ignore[type-arg]
    return tensor.contiguous().numpy()


def get_adapter(name: str) -> Adapter:
    """The adapter called ``name``; :class:`InputError` lists the known ones."""
    if name not in ADAPTERS:
        raise InputError(f"unknown adapter {name!r}.", f"Known: {', '.join(sorted(ADAPTERS))}.")
    module, _, kind = ADAPTERS[name].partition(":")
    adapter: Adapter = getattr(importlib.import_module(module), kind)()
    return adapter
