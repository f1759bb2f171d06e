"""Making and measuring the points of a study; see the package.

study = run(home, "flowers", Sweep(), data=None, say=print)
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from registry.attribution import service
from registry.attribution.calibration import calibrate_on
from registry.attribution.folders import training_folder
from registry.attribution.perceptual import Lpips, Perceptual, choose_perceptual
from registry.attribution.study.plan import LEARNED, Offer, Point, Sweep
from registry.attribution.study.results import (
    ATTACKS,
    CLEAN,
    KEYS,
    LOG10_ALPHA,
    MIX,
    SCHEMA,
    Result,
    Study,
    front,
    recommend,
)
from registry.attribution.training import Pixels, RenderedImages, quantised, read, train_network, whole
from registry.errors import InputError
from registry.fingerprints.basis import Basis
from registry.fingerprints.frechet import Features, frechet_distance, frechet_increase, image_features
from registry.fingerprints.learned import FILTERS
from registry.fingerprints.pca import LATENTS_PER_DIMENSION, components
from registry.fingerprints.quality import choose_strength, psnr_db, random_signs
from registry.fingerprints.similarity import MS_SSIM_SIDE, WINDOW, EncoderDistance, ms_ssim, ssim
from registry.generators import service as generators
from registry.generators.adapters import Adapter, Generator, get_adapter, to_images
from registry.generators.models import Model
from registry.generators.photographs import load_images, load_photographs
from registry.home import Home
from registry.progress import progress
from registry.storage import atomic_file
from verifier.evidence import log10_family, log10_tail
from verifier.network import Network

LEAST_LATENTS = 1_000
CALIBRATION = 100
CALIBRATION_VIEWS = 2
STRENGTH_IMAGES = 64
CHUNK = 20
"""Images rendered at a time: 20 of 1024 pixels are 240 MB."""
PICTURES = 6
PROBE_STEPS = 2
TRAINED_AT_ONCE = 80
"""Attacked images in a training step, for the estimate of the time that measuring takes."""

Directions = tuple[Basis, bytes | None]
"""A basis at a strength to be chosen, and the file of filters that its network begins with, if it has one."""

Reader = Callable[[Pixels], NDArray[Any]]
"""Canvases (n, size, size, 3) -> integer readings (n, k)."""


def run(
    home: Home,
    name: str,
    sweep: Sweep,
    *,
    data: Path | None,
    say: Callable[[str], None],
    organisation: int | None = None,
) -> Study:
    """Measure every point that is not cached; ``say`` is told the estimate and each point's turn.

    ``data`` are photographs (folder or zip) to which Frechet distances are taken as well. All options are
    checked and all strengths found before anything is trained.
    """
    with home.database.read() as session:
        model = generators.get_model(session, name, organisation)
        newest = generators.networks(session, model)[-1:]
    adapter = get_adapter(model.adapter)
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(training_folder(home, model))
        folder = stack.enter_context(home.storage.local(generators.base_name(model)))
        generator = adapter.load(folder)
        _check_size(generator)
        points = sweep.plan(_offer(adapter, folder, generator))
        real = _photographs(data, generator.size)
        encoded = [] if data is None or not _hard_to_sample(generator) else load_images(data)
        bench = _Bench(adapter, folder, generator, model, sweep, work, real, encoded)
        bench.announce(points, say)
        bench.draw()
        for point in points:
            bench.prepare(point)
        results = bench.measure_all(points, say)
        if model.basis is not None and newest:
            basis = Basis.load(stack.enter_context(home.storage.local(generators.basis_name(model))))
            package = stack.enter_context(home.storage.local(generators.network_name(newest[0])))
            say("the registered basis and network")
            results.append(bench.registered(basis, package, newest[0].digest.hex()))
        found = recommend(results)
        return Study(
            model=model.label,
            adapter=model.adapter,
            size=generator.size,
            dimensions=bench.dimensions,
            images=sweep.images,
            steps=sweep.steps,
            photographs=0 if real is None else len(real),
            perceptual_name=bench.perceptual.name,
            results=results,
            front=front(results),
            recommendation=found,
            pictures=bench.pictures(results[found.index].point),
        )


def _offer(adapter: Adapter, folder: Path, generator: Generator) -> Offer:
    schemes = adapter.schemes_of(folder)
    learnable = adapter.learnable(generator) if LEARNED in schemes else 0
    return Offer(adapter.name, schemes, components(generator.latent_shape), learnable)


def _check_size(generator: Generator) -> None:
    if generator.size < WINDOW:
        raise InputError(f"images of {generator.size} pixels are too small to measure their similarity.")


def _hard_to_sample(generator: Generator) -> bool:
    return generator.slow_sampling or generator.sampling_obstacle() is not None


def _photographs(data: Path | None, size: int) -> Features | None:
    if data is None:
        return None
    photographs = load_photographs(data, size)
    if len(photographs) < 2:
        raise InputError(f"--data {data}: at least two photographs are needed.")
    return np.concatenate([image_features(part.float() / 255) for part in photographs.split(CHUNK)])


class _Bench:
    """What all points of a study share."""

    def __init__(
        self,
        adapter: Adapter,
        folder: Path,
        generator: Generator,
        model: Model,
        sweep: Sweep,
        work: Path,
        real: Features | None,
        encoded: Sequence[Image.Image],
    ) -> None:
        self.adapter, self.folder, self.generator, self.model = adapter, folder, generator, model
        self.sweep, self.work, self.real, self.encoded = sweep, work, real, encoded
        self.dimensions = components(generator.latent_shape)
        self.fitted = max(LATENTS_PER_DIMENSION * self.dimensions, LEAST_LATENTS)
        whole = self.fitted + max(service.HELD_OUT, CALIBRATION + sweep.images)
        self.held_out = math.ceil(whole / service.CHUNK) * service.CHUNK - self.fitted
        self.perceptual = learned_distance()
        self.latents = torch.zeros(0)
        self.study = work / "study"
        self.study.mkdir(parents=True, exist_ok=True)
        self._directions: dict[tuple[str, int, int], Directions] = {}

    def announce(self, points: Sequence[Point], say: Callable[[str], None]) -> None:
        """State how long this will take, from a few latents and training steps made for the purpose."""
        todo = [point for point in points if self._cached(self._folder(point)) is None]
        if not todo:
            say(f"{len(points)} points, all measured before.")
            return
        kept = "encoded" if self.encoded else "latents"
        missing = [
            start
            for start in range(0, self.fitted + self.held_out, service.CHUNK)
            if not (self.work / f"{kept}-{start:06d}.safetensors").exists()
        ]
        if missing and not self.encoded:
            self._refuse_slow_sampler()
        started = time.monotonic()
        with contextlib.redirect_stderr(io.StringIO()):
            first = service.draw_latents(
                self.generator, (missing[0] if missing else 0) + service.CHUNK, self.work, self.encoded
            )
        drawing = (time.monotonic() - started) * max(len(missing) - 1, 0)
        networks = f"{len(todo)} networks of {self.sweep.steps} steps"
        step = self._time_step(max(todo, key=lambda point: point.bits), first)
        training = step * len(todo) * (self.sweep.steps + self._measuring_steps())
        say(
            f"{len(points)} points, {len(points) - len(todo)} of them measured before: about "
            f"{_duration(drawing + training)}, {_duration(drawing)} to draw latents and "
            f"{_duration(training)} to train {networks} and measure them."
            + (" Finding learned directions comes on top." if any(point.learned for point in todo) else "")
            + " Ctrl-C keeps what is done."
        )

    def _refuse_slow_sampler(self) -> None:
        obstacle = self.generator.sampling_obstacle()
        if obstacle is not None:
            raise obstacle
        if self.generator.slow_sampling:
            raise InputError(
                f"{self.model.label}: a study draws {self.fitted + self.held_out:,} latents, which this "
                "sampler takes days for.",
                "Give --data photographs: their encodings serve instead.",
            )

    def _time_step(self, point: Point, latents: torch.Tensor) -> float:
        rows = np.random.default_rng(0).standard_normal((point.bits, *self.generator.latent_shape))
        rows /= np.linalg.norm(rows.reshape(point.bits, -1), axis=1).reshape(-1, *[1] * (rows.ndim - 1))
        directions = self.adapter.fold(self.folder, rows.astype(np.float32))
        basis = Basis("pca", 0.1, point.shift, self.model.digest_text, directions)
        source = RenderedImages(self.generator, basis, latents)
        with contextlib.redirect_stderr(io.StringIO()), tempfile.TemporaryDirectory() as work:
            train_network(source, Path(work), 1)  # the first step also prepares
            started = time.monotonic()
            train_network(source, Path(work), 1 + PROBE_STEPS)
            return (time.monotonic() - started) / PROBE_STEPS

    def _measuring_steps(self) -> float:
        """About how many training steps measuring a point is worth."""
        images = CALIBRATION * CALIBRATION_VIEWS + self.sweep.images * (2 + len(ATTACKS))
        return images / TRAINED_AT_ONCE

    def draw(self) -> None:
        """Latents for the bases and the training, then those held out; shared with `model train`."""
        self.latents = service.draw_latents(
            self.generator, self.fitted + self.held_out, self.work, self.encoded
        )

    @property
    def seen(self) -> torch.Tensor:
        """Latents of bases and training."""
        return self.latents[: self.fitted]

    @property
    def unseen(self) -> torch.Tensor:
        """Latents of calibration (the first) and measurement (the last)."""
        return self.latents[self.fitted :]

    def prepare(self, point: Point) -> None:
        """The point's basis with its strength, kept in its folder."""
        path = self._folder(point) / "basis.safetensors"
        if path.exists():
            return
        basis, filters = self._directed(point)
        if point.strength is not None:
            basis = basis.with_strength(point.strength, {})
        else:
            assert point.psnr is not None
            try:
                copies = self._copies(basis)
                basis = choose_strength(
                    copies, basis, self.unseen[:STRENGTH_IMAGES], point.psnr, self.generator
                )
            except InputError as error:
                raise InputError(f"{point}: {error}", "Choose other --psnrs or --shifts.") from None
        path.parent.mkdir(exist_ok=True)
        if filters is not None:
            with atomic_file(path.with_name(FILTERS)) as file:
                file.write(filters)
        basis.save(path)

    def _directed(self, point: Point) -> Directions:
        """The point's directions at a strength to be chosen, the same for all points that share them."""
        key = (point.scheme, point.shift, point.bits)
        if key not in self._directions:
            self._directions[key] = self._learned(point) if point.learned else self._principal(point)
        return self._directions[key]

    def _principal(self, point: Point) -> Directions:
        basis = service.latent_directions(
            self.adapter,
            self.folder,
            self.latents[: self.fitted + service.HELD_OUT],
            self.model.digest_text,
            scheme=point.scheme,
            bits=point.bits,
            shift=point.shift,
        )
        return basis, None

    def _learned(self, point: Point) -> Directions:
        """Statistics of the generator are kept and serve every length of a key; filters are of this one."""
        work = self.study / LEARNED
        work.mkdir(exist_ok=True)
        basis = self.adapter.learn(
            self.folder,
            self.generator,
            self.seen,
            self.model.digest_text,
            point.bits,
            service.PSNR_DB,  # the points that share the directions differ in quality
            work,
        )
        filters = work / FILTERS
        return basis, filters.read_bytes() if filters.exists() else None

    def measure_all(self, points: Sequence[Point], say: Callable[[str], None]) -> list[Result]:
        """Figures of every point, trained and measured where they are not cached."""
        results: list[Result] = []
        spent: list[float] = []
        left = sum(self._cached(self._folder(p)) is None for p in points)
        for number, point in enumerate(points, 1):
            result = self._cached(self._folder(point))
            if result is None:
                ahead = f", about {_duration(left * sum(spent) / len(spent))} left" if spent else ""
                say(f"point {number} of {len(points)}: {point}{ahead}")
                result = self._measure(point)
                spent.append(result.seconds)
                left -= 1
            results.append(result)
        return results

    def _measure(self, point: Point) -> Result:
        started, folder = time.monotonic(), self._folder(point)
        basis = Basis.load(folder / "basis.safetensors")
        source = RenderedImages(self._copies(basis), basis, self.seen)
        network = train_network(source, folder, self.sweep.steps).eval()
        unseen = replace(source, latents=self.unseen[:CALIBRATION])
        calibrate_on(network, unseen, CALIBRATION, CALIBRATION_VIEWS, np.random.default_rng(0))
        quality, attacks = self._figures(basis, lambda pixels: quantised(read(network, pixels)), network.size)
        result = Result(point, basis.strength, quality, attacks, self.sweep.steps, time.monotonic() - started)
        self._keep(folder, result)
        return result

    def registered(self, basis: Basis, package: Path, digest: str) -> Result:
        """The model as it is in use, for comparison: nothing is trained."""
        folder = self.study / f"registered-{digest[:16]}"
        found = self._cached(folder)
        if found is not None:
            return found
        started = time.monotonic()
        network = Network.load(package, device="cpu")
        quality, attacks = self._figures(
            basis, lambda pixels: network.quantise(network.logits(pixels)), network.spec.size
        )
        point = Point(basis.scheme, basis.shift, basis.bits, basis.strength)
        result = Result(point, basis.strength, quality, attacks, None, time.monotonic() - started)
        folder.mkdir(exist_ok=True)
        self._keep(folder, result)
        return result

    def pictures(self, point: Point) -> list[tuple[Image.Image, Image.Image, Image.Image]]:
        """Base, copy and their amplified difference at some of the latents measured."""
        basis = Basis.load(self._folder(point) / "basis.safetensors")
        latents = self.unseen[-self.sweep.images :][:PICTURES]
        base, copy = _rendered(self.generator, self._copies(basis), basis, latents, 0)
        difference = ((copy - base) * 8 + 0.5).clamp(0, 1)
        return list(zip(*(to_images(part) for part in (base, copy, difference)), strict=True))

    def _figures(
        self, basis: Basis, reader: Reader, size: int
    ) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        latents, copies = self.unseen[-self.sweep.images :], self._copies(basis)
        kept: dict[str, list[Any]] = {"base": [], "copy": []}
        quality: dict[str, list[torch.Tensor]] = {}
        rows: dict[str, list[NDArray[Any]]] = {name: [] for name in (CLEAN, *ATTACKS)}
        with progress("measuring", len(latents)) as bar:
            for start in range(0, len(latents), CHUNK):
                part = latents[start : start + CHUNK]
                base, copy = _rendered(self.generator, copies, basis, part, start)
                for name, values in _similarities(base, copy, self.perceptual).items():
                    quality.setdefault(name, []).append(values)
                kept["base"].append(image_features(base))
                kept["copy"].append(image_features(copy))
                images = to_images(copy)
                for name, read_rows in rows.items():
                    read_rows.append(reader(_views(images, name, size, start)))
                bar.update(start + len(images))
        signs = np.concatenate(
            [
                random_signs(len(part), basis.bits, seed=start).numpy()
                for start, part in zip(range(0, len(latents), CHUNK), latents.split(CHUNK), strict=True)
            ]
        )
        means = {name: float(torch.cat(values).mean()) for name, values in quality.items()}
        distances = _distances(np.concatenate(kept["base"]), np.concatenate(kept["copy"]), self.real)
        return means | distances, accuracies({n: np.concatenate(r) for n, r in rows.items()}, signs)

    def _copies(self, basis: Basis) -> Generator:
        return service.copies_generator(self.adapter, self.folder, self.generator, basis)

    def _folder(self, point: Point) -> Path:
        parameters = {
            **asdict(point),
            "model": self.model.digest_text,
            "steps": self.sweep.steps,
            "latents": self.fitted,
        }
        return self.study / hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:24]

    def _figures_name(self) -> str:
        """Names what was measured, apart from the point: more images need no new training."""
        real = hashlib.sha256(self.real.tobytes()).hexdigest() if self.real is not None else ""
        measured = f"{SCHEMA} {self.sweep.images} {real} {self.perceptual.name}"
        return f"figures-{hashlib.sha256(measured.encode()).hexdigest()[:12]}.json"

    def _cached(self, folder: Path) -> Result | None:
        try:
            return Result.parse(json.loads((folder / self._figures_name()).read_text()))
        except (OSError, ValueError, KeyError, TypeError):  # missing, or of another version: measured again
            return None

    def _keep(self, folder: Path, result: Result) -> None:
        with atomic_file(folder / self._figures_name()) as file:
            file.write(json.dumps(result.document(), indent=1).encode() + b"\n")


