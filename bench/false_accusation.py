"""How often keys that made nothing are accused: observed against nominal, over many foreign images.

python -m bench.false_accusation [--quick] [--data FOLDER] [--read NAME[=FOLDER] IMAGES ...] [--keys N]
                                 [--fresh N] [--cache FOLDER] [--plot FILE.svg]

Every image is read as the verifier reads it: pose search, up to 128 weighted readings, a key's p over all
of them. None depends on the keys it is compared with, so each accusation is a false one.

(a) Fresh keys for each image: the share accused, with Clopper and Pearson's exact lower limit at 99 %,
    Bonferroni over all cells of the table, which must not exceed nominal.
(b) One table of keys, drawn as the registry draws them, with and without screening: the key and the image
    with the most accusations; as verdicts (alpha shared by all keys) and one key at a time, next to what
    is usual: the binomial test of hard bits at the same nominal alpha.
(c) What that test does where readings and keys are not counted: the best of all readings against a fresh key,
    and one reading against all keys of the table.

With --data (a folder with photos256 and imagenet32, folders or zips) photographs are among the sources:
of photos256 only the half whose SHA-256 begins with an odd byte, as keys are screened against the other.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from bench.attribution import benchmark_attack
from bench.common import BUILTIN, Goal, close
from bench.marked import Reference, keys_for, open_reference, pixels, seeded
from bench.removal import differentiable
from registry.attribution.attacks import BENCHMARK
from registry.generators.adapters import to_images
from registry.generators.builtin import known_builtins, resolve_builtin
from registry.generators.photographs import SUFFIXES
from registry.keys.screening import Screen
from registry.keys.service import _draw
from registry.progress import progress
from verifier.check import weighted_tests
from verifier.evidence import log10_family, log10_tail, score_at
from verifier.network import Network
from verifier.phi import KEY_ID_BYTES, ModelSecret, Packed, unpack
from verifier.resolve import BATCH, KeyTable

ALPHAS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
CONFIDENCE = 0.99
SCORES_AT_ONCE = 1 << 21
SIDE = 128
"""Pixels of enlarged and synthetic images."""
DRAWN_MOST = 32
"""Images of each generator: diffusion takes most of a second for one."""
TO_A_COPY = 4
STEPS, RATE = 40, 0.02
"""Gradient ascent: steps, and root mean square change of the first one (it falls to zero)."""

Images = list[Image.Image]
Counts = NDArray[np.integer]


@dataclass
class Suspect:
    """One image against keys: integer logits (t, k) of its tests and their shares of alpha (t,)."""

    logits: NDArray[np.int16]
    weights: NDArray[np.float64]
    _thresholds: dict[tuple[int, int], float] = field(default_factory=dict)

    @classmethod
    def read(cls, network: Network, image: Image.Image) -> Suspect:
        """As :mod:`verifier.check` tests a single image."""
        tests = weighted_tests(network.ranked([image]))
        logits = np.stack([test.logits for test in tests]).astype(np.int16)
        return cls(logits, np.array([test.weight for test in tests]))

    def hard(self, readings: int | None = 1) -> Suspect:
        """The usual test: signs, so that a score is a count of matches; of the most confident ``readings``
        (``None``: of all), none of which pays for being one of many."""
        signs = np.where(self.logits[:readings] < 0, -1, 1).astype(np.int16)
        return Suspect(signs, np.ones(len(signs)))

    def levels(self, packed: Packed) -> NDArray[np.int8]:
        """At how many of ``ALPHAS`` (descending) each key is accused when tested alone, (n,)."""
        at_once = SCORES_AT_ONCE // len(self.logits)
        parts = [self._levels(packed[i : i + at_once]) for i in range(0, len(packed), at_once)]
        return np.concatenate(parts)

    def log10_p(self, packed: Packed) -> float:
        """Bound for one key (k / 8,) over all tests, each paying for its share of alpha."""
        scores = (self.logits.astype(np.int64) @ unpack(packed)).astype(np.float64)
        return float((log10_tail(self.logits, scores) - np.log10(self.weights)).min())

    def _levels(self, packed: Packed) -> NDArray[np.int8]:
        scores = self._scores(packed)
        levels = np.zeros(len(packed), np.int8)
        tests, keys = np.arange(len(scores)), np.arange(len(packed))
        # Who is accused at one alpha was so, by the same test, at every larger one.
        for level in range(len(ALPHAS)):
            accused = scores >= np.array([self._threshold(test, level) for test in tests.tolist()])[:, None]
            kept, left = accused.any(axis=1), accused.any(axis=0)
            scores, tests, keys = scores[kept][:, left], tests[kept], keys[left]
            levels[keys] = level + 1
            if not len(keys):
                break
        return levels

    def _scores(self, packed: Packed) -> NDArray[Any]:
        if len(self.logits) < BATCH:
            table = KeyTable(packed)
            return np.stack([table.scores(row) for row in self.logits])
        return np.asarray(self.logits.astype(np.float32) @ unpack(packed).astype(np.float32).T)

    def _threshold(self, test: int, level: int) -> float:
        known = self._thresholds.get((test, level))
        if known is None:
            log10_p = math.log10(ALPHAS[level] * self.weights[test])
            known = self._thresholds[test, level] = float(score_at(self.logits[test], log10_p))
        return known


@dataclass(frozen=True)
class IssuedKeys:
    """Keys as first drawn, and after them what those were replaced by that screening refused."""

    packed: Packed
    issued: int
    refused: NDArray[np.int64]
    acceptance: float

    @classmethod
    def draw(cls, reference: Reference, count: int) -> IssuedKeys:
        """By the registry's own function, twice: without foreign readings and with the package's."""
        bits, rng = reference.basis.bits, np.random.default_rng([2, count])
        secret = ModelSecret(rng.bytes(32))
        ids = [rng.bytes(KEY_ID_BYTES) for _ in range(count)]
        foreign = np.load(reference.package / "foreign.npz")["logits"]
        _, first = _draw(secret, ids, bits, Screen.against(foreign[:0]))
        redraws, screened = _draw(secret, ids, bits, Screen.against(foreign))
        refused = np.flatnonzero(redraws)
        return cls(np.concatenate([first, screened[refused]]), count, refused, reference.acceptance)

    def unscreened(self, counts: NDArray[Any]) -> NDArray[Any]:
        """Of counts or levels of all rows, those of the keys as first drawn."""
        return counts[: self.issued]

    def screened(self, counts: NDArray[Any]) -> NDArray[Any]:
        """Of counts or levels of all rows, those of the keys as issued."""
        found = counts[: self.issued].copy()
        found[self.refused] = counts[self.issued :]
        return found


@dataclass(frozen=True)
class Row:
    """One network on one source. Accusations of fresh keys (a,) among ``comparisons``, and by hard bits of
    the best reading; those of each row of :class:`IssuedKeys` (n, a) one at a time, by hard bits, and as
    verdicts; keys that each image accuses (images, a) by hard bits and (images, 2, a) as verdicts, without
    and with screening."""

    network: str
    source: str
    images: int
    comparisons: int
    fresh: Counts
    fresh_hard: Counts
    alone: Counts
    hard: Counts
    verdicts: Counts
    image_hard: Counts
    image_verdicts: Counts

    @property
    def observed(self) -> NDArray[np.float64]:
        """Share of fresh keys accused, for each alpha."""
        return self.fresh / self.comparisons


def measure(
    network: str, source: str, images: Sequence[Suspect], keys: IssuedKeys, fresh: int, seed: int
) -> Row:
    """Fresh keys for each image, and the table of issued ones."""
    rng = np.random.default_rng([seed, *hashlib.sha256(f"{network} {source}".encode()).digest()])
    drawn, drawn_hard = np.zeros((2, len(ALPHAS)), np.int64)
    alone, hard, verdicts = (np.zeros((len(keys.packed), len(ALPHAS)), np.int32) for _ in range(3))
    image_hard = np.zeros((len(images), len(ALPHAS)), np.int64)
    image_verdicts = np.zeros((len(images), 2, len(ALPHAS)), np.int64)
    with progress(f"{network} {source}", len(images)) as bar:
        for number, image in enumerate(images):
            random = rng.integers(0, 256, (fresh, keys.packed.shape[1]), np.uint8)
            drawn += at_each(image.levels(random))
            drawn_hard += at_each(image.hard(None).levels(random))
            levels = image.levels(keys.packed)
            _add(alone, levels)
            matching = image.hard().levels(keys.packed)
            _add(hard, matching)
            image_hard[number] = at_each(keys.unscreened(matching))
            named = verdict_levels(image, keys, levels)
            _add(verdicts, named)
            image_verdicts[number] = at_each(keys.unscreened(named)), at_each(keys.screened(named))
            bar.update(number + 1)
    return Row(
        network=network,
        source=source,
        images=len(images),
        comparisons=fresh * len(images),
        fresh=drawn,
        fresh_hard=drawn_hard,
        alone=alone,
        hard=hard,
        verdicts=verdicts,
        image_hard=image_hard,
        image_verdicts=image_verdicts,
    )


def verdict_levels(image: Suspect, keys: IssuedKeys, levels: NDArray[np.int8]) -> NDArray[np.int8]:
    """At how many alphas each key would be named by a verdict on the image, given its :meth:`levels`.

    Alpha is shared by all issued keys: no verdict without a p of the last of ``ALPHAS`` for the key alone.
    """
    named = np.zeros_like(levels)
    for row in np.flatnonzero(levels == len(ALPHAS)).tolist():
        family = log10_family(image.log10_p(keys.packed[row]), keys.issued, keys.acceptance)
        named[row] = sum(family <= math.log10(alpha) for alpha in ALPHAS)
    return named


def at_each(levels: NDArray[np.int8]) -> Counts:
    """How many keys are accused at each of ``ALPHAS``: (a,) of levels (n,)."""
    return np.bincount(levels, minlength=len(ALPHAS) + 1)[::-1].cumsum()[::-1][1:]


def _add(counts: Counts, levels: NDArray[np.int8]) -> None:
    accused = np.flatnonzero(levels)
    counts[accused] += levels[accused, None] > np.arange(len(ALPHAS))


def lower_limit(successes: int, n: int, confidence: float) -> float:
    """Clopper and Pearson's one-sided lower limit of a proportion."""
    if not successes:
        return 0.0
    low, high = 0.0, successes / n
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_tail(successes, n, middle) < 1 - confidence else (low, middle)
    return low


