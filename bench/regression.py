"""What a linear reading of the pixels makes of a key, beside the network that begins as one.

python -m bench.regression [--quick] [--builtin NAME[=FOLDER]] [--fitted N] [--images N] [--out FILE]

For generators without a latent grid: the ridge regression of the bits on the pixels of --fitted images of
copies, a key each, is what the attribution network starts from (:mod:`registry.attribution.pixel_network`).
Both read the same --images whole images of other latents, clean and after the paper's attacks; figures are
shares of bits read right and the median evidence of an image, in decades.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from bench.common import close
from bench.marked import ATTACKED, Reference, Signs, keys_for, open_reference, seeded
from registry.attribution.network import Resolution
from registry.attribution.pixel_network import PixelNetwork
from registry.attribution.training import RenderedImages, quantised, read, regression, whole
from registry.errors import InputError
from registry.generators.adapters import to_images
from verifier.evidence import log10_tail

BUILTIN = "builtin:flowers-stylegan2@1"
FITTED_SEED = 77
QUICK_FITTED, QUICK_IMAGES = 400, 20


def fitted(reference: Reference, count: int) -> PixelNetwork:
    """The network as it begins: the regression of ``count`` images."""
    generator = reference.generator
    latents = generator.sample_latents(count, FITTED_SEED)
    resolution = Resolution.of(generator.size, generator.latent_shape)
    network = PixelNetwork(reference.basis.bits, resolution)
    network.start_from(regression(RenderedImages(generator, reference.basis, latents), network, count))
    return network.eval()


def figures_of(logits: NDArray[np.float64], signs: Signs) -> tuple[float, float]:
    """Share of bits right and median evidence of readings (n, bits), in quanta."""
    decades = [-log10_tail(row, float(row @ key)) for row, key in zip(logits, signs, strict=True)]
    return float((np.sign(logits) == signs).mean()), float(np.median(decades))


def measure(
    reference: Reference, network: PixelNetwork, images: Sequence[Image.Image], signs: Signs
) -> dict[str, float]:
    """Both readings of the images under every attack."""
    figures: dict[str, float] = {}
    for name, attack in ATTACKED.items():
        attacked = [attack(image, seeded(number, name)) for number, image in enumerate(images)]
        pixels = np.stack([whole(image, network.size) for image in attacked])
        shipped = reference.network.quantise(reference.network.logits(pixels))
        readings = {"regression": quantised(read(network, pixels)), "network": shipped.astype(np.float64)}
        for reader, logits in readings.items():
            right, median = figures_of(logits, signs)
            figures |= {f"{reader}_bits_right_{name}": right, f"{reader}_evidence_50_{name}": median}
    return figures


@click.command()
@click.option("--quick", is_flag=True, help="Few images: the regression is poor.")
@click.option("--builtin", "name", default=BUILTIN, show_default=True, metavar="NAME[=FOLDER]")
@click.option(
    "--fitted", "count", default=20_000, show_default=True, help="Images the regression is fitted on."
)
@click.option("--images", default=200, show_default=True, help="Images read.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures to this JSON file too.")
def main(quick: bool, name: str, count: int, images: int, out: Path | None) -> None:
    """Compare the regression with the network that began as one."""
    if quick:
        count, images = QUICK_FITTED, QUICK_IMAGES
    reference = open_reference(name)
    if len(reference.generator.latent_shape) == 3:
        raise InputError(f"{name}: a key on a latent grid is not read by a regression of pixels.")
    latents, signs = reference.latents(images), keys_for(images, reference.basis.bits, 1)
    with torch.no_grad():
        marked = to_images(reference.render(latents, signs))
    figures = {"fitted": float(count), "images": float(images)}
    figures |= measure(reference, fitted(reference, count), marked, signs)
    if out is not None:
        out.write_text(json.dumps(figures, indent=1) + "\n")
    close("regression", figures, {})


if __name__ == "__main__":
    main()
