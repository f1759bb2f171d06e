"""Latent diffusion: any diffusers folder with an ``AutoencoderKL``, a ``UNet2DModel`` and a scheduler.

The latent ``w`` is the denoised ``z0`` that enters the first-stage decoder, in the decoder's own
units (after division by ``scaling_factor``). A copy carries its fingerprint as the extra tensor
``fingerprint`` of :class:`~registry.generators.hallmark_vae.FingerprintedAutoencoderKL`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, SchedulerMixin, UNet2DModel
from diffusers.utils import logging as diffusers_logging
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from registry.errors import InputError
from registry.fingerprints.basis import Basis, Target
from registry.generators import hallmark_vae
from registry.generators.adapters import Adapter, Generator
from registry.generators.hallmark_vae import FingerprintedAutoencoderKL
from registry.generators.per_sample import per_sample
from registry.progress import Progress

diffusers_logging.set_verbosity_error()
diffusers_logging.disable_progress_bar()

STEPS = 25
"""Denoising steps of :meth:`LatentDiffusion.sample_latents`: DDIM changes little beyond."""
BATCH = 64
WEIGHTS = "diffusion_pytorch_model.safetensors"
FINGERPRINT = "fingerprint"
"""The tensor of :class:`~registry.generators.hallmark_vae.FingerprintedAutoencoderKL` added to the latent."""
FIRST_STAGES = ("vqvae", "vae")
PICKLES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})
CONVERT = 'Convert with diffusers: DiffusionPipeline.from_pretrained("old").save_pretrained("new").'


class LatentDiffusion(Generator):
    """First stage, diffusion model and sampler of one folder."""

    def __init__(self, first_stage: AutoencoderKL, unet: UNet2DModel, scheduler: SchedulerMixin) -> None:
        self.first_stage = first_stage.eval().requires_grad_(False)
        self.unet = unet.eval().requires_grad_(False)
        self.scheduler: Any = scheduler
        side = unet.config.sample_size
        self.latent_shape = (unet.config.in_channels, side, side)
        self.size = side << (len(first_stage.config.block_out_channels) - 1)

    @torch.no_grad()
    def sample_latents(self, n: int, seed: int, bar: Progress | None = None) -> torch.Tensor:
        """Every image has a noise seed of its own, so the first m of n latents do not depend on n."""
        latents = []
        for start in range(0, n, BATCH):
            noise = [self._noise(seed, i) for i in range(start, min(start + BATCH, n))]
            latents.append(self._denoise(torch.stack(noise)))
            if bar is not None:
                bar.update(min(start + BATCH, n))
        return torch.cat(latents)

    def _noise(self, seed: int, index: int) -> torch.Tensor:
        rng = torch.Generator().manual_seed(noise_seed(seed, index))
        return torch.randn(self.latent_shape, generator=rng)

    def _denoise(self, z: torch.Tensor) -> torch.Tensor:
        self.scheduler.set_timesteps(STEPS)
        z = z * self.scheduler.init_noise_sigma
        for t in self.scheduler.timesteps:
            predicted = self.unet(self.scheduler.scale_model_input(z, t), t).sample
            z = self.scheduler.step(predicted, t, z).prev_sample
        return z / self.first_stage.config.scaling_factor

    def render(
        self, latents: torch.Tensor, offsets: Mapping[Target, torch.Tensor] | None = None
    ) -> torch.Tensor:
        by_name = {name: offset for (_, name), offset in (offsets or {}).items()}
        decoded = []
        for start in range(0, len(latents), BATCH):
            part = {name: offset[start : start + BATCH] for name, offset in by_name.items()}
            z = latents[start : start + BATCH]
            if FINGERPRINT in part:
                z = z + part.pop(FINGERPRINT)
            with per_sample(self.first_stage, part):
                decoded.append(self.first_stage.decode(z).sample.float())
        return ((torch.cat(decoded) + 1) / 2).clamp(0, 1)


def noise_seed(seed: int, index: int) -> int:
    """The torch seed of image ``index``; hashed to 32 bits, since torch ignores the higher ones on a CPU."""
    return int(np.random.SeedSequence((seed, index)).generate_state(1)[0])


class LatentDiffusionAdapter(Adapter):
    """Diffusers folders with an ``AutoencoderKL``; see the module."""

    name = "latent-diffusion"

    def check(self, weights: Path) -> None:
        """A folder whose three parts are present, whose tensors load, fit together and are finite."""
        if not weights.is_dir():
            raise InputError(f"{weights}: not a folder.", "Give a diffusers folder (model_index.json).")
        for path in sorted(weights.rglob("*")):
            if path.suffix.lower() in PICKLES:
                raise InputError(f"{path}: pickled weights may hold code and are refused.", CONVERT)
        stage = _first_stage_folder(weights)
        if not (weights / stage / WEIGHTS).is_file():
            raise InputError(
                f"{weights / stage / WEIGHTS}: missing.", f"One safetensors file is needed. {CONVERT}"
            )
        for part in (stage, "unet"):
            _check_tensors(weights / part)
        try:
            _check_sizes(weights, self.load(weights))
        except InputError:
            raise
        except Exception as error:  # diffusers raises many kinds; the user needs one sentence
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"{weights}: diffusers cannot load this model: {reason}") from error

    def prepare(self, weights: Path, template: Path, basis: Basis) -> None:
        shutil.copytree(weights, template)
        if FINGERPRINT not in {name for _, name in basis.directions}:
            return
        stage = _first_stage_folder(weights)
        model = AutoencoderKL.from_pretrained(weights / stage)
        side = model.config.sample_size >> (len(model.config.block_out_channels) - 1)
        carrier = torch.zeros(model.config.latent_channels, side, side)
        path = template / stage / WEIGHTS
        save_file({**load_file(path), FINGERPRINT: carrier}, path, {"format": "pt"})
        _edit(template / stage / "config.json", _class_name=FingerprintedAutoencoderKL.__name__)
        module = Path(hallmark_vae.__file__)
        shutil.copyfile(module, template / stage / module.name)
        if (template / "model_index.json").exists():
            component = [module.stem, FingerprintedAutoencoderKL.__name__]
            _edit(template / "model_index.json", **{stage: component})

    def load(self, folder: Path) -> LatentDiffusion:
        stage = _first_stage_folder(folder)
        config = _read_json(folder / stage / "config.json")
        fingerprinted = config.get("_class_name") == FingerprintedAutoencoderKL.__name__
        kind = FingerprintedAutoencoderKL if fingerprinted else AutoencoderKL
        return LatentDiffusion(
            kind.from_pretrained(folder / stage),
            UNet2DModel.from_pretrained(folder / "unet"),
            _load_scheduler(folder / "scheduler"),
        )

    def fold(self, folder: Path, rows: NDArray[np.float32]) -> dict[Target, NDArray[np.float32]]:
        """A latent offset that varies in space is no weight of a decoder: it is a tensor of its own."""
        return {(f"{_first_stage_folder(folder)}/{WEIGHTS}", FINGERPRINT): rows}


def _check_sizes(folder: Path, model: LatentDiffusion) -> None:
    """The fingerprint lies on the latent grid, so both halves must agree on it."""
    config = model.first_stage.config
    side = config.sample_size >> (len(config.block_out_channels) - 1)
    stage = (config.latent_channels, side, side)
    if stage != model.latent_shape:
        raise InputError(
            f"{folder}: the first stage's latent is {stage}, the diffusion model's {model.latent_shape}.",
            "Set sample_size in the first stage's config.json to the side of the images in pixels.",
        )


def _first_stage_folder(folder: Path) -> str:
    for name in FIRST_STAGES:
        if (folder / name / "config.json").is_file():
            kind = _read_json(folder / name / "config.json").get("_class_name")
            known = ("AutoencoderKL", FingerprintedAutoencoderKL.__name__)
            if kind not in known:
                raise InputError(f"{folder / name}: a first stage of class {kind}; AutoencoderKL is needed.")
            return name
    raise InputError(
        f"{folder}: no first stage found (vqvae/config.json or vae/config.json).", "Give a diffusers folder."
    )


def _check_tensors(folder: Path) -> None:
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise InputError(f"{folder / WEIGHTS}: missing.", f"Weights must be safetensors. {CONVERT}")
    for path in paths:
        try:
            with safe_open(path, "pt") as tensors:
                for name in tensors.keys():
                    if not bool(torch.isfinite(tensors.get_tensor(name)).all()):
                        raise InputError(f"{path}: tensor {name} holds NaN or infinite values.")
        except SafetensorError as error:
            raise InputError(f"{path}: not a sound safetensors file ({error}).", CONVERT) from error


def _load_scheduler(folder: Path) -> SchedulerMixin:
    import diffusers

    kind = _read_json(folder / "scheduler_config.json").get("_class_name", "")
    scheduler = getattr(diffusers, kind, None)
    if not (isinstance(scheduler, type) and issubclass(scheduler, SchedulerMixin)):
        raise InputError(f"{folder / 'scheduler_config.json'}: unknown scheduler class {kind!r}.")
    return scheduler.from_pretrained(folder)  # type: ignore[attr-defined]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: missing.", "Give a whole diffusers folder.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}).") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object.")
    return value


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**_read_json(path), **changes}, indent=2, sort_keys=True) + "\n")
