"""Train, calibrate and write the lineage network: ``images.onnx``, ``sets.onnx`` and ``lineage.json``.

build_network(images, real, Path("work"), Path("network"), steps=800)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from registry.lineage.degrade import degrade
from registry.lineage.encoder import ENERGIES, SMALLEST, EncoderLayout, SetEncoder
from registry.lineage.training import train_encoder
from registry.lineage.zoo import CALIBRATE, REAL, TRAIN
from registry.onnx_export import export_onnx
from verifier.lineage import SCHEMA, mixture, source_parts

Pixels = NDArray[np.uint8]
Vectors = NDArray[np.float32]
Embed = Callable[[Pixels, Sequence[Sequence[int]]], Vectors]

WINDOW = 64
SIZES = (1, 2, 4, 8, 16, 32)
FALSE_REJECTION = 0.05
FALSE_MIXTURE = 0.01
DRAWS = 40
"""Sets of each size and model that thresholds are chosen on."""
CALIBRATED_ON = ("clean", "jpeg", "smaller", "blur")
FINGERPRINT_SET = 16
IMAGES, SETS, SPEC = "images.onnx", "sets.onnx", "lineage.json"
"""Files of a network's folder."""


@dataclass(frozen=True)
class Calibration:
    """Temperature and thresholds by the number of images in a set."""

    sizes: tuple[int, ...]
    temperature: tuple[float, ...]
    reject: tuple[float, ...]
    mixed: tuple[float, ...]


def encoder_embed(encoder: SetEncoder) -> Embed:
    """Embeddings by a torch encoder, in the form that :class:`verifier.lineage.LineageNetwork` has."""

    def embed(pixels: Pixels, sets: Sequence[Sequence[int]]) -> Vectors:
        membership = torch.zeros(len(sets), len(pixels))
        for row, chosen in zip(membership, sets, strict=True):
            for number in chosen:
                row[number] += 1 / len(chosen)
        with torch.no_grad():
            found: Vectors = encoder(torch.from_numpy(np.asarray(pixels)), membership).numpy()
        return found

    return embed


def only_source(embed: Embed, width: int) -> Embed:
    """The first ``width`` numbers of embeddings, brought to unit length: what tells models apart."""

    return lambda pixels, sets: source_parts(embed(pixels, sets), width)


def fingerprint(embed: Embed, pixels: Pixels) -> NDArray[np.float64]:
    """Unit mean direction (d,) of disjoint sets of ``pixels``."""
    starts = range(0, len(pixels) - FINGERPRINT_SET + 1, FINGERPRINT_SET)
    total = embed(pixels, [list(range(start, start + FINGERPRINT_SET)) for start in starts]).sum(0)
    return np.asarray(total / np.linalg.norm(total), np.float64)


def random_sets(count: int, size: int, pool: int, rng: np.random.Generator) -> list[list[int]]:
    """``count`` sets of ``size`` numbers below ``pool``, each without repeats."""
    return [rng.permutation(pool)[:size].tolist() for _ in range(count)]


def calibrate(
    embed: Embed, directions: NDArray[np.float64], own: Sequence[Pixels], none: Pixels
) -> Calibration:
    """Thresholds that turn away ``FALSE_REJECTION`` of the models' ``own`` sets and call ``FALSE_MIXTURE`` of
    them mixed, after the worst of ``CALIBRATED_ON``; and honest temperatures.

    ``directions`` (m, d) are fingerprints, ``none`` images of no registered model. The temperature is the one
    of least negative log likelihood over both kinds of sets.
    """
    rng = np.random.default_rng(0)
    kinds = range(len(CALIBRATED_ON))
    pools = [
        [degrade(pixels, kind, 1000 + draw) for draw, kind in enumerate(CALIBRATED_ON)]
        for pixels in [*own, none]
    ]
    alone = [
        [embed(changed, [[i] for i in range(len(changed))]) @ directions.T for changed in pool]
        for pool in pools[: len(own)]
    ]
    labels = np.repeat(np.arange(len(pools)), DRAWS)
    mine = labels < len(own)
    temperatures: list[float] = []
    rejects, mixed = [], []
    for size in SIZES:
        sets = [
            [random_sets(DRAWS, min(size, len(pool[0])), len(pool[0]), rng) for _ in kinds] for pool in pools
        ]
        tables = [
            np.concatenate(
                [
                    1 - embed(pool[kind], drawn[kind]) @ directions.T
                    for pool, drawn in zip(pools, sets, strict=True)
                ]
            )
            for kind in kinds
        ]
        reject = max(float(np.quantile(table[mine].min(1), 1 - FALSE_REJECTION)) for table in tables)
        every = np.concatenate(tables)
        whole = np.column_stack([every, np.full(len(every), reject)])
        temperatures.append(round(_temperature(whole, np.tile(labels, len(tables))), 5))
        rejects.append(round(reject, 5))
        gains = [
            [
                mixture(likeness[kind][chosen], temperatures[0])[0]
                for likeness, of_kinds in zip(alone, sets, strict=False)
                for chosen in of_kinds[kind]
            ]
            for kind in kinds
        ]
        mixed.append(round(max(float(np.quantile(found, 1 - FALSE_MIXTURE)) for found in gains), 5))
    return Calibration(SIZES, tuple(temperatures), tuple(rejects), tuple(mixed))


