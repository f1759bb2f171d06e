"""A small real model with everything the registry needs to issue copies of it."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import create_engine, make_url, text

from registry.accounts import service as accounts
from registry.generators import service as generators
from registry.home import Home
from registry.storage import folder_manifest, manifest_digest

BITS = 32
SIDE = 16
RECIPIENT = "ada@example.org"
MODEL = "tiny"


@dataclass(frozen=True)
class TinyModel:
    """Paths of the model folder, its basis and its network package."""

    weights: Path
    basis: Path
    network: Path


def make_tiny_model(folder: Path) -> TinyModel:
    """An untrained autoencoder and diffusion model, random orthogonal directions, a linear network."""
    import torch
    from diffusers import LDMPipeline

    from registry.fingerprints.basis import Basis
    from registry.generators.adapters import get_adapter
    from registry.generators.train_latent_diffusion import new_autoencoder, new_scheduler, new_unet

    torch.manual_seed(0)
    weights = folder / "model"
    stage, unet = new_autoencoder(SIDE, (8, 8, 8)), new_unet(SIDE // 4, (32, 32))
    LDMPipeline(vqvae=stage, unet=unet, scheduler=new_scheduler()).save_pretrained(weights)

    rng = np.random.default_rng(0)
    shape = (4, SIDE // 4, SIDE // 4)
    rows = np.linalg.qr(rng.standard_normal((64, 64)))[0][:BITS].reshape(BITS, *shape)
    basis = Basis(
        scheme="pca",
        strength=0.5,
        shift=32,
        model_digest=f"sha256:{manifest_digest(folder_manifest(weights))}",
        directions=get_adapter("latent-diffusion").fold(weights, rows.astype(np.float32)),
    )
    basis.save(folder / "basis.safetensors")
    network = folder / "network"
    write_network(network, basis.digest, rng.integers(-128, 129, (20, BITS)).astype(np.int16))
    return TinyModel(weights, folder / "basis.safetensors", network)


def write_network(folder: Path, basis: str, foreign: np.ndarray, seed: int = 0) -> None:
    """A network package whose network is one random linear map of the pixels."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir()
    pixels, bits = SIDE * SIDE * 3, foreign.shape[1]
    weight = np.random.default_rng(seed).standard_normal((pixels, bits)).astype(np.float32) / 1000
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["pixels"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["real", "shape"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
        ],
        "linear",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", bits])],
        [
            numpy_helper.from_array(np.array([-1, pixels]), "shape"),
            numpy_helper.from_array(weight, "weight"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "network.onnx")
    description = {
        "schema": "hallmark/network/1",
        "version": 1,
        "bits": bits,
        "size": SIDE,
        "basis": basis,
        "resample": "bicubic",
        "fill": 128,
        "clip": 8.0,
        "quantum": 0.0625,
        "poses": {"sides": [16, 14, 12], "stride": 2, "refine": 1, "top": 2, "sufficient": 0.9},
        "evidence": {"attacks": {"none": {"bits_right": 0.75, "evidence_5": 5.0, "evidence_50": 6.25}}},
    }
    (folder / "network.json").write_text(json.dumps(description))
    np.savez(folder / "foreign.npz", logits=foreign)


def register(home: Home, tiny: TinyModel) -> Home:
    """Add model ``tiny`` with its basis and network, and a recipient."""
    model = generators.add_model(home, MODEL, "latent-diffusion", str(tiny.weights))
    with home.database.write() as session:
        generators.install_basis(session, home.storage, model, tiny.basis)
        generators.install_network(session, home.storage, model, tiny.network)
        accounts.add_recipient(session, RECIPIENT)
    return home


@contextmanager
def postgres_database(server: str, template: str | None = None) -> Iterator[str]:
    """URL of a new database on ``server``, a copy of ``template``, that the end of the block drops."""
    name = f"hallmark_test_{secrets.token_hex(6)}"
    source = make_url(template).database if template else "template1"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {source}"))
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        engine.dispose()


def interrupt(patch: pytest.MonkeyPatch, owner: object, name: str, call: int) -> list[str]:
    """Let the ``call``-th call of ``owner.name`` be interrupted; what grows by ``name`` with every call."""
    seen: list[str] = []
    original = getattr(owner, name)

    def stopping(*args: object) -> object:
        seen.append(name)
        if len(seen) == call:
            raise KeyboardInterrupt
        return original(*args)

    patch.setattr(owner, name, stopping)
    return seen


def altered(folder: Path, target: Path, path: str, change: bytes) -> Path:
    """A copy of ``folder`` at ``target`` in which one file has other content."""
    shutil.copytree(folder, target)
    (target / path).write_bytes(change)
    return target
