"""The attribution network against the paper's search, on the same images: identified, bits, seconds.

python -m bench.inversion [--quick | --paper] [--model NAME[=FOLDER]] [--images N] [--steps N] [--starts N]
                          [--attack NAME ...] [--work FOLDER] [--out FILE]

Images of the generator's own sampler, each under a random key of its own, go through every attack of the
latent-fingerprint paper (none, blur of 0.5 pixels, noise of 0.1, JPEG 50, all three in a row). Each file is
read by the verifier with pose search, and inverted by :mod:`registry.attribution.inversion`. Either names an
image if the bound on its key, over a million keys and screening, is at most alpha; an auditor who tries both
pays log10 2 = 0.3 decades more. A plain run takes two images an attack and a search cut short, an hour on one
core; --paper takes the 2 000 steps from 20 starts on 20 images an attack, days on a processor, and only
then is the goal on identified images resolved. With --work every image is kept, and the same command goes on
after an interruption. Seconds are of one image on the machine as it was; those at the paper's settings are
scaled by steps and starts.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image

from bench.common import BUILTIN, Goal, close, kept
from bench.marked import ATTACKED, Marked, Reference, Signs, evidence, keys_for, open_reference, seeded
from registry.attribution.inversion import ContentSpace, Inversion, Settings, content_space, known_latents
from registry.attribution.perceptual import Perceptual, choose_perceptual
from registry.attribution.service import copies_generator
from registry.generators.adapters import Generator, to_images
from verifier.evidence import log10_tail

GOALS = {f"network_minus_inversion_{attack}": Goal(">=", 0.0) for attack in ATTACKED}
"""Under each attack of the paper the network is to identify at least as many images."""
PAPERS, PAPERS_IMAGES = Settings(), 20
PLAIN, PLAIN_IMAGES = Settings(steps=600, starts=2), 2
QUICK = Settings(steps=12, starts=2)
QUICK_IMAGES, QUICK_ATTACKS, QUICK_LATENTS = 2, ("none", "noise"), 200


@dataclass(frozen=True)
class Reading:
    """What one method made of one image: ``decades`` of evidence for its key, and shares of its bits."""

    identified: bool
    bits_right: float
    every_bit_right: bool
    decades: float
    seconds: float


@dataclass(frozen=True)
class Bench:
    """All that an image is read with."""

    reference: Reference
    generator: Generator
    space: ContentSpace
    settings: Settings
    perceptual: Perceptual
    work: Path

    def by_network(self, image: Image.Image, signs: Signs) -> Reading:
        """The verifier's way, pose search included."""
        began = time.perf_counter()
        ranked = self.reference.network.ranked([image])
        seconds = time.perf_counter() - began
        right = np.sign(ranked[0][0].logits) == signs
        return self._reading(right, evidence(ranked, signs), seconds)

    def by_inversion(self, image: Image.Image, signs: Signs, title: str) -> Reading:
        """The paper's way; an interrupted search goes on from its file."""
        search = Inversion(
            self.generator, self.reference.basis, self.space, image, self.settings, self.perceptual, self.work
        )
        result = search.run(title)
        search.checkpoint.unlink(missing_ok=True)  # the caller keeps the result
        decades = -log10_tail(result.logits, float(result.logits @ signs.astype(np.int64)))
        return self._reading(result.bits == signs, decades, result.seconds)

    def _reading(self, right: np.ndarray, decades: float, seconds: float) -> Reading:
        named = bool(self.reference.named(decades))
        return Reading(named, float(right.mean()), bool(right.all()), float(decades), seconds)

    def cached(self, name: str, method: str, read: Callable[[], Reading]) -> Reading:
        """``read()``, kept under ``name`` with all that it depends on."""
        used = [self.reference.basis.digest]
        if method == "network":
            used += [self.reference.network.digest]
        else:
            used += [json.dumps(asdict(self.settings)), self.perceptual.name, self.space.digest().hex()]
        return kept(self.work, f"{method}-{name}", [*used, name], Reading, read)