def _temperature(distances: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """That of the softmax of negated ``distances`` (n, m) which makes ``labels`` (n,) likeliest."""
    costs = {}
    for temperature in np.geomspace(0.005, 1, 60).tolist():
        scores = -distances / temperature
        scores -= scores.max(1, keepdims=True)
        log_share = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        costs[temperature] = -float(log_share[np.arange(len(labels)), labels].mean())
    return float(min(costs, key=lambda temperature: costs[temperature]))


def relative_limit(embed: Embed, images: Mapping[str, Pixels]) -> float:
    """The distance between "the same weights" and "another training": the geometric mean of the largest
    distance of two halves of a model's images and the smallest one between models."""
    halves = {name: np.array_split(pixels, 2) for name, pixels in images.items()}
    found = {name: [fingerprint(embed, half) for half in both] for name, both in halves.items()}
    names = sorted(found)
    within = max(float(1 - found[name][0] @ found[name][1]) for name in names)
    between = min(float(1 - found[a][0] @ found[b][1]) for a in names for b in names if a < b)
    return round(float(np.sqrt(max(within, 1e-4) * max(between, 1e-4))), 5)


def build_network(
    images: Mapping[str, Pixels], real: Pixels, work: Path, folder: Path, steps: int
) -> SetEncoder:
    """Train on each model's first part, with ``real`` photographs as one more source; calibrate; write."""
    parts = {name: pixels[TRAIN] for name, pixels in images.items()}
    encoder = train_encoder({**parts, REAL: real[TRAIN]}, EncoderLayout(), work, steps)
    encoder.eval()
    embed = encoder_embed(encoder)
    names = sorted(images)
    source = only_source(embed, encoder.layout.embedding)
    directions = np.stack([fingerprint(source, parts[name]) for name in names])
    own = [images[name][CALIBRATE] for name in names]
    calibration = calibrate(source, directions, own, real[CALIBRATE])
    write_network(encoder, calibration, relative_limit(embed, parts), folder)
    return encoder


class _Images(nn.Module):
    def __init__(self, encoder: SetEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.encoder.features(pixels)


class _Sets(nn.Module):
    def __init__(self, encoder: SetEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, features: torch.Tensor, membership: torch.Tensor) -> torch.Tensor:
        return self.encoder.embed(features, membership)


def write_network(encoder: SetEncoder, calibration: Calibration, relative: float, folder: Path) -> None:
    """The two graphs, for any number of images and sets and any sides, and ``lineage.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder.eval()
    n, s = (torch.export.Dim(name, max=8192) for name in ("n", "s"))
    h, w = (torch.export.Dim(name, min=SMALLEST, max=8192) for name in ("h", "w"))
    pixels = torch.zeros((5, 48, 40, 3), dtype=torch.uint8)
    varying = {"pixels": {0: n, 1: h, 2: w}}
    export_onnx(_Images(encoder), {"pixels": pixels}, "features", varying, folder / IMAGES)
    features = torch.rand(5, encoder.layout.learned + ENERGIES)
    sets = {"features": features, "membership": torch.full((3, 5), 0.2)}
    varying = {"features": {0: n}, "membership": {0: s, 1: n}}
    export_onnx(_Sets(encoder), sets, "embeddings", varying, folder / SETS)
    document = {
        "schema": SCHEMA,
        "version": 2,
        "source": encoder.layout.embedding,
        "smallest": SMALLEST,
        "window": WINDOW,
        **vars(calibration),
        "false_rejection": FALSE_REJECTION,
        "false_mixture": FALSE_MIXTURE,
        "relative": relative,
    }
    (folder / SPEC).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
