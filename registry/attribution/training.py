"""Training the attribution network on images rendered on the fly, each with a key of its own.

    source = RenderedImages(generator, basis, latents)
    network = train_network(source, 64, work, steps=4000)

Rendered images are rounded to 8 bit and go through the attacks as files would. Many are cut to a
window first: the window is attacked, then put back to its place on a grey canvas, off by up to a
pixel, which is what the verifier's pose search hands to the network at the right pose; others are put
where they do not belong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from registry.attribution.attacks import ATTACKS, Attack, Rng, crop_and_rescale, training_attack
from registry.attribution.matched_filter import MatchedFilterNetwork
from registry.attribution.network import FEATURES, FILL, AttributionNetwork, KeyNetwork, Resolution
from registry.attribution.pixel_network import LinearReading, PixelNetwork, grey_area, linear_reading, reduced
from registry.fingerprints.basis import Basis
from registry.fingerprints.learned import filters_of
from registry.generators.adapters import Generator, to_images
from registry.interrupts import between_steps
from registry.progress import progress
from registry.training import Training
from verifier.evidence import log10_tail

CLIP = 8.0
QUANTUM = 1 / 16
SMALLEST_WINDOW = 0.7
WINDOW_SHARE = 0.4
MISPLACED_SHARE = 0.2
JITTER = 1 / 64
"""Most error of a window's place and side in training, a share of the canvas and at least a pixel; with
rounding half a pixel more. The pose search steps by three times as much."""

CHECKPOINT = "network.pt"
READER = "filters.safetensors"
"""In ``work``: the tensors of a network that directions were trained together with. The name is that of
other bases' filters (:data:`registry.fingerprints.learned.FILTERS`): studies carry both along."""
READ_PIXELS, FEWEST_READ, READ_BATCH = 20_000 * 32**2, 1_000, 100
"""Pixels of the images for the regression that a network of pixels begins as, and the fewest images."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class RenderedImages:
    """Images of a generator under random keys: latents (n, *latent_shape), and the basis of the keys."""

    generator: Generator
    basis: Basis
    latents: torch.Tensor

    @property
    def autoencoder(self) -> Any | None:
        """The generator's own autoencoder, if the key is read off the residual that it leaves of an image."""
        return getattr(self.generator, "first_stage", None) if self.basis.scheme == "learned" else None

    def draw(self, n: int, rng: torch.Generator) -> tuple[list[Image.Image], torch.Tensor]:
        """``n`` images at random latents and keys, and their bits float32 (n, bits) of 0 and 1."""
        chosen = torch.randint(0, len(self.latents), (n,), generator=rng)
        bits = torch.randint(0, 2, (n, self.basis.bits), generator=rng).float()
        return self.render(self.latents[chosen], bits), bits

    def render(self, latents: torch.Tensor, bits: torch.Tensor) -> list[Image.Image]:
        """Images of these latents under these bits."""
        # The half precision's own noise, some 45 dB, covers a residual that is read to that depth.
        half = self.autoencoder is None
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            return to_images(self.generator.render(latents, self.basis.offsets(2 * bits - 1)))


def whole(image: Image.Image, size: int) -> Pixels:
    """The image at the network's resolution, (size, size, 3) uint8."""
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)


def registered_window(image: Image.Image, attack: Attack, size: int, rng: Rng) -> Pixels:
    """Crop a random window, attack it as a file of the old size, put it back in place on grey."""
    side = rng.uniform(SMALLEST_WINDOW, 1.0)
    left, top = rng.uniform(0, 1 - side, 2)
    box = tuple(image.width * edge for edge in (left, top, left + side, top + side))
    window = attack(image.resize(image.size, Image.Resampling.BICUBIC, box=box), rng)
    jitter = max(1.0, JITTER * size)
    shown = int(np.clip(np.rint(size * side + rng.uniform(-jitter, jitter)), 1, size))
    x, y = (
        int(np.clip(np.rint(size * edge + rng.uniform(-jitter, jitter)), 0, size - shown))
        for edge in (left, top)
    )
    return _placed(window, size, x, y, shown)


def _placed(window: Image.Image, size: int, left: int, top: int, side: int) -> Pixels:
    """A window of ``side`` pixels on the grey canvas."""
    canvas = np.full((size, size, 3), FILL, np.uint8)
    canvas[top : top + side, left : left + side] = whole(window, side)
    return canvas


