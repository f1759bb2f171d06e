"""Whether a diffusers folder is a whole sound model: found out from headers before anything is loaded.

check_pickles(folder)
check_structure(folder)         # classes, files, names and shapes of tensors, sizes: milliseconds
check_values(folder)            # no NaN anywhere: reads every weight once
"""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import ModelMixin, SchedulerMixin

from registry.errors import InputError
from registry.generators.adapters import PICKLES
from registry.generators.latent_diffusion.files import (
    CONFIG,
    CONVERT,
    KINDS,
    STEM,
    TRANSFORMERS_STEM,
    Weights,
    components,
    denoiser,
    find_weights,
    first_line,
    first_stage,
    geometry,
    read_json,
    settings,
)

_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
UNETS = ("UNet2DModel", "UNet2DConditionModel")
SCHEDULER_CONFIG = "scheduler_config.json"


def check_structure(folder: Path) -> None:
    """:class:`InputError` unless all files are there and every tensor has its name and shape."""
    stage, diffusion = first_stage(folder), denoiser(folder)
    if settings(folder / stage / CONFIG).get("lookup_from_codebook"):
        raise InputError(
            f"{folder / stage}: a VQModel that decodes image tokens (lookup_from_codebook).",
            "Latent diffusion has no tokens; this model cannot be fingerprinted.",
        )
    weights = find_weights(folder / stage)
    _check_tensors(weights, KINDS[read_json(folder / stage / CONFIG)["_class_name"]])
    for entry in weights.tensors().values():
        if entry.dtype not in _FLOATS:
            raise InputError(
                f"{weights.folder / entry.file}: tensor {entry.name} is of type {entry.dtype}; "
                "the first stage must be floating point (16 bit at least)."
            )
    if diffusion is not None:
        kind = read_json(folder / diffusion / CONFIG).get("_class_name")
        _check_tensors(find_weights(folder / diffusion), _diffusers_class(folder / diffusion, kind))
        _check_channels(folder, diffusion)
        _check_scheduler(folder)
    geometry(folder)


def check_pickles(folder: Path, spare: Set[Path] = frozenset()) -> None:
    """:class:`InputError` for the first pickled file that is not among ``spare``."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in PICKLES and path not in spare:
            raise InputError(f"{path}: pickled weights may hold code and are refused.", CONVERT)


def check_values(folder: Path) -> None:
    """:class:`InputError` for unsound files and for tensors with NaN or infinite values."""
    for weights in all_weights(folder):
        for path, name, tensor in weights.values():
            if tensor.is_floating_point() and not bool(torch.isfinite(_readable(tensor)).all()):
                raise InputError(f"{path}: tensor {name} holds NaN or infinite values.")


def all_weights(folder: Path) -> list[Weights]:
    """The weights of every component of the pipeline that has any."""
    found = []
    for name in components(folder) or [""]:
        for stem in (STEM, TRANSFORMERS_STEM):
            if any((folder / name).glob(f"{stem}*.safetensors")):
                found.append(find_weights(folder / name, stem))
    return found


def scheduler_class(folder: Path) -> Any:
    """The class of the scheduler in ``folder``; :class:`InputError` for an unknown one."""
    kind = read_json(folder / SCHEDULER_CONFIG).get("_class_name", "")
    scheduler = getattr(diffusers, str(kind), None)
    if not (isinstance(scheduler, type) and issubclass(scheduler, SchedulerMixin)):
        raise InputError(f"{folder / SCHEDULER_CONFIG}: unknown scheduler class {kind!r}.")
    return scheduler


def _readable(tensor: torch.Tensor) -> torch.Tensor:
    """Types of 8 bit have no arithmetic of their own."""
    return tensor.float() if tensor.element_size() == 1 else tensor


def _diffusers_class(folder: Path, kind: Any) -> type:
    found = getattr(diffusers, str(kind), None)
    if not (isinstance(found, type) and issubclass(found, ModelMixin)):
        raise InputError(f"{folder / CONFIG}: unknown model class {kind!r}.")
    return found


def _check_tensors(weights: Weights, kind: Any) -> None:
    """Compare the headers with the architecture that the configuration describes."""
    try:
        with torch.device("meta"):
            model = kind.from_config(read_json(weights.folder / CONFIG))
    except InputError:
        raise
    except Exception as error:  # diffusers raises many kinds; the user needs one sentence
        reason = f"{weights.folder / CONFIG}: no {kind.__name__} can be built: {first_line(error)}"
        raise InputError(reason) from error
    found = weights.tensors()
    shown = weights.folder / (weights.index or weights.files[0])
    for name, tensor in model.state_dict().items():
        if name not in found:
            raise InputError(
                f"{shown}: tensor {name} {tuple(tensor.shape)} is missing.",
                f"{CONFIG} describes a {kind.__name__} that has it. {CONVERT}",
            )
        entry = found[name]
        if entry.shape != tuple(tensor.shape):
            raise InputError(
                f"{weights.folder / entry.file}: tensor {entry.name} has shape {entry.shape}, "
                f"{CONFIG} says {tuple(tensor.shape)}."
            )


def _check_channels(folder: Path, diffusion: str) -> None:
    """The fingerprint lies on the latent, so both halves must agree on it."""
    config = read_json(folder / diffusion / CONFIG)
    if config.get("_class_name") not in UNETS:
        return
    drawn, latent = config.get("out_channels", 4), geometry(folder).channels
    if drawn != latent:
        raise InputError(
            f"{folder}: the first stage's latent has {latent} channels, the diffusion model "
            f"({diffusion}/{CONFIG}) draws {drawn}.",
            "They belong to two different models.",
        )


def _check_scheduler(folder: Path) -> None:
    if (folder / "scheduler" / SCHEDULER_CONFIG).is_file():
        scheduler_class(folder / "scheduler")
