"""Where latents come from: the diffusion model of the folder, in its own units, one noise seed an image.

    obstacle = sampling_obstacle(folder)            # None, or an InputError that says why there is no sampler
    sampler = open_sampler(folder, first_stage)
    z = sampler.draw([17, 18])                      # (2, *latent_shape)

Unconditional models (``UNet2DModel`` and a scheduler) and text-to-image pipelines with a
``UNet2DConditionModel`` (Stable Diffusion, SDXL) can be sampled; the latter draw their prompts from
``prompts.txt`` in the folder, one a line, or use the empty prompt.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import tempfile
import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import UNet2DModel

from registry.errors import InputError
from registry.generators.latent_diffusion.checks import SCHEDULER_CONFIG, scheduler_class
from registry.generators.latent_diffusion.files import (
    CONFIG,
    PIPELINE,
    STEM,
    TRANSFORMERS_STEM,
    components,
    denoiser,
    find_weights,
    first_line,
    first_stage,
    geometry,
    read_json,
)

STEPS = 25
"""Denoising steps: DDIM changes little beyond."""
PROMPTS = "prompts.txt"
PHOTOGRAPHS = "Give photographs instead (`registry model train NAME --data PHOTOS`): they are encoded."
_NOT_NEEDED = ("safety_checker", "feature_extractor", "image_encoder")


class Sampler(ABC):
    """Draws latents in the units of the diffusion model."""

    side: int
    width: int
    """Side of the latent and channels of the diffusion model's first layer: what memory goes by."""

    @abstractmethod
    def draw(self, seeds: list[int]) -> torch.Tensor:
        """One latent for each torch seed."""


class UnconditionalSampler(Sampler):
    """A ``UNet2DModel`` with its scheduler, as ``LDMPipeline`` runs them."""

    def __init__(self, unet: UNet2DModel, scheduler: Any, latent_shape: tuple[int, ...]) -> None:
        self.unet = unet.eval().requires_grad_(False)
        self.scheduler = scheduler
        self.latent_shape = latent_shape
        self.side, self.width = latent_shape[-1], unet.config.block_out_channels[0]
        self._stochastic = "generator" in inspect.signature(scheduler.step).parameters

    @torch.no_grad()
    def draw(self, seeds: list[int]) -> torch.Tensor:
        rngs = [torch.Generator().manual_seed(seed) for seed in seeds]
        z = torch.stack([torch.randn(self.latent_shape, generator=rng) for rng in rngs])
        self.scheduler.set_timesteps(STEPS)
        z = z * self.scheduler.init_noise_sigma
        # A stochastic step would draw from torch's global state otherwise.
        noise = {"generator": rngs} if self._stochastic else {}
        for t in self.scheduler.timesteps:
            predicted = self.unet(self.scheduler.scale_model_input(z, t), t).sample
            z = self.scheduler.step(predicted, t, z, **noise).prev_sample
        return z


class TextSampler(Sampler):
    """A text-to-image pipeline, run by diffusers' own code up to the latent."""

    def __init__(self, pipeline: Any, size: int, side: int, prompts: list[str]) -> None:
        self.pipeline, self.size, self.prompts = pipeline, size, prompts
        self.side, self.width = side, pipeline.unet.config.block_out_channels[0]
        pipeline.set_progress_bar_config(disable=True)

    @torch.no_grad()
    def draw(self, seeds: list[int]) -> torch.Tensor:
        latents = self.pipeline(
            prompt=[self.prompts[seed % len(self.prompts)] for seed in seeds],
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            height=self.size,
            width=self.size,
            num_inference_steps=STEPS,
            output_type="latent",
        ).images
        return latents.float()


def sampling_obstacle(folder: Path) -> InputError | None:
    """Why the model in ``folder`` cannot draw latents of its own; ``None`` where it can."""
    name = denoiser(folder)
    if name is None:
        return InputError(f"{folder}: a first stage alone draws no images.", PHOTOGRAPHS)
    config = read_json(folder / name / CONFIG)
    kind, channels = config.get("_class_name"), geometry(folder).channels
    if kind not in ("UNet2DModel", "UNet2DConditionModel"):
        return InputError(f"{folder / name}: drawing images with a {kind} is not supported.", PHOTOGRAPHS)
    if config.get("in_channels", 4) != channels or config.get("num_class_embeds"):
        return InputError(f"{folder / name}: this model needs more than noise and a prompt.", PHOTOGRAPHS)
    if not (folder / "scheduler" / SCHEDULER_CONFIG).is_file():
        return InputError(f"{folder / 'scheduler' / SCHEDULER_CONFIG}: missing.", PHOTOGRAPHS)
    return _text_obstacle(folder) if kind == "UNet2DConditionModel" else None


