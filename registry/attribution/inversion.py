"""The latent-fingerprint paper's attribution by synthesis (Nie et al., ICML 2023): search latent and key.

    space = content_space(adapter, base, basis, latents)
    result = Inversion(generator, basis, space, image, Settings(), perceptual, work).run()
    result.logits, result.bits, result.loss
    document = invert(home, Path("suspect.png"), "flowers", Settings())     # what `registry invert` prints

Minimise over content coordinates alpha and key phi, with x the image and g the copy's generator,

    perceptual(g(mu + U'alpha + sigma V'phi), x) + 0.1 * sum_j max(0, |alpha_j| - 3 sd_j)

by Adam at rate 0.2, decayed by ``exp(-0.001 i)``, for 2 000 steps from 20 starts: alpha on a centred Latin
hypercube within one standard deviation, the key at one half. phi is relaxed through a sigmoid and rounded
at the end; the start with the lowest loss wins. (The authors' script stops at the first start whose key is
right, which takes knowing the key.) Here phi is in {-1, +1}, so the relaxed key is
``2 sigmoid(x) - 1 = tanh(x / 2)``.

**Logits.** Each start leaves a logit of every bit, its sigmoid's argument: the sign is the paper's rounding,
and a bit that the search had no reason to move, or moved back and forth, has a small one. The logits are
the mean over the starts, a start of loss l counting ``exp(-(l / lowest - 1) / SPREAD)``: starts that fit
about as well but disagree on a bit say how sure it is, those that got stuck say nothing. They are a function
of the image alone, so the bound of :mod:`verifier.evidence` holds for them as for the network's, and they are
clipped and rounded like these. ``bits`` is the winner's rounding, as in the paper.

**Which content.** U spans what V leaves of the latent space, in principal directions of the latents:
exactly the paper's where the copy replaces that part of the latent, and a close model of copies that add to
it (``pca`` without projection), whose own natural part along V the search cannot tell from the key. Learned
directions live in the weights: there alpha is the latent itself. So it is, less its part along V, where the
latent has too many dimensions for principal components.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from registry.attribution.folders import training_path
from registry.attribution.perceptual import Perceptual, choose_perceptual
from registry.attribution.service import CHUNK, copies_generator, draw_latents
from registry.attribution.training import QUANTUM, quantised
from registry.errors import InputError
from registry.fingerprints.basis import Basis
from registry.fingerprints.pca import LATENTS
from registry.generators import service as generators
from registry.generators.adapters import Adapter, Generator, get_adapter
from registry.generators.models import Model
from registry.interrupts import between_steps
from registry.progress import progress
from registry.storage import atomic_file
from verifier.certificate import COPY_PREFIX
from verifier.evidence import log10_family, log10_tail
from verifier.images import load_image
from verifier.resolve import KeyTable

if TYPE_CHECKING:
    from registry.home import Home

SCHEMA = "hallmark/inversion/1"
ALPHA = 1e-6
METHODS = 2
"""Hypotheses count twice: an image is inverted by whoever has also read it with the network."""

RATE, DECAY = 0.2, 1e-3
PENALTY, LIMIT = 0.1, 3.0
"""Weight of what leaves the range, and the range in standard deviations."""

SPREAD = 0.1
"""Share of the lowest loss by which a start may be worse before it counts for e times less."""

MOST_COMPONENTS = 4096
"""Latents of more dimensions keep their own coordinates: their covariance would take a gigabyte and hours."""
FEWEST_LATENTS = 500
AT_ONCE = 1 << 19
"""Pixels rendered with gradients at a time: some GB of a large generator's activations."""
SAVE_SECONDS = 60.0


@dataclass(frozen=True)
class Settings:
    """Steps of each start, the number of starts, and the seed of their places; the paper's by default."""

    steps: int = 2000
    starts: int = 20
    seed: int = 0

    def check(self) -> None:
        """:class:`InputError` for numbers that cannot be meant."""
        for name, value in (("steps", self.steps), ("starts", self.starts)):
            if value < 1:
                raise InputError(f"--{name} {value}: give a number from 1.")


