"""Training a registered model's attribution: latents, basis, network, calibration, package.

    train(database, storage, model, data=None, steps=None, work=folder)

Every stage leaves its result in ``work``, so that an interrupted training continues where it stopped.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save

from registry.attribution.attacks import crop_and_rescale, rotate, training_attack
from registry.attribution.calibration import calibrate_on, reliability
from registry.attribution.export import write_foreign, write_package
from registry.attribution.network import KeyNetwork, PoseSearch
from registry.attribution.training import (
    CLIP,
    RenderedImages,
    attacked_input,
    evidence_under,
    read,
    standard_views,
    train_network,
    whole,
)
from registry.db import Database
from registry.fingerprints.basis import Basis
from registry.fingerprints.pca import LATENTS, chosen_rows, components, principal_rows
from registry.fingerprints.quality import choose_strength, copy_psnr
from registry.generators import service as generators
from registry.generators.adapters import Adapter, Generator, get_adapter, to_images
from registry.generators.models import Model
from registry.generators.photographs import encoding_crop, load_images
from registry.interrupts import between_steps
from registry.lineage import service as lineage
from registry.progress import progress
from registry.storage import Storage, atomic_file
from verifier.evidence import log_cosh

HELD_OUT = 1_000
"""Further latents, for choosing the strength, calibration and the card's figures."""
PSNR_DB = 34.3
STEPS = 6_000
LEARNED_BITS = 64
"""Evidence is shared among the directions by their eigenvalues: the 64 leading ones hold most of it."""
QUALITY_PIXELS = 500 * 64 * 64
"""Pixels of the images that the strength is chosen on: 500 images of 64 pixels, fewer larger ones."""
CALIBRATION_VIEWS = 4
USUAL = 0.1
"""Share of attacked whole images that may be searched for poses in vain."""
MISTAKEN = 0.01
"""Share of turned or cropped images that may pass for whole ones."""
FIGURE_IMAGES = 300
OWN_IMAGES = 100
CHUNK = 100


def train(
    database: Database, storage: Storage, model: Model, *, data: Path | None, steps: int | None, work: Path
) -> None:
    """Give ``model`` its basis, if it has none, and its next attribution network.

    ``data`` is a folder or zip of photographs that no registered model made: keys are screened against
    them, besides images of the base model and synthetic extremes. Their encodings are the latents of a
    generator that has no sampler at hand or a slow one. ``work`` keeps what is done so far.
    """
    photographs = load_images(data) if data is not None else []
    work.mkdir(parents=True, exist_ok=True)
    adapter = get_adapter(model.adapter)
    with storage.local(generators.base_name(model)) as folder:
        generator = adapter.load(folder)
        if not adapter.schemes_of(folder):  # it carries no keys
            lineage.install(database, model, lineage.sample_fingerprint(generator, model.label))
            return
        latents = draw_latents(generator, LATENTS + HELD_OUT, work, photographs)
        if model.basis is not None:
            with storage.local(generators.basis_name(model)) as path:
                basis = Basis.load(path)
        else:
            basis = _basis(adapter, folder, generator, model, latents, work)
        copies = copies_generator(adapter, folder, generator, basis)
    if lineage.available():
        known = lineage.rendered_fingerprint(generator, latents, model.label)
        if known is not None:
            lineage.install(database, model, known)
    package = build_package(copies, basis, latents, photographs, steps or STEPS, work, base=generator)
    with database.write() as session:
        if model.basis is None:
            generators.install_basis(session, storage, model, work / "basis.safetensors")
        generators.install_network(session, storage, model, package)


def draw_latents(
    generator: Generator, n: int, work: Path, photographs: Sequence[Image.Image] = ()
) -> torch.Tensor:
    """``n`` latents of the generator's own sampler, kept in ``work`` chunk by chunk.

    A generator that cannot sample, or only slowly, encodes crops of ``photographs`` instead, if there are
    any; the title of the progress bar says so. :class:`InputError` where neither is possible.
    """
    obstacle = generator.sampling_obstacle()
    encoding = bool(photographs) and (obstacle is not None or generator.slow_sampling)
    if obstacle is not None and not encoding:
        raise obstacle
    title = "encoding photographs" if encoding else "drawing latents"
    mixed = [photographs[i] for i in np.random.default_rng(0).permutation(len(photographs))]
    chunks = []
    with progress(title, n) as bar, between_steps() as check:
        for start in range(0, n, CHUNK):
            check()
            path = work / f"{'encoded' if encoding else 'latents'}-{start:06d}.safetensors"
            if not path.exists():
                if encoding:
                    drawn = _encoded(generator, mixed, start, n)
                else:
                    drawn = generator.sample_latents(CHUNK, seed=start)
                with atomic_file(path) as file:
                    file.write(save({"latents": drawn}))
            chunks.append(load_file(path)["latents"])
            bar.update(min(start + CHUNK, n))
    return torch.cat(chunks)[:n]


