"""StyleGAN2 for the registry: latents, images, and a key folded exactly into the style layers.

    adapter = get_adapter("stylegan2")
    folder = adapter.import_weights(Path("550000.pt"), work)     # rosinality's checkpoint -> our folder
    directions = adapter.fold(folder, rows)                      # {(file, style bias): (k, channels)}

The latent is ``w``, what the mapping network makes of a normal draw, after truncation. Every style is
affine in it, ``s = A w + b``, so an offset of ``w`` by ``v`` is the same as ``b + A v``: a copy differs in
its style biases, and is an ordinary checkpoint for whatever code loads the base (METHOD, section 2).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file

from registry.errors import InputError
from registry.fingerprints.basis import SCHEMES, Basis, Target
from registry.generators.adapters import PICKLES, Adapter, Generator, noise_seed
from registry.generators.per_sample import per_sample
from registry.generators.stylegan2.checkpoints import (
    CONVERT,
    WEIGHTS,
    check_model,
    load_model,
    read_checkpoint,
    read_truncation,
    refuse_copy,
    save_model,
    write_weights,
)
from registry.generators.stylegan2.network import Synthesis
from registry.progress import Progress

MEAN_DRAWS = 4096
"""Draws for the mean latent that truncation pulls to: as many as rosinality's ``generate.py`` takes."""
MEAN_SEED = 0
DRAWS = 1000
"""Latents mapped at a time."""
QUICK = 256
"""Side up to which samples are drawn when a model is registered."""
BATCH_VALUES = 1 << 25
"""Most values of one layer's output in a batch, 128 MiB: one image at a time of config F at 1024 pixels."""
MODULATION = ".modulation"


