"""Suspect images of the tiny model's keys: what its linear network reads as a key is worked out backwards."""

from __future__ import annotations

import io

import numpy as np
import onnx
from onnx import numpy_helper
from PIL import Image

from registry.accounts import service as accounts
from registry.accounts.permissions import Principal, Role
from registry.generators import service as generators
from registry.generators.adapters import get_adapter
from registry.generators.builtin import resolve_builtin
from registry.home import Home
from tests.registry.resolve.support import signs
from tests.registry.support import MODEL, SIDE


def png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def image_of(home: Home, key_id: str, seed: int = 0) -> bytes:
    """A PNG that the network reads as this key, every bit right; another one for every seed."""
    with home.database.read() as session:
        network = generators.newest_network(session, generators.get_model(session, MODEL))
    graph = onnx.load_from_string(home.storage.read(f"{generators.network_name(network)}/network.onnx")).graph
    weight = {part.name: numpy_helper.to_array(part) for part in graph.initializer}["weight"].astype(float)
    noise = np.random.default_rng(seed).normal(0, 6, len(weight))
    base = 128 + noise
    change = weight @ np.linalg.solve(weight.T @ weight, 5.0 * signs(home, key_id) - base @ weight)
    pixels = np.clip(np.rint(base + change), 0, 255).astype(np.uint8)
    return png(Image.fromarray(pixels.reshape(SIDE, SIDE, 3)))


def foreign(seed: int = 1) -> bytes:
    """A PNG that no key made."""
    noise = np.random.default_rng([9, seed]).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    return png(Image.fromarray(noise))


def who(home: Home, role: Role = Role.ADMIN) -> Principal:
    with home.database.read() as session:
        return Principal(accounts.default_organisation(session).id, role, f"the {role}")


def samples(family: str, count: int) -> list[Image.Image]:
    """What the zoo's builtin of a family makes."""
    weights = resolve_builtin(f"builtin:zoo-{family}@1").weights
    return get_adapter(family).load(weights).sample(count, seed=3)
