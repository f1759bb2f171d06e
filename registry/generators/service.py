"""Registering models, and what they need before copies can be issued.

    model = add_model(home, "flowers", "latent-diffusion", "builtin:flowers-ldm@1", SchemeOptions())
    install_basis(session, home.storage, model, path)           # by training, where the builtin has none
    install_network(session, home.storage, model, folder)

A model is registered once: its weights are stored under their digest, its secret is drawn, sealed and
committed to in a signed ledger record. Base, basis and networks are then only ever added to.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.accounts import service as accounts
from registry.attribution.models import NetworkVersion
from registry.db import stream, unix_now
from registry.errors import InputError, IntegrityError, NotFoundError, StateError
from registry.fingerprints.basis import SCHEMES, Basis
from registry.generators.models import Model
from registry.home import Home
from registry.identity import signature_bytes, signature_text
from registry.ledger import service as ledger
from registry.ledger.audit import Record
from registry.sealing import MasterKey
from registry.storage import Storage, folder_manifest, manifest_digest
from verifier import certificate, inspect
from verifier.bundle import utc
from verifier.phi import ModelSecret

if TYPE_CHECKING:
    from registry.generators.adapters import Adapter

BUILTIN = "builtin:"
NETWORK_FILES, OPTIONAL_FILES = ("network.onnx", "network.json", "foreign.npz"), ("vectors.npz",)

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True)
class SchemeOptions:
    """How a model is to be fingerprinted; what is ``None`` is left to the builtin or the training.

    ``scheme`` is one of ``SCHEMES``; ``bits`` is a multiple of 8; ``strength`` the sigma of METHOD
    section 2, or else ``psnr`` the quality target in dB that chooses it; ``shift`` the first principal
    component used. ``collusion_resistant`` draws the bits of keys with secret biases, against colluders who
    choose among their bits; each bit then carries less evidence (docs/collusion.md).
    """

    scheme: str | None = None
    bits: int | None = None
    strength: float | None = None
    shift: int | None = None
    psnr: float | None = None
    collusion_resistant: bool = False

    def check(self) -> None:
        """:class:`InputError` for a value that cannot be meant."""
        if self.scheme is not None and self.scheme not in SCHEMES:
            raise InputError(f"--scheme {self.scheme}: unknown.", f"Give one of {', '.join(SCHEMES)}.")
        if self.bits is not None and (self.bits % 8 or not 8 <= self.bits <= 2000):
            raise InputError(f"--bits {self.bits}: give a multiple of 8 from 8 to 2000.")
        if self.strength is not None and not 0 < self.strength < 1e6:
            raise InputError(f"--strength {self.strength}: give a positive number.")
        if self.psnr is not None and not 10 <= self.psnr <= 80:
            raise InputError(f"--psnr {self.psnr}: give a target from 10 to 80 dB.")
        if self.psnr is not None and self.strength is not None:
            raise InputError("--psnr and --strength exclude each other.", "Give one of them.")
        if self.shift is not None and self.shift < 0:
            raise InputError(f"--shift {self.shift}: give a number from 0.")

    def fits(self, basis: Basis) -> bool:
        """Whether ``basis`` is what was asked for."""
        wanted = (self.scheme, self.bits, self.strength, self.shift)
        found = (basis.scheme, basis.bits, basis.strength, basis.shift)
        return self.psnr is None and all(w is None or w == f for w, f in zip(wanted, found, strict=True))


def add_model(
    home: Home,
    name: str,
    adapter_name: str,
    weights: str,
    options: SchemeOptions | None = None,
    organisation: int | None = None,
) -> Model:
    """Register the generator at ``weights`` (a path or ``builtin:<name>@<version>``) under ``name``.

    The model belongs to ``organisation``; ``None``, here and below, stands for that of the command line.

    Other weights or other options under a known name become its next version. :class:`InputError` for
    unusable weights, :class:`StateError` where this very model is registered already.
    """
    from registry.generators.adapters import get_adapter

    options = options or SchemeOptions()
    options.check()
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} is no model name.", "Use lower-case letters, digits, dots and dashes.")
    adapter = get_adapter(adapter_name)
    source = _resolve(weights)
    with tempfile.TemporaryDirectory(prefix="hallmark-") as work:
        folder = adapter.import_weights(source.weights, Path(work))
        adapter.check(folder)
        _check_scheme(adapter, folder, options)
        manifest = folder_manifest(folder)
        if inspect.MANIFEST in manifest:
            raise InputError(f"{weights}: this is a copy ({inspect.MANIFEST}), not a base model.")
        digest = manifest_digest(manifest)
        with home.database.read() as session:
            owner = accounts.owner(session, organisation)
            _refuse_duplicate(session, owner, name, digest, options)
        if source.basis is None:  # a builtin is nobody's copy
            _refuse_copy(home, weights, folder)
        home.storage.put_folder(f"models/{digest}", folder)

    secret = os.urandom(32)
    with home.database.write() as session:
        _refuse_duplicate(session, owner, name, digest, options)
        model = _register(session, home, owner, name, adapter.name, digest, options, secret)
        if source.basis is not None and options.fits(Basis.load(source.basis)):
            install_basis(session, home.storage, model, source.basis)
            if source.network is not None:
                install_network(session, home.storage, model, source.network)
    _learn_lineage(home, adapter, model, source)
    return model


def get_model(session: Session, reference: str, organisation: int | None = None) -> Model:
    """An organisation's model ``NAME`` (its newest version) or ``NAME@VERSION``.

    :class:`NotFoundError` if the organisation has none.
    """
    owner = accounts.owner(session, organisation)
    name, _, version = reference.partition("@")
    query = select(Model).where(Model.name == name, Model.organisation_id == owner)
    query = query.order_by(Model.version.desc()).limit(1)
    if version:
        query = query.where(Model.version == (int(version) if version.isdecimal() else 0))
    model = session.execute(query).scalar_one_or_none()
    if model is None:
        known = sorted({model.name for model in models(session, owner)})
        raise NotFoundError(
            f"no model {reference} is registered.",
            f"Known: {', '.join(known)}." if known else "Run `registry model add` first.",
        )
    return model


def models(session: Session, organisation: int | None = None) -> Sequence[Model]:
    """The models of an organisation (``None``: of all) by name and version."""
    query = select(Model).order_by(Model.name, Model.version)
    if organisation is not None:
        query = query.where(Model.organisation_id == organisation)
    return session.execute(query).scalars().all()


def model_secret(master: MasterKey, model: Model) -> ModelSecret:
    """The opened secret of a model; :class:`IntegrityError` where it does not fit its commitment."""
    secret = ModelSecret(master.open(model.sealed_secret, _purpose(model.name, model.version)))
    if secret.commitment() != model.secret_commitment.hex():
        raise IntegrityError(f"the secret of model {model.label} does not fit its commitment.")
    return secret


def basis_name(model: Model) -> str:
    """Storage name of the model's basis; :class:`StateError` before there is one."""
    return f"bases/{_basis(model)}.safetensors"


