"""Bundles: everything a verifier needs in one signed, versioned, expiring file.

    bundle = Bundle.open("flowers.bundle", trust="<registry id>")
    model = bundle.models[0]
    bundle.read(f"{model.folder}/network.onnx")
    certificate = bundle.certificate(model, row)          # signature and ledger inclusion verified

    write_bundle("flowers.bundle", signing_key, [ModelContent(model, network_folder, keys)], ...)

Members (see :mod:`verifier.archive` for the container)::

    manifest.json             signed document hallmark/bundle/1: models, and every other member's digest
    trust.json                the registry's id and public key
    checkpoint.txt            signed tree head of the ledger
    revocations.json          [{"key_id", "revoked_at", "reason"}]
    models/<name>/network.onnx, network.json; vectors.npz where the network has test vectors, and
                              network.fp16.onnx where it may be read in half precision
    models/<name>/keys/...    only with keys: phi.bin (n x bits/8), certificates.bin (n x RECORD), for
                              collusion-resistant models bias.bin (bits x 2 bytes, little endian: 2^-16)
                              and, where recipients may be unmasked, recipients.json
    lineage/...               the lineage network and the models' fingerprints (:mod:`verifier.lineage`), if
                              the registry has any
    ledger/<level>            only with keys: all hashes of that tile level, one after the other
    keys.json                 only with keys for certain auditors: then the members of models/<name>/keys/
                              are encrypted (:mod:`verifier.sealed`) and end with .sealed

Nothing is used before its digest was compared: small members and networks on opening, the key table and
the ledger in a background thread whose result :meth:`Bundle.verify` waits for.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from numpy.typing import NDArray

from verifier import certificate, merkle, signing
from verifier.archive import Archive, ArchiveWriter, Source
from verifier.errors import InputError, TrustError
from verifier.phi import BIASED, probabilities
from verifier.phi import SCHEME as SCHEME_UNIFORM

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    from verifier.sealed import Opening, Sealing

SCHEMA = "hallmark/bundle/1"
TRUST_SCHEMA = "hallmark/trust/1"
MANIFEST, TRUST, CHECKPOINT, REVOCATIONS = "manifest.json", "trust.json", "checkpoint.txt", "revocations.json"
_NETWORK = ".onnx"
NETWORK_FILES, MORE_FILES = ("network.onnx", "network.json"), ("vectors.npz", "network.fp16.onnx")
ENVELOPE, SEALED = "keys.json", ".sealed"

RECORD = np.dtype(
    [
        ("key_id", "u1", (12,)),
        ("redraws", ">u2"),
        ("recipient", "u1", (32,)),  # the certificate's salted commitment to the recipient
        ("commitment", "u1", (32,)),  # the certificate's blinded commitment to phi
        ("issued_at", ">i8"),  # unix seconds
        ("expires_at", ">i8"),  # unix seconds, 0 = the certificate does not expire
        ("ledger_index", ">i8"),  # of the certificate's entry
        ("copy_sha256", "u1", (32,)),  # zeros = the copy was never delivered in full
        ("recipient_number", ">u4"),  # 0 = not disclosed, otherwise 1-based in recipients.json
        ("signature", "u1", (64,)),  # of the certificate
    ]
)
"""One issued key: with the model's constants it is its whole certificate. Packed, big endian."""

Records = NDArray[np.void]


