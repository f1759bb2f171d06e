"""Marked images of a reference generator and what the verifier makes of them: shared by the benchmarks.

reference = open_reference("flowers-ldm@1")              # or "flowers-ldm@1=FOLDER", see there
marked = reference.mark(latents, to_a_copy=8)
ranked = reference.network.ranked(marked.images)
decades = evidence(ranked[:1], marked.signs[0])          # -log10 p of the true key
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file

from registry.attribution.attacks import ATTACKS, PAPER, Attack
from registry.attribution.removal import State
from registry.errors import InputError
from registry.fingerprints.basis import Basis
from registry.generators.adapters import Adapter, Generator, get_adapter, to_images
from registry.generators.builtin import resolve_builtin
from registry.generators.sampling import adapter_of
from registry.keys.screening import Q
from registry.progress import progress
from verifier.check import weighted_tests
from verifier.evidence import chernoff_log10, log10_family, log10_tail
from verifier.network import Network, Reading

KEYS = 10**6
LOG10_ALPHA = -6.0
LATENT_SEED = 2024
LOOSE = 3.0
"""Decades by which Chernoff's bound is looser than the exact tail at most, with room to spare."""

ATTACKED: dict[str, Attack] = {
    "none": ATTACKS["clean"],
    **{name.removeprefix("paper-"): attack for name, attack in PAPER.items()},
}
"""The attacks of the paper, and none."""

Signs = NDArray[np.int8]


@dataclass(frozen=True)
class Marked:
    """Images and the key of each: signs int8 (n, k)."""

    images: list[Image.Image]
    signs: Signs


@dataclass(frozen=True)
class Reference:
    """A generator with a basis and the network that reads it."""

    label: str
    adapter: Adapter
    weights: Path
    generator: Generator
    basis: Basis
    network: Network
    package: Path
    acceptance: float

    def latents(self, n: int) -> torch.Tensor:
        """``n`` latents of the sampler."""
        with progress("sampling", n) as bar:
            return self.generator.sample_latents(n, LATENT_SEED, bar)

    @torch.no_grad()
    def render(self, latents: torch.Tensor, signs: Signs | None = None) -> torch.Tensor:
        """Images (n, 3, size, size) of the base model, or of a copy with the key of each latent."""
        offsets = None if signs is None else self.basis.offsets(torch.from_numpy(signs))
        return self.generator.render(latents, offsets)

    def mark(self, latents: torch.Tensor, to_a_copy: int) -> Marked:
        """Each latent as a copy would render it, ``to_a_copy`` latents to a key."""
        signs = keys_for(len(latents), self.basis.bits, to_a_copy)
        return Marked(to_images(self.render(latents, signs)), signs)

    def named(self, decades: float) -> bool:
        """Whether so much evidence for a key is enough among ``KEYS`` at alpha."""
        return log10_family(-decades, KEYS, self.acceptance) <= LOG10_ALPHA

    def identified(self, images: Sequence[Image.Image], signs: Signs, name: str) -> NDArray[np.float64]:
        """Evidence for each image's own key (n,), read as the verifier reads it."""
        found = np.empty(len(images))
        with progress(name, len(images)) as bar:
            for number, (image, key) in enumerate(zip(images, signs, strict=True)):
                found[number] = evidence(self.network.ranked([image]), key)
                bar.update(number + 1)
        return found

    def share_named(self, decades: NDArray[np.float64]) -> float:
        """Share of images whose evidence is enough."""
        return float(np.mean([self.named(value) for value in decades]))


def open_reference(text: str) -> Reference:
    """A builtin by name, or ``NAME=FOLDER`` for its generator with the basis and network in ``FOLDER``.

    ``FOLDER`` holds ``basis.safetensors`` and ``package/`` (what ``registry model train`` keeps in its
    work folder) or ``network/``. :class:`InputError` where something is missing.
    """
    name, _, folder = text.partition("=")
    builtin = resolve_builtin(name)
    basis, network = builtin.basis, builtin.network
    if folder:
        basis = Path(folder) / "basis.safetensors"
        network = next((p for p in (Path(folder) / "package", Path(folder) / "network") if p.is_dir()), None)
    if basis is None or network is None:
        raise InputError(f"{text}: no basis and network to measure.", "Give NAME=FOLDER with both in FOLDER.")
    return load_reference(name.removeprefix("builtin:"), builtin.weights, basis, network)


