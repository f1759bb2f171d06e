"""Rebuild the zoo and the lineage network: one command, resumable.

    python -m registry.lineage.zoo --data ../shared/data --work zoo

``--data`` holds flowers128.zip and imagenet32.zip. Every variant is trained, saved as a model folder for
its adapter (``zoo/NAME/model``) and sampled; then the set encoder is trained on the samples, calibrated
and written to ``--out``. Without ``--out`` it becomes the one that ships, and the builtins' fingerprints are
computed anew. A fifth of the flowers is kept out of everything: these are the real photographs of the
benchmark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from registry.generators.adapters import get_adapter
from registry.generators.photographs import load_photographs
from registry.generators.small import SmallAdapter, SmallGenerator, read_description, save_small
from registry.generators.small_training import train
from registry.lineage.training import STEPS
from registry.lineage.variants import FLOWERS, IMAGENET, SAMPLING, VARIANTS, Variant
from registry.storage import atomic_file

Pixels = NDArray[np.uint8]

SAMPLES = 768
TRAIN, CALIBRATE = slice(0, 448), slice(448, 576)
TEST = slice(576, 768)
"""Parts of every model's samples: for the set encoder, for its calibration, for the benchmark."""
MARGIN = 8
"""Photographs are this much larger than the images, for random crops."""
KEPT_OUT = 5
SIZE = 32
SEED = 100
REAL = "real"


def photographs(data: Path, kind: str, size: int, *, kept_out: bool = False) -> torch.Tensor:
    """uint8 (n, 3, size, size): those that training may see, or the flowers that are kept out of it."""
    name = "imagenet32.zip" if kind == IMAGENET else "flowers128.zip"
    found = load_photographs(data / name, size)
    if kind == IMAGENET:
        return found
    chosen = torch.arange(len(found)) % KEPT_OUT == KEPT_OUT - 1
    return found[chosen if kept_out else ~chosen]


def train_variant(variant: Variant, data: Path, work: Path, cache: dict[str, torch.Tensor]) -> Path:
    """The model folder of ``variant`` in ``work``, trained if it is not there."""
    folder = work / variant.name / "model"
    if not (folder / "zoo.json").exists():
        if variant.photographs not in cache:
            side = SIZE if variant.photographs == IMAGENET else SIZE + MARGIN
            cache[variant.photographs] = photographs(data, variant.photographs, side)
        torch.manual_seed(variant.seed)
        network = _adapter(variant.family).network(variant.layout)
        trained = train(
            network,
            cache[variant.photographs],
            work / variant.name,
            variant.steps,
            variant.batch,
            variant.seed,
        )
        save_small(trained, variant.family, folder, SAMPLING[variant.family])
    return folder


def drawn(generator: SmallGenerator, count: int, seed: int) -> Pixels:
    """``count`` samples (n, h, w, 3)."""
    parts = []
    for start in range(0, count, 64):
        latents = generator.sample_latents(min(64, count - start), seed + start)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=generator.network.in_half):
            images = generator.render(latents).float()
        parts.append(images.mul(255).round().byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(parts)


def samples_of(folder: Path, count: int = SAMPLES, seed: int = SEED, name: str = "samples") -> Pixels:
    """Samples of the model in ``folder``, drawn once and kept beside it."""
    path = folder.parent / f"{name}.npy"
    if path.exists():
        found: Pixels = np.load(path)
        if found.shape[1] == 3:
            found = np.ascontiguousarray(found.transpose(0, 2, 3, 1))
        return found[:count]
    family = read_description(folder)["family"]
    pixels = drawn(_adapter(family).load(folder), count, seed)
    with atomic_file(path) as file:
        np.save(file, pixels)
    return pixels


def resampled(folder: Path, name: str, sampling: Mapping[str, object], count: int, seed: int) -> Pixels:
    """Samples of the same weights by another sampler."""
    if (folder.parent / f"{name}.npy").exists():
        return samples_of(folder, count, seed, name)
    description = read_description(folder)
    adapter = _adapter(description["family"])
    generator = adapter.load(folder)
    other = SmallGenerator(generator.network, generator.latent_shape, sampling)
    with atomic_file(folder.parent / f"{name}.npy") as file:
        np.save(file, drawn(other, count, seed))
    return samples_of(folder, count, seed, name)


def sheet(pixels: Pixels, columns: int = 8, zoom: int = 2) -> Image.Image:
    """The first images side by side, for a card."""
    rows = len(pixels) // columns
    height, width = pixels.shape[1:3]
    tiled = pixels[: rows * columns].reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    image = Image.fromarray(tiled.reshape(rows * height, columns * width, 3))
    return image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)


def _adapter(family: str) -> SmallAdapter:
    adapter = get_adapter(family)
    assert isinstance(adapter, SmallAdapter)
    return adapter


def zoo(data: Path, work: Path, say: Callable[[str], None]) -> dict[str, Path]:
    """All variants' model folders, trained and sampled where they are not there yet."""
    cache: dict[str, torch.Tensor] = {}
    folders = {}
    for variant in VARIANTS:
        folders[variant.name] = train_variant(variant, data, work, cache)
        samples_of(folders[variant.name], seed=SEED + variant.seed)
        say(f"{variant.name} is ready in {folders[variant.name]}")
    return folders


def fingerprint_builtins(say: Callable[[str], None]) -> None:
    """Write every builtin's fingerprint by the shipped network; of slow samplers from as few as will do."""
    from registry.generators.builtin import known_builtins, resolve_builtin
    from registry.generators.sampling import adapter_of
    from registry.lineage import service

    for label in known_builtins():
        folder = resolve_builtin(label).weights
        generator = get_adapter(adapter_of(folder)).load(folder)
        count = service.SAMPLES if generator.quick_sampling else service.LEAST
        found = service.sample_fingerprint(generator, label, count)
        service.write_shipped(found, folder.parent / service.SHIPPED)
        say(f"The fingerprint of {label} is from {count} samples.")


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the lineage network to write.")
@click.option("--steps", default=STEPS, show_default=True, help="Of the set encoder.")
@click.option("--threads", default=1, show_default=True)
def main(data: Path, work: Path, out: Path | None, steps: int, threads: int) -> None:
    """Train the zoo and the lineage network; run again to resume."""
    from registry.lineage.building import build_network
    from registry.lineage.service import FOLDER

    torch.set_num_threads(threads)
    folders = zoo(data, work, click.echo)
    images = {name: samples_of(folder) for name, folder in folders.items()}
    real = photographs(data, FLOWERS, SIZE).permute(0, 2, 3, 1).numpy()
    build_network(images, real, work / "encoder", out or FOLDER, steps)
    click.echo(f"The lineage network is in {out or FOLDER}.")
    if out is None:
        fingerprint_builtins(click.echo)


if __name__ == "__main__":
    main()