@dataclass(frozen=True)
class ContentSpace:
    """Coordinates of the latent's content: ``latent = mean + alpha @ rows``, less the part along ``removed``.

    ``mean`` (n,) and ``deviations`` (m,), the standard deviation of each coordinate; ``rows`` (m, n)
    orthonormal, or None where the coordinates are the latent's own (m = n); ``removed`` (k, n) orthonormal or
    None; ``shape`` of a latent.
    """

    mean: torch.Tensor
    deviations: torch.Tensor
    rows: torch.Tensor | None
    removed: torch.Tensor | None
    shape: tuple[int, ...]

    def latents(self, alpha: torch.Tensor) -> torch.Tensor:
        """Latents (s, *shape) of coordinates (s, m)."""
        offset = alpha if self.rows is None else alpha @ self.rows
        if self.removed is not None:
            offset = offset - offset @ self.removed.T @ self.removed
        return (self.mean + offset).reshape(-1, *self.shape)

    def digest(self) -> bytes:
        """SHA-256 of the numbers: a search may go on only in the same coordinates."""
        parts = [part.numpy().tobytes() for part in (self.mean, self.deviations)]
        return hashlib.sha256(b"".join(parts)).digest()


def content_space(adapter: Adapter, base: Path, basis: Basis, latents: torch.Tensor) -> ContentSpace:
    """The content coordinates of ``latents`` (N, *shape) beside ``basis`` on the model in folder ``base``."""
    shape, n = tuple(latents.shape[1:]), latents[0].numel()
    key_rows = None if basis.scheme == "learned" else latent_rows(adapter, base, basis, shape)
    flat = latents.flatten(1).double()
    mean = flat.mean(0)
    if key_rows is None or not _has_components(n):
        return ContentSpace(mean.float(), flat.std(0).float(), None, key_rows, shape)
    # An orthonormal basis of what V leaves, then the principal directions within it.
    beside = torch.linalg.qr(key_rows.double().T, mode="complete").Q[:, len(key_rows) :]
    within = (flat - mean) @ beside
    variances, vectors = torch.linalg.eigh(within.T @ within / len(flat))
    rows = (beside @ vectors).T.flip(0).contiguous()
    deviations = variances.flip(0).clamp_min(0).sqrt()
    return ContentSpace(mean.float(), deviations.float(), rows.float(), None, shape)


def latent_rows(adapter: Adapter, base: Path, basis: Basis, shape: tuple[int, ...]) -> torch.Tensor:
    """Orthonormal rows (k, n) that span the latent offsets which ``basis`` is in weights.

    The offsets solve ``fold(rows) = directions``, linear, so that the basis file alone tells them.
    :class:`InputError` where the directions are no offsets of this model's latent.
    """
    n = math.prod(shape)
    found = [d.reshape(basis.bits, -1) for d in basis.directions.values()]
    if (
        len(found) == 1
        and found[0].shape[1] == n
        and next(iter(basis.directions.values())).shape[1:] == shape
    ):
        rows = torch.from_numpy(found[0]).double()
    else:
        folded = adapter.fold(base, np.eye(n, dtype=np.float32).reshape(n, *shape))
        every = np.concatenate([folded[target].reshape(n, -1) for target in basis.directions], 1)
        wanted = torch.from_numpy(np.concatenate(found, 1)).double()
        unit = torch.from_numpy(every).double()
        rows = torch.linalg.lstsq(unit.T, wanted.T, driver="gelsd").solution.T
        if float((rows @ unit - wanted).norm()) > 1e-3 * float(wanted.norm()):
            raise InputError(
                "the basis is no offset of this model's latent.", "Was it made for another model?"
            )
    return torch.linalg.qr(rows.T).Q.T.contiguous().float()


def _has_components(dimensions: int) -> bool:
    return dimensions <= MOST_COMPONENTS


