"""Make a builtin from what :mod:`registry.generators.train_latent_diffusion` has trained.

    python -m registry.generators.build_builtin --trained flowers-ldm --photographs photos \\
        --work work --out registry/builtins/flowers-ldm/1 --shift 640

The principal directions come from the latents of the training photographs, which the sampler is
trained to draw; strength, calibration and all figures come from latents that the sampler drew. Resumed
by the same command.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click
import torch
from diffusers import AutoencoderKL, LDMPipeline, UNet2DModel
from PIL import Image

from registry.attribution import service
from registry.fingerprints.basis import Basis
from registry.fingerprints.quality import random_signs
from registry.generators.adapters import Generator, get_adapter, to_images
from registry.generators.photographs import load_images
from registry.generators.train_latent_diffusion import new_scheduler
from registry.storage import folder_manifest, manifest_digest

ADAPTER = "latent-diffusion"
SHARD = "12MB"
"""Files in the repository stay below 16 MB."""
GRID = 8
AMPLIFIED = 8


def export_model(trained: Path, folder: Path) -> None:
    """The trained pipeline as a diffusers folder; the diffusion model in half precision, in shards."""
    stage = AutoencoderKL.from_pretrained(trained / "vqvae")
    unet = UNet2DModel.from_pretrained(trained / "unet").half()
    pipeline = LDMPipeline(vqvae=stage, unet=unet, scheduler=new_scheduler())
    pipeline.save_pretrained(folder, max_shard_size=SHARD)


def grid(images: list[Image.Image], columns: int, zoom: int = 2) -> Image.Image:
    """Images of one size side by side."""
    width, height = (side * zoom for side in images[0].size)
    sheet = Image.new("RGB", (columns * width, -(-len(images) // columns) * height))
    for number, image in enumerate(images):
        place = (number % columns * width, number // columns * height)
        sheet.paste(image.resize((width, height), Image.Resampling.NEAREST), place)
    return sheet


def write_pictures(generator: Generator, basis: Basis, latents: torch.Tensor, folder: Path) -> None:
    """``samples.png`` of the base model; ``copies.png``: base, a copy, and their amplified difference."""
    base = generator.render(latents[: GRID * GRID])
    grid(to_images(base), GRID).save(folder / "samples.png")
    offsets = basis.offsets(random_signs(GRID, basis.bits, seed=0))
    marked = generator.render(latents[:GRID], offsets)
    difference = ((marked - base[:GRID]) * AMPLIFIED + 0.5).clamp(0, 1)
    rows = [*to_images(base[:GRID]), *to_images(marked), *to_images(difference)]
    grid(rows, GRID).save(folder / "copies.png")


@click.command()
@click.option("--trained", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--photographs", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--bits", default=get_adapter(ADAPTER).bits, show_default=True)
@click.option("--shift", type=int, required=True)
@click.option("--psnr", default=service.PSNR_DB, show_default=True)
@click.option("--steps", default=service.STEPS, show_default=True)
@click.option("--drawn", default=service.HELD_OUT, show_default=True, help="Latents drawn from the sampler.")
@click.option("--threads", default=2, show_default=True)
def main(
    trained: Path,
    photographs: Path,
    work: Path,
    out: Path,
    bits: int,
    shift: int,
    psnr: float,
    steps: int,
    drawn: int,
    threads: int,
) -> None:
    """Write model, basis, network package and pictures of a builtin to OUT."""
    torch.set_num_threads(threads)
    work.mkdir(parents=True, exist_ok=True)
    foreign = load_images(photographs)
    fresh = work / "builtin"
    shutil.rmtree(fresh, ignore_errors=True)
    export_model(trained, fresh / "model")
    adapter = get_adapter(ADAPTER)
    generator = adapter.load(fresh / "model")
    encoded = torch.load(trained / "training" / "latents.pt", weights_only=True)
    latents = torch.cat([encoded, service.draw_latents(generator, drawn, work)])
    digest = f"sha256:{manifest_digest(folder_manifest(fresh / 'model'))}"
    directions = service.latent_directions(
        adapter, fresh / "model", latents, digest, scheme="pca", bits=bits, shift=shift
    )
    basis = service.with_quality(generator, directions, latents, psnr)
    basis.save(fresh / "basis.safetensors")
    package = service.build_package(generator, basis, latents, foreign, steps, work)
    shutil.copytree(package, fresh / "network")
    write_pictures(generator, basis, latents[-service.HELD_OUT :], fresh)
    shutil.copytree(fresh, out, dirs_exist_ok=True)
    description = json.loads((package / "network.json").read_text())
    click.echo(json.dumps({"strength": basis.strength, **basis.quality, **description["evidence"]}, indent=1))


if __name__ == "__main__":
    main()