def template_name(model: Model) -> str:
    """Storage name of the folder whose tensors a key fills."""
    return f"templates/{_basis(model)}"


def base_name(model: Model) -> str:
    """Storage name of the base model as it was registered."""
    return f"models/{model.digest.hex()}"


def network_name(network: NetworkVersion) -> str:
    """Storage name of a network package."""
    return f"networks/{network.digest.hex()}"


def networks(session: Session, model: Model) -> Sequence[NetworkVersion]:
    """The model's attribution networks, oldest first."""
    query = select(NetworkVersion).where(NetworkVersion.model_id == model.id).order_by(NetworkVersion.version)
    return session.execute(query).scalars().all()


def newest_network(session: Session, model: Model) -> NetworkVersion:
    """The network in use; :class:`StateError` where the model has none yet."""
    found = networks(session, model)
    if not found:
        raise StateError(
            f"model {model.label} has no attribution network yet.",
            f"Run `registry model train {model.label}`.",
        )
    return found[-1]


def foreign_logits(storage: Storage, network: str) -> NDArray[np.int16]:
    """Quantised logits (n, bits) of the foreign images that keys are screened against.

    ``network`` is the storage name of a network package.
    """
    with storage.open(f"{network}/foreign.npz") as file:
        return _foreign(file, network)


def install_basis(session: Session, storage: Storage, model: Model, path: Path) -> None:
    """Make the basis at ``path`` the model's own, and prepare the template that copies are built from.

    A basis is immutable once a key was issued under it: :class:`StateError` then, :class:`InputError`
    for the basis of another model.
    """
    from registry.generators.adapters import get_adapter
    from registry.keys import service as keys

    basis = Basis.load(path)
    digest = basis.digest
    if model.basis is not None and model.basis.hex() == digest:
        return
    if basis.model_digest != model.digest_text:
        raise InputError(f"{path}: the basis of another model ({basis.model_digest}).")
    if basis.bits % 8:
        raise InputError(f"{path}: a basis of {basis.bits} bits; a multiple of 8 is needed.")
    if keys.count(session, model):
        raise StateError(
            f"copies of model {model.label} were issued under its present basis, which is therefore final.",
            "Add the model again with other options: that makes a new version.",
        )
    _store_template(storage, get_adapter(model.adapter), model, basis)
    storage.put_bytes(f"bases/{digest}.safetensors", basis.to_bytes())
    model.basis, model.basis_bits = bytes.fromhex(digest), basis.bits
    model.basis_strength = f"{basis.strength:g}"
    session.merge(model)  # the caller's object may come from an earlier transaction


