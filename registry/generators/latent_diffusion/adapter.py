"""The adapter of latent-diffusion models: what the registry does with a diffusers folder."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.utils import logging as diffusers_logging
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from registry.errors import InputError
from registry.fingerprints.basis import Basis, Target
from registry.generators import hallmark_vae
from registry.generators.adapters import PICKLES, Adapter, Generator
from registry.generators.latent_diffusion.checks import (
    all_weights,
    check_pickles,
    check_structure,
    check_values,
)
from registry.generators.latent_diffusion.files import (
    CONFIG,
    KINDS,
    PIPELINE,
    Weights,
    at,
    components,
    find_weights,
    first_line,
    first_stage,
    geometry,
    read_json,
)
from registry.generators.latent_diffusion.generator import FINGERPRINT, LatentDiffusion
from registry.generators.latent_diffusion.samplers import draws_from_text, open_sampler, sampling_obstacle

diffusers_logging.set_verbosity_error()
diffusers_logging.disable_progress_bar()

WEIGHT_ENDINGS = PICKLES | {".safetensors", ".msgpack", ".h5", ".onnx", ".pb", ".xml", ".gguf", ".flashpack"}


class LatentDiffusionAdapter(Adapter):
    """Diffusers folders with an ``AutoencoderKL`` or ``VQModel``; see the package."""

    name = "latent-diffusion"
    schemes = ("learned", "pca")

    def check(self, weights: Path) -> None:
        """A folder whose parts are present, whose tensors load, fit together and are finite."""
        if not weights.is_dir():
            raise InputError(f"{weights}: not a folder.", "Give a diffusers folder (model_index.json).")
        check_pickles(weights)
        check_structure(weights)
        check_values(weights)
        self.load(weights)

    def import_weights(self, weights: Path, work: Path) -> Path:
        """``weights`` without the weight files that the pipeline does not load.

        Published folders often hold the same model several times: as pickles beside safetensors, in half
        precision beside single, as one checkpoint file beside the components. A copy must not bring
        along a first stage without its fingerprint, so only what is loaded is registered.
        """
        if not weights.is_dir():
            return weights  # `check` says what is wrong
        loaded = all_weights(weights) if _has_first_stage(weights) else []
        spare = _spare(weights, loaded)
        if not spare:
            return weights
        check_pickles(weights, spare)
        check_structure(weights)  # errors name the user's own folder, not the one below
        model = work / "model"
        for path in sorted(weights.rglob("*")):
            if path.is_file() and path not in spare:
                target = model / path.relative_to(weights)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(path.resolve())
        return model

    def prepare(self, weights: Path, template: Path, basis: Basis) -> None:
        shutil.copytree(weights, template)
        _replace(template, basis.replaced)
        if FINGERPRINT in {name for _, name in basis.directions}:
            _add_carrier(template)

    def load(self, folder: Path) -> LatentDiffusion:
        """The first stage now, the rest of the pipeline at the first latent that is sampled."""
        stage = first_stage(folder)
        path = folder / stage
        kind: Any = KINDS[read_json(path / CONFIG)["_class_name"]]
        try:
            model = kind.from_pretrained(
                path,
                variant=find_weights(path).variant,
                torch_dtype=torch.float32,
                use_safetensors=True,
            )
        except InputError:
            raise
        except Exception as error:  # diffusers raises many kinds; the user needs one sentence
            raise InputError(f"{path}: diffusers cannot load this model: {first_line(error)}") from error
        return LatentDiffusion(
            model,
            geometry(folder),
            lambda: open_sampler(folder, model),
            sampling_obstacle(folder),
            draws_from_text(folder),
        )

    def latent_shape(self, folder: Path) -> tuple[int, ...]:
        return geometry(folder).latent_shape

    def fold(self, folder: Path, rows: NDArray[np.float32]) -> dict[Target, NDArray[np.float32]]:
        """A latent offset that varies in space is no weight of a decoder: it is a tensor of its own."""
        stage = first_stage(folder)
        return {(at(stage, find_weights(folder / stage).files[0]), FINGERPRINT): rows}

    def schemes_of(self, folder: Path) -> tuple[str, ...]:
        """Directions are learned on a decoder whose encoder reproduces its images: not on a quantised one."""
        kind = read_json(folder / first_stage(folder) / CONFIG).get("_class_name")
        return self.schemes if kind == "AutoencoderKL" else ("pca",)

    def learnable(self, generator: Generator) -> int:
        from registry.fingerprints.learned import carriers

        return sum(shape.numel() for shape in carriers(generator).values())

    def learn(
        self,
        folder: Path,
        generator: Generator,
        latents: torch.Tensor,
        model_digest: str,
        bits: int,
        psnr: float,  # noqa: ARG002
        work: Path,
    ) -> Basis:
        from registry.fingerprints.learned import learn_directions

        target = functools.partial(self.target, folder)
        return learn_directions(generator, target, model_digest, latents, bits, work)

    def target(self, folder: Path, parameter: str) -> Target:
        """Where the first stage's ``parameter`` is stored: file within the folder and tensor name.

        Names of parameters are those of today's diffusers; files may use older ones, or be shards.
        """
        stage = first_stage(folder)
        entries = find_weights(folder / stage).tensors()
        if parameter not in entries:
            raise InputError(f"{folder / stage}: the first stage has no tensor {parameter}.")
        return at(stage, entries[parameter].file), entries[parameter].name


def _has_first_stage(folder: Path) -> bool:
    try:
        first_stage(folder)
    except InputError:
        return False
    return True


def _spare(folder: Path, loaded: list[Weights]) -> set[Path]:
    """Weight files that nothing loads. A component without safetensors keeps its pickles, to be refused."""
    kept = {weights.folder / name for weights in loaded for name in (*weights.files, weights.index) if name}
    served = {weights.folder for weights in loaded} | {folder}
    if not loaded:
        return set()
    spare = set()
    for path in folder.rglob("*"):
        if not path.is_file() or path in kept:
            continue
        weight = path.suffix.lower() in WEIGHT_ENDINGS or ".safetensors." in path.name or ".bin." in path.name
        if weight and (path.parent in served or not _is_component(folder, path.parent)):
            spare.add(path)
    return spare


def _is_component(folder: Path, path: Path) -> bool:
    return path.parent == folder and path.name in components(folder)


def _replace(template: Path, replaced: Mapping[Target, NDArray[np.float32]]) -> None:
    """Put the tensors that all copies share in the base's place, in the base's own type."""
    for file in sorted({file for file, _ in replaced}):
        tensors = load_file(template / file)
        for (where, name), values in replaced.items():
            if where == file:
                tensors[name] = torch.from_numpy(values).to(tensors[name].dtype)
        save_file(tensors, template / file, {"format": "pt"})


def _add_carrier(template: Path) -> None:
    """Give the first stage the tensor that is added to the latent, zero as yet, and the class for it."""
    stage, shape = first_stage(template), geometry(template)
    folder = template / stage
    weights = find_weights(folder)
    carrier = torch.zeros(shape.latent_shape)
    path = folder / weights.files[0]
    save_file({**load_file(path), FINGERPRINT: carrier}, path, {"format": "pt"})
    if weights.index is not None:
        index = read_json(folder / weights.index)
        total = int(index.get("metadata", {}).get("total_size", 0)) + carrier.nbytes
        _edit(
            folder / weights.index,
            weight_map={**index["weight_map"], FINGERPRINT: path.name},
            metadata={**index.get("metadata", {}), "total_size": total},
        )
    kind = f"Fingerprinted{read_json(folder / CONFIG)['_class_name']}"
    _edit(folder / CONFIG, _class_name=kind, sample_size=shape.size)
    module = Path(hallmark_vae.__file__)
    shutil.copyfile(module, folder / module.name)
    if stage and (template / PIPELINE).exists():
        _edit(template / PIPELINE, **{stage: [module.stem, kind]})


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**read_json(path), **changes}, indent=2, sort_keys=True) + "\n")