def draws_from_text(folder: Path) -> bool:
    """Whether the diffusion model takes prompts; such models are slow."""
    name = denoiser(folder)
    return name is not None and read_json(folder / name / CONFIG).get("_class_name") == "UNet2DConditionModel"


def open_sampler(folder: Path, stage: Any) -> Sampler:
    """The sampler of ``folder``, with ``stage`` as the pipeline's first stage; raises its obstacle."""
    obstacle = sampling_obstacle(folder)
    if obstacle is not None:
        raise obstacle
    shape = geometry(folder)
    if draws_from_text(folder):
        return TextSampler(_open_pipeline(folder, stage), shape.size, shape.side, read_prompts(folder))
    unet = folder / "unet"
    return UnconditionalSampler(
        UNet2DModel.from_pretrained(
            unet, variant=find_weights(unet).variant, torch_dtype=torch.float32, use_safetensors=True
        ),
        scheduler_class(folder / "scheduler").from_pretrained(folder / "scheduler"),
        shape.latent_shape,
    )


def read_prompts(folder: Path) -> list[str]:
    """The lines of ``prompts.txt``, or the empty prompt alone."""
    if not (folder / PROMPTS).is_file():
        return [""]
    try:
        lines = (folder / PROMPTS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{folder / PROMPTS}: not readable as UTF-8 text ({error}).") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise InputError(f"{folder / PROMPTS}: no prompt in it.", "Write one prompt a line, or remove it.")
    return prompts


def _text_obstacle(folder: Path) -> InputError | None:
    if not (folder / PIPELINE).is_file():
        return InputError(f"{folder / PIPELINE}: missing, so no pipeline can be run.", PHOTOGRAPHS)
    kind = read_json(folder / PIPELINE).get("_class_name")
    if not isinstance(getattr(diffusers, str(kind), None), type):
        return InputError(f"{folder / PIPELINE}: unknown pipeline class {kind!r}.", PHOTOGRAPHS)
    if importlib.util.find_spec("transformers") is None:
        return InputError(
            f"{folder}: drawing from a text-to-image model needs transformers, which is not installed.",
            f"Run `pip install 'hallmark[text]'`. {PHOTOGRAPHS}",
        )
    return None


def _open_pipeline(folder: Path, stage: Any) -> Any:
    """The pipeline around the first stage at hand.

    Loaded from a view of the folder in which weights have their plain names, whatever their variant, and
    in which nothing asks for code of the folder's own: the class of a copy's first stage is ours.
    """
    transformers = importlib.import_module("transformers")  # optional: only these pipelines need it
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    index = read_json(folder / PIPELINE)
    name = first_stage(folder)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="hallmark-") as work:
        warnings.simplefilter("ignore")  # diffusers' advice is for whoever made the model
        view = Path(work)
        for component in components(folder):
            if component not in (name, *_NOT_NEEDED):
                _link(folder / component, view / component)
        changed: dict[str, Any] = (
            {name: ["diffusers", type(stage).__bases__[0].__name__]} if _is_ours(stage) else {}
        )
        changed |= {part: [None, None] for part in _NOT_NEEDED if part in index}
        (view / PIPELINE).write_text(json.dumps({**index, **changed}))
        try:
            return getattr(diffusers, index["_class_name"]).from_pretrained(
                view, **{name: stage}, torch_dtype=torch.float32, use_safetensors=True
            )
        except Exception as error:  # diffusers and transformers raise many kinds
            reason = f"{folder}: diffusers cannot load this pipeline: {first_line(error)}"
            raise InputError(reason, PHOTOGRAPHS) from error


def _is_ours(stage: Any) -> bool:
    return type(stage).__module__ == "registry.generators.hallmark_vae"


def _link(source: Path, target: Path) -> None:
    target.mkdir()
    renamed: dict[str, str] = {}
    for stem in (STEM, TRANSFORMERS_STEM):
        if any(source.glob(f"{stem}*.safetensors")):
            weights = find_weights(source, stem)
            if weights.index is not None:
                renamed[weights.index] = f"{stem}.safetensors.index.json"
            elif weights.variant is not None:
                renamed[weights.files[0]] = f"{stem}.safetensors"
    for path in source.iterdir():
        (target / renamed.get(path.name, path.name)).symlink_to(path.resolve())
