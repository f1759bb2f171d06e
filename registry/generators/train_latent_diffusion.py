"""Train a small latent-diffusion generator on a folder or zip of photographs.

    python -m registry.generators.train_latent_diffusion --data flowers128.zip --out flowers-ldm

Two stages, each interruptible (Ctrl-C) and resumed by the same command: the first-stage autoencoder
(diffusers' ``AutoencoderKL``, four latent channels on a grid of 16 x 16: f = 4 at 64 pixels, f = 8 at
128) and the diffusion model on its latents (``UNet2DModel``, v-prediction). The result is an ordinary
diffusers folder: ``model_index.json``, ``vqvae/``, ``unet/``, ``scheduler/``.
"""

from __future__ import annotations

import math
from pathlib import Path

import click
import torch
from diffusers import AutoencoderKL, DDIMScheduler, LDMPipeline, UNet2DModel

from registry.generators.photographs import load_photographs, random_crops
from registry.progress import progress
from registry.training import Training

BETAS = {"beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear"}


LOADED = 128
"""Photographs are cut to squares of this side first."""
GRID = 16
"""Side of the latent, whatever the images' size."""
WIDTHS = {4: (32, 64, 64), 8: (24, 48, 96, 96), 16: (24, 48, 96, 96, 96)}
"""Channels of the autoencoder's stages by the factor it shrinks by."""


def new_autoencoder(size: int, channels: tuple[int, ...] = WIDTHS[4]) -> AutoencoderKL:
    """An untrained autoencoder: (n, 3, size, size) in [-1, 1] <-> (n, 4, size/f, size/f).

    f is 2 for each stage after the first: 4 with three channels, 8 with four.
    """
    stages = len(channels)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * stages,
        up_block_types=("UpDecoderBlock2D",) * stages,
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=size,
    )


def new_unet(size: int, channels: tuple[int, ...] = (48, 96, 192)) -> UNet2DModel:
    """An untrained diffusion model on latents (n, 4, size, size)."""
    return UNet2DModel(
        sample_size=size,
        in_channels=4,
        out_channels=4,
        block_out_channels=channels,
        layers_per_block=2,
        down_block_types=("DownBlock2D",) * len(channels),
        up_block_types=("UpBlock2D",) * len(channels),
        attention_head_dim=32,
        norm_num_groups=16,
    )


def new_scheduler() -> DDIMScheduler:
    """The sampler of the reference generators: DDIM, v-prediction, trailing steps, zero terminal SNR."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        prediction_type="v_prediction",
        clip_sample=False,
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        **BETAS,
    )


def train_autoencoder(
    photographs: torch.Tensor, size: int, crop: int, work: Path, steps: int, batch: int
) -> AutoencoderKL:
    """L1 + L2 reconstruction with a faint KL term; ``photographs`` uint8 (n, 3, s, s), s >= size.

    The autoencoder is convolutional, so it may learn from squares of ``crop`` pixels, at scales between
    those of the photograph and of the whole image, at a fraction of the cost.
    """
    channels = WIDTHS[size // GRID]
    model = new_autoencoder(size, channels).to(memory_format=torch.channels_last)  # a quarter faster on CPU
    training = Training(model, work / "autoencoder.pt", steps, lr=1.5e-3, ema=0.998)

    def loss(rng: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        chosen = torch.randint(0, len(photographs), (batch,), generator=rng)
        x = random_crops(photographs[chosen], crop, smallest=crop / photographs.shape[-1], rng=rng)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            posterior = training.model.encode(x).latent_dist
            z = posterior.sample(generator=rng)
            decoded = training.model.decode(z).sample
        error = decoded.float() - x
        mse = error.square().mean()
        kl = posterior.kl().float().mean() / z[0].numel()
        psnr = 10 * math.log10(4 / mse.item())
        return error.abs().mean() + 4 * mse + 1e-4 * kl, {"psnr_db": psnr, "kl": kl.item()}

    with progress("autoencoder", steps, training.step) as bar:
        return training.run(loss, bar)


@torch.no_grad()
def encode_all(
    model: AutoencoderKL, photographs: torch.Tensor, size: int, passes: int, smallest: float = 0.85
) -> torch.Tensor:
    """Latent means of ``passes`` mirrored and cropped versions of every photograph, unscaled."""
    latents = []
    with progress("encoding photographs", passes * len(photographs), 0) as bar:
        for turn in range(passes):
            rng = torch.Generator().manual_seed(turn)
            order = torch.randperm(len(photographs), generator=rng)
            for chosen in order.split(64):
                x = random_crops(photographs[chosen], size, smallest, rng)
                latents.append(model.encode(x).latent_dist.mean)
                bar.update(min(64 * len(latents), passes * len(photographs)))
    return torch.cat(latents)


def train_diffusion(latents: torch.Tensor, work: Path, steps: int, batch: int) -> UNet2DModel:
    """v-prediction (Salimans and Ho 2022) on scaled latents (n, 4, s, s)."""
    training = Training(new_unet(latents.shape[-1]), work / "unet.pt", steps, lr=8e-4, ema=0.999)
    scheduler = new_scheduler()

    def loss(rng: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        z = latents[torch.randint(0, len(latents), (batch,), generator=rng)]
        noise = torch.randn(z.shape, generator=rng)
        t = torch.randint(0, 1000, (batch,), generator=rng)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            v = training.model(scheduler.add_noise(z, noise, t), t).sample.float()
        value = (v - scheduler.get_velocity(z, noise, t)).square().mean()
        return value, {"loss": value.item()}

    with progress("diffusion", steps, training.step) as bar:
        return training.run(loss, bar)


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option(
    "--diffusion-data",
    type=click.Path(exists=True, path_type=Path),
    help="For the diffusion model; else DATA.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--size", default=64, show_default=True, help="Side of the images in pixels: 64, 128 or 256.")
@click.option("--crop", type=int, help="Side of the squares the autoencoder learns from [default: size].")
@click.option("--autoencoder-steps", default=2000, show_default=True)
@click.option("--diffusion-steps", default=20000, show_default=True)
@click.option("--batch", default=32, show_default=True)
@click.option("--threads", default=2, show_default=True)
def main(
    data: Path,
    diffusion_data: Path | None,
    out: Path,
    size: int,
    crop: int | None,
    autoencoder_steps: int,
    diffusion_steps: int,
    batch: int,
    threads: int,
) -> None:
    """Train autoencoder and diffusion model on DATA; run again to resume."""
    if size not in (GRID * factor for factor in WIDTHS):
        raise click.BadParameter(f"{size}: give 64, 128 or 256.", param_hint="--size")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    work = out / "training"
    work.mkdir(parents=True, exist_ok=True)
    photographs = load_photographs(data, LOADED)
    autoencoder = train_autoencoder(photographs, size, crop or size, work, autoencoder_steps, batch)
    cached = work / "latents.pt"
    if not cached.exists():
        if diffusion_data is not None:
            photographs = load_photographs(diffusion_data, LOADED)
        torch.save(encode_all(autoencoder, photographs, size, passes=6), cached)
    latents = torch.load(cached, weights_only=True)
    scale = 1 / float(latents.std())
    autoencoder.register_to_config(scaling_factor=scale)
    unet = train_diffusion(latents * scale, work, diffusion_steps, batch=2 * batch)
    LDMPipeline(vqvae=autoencoder, unet=unet, scheduler=new_scheduler()).save_pretrained(out)


if __name__ == "__main__":
    main()