def misplaced_window(image: Image.Image, attack: Attack, size: int, rng: Rng) -> Pixels:
    """A crop at a pose that is not its own: as large as the canvas, or at a random place and size."""
    cropped = attack(crop_and_rescale(image, rng.uniform(SMALLEST_WINDOW, 0.97), rng), rng)
    shown = size if rng.random() < 0.5 else int(rng.integers(round(SMALLEST_WINDOW * size), size + 1))
    left, top = rng.integers(0, size - shown + 1, 2)
    return _placed(cropped, size, int(left), int(top), shown)


def attacked_input(image: Image.Image, size: int, rng: Rng) -> Pixels:
    """One draw of what the network sees in training.

    Misplaced windows keep their labels: the network can only learn to be unsure of them, which is what
    tells a wrong pose from the right one.
    """
    kind = rng.random()
    if kind < MISPLACED_SHARE:
        return misplaced_window(image, training_attack, size, rng)
    if kind < MISPLACED_SHARE + WINDOW_SHARE:
        return registered_window(image, training_attack, size, rng)
    return whole(training_attack(image, rng), size)


def new_network(source: RenderedImages, work: Path, most: int) -> KeyNetwork:
    """An untrained network that fits the basis.

    A basis learned on an autoencoder gets the network that begins as its filters (``work`` keeps them); a key
    on a latent grid the one whose head starts as the basis where that is a pattern on the grid; any other the
    one that was trained with the directions, if ``work`` keeps it, or begins as the regression of at most
    ``most`` images.
    """
    if source.autoencoder is not None:
        filters = filters_of(source.generator, source.basis, source.latents, work)
        return MatchedFilterNetwork(source.autoencoder, filters, source.generator.size)
    bits, latent_shape = source.basis.bits, source.generator.latent_shape
    resolution = Resolution.of(source.generator.size, latent_shape)
    if len(latent_shape) != 3:
        return pixel_network(source, resolution, work, most)
    channels = latent_shape[0]
    network = AttributionNetwork(bits, resolution, max(FEATURES, channels))
    (first, *others) = source.basis.directions.values()
    if not others and first.shape[1:] == latent_shape == (channels, resolution.grid, resolution.grid):
        network.start_from(first / np.linalg.norm(first.reshape(len(first), -1), axis=1).mean())
    return network


def pixel_network(source: RenderedImages, resolution: Resolution, work: Path, most: int) -> PixelNetwork:
    """What ``work`` keeps as its beginning, else as the regression of ``most`` images or fewer."""
    network = PixelNetwork(source.basis.bits, resolution)
    if (work / READER).exists():
        network.load_state_dict(load_file(work / READER))
    elif not (work / CHECKPOINT).exists():
        network.start_from(regression(source, network, fitted_images(source, most)))
    return network