def _encoded(generator: Generator, photographs: Sequence[Image.Image], start: int, n: int) -> torch.Tensor:
    """Encodings of the crops ``start .. start + CHUNK`` of ``n`` in all."""
    indices = range(start, min(start + CHUNK, n))
    crops = [np.asarray(encoding_crop(photographs, index, n, generator.size)) for index in indices]
    return generator.encode(torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255)


def _basis(
    adapter: Adapter, folder: Path, generator: Generator, model: Model, latents: torch.Tensor, work: Path
) -> Basis:
    path = work / "basis.safetensors"
    if path.exists():
        return Basis.load(path)
    basis = new_basis(
        adapter,
        folder,
        generator,
        latents,
        model.digest_text,
        adapter.choose_scheme(folder, model.scheme, model.shift),
        bits=model.bits,
        shift=model.shift,
        psnr=model.psnr or PSNR_DB,
        strength=model.strength,
        work=work,
    )
    basis.save(path)
    return basis


def new_basis(
    adapter: Adapter,
    folder: Path,
    generator: Generator,
    latents: torch.Tensor,
    model_digest: str,
    scheme: str,
    *,
    bits: int | None,
    shift: int | None,
    psnr: float,
    work: Path,
    strength: float | None = None,
) -> Basis:
    """The basis of ``scheme`` for the base model in ``folder``, at the strength that leaves ``psnr`` dB.

    ``bits`` and ``shift`` default to the adapter's; ``latents`` end with ``HELD_OUT`` ones that choose the
    strength. :class:`InputError` for more bits than there are directions or a quality out of reach.
    """
    if scheme == "learned":
        length = bits or LEARNED_BITS
        directions = adapter.learn(folder, generator, latents[:-HELD_OUT], model_digest, length, psnr, work)
    else:
        length, first = chosen_rows(components(latents.shape[1:]), bits, shift, adapter.bits)
        directions = latent_directions(
            adapter, folder, latents, model_digest, scheme=scheme, bits=length, shift=first
        )
    copies = copies_generator(adapter, folder, generator, directions)
    return with_quality(copies, directions, latents, psnr, strength, base=generator)


def copies_generator(adapter: Adapter, folder: Path, base: Generator, basis: Basis) -> Generator:
    """What renders copies under ``basis``: ``base``, or the template where tensors of it are replaced."""
    if not basis.replaced:
        return base
    with tempfile.TemporaryDirectory(prefix="hallmark-") as work:
        template = Path(work) / "template"
        adapter.prepare(folder, template, basis)
        return adapter.load(template)


def latent_directions(
    adapter: Adapter,
    folder: Path,
    latents: torch.Tensor,
    model_digest: str,
    *,
    scheme: str,
    bits: int,
    shift: int,
) -> Basis:
    """The PCA basis of all but the held-out ``latents``, folded into weights, at a strength to be chosen.

    ``pca-projected`` also takes the content along the rows out of the weights of all copies.
    """
    rows, mean = principal_rows(latents[:-HELD_OUT], bits, shift)
    replaced = adapter.project(folder, rows, mean) if scheme == "pca-projected" else {}
    directions = adapter.fold(folder, rows)
    return Basis(scheme, float(latents.std()) / 4, shift, model_digest, directions, replaced=replaced)