def latents_needed(shape: tuple[int, ...], scheme: str) -> int:
    """How many latents the content space takes: the paper's number where they cost one layer each."""
    n = math.prod(shape)
    if len(shape) == 1:
        return LATENTS
    return max(FEWEST_LATENTS, 2 * n) if _has_components(n) and scheme != "learned" else FEWEST_LATENTS


def latin_hypercube(starts: int, dimensions: int, seed: int) -> torch.Tensor:
    """Points (starts, dimensions) in (0, 1): the centre of each of ``starts`` strata once a dimension."""
    rng = np.random.default_rng(seed)
    strata = rng.permuted(np.tile(np.arange(starts), (dimensions, 1)), axis=1).T
    return torch.from_numpy((strata + 0.5) / starts).float()


def range_penalty(alpha: torch.Tensor, deviations: torch.Tensor) -> torch.Tensor:
    """How far coordinates (s, m) leave LIMIT standard deviations (m,), summed over the coordinates: (s,)."""
    return (alpha.abs() - LIMIT * deviations).clamp_min(0).sum(1)


@dataclass(frozen=True)
class Start:
    """One start's end: its loss, the perceptual part of it, and the bits it shares with the winner."""

    loss: float
    perceptual: float
    bits_shared: int


@dataclass(frozen=True)
class Result:
    """``logits`` int32 (k,) in quanta; ``bits`` int8 (k,) of -1 and +1, as rounded."""

    logits: NDArray[np.int32]
    bits: NDArray[np.int8]
    loss: float
    starts: list[Start]
    seconds: float