def binomial_tail(successes: int, n: int, share: float) -> float:
    """``P(X >= successes)`` for X binomial, ``share`` at most ``successes / n``.

    The ratio of one term to the one before falls from at most 1, so that some standard deviations of terms
    are all that counts.
    """
    if not 0 < share < 1:
        return float(share >= 1)
    log_first = math.lgamma(n + 1) - math.lgamma(successes + 1) - math.lgamma(n - successes + 1)
    log_first += successes * math.log(share) + (n - successes) * math.log1p(-share)
    more = np.arange(min(n - successes, round(100 + 20 * math.sqrt(successes))))
    ratios = (n - successes - more) / (successes + 1 + more) * (share / (1 - share))
    return math.exp(log_first) * (1 + float(np.cumprod(ratios).sum()))


@dataclass(frozen=True)
class Source:
    """Foreign images for a network: ``images(reference, n)`` gives up to n of them."""

    name: str
    images: Callable[[Reference, int], Images]


def sources(data: Path | None) -> list[Source]:
    """Every source that can be had; photographs only with ``data``."""
    found = []
    if data is not None:
        found += [
            Source("photographs", lambda _, n: photographs(data)[:n]),
            Source("small photographs, enlarged", lambda _, n: small_photographs(data, n)),
        ]
    for name in known_builtins():
        if resolve_builtin(name).basis is None:
            continue  # the zoo carries no keys
        found.append(Source(f"unmarked {name}", partial(drawn, name, False)))
        found.append(Source(f"copies of {name}", partial(drawn, name, True)))
    plain = list(found)
    return [
        *found,
        Source("attacked", partial(attacked, plain)),
        Source("synthetic", lambda _, n: synthetic(n)),
        Source("adversarial: confident", partial(adversarial, plain[0], to_a_key=False)),
        Source("adversarial: like some key", partial(adversarial, plain[0], to_a_key=True)),
    ]


