"""What a first stage of Stable Diffusion's size costs: seconds and peak memory of each thing done with it.

python -m bench.full_size [--quick]

The architecture is that of Stable Diffusion's autoencoder (84 million parameters) with random weights:
time and memory do not depend on their values. Each step runs in a process of its own, so that its peak
is its own. ``--quick`` renders and trains on smaller images.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import resource
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import click
import numpy as np
import torch

from bench.common import Goal, close, seconds
from registry.copies.splice import splice
from registry.fingerprints.basis import Basis
from registry.generators.latent_diffusion import WEIGHTS, LatentDiffusion, LatentDiffusionAdapter

BITS = 64
BATCH = 2
GIGABYTE = 1 << 20
"""In the kilobytes that the operating system reports."""
SIZES = {"full": (512, 256), "quick": (128, 64)}
"""Sides in pixels of the image rendered, and of those trained on."""
STABLE_DIFFUSION = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
"""The autoencoder of Stable Diffusion 1 and 2 as its ``config.json`` describes it."""

Step = Callable[[Path], float]


def build(folder: Path) -> float:
    """Write the model and a basis on all biases and normalisation gains of its decoder."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    model = AutoencoderKL(**STABLE_DIFFUSION, sample_size=512)
    taken = seconds(lambda: model.save_pretrained(folder / "model"))
    rng = np.random.default_rng(0)
    directions = {
        (WEIGHTS, name): (rng.standard_normal((BITS, len(parameter))) / 100).astype(np.float32)
        for name, parameter in model.named_parameters()
        if name.startswith("decoder.") and parameter.dim() == 1
    }
    Basis("learned", 0.01, 0, "sha256:0", directions).save(folder / "basis.safetensors")
    return taken


def check(folder: Path) -> float:
    """What registering does before it copies anything: shapes from the headers, values for NaN."""
    return seconds(lambda: LatentDiffusionAdapter().check(folder / "model"))


def template(folder: Path) -> float:
    """The folder that all copies share."""
    basis = Basis.load(folder / "basis.safetensors")
    return seconds(lambda: LatentDiffusionAdapter().prepare(folder / "model", folder / "template", basis))


def copy(folder: Path) -> float:
    """Compose one copy's weights as a download does: deltas, splicing, hashing, writing."""
    basis = Basis.load(folder / "basis.safetensors")
    source, target = folder / "template" / WEIGHTS, folder / "copy.safetensors"

    def compose() -> None:
        signs = np.random.default_rng(1).choice(np.array([-1, 1], np.int8), BITS)
        deltas = {name: delta for (_, name), delta in basis.deltas(signs).items()}
        digest = hashlib.sha256()
        with source.open("rb") as base, target.open("wb") as file:
            for chunk in splice(base, source.stat().st_size, deltas, {}).chunks(base):
                digest.update(chunk)
                file.write(chunk)

    return seconds(compose)


def render(side: int) -> Step:
    """One image of ``side`` pixels."""

    def step(folder: Path) -> float:
        generator = _load(folder)
        latents = torch.randn(1, 4, side // 8, side // 8)
        with torch.no_grad():
            return seconds(lambda: generator.render(latents))

    return step


def train(side: int) -> Step:
    """Forward and backward through the decoder, every image under a key of its own; directions learn."""

    def step(folder: Path) -> float:
        generator, basis = _load(folder), Basis.load(folder / "basis.safetensors")
        learned = {t: torch.from_numpy(d).requires_grad_() for t, d in basis.directions.items()}
        signs = torch.randint(0, 2, (BATCH, BITS)).float() * 2 - 1
        latents = torch.randn(BATCH, 4, side // 8, side // 8)

        def once() -> None:
            offsets = {target: basis.strength * signs @ d for target, d in learned.items()}
            generator.render(latents, offsets).square().mean().backward()

        return seconds(once)

    return step


def _load(folder: Path) -> LatentDiffusion:
    return LatentDiffusionAdapter().load(folder / "model")


def measured(step: Step, folder: Path) -> tuple[float, float]:
    """Seconds of ``step`` and the peak memory in GB of the process it ran in."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    # Forked, so that nothing is imported again: this process itself computes nothing.
    process = multiprocessing.get_context("fork").Process(target=_run, args=(step, folder, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise SystemExit("a step failed; see above") from None
    finally:
        process.join()


def _run(step: Step, folder: Path, answer: Connection) -> None:
    taken = step(folder)
    answer.send((taken, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIGABYTE))


@click.command()
@click.option("--quick", is_flag=True, help="Smaller images.")
@click.option("--threads", default=2, show_default=True)
def main(quick: bool, threads: int) -> None:
    """Measure each step on a model of full size."""
    torch.set_num_threads(threads)
    drawn, trained = SIZES["quick" if quick else "full"]
    steps: dict[str, Step] = {
        "save": build,
        "check": check,
        "template": template,
        "copy": copy,
        f"render_{drawn}px": render(drawn),
        f"train_{BATCH}x{trained}px": train(trained),
    }
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="hallmark-bench-") as name:
        for label, step in steps.items():
            figures[f"{label}_seconds"], figures[f"{label}_gb"] = measured(step, Path(name))
    # A copy must not need the memory of its model: it is composed while it streams.
    goals = {"copy_seconds": Goal("<=", 10.0), f"render_{drawn}px_gb": Goal("<=", 4.0)}
    close("full_size", figures, goals)


if __name__ == "__main__":
    main()