def install_network(session: Session, storage: Storage, model: Model, package: Path) -> NetworkVersion:
    """Store a network package as the model's next network version; the same package is kept as it is.

    With it goes the network in half precision, which is computed here and no part of the package's digest.

    :class:`InputError` where the package is not whole or was made for another basis.
    """
    from registry.attribution.half import write_half

    _check_package(package, model)
    files = [*NETWORK_FILES, *(name for name in OPTIONAL_FILES if (package / name).is_file())]
    manifest = {n: entry for n, entry in folder_manifest(package).items() if n in files}
    digest = bytes.fromhex(manifest_digest(manifest))
    known = networks(session, model)
    for network in known:
        if network.digest == digest:
            return network
    with (package / "foreign.npz").open("rb") as file:
        foreign = _foreign(file, str(package))
    network = NetworkVersion(
        model_id=model.id,
        version=len(known) + 1,
        digest=digest,
        foreign_images=len(foreign),
        installed_at=unix_now(),
    )
    with _only(package, files) as folder:
        write_half(folder)
        storage.put_folder(network_name(network), folder)
    session.add(network)
    session.flush()
    return network


def records(session: Session, registry: str) -> Generator[Record]:
    """The signed registrations in ledger order, rebuilt from their rows."""
    for (model,) in stream(session, select(Model).order_by(Model.ledger_index)):
        document = _document(
            registry, model.name, model.version, model.adapter, model.digest.hex(),
            model.secret_commitment.hex(), model.registered_at,
        )  # fmt: skip
        yield model.ledger_index, {**document, "signature": signature_text(model.signature)}


def reference(model: Model) -> certificate.ModelReference:
    """How certificates name a model."""
    return certificate.ModelReference(model.name, model.version, model.digest_text)


def _learn_lineage(home: Home, adapter: Adapter, model: Model, source: _Source) -> None:
    """What the model's weights descend from, and its lineage fingerprint where that costs seconds at most: it
    ships with the weights, or samples are drawn quickly.

    Others get it when they are trained, from the latents that are drawn then.
    """
    from registry.lineage import service as lineage

    lineage.compare_weights(home, model)
    if not lineage.available():
        return
    found = None if source.lineage is None else lineage.read_shipped(source.lineage)
    if found is None and not source.builtin:
        with home.storage.local(base_name(model)) as folder:
            found = lineage.quick_fingerprint(adapter, folder, model.label)
    if found is not None:
        lineage.install(home.database, model, found)


@dataclass(frozen=True)
class _Source:
    weights: Path
    basis: Path | None = None
    network: Path | None = None
    lineage: Path | None = None
    builtin: bool = False


def _resolve(weights: str) -> _Source:
    if weights.startswith(BUILTIN):
        from registry.generators.builtin import resolve_builtin

        builtin = resolve_builtin(weights)
        return _Source(builtin.weights, builtin.basis, builtin.network, builtin.lineage, builtin=True)
    if not Path(weights).exists():
        raise InputError(f"{weights}: no such file or folder.", "Give a folder, or builtin:NAME@VERSION.")
    return _Source(Path(weights))


def _check_scheme(adapter: Adapter, folder: Path, options: SchemeOptions) -> None:
    """Refuse what the architecture cannot carry now, not after hours of drawing latents."""
    from registry.fingerprints.pca import chosen_rows, components

    if not adapter.schemes_of(folder):
        if options != SchemeOptions():
            raise InputError(
                f"a {adapter.name} model carries no keys, so it has no scheme.",
                "Leave --scheme and the other options out: it is registered for its lineage.",
            )
        return
    scheme = adapter.choose_scheme(folder, options.scheme, options.shift)
    if scheme != "learned":
        chosen_rows(components(adapter.latent_shape(folder)), options.bits, options.shift, adapter.bits)
    elif options.bits is not None and options.bits > (room := adapter.learnable(adapter.load(folder))):
        raise InputError(
            f"--bits {options.bits}: this model has {room} numbers in its weights that can carry keys.",
            f"Give at most {room // 8 * 8}.",
        )


def _refuse_copy(home: Home, weights: str, folder: Path) -> None:
    """Refuse a copy that lost its certificate, say by conversion: its copies would lead to two recipients.

    Whose it is, is not said: it may be another organisation's.
    """
    from registry.copies import service as copies

    if copies.is_copy(home, folder):
        raise InputError(
            f"{weights}: these weights depend on the key of a copy that was issued here.",
            "Register the base weights; `registry trace` says whose copy these are.",
        )