@dataclass(frozen=True)
class BundleModel:
    """What a bundle says of one model. Digests are text as the registry writes them elsewhere.

    ``scheme`` and ``basis`` are the values its certificates carry; ``keys_issued`` counts every key
    ever issued, revoked and expired ones too: it is the number of hypotheses a finding answers for.
    ``screening_q`` (decimal text) and ``screening_images`` describe the screening of keys at issue.
    """

    name: str
    version: int
    digest: str
    adapter: str
    bits: int
    basis: str
    scheme: str
    strength: str
    secret_commitment: str
    keys_issued: int
    screening_q: str
    screening_images: int
    folder: str = ""

    def document(self) -> dict[str, Any]:
        body = {name: getattr(self, name) for name in self.__dataclass_fields__}
        screening = {"q": body.pop("screening_q"), "images": body.pop("screening_images")}
        return {**body, "screening": screening}

    @classmethod
    def parse(cls, document: Any) -> BundleModel:
        """From a manifest's entry; :class:`TrustError` unless it has exactly the defined fields."""
        try:
            body = dict(document)
            screening = body.pop("screening")
            model = cls(**body, screening_q=screening["q"], screening_images=screening["images"])
            sound = 0 <= model.screening_images * float(model.screening_q) < 1
            sound = sound and model.bits > 0 and model.bits % 8 == 0 and model.keys_issued >= 0
        except (KeyError, TypeError, ValueError) as error:
            raise TrustError(f"manifest.json describes a model wrongly: {error}") from None
        if not sound:
            raise TrustError(f"manifest.json describes model {model.name} with impossible numbers")
        return model

    @property
    def acceptance(self) -> float:
        """Lower bound on the share of keys that screening accepts: what conditions a p-value."""
        return 1.0 - self.screening_images * float(self.screening_q)


@dataclass(frozen=True)
class KeyContent:
    """The key table of a model: ``phi`` (n, bits / 8) uint8 and ``records`` (n,) of ``RECORD``, row by row.

    ``recipients`` lists names (e-mail addresses) that ``recipient_number`` counts from 1, or is None
    where they are not to be disclosed. ``biases`` (bits,) are those of a collusion-resistant model.
    """

    phi: NDArray[np.uint8]
    records: Records
    recipients: Sequence[str] | None = None
    biases: NDArray[np.uint16] | None = None


@dataclass(frozen=True)
class ModelContent:
    """A model to be written: its description, its network package (folder) and, for auditors, its keys."""

    model: BundleModel
    network: Path
    keys: KeyContent | None = None


@dataclass(frozen=True)
class Revocation:
    """A revoked key: still attributed (leaked copies are what auditors hunt), and marked."""

    key_id: str
    revoked_at: str
    reason: str


def utc(seconds: int) -> str:
    """Unix seconds as ``YYYY-MM-DDTHH:MM:SSZ``."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def unix(text: str) -> int:
    """The inverse of :func:`utc`; ``ValueError`` for any other form."""
    seconds = int(datetime.fromisoformat(text).timestamp())
    if utc(seconds) != text:
        raise ValueError(f"{text!r} is no time of the form YYYY-MM-DDTHH:MM:SSZ")
    return seconds


def write_bundle(
    path: Path | str,
    key: signing.Signer,
    models: Sequence[ModelContent],
    *,
    checkpoint: str,
    serial: int,
    created_at: str,
    expires_at: str,
    revocations: Sequence[Revocation] = (),
    ledger: Sequence[bytes | bytearray | memoryview] = (),
    auditors: Sequence[X25519PublicKey] = (),
    lineage: Mapping[str, bytes] | None = None,
) -> signing.Document:
    """Write a bundle to ``path`` (complete or not at all) and return its manifest.

    ``checkpoint`` is the signed note of the ledger's head, ``ledger`` its tile levels from the leaves up
    (each all hashes of the level), which a bundle with keys needs. With ``auditors`` only they can read
    the keys. ``lineage`` holds the members of :mod:`verifier.lineage`, if any. The same content gives the
    same bytes, unless it is encrypted. With keys the file is readable by its owner only. ``ValueError``
    where the parts contradict each other, ``OSError`` where files cannot be read or written.
    """
    path = Path(path)
    registry = signing.registry_id(key.public_key())
    described = _with_folders([content.model for content in models])
    with_keys = any(content.keys is not None for content in models)
    if with_keys and not ledger:
        raise ValueError("a bundle with keys needs the ledger's levels")
    if unix(expires_at) <= unix(created_at):
        raise ValueError(f"a bundle made at {created_at} cannot expire at {expires_at}")

    if auditors and not with_keys:
        raise ValueError("a bundle without keys has nothing to encrypt")

    sealing = _sealing(auditors)
    members: dict[str, Source] = {
        TRUST: trust_member(key.public_key()),
        CHECKPOINT: checkpoint.encode(),
        REVOCATIONS: revocations_member(revocations),
        **(lineage or {}),
    }
    for model, content in zip(described, models, strict=True):
        members.update({f"{model.folder}/{name}": content.network / name for name in NETWORK_FILES})
        more = [name for name in MORE_FILES if (content.network / name).exists()]
        members.update({f"{model.folder}/{name}": content.network / name for name in more})
        if content.keys is not None:
            secrets = _key_members(model, content.keys)
            members.update(secrets if sealing is None else _seal(sealing, secrets))
    if sealing is not None:
        members[ENVELOPE] = _json(sealing.envelope())
    if with_keys:
        members.update({f"ledger/{level}": hashes for level, hashes in enumerate(ledger)})

    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    mode = 0o600 if with_keys else 0o644
    try:
        temporary.touch(mode)
        temporary.chmod(mode)  # before a secret is written
        with temporary.open("wb") as file:
            with ArchiveWriter(file) as archive:
                digests = {name: archive.add(name, source) for name, source in members.items()}
                manifest = signing.sign(
                    {
                        "schema": SCHEMA,
                        "registry": registry,
                        "created_at": created_at,
                        "expires_at": expires_at,
                        "serial": serial,
                        "models": [model.document() for model in described],
                        "files": {n: {"sha256": sha256, "size": s} for n, (sha256, s) in digests.items()},
                    },
                    key,
                )
                archive.add(MANIFEST, _json(manifest))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return manifest


def trust_member(key: Ed25519PublicKey) -> bytes:
    """``trust.json``: the registry's id and public key."""
    public = base64.b64encode(signing.public_bytes(key)).decode()
    return _json({"schema": TRUST_SCHEMA, "registry": signing.registry_id(key), "public_key": public})


