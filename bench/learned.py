"""Learned directions against principal components: one generator, one quality, one attack mix, one run.

python -m bench.learned [--quick] [--builtin NAME] [--shipped] [--bits K] [--psnr DB] [--steps N] [--images N]
                        [--latents N --photographs FOLDER|ZIP] [--work FOLDER]

Both schemes are made and measured by `registry model study`: the same latents and number of bits, strengths
that leave the same PSNR, networks trained for as many steps, the paper's attacks on the same images. The
figure is the evidence of one image, the 5th percentile over all attacks together. With --photographs (of what
the generator was trained on) --latents images of base and copies, of the same latents, also say by how much
the Frechet distance to them grows, with a bootstrap interval. With --shipped (and in a quick run) the learned
basis and network are those that the builtin comes with, trained for longer than PCA's here, and nothing is
learned anew. With --work an interrupted run goes on.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch

from bench.common import Goal, close
from registry.attribution.folders import training_path
from registry.attribution.study.measuring import run
from registry.attribution.study.plan import Sweep
from registry.attribution.study.results import CLEAN, MIX, Result
from registry.errors import InputError
from registry.fingerprints.basis import Basis
from registry.fingerprints.frechet import Features, Increase, frechet_increase, image_features
from registry.fingerprints.quality import random_signs
from registry.generators import service as generators
from registry.generators.adapters import Generator, get_adapter
from registry.generators.builtin import resolve_builtin
from registry.generators.photographs import load_photographs
from registry.generators.sampling import adapter_of
from registry.home import Home
from registry.progress import progress

BUILTIN = "flowers-stylegan2@1"
SCHEMES: Sequence[str] = ("pca", "learned")
LATENT_SEED = 4048
PART = 50
LEAST = 0.1
"""Decades; what a key has in images that say nothing of it, so no ratio is taken to less."""
EVIDENCE = Goal(">=", 1.5)
FRECHET = Goal("<=", 0.5)


def evidence_figures(results: Sequence[Result]) -> dict[str, float]:
    """Quality and evidence of both schemes, and the learned one's share of PCA's."""
    figures: dict[str, float] = {}
    for result in results:
        scheme = result.point.scheme
        figures |= {
            f"{scheme}_psnr_db": result.quality["psnr_db"],
            f"{scheme}_perceptual": result.quality["perceptual"],
            f"{scheme}_frechet_to_base": result.quality["frechet"],
            f"{scheme}_bits_right_{CLEAN}": result.attacks[CLEAN]["bits_right"],
            **{
                f"{scheme}_{figure}_{attack}": result.attacks[attack][figure]
                for attack in (CLEAN, MIX)
                for figure in ("evidence_5", "evidence_50")
            },
        }
    for name in ("evidence_5_mix", "evidence_50_mix", "evidence_50_clean"):
        pca, learned = (max(LEAST, figures[f"{scheme}_{name}"]) for scheme in SCHEMES)
        figures[f"{name}_ratio"] = learned / pca
    return figures


@torch.no_grad()
def increase(generator: Generator, basis: Basis, n: int, real: Features) -> Increase:
    """By how much copies are further from the photographs than the base model, over ``n`` same latents."""
    signs = random_signs(n, basis.bits, seed=1)
    latents = generator.sample_latents(n, LATENT_SEED)
    base, copies = [], []
    with progress(f"images, {basis.scheme}", n) as bar:
        for start in range(0, n, PART):
            part = latents[start : start + PART]
            offsets = basis.offsets(signs[start : start + PART])
            base.append(image_features(_rounded(generator.render(part))))
            copies.append(image_features(_rounded(generator.render(part, offsets))))
            bar.update(start + len(part))
    return frechet_increase(np.concatenate(base), np.concatenate(copies), real)


def _rounded(images: torch.Tensor) -> torch.Tensor:
    return images.mul(255).round().clamp(0, 255) / 255


def frechet_figures(increases: dict[str, Increase]) -> dict[str, float]:
    """The increases with their intervals; their ratio where PCA's is one at all."""
    figures: dict[str, float] = {}
    for scheme, found in increases.items():
        figures |= {
            f"{scheme}_frechet_increase": found.value,
            f"{scheme}_frechet_increase_low": found.low,
            f"{scheme}_frechet_increase_high": found.high,
        }
    if increases["pca"].significant:
        figures["frechet_increase_ratio"] = increases["learned"].value / increases["pca"].value
    return figures