class Inversion:
    """The search on one image; its state lives in a file of ``work``, from which it goes on."""

    def __init__(
        self,
        generator: Generator,
        basis: Basis,
        space: ContentSpace,
        image: Image.Image,
        settings: Settings,
        perceptual: Perceptual,
        work: Path,
    ) -> None:
        settings.check()
        self.generator, self.basis, self.space = generator, basis, space
        self.settings, self.perceptual = settings, perceptual
        pixels = as_pixels(image, generator.size)
        self.target = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        places = 2 * latin_hypercube(settings.starts, len(space.deviations), settings.seed) - 1
        self.alpha = (places * space.deviations).requires_grad_()
        self.key = torch.zeros(settings.starts, basis.bits, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.alpha, self.key], lr=RATE)
        self.step, self.seconds = 0, 0.0
        # The steps are not part of the name: the rate does not depend on them, so a search can be prolonged.
        named = json.dumps([basis.digest, settings.starts, settings.seed, perceptual.name]).encode()
        name = hashlib.sha256(named + space.digest() + pixels.tobytes()).hexdigest()[:20]
        self.checkpoint = work / f"inversion-{name}.pt"
        self._load()

    def losses(self, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and its perceptual share of some of the starts, (s,) each."""
        alpha = self.alpha[part]
        offsets = self.basis.offsets(torch.tanh(self.key[part] / 2))
        images = self.generator.render(self.space.latents(alpha), offsets)
        perceptual = self.perceptual(images, self.target)
        return perceptual + PENALTY * range_penalty(alpha, self.space.deviations), perceptual

    def run(self, title: str = "inversion") -> Result:
        """Search to the end. On Ctrl-C the state is saved and the same call goes on from there."""
        steps, saved = self.settings.steps, time.monotonic()
        if self.step < steps:
            with progress(title, steps, self.step) as bar, between_steps() as check:
                while self.step < steps:
                    bar.update(self.step + 1, loss=self.advance())
                    try:
                        check()
                    except KeyboardInterrupt:
                        self.save()
                        raise
                    if time.monotonic() - saved > SAVE_SECONDS:
                        self.save()
                        saved = time.monotonic()
            self.save()
        return self.result()

    def advance(self) -> float:
        """One step of every start; the lowest loss before it."""
        began = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * math.exp(-DECAY * (self.step + 1))
        self.optimizer.zero_grad(set_to_none=True)
        lowest = math.inf
        for part in self._parts():
            # Starts share no parameter, so the gradient of the sum is each one's own.
            loss = self.losses(part)[0]
            loss.sum().backward()
            lowest = min(lowest, float(loss.detach().min()))
        if not math.isfinite(lowest):
            raise InputError("the inversion's loss is not a number.", "Are the model's weights sound?")
        self.optimizer.step()
        self.step += 1
        self.seconds += time.perf_counter() - began
        return lowest

    @torch.no_grad()
    def result(self) -> Result:
        """What the search holds now."""
        parts = [self.losses(part) for part in self._parts()]
        loss, perceptual = (torch.cat(column) for column in zip(*parts, strict=True))
        best = int(loss.argmin())
        bits = self.key > 0
        starts = [
            Start(float(loss[i]), float(perceptual[i]), int((bits[i] == bits[best]).sum()))
            for i in range(len(loss))
        ]
        weights = torch.exp(-(loss / loss[best].clamp_min(1e-9) - 1) / SPREAD).double()
        logits = weights / weights.sum() @ self.key.double()
        return Result(
            logits=quantised(logits).astype(np.int32),
            bits=np.where(bits[best].numpy(), 1, -1).astype(np.int8),
            loss=starts[best].loss,
            starts=starts,
            seconds=self.seconds,
        )

    def save(self) -> None:
        """Write the state, whole or not at all."""
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "alpha": self.alpha.detach(),
            "key": self.key.detach(),
            "optimizer": self.optimizer.state_dict(),
        }
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.checkpoint) as file:
            torch.save(state, file)

    def _load(self) -> None:
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, weights_only=True)
        if state["step"] > self.settings.steps:  # of a longer search, whose earlier states are gone
            return
        self.step, self.seconds = state["step"], state["seconds"]
        with torch.no_grad():
            self.alpha.copy_(state["alpha"])
            self.key.copy_(state["key"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _parts(self) -> list[slice]:
        size = max(1, AT_ONCE // self.generator.size**2)
        return [slice(start, start + size) for start in range(0, self.settings.starts, size)]


def as_pixels(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """The whole image at the generator's size, (size, size, 3): the paper assumes it is not cropped."""
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.array(image.convert("RGB"))


def invert(
    home: Home,
    path: Path,
    name: str,
    settings: Settings,
    *,
    lpips: Path | None = None,
    work: Path | None = None,
) -> dict[str, Any]:
    """Invert the image at ``path`` under model ``name`` and look its key up; a JSON object of ``SCHEMA``.

    ``work`` keeps latents and the search's state, by default the model's training folder. The latents that
    training drew are used where they lie there; otherwise as few are drawn as the content space takes.
    :class:`InputError` for an unusable image, :class:`StateError` for a model without a basis.
    """
    settings.check()
    suspect = load_image(path)
    perceptual = choose_perceptual(lpips)
    with home.database.read() as session:
        model = generators.get_model(session, name)
        names = generators.basis_name(model), generators.base_name(model)
    folder = work or training_path(home, model)
    folder.mkdir(parents=True, exist_ok=True)
    adapter = get_adapter(model.adapter)
    with home.storage.local(names[0]) as basis_path, home.storage.local(names[1]) as base:
        basis = Basis.load(basis_path)
        generator = copies_generator(adapter, base, adapter.load(base), basis)
        latents = known_latents(generator, basis, folder)
        space = content_space(adapter, base, basis, latents)
        result = Inversion(generator, basis, space, suspect.image, settings, perceptual, folder).run()
    return {
        "schema": SCHEMA,
        "image": {
            "path": str(path),
            "sha256": suspect.sha256,
            "width": suspect.width,
            "height": suspect.height,
        },
        "model": {"name": model.name, "version": model.version, "digest": model.digest_text},
        "basis": basis.digest,
        "settings": asdict(settings),
        "perceptual": perceptual.name,
        "latents": len(latents),
        "loss": result.loss,
        "starts": [asdict(start) for start in result.starts],
        "seconds": round(result.seconds, 3),
        "quantum": QUANTUM,
        "logits": result.logits.tolist(),
        "bits": np.packbits(result.bits > 0).tobytes().hex(),
        **identify(home, model, result),
    }


def known_latents(generator: Generator, basis: Basis, work: Path, most: int | None = None) -> torch.Tensor:
    """The latents (N, *shape) that lie in ``work``, at most the paper's number, or as many as are needed.

    ``most`` limits what is drawn for lack of them: principal components of few latents are coarse.
    """
    needed = latents_needed(tuple(generator.latent_shape), basis.scheme)
    wanted = min(needed, most or needed)
    for kind in ("latents", "encoded"):
        chunks: list[torch.Tensor] = []
        while (path := work / f"{kind}-{CHUNK * len(chunks):06d}.safetensors").exists():
            chunks.append(load_file(path)["latents"])
        if CHUNK * len(chunks) >= wanted:
            return torch.cat(chunks)[:LATENTS]
    return draw_latents(generator, wanted, work)


def identify(home: Home, model: Model, result: Result, alpha: float = ALPHA) -> dict[str, Any]:
    """The verdict on the logits among the keys of ``model``: ``verdict``, ``copy`` and ``evidence``.

    Hypotheses are all keys ever issued in this registry, times METHODS, since the same image is as a rule
    read by the network as well. As in findings, no key is named above alpha.
    """
    from registry.keys import service as keys

    with home.database.read() as session:
        rows = list(keys.rows(session, model))
        q, images = keys.screening(session, model)
        issued = sum(keys.count(session, every) for every in generators.models(session))
        revoked = {revocation.key_id for revocation in keys.revocations(session, [model])}
    evidence = {"bits": len(result.logits), "hypotheses": METHODS * issued, "alpha": alpha}
    nothing = {"verdict": "not-attributed", "copy": None, "evidence": evidence}
    if not rows:
        return nothing
    secret = generators.model_secret(home.master, model)
    table = KeyTable(keys.derive_table(secret, model, [r.key_id for r in rows], [r.redraws for r in rows]))
    (row,), (score,) = table.top(result.logits, 1)
    tail = log10_tail(result.logits, float(score), keys.probabilities(home.master, model))
    log10_p = log10_family(tail, 1, 1.0 - images * float(q))
    family = log10_family(log10_p, METHODS * issued)
    if family > math.log10(alpha):
        return nothing
    signs = table.signs(int(row))
    named = {
        "id": COPY_PREFIX + rows[row].key_id.hex(),
        "key_id": rows[row].key_id.hex(),
        "revoked": rows[row].key_id in revoked,
        "matching_bits": int(np.count_nonzero(result.logits * signs > 0)),
        "log10_p": log10_p,
        "log10_p_family": family,
    }
    return {"verdict": "attributed", "copy": named, "evidence": evidence}


def summary(document: Mapping[str, Any]) -> list[str]:
    """The result of :func:`invert` in sentences."""
    settings, evidence, copy = document["settings"], document["evidence"], document["copy"]
    lines = [
        f"Searched {settings['starts']} starts x {settings['steps']} steps in {document['seconds']:.0f} s: "
        f"loss {document['loss']:.4f} ({document['perceptual']}), content from {document['latents']} latents"
        + ("." if document["latents"] >= LATENTS else f" (the paper draws {LATENTS}).")
    ]
    if copy is None:
        return [*lines, f"No copy can be named for this image at alpha {evidence['alpha']:g}."]
    state, bits = " (revoked)" if copy["revoked"] else "", evidence["bits"]
    bound = f"p <= 10^{copy['log10_p_family']:.1f} among {evidence['hypotheses']} hypotheses"
    matching = f"{copy['matching_bits']} of {bits} bits"
    return [*lines, f"This image depends on the key of {copy['id']}{state}: {matching}, {bound}."]