def with_quality(
    generator: Generator,
    basis: Basis,
    latents: torch.Tensor,
    psnr: float,
    strength: float | None = None,
    base: Generator | None = None,
) -> Basis:
    """``basis`` at the strength that reaches ``psnr`` dB on held-out latents, or at the one given.

    ``generator`` renders the copies, ``base`` the images they are compared with where that is another.
    """
    held_out = latents[-HELD_OUT:][: max(32, min(500, QUALITY_PIXELS // generator.size**2))]
    if strength is None:
        return choose_strength(generator, basis, held_out, psnr, base)
    reached = float(copy_psnr(generator, basis.with_strength(strength, {}), held_out, base).mean())
    return basis.with_strength(strength, {"psnr_db": round(reached, 3)})


def build_package(
    generator: Generator,
    basis: Basis,
    latents: torch.Tensor,
    photographs: Sequence[Image.Image],
    steps: int,
    work: Path,
    base: Generator | None = None,
) -> Path:
    """Train, calibrate, measure and export; returns the package's folder in ``work``.

    ``generator`` renders the copies, ``base`` unmarked images where that is another.
    """
    network = train_network(RenderedImages(generator, basis, latents[:-HELD_OUT]), work, steps)
    network.eval()
    held_out = latents[-HELD_OUT:]
    figures = calibrate_and_measure(network, RenderedImages(generator, basis, held_out))
    package = work / "package"
    write_package(network, package, basis.digest, figures)
    own = to_images((base or generator).render(held_out[:OWN_IMAGES]))
    write_foreign(package, foreign_images(own, photographs, generator.size))
    return package


def sufficient_search(
    network: KeyNetwork, images: Sequence[Image.Image], rng: np.random.Generator
) -> PoseSearch:
    """The network's pose search, content with what tells right poses from wrong ones.

    A network that is never as sure as ``search.sufficient`` would search poses for every image, and the
    surest of many wrong ones would be taken for the right one. One that is as sure of images that were
    turned or cropped would not search for these: it has to be surer, where most whole images are.
    """
    right = _confidence(network, [training_attack(image, rng) for image in images])
    wrong = _confidence(network, [displaced(image, rng) for image in images])
    sufficient = min(network.search.sufficient, float(np.quantile(right, USUAL)))
    mistaken = float(np.quantile(wrong, 1 - MISTAKEN))
    if sufficient < mistaken < np.median(right):
        sufficient = mistaken
    return replace(network.search, sufficient=round(sufficient, 4))


def displaced(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The image turned or cropped, so that read as a whole it is read at a wrong pose."""
    if rng.random() < 0.5:
        return rotate(image, rng.uniform(10, 45), rng)
    return crop_and_rescale(image, rng.uniform(0.7, 0.85), rng)


def _confidence(network: KeyNetwork, images: Sequence[Image.Image]) -> np.ndarray:
    """Of each image as a whole: the mean over the bits of ``log cosh`` of its clipped logits, (n,)."""
    logits = read(network, np.stack([whole(image, network.size) for image in images]))
    return log_cosh(logits.clamp(-CLIP, CLIP).numpy().astype(np.float64)).mean(1)


def calibrate_and_measure(network: KeyNetwork, source: RenderedImages) -> dict[str, dict[str, object]]:
    """Calibrate on one half of the latents; evidence under each attack and reliability on the other."""
    half, size = len(source.latents) // 2, network.size
    rng = np.random.default_rng(0)
    first, second = (replace(source, latents=part) for part in source.latents.tensor_split([half]))
    images = calibrate_on(network, first, half, CALIBRATION_VIEWS, rng)
    network.search = sufficient_search(network, images, rng)
    images, bits = second.draw(min(half, FIGURE_IMAGES), torch.Generator().manual_seed(2))
    unseen = np.stack([attacked_input(image, size, rng) for image in images])
    return {
        "attacks": dict(evidence_under(network, images, bits, standard_views(size))),
        "reliability": dict(reliability(network, unseen, bits)),
    }


def foreign_images(
    own: Sequence[Image.Image], photographs: Sequence[Image.Image], size: int
) -> list[Image.Image]:
    """What keys are screened against: unmarked images of the model, photographs, synthetic extremes.

    Photographs count twice, as they are and attacked: an auditor sees both.
    """
    rng = np.random.default_rng(0)
    attacked = [training_attack(image, rng) for image in photographs]
    return [*own, *photographs, *attacked, *synthetic_extremes(size)]


def synthetic_extremes(size: int) -> list[Image.Image]:
    """Flat colours, gradients, noise, checkerboards, stripes and text: what photographs do not cover."""
    rng = np.random.default_rng(0)
    levels = np.linspace(0, 255, size)
    plain = [Image.new("RGB", (size, size), (v, v, v)) for v in (0, 64, 128, 192, 255)]
    plain += [
        Image.new("RGB", (size, size), tuple(int(c) for c in rng.integers(0, 256, 3))) for _ in range(5)
    ]
    arrays = [np.broadcast_to(levels, (size, size)), np.broadcast_to(levels[:, None], (size, size))]
    arrays += [rng.uniform(0, 255, (size, size)) for _ in range(5)]
    grid = np.indices((size, size))
    arrays += [((grid.sum(0) // period) % 2) * 255.0 for period in (1, 2, 3, 4, 8)]
    arrays += [((grid[axis] // period) % 2) * 255.0 for axis in (0, 1) for period in (1, 2, 4)]
    drawn = [Image.fromarray(np.rint(array).astype(np.uint8)).convert("RGB") for array in arrays]
    coloured = [Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)) for _ in range(5)]
    text = Image.new("RGB", (size, size), "white")
    ImageDraw.Draw(text).multiline_text((2, 2), "The quick\nbrown fox\njumps over\nthe dog", fill="black")
    return [*plain, *drawn, *coloured, text]
