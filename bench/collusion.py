"""Colluders: whom a mixture of copies names, with uniform keys and with biased ones.

python -m bench.collusion [--quick]

c colluders mix their copies, bit by bit in one of these ways, which leave a bit alone in which they agree:

average       the mean of their keys: averaged weights, latents or images
interleave    each bit from one of them, at random: files or images put together from pieces
majority      what most of them have
minority      what fewest of them have (the worst that can be done to uniform keys)
erase         nothing where they differ

A network reads the mixture with normal noise of sd NOISE (2.3 % of the bits of a single copy wrong) and gives
calibrated, clipped, rounded logits. A key is *named* if its bound, times a million recipients, is within
alpha = 1e-6: by the very function of the verifier. Innocents are drawn like the colluders, from the same
biases. Of their keys the share that reaches a nominal 1e-2 and 1e-4 for one key must not exceed these.
"""

from __future__ import annotations

import itertools
from collections import Counter

import click
import numpy as np
from numpy.typing import NDArray

from bench.common import Goal, close
from bench.false_accusation import lower_limit
from registry.progress import progress
from verifier.evidence import score_at
from verifier.phi import BIASES

BITS, COLLUDERS = (64, 128, 256, 512), (2, 3, 4, 5)
ATTACKS = ("average", "interleave", "majority", "minority", "erase")
CODES = ("uniform", "biased")
RECIPIENTS, ALPHA = 10**6, 1e-6
INNOCENTS, NOMINAL = 5_000, (1e-2, 1e-4)
NOISE, QUANTA, CLIP = 0.5, 16, 128
CONFIDENCE = 0.99

Cell = tuple[str, int, int, str]


@click.command()
@click.option("--quick", is_flag=True, help="64 and 256 bits, two and five colluders, few mixtures.")
def main(quick: bool) -> None:
    """Simulate mixtures; the last line is JSON."""
    sizes = list(
        itertools.product(BITS[::2], COLLUDERS[::3]) if quick else itertools.product(BITS, COLLUDERS)
    )
    cells = [(code, k, c, attack) for (k, c) in sizes for attack in ATTACKS for code in CODES]
    mixtures = 6 if quick else 24
    named: dict[Cell, tuple[float, float]] = {}
    accused: Counter[tuple[str, float]] = Counter()
    worst, wrong = 0.0, 0
    with progress("mixtures", len(cells)) as bar:
        for done, cell in enumerate(cells, 1):
            rng = np.random.default_rng([*cell[1:3], ATTACKS.index(cell[3]), CODES.index(cell[0])])
            outcomes = [mixture(cell, rng) for _ in range(mixtures)]
            named[cell] = (
                float(np.mean([anyone for _, anyone, _, _ in outcomes])),
                float(np.mean([share for share, _, _, _ in outcomes])),
            )
            wrong += sum(innocents for _, _, innocents, _ in outcomes)
            for number, level in enumerate(NOMINAL):
                count = sum(reached[number] for _, _, _, reached in outcomes)
                accused[cell[0], level] += count
                limit = lower_limit(count, INNOCENTS * mixtures, 1 - (1 - CONFIDENCE) / (2 * len(cells)))
                worst = max(worst, limit / level)
            bar.update(done)
    table(named, sizes)
    total = INNOCENTS * mixtures * len(cells) / len(CODES)
    figures: dict[str, float] = {
        f"innocents_over_nominal_{code}_{level:g}": accused[code, level] / total / level
        for code in CODES
        for level in NOMINAL
    }
    figures["largest_lower_limit_over_nominal"] = worst
    figures["innocents_named"] = wrong
    close(
        "collusion",
        figures,
        {"largest_lower_limit_over_nominal": Goal("<=", 1.0), "innocents_named": Goal("<=", 0.0)},
    )


def mixture(cell: Cell, rng: np.random.Generator) -> tuple[float, bool, int, list[int]]:
    """One mixture: share of colluders named, whether anyone was, innocents named, innocents at NOMINAL."""
    code, k, c, attack = cell
    plus = np.full(k, 0.5) if code == "uniform" else rng.choice(BIASES, k) / 65536
    colluders, innocents = drawn(c, plus, rng), drawn(INNOCENTS, plus, rng)
    logits = read(mixed(colluders, attack, rng), rng)
    biases = None if code == "uniform" else plus
    least = score_at(logits, np.log10(ALPHA / RECIPIENTS), biases)
    scores, others = colluders @ logits, innocents @ logits
    reached = [int((others >= score_at(logits, np.log10(level), biases)).sum()) for level in NOMINAL]
    caught = scores >= least
    return float(caught.mean()), bool(caught.any()), int((others >= least).sum()), reached


def drawn(count: int, plus: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Keys (count, k)."""
    return np.where(rng.random((count, len(plus))) < plus, 1, -1)


def mixed(keys: NDArray[np.int64], attack: str, rng: np.random.Generator) -> NDArray[np.float64]:
    """What the colluders make of each bit, from -1 to 1."""
    mean = keys.mean(axis=0)
    tossed = np.where(rng.random(len(mean)) < 0.5, 1.0, -1.0)
    most = np.where(mean == 0, tossed, np.sign(mean))
    agreed = np.abs(mean) == 1
    if attack == "interleave":
        return keys[rng.integers(0, len(keys), len(mean)), np.arange(len(mean))].astype(np.float64)
    return {
        "average": mean,
        "majority": most,
        "minority": np.where(agreed, mean, np.where(mean == 0, tossed, -np.sign(mean))),
        "erase": np.where(agreed, mean, 0.0),
    }[attack]


def read(mark: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Logits in quanta, as a network calibrated on single copies gives them."""
    seen = mark + NOISE * rng.standard_normal(len(mark))
    return np.rint(2 * seen / NOISE**2 * QUANTA).clip(-CLIP, CLIP).astype(np.int64)


def table(named: dict[Cell, tuple[float, float]], sizes: list[tuple[int, int]]) -> None:
    """Shares of mixtures that name somebody, and of colluders that are named, as Markdown."""
    click.echo(
        "\nMixtures that name somebody (and colluders named), in per cent: uniform keys | biased keys\n"
    )
    click.echo("| bits | colluders | " + " | ".join(ATTACKS) + " |")
    click.echo("| --- | --- |" + " --- |" * len(ATTACKS))
    for k, c in sizes:
        columns = [
            " \\| ".join("{:.0f} ({:.0f})".format(*(100 * f for f in named[code, k, c, a])) for code in CODES)
            for a in ATTACKS
        ]
        click.echo(f"| {k} | {c} | " + " | ".join(columns) + " |")
    click.echo()


if __name__ == "__main__":
    main()
