"""Small real things for tests: a registry key, a network that reads a painted pattern, copies, bundles.

world = make_world(tmp_path, keys=50)
path = world.bundle()
image = world.image(row=7)                # painted with key 7: `verifier check` attributes it

The network is linear, its weights are smooth orthonormal patterns, and an image of a key is the sum of
those patterns with the key's signs over a smooth background. Nothing in it is a stand-in for the
verifier's own code.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

from verifier import merkle, phi, signing
from verifier.bundle import (
    RECORD,
    BundleModel,
    KeyContent,
    ModelContent,
    Revocation,
    unix,
    write_bundle,
)
from verifier.certificate import Certificate, ModelReference, leaf

CREATED, EXPIRES = "2026-01-01T00:00:00Z", "2100-01-01T00:00:00Z"
BASIS = hashlib.sha256(b"the basis of the tests").hexdigest()
DIGEST = "sha256:" + hashlib.sha256(b"the base weights of the tests").hexdigest()
QUANTUM, CLIP, SUFFICIENT = 0.0625, 8.0, 2.0
GRID = 16  # patterns vary over a GRID x GRID mesh: resampling keeps them, a wrong pose does not
READ = 4.0  # the logit of a clean bit


def signing_key(seed: int = 1) -> Ed25519PrivateKey:
    """A registry's key, the same for the same seed."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"test key %d" % seed).digest())