@torch.no_grad()
def _rendered(
    generator: Generator, copies: Generator, basis: Basis, latents: torch.Tensor, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of base and copies, a random key each, as 8 bit files have them."""
    signs = random_signs(len(latents), basis.bits, seed=seed)
    pair = generator.render(latents), copies.render(latents, basis.offsets(signs))
    base, copy = (images.mul(255).round().clamp(0, 255) / 255 for images in pair)
    return base, copy


def _views(images: Sequence[Image.Image], name: str, size: int, seed: int) -> Pixels:
    attack = ATTACKS.get(name, lambda image, rng: image)
    views = [attack(image, np.random.default_rng([seed, i])) for i, image in enumerate(images)]
    return np.stack([whole(view, size) for view in views])


def learned_distance() -> Perceptual:
    """LPIPS where its weights are on this disk, else the reference encoder's distance."""
    found = choose_perceptual()
    return found if isinstance(found, Lpips) else EncoderDistance()


@torch.no_grad()
def _similarities(base: torch.Tensor, copy: torch.Tensor, perceptual: Perceptual) -> dict[str, torch.Tensor]:
    found = {
        "psnr_db": psnr_db(copy, base),
        "ssim": ssim(copy, base),
        "perceptual": perceptual(copy, base),
    }
    if min(base.shape[-2:]) >= MS_SSIM_SIDE:
        found["ms_ssim"] = ms_ssim(copy, base)
    return found


def _distances(base: Features, copy: Features, real: Features | None) -> dict[str, float]:
    found = {"frechet": frechet_distance(base, copy)}
    if real is not None:
        increase = frechet_increase(base, copy, real)
        found |= {
            "frechet_base": increase.base,
            "frechet_increase": increase.value,
            "frechet_increase_low": increase.low,
            "frechet_increase_high": increase.high,
        }
    return found


def accuracies(readings: Mapping[str, NDArray[Any]], signs: NDArray[Any]) -> dict[str, dict[str, float]]:
    """Figures of whole readings (n, k) under each attack, keys ``signs`` (n, k), and of the mix.

    A bit read as 0 is undecided: half right, and no bit of a key that is right in every bit.
    """
    right = {name: (1 + np.sign(rows) * signs) / 2 for name, rows in readings.items()}
    decades = {
        name: np.array([-log10_tail(row, float(row @ key)) for row, key in zip(rows, signs, strict=True)])
        for name, rows in readings.items()
    }
    attacked = [name for name in readings if name != CLEAN]
    right[MIX] = np.concatenate([right[name] for name in attacked])
    decades[MIX] = np.concatenate([decades[name] for name in attacked])
    return {name: _summary(right[name], decades[name]) for name in right}


def _summary(right: NDArray[np.float64], decades: NDArray[np.float64]) -> dict[str, float]:
    return {
        "every_bit": float((right == 1).all(1).mean()),
        "bits_right": float(right.mean()),
        "identified": float(np.mean([log10_family(-d, KEYS) <= LOG10_ALPHA for d in decades])),
        "evidence_5": float(np.quantile(decades, 0.05)),
        "evidence_50": float(np.median(decades)),
    }


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
