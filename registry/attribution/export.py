"""The network package: ``network.onnx``, ``network.json``, test vectors and the readings of foreign images.

    write_package(network, folder, basis_digest, evidence)
    write_foreign(folder, images)

What the files mean is fixed in :mod:`verifier.network`, which reads them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from registry.attribution.network import FILL, KeyNetwork
from registry.attribution.training import CLIP, QUANTUM
from registry.onnx_export import export_onnx
from registry.progress import progress
from verifier.network import ANGLES, SCHEMA, VECTORS, Network

SMALLEST_SIDE = 0.75
SIDE_STEP = 3 / 64
TEST_IMAGES = 2
"""Enough to tell a device that computes otherwise, few enough to read whenever a network is loaded."""


def network_json(
    network: KeyNetwork, basis: str, evidence: Mapping[str, Any], version: int
) -> dict[str, Any]:
    """The description that fixes how the network's output is read."""
    size, search = network.size, network.search
    step = max(1, round(size * SIDE_STEP))
    sides = list(range(size, round(size * SMALLEST_SIDE) - 1, -step))
    return {
        "schema": SCHEMA,
        "version": version,
        "bits": network.bits,
        "size": size,
        "basis": basis,
        "resample": "bicubic",
        "fill": FILL,
        "clip": CLIP,
        "quantum": QUANTUM,
        "poses": {
            "sides": sides,
            "stride": max(1, round(size * search.stride)),
            "refine": 1,
            "top": search.top,
            "sufficient": search.sufficient,
            "angles": list(ANGLES),
        },
        "evidence": dict(evidence),
    }


def write_package(
    network: KeyNetwork,
    folder: Path,
    basis: str,
    evidence: Mapping[str, Any],
    version: int = 1,
) -> None:
    """Write ``network.onnx``, ``network.json`` and test vectors for the basis with digest ``basis``."""
    folder.mkdir(parents=True, exist_ok=True)
    network.eval()
    example = torch.zeros((2, network.size, network.size, 3), dtype=torch.uint8)
    many = torch.export.Dim("n", min=1, max=65536)
    export_onnx(
        network,
        {"pixels": example},
        "logits",
        {"pixels": {0: many}},
        folder / "network.onnx",
        half=network.tolerates_bfloat16,
    )
    description = network_json(network, basis, evidence, version)
    (folder / "network.json").write_text(json.dumps(description, indent=2) + "\n")
    (folder / VECTORS).unlink(missing_ok=True)
    write_vectors(folder)


def write_vectors(folder: Path) -> None:
    """Test vectors for the package in ``folder``: blurred noise, and what the CPU reads in it."""
    network = Network.load(folder, device="cpu")
    size = network.spec.size
    noise = np.random.default_rng(1).integers(0, 256, (TEST_IMAGES, 16, 16, 3), np.uint8)
    images = [Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC) for image in noise]
    pixels = np.stack([np.asarray(image) for image in images])
    np.savez_compressed(folder / VECTORS, pixels=pixels, logits=network.logits(pixels))


def write_foreign(folder: Path, images: Sequence[Image.Image]) -> None:
    """Read foreign images as the verifier would, pose search included, and keep the readings."""
    network = Network.load(folder, device="cpu")
    readings = []
    with progress("foreign images", len(images)) as bar:
        for number, image in enumerate(images, 1):
            readings.append(network.read(image).logits)
            bar.update(number)
    logits = np.stack(readings).astype(np.int16)
    np.savez_compressed(folder / "foreign.npz", logits=logits)