def load_reference(name: str, weights: Path, basis: Path, package: Path) -> Reference:
    """The generator in the folder ``weights`` with a basis file and a network package."""
    loaded = Basis.load(basis)
    adapter = get_adapter(adapter_of(weights))
    foreign = len(np.load(package / "foreign.npz")["logits"])
    return Reference(
        label=f"{name} {loaded.scheme}",
        adapter=adapter,
        weights=weights,
        generator=adapter.load(weights),
        basis=loaded,
        network=Network.load(package),
        package=package,
        acceptance=1 - foreign * Q,
    )


class Copies:
    """Copies as files, their weights changed as the caller likes, loaded again."""

    def __init__(self, reference: Reference, folder: Path) -> None:
        self._reference, self._folder = reference, folder
        self._template = folder / "template"
        reference.adapter.prepare(reference.weights, self._template, reference.basis)

    def load(self, signs: Signs, change: Callable[[State], State] = lambda state: state) -> Generator:
        """The copy with key ``signs`` (k,), all tensors of the files that carry it put through ``change``."""
        copy = self._folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self._template, copy, copy_function=os.link)
        deltas = self._reference.basis.deltas(signs)
        for file in {file for file, _ in deltas}:
            state = load_file(copy / file)
            for (where, tensor), delta in deltas.items():
                if where == file:
                    state[tensor] = (state[tensor].double() + torch.from_numpy(delta)).to(state[tensor].dtype)
            (copy / file).unlink()  # a link to the template's
            save_file({k: v.contiguous() for k, v in change(state).items()}, copy / file, {"format": "pt"})
        return self._reference.adapter.load(copy)

    def mark(
        self, latents: torch.Tensor, to_a_copy: int, change: Callable[[State], State], name: str
    ) -> Marked:
        """As :meth:`Reference.mark`, from the changed copies' own weights."""
        signs = keys_for(len(latents), self._reference.basis.bits, to_a_copy)
        images: list[Image.Image] = []
        with progress(name, len(latents)) as bar, torch.no_grad():
            for start in range(0, len(latents), to_a_copy):
                copy = self.load(signs[start], change)
                images += to_images(copy.render(latents[start : start + to_a_copy]))
                bar.update(len(images))
        return Marked(images, signs)


def keys_for(n: int, bits: int, to_a_copy: int, seed: int = 1) -> Signs:
    """A uniform key for every ``to_a_copy`` images in a row: int8 (n, bits)."""
    keys = np.random.default_rng(seed).choice(np.array([-1, 1], np.int8), (math.ceil(n / to_a_copy), bits))
    return np.asarray(keys.repeat(to_a_copy, axis=0)[:n])


def evidence(ranked: Sequence[Sequence[Reading]], signs: Signs) -> float:
    """``-log10 p`` of a key over all readings that the verifier tests, less what a reading pays.

    Chernoff's bound, cheap on many readings, leaves the exact tail to those that could be the best.
    """
    tests = weighted_tests(ranked)
    logits = np.stack([test.logits for test in tests])
    scores = logits @ signs.astype(np.int64)
    paid = np.log10([test.weight for test in tests])
    least = paid - chernoff_log10(logits, scores.astype(np.float64))
    worthwhile = np.flatnonzero(least >= least.max() - LOOSE)
    exact = log10_tail(logits[worthwhile], scores[worthwhile].astype(np.float64))
    return float((paid[worthwhile] - exact).max())


def pixels(images: Sequence[Image.Image]) -> torch.Tensor:
    """Images as float (n, 3, h, w) in [0, 1]."""
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2) / 255


def seeded(number: int, name: str) -> np.random.Generator:
    """The randomness of attack ``name`` on image ``number``: the same for every scheme."""
    return np.random.default_rng([number, *name.encode()])