def revocations_member(revocations: Sequence[Revocation]) -> bytes:
    """``revocations.json``."""
    return _json([vars(revocation) for revocation in revocations])


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"


def _with_folders(models: Sequence[BundleModel]) -> list[BundleModel]:
    """The models with their folders: ``models/<name>``, and a later version of a name apart from it."""
    named = [(model.name, model.version) for model in models]
    if len(set(named)) < len(named):
        raise ValueError(f"a model is given twice: {named}")
    folders: list[str] = []
    for model in models:
        folder = f"models/{model.name}"
        folders.append(f"{folder}@{model.version}" if folder in folders else folder)
    return [
        BundleModel(**{**vars(model), "folder": folder})
        for model, folder in zip(models, folders, strict=True)
    ]


def _sealing(auditors: Sequence[X25519PublicKey]) -> Sealing | None:
    if not auditors:
        return None
    from verifier.sealed import Sealing

    return Sealing.to(auditors)


def _seal(sealing: Sealing, members: Mapping[str, bytes | memoryview]) -> dict[str, Source]:
    return {f"{name}{SEALED}": sealing.seal(name, content) for name, content in members.items()}


def _key_members(model: BundleModel, keys: KeyContent) -> dict[str, bytes | memoryview]:
    count = len(keys.records)
    if keys.records.dtype != RECORD or keys.records.ndim != 1:
        raise ValueError(f"the records of model {model.name} are no vector of RECORD")
    if keys.phi.dtype != np.uint8 or keys.phi.shape != (count, model.bits // 8):
        raise ValueError(f"model {model.name}: phi has shape {keys.phi.shape}, {count} records")
    if count > model.keys_issued:
        raise ValueError(f"model {model.name}: {count} keys, but only {model.keys_issued} issued")
    if int(keys.records["recipient_number"].max(initial=0)) > len(keys.recipients or ()):
        raise ValueError(f"model {model.name}: a record points beyond the list of recipients")
    members: dict[str, bytes | memoryview] = {
        f"{model.folder}/keys/phi.bin": _bytes(keys.phi),
        f"{model.folder}/keys/certificates.bin": _bytes(keys.records),
    }
    if (keys.biases is not None) != (model.scheme == BIASED):
        raise ValueError(f"model {model.name}: biases belong to keys of scheme {BIASED}, and to no others")
    if keys.biases is not None:
        if keys.biases.shape != (model.bits,):
            raise ValueError(f"model {model.name}: biases of shape {keys.biases.shape}")
        members[f"{model.folder}/keys/bias.bin"] = keys.biases.astype("<u2").tobytes()
    if keys.recipients is not None:
        members[f"{model.folder}/keys/recipients.json"] = _json(list(keys.recipients))
    return members


def _bytes(array: NDArray[Any]) -> memoryview:
    """The array's bytes, without a copy where they are contiguous."""
    return np.ascontiguousarray(array).view(np.uint8).reshape(-1).data


class Bundle:
    """A bundle whose signature, validity and small members were verified; see :meth:`open`."""

    registry: str
    created_at: str
    expires_at: str
    serial: int
    models: list[BundleModel]
    key: Ed25519PublicKey
    checkpoint: merkle.Checkpoint
    revocations: dict[str, Revocation]
    pinned: bool
    manifest: signing.Document

    def __init__(
        self, archive: Archive, trust: str | None, now: float, auditor: X25519PrivateKey | None = None
    ) -> None:
        self._archive, self._auditor = archive, auditor
        self._opened: dict[str, memoryview] = {}
        self._opening: Opening | None = None
        self._failure: TrustError | None = None
        self.key, self.registry = read_trust(archive.read(TRUST))
        self.pinned = trust is not None
        if trust is not None and trust != self.registry:
            raise TrustError(
                f"the bundle is of registry {self.registry}, not of {trust}.",
                "Check --trust (or HALLMARK_TRUST), or get the bundle from the registry you trust.",
            )
        document = _parse_json(archive, MANIFEST)
        manifest = signing.verify(document, self.key, SCHEMA)
        self.manifest = document
        try:
            self.created_at, self.expires_at = manifest["created_at"], manifest["expires_at"]
            self.serial = int(manifest["serial"])
            self.models = [BundleModel.parse(entry) for entry in manifest["models"]]
            self._files: dict[str, tuple[str, int]] = {
                name: (entry["sha256"], entry["size"]) for name, entry in manifest["files"].items()
            }
            expired = now > unix(self.expires_at)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TrustError(f"manifest.json lacks or misnames a field: {error}") from None
        if _json(document) != archive.read(MANIFEST):
            raise TrustError(f"{MANIFEST} was altered: it is not in the form that registries write")
        if manifest["registry"] != self.registry:
            raise TrustError(f"manifest.json is of registry {manifest['registry']}, not {self.registry}")
        if expired:
            raise TrustError(
                f"the bundle expired at {self.expires_at}.", "Get a fresh one from the registry."
            )
        self._verify_names()
        networks = [name for name in self._files if name.endswith(_NETWORK)]
        large = [name for name in self._files if "/keys/" in name or name.startswith("ledger/")]
        for name in self._files.keys() - {*networks, *large}:
            self._verify_member(name)
        self._verified: set[str] = set()
        self._compared = {name: threading.Event() for name in networks}
        self._background = threading.Thread(
            target=self._verify_large, args=([*networks, *large],), daemon=True
        )
        self._background.start()

        try:
            note = bytes(archive.read(CHECKPOINT)).decode()
        except UnicodeDecodeError:
            raise TrustError(f"{CHECKPOINT} is no text") from None
        self.checkpoint = merkle.Checkpoint.open(note, self.key)
        if self.checkpoint.origin != f"hallmark/{self.registry}":
            raise TrustError(f"{CHECKPOINT} is of the ledger {self.checkpoint.origin}")
        self.revocations = read_revocations(archive.read(REVOCATIONS))

    @classmethod
    def open(
        cls,
        path: Path | str,
        trust: str | None = None,
        now: float | None = None,
        auditor: X25519PrivateKey | None = None,
    ) -> Bundle:
        """Open and verify the bundle at ``path``.

        ``trust`` pins the registry (its id); without it the bundle's own is taken, ``pinned`` is False.
        ``now`` is the time in unix seconds. ``auditor`` opens a key table that is encrypted to this key, once
        it is used. :class:`InputError` where the file cannot be read,
        :class:`TrustError` where a byte, signature or validity does not hold; for a network that is when it
        is read, for the key table and ledger in :meth:`verify`.
        """
        path = Path(path)
        if path.exists() and not path.is_file():
            raise InputError(f"cannot read the bundle {path}: it is not an ordinary file.")
        try:
            archive = Archive(path)
        except OSError as error:
            raise InputError(
                f"cannot read the bundle {path}: {error.strerror or error}.",
                "Give --bundle the file that `registry bundle export` wrote.",
            ) from None
        except TrustError as error:
            raise TrustError(f"{path}: {error}", error.hint) from None
        try:
            return cls(archive, trust, time.time() if now is None else now, auditor)
        except TrustError as error:
            raise TrustError(f"{path}: {error}", error.hint) from None

    def learn(self, revocations: Mapping[str, Revocation]) -> None:
        """Take over a newer list of the same registry's revocations; what is known of a key stays."""
        self.revocations = {**revocations, **self.revocations}

    def verify(self) -> None:
        """Wait until every member was compared with its digest; :class:`TrustError` on a difference."""
        self._background.join()
        self._hold()

    def _hold(self) -> None:
        if self._failure is not None:
            raise self._failure

    def read(self, name: str) -> memoryview:
        """A member's contents. Those of the key table and ledger hold only once :meth:`verify` returned."""
        if name in self._compared:
            self._compared[name].wait()
            if name not in self._verified:
                self._hold()
        return self._archive.read(name)

    def digest(self, name: str) -> str:
        """The SHA-256 (hex) that the manifest states for a member."""
        return self._files[name][0]

    def holds(self, name: str) -> bool:
        """Whether the bundle has such a member."""
        return name in self._files

    def read_json(self, name: str) -> Any:
        return _parse_json(self._archive, name)

    def has_keys(self, model: BundleModel) -> bool:
        """Whether there is a key table, encrypted or not."""
        return bool(
            {f"{model.folder}/keys/phi.bin", f"{model.folder}/keys/phi.bin{SEALED}"} & self._files.keys()
        )

    @property
    def readable(self) -> bool:
        """Whether key tables, if there are any, can be read: they are not encrypted, or the key was given."""
        return ENVELOPE not in self._files or self._auditor is not None

    def phi(self, model: BundleModel) -> NDArray[np.uint8]:
        """Packed keys (n, bits / 8) of a model, mapped from the file."""
        packed = np.frombuffer(self._secret(f"{model.folder}/keys/phi.bin"), np.uint8)
        count = len(self.records(model))
        if packed.size != count * (model.bits // 8):
            raise TrustError(f"{model.folder}/keys/phi.bin does not hold {count} keys")
        return packed.reshape(count, model.bits // 8)

    def probabilities(self, model: BundleModel) -> NDArray[np.float64] | None:
        """``P(phi_j = +1)`` (bits,) of a collusion-resistant model's keys; None where keys are uniform.

        :class:`TrustError` for a scheme that this version does not know, or biases that cannot be.
        """
        if model.scheme == SCHEME_UNIFORM:
            return None
        name = f"{model.folder}/keys/bias.bin"
        if model.scheme != BIASED or not {name, f"{name}{SEALED}"} & self._files.keys():
            raise TrustError(
                f"model {model.name} draws its keys by scheme {model.scheme}, which cannot be judged here.",
                "Get a newer verifier, or the bundle again.",
            )
        found = np.frombuffer(self._secret(name), "<u2")
        if found.shape != (model.bits,) or not found.all():
            raise TrustError(f"{name} does not hold {model.bits} biases")
        return probabilities(found)

    def records(self, model: BundleModel) -> Records:
        """The records (n,) of a model's keys, mapped from the file."""
        name = f"{model.folder}/keys/certificates.bin"
        data = self._secret(name)
        count, rest = divmod(len(data), RECORD.itemsize)
        if rest or count > model.keys_issued:
            raise TrustError(f"{name} does not hold whole records of at most {model.keys_issued} keys")
        return np.frombuffer(data, RECORD)

    def recipient(self, model: BundleModel, record: np.void) -> str | None:
        """The recipient's name where the bundle discloses it."""
        number = int(record["recipient_number"])
        name = f"{model.folder}/keys/recipients.json"
        if number == 0 or not {name, f"{name}{SEALED}"} & self._files.keys():
            return None
        recipients = parse_member(name, self._secret(name))
        if not isinstance(recipients, list) or number > len(recipients):
            raise TrustError(f"{name} lacks entry {number}")
        return str(recipients[number - 1])

    def certificate(self, model: BundleModel, record: np.void) -> certificate.Certificate:
        """The certificate of a record, after its signature and its place in the ledger were verified."""
        document = certificate_document(self.registry, model, record)
        parsed = certificate.Certificate.parse(document, self.key)
        self._inclusion(parsed.key_id, document, record)
        return parsed

    def proved(self, model: BundleModel, record: np.void) -> tuple[signing.Document, dict[str, Any]]:
        """The signed certificate of a record, and the proof of its inclusion (:mod:`verifier.proof`)."""
        document = certificate_document(self.registry, model, record)
        parsed = certificate.Certificate.parse(document, self.key)
        path = self._inclusion(parsed.key_id, document, record)
        return document, {
            "schema": "hallmark/inclusion/1",
            "registry": self.registry,
            "public_key": signing.public_text(self.key),
            "size": self.checkpoint.size,
            "root": self.checkpoint.root.hex(),
            "checkpoint": bytes(self.read(CHECKPOINT)).decode(),
            "index": int(record["ledger_index"]),
            "kind": certificate.SCHEMA,
            "digest": certificate.leaf(document).hex(),
            "proof": [value.hex() for value in path],
        }

    def find(self, key_id: str) -> tuple[BundleModel, int] | None:
        """The model and row of a key in the key tables, if it is there; a pseudonym is not."""
        try:
            wanted = np.frombuffer(bytes.fromhex(certificate.normal_key_id(key_id)), np.uint8)
        except ValueError:
            return None
        for model in filter(self.has_keys, self.models):
            rows = (self.records(model)["key_id"] == wanted).all(axis=1)
            if rows.any():
                return model, int(np.argmax(rows))
        return None

    def network_of(self, digest: str | None) -> BundleModel | None:
        """The model whose network has this SHA-256 (hex), if there is one."""
        return next((m for m in self.models if self.digest(f"{m.folder}/network.onnx") == digest), None)

    def _inclusion(self, key_id: str, document: signing.Document, record: np.void) -> list[bytes]:
        """The audit path of a record's certificate, verified."""
        index, size = int(record["ledger_index"]), self.checkpoint.size
        if not 0 <= index < size:
            raise TrustError(f"key {key_id}: ledger entry {index} lies beyond the checkpoint ({size})")
        path = merkle.inclusion_proof(index, size, self._read_tile)
        leaf = merkle.leaf_hash(certificate.leaf(document))
        merkle.verify_inclusion(leaf, index, size, path, self.checkpoint.root)
        return path

    def _secret(self, name: str) -> memoryview:
        """A member of a key table; if it is encrypted, opened into memory once."""
        if ENVELOPE not in self._files:
            return self.read(name)
        if name not in self._opened:
            self._opened[name] = self._key_opening().open(name, self.read(f"{name}{SEALED}"))
        return self._opened[name]

    def _key_opening(self) -> Opening:
        from verifier.sealed import Opening

        if self._auditor is None:
            raise InputError(
                "the bundle's key table is encrypted to an auditor.", "Name your private key with --key FILE."
            )
        if self._opening is None:
            self._opening = Opening.of(self.read_json(ENVELOPE), self._auditor)
        return self._opening

    def _read_tile(self, level: int, number: int) -> bytes:
        width = merkle.TILE_WIDTH * merkle.HASH_BYTES
        return bytes(self.read(f"ledger/{level}")[number * width : (number + 1) * width])

    def _verify_names(self) -> None:
        held = set(self._archive.names()) - {MANIFEST}
        if unlisted := sorted(held - self._files.keys()):
            raise TrustError(f"the bundle holds {unlisted[0]}, which its manifest does not list")
        required = {TRUST, CHECKPOINT, REVOCATIONS}
        required |= {f"{model.folder}/{name}" for model in self.models for name in NETWORK_FILES}
        if missing := sorted((self._files.keys() | required) - held):
            raise TrustError(f"the bundle lacks {missing[0]}")

    def _verify_member(self, name: str) -> None:
        data = self._archive.read(name)
        sha256, size = self._files[name]
        found = hashlib.sha256(data).hexdigest()
        if len(data) != size or found != sha256:
            raise TrustError(
                f"bundle member {name} was altered: expected SHA-256 {sha256}, found {found}.",
                "Get the bundle again from the registry that wrote it.",
            )

    def _verify_large(self, names: Sequence[str]) -> None:
        try:
            for name in names:
                self._verify_member(name)
                self._verified.add(name)
                if name in self._compared:
                    self._compared[name].set()
        except TrustError as error:
            self._failure = error
        except Exception as error:  # noqa: BLE001 - what could not be compared does not hold
            self._failure = TrustError(f"the bundle could not be compared with its digests: {error}.")
        finally:
            for compared in self._compared.values():
                compared.set()


def certificate_document(registry: str, model: BundleModel, record: np.void) -> signing.Document:
    """The signed certificate that ``record`` abbreviates."""
    expires_at = int(record["expires_at"])
    unsigned = certificate.Certificate(
        registry=registry,
        key_id=record["key_id"].tobytes().hex(),
        model=certificate.ModelReference(model.name, model.version, model.digest),
        basis=model.basis,
        scheme=model.scheme,
        bits=model.bits,
        redraws=int(record["redraws"]),
        recipient=record["recipient"].tobytes().hex(),
        commitment=record["commitment"].tobytes().hex(),
        issued_at=utc(int(record["issued_at"])),
        expires_at=utc(expires_at) if expires_at else None,
    ).document()
    return {**unsigned, "signature": base64.b64encode(record["signature"].tobytes()).decode()}


def read_revocations(content: bytes | memoryview) -> dict[str, Revocation]:
    """``revocations.json`` by key id."""
    try:
        revocations = [Revocation(**entry) for entry in parse_member(REVOCATIONS, content)]
    except TypeError as error:
        raise TrustError(f"{REVOCATIONS} lacks or misnames a field: {error}") from None
    return {revocation.key_id: revocation for revocation in revocations}


def read_trust(content: bytes | memoryview) -> tuple[Ed25519PublicKey, str]:
    """The registry's key and id from ``trust.json``; :class:`TrustError` unless the id is the key's own."""
    document = parse_member(TRUST, content)
    try:
        if document["schema"] != TRUST_SCHEMA:
            raise ValueError(f"expected schema {TRUST_SCHEMA}")
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(document["public_key"], validate=True))
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise TrustError(f"{TRUST} cannot be used: {error}") from None
    registry = signing.registry_id(key)
    if document.get("registry") != registry:
        raise TrustError(f"{TRUST}: the key is registry {registry}'s, not {document.get('registry')}'s")
    return key, registry


def _parse_json(archive: Archive, name: str) -> Any:
    return parse_member(name, archive.read(name))


def parse_member(name: str, content: bytes | memoryview) -> Any:
    """The JSON of a bundle's member; :class:`TrustError` unless it is an object, or a list where it must."""
    try:
        value = json.loads(bytes(content))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise TrustError(f"bundle member {name} was altered: it is no JSON") from None
    expected: type = list if name.endswith((REVOCATIONS, "recipients.json")) else dict
    if not isinstance(value, expected):
        raise TrustError(f"bundle member {name} was altered: it is no {expected.__name__}")
    return value