def _refuse_duplicate(session: Session, owner: int, name: str, digest: str, options: SchemeOptions) -> None:
    query = select(Model).where(
        Model.organisation_id == owner, Model.name == name, Model.digest == bytes.fromhex(digest)
    )
    for model in session.execute(query).scalars():
        asked = (model.scheme, model.bits, model.strength, model.shift, model.psnr, model.collusion_resistant)
        if asked == astuple(options):
            raise StateError(
                f"these weights are already registered as {model.label}.",
                "Nothing was changed; see `registry model list`.",
            )


def _register(
    session: Session,
    home: Home,
    owner: int,
    name: str,
    adapter: str,
    digest: str,
    options: SchemeOptions,
    secret: bytes,
) -> Model:
    newest = session.execute(
        select(func.max(Model.version)).where(Model.organisation_id == owner, Model.name == name)
    ).scalar()
    version, now = (newest or 0) + 1, unix_now()
    secret_commitment = ModelSecret(secret).commitment()
    document = home.identity.sign(
        _document(home.identity.registry, name, version, adapter, digest, secret_commitment, now)
    )
    index = ledger.append(session, home.identity, ledger.MODEL, [certificate.leaf(document)])
    model = Model(
        organisation_id=owner,
        name=name,
        version=version,
        adapter=adapter,
        digest=bytes.fromhex(digest),
        scheme=options.scheme,
        bits=options.bits,
        strength=options.strength,
        shift=options.shift,
        psnr=options.psnr,
        collusion_resistant=options.collusion_resistant,
        sealed_secret=home.master.seal(secret, _purpose(name, version)),
        secret_commitment=bytes.fromhex(secret_commitment),
        registered_at=now,
        signature=signature_bytes(document),
        ledger_index=index,
    )
    session.add(model)
    session.flush()
    return model


def _document(
    registry: str,
    name: str,
    version: int,
    adapter: str,
    digest: str,
    secret_commitment: str,
    registered_at: int,
) -> dict[str, Any]:
    return {
        "schema": ledger.MODEL,
        "registry": registry,
        "name": name,
        "version": version,
        "adapter": adapter,
        "digest": f"sha256:{digest}",
        "secret_commitment": secret_commitment,
        "registered_at": utc(registered_at),
    }


def _purpose(name: str, version: int) -> str:
    return f"model-secret/{name}/{version}"


def _basis(model: Model) -> str:
    if model.basis is None:
        raise StateError(
            f"model {model.label} has no fingerprint basis yet.", f"Run `registry model train {model.label}`."
        )
    return model.basis.hex()


def _store_template(storage: Storage, adapter: Adapter, model: Model, basis: Basis) -> None:
    with storage.local(base_name(model)) as base, tempfile.TemporaryDirectory(prefix="hallmark-") as work:
        template = Path(work) / "template"
        adapter.prepare(base, template, basis)
        storage.put_folder(f"templates/{basis.digest}", template)


def _check_package(package: Path, model: Model) -> None:
    for name in NETWORK_FILES:
        if not (package / name).is_file():
            raise InputError(f"{package / name}: missing.", "Give a whole network package.")
    try:
        card = json.loads((package / "network.json").read_text(encoding="utf-8"))
        bits, basis = card["bits"], card["basis"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{package / 'network.json'}: not readable ({error}).") from None
    if basis != _basis(model) or bits != model.basis_bits:
        raise InputError(f"{package}: made for basis {basis}, the model has {_basis(model)}.")


def _foreign(file: Any, where: str) -> NDArray[np.int16]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            logits = archive["logits"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{where}/foreign.npz: not readable ({error}).") from None
    if logits.ndim != 2 or logits.dtype != np.int16:
        raise InputError(f"{where}/foreign.npz: logits must be int16 (images, bits), not {logits.dtype}.")
    found: NDArray[np.int16] = logits
    return found


@contextmanager
def _only(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """A folder with just these files of ``folder``, by link."""
    with tempfile.TemporaryDirectory(prefix="hallmark-") as work:
        for name in names:
            (Path(work) / name).symlink_to((folder / name).resolve())
        yield Path(work)


def describe(session: Session, model: Model) -> dict[str, Any]:
    """A model as `registry model list --json` shows it."""
    from registry.keys import service as keys
    from registry.lineage import service as lineage

    return {
        "name": model.name,
        "version": model.version,
        "digest": model.digest_text,
        "adapter": model.adapter,
        "basis": None if model.basis is None else model.basis.hex(),
        "bits": model.basis_bits,
        "strength": model.basis_strength,
        "collusion_resistant": model.collusion_resistant,
        "secret_commitment": model.secret_commitment.hex(),
        "registered_at": utc(model.registered_at),
        "networks": [
            {
                "version": network.version,
                "digest": network.digest.hex(),
                "foreign_images": network.foreign_images,
                "installed_at": utc(network.installed_at),
            }
            for network in networks(session, model)
        ],
        "keys_issued": keys.count(session, model),
        "lineage": lineage.describe(session, model),
    }