def _smooth(values: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """(GRID, GRID, 3) enlarged bilinearly to (size, size, 3)."""
    channels = [
        Image.fromarray(values[..., c].astype(np.float32)).resize((size, size), Image.Resampling.BILINEAR)
        for c in range(3)
    ]
    return np.stack([np.asarray(channel, np.float64) for channel in channels], axis=-1)


def patterns(bits: int, size: int, seed: int = 0) -> NDArray[np.float64]:
    """Orthonormal smooth patterns, shape (bits, size * size * 3)."""
    rng = np.random.default_rng([seed, bits])
    raw = [_smooth(rng.normal(size=(GRID, GRID, 3)), size).reshape(-1) for _ in range(bits)]
    return np.linalg.qr(np.stack(raw, axis=1))[0].T


def paint(
    signs: NDArray[np.int8], size: int, seed: int, *, strength: float = 20.0, basis_seed: int = 0
) -> Image.Image:
    """An image of the key ``signs`` (k,): its patterns at ``strength`` grey levels over a background."""
    rng = np.random.default_rng([7, seed])
    amplitude = strength * np.sqrt(size * size * 3 / len(signs))
    pattern = amplitude * (signs @ patterns(len(signs), size, basis_seed)).reshape(size, size, 3)
    background = 128 + 8 * _smooth(rng.normal(size=(GRID, GRID, 3)), size)
    return Image.fromarray(np.clip(np.rint(background + pattern), 0, 255).astype(np.uint8))


def background(seed: int, size: int = 32) -> Image.Image:
    """An image that no key made."""
    return paint(np.ones(8, np.int8), size, seed, strength=0.0)


def write_network(
    folder: Path, *, bits: int = 64, size: int = 32, basis: str = BASIS, seed: int = 0, **changes: Any
) -> Path:
    """A network package whose logits are the coordinates along the patterns; ``changes`` go to the JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    scale = READ / (20.0 * np.sqrt(size * size * 3 / bits))
    weights = (scale * patterns(bits, size, seed)).T.astype(np.float32)
    offset = (-128.0 * weights.sum(axis=0)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["floats"], ["rows"]),
            helper.make_node("MatMul", ["rows", "weights"], ["products"]),
            helper.make_node("Add", ["products", "offset"], ["logits"]),
        ],
        "attribution",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", size, size, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", bits])],
        [
            helper.make_tensor("weights", TensorProto.FLOAT, weights.shape, weights.tobytes(), raw=True),
            helper.make_tensor("offset", TensorProto.FLOAT, offset.shape, offset.tobytes(), raw=True),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    (folder / "network.onnx").write_bytes(model.SerializeToString())
    document = {
        "schema": "hallmark/network/1",
        "version": 1,
        "bits": bits,
        "size": size,
        "basis": basis,
        "resample": "bicubic",
        "fill": 128,
        "clip": CLIP,
        "quantum": QUANTUM,
        "poses": {
            "sides": list(range(size, size * 3 // 4 - 1, -2)),
            "stride": 2,
            "refine": 1,
            "top": 4,
            "sufficient": SUFFICIENT,
        },
        "evidence": {},
        **changes,
    }
    (folder / "network.json").write_text(json.dumps(document))
    return folder


def ledger_levels(leaves: Sequence[bytes]) -> list[bytes]:
    """Tile levels of a ledger with these leaf hashes."""
    levels, hashes = [], list(leaves)
    while hashes:
        levels.append(b"".join(hashes))
        whole = len(hashes) // merkle.TILE_WIDTH
        hashes = [
            merkle.subtree_root(hashes[i * merkle.TILE_WIDTH : (i + 1) * merkle.TILE_WIDTH])
            for i in range(whole)
        ]
    return levels


def tile_reader(levels: Sequence[bytes]) -> merkle.ReadTile:
    """Reads tiles out of whole levels."""
    width = merkle.TILE_WIDTH * merkle.HASH_BYTES
    return lambda level, n: levels[level][n * width : (n + 1) * width]


def _octets(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


@dataclass
class IssuedModel:
    """A registered model with its network package and issued keys."""

    entry: BundleModel
    network: Path
    phi: NDArray[np.uint8]
    records: NDArray[np.void]
    documents: list[signing.Document]
    seed: int
    biases: NDArray[np.uint16] | None = None

    def signs(self, row: int) -> NDArray[np.int8]:
        """Key of a row, (k,)."""
        return phi.unpack(self.phi[row])


@dataclass
class World:
    """A registry as a verifier sees it: models, a ledger, and what it writes."""

    folder: Path
    key: Ed25519PrivateKey
    models: list[IssuedModel]
    levels: list[bytes]
    checkpoint: str
    revocations: list[Revocation] = field(default_factory=list)
    recipients: list[str] = field(default_factory=lambda: ["ada@example.com", "bruno@example.com"])

    @property
    def registry(self) -> str:
        """The registry's id."""
        return signing.registry_id(self.key.public_key())

    def copy_id(self, row: int, model: int = 0) -> str:
        """The copy of a key."""
        return str(self.models[model].documents[row]["copy_id"])

    def signs(self, row: int, model: int = 0) -> NDArray[np.int8]:
        """The key of a row, (k,)."""
        return self.models[model].signs(row)

    def image(self, row: int, seed: int = 1, *, model: int = 0, size: int = 32) -> Image.Image:
        """An image of a key."""
        issued = self.models[model]
        image = paint(issued.signs(row), 32, seed, basis_seed=issued.seed)
        return image if size == 32 else image.resize((size, size), Image.Resampling.BICUBIC)

    def save_image(self, row: int, seed: int = 1, *, model: int = 0, size: int = 32) -> Path:
        """The same, as a PNG file."""
        path = self.folder / f"key{row}-{seed}-{model}-{size}.png"
        self.image(row, seed, model=model, size=size).save(path)
        return path

    def save_foreign(self, seed: int) -> Path:
        """An image that no key made, as a PNG file."""
        path = self.folder / f"foreign{seed}.png"
        background(1000 + seed).save(path)
        return path

    def inclusion(self, row: int, model: int = 0) -> dict[str, Any]:
        """The proof that a key's certificate is in the ledger, as the registry writes it."""
        size = merkle.Checkpoint.open(self.checkpoint, self.key.public_key()).size
        index, read = int(self.models[model].records[row]["ledger_index"]), tile_reader(self.levels)
        return {
            "schema": "hallmark/inclusion/1",
            "registry": self.registry,
            "public_key": signing.public_text(self.key.public_key()),
            "size": size,
            "root": merkle.tree_root(size, read).hex(),
            "checkpoint": self.checkpoint,
            "index": index,
            "kind": "hallmark/certificate/1",
            "digest": leaf(self.models[model].documents[row]).hex(),
            "proof": [value.hex() for value in merkle.inclusion_proof(index, size, read)],
        }

    def opening(self, row: int, model: int = 0) -> dict[str, Any]:
        """A key's opened commitment, as `registry key open` writes it."""
        issued = self.models[model]
        key_id, redraws = bytes.fromhex(issued.documents[row]["key_id"]), int(issued.records[row]["redraws"])
        secret = phi.ModelSecret(hashlib.sha256(issued.entry.name.encode()).digest())
        return {
            "schema": "hallmark/opening/1",
            "registry": self.registry,
            "public_key": signing.public_text(self.key.public_key()),
            "certificate": issued.documents[row],
            "inclusion": self.inclusion(row, model),
            "phi": issued.phi[row].tobytes().hex(),
            "blinder": secret.blinders([key_id], [redraws])[0].tobytes().hex(),
        }

    def bundle(self, name: str = "test.bundle", *, with_keys: bool = True, **changes: Any) -> Path:
        """Write a bundle; ``changes`` go to :func:`write_bundle`."""
        path = self.folder / name
        contents = [
            ModelContent(
                model.entry,
                model.network,
                KeyContent(model.phi, model.records, self.recipients, model.biases) if with_keys else None,
            )
            for model in self.models
        ]
        options = {
            "checkpoint": self.checkpoint,
            "serial": 3,
            "created_at": CREATED,
            "expires_at": EXPIRES,
            "revocations": self.revocations,
            "ledger": self.levels if with_keys else (),
        }
        write_bundle(path, self.key, contents, **{**options, **changes})
        return path


def _issue(
    key: Ed25519PrivateKey,
    network: Path,
    name: str,
    keys: int,
    bits: int,
    first_index: int,
    seed: int,
    scheme: str,
) -> IssuedModel:
    entry = BundleModel(
        name=name,
        version=1,
        digest=DIGEST,
        adapter="latent-diffusion",
        bits=bits,
        basis=BASIS,
        scheme=scheme,
        strength="0.64",
        secret_commitment="00" * 32,
        keys_issued=keys,
        screening_q="1e-5",
        screening_images=110,
    )
    secret = phi.ModelSecret(hashlib.sha256(name.encode()).digest())
    key_ids = [hashlib.sha256(b"%s key %d" % (name.encode(), i)).digest()[:12] for i in range(keys)]
    redraws = [i % 3 for i in range(keys)]
    packed = secret.bits(key_ids, redraws, bits, scheme)
    blinders = secret.blinders(key_ids, redraws)
    records = np.zeros(keys, RECORD)
    documents = []
    for i, key_id in enumerate(key_ids):
        certificate = Certificate(
            registry=signing.registry_id(key.public_key()),
            key_id=key_id.hex(),
            model=ModelReference(entry.name, entry.version, entry.digest),
            basis=entry.basis,
            scheme=entry.scheme,
            bits=bits,
            redraws=redraws[i],
            recipient=hashlib.sha256(b"recipient %d" % (i % 2)).hexdigest(),
            commitment=phi.commitment(packed[i].tobytes(), blinders[i].tobytes()),
            issued_at=CREATED,
            expires_at=EXPIRES if i % 2 else None,
        )
        document = certificate.sign(key)
        documents.append(document)
        records[i] = (
            _octets(key_id),
            redraws[i],
            _octets(bytes.fromhex(certificate.recipient)),
            _octets(bytes.fromhex(certificate.commitment)),
            unix(CREATED),
            unix(EXPIRES) if i % 2 else 0,
            first_index + i,
            _octets(hashlib.sha256(b"copy %d" % i).digest() if i % 2 else bytes(32)),
            1 + i % 2,
            _octets(base64.b64decode(document["signature"])),
        )
    biases = secret.biases(bits) if scheme == phi.BIASED else None
    return IssuedModel(entry, network, packed, records, documents, seed, biases)


def make_world(
    folder: Path,
    *,
    keys: int = 50,
    bits: int = 64,
    models: Sequence[str] = ("flowers",),
    key_seed: int = 1,
    scheme: str = phi.SCHEME,
) -> World:
    """A registry with ``keys`` issued under each of ``models``, its ledger and networks in ``folder``."""
    key = signing_key(key_seed)
    issued: list[IssuedModel] = []
    for number, name in enumerate(models):
        network = write_network(folder / "networks" / name, bits=bits, seed=number)
        issued.append(_issue(key, network, name, keys, bits, 1 + number * keys, number, scheme))
    documents = [document for model in issued for document in model.documents]
    leaves = [merkle.leaf_hash(b"the entry of the model")]
    leaves += [merkle.leaf_hash(leaf(document)) for document in documents]
    levels = ledger_levels(leaves)
    root = merkle.tree_root(len(leaves), tile_reader(levels))
    origin = f"hallmark/{signing.registry_id(key.public_key())}"
    note = merkle.Checkpoint(origin, len(leaves), root).sign(key)
    return World(folder, key, issued, levels, note)


def safetensors(tensors: Mapping[str, NDArray[np.float32]], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file of float32 tensors."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(tensor.tobytes() for tensor in tensors.values())


def write_copy(world: World, row: int, folder: Path) -> Path:
    """A delivered copy: a folder of two files and its signed ``hallmark.json``."""
    document = world.models[0].documents[row]
    public = base64.b64encode(signing.public_bytes(world.key.public_key())).decode()
    metadata = {
        "hallmark.certificate": signing.canonical(document).decode(),
        "hallmark.public_key": public,
    }
    weights = {"fingerprint": world.signs(row).astype(np.float32)}
    contents = {
        "model_index.json": b"{}\n",
        "vae/diffusion_pytorch_model.safetensors": safetensors(weights, metadata),
    }
    files = {}
    for name, data in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        files[name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    statement = signing.sign(
        {
            "schema": "hallmark/copy/1",
            "registry": world.registry,
            "public_key": public,
            "certificate": document,
            "files": files,
        },
        world.key,
    )
    (folder / "hallmark.json").write_bytes(json.dumps(statement, indent=2, sort_keys=True).encode() + b"\n")
    return folder
