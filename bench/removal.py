"""What a determined attacker reaches: regeneration, collusion, forgery, removal with the network, weights.

python -m bench.removal [--quick] [--builtin NAME[=FOLDER] ...] [--only PART ...] [--images N]
                        [--foreign NAME ...] [--photographs FOLDER|ZIP] [--out FILE]

The parts, each on images of the generator's own sampler, read by the verifier with pose search:

regeneration   clean images through the generator's own and through other autoencoders (--foreign)
collusion      2 to 5 copies averaged, or interleaved tensor by tensor: colluders and innocents named
forgery        the residual of one copy, estimated from 1 to 1000 of its images with the base model's of
               the same latents or of others, pasted into fresh images: how many are led to the victim
adversarial    the attacker holds the network and its gradients: evidence left at each PSNR
weights        copies pruned by 10 to 30 % and, for autoencoders, fine-tuned on photographs
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from PIL import Image

from bench.common import BUILTIN, Goal, close
from bench.marked import Copies, Reference, Signs, evidence, keys_for, open_reference
from bench.onnx_torch import load_onnx
from registry.attribution.removal import (
    averaged,
    fine_tune,
    forge,
    innocents,
    interleaved,
    pruned,
    regenerate,
    residual,
    suppress,
)
from registry.generators.adapters import Generator, get_adapter, to_images
from registry.generators.builtin import resolve_builtin
from registry.generators.latent_diffusion import LatentDiffusion
from registry.generators.photographs import load_photographs
from registry.generators.sampling import adapter_of
from registry.progress import progress
from verifier.evidence import log10_tail
from verifier.network import Reading

PARTS = ("regeneration", "collusion", "forgery", "adversarial", "weights")
SET = 8
COLLUDERS = (2, 3, 4, 5)
INNOCENTS = 10_000
FORGERY_IMAGES = (1, 3, 10, 30, 100, 300, 1000)
PSNRS = (55, 50, 46, 43, 40, 37, 34)
PRUNED = (0.1, 0.2, 0.3)
FINE_TUNING = (100, 300)
TWO_COLLUDERS = Goal(">=", 0.8)
Figures = dict[str, float]


def regeneration(reference: Reference, images: int, foreign: Sequence[str]) -> Figures:
    """Share identified, and PSNR to the marked image, after each autoencoder."""
    latents = reference.latents(images)
    signs = keys_for(images, reference.basis.bits, SET)
    marked = reference.render(latents, signs)
    autoencoders = {name: first_stage(name) for name in foreign}
    if isinstance(reference.generator, LatentDiffusion):
        autoencoders["own"] = reference.generator.first_stage
    figures = {}
    for name, autoencoder in autoencoders.items():
        for noise in (0.0, 0.2):
            regenerated = regenerate(marked, autoencoder, noise)
            title = f"regenerated {name}" + (f" noise {noise:g}" if noise else "")
            figures[f"{title} psnr_db"] = mean_psnr(regenerated, marked)
            figures |= read(reference, regenerated, signs, title)
    return figures


def collusion(reference: Reference, images: int) -> Figures:
    """Sets of eight images of mixed copies: at least one colluder named, and any innocent."""
    latents = reference.latents(images)
    strangers = innocents(reference.basis.bits, INNOCENTS).astype(np.float32)
    figures: Figures = {}
    for colluders in COLLUDERS:
        for kind in ("averaged", "interleaved"):
            named, images_named, accused, tests = [], [], 0, 0
            with progress(f"{reference.label} {colluders} {kind}", images) as bar:
                for number, start in enumerate(range(0, images - SET + 1, SET)):
                    signs = keys_for(colluders, reference.basis.bits, 1, seed=1 + number)
                    pixels = mix(reference, latents[start : start + SET], signs, kind, number)
                    ranked = reference.network.ranked(to_images(pixels))
                    decades = [evidence(ranked, key) for key in signs]
                    named.append(reference.named(max(decades)))
                    images_named += [
                        reference.named(max(evidence([each], key) for key in signs)) for each in ranked
                    ]
                    accused += innocent_accusations(reference, ranked, strangers)
                    tests += 1
                    bar.update(start + SET)
            title = f"{colluders} {kind}"
            figures[f"{title} sets_naming_one"] = float(np.mean(named))
            figures[f"{title} images_naming_one"] = float(np.mean(images_named))
            figures[f"{title} innocents_accused"] = float(accused)
            figures[f"{title} innocents_tested"] = float(tests * INNOCENTS)
    return figures


@torch.no_grad()
def mix(reference: Reference, latents: torch.Tensor, signs: Signs, kind: str, seed: int) -> torch.Tensor:
    """Images (n, 3, size, size) of the latents rendered by weights made of the colluders' (m, k)."""
    keys = [torch.from_numpy(key).expand(len(latents), -1) for key in signs]
    if kind == "averaged":
        return reference.generator.render(latents, averaged(keys, reference.basis))
    rng = torch.Generator().manual_seed(seed)
    offsets = interleaved([key[:1] for key in keys], reference.basis, rng)
    repeated = {target: value.expand(len(latents), *value.shape[1:]) for target, value in offsets.items()}
    return reference.generator.render(latents, repeated)