class StyleGAN2(Generator):
    """Mapping and synthesis networks of one folder."""

    def __init__(self, network: Synthesis, truncation: float = 1.0) -> None:
        self.network, self.truncation = network, truncation
        layout = network.layout
        self.size, self.latent_shape = layout.size, (layout.style_dim,)
        largest = max(channels * (4 << level) ** 2 for level, channels in enumerate(layout.channels))
        self.batch = max(1, BATCH_VALUES // largest)
        self.quick_sampling = layout.size <= QUICK
        if truncation < 1:
            rng = torch.Generator().manual_seed(MEAN_SEED)
            draws = torch.randn((MEAN_DRAWS, layout.style_dim), generator=rng)
            with torch.no_grad():
                self.mean = network.mapping(draws).mean(0)

    @torch.no_grad()
    def sample_latents(self, n: int, seed: int, bar: Progress | None = None) -> torch.Tensor:
        """Every image has a seed of its own, so the first m of n latents do not depend on n."""
        latents = []
        for start in range(0, n, DRAWS):
            end = min(start + DRAWS, n)
            draws = torch.stack([self._draw(noise_seed(seed, index)) for index in range(start, end)])
            latents.append(self._truncated(self.network.mapping(draws)))
            if bar is not None:
                bar.update(end)
        return torch.cat(latents)

    def _draw(self, seed: int) -> torch.Tensor:
        return torch.randn(self.latent_shape, generator=torch.Generator().manual_seed(seed))

    def _truncated(self, w: torch.Tensor) -> torch.Tensor:
        return w if self.truncation == 1 else self.mean + self.truncation * (w - self.mean)

    def render(
        self, latents: torch.Tensor, offsets: Mapping[Target, torch.Tensor] | None = None
    ) -> torch.Tensor:
        by_name = {name: offset for (_, name), offset in (offsets or {}).items()}
        images = []
        for start in range(0, len(latents), self.batch):
            part = {name: offset[start : start + self.batch] for name, offset in by_name.items()}
            with per_sample(self.network, part):
                images.append(self.network(latents[start : start + self.batch]).float())
        return ((torch.cat(images) + 1) / 2).clamp(0, 1)


class StyleGAN2Adapter(Adapter):
    """Folders with ``generator.safetensors``; see the module."""

    name = "stylegan2"
    schemes = SCHEMES
    bits = 64  # the paper's setting: the last 64 of 512 rows

    def import_weights(self, weights: Path, work: Path) -> Path:
        """A folder is taken as it is; a checkpoint file is converted in ``work``."""
        if weights.is_dir():
            if (weights / WEIGHTS).is_file():
                refuse_copy(weights / WEIGHTS)
            return weights
        folder = work / "model"
        save_model(read_checkpoint(weights), folder)
        return folder

    def check(self, weights: Path) -> None:
        """A folder of one safetensors file whose tensors are those of a StyleGAN2 generator, and finite."""
        if not weights.is_dir():
            raise InputError(f"{weights}: not a folder.", f"Give a folder with {WEIGHTS}.")
        for path in sorted(weights.rglob("*")):
            if path.suffix.lower() in PICKLES:
                raise InputError(f"{path}: pickled weights may hold code and are refused.", CONVERT)
        check_model(weights)

    def prepare(self, weights: Path, template: Path, basis: Basis) -> None:
        _check_targets(weights, basis)
        shutil.copytree(weights, template)
        if not basis.replaced:
            return
        tensors = load_file(weights / WEIGHTS)
        for (_, name), values in basis.replaced.items():
            tensors[name] = torch.from_numpy(values).to(tensors[name].dtype)
        write_weights(tensors, template / WEIGHTS)

    def load(self, folder: Path) -> StyleGAN2:
        return StyleGAN2(load_model(folder), read_truncation(folder))

    def latent_shape(self, folder: Path) -> tuple[int, ...]:
        with safe_open(folder / WEIGHTS, "pt") as file:
            return (int(file.get_slice(f"conv1.conv{MODULATION}.weight").get_shape()[1]),)

    def fold(self, folder: Path, rows: NDArray[np.float32]) -> dict[Target, NDArray[np.float32]]:
        """An offset of ``w`` along a row is an offset of every style bias."""
        V = rows.astype(np.float64)
        return {bias: (V @ A.T).astype(np.float32) for _, bias, A, _ in _style_layers(folder)}

    def project(
        self, folder: Path, rows: NDArray[np.float32], mean: NDArray[np.float32]
    ) -> dict[Target, NDArray[np.float32]]:
        """``A <- A (I - V'V)`` and ``b <- b + A V'V mean`` for every style layer (METHOD, section 2)."""
        V, mu = rows.astype(np.float64), mean.astype(np.float64)
        replaced = {}
        for weight, bias, A, b in _style_layers(folder):
            along = A @ V.T
            stored = (A - along @ V) * np.sqrt(A.shape[1])  # weights are stored at unit variance
            replaced[weight] = stored.astype(np.float32)
            replaced[bias] = (b + along @ (V @ mu)).astype(np.float32)
        return replaced

    def learnable(self, generator: Generator) -> int:
        from registry.fingerprints.learned_stylegan2 import PARAMETERS, carriers

        return sum(shape.numel() for _, shape in carriers(_stylegan2(generator).network, PARAMETERS))

    def learn(
        self,
        folder: Path,  # noqa: ARG002
        generator: Generator,
        latents: torch.Tensor,
        model_digest: str,
        bits: int,
        psnr: float,
        work: Path,
    ) -> Basis:
        """Over biases and the constant input, see :mod:`registry.fingerprints.learned_stylegan2`."""
        from registry.fingerprints.learned_stylegan2 import learn_stylegan2

        return learn_stylegan2(_stylegan2(generator), WEIGHTS, model_digest, latents, bits, psnr, work)


def _stylegan2(generator: Generator) -> StyleGAN2:
    if not isinstance(generator, StyleGAN2):
        raise TypeError(f"not a StyleGAN2: {type(generator).__name__}")
    return generator


StyleLayer = tuple[Target, Target, NDArray[np.float64], NDArray[np.float64]]


def _style_layers(folder: Path) -> Iterator[StyleLayer]:
    """Targets of weight and bias, ``A`` (channels, style_dim) and ``b`` (channels,) of every style layer.

    ``A`` is the weight as it is used: the stored one scaled by ``1 / sqrt(style_dim)``.
    """
    with safe_open(folder / WEIGHTS, "pt") as file:
        for weight in sorted(name for name in file.keys() if name.endswith(f"{MODULATION}.weight")):
            bias = f"{weight.removesuffix('.weight')}.bias"
            A, b = (file.get_tensor(name).double().numpy() for name in (weight, bias))
            yield (WEIGHTS, weight), (WEIGHTS, bias), A / np.sqrt(A.shape[1]), b


def _check_targets(folder: Path, basis: Basis) -> None:
    """Whatever a basis changes must be in the model, in that shape."""
    shapes = {target: values.shape for target, values in basis.replaced.items()}
    shapes |= {target: values.shape[1:] for target, values in basis.directions.items()}
    with safe_open(folder / WEIGHTS, "pt") as stored:
        known = set(stored.keys())
        for (file, name), shape in shapes.items():
            found = tuple(stored.get_slice(name).get_shape()) if file == WEIGHTS and name in known else None
            if found != shape:
                raise InputError(
                    f"{folder}: the basis changes {file}:{name} of shape {shape}, "
                    + ("which the model does not have." if found is None else f"the model's is {found}."),
                    "Give the basis that was made for this model.",
                )