@cache
def photographs(data: Path) -> Images:
    """The test half of photos256."""
    return [_opened(content) for content in _contents(data, "photos256") if _odd(content)]


@cache
def small_photographs(data: Path, n: int) -> Images:
    """``n`` of imagenet32, spread over its classes, enlarged."""
    contents = list(_contents(data, "imagenet32"))
    chosen = [contents[i * len(contents) // n] for i in range(min(n, len(contents)))]
    return [_opened(content).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for content in chosen]


def _contents(data: Path, name: str) -> Iterator[bytes]:
    if (data / name).is_dir():
        yield from (path.read_bytes() for path in sorted((data / name).rglob("*.*")) if _image(path.name))
        return
    try:
        archive = zipfile.ZipFile(data / f"{name}.zip")
    except OSError as error:
        raise click.BadParameter(f"no {name} there ({error.strerror}).", param_hint="--data") from None
    with archive:
        yield from (archive.read(file) for file in sorted(archive.namelist()) if _image(file))


def _image(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES


def _odd(content: bytes) -> bool:
    return hashlib.sha256(content).digest()[0] % 2 == 1


def _opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


def drawn(name: str, marked: bool, _: Reference, n: int) -> Images:
    """Images of a builtin's sampler, ``DRAWN_MOST`` at most: of the base model, or of copies."""
    return _drawn(name, marked, min(n, DRAWN_MOST))


@cache
def _drawn(name: str, marked: bool, n: int) -> Images:
    reference, latents = _latents(name, n)
    if marked:
        return reference.mark(latents, TO_A_COPY).images
    return to_images(reference.render(latents))


@cache
def _latents(name: str, n: int) -> tuple[Reference, torch.Tensor]:
    reference = open_reference(name)
    return reference, reference.latents(n)


def attacked(plain: Sequence[Source], reference: Reference, n: int) -> Images:
    """Images of all ``plain`` sources in turn, under every attack of the benchmark in turn."""
    names = list(BENCHMARK)
    images = []
    for number in range(n):
        pool = plain[number % len(plain)].images(reference, n)
        name = names[number % len(names)]
        image = pool[number // len(plain) % len(pool)]
        images.append(benchmark_attack(name)(image, seeded(number, name)))
    return images


def synthetic(n: int) -> Images:
    """Flat colours, noise, gradients, text and checkerboards in turn, of random colours and scales."""
    kinds = (_flat, _noise, _gradient, _text, _checkerboard)
    return [kinds[i % len(kinds)](np.random.default_rng([i, 3])) for i in range(n)]


def _flat(rng: np.random.Generator) -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), _colour(rng))


def _noise(rng: np.random.Generator) -> Image.Image:
    coarse = 2 ** int(rng.integers(1, 8))
    noise = Image.fromarray(rng.integers(0, 256, (coarse, coarse, 3), np.uint8))
    return noise.resize((SIDE, SIDE), Image.Resampling.NEAREST)


def _gradient(rng: np.random.Generator) -> Image.Image:
    corners = Image.fromarray(rng.integers(0, 256, (2, 2, 3), np.uint8))
    return corners.resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def _text(rng: np.random.Generator) -> Image.Image:
    image = _flat(rng)
    draw, size = ImageDraw.Draw(image), int(rng.integers(8, 33))
    for top in range(0, SIDE, size):
        letters = bytes(rng.integers(33, 127, SIDE // 4, np.uint8)).decode()
        draw.text((0, top), letters, fill=_colour(rng), font_size=size)
    return image


def _checkerboard(rng: np.random.Generator) -> Image.Image:
    field, (first, second) = int(rng.integers(1, 33)), rng.integers(0, 256, (2, 3), np.uint8)
    x = np.arange(SIDE) // field
    return Image.fromarray(np.where(((x[:, None] + x) % 2)[..., None] == 0, first, second))


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = rng.integers(0, 256, 3).tolist()
    return red, green, blue


def adversarial(start: Source, reference: Reference, n: int, to_a_key: bool) -> Images:
    """Gradient ascent with the network but no key: on its confidence, or towards a key of one's own."""
    network, clip = differentiable(reference), reference.network.spec.clip
    side = (reference.network.spec.size,) * 2
    images = pixels([image.resize(side, Image.Resampling.BICUBIC) for image in start.images(reference, n)])
    wanted = torch.from_numpy(keys_for(len(images), reference.basis.bits, 1, seed=5)).float()
    rms = partial(torch.mean, dim=(1, 2, 3), keepdim=True)
    for step in range(STEPS):
        images.requires_grad_(True)
        logits = network(images).clamp(-clip, clip)
        aim = (logits * wanted).sum() if to_a_key else _confidence(logits).sum()
        (slope,) = torch.autograd.grad(aim, images)
        with torch.no_grad():
            rate = RATE * (1 - step / STEPS)
            images = (images + rate * slope / rms(slope.square()).sqrt().clamp_min(1e-20)).clamp(0, 1)
    return to_images(images.detach())


def _confidence(logits: torch.Tensor) -> torch.Tensor:
    return logits.abs() + torch.log1p(torch.exp(-2 * logits.abs()))


def read(reference: Reference, source: Source, n: int, folder: Path | None) -> list[Suspect]:
    """The source's images as the network tests them, from the cache where they were read before."""
    path = None if folder is None else folder / f"{_cache_name(reference.network, source.name, n)}.npz"
    if path is not None and path.exists():
        with np.load(path) as stored:
            ends = stored["ends"][:-1]
            parts = zip(np.split(stored["logits"], ends), np.split(stored["weights"], ends), strict=True)
            return [Suspect(logits, weights) for logits, weights in parts]
    images = source.images(reference, n)
    tested = []
    with progress(f"reading {source.name} with {reference.label}", len(images)) as bar:
        for number, image in enumerate(images):
            tested.append(Suspect.read(reference.network, image))
            bar.update(number + 1)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial_file = path.with_suffix(".part.npz")
        np.savez_compressed(
            partial_file,
            ends=np.cumsum([len(each.logits) for each in tested]),
            logits=np.concatenate([each.logits for each in tested]),
            weights=np.concatenate([each.weights for each in tested]),
        )
        partial_file.replace(path)
    return tested


def _cache_name(network: Network, source: str, n: int) -> str:
    return hashlib.sha256(f"{network.digest} {network.spec} {source} {n}".encode()).hexdigest()[:32]


def by_chance(images: int, keys: int, alpha: float) -> int:
    """Accusations of the worst of ``keys`` keys, were all images and keys independent: the median, about."""
    most = 0
    while most < images and keys * binomial_tail(most + 1, images, min(alpha, (most + 1) / images)) > 0.5:
        most += 1
    return most


def show_fresh(rows: Sequence[Row], confidence: float) -> None:
    """Table (a): observed over nominal, and its lower limit."""
    _heading("network", "source", "images", "comparisons", *(f"{alpha:g}" for alpha in ALPHAS))
    for row in rows:
        cells = [
            f"{share / alpha:.3f} ({lower_limit(count, row.comparisons, confidence) / alpha:.3f})"
            for share, count, alpha in zip(row.observed, row.fresh.tolist(), ALPHAS, strict=True)
        ]
        _line(row.network, row.source, row.images, f"{row.comparisons:,}", *cells)


def show_issued(rows: Sequence[Row], keys: IssuedKeys) -> None:
    """Table (b): of how many images the worst key is accused, at each alpha in turn."""
    _heading("network", "source", "images", "by chance", "hard bits", "score", "score, screened")
    for row in rows:
        chance = [by_chance(row.images, keys.issued, alpha) for alpha in ALPHAS]
        worst = (keys.unscreened(row.hard), keys.unscreened(row.alone), keys.screened(row.alone))
        cells = [chance, *(counts.max(axis=0) for counts in worst)]
        _line(row.network, row.source, row.images, *(" ".join(map(str, cell)) for cell in cells))


def show_usual(rows: Sequence[Row]) -> None:
    """Table (c): hard bits against verdicts, at each alpha in turn.

    Fresh keys accused by the best of all readings, over nominal; the share of images on which anybody of
    the table is accused by the first reading's hard bits, and by a verdict.
    """
    _heading("network", "source", "fresh keys, best reading", "images, hard bits", "images, verdicts")
    for row in rows:
        times = row.fresh_hard / row.comparisons / ALPHAS
        hard, verdicts = ((counts > 0).mean(axis=0) for counts in (row.image_hard, row.image_verdicts[:, 1]))
        cells = (
            " ".join(f"{value:.3g}" for value in times),
            *(" ".join(f"{share:.0%}" for share in shares) for shares in (hard, verdicts)),
        )
        _line(row.network, row.source, *cells)


def show_verdicts(rows: Sequence[Row], keys: IssuedKeys) -> None:
    """Verdicts of one network: all, of the worst key and by the worst image, at each alpha in turn."""
    _heading("network", "keys", "images", "redrawn", "verdicts", "worst key", "worst image")
    for screened in (0, 1):
        counts = verdicts_by_key(rows, keys, bool(screened))
        image = np.concatenate([row.image_verdicts[:, screened] for row in rows]).max(axis=0)
        cells = (counts.sum(axis=0), counts.max(axis=0), image)
        title = f"{keys.issued:,} {'screened' if screened else 'as first drawn'}"
        redrawn = len(keys.refused) if screened else 0
        images = sum(row.images for row in rows)
        _line(rows[0].network, title, images, redrawn, *(" ".join(map(str, cell)) for cell in cells))


def verdicts_by_key(rows: Sequence[Row], keys: IssuedKeys, screened: bool) -> Counts:
    """Verdicts on images of all sources against each key, for each alpha: (n, a)."""
    counts = np.sum([row.verdicts for row in rows], axis=0)
    return keys.screened(counts) if screened else keys.unscreened(counts)


def _heading(*titles: str) -> None:
    print()
    _line(*titles)
    _line(*("---" for _ in titles))


def _line(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |")


WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 760, 440, 70, 50, 20
BLUE, RED, GREEN = "#1668b3", "#c3352b", "#2d8a4e"
FLOOR = -8.0
"""Nothing observed is drawn here, on the logarithm of the share."""


def plot(rows: Sequence[Row], confidence: float) -> str:
    """Observed against nominal as SVG, a column of marks for each network and source."""
    parts = [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>']
    for decade in range(int(FLOOR), 1):
        y, label = _y(10.0**decade), "0" if decade == FLOOR else f"1e{decade}"
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - 20}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for a, alpha in enumerate(ALPHAS):
        parts.append(f'<text x="{_x(a, 0.5):.1f}" y="{HEIGHT - 28}" text-anchor="middle">{alpha:g}</text>')
        parts.append(f'<path d="M{_x(a, 0):.1f} {_y(alpha):.1f}H{_x(a, 1):.1f}" stroke="#000"/>')
    for number, row in enumerate(rows):
        images = (row.image_verdicts[:, 1] > 0).mean(axis=0)
        hard = row.fresh_hard / row.comparisons
        title = f"<title>{row.network}, {row.source}</title>"
        for a in range(len(ALPHAS)):
            x = _x(a, (number + 0.5) / len(rows))
            low = lower_limit(int(row.fresh[a]), row.comparisons, confidence)
            parts.append(f'<path d="M{x:.1f} {_y(low):.1f}V{_y(row.observed[a]):.1f}" stroke="{BLUE}"/>')
            for share, colour in ((images[a], GREEN), (hard[a], RED), (row.observed[a], BLUE)):
                place = f'cx="{x:.1f}" cy="{_y(share):.1f}"'
                parts.append(f'<circle {place} r="2.6" fill="{colour}">{title}</circle>')
    words = (
        (0, "black: nominal", "#000"),
        (100, "fresh keys, score, with lower limit", BLUE),
        (300, "fresh keys, hard bits of the best reading", RED),
        (530, "images with a verdict", GREEN),
    )
    for right, text, colour in words:
        parts.append(f'<text x="{LEFT + right}" y="{HEIGHT - 8}" fill="{colour}">{text}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
    return f'{head} font-size="11">{"".join(parts)}</svg>\n'


def _x(a: int, place: float) -> float:
    """Within the band of an alpha, ``place`` from 0 to 1 of its width."""
    band = (WIDTH - 20 - LEFT) / len(ALPHAS)
    return LEFT + band * (a + 0.05 + 0.9 * place)


def _y(share: float | np.floating[Any]) -> float:
    value = max(FLOOR, math.log10(share)) if share > 0 else FLOOR
    return TOP + (HEIGHT - BOTTOM - TOP) * value / FLOOR


def figures_of(
    rows: Sequence[Row], keys: dict[str, IssuedKeys], confidence: float
) -> tuple[dict[str, float], dict[str, Goal]]:
    """What the run shows in numbers, and which of them have a goal."""
    above = sum(
        lower_limit(count, row.comparisons, confidence) > alpha
        for row in rows
        for count, alpha in zip(row.fresh.tolist(), ALPHAS, strict=True)
    )
    figures: dict[str, float] = {
        "images_read": sum(row.images for row in rows),
        "comparisons": sum(row.comparisons + row.images * keys[row.network].issued for row in rows),
        "cells": len(rows) * len(ALPHAS),
        "cells_above_nominal": above,
    }
    own = {name: [row for row in rows if row.network == name] for name in keys}
    for screened, title in ((False, "unscreened"), (True, "screened")):
        worst = [verdicts_by_key(own[name], issued, screened)[:, -1].max() for name, issued in keys.items()]
        figures[f"worst_{title}_key_accusations_at_{ALPHAS[-1]:.0e}".replace("e-0", "e-")] = max(worst)
    for title, shares in {
        "worst_key_share_hard_bits": [
            keys[r.network].unscreened(r.hard).max(axis=0) / r.images for r in rows
        ],
        "worst_key_share_score": [keys[r.network].unscreened(r.alone).max(axis=0) / r.images for r in rows],
        "worst_key_share_screened": [keys[r.network].screened(r.alone).max(axis=0) / r.images for r in rows],
    }.items():
        figures |= {f"{title}_at_{ALPHAS[a]:g}": float(np.max(shares, axis=0)[a]) for a in (0, 2)}
    figures |= {
        f"images_accusing_somebody_{title}_at_1e-6": float(np.concatenate(counts)[:, -1].astype(bool).mean())
        for title, counts in {
            "hard_bits": [row.image_hard for row in rows],
            "verdicts": [row.image_verdicts[:, 1] for row in rows],
        }.items()
    }
    goals = ("cells_above_nominal", "worst_screened_key_accusations_at_1e-6")
    return figures, {name: Goal("<=", 0) for name in goals}


@click.command()
@click.option("--quick", is_flag=True, help="One network, few images and keys.")
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with photos256 and imagenet32.",
)
@click.option(
    "--read",
    "readers",
    type=(str, click.IntRange(min=1)),
    multiple=True,
    default=[("flowers-stylegan2@1", 200), (BUILTIN, 12)],
    show_default=True,
    help="A builtin (or NAME=FOLDER) whose network reads, and images of each source.",
)
@click.option("--keys", "issued", default=100_000, show_default=True, help="Keys of the table.")
@click.option("--fresh", default=100_000, show_default=True, help="Fresh keys for each image.")
@click.option(
    "--cache",
    "folder",
    type=click.Path(path_type=Path),
    help="Keep readings there, to resume; one for each --data.",
)
@click.option("--plot", "plotted", type=click.Path(path_type=Path), help="Write the plot to this SVG file.")
def main(
    quick: bool,
    data: Path | None,
    readers: Sequence[tuple[str, int]],
    issued: int,
    fresh: int,
    folder: Path | None,
    plotted: Path | None,
) -> None:
    """Count false accusations."""
    if quick:
        readers, issued, fresh = [("flowers-stylegan2@1", 8)], 10_000, 10_000
    if data is None:
        print("no --data: photographs are not among the sources.")
    if folder is not None:
        folder /= "generated" if data is None else "with photographs"  # attacked images differ
    torch.set_num_threads(1)
    rows: list[Row] = []
    keys: dict[str, IssuedKeys] = {}
    for name, n in readers:
        reference = open_reference(name)
        keys[reference.label] = IssuedKeys.draw(reference, issued)
        for source in sources(data):
            images = read(reference, source, n, folder)
            rows.append(measure(reference.label, source.name, images, keys[reference.label], fresh, seed=4))
    confidence = 1 - (1 - CONFIDENCE) / (len(rows) * len(ALPHAS))
    show_fresh(rows, confidence)
    for label, table in keys.items():
        own = [row for row in rows if row.network == label]
        show_issued(own, table)
        show_usual(own)
        show_verdicts(own, table)
    if plotted is not None:
        plotted.write_text(plot(rows, confidence))
    print()
    close("false_accusation", *figures_of(rows, keys, confidence))


if __name__ == "__main__":
    main()