def innocent_accusations(
    reference: Reference, ranked: Sequence[Sequence[Reading]], strangers: NDArray[np.float32]
) -> int:
    """How many of the ``strangers`` the pooled reading would name: only the best-scoring one is bounded."""
    pooled = np.stack([readings[0].logits for readings in ranked]).sum(0)
    scores = strangers @ pooled.astype(np.float32)
    order = np.argsort(-scores)
    count = 0
    for index in order:
        if not reference.named(-log10_tail(pooled, float(scores[index]))):
            break
        count += 1
    return count


def forgery(reference: Reference, images: int, most: int) -> Figures:
    """Share of forged images led to the victim, by the number of images the residual is estimated from."""
    counts = [n for n in FORGERY_IMAGES if n <= most]
    latents = reference.latents(2 * counts[-1] + images)
    published, others, fresh = latents.split([counts[-1], counts[-1], images])
    victim = keys_for(1, reference.basis.bits, 1)
    of_victim = as_files(reference.render(published, victim.repeat(len(published), 0)))
    same, other = (as_files(reference.render(part)) for part in (published, others))
    targets = reference.render(fresh)
    genuine = reference.render(fresh, victim.repeat(images, 0))
    figures = {"forged genuine psnr_db": mean_psnr(genuine, targets)}
    figures |= read(reference, genuine, victim.repeat(images, 0), "genuine")
    for base, kind in ((same, "same latents"), (other, "other latents")):
        for n in counts:
            forged = forge(targets, residual(of_victim[:n], base[:n]))
            title = f"forged {kind} {n}"
            figures[f"{title} psnr_db"] = mean_psnr(forged, targets)
            figures |= read(reference, forged, victim.repeat(images, 0), title)
    return figures


def adversarial(reference: Reference, images: int) -> Figures:
    """Evidence left for the true key at each PSNR, and the highest at which fewer than half are named."""
    latents = reference.latents(images)
    signs = keys_for(images, reference.basis.bits, SET)
    marked = reference.render(latents, signs)
    network = differentiable(reference)
    figures: Figures = {}
    for psnr in PSNRS:
        cleaned = torch.cat([suppress(network, part, psnr) for part in marked.split(32)])
        figures |= read(reference, cleaned, signs, f"adversarial {psnr} dB")
        figures[f"adversarial {psnr} dB reached_psnr_db"] = mean_psnr(cleaned, marked)
    gone = [psnr for psnr in PSNRS if figures[f"adversarial {psnr} dB identified"] < 0.5]
    figures["adversarial vanishes_db"] = float(max(gone, default=0))
    return figures


