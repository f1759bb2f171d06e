"""Our fingerprint beside `invisible-watermark` (dwtDct, dwtDctSvd, rivaGan): same images, same attacks.

python -m bench.peers [--quick] [--builtin NAME[=FOLDER]] [--images N] [--attack NAME ...]
                      [--photographs FOLDER|ZIP] [--out FILE]

Needs the extra `peers`. Clean images are the base model's at 256 pixels (enlarged where it makes smaller
ones; with --photographs, photographs that went through its autoencoder instead of samples). Each peer marks
them as a picture is marked; ours are the same latents from a copy, enlarged alike, a key for each image.
PSNR is against the clean image. There are two comparisons with every peer at equal PSNR:

shipped   the peer as it comes; ours at a strength that leaves at least the peer's PSNR
stronger  ours as it comes; the peer made stronger until it has no more than our PSNR

Evidence is -log10 p of the true key under the verifier's bound. For peers, which give hard bits, each bit
gets the weight that its error rate on the other images under this very attack deserves. All three carry 32
bits, which is what the goals compare; the dwt methods, tried with up to 256, are also shown at the payload
that gives most under each attack.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from bench.attribution import benchmark_attack
from bench.common import BUILTIN, Goal, close
from bench.marked import Reference, Signs, evidence, keys_for, open_reference, pixels, seeded
from registry.attribution.attacks import BENCHMARK
from registry.errors import InputError
from registry.generators.adapters import to_images
from registry.generators.latent_diffusion import LatentDiffusion
from registry.generators.photographs import load_photographs
from registry.progress import progress
from verifier.evidence import log10_tail

SIDE = 256
"""The least that invisible-watermark accepts."""
METHODS = {"dwtDct": (32, 64, 128, 256), "dwtDctSvd": (32, 64, 128, 256), "rivaGan": (32,)}
"""Payloads in bits that each method is tried with."""
SCALE = 36.0
"""The strength that both dwt methods come with, on their chrominance channel U."""
QUICK = ("clean", "paper-jpeg", "paper-noise", "waves-crop")
TOLERANCE_DB = 0.05
SEARCH_STEPS = 16
CLIP, QUANTUM = 8.0, 1 / 16

Images = list[Image.Image]


@dataclass(frozen=True)
class Row:
    """Evidence in decades of one scheme under one attack; ``bits_right`` of its payload."""

    comparison: str
    scheme: str
    bits: int
    psnr_db: float
    attack: str
    bits_right: float
    evidence_5: float
    evidence_50: float
    ms_to_read: float


@dataclass(frozen=True)
class Peer:
    """One method of invisible-watermark with one length of payload, at ``gain`` times its own strength."""

    method: str
    bits: int
    gain: float = 1.0

    def mark(self, images: Images, signs: Signs) -> Images:
        """The images with the payloads ``signs`` (n, bits)."""
        return [self._mark(image, key) for image, key in zip(images, signs, strict=True)]

    def read(self, image: Image.Image) -> NDArray[np.int8]:
        """Signs (bits,) of one image."""
        decoder = _watermark().WatermarkDecoder("bits", self.bits)
        found = decoder.decode(_bgr(image), self.method, **self._options())
        return np.where(np.asarray(found) > 0, 1, -1).astype(np.int8)

    def _mark(self, image: Image.Image, key: NDArray[np.int8]) -> Image.Image:
        encoder = _watermark().WatermarkEncoder()
        encoder.set_watermark("bits", (key > 0).astype(int).tolist())
        marked = _rgb(encoder.encode(_bgr(image), self.method, **self._options()))
        if self.method != "rivaGan" or self.gain == 1:
            return marked
        clean = np.asarray(image, np.float32)
        louder = clean + self.gain * (np.asarray(marked, np.float32) - clean)
        return Image.fromarray(np.clip(np.rint(louder), 0, 255).astype(np.uint8))

    def _options(self) -> dict[str, Any]:
        """The strength, which reading needs too; rivaGan has none, so what it adds is scaled instead."""
        return {} if self.method == "rivaGan" else {"scales": [0, SCALE * self.gain, 0]}


@cache
def _watermark() -> ModuleType:
    try:
        module = importlib.import_module("imwatermark")
    except ImportError as error:
        raise InputError(
            f"invisible-watermark is not installed ({error}).",
            "Run `pip install 'hallmark[peers]'`, then `pip install --no-deps invisible-watermark`: "
            "its own dependencies include another OpenCV and torch.",
        ) from None
    module.WatermarkEncoder.loadModel()
    return module


def _bgr(image: Image.Image) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.asarray(image)[..., ::-1])


def _rgb(array: NDArray[Any]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(array[..., ::-1]))


def enlarged(images: torch.Tensor) -> Images:
    """Files of ``SIDE`` pixels of images (n, 3, h, w)."""
    found = to_images(images)
    return [i if i.size == (SIDE, SIDE) else i.resize((SIDE, SIDE), Image.Resampling.BICUBIC) for i in found]


def mean_psnr(images: Images, clean: Images) -> float:
    """Mean PSNR in dB."""
    error = (pixels(images) - pixels(clean)).square().flatten(1).mean(1)
    return float((-10 * torch.log10(error.clamp_min(1e-12))).mean())


def ours_at(reference: Reference, latents: torch.Tensor, signs: Signs, clean: Images, least: float) -> Images:
    """Our marked images at the largest strength, up to the shipped one, that leaves ``least`` dB."""
    basis = reference.basis

    def at(strength: float) -> Images:
        weaker = replace(reference, basis=basis.with_strength(strength, {}))
        return enlarged(weaker.render(latents, signs))

    strength = basis.strength
    for _ in range(SEARCH_STEPS):
        marked = at(strength)
        missing = least - mean_psnr(marked, clean)
        if missing <= 0 and (strength == basis.strength or missing > -2 * TOLERANCE_DB):
            return marked
        strength = min(basis.strength, strength * 10 ** (-(missing + TOLERANCE_DB) / 20))
    raise InputError(f"no strength of {reference.label} leaves {least:.1f} dB.")


def stronger(peer: Peer, signs: Signs, clean: Images, most: float) -> tuple[Peer, Images]:
    """The peer, not weaker than it is shipped, and its images, at ``most`` dB or less."""
    for _ in range(SEARCH_STEPS):
        marked = peer.mark(clean, signs)
        excess = mean_psnr(marked, clean) - most
        if excess <= 0:
            return peer, marked
        peer = replace(peer, gain=peer.gain * 10 ** ((excess + TOLERANCE_DB) / 20))
    raise InputError(f"{peer.method} cannot be made as strong as {most:.1f} dB.")


def peer_evidence(read: Signs, signs: Signs) -> NDArray[np.float64]:
    """Evidence (n,) of hard bits (n, k) for the payloads, each bit weighted by its rate of errors.

    The rate is that of the other images: counted on the image itself it would lend it evidence.
    """
    right = (read == signs).astype(np.int64)
    others = right.sum(0) - right
    rate = (others + 1) / (len(signs) + 1)
    weight = np.clip(np.log(rate / (1 - rate)), 0, CLIP)
    logits = np.rint(read * weight / QUANTUM)
    scores = (logits * signs).sum(1)
    return -np.asarray(log10_tail(logits, scores))


def measure_ours(
    reference: Reference, images: Images, signs: Signs, attacks: Sequence[str]
) -> dict[str, tuple[float, NDArray[np.float64], float]]:
    """For each attack bits right, evidence (n,) and milliseconds to read an image."""
    found = {}
    for name in attacks:
        attacked = _attacked(images, name)
        decades, right, taken = np.empty(len(images)), 0.0, 0.0
        with progress(f"{reference.label} {name}", len(images)) as bar:
            for number, (image, key) in enumerate(zip(attacked, signs, strict=True)):
                started = time.perf_counter()
                ranked = reference.network.ranked([image])
                taken += time.perf_counter() - started
                decades[number] = evidence(ranked, key)
                right += float((np.sign(ranked[0][0].logits) == key).mean())
                bar.update(number + 1)
        found[name] = (right / len(images), decades, 1000 * taken / len(images))
    return found


def measure_peer(
    peer: Peer, images: Images, signs: Signs, attacks: Sequence[str]
) -> dict[str, tuple[float, NDArray[np.float64], float]]:
    """The same for a peer."""
    found = {}
    with progress(f"{peer.method} {peer.bits} bits", len(attacks)) as bar:
        for number, name in enumerate(attacks, 1):
            attacked = _attacked(images, name)
            started = time.perf_counter()
            read = np.stack([peer.read(image) for image in attacked])
            taken = time.perf_counter() - started
            right = float((read == signs).mean())
            found[name] = (right, peer_evidence(read, signs), 1000 * taken / len(images))
            bar.update(number)
    return found


def _attacked(images: Images, name: str) -> Images:
    attack: Callable[..., Image.Image] = benchmark_attack(name)
    return [attack(image, seeded(number, name)) for number, image in enumerate(images)]


def rows_of(
    comparison: str,
    scheme: str,
    bits: int,
    psnr: float,
    found: dict[str, tuple[float, NDArray[np.float64], float]],
) -> list[Row]:
    """Lines of the table."""
    return [
        Row(
            comparison,
            scheme,
            bits,
            psnr,
            attack,
            right,
            float(np.quantile(decades, 0.05)),
            float(np.median(decades)),
            taken,
        )
        for attack, (right, decades, taken) in found.items()
    ]


def compare(
    reference: Reference, latents: torch.Tensor, attacks: Sequence[str], methods: Sequence[str]
) -> list[Row]:
    """All lines: both comparisons with each method."""
    n = len(latents)
    clean = enlarged(reference.render(latents))
    signs = keys_for(n, reference.basis.bits, 1)
    marked = enlarged(reference.render(latents, signs))
    our_psnr = mean_psnr(marked, clean)
    ours = measure_ours(reference, marked, signs, attacks)
    rows = rows_of("stronger", reference.label, reference.basis.bits, our_psnr, ours)
    for method in methods:
        shipped_psnr = []
        for bits in METHODS[method]:
            peer, payload = Peer(method, bits), keys_for(n, bits, 1)
            shipped = peer.mark(clean, payload)
            psnr = mean_psnr(shipped, clean)
            shipped_psnr.append(psnr)
            rows += rows_of("shipped", method, bits, psnr, measure_peer(peer, shipped, payload, attacks))
            if psnr > our_psnr:
                louder, images = stronger(peer, payload, clean, our_psnr)
                found = measure_peer(louder, images, payload, attacks)
                rows += rows_of("stronger", method, bits, mean_psnr(images, clean), found)
        quieter = ours_at(reference, latents, signs, clean, max(shipped_psnr))
        weaker = measure_ours(reference, quieter, signs, attacks)
        label, psnr = f"{reference.label} for {method}", mean_psnr(quieter, clean)
        rows += rows_of("shipped", label, reference.basis.bits, psnr, weaker)
    return rows


def figures_of(rows: Sequence[Row], label: str, methods: Sequence[str]) -> dict[str, float]:
    """For each method and comparison the least lead of our median evidence over the peer's.

    Over 32 bits, the payload that all three carry, and over whichever payload is best under the attack.
    """
    figures: dict[str, float] = {}
    for method in methods:
        for comparison, scheme in (("shipped", f"{label} for {method}"), ("stronger", label)):
            of_comparison = [row for row in rows if row.comparison == comparison]
            ours = {row.attack: row.evidence_50 for row in of_comparison if row.scheme == scheme}
            theirs = [row for row in of_comparison if row.scheme == method]
            for payload, chosen in (
                ("32_bits", [row for row in theirs if row.bits == 32]),
                ("any_payload", theirs),
            ):
                best: dict[str, float] = {}
                for row in chosen:
                    best[row.attack] = max(row.evidence_50, best.get(row.attack, 0.0))
                leads = [ours[attack] - best[attack] for attack in ours if attack in best]
                if leads:
                    name = f"{method} {comparison} {payload}"
                    figures[f"{name} least_lead"] = min(leads)
                    figures[f"{name} attacks_ahead"] = sum(lead > 0 for lead in leads) / len(leads)
    return figures


def show(rows: Sequence[Row]) -> None:
    """Print the table in Markdown."""
    print("| comparison | scheme | bits | PSNR | attack | bits right | 5th | median | ms to read |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| {row.comparison} | {row.scheme} | {row.bits} | {row.psnr_db:.2f} | {row.attack} "
            f"| {row.bits_right:.3f} | {row.evidence_5:.1f} | {row.evidence_50:.1f} | {row.ms_to_read:.0f} |"
        )


def photographs_as_latents(reference: Reference, source: Path, n: int) -> torch.Tensor:
    """Latents of ``n`` photographs under the generator's own encoder."""
    if not isinstance(reference.generator, LatentDiffusion):
        raise InputError(f"--photographs: {reference.label} has no encoder.", "Leave the option out.")
    photographs = load_photographs(source, reference.generator.size)[:n].float() / 127.5 - 1
    with torch.no_grad():
        stage = reference.generator.first_stage
        return torch.cat([stage.encode(part).latent_dist.mean for part in photographs.split(64)])