@click.command()
@click.option("--quick", is_flag=True, help="A few steps and images: no goal is resolved.")
@click.option("--builtin", default=BUILTIN, show_default=True, metavar="NAME@VERSION")
@click.option("--shipped", is_flag=True, help="The builtin's own learned basis and network.")
@click.option("--bits", default=64, show_default=True, help="Length of the keys.")
@click.option("--psnr", default=27.0, show_default=True, help="Between copies and base, dB.")
@click.option("--steps", default=1000, show_default=True, help="Of training for each network.")
@click.option("--images", default=200, show_default=True, help="For evidence.")
@click.option("--latents", default=5000, show_default=True, help="For Frechet distances.")
@click.option("--photographs", type=click.Path(exists=True, path_type=Path), help="For Frechet distances.")
@click.option("--work", type=click.Path(path_type=Path), help="Keep everything here and go on from it.")
def main(
    quick: bool,
    builtin: str,
    shipped: bool,
    bits: int,
    psnr: float,
    steps: int,
    images: int,
    latents: int,
    photographs: Path | None,
    work: Path | None,
) -> None:
    """Measure what learned directions gain over principal components."""
    if quick:
        shipped, steps, images, latents = True, 4, 16, 40
    name = f"builtin:{builtin.removeprefix('builtin:')}"
    with contextlib.ExitStack() as stack:
        folder = work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hallmark-bench-")))
        if not (folder / "home").exists():
            Home.create(folder / "home")
        home = Home.open(folder / "home")
        stack.callback(home.close)
        results, bases, generator = compare(
            home,
            name,
            Sweep(bits=str(bits), psnrs=f"{psnr:g}", shifts="last", steps=steps, images=images),
            shipped,
        )
        figures = {"bits": float(bits), "steps": float(steps), **evidence_figures(results)}
        if photographs is not None:
            pictures = load_photographs(photographs, generator.size).float() / 255
            real = np.concatenate([image_features(part) for part in pictures.split(PART)])
            found = {basis.scheme: increase(generator, basis, latents, real) for basis in bases}
            figures |= frechet_figures(found)
    # Either is enough: more evidence at equal quality. The distances say what that quality hides.
    close("learned", figures, {} if quick else {"evidence_5_mix_ratio": EVIDENCE})


def compare(
    home: Home, weights: str, sweep: Sweep, shipped: bool
) -> tuple[list[Result], list[Basis], Generator]:
    """The study's figures of both schemes, their bases in the same order, and the base model."""
    builtin = resolve_builtin(weights)
    adapter = get_adapter(adapter_of(builtin.weights))
    schemes = SCHEMES
    if shipped:
        model, schemes, options = "shipped", SCHEMES[:1], generators.SchemeOptions()
    else:
        # Other options than the builtin's own: neither its basis nor its network has a part in this.
        bits, psnr = int(sweep.bits), float(sweep.psnrs)
        model, options = "learned", generators.SchemeOptions("learned", bits, psnr=psnr)
    with home.database.read() as session:
        known = [found.name for found in generators.models(session)]
    if model not in known:
        generators.add_model(home, model, adapter.name, weights, options)
    results = run(home, model, replace(sweep, schemes=",".join(schemes)), data=None, say=print).results
    if [result.point.scheme for result in results] != list(SCHEMES):
        raise InputError(f"{weights}: comes with no learned basis.", "Leave --shipped and --quick out.")
    with home.database.read() as session:
        study = training_path(home, generators.get_model(session, model)) / "study"
    paths = [*study.glob("*/basis.safetensors"), *filter(None, [builtin.basis])]
    kept = [Basis.load(path) for path in paths]
    wanted = [(result.point.scheme, result.strength) for result in results]
    bases = {(basis.scheme, basis.strength): basis for basis in kept}
    return list(results), [bases[one] for one in wanted], adapter.load(builtin.weights)


if __name__ == "__main__":
    main()