def differentiable(reference: Reference) -> Callable[[torch.Tensor], torch.Tensor]:
    """The shipped network on images (n, 3, h, w) in [0, 1], with gradients."""
    graph = load_onnx(reference.package / "network.onnx")
    side = reference.network.spec.size

    def logits(images: torch.Tensor) -> torch.Tensor:
        if images.shape[-1] != side:
            images = F.interpolate(images, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        return graph(images.permute(0, 2, 3, 1) * 255)

    return logits


def weights(reference: Reference, images: int, photographs: torch.Tensor | None) -> Figures:
    """Share identified from copies whose weights were pruned or trained on."""
    latents = reference.latents(images)
    figures: Figures = {}
    with tempfile.TemporaryDirectory(prefix="hallmark-bench-") as folder:
        copies = Copies(reference, Path(folder))
        for share in PRUNED:
            marked = copies.mark(latents, SET, partial(pruned, share=share), f"pruned {share:.0%}")
            figures |= _read_images(reference, marked.images, marked.signs, f"pruned {share:.0%}")
        if photographs is not None and isinstance(reference.generator, LatentDiffusion):
            figures |= _fine_tuned(reference, copies, latents, photographs)
    return figures


def _fine_tuned(
    reference: Reference, copies: Copies, latents: torch.Tensor, photographs: torch.Tensor
) -> Figures:
    """One copy, trained on; all images are its own."""
    (key,) = keys_for(1, reference.basis.bits, 1)
    copy: Generator = copies.load(key)
    assert isinstance(copy, LatentDiffusion)
    signs = key[None].repeat(len(latents), 0)
    figures, done = read(reference, _rendered(copy, latents), signs, "fine-tuned 0"), 0
    for steps in FINE_TUNING:
        fine_tune(copy.first_stage, photographs, steps - done)
        done = steps
        figures |= read(reference, _rendered(copy, latents), signs, f"fine-tuned {steps}")
    return figures


@torch.no_grad()
def _rendered(generator: Generator, latents: torch.Tensor) -> torch.Tensor:
    return generator.render(latents)


def first_stage(name: str) -> AutoencoderKL:
    """The autoencoder of a builtin latent-diffusion model."""
    folder = resolve_builtin(name).weights
    generator = get_adapter(adapter_of(folder)).load(folder)
    if not isinstance(generator, LatentDiffusion):
        raise click.BadParameter(f"{name} has no autoencoder.", param_hint="--foreign")
    return generator.first_stage


def read(reference: Reference, images: torch.Tensor, signs: Signs, title: str) -> Figures:
    """Share identified and the median evidence for the keys ``signs``, of images saved as files."""
    return _read_images(reference, to_images(images), signs, title)


def _read_images(reference: Reference, images: Sequence[Image.Image], signs: Signs, title: str) -> Figures:
    decades = reference.identified(images, signs, f"{reference.label} {title}")
    return {
        f"{title} identified": reference.share_named(decades),
        f"{title} evidence_50": float(np.median(decades)),
    }


def as_files(images: torch.Tensor) -> torch.Tensor:
    """Images rounded to 8 bit, as they are published."""
    return (images * 255).round() / 255


def mean_psnr(images: torch.Tensor, others: torch.Tensor) -> float:
    """Mean PSNR in dB."""
    error = (as_files(images) - as_files(others)).square().flatten(1).mean(1)
    return float((-10 * torch.log10(error.clamp_min(1e-12))).mean())


@click.command()
@click.option("--quick", is_flag=True, help="A few images only.")
@click.option(
    "--builtin", "builtins", multiple=True, default=[BUILTIN], show_default=True, help="NAME or NAME=FOLDER."
)
@click.option("--only", "parts", multiple=True, type=click.Choice(PARTS), default=PARTS, help="These parts.")
@click.option("--images", default=200, show_default=True, help="Images for each figure.")
@click.option("--foreign", multiple=True, help="Builtins whose autoencoders regenerate images.")
@click.option("--photographs", type=click.Path(exists=True, path_type=Path), help="For fine-tuning copies.")
@click.option("--out", type=click.Path(path_type=Path), help="Write all figures to this JSON file too.")
def main(
    quick: bool,
    builtins: Sequence[str],
    parts: Sequence[str],
    images: int,
    foreign: Sequence[str],
    photographs: Path | None,
    out: Path | None,
) -> None:
    """Measure what is left after deliberate attacks."""
    images, most = (16, 30) if quick else (images, FORGERY_IMAGES[-1])
    figures: Figures = {}
    for name in builtins:
        reference = open_reference(name)
        real = load_photographs(photographs, reference.generator.size) if photographs else None
        run: dict[str, Callable[[], Figures]] = {
            "regeneration": partial(regeneration, reference, images, foreign),
            "collusion": partial(collusion, reference, images),
            "forgery": partial(forgery, reference, images, most),
            "adversarial": partial(adversarial, reference, images),
            "weights": partial(weights, reference, images, real),
        }
        prefix = "" if len(builtins) == 1 else f"{reference.label} "
        for part in parts:
            figures |= {prefix + title: value for title, value in run[part]().items()}
            if out is not None:
                out.write_text(json.dumps(figures, indent=1) + "\n")
    goals = {
        title: TWO_COLLUDERS
        for title in figures
        if not quick and title.endswith(" sets_naming_one") and "2 " in title
    }
    goals |= {title: Goal("<=", 0) for title in figures if title.endswith("innocents_accused")}
    close("removal", figures, goals)


if __name__ == "__main__":
    main()