@click.command()
@click.option("--quick", is_flag=True, help="A few images and attacks only.")
@click.option("--builtin", default=BUILTIN, show_default=True, help="NAME or NAME=FOLDER.")
@click.option("--images", default=60, show_default=True, help="Images for each attack.")
@click.option("--attack", "attacks", multiple=True, type=click.Choice(list(BENCHMARK)), help="Only these.")
@click.option(
    "--method", "methods", multiple=True, type=click.Choice(list(METHODS)), help="Only these peers."
)
@click.option("--photographs", type=click.Path(exists=True, path_type=Path), help="Instead of samples.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the whole table to this JSON file too.")
def main(
    quick: bool,
    builtin: str,
    images: int,
    attacks: Sequence[str],
    methods: Sequence[str],
    photographs: Path | None,
    out: Path | None,
) -> None:
    """Compare evidence at equal PSNR under each attack."""
    if quick:
        images, attacks, methods = 8, attacks or QUICK, methods or ("dwtDctSvd",)
    _watermark()
    attacks, methods = attacks or list(BENCHMARK), methods or list(METHODS)
    reference = open_reference(builtin)
    latents = (
        reference.latents(images)
        if photographs is None
        else photographs_as_latents(reference, photographs, images)
    )
    rows = compare(reference, latents, attacks, methods)
    show(rows)
    figures = figures_of(rows, reference.label, methods)
    if out is not None:
        document = {"figures": figures, "rows": [asdict(row) for row in rows]}
        out.write_text(json.dumps(document, indent=1) + "\n")
    goals = (
        {} if quick else {name: Goal(">=", 0.0) for name in figures if name.endswith("32_bits least_lead")}
    )
    close("peers", figures, goals)


if __name__ == "__main__":
    main()