def fitted_images(source: RenderedImages, most: int) -> int:
    """How many images a regression takes, at most ``most``."""
    return min(most, max(FEWEST_READ, READ_PIXELS // source.generator.size**2))


def regression(source: RenderedImages, network: PixelNetwork, count: int) -> LinearReading:
    """The regression of ``count`` images that ``network`` may begin as."""

    def pixels() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for images, bits in _drawn(source, count, 0, "regression"):
            x, _ = _canvases(images, network.size)
            yield reduced(x, network.side), bits

    return linear_reading(pixels())


def _drawn(
    source: RenderedImages, count: int, seed: int, title: str
) -> Iterator[tuple[list[Image.Image], torch.Tensor]]:
    """``count`` images, rounded up to whole batches, of which there are two at least, and their bits."""
    size = max(1, min(READ_BATCH, count // 2))
    with progress(title, count) as bar, between_steps() as check:
        for start in range(0, max(2, count), size):
            check()
            yield source.draw(size, torch.Generator().manual_seed(start + seed))
            bar.update(start + size)


def _canvases(images: list[Image.Image], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole images as the network sees them, (n, 3, size, size) in [-1, 1], and where they are grey."""
    pixels = torch.from_numpy(np.stack([whole(image, size) for image in images]))
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1, grey_area(pixels)


def refitted(source: RenderedImages, network: PixelNetwork, count: int) -> PixelNetwork:
    """``network`` with its last layers fitted to ``count`` images, a third of them attacked, in closed form.

    Small steps find late what is fine in these layers: content is taken off by differences of large sums.
    """
    network.eval()

    def features() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        rng = np.random.default_rng(0)
        for images, bits in _drawn(source, count, 1, "last layers"):
            images = [image if i % 3 else training_attack(image, rng) for i, image in enumerate(images)]
            with torch.no_grad():
                yield torch.cat(network.features(*_canvases(images, network.size)), 1), bits

    network.refit(linear_reading(features()))
    return network


def train_network(source: RenderedImages, work: Path, steps: int, renders: int | None = None) -> KeyNetwork:
    """Binary cross-entropy over attacked views of ``renders`` images a step; resumes from ``work``."""
    network = new_network(source, work, steps * (renders or KeyNetwork.batch[0]))
    size, (usual, views) = network.size, network.batch
    renders = renders or usual
    training = Training(network, work / CHECKPOINT, steps, lr=2e-3, ema=0.998)
    training.model.train()

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = torch.Generator().manual_seed(step)
        images, bits = source.draw(renders, rng)
        noise = np.random.default_rng(step)
        pixels = [attacked_input(image, size, noise) for image in images for _ in range(views)]
        return torch.from_numpy(np.stack(pixels)), bits.repeat_interleave(views, 0)

    upcoming: Future[tuple[torch.Tensor, torch.Tensor]]

    def loss(_: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        nonlocal upcoming
        pixels, bits = upcoming.result()
        upcoming = pool.submit(batch, training.step + 1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=training.model.tolerates_bfloat16):
            logits = training.model(pixels)
        value = F.binary_cross_entropy_with_logits(logits.float(), bits)
        right = ((logits > 0) == (bits > 0)).float().mean()
        return value, {"loss": value.item(), "bits_right": right.item()}

    with ThreadPoolExecutor(1) as pool, progress("attribution network", steps, training.step) as bar:
        upcoming = pool.submit(batch, training.step)
        trained = training.run(loss, bar)
    if not isinstance(trained, PixelNetwork):
        return trained
    return refitted(source, trained, fitted_images(source, steps * renders))


@torch.no_grad()
def read(network: KeyNetwork, pixels: Pixels) -> torch.Tensor:
    """Logits (n, bits) of inputs (n, size, size, 3)."""
    return torch.cat(
        [network(torch.from_numpy(part)) for part in np.array_split(pixels, len(pixels) // 64 + 1)]
    )


def quantised(logits: torch.Tensor) -> NDArray[np.float64]:
    """Logits in whole quanta, clipped: what a verifier makes of the network's answer."""
    return np.asarray(np.rint(logits.double().clamp(-CLIP, CLIP).numpy() / QUANTUM))


def evidence_under(
    network: KeyNetwork,
    images: list[Image.Image],
    bits: torch.Tensor,
    views: dict[str, Callable[[Image.Image, Rng], Pixels]],
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Bit accuracy and the 5th percentile and median of ``-log10 p`` for each named view of the images."""
    table = {}
    signs = 2 * bits.numpy() - 1
    for name, view in views.items():
        rng = np.random.default_rng(seed)
        logits = read(network, np.stack([view(image, rng) for image in images]))
        rows = quantised(logits)
        decades = [-log10_tail(row, float(row @ sign)) for row, sign in zip(rows, signs, strict=True)]
        table[name] = {
            "bits_right": float(((logits > 0).numpy() == (signs > 0)).mean()),
            "evidence_5": float(np.quantile(decades, 0.05)),
            "evidence_50": float(np.median(decades)),
        }
    return table


def standard_views(size: int) -> dict[str, Callable[[Image.Image, Rng], Pixels]]:
    """Each benchmark attack as the network sees it; ``crop`` in its true place (pose search found it)."""

    def view(attack: Attack) -> Callable[[Image.Image, Rng], Pixels]:
        return lambda image, rng: whole(attack(image, rng), size)

    views = {name: view(attack) for name, attack in ATTACKS.items() if name != "crop"}
    return {**views, "window": lambda image, rng: registered_window(image, ATTACKS["clean"], size, rng)}
