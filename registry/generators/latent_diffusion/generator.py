"""A loaded latent-diffusion model: first stage at hand, diffusion model when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from diffusers import VQModel

from registry.errors import InputError
from registry.fingerprints.basis import Target
from registry.generators.adapters import Generator, noise_seed
from registry.generators.latent_diffusion.files import Geometry, parameter_name
from registry.generators.latent_diffusion.samplers import Sampler
from registry.generators.per_sample import per_sample
from registry.progress import Progress

FINGERPRINT = "fingerprint"
"""The tensor of the first stages in :mod:`registry.generators.hallmark_vae` that is added to the latent."""
BATCH = 64
VALUES = 1 << 23
"""Values of the widest layer in one batch: 32 MB, of which a decoder holds some ten at a time."""


class LatentDiffusion(Generator):
    """First stage of a folder, and its sampler if it has one.

    ``open_sampler`` loads the rest of the pipeline at the first latent that is drawn; ``obstacle`` says
    why none can be drawn. Everything is computed in single precision, whatever the precision on disk:
    some first stages (``force_upcast``) overflow in half precision.
    """

    def __init__(
        self,
        first_stage: Any,
        geometry: Geometry,
        open_sampler: Callable[[], Sampler],
        obstacle: InputError | None = None,
        slow_sampling: bool = False,
    ) -> None:
        self.first_stage = first_stage.eval().requires_grad_(False)
        self.size, self.latent_shape = geometry.size, geometry.latent_shape
        self.slow_sampling = slow_sampling
        self._open_sampler, self._obstacle = open_sampler, obstacle
        self._batch = _batch(self.size, first_stage.config.block_out_channels[0])

    @cached_property
    def sampler(self) -> Sampler:
        """The diffusion model, loaded at its first use."""
        return self._open_sampler()

    def sampling_obstacle(self) -> InputError | None:
        return self._obstacle

    @torch.no_grad()
    def sample_latents(self, n: int, seed: int, bar: Progress | None = None) -> torch.Tensor:
        """Every image has a noise seed of its own, so the first m of n latents do not depend on n."""
        if self._obstacle is not None:
            raise self._obstacle
        latents, batch = [], _batch(self.sampler.side, self.sampler.width)
        for start in range(0, n, batch):
            seeds = [noise_seed(seed, i) for i in range(start, min(start + batch, n))]
            latents.append(self._enter(self._unscaled(self.sampler.draw(seeds))))
            if bar is not None:
                bar.update(min(start + batch, n))
        return torch.cat(latents)

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """The posterior's mean, or the quantised code, of each image."""
        latents = []
        for part in pixels.split(self._batch):
            encoded = self.first_stage.encode(2 * part - 1)
            is_code = isinstance(self.first_stage, VQModel)
            latents.append(self._enter(encoded.latents if is_code else encoded.latent_dist.mean))
        return torch.cat(latents).float().contiguous()

    def render(
        self, latents: torch.Tensor, offsets: Mapping[Target, torch.Tensor] | None = None
    ) -> torch.Tensor:
        by_name = {parameter_name(name): offset for (_, name), offset in (offsets or {}).items()}
        decoded = []
        for start in range(0, len(latents), self._batch):
            part = {name: offset[start : start + self._batch] for name, offset in by_name.items()}
            z = latents[start : start + self._batch]
            if FINGERPRINT in part:
                z = z + part.pop(FINGERPRINT)
            with per_sample(self.first_stage, part):
                decoded.append(self._decode(z).float())
        return ((torch.cat(decoded) + 1) / 2).clamp(0, 1)

    def _decode(self, z: torch.Tensor) -> torch.Tensor:
        if isinstance(self.first_stage, VQModel):
            return self.first_stage.decode(z, force_not_quantize=True).sample
        return self.first_stage.decode(z).sample

    def _enter(self, z: torch.Tensor) -> torch.Tensor:
        """``z`` as the decoder's first layer sees it: behind the quantiser, where there is one."""
        return self.first_stage.quantize(z)[0] if isinstance(self.first_stage, VQModel) else z

    def _unscaled(self, z: torch.Tensor) -> torch.Tensor:
        """From the diffusion model's units to the decoder's, as diffusers' pipelines do it."""
        config = self.first_stage.config
        mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if mean is not None and std is not None:
            return z * _per_channel(std) / config.scaling_factor + _per_channel(mean)
        return z / config.scaling_factor + (getattr(config, "shift_factor", None) or 0.0)


def _per_channel(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)


def _batch(side: int, width: int) -> int:
    """Samples at once of a network whose widest layer has ``width`` channels of ``side`` x ``side``."""
    return max(1, min(BATCH, VALUES // (side * side * width)))