def measure(bench: Bench, marked: Marked, attack: str) -> dict[str, float]:
    """Figures of one attack: both methods on the same files."""
    network, inversion = [], []
    for number, (image, signs) in enumerate(zip(marked.images, marked.signs, strict=True)):
        attacked = ATTACKED[attack](image, seeded(number, attack))
        name = f"{attack}-{number:03d}"
        network.append(bench.cached(name, "network", partial(bench.by_network, attacked, signs)))
        title = f"{attack}, image {number + 1} of {len(marked.images)}"
        search = partial(bench.by_inversion, attacked, signs, title)
        inversion.append(bench.cached(name, "inversion", search))
    figures: dict[str, float] = {}
    for method, readings in (("network", network), ("inversion", inversion)):
        figures |= {
            f"{method}_identified_{attack}": float(np.mean([r.identified for r in readings])),
            f"{method}_bits_right_{attack}": float(np.mean([r.bits_right for r in readings])),
            f"{method}_every_bit_right_{attack}": float(np.mean([r.every_bit_right for r in readings])),
            f"{method}_evidence_50_{attack}": float(np.median([r.decades for r in readings])),
            f"{method}_seconds_{attack}": float(np.mean([r.seconds for r in readings])),
        }
    difference = figures[f"network_identified_{attack}"] - figures[f"inversion_identified_{attack}"]
    return {**figures, f"network_minus_inversion_{attack}": difference}


def seconds_an_image(figures: Mapping[str, float], settings: Settings) -> dict[str, float]:
    """Mean seconds of each method over the attacks, and the search's at the paper's settings."""
    means = {}
    for method in ("network", "inversion"):
        times = [value for name, value in figures.items() if name.startswith(f"{method}_seconds_")]
        means[f"{method}_seconds"] = float(np.mean(times))
    scale = PAPERS.steps * PAPERS.starts / (settings.steps * settings.starts)
    return {**means, "inversion_seconds_at_papers_settings": means["inversion_seconds"] * scale}


@click.command()
@click.option("--quick", is_flag=True, help="Two images, two attacks, a few steps: no goal is resolved.")
@click.option("--model", "name", default=BUILTIN, show_default=True, metavar="NAME[=FOLDER]")
@click.option("--paper", is_flag=True, help="The paper's settings, 20 images an attack: days on a processor.")
@click.option("--images", type=click.IntRange(1), help=f"Images an attack.  [default: {PLAIN_IMAGES}]")
@click.option("--steps", type=click.IntRange(1), help=f"[default: {PLAIN.steps}]")
@click.option("--starts", type=click.IntRange(1), help=f"[default: {PLAIN.starts}]")
@click.option("--attack", "attacks", multiple=True, type=click.Choice(list(ATTACKED)), help="Only these.")
@click.option("--lpips", type=click.Path(path_type=Path), help="Weights of the trunk for LPIPS.")
@click.option("--work", type=click.Path(path_type=Path), help="Keep latents and results here.")
@click.option("--out", type=click.Path(path_type=Path), help="Write all figures to this JSON file too.")
def main(
    quick: bool,
    paper: bool,
    name: str,
    images: int | None,
    steps: int | None,
    starts: int | None,
    attacks: Sequence[str],
    lpips: Path | None,
    work: Path | None,
    out: Path | None,
) -> None:
    """Compare network and inversion under the paper's attacks."""
    if quick and paper:
        raise click.UsageError("--quick and --paper exclude each other.")
    usual, usual_images = (PAPERS, PAPERS_IMAGES) if paper else (PLAIN, PLAIN_IMAGES)
    if quick:
        usual, usual_images, attacks = QUICK, QUICK_IMAGES, attacks or QUICK_ATTACKS
    settings, perceptual = Settings(steps or usual.steps, starts or usual.starts), choose_perceptual(lpips)
    images = images or usual_images
    reference = open_reference(name)
    with ExitStack() as stack:
        folder = work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hallmark-bench-")))
        kept = folder / reference.label.replace(" ", "-")
        kept.mkdir(parents=True, exist_ok=True)
        basis = reference.basis
        generator = copies_generator(reference.adapter, reference.weights, reference.generator, basis)
        known = known_latents(reference.generator, basis, kept, QUICK_LATENTS if quick else None)
        space = content_space(reference.adapter, reference.weights, basis, known)
        signs = keys_for(images, basis.bits, 1)
        offsets = basis.offsets(torch.from_numpy(signs))
        marked = Marked(to_images(generator.render(reference.latents(images), offsets)), signs)
        bench = Bench(reference, generator, space, settings, perceptual, kept)
        print(f"{reference.label}: {settings.steps} steps x {settings.starts} starts, loss {perceptual.name}")
        figures = {"images": float(images), "latents": float(len(known)), **asdict(settings)}
        for attack in attacks or ATTACKED:
            figures |= measure(bench, marked, attack)
    figures |= seconds_an_image(figures, settings)
    if out is not None:
        out.write_text(json.dumps(figures, indent=1) + "\n")
    # The goal is about the paper's search: a shorter one, or fewer images, says nothing about it.
    resolved = settings == PAPERS and images >= PAPERS_IMAGES
    close("inversion", figures, {n: goal for n, goal in GOALS.items() if resolved and n in figures})


if __name__ == "__main__":
    main()
