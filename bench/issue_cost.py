"""What one recipient's copy costs: ours beside fine-tuning a decoder for his key (Stable Signature's recipe).

python -m bench.issue_cost [--quick] --photographs FOLDER|ZIP [--iterations 100]

Stable Signature (Fernandez et al., ICCV 2023) trains the decoder for each key: 100 iterations of AdamW on
batches of 4 photographs, cross-entropy of a fixed extractor's reading plus 0.2 times a perceptual distance
to the original decoder's image. Here the decoder is the reference generator's, the extractor our network,
the perceptual distance the structural loss: small and cheap parts, in the peer's favour. A quick run does
some iterations and extrapolates. Ours is `registry issue` and `registry download` inside one process.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import save

from bench.common import BUILTIN, MODEL, RECIPIENT, close, registered, seconds
from bench.marked import open_reference
from bench.removal import differentiable
from registry.attribution.perceptual import Structural
from registry.copies.service import download
from registry.generators.latent_diffusion import LatentDiffusion
from registry.generators.photographs import load_photographs, random_crops
from registry.home import Home
from registry.keys.service import Issuer
from registry.progress import progress

BATCH = 4
LEARNING_RATE = 5e-4
PERCEPTUAL = 0.2
WARM_UP = 20
COPIES = 20


def fine_tuned(
    autoencoder: AutoencoderKL,
    extractor: Callable[[torch.Tensor], torch.Tensor],
    bits: torch.Tensor,
    photographs: torch.Tensor,
    iterations: int,
    planned: int,
) -> tuple[AutoencoderKL, list[float]]:
    """The decoder trained so that the extractor reads ``bits`` (k,), and the seconds of each iteration.

    The learning rate rises for WARM_UP steps and falls as a cosine over the ``planned`` ones.
    """
    side = autoencoder.config.sample_size
    trained = copy.deepcopy(autoencoder)
    behind = [*trained.decoder.parameters(), *trained.post_quant_conv.parameters()]
    for parameter in behind:
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(behind, lr=LEARNING_RATE)
    perceptual, taken = Structural(), []
    with progress("fine-tuning", iterations) as bar:
        for step in range(iterations):
            started = time.perf_counter()
            for group in optimiser.param_groups:
                group["lr"] = LEARNING_RATE * _schedule(step, planned)
            rng = torch.Generator().manual_seed(step)
            chosen = torch.randint(0, len(photographs), (BATCH,), generator=rng)
            images = random_crops(photographs[chosen], side, smallest=0.8, rng=rng)
            with torch.no_grad():
                latents = autoencoder.encode(images).latent_dist.mean
                original = ((autoencoder.decode(latents).sample + 1) / 2).clamp(0, 1)
            marked = ((trained.decode(latents).sample + 1) / 2).clamp(0, 1)
            message = F.binary_cross_entropy_with_logits(extractor(marked), bits.expand(BATCH, -1))
            loss = message + PERCEPTUAL * perceptual(marked, original).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            taken.append(time.perf_counter() - started)
            bar.update(step + 1, message=message.item())
    return trained.requires_grad_(False), taken


def _schedule(step: int, planned: int) -> float:
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    return 0.5 * (1 + float(np.cos(np.pi * (step - WARM_UP) / max(1, planned - WARM_UP))))


@click.command()
@click.option("--quick", is_flag=True, help="Ten iterations and a few copies.")
@click.option("--photographs", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--iterations", default=100, show_default=True, help="Fine-tuning steps for a key.")
def main(quick: bool, photographs: Path, iterations: int) -> None:
    """Compare seconds and bytes for one copy."""
    done, copies = (min(10, iterations), 3) if quick else (iterations, COPIES)
    reference = open_reference(BUILTIN)
    assert isinstance(reference.generator, LatentDiffusion)
    stage = reference.generator.first_stage
    bits = torch.randint(0, 2, (reference.basis.bits,), generator=torch.Generator().manual_seed(0)).float()
    real = load_photographs(photographs, reference.generator.size)
    extractor = differentiable(reference)
    trained, taken = fine_tuned(stage, extractor, bits, real, done, iterations)
    held_out = real[:64].float() / 127.5 - 1
    with torch.no_grad():
        marked = ((trained.decode(stage.encode(held_out).latent_dist.mean).sample + 1) / 2).clamp(0, 1)
        right = ((extractor(marked) > 0) == (bits > 0)).float().mean()
    iteration = statistics.median(taken)
    figures = {
        "fine_tuning_s_per_iteration": iteration,
        "fine_tuning_s_per_key": iteration * iterations,
        "fine_tuning_iterations_run": float(done),
        "fine_tuning_bits_right": float(right),
        "fine_tuning_bytes_per_key": float(len(save(trained.decoder.state_dict()))),
        **_ours(copies),
    }
    whole = figures["issue_s_per_key"] + figures["compose_s_per_copy"]
    figures["times_faster"] = figures["fine_tuning_s_per_key"] / whole
    figures["decoder_parameters"] = float(sum(p.numel() for p in trained.decoder.parameters()))
    close("issue_cost", figures, {})


def _ours(copies: int) -> dict[str, float]:
    """Seconds to issue a key and to compose its copy, and what the registry keeps of it."""
    with registered() as (folder, _commands):
        home = Home.open(folder / "home")
        issuer = Issuer.open(home, MODEL, RECIPIENT)
        issued, composed, size = [], [], 0
        for number in range(copies + 1):
            started = time.perf_counter()
            (document,) = issuer.issue(1)
            issued.append(time.perf_counter() - started)
            out = folder / f"copy-{number}"
            reference = str(document["copy_id"])
            composed.append(seconds(lambda reference=reference, out=out: download(home, reference, out)))  # type: ignore[misc]
            size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        home.database.close()
    return {
        "issue_s_per_key": statistics.median(issued[1:]),
        "compose_s_per_copy": statistics.median(composed[1:]),
        "copy_bytes_delivered": float(size),
        "copy_bytes_stored": 0.0,
    }


if __name__ == "__main__":
    main()
