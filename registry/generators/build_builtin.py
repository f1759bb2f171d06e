"""Make a builtin from what a training script has left.

    python -m registry.generators.build_builtin --adapter latent-diffusion --trained flowers-ldm \\
        --photographs photos --work work --out registry/builtins/flowers-ldm/1 --shift 640

``--trained`` is the folder of :mod:`registry.generators.train_latent_diffusion` or
:mod:`registry.generators.stylegan2.training`, or a finished model folder. The basis, calibration and all
figures come from latents that the sampler drew; with ``--encoded`` the principal directions and the network's
training images come from latents of the training photographs, where the sampler is slow. Resumed by the
same command.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click
import torch
from PIL import Image
from safetensors.torch import load_file

from registry.attribution import service
from registry.fingerprints.basis import SCHEMES, Basis
from registry.fingerprints.quality import random_signs
from registry.generators.adapters import Generator, get_adapter, to_images
from registry.generators.photographs import load_images
from registry.storage import folder_manifest, manifest_digest

SHARD = "12MB"
"""Files in the repository stay below 16 MB."""
GRID = 8
AMPLIFIED = 8


def export_model(adapter: str, trained: Path, folder: Path) -> None:
    """Write the model folder to ship: in half precision where that costs no quality."""
    if adapter == "stylegan2" and (trained / "model").is_dir():
        from registry.generators.stylegan2.checkpoints import WEIGHTS, save_model

        state = load_file(trained / "model" / WEIGHTS)
        save_model({name: tensor.half() for name, tensor in state.items()}, folder)
    elif (trained / "training").is_dir():
        from diffusers import AutoencoderKL, LDMPipeline, UNet2DModel

        from registry.generators.train_latent_diffusion import new_scheduler

        stage = AutoencoderKL.from_pretrained(trained / "vqvae")
        unet = UNet2DModel.from_pretrained(trained / "unet").half()
        pipeline = LDMPipeline(vqvae=stage, unet=unet, scheduler=new_scheduler())
        pipeline.save_pretrained(folder, max_shard_size=SHARD)
    else:
        shutil.copytree(trained, folder)


def grid(images: list[Image.Image], columns: int, zoom: int = 2) -> Image.Image:
    """Images of one size side by side."""
    width, height = (side * zoom for side in images[0].size)
    sheet = Image.new("RGB", (columns * width, -(-len(images) // columns) * height))
    for number, image in enumerate(images):
        place = (number % columns * width, number // columns * height)
        sheet.paste(image.resize((width, height), Image.Resampling.NEAREST), place)
    return sheet


def write_pictures(
    base_model: Generator, copies: Generator, basis: Basis, latents: torch.Tensor, folder: Path
) -> None:
    """``samples.png`` of the base model; ``copies.png``: base, a copy, and their amplified difference."""
    base = base_model.render(latents[: GRID * GRID])
    grid(to_images(base), GRID).save(folder / "samples.png")
    offsets = basis.offsets(random_signs(GRID, basis.bits, seed=0))
    marked = copies.render(latents[:GRID], offsets)
    difference = ((marked - base[:GRID]) * AMPLIFIED + 0.5).clamp(0, 1)
    rows = [*to_images(base[:GRID]), *to_images(marked), *to_images(difference)]
    grid(rows, GRID).save(folder / "copies.png")


@click.command()
@click.option("--adapter", "adapter_name", default="latent-diffusion", show_default=True)
@click.option("--trained", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--photographs", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--scheme", type=click.Choice(SCHEMES), default="pca", show_default=True)
@click.option("--bits", type=int)
@click.option("--shift", type=int)
@click.option("--psnr", default=service.PSNR_DB, show_default=True)
@click.option("--steps", default=service.STEPS, show_default=True)
@click.option("--drawn", default=service.HELD_OUT, show_default=True, help="Latents drawn from the sampler.")
@click.option("--encoded", type=click.Path(exists=True, path_type=Path), help="Tensor file of more latents.")
@click.option("--threads", default=2, show_default=True)
def main(
    adapter_name: str,
    trained: Path,
    photographs: Path,
    work: Path,
    out: Path,
    scheme: str,
    bits: int | None,
    shift: int | None,
    psnr: float,
    steps: int,
    drawn: int,
    encoded: Path | None,
    threads: int,
) -> None:
    """Write model, basis, network package and pictures of a builtin to OUT."""
    torch.set_num_threads(threads)
    work.mkdir(parents=True, exist_ok=True)
    foreign = load_images(photographs)
    fresh = work / "builtin"
    shutil.rmtree(fresh, ignore_errors=True)
    export_model(adapter_name, trained, fresh / "model")
    adapter, folder = get_adapter(adapter_name), fresh / "model"
    generator = adapter.load(folder)
    latents = service.draw_latents(generator, drawn, work)
    if encoded is not None:
        latents = torch.cat([torch.load(encoded, weights_only=True), latents])
    digest = f"sha256:{manifest_digest(folder_manifest(folder))}"
    cached = work / "basis.safetensors"
    if cached.exists():
        basis = Basis.load(cached)
    else:
        basis = service.new_basis(
            adapter, folder, generator, latents, digest, scheme, bits=bits, shift=shift, psnr=psnr, work=work
        )
        basis.save(cached)
    basis.save(fresh / "basis.safetensors")
    copies = service.copies_generator(adapter, folder, generator, basis)
    package = service.build_package(copies, basis, latents, foreign, steps, work, base=generator)
    shutil.copytree(package, fresh / "network")
    write_pictures(generator, copies, basis, latents[-service.HELD_OUT :], fresh)
    shutil.copytree(fresh, out, dirs_exist_ok=True)
    description = json.loads((package / "network.json").read_text())
    click.echo(json.dumps({"strength": basis.strength, **basis.quality, **description["evidence"]}, indent=1))


if __name__ == "__main__":
    main()
