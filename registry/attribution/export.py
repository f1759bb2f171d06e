"""The network package: ``network.onnx``, ``network.json``, test vectors and the readings of foreign images.

    write_package(network, folder, basis_digest, evidence)
    write_foreign(folder, images)

What the files mean is fixed in :mod:`verifier.network`, which reads them.
"""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from registry.attribution.network import FILL, KeyNetwork
from registry.attribution.training import CLIP, QUANTUM
from registry.progress import progress
from verifier.network import ANGLES, SCHEMA, VECTORS, Network

SMALLEST_SIDE = 0.75
SIDE_STEP = 3 / 64
STORED_HALF = 1024
"""Numbers from which a tensor of weights is stored in half precision, if they lie in its range."""
HALF_ROUNDING = 2.0**-11
"""Relative error of a tensor in half precision whose numbers neither overflow nor become subnormal."""
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
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (example,),
            folder / "network.onnx",
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_shapes={"pixels": {0: torch.export.Dim("n", min=1, max=65536)}},
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    compact(folder / "network.onnx", half=network.tolerates_bfloat16)
    description = network_json(network, basis, evidence, version)
    (folder / "network.json").write_text(json.dumps(description, indent=2) + "\n")
    (folder / VECTORS).unlink(missing_ok=True)
    write_vectors(folder)


def compact(path: Path, half: bool) -> None:
    """Make the ONNX file at ``path`` smaller: without what the exporter notes on each operator, and with
    ``half`` its large weights in half precision, for networks that such rounding does not change.

    These are cast back before they are used, so that all devices compute with the same numbers.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(path)
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        if not half or tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < STORED_HALF:
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            rounded = values.astype(np.float16)
        if np.linalg.norm(rounded - values) <= HALF_ROUNDING * np.linalg.norm(values):
            tensor.CopyFrom(numpy_helper.from_array(rounded, f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    for node in nodes:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for field in ("node", "value_info", "metadata_props"):
        graph.ClearField(field)
    graph.node.extend(nodes)
    onnx.save(model, path)


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
