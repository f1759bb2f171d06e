"""The attribution network in half precision, for verifiers with a graphics card.

    write_half(folder)            # network.fp16.onnx beside network.onnx, where its readings stay the same

Weights and what is computed between layers are rounded to 11 bits; input and output stay as they are. It is
kept where the rounded weights alone move no reading of the test vectors, nor of the hardest images there are
(black, white, and every sample one or the other), by more than the tolerance. Devices compare the test
vectors again, with all their own rounding, before they take it: :mod:`verifier.network`.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from verifier.errors import VerifierError
from verifier.network import HALF, TOLERANCE, VECTORS, Network

HARD_IMAGES = 16


def write_half(folder: Path) -> bool:
    """Write it into the network package ``folder``, and say whether: not without test vectors, nor where it
    would read otherwise or the network cannot be read at all."""
    (folder / HALF).unlink(missing_ok=True)
    if not (folder / VECTORS).exists():
        return False
    try:
        network = Network.load(folder, device="cpu")
        converted = half_precision(folder / "network.onnx")
        half = Network(converted, network.spec, "cpu", vectors=(folder / VECTORS).read_bytes())
        hard = hard_images(network.spec.size)
        apart = np.abs(half.quantise(half.logits(hard)) - network.quantise(network.logits(hard)))
    except VerifierError:
        return False
    if apart.max() > TOLERANCE:
        return False
    (folder / HALF).write_bytes(converted)
    return True


def half_precision(path: Path) -> bytes:
    """The ONNX file at ``path`` with all floating-point numbers in 16 bits but those that go out."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that numbers are rounded
        return bytes(convert_float_to_float16(onnx.load(path), keep_io_types=True).SerializeToString())


def hard_images(size: int) -> NDArray[np.uint8]:
    """Canvases (n, size, size, 3) uint8 that drive a network furthest: black, white, and noise of the two."""
    images = np.random.default_rng(1).choice(np.array([0, 255], np.uint8), (HARD_IMAGES, size, size, 3))
    images[0], images[1] = 0, 255
    return images
