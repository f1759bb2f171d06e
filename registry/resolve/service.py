"""Answering a query: whose copy do these readings depend on?

    query = Query("flowers", network=digest, images=[Image("a.png", None, [logits])])
    answer = resolve(home, principal, query)
    answer.named, answer.document                      # keys, and the finding as whoever asked may see it

The order of things keeps this from being an oracle. What the asker may resolve on is looked up first, and
nobody whose budget is known to be spent goes further; the verdict is worked out in a time that does not
depend on it; then, in one transaction, the query is paid for and logged, and only then is anything said.
Below alpha that is the verdict alone. Above it, readings that a client sent still give no score: with chosen
readings a score tells the key bit by bit.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
from PIL.Image import Image as Picture
from sqlalchemy import Row, bindparam, insert, select
from sqlalchemy.orm import Session

from registry.accounts import security
from registry.accounts.models import Recipient
from registry.accounts.permissions import Permission, Principal
from registry.attribution.models import NetworkVersion
from registry.copies.models import DeliveredCopy
from registry.db import Database, table, unix_now
from registry.errors import StateError, ThrottledError
from registry.generators import service as generators
from registry.generators.models import Model
from registry.home import Home
from registry.keys import service as keys
from registry.keys.models import KeyRevocation, UserKey
from registry.ledger import service as ledger
from registry.lineage import service as lineage
from registry.resolve import budgets, deciding, explaining, grants
from registry.resolve.budgets import Asked, Payers, RecentSketches, Sketcher
from registry.resolve.deciding import Attribution
from registry.resolve.explaining import Explained
from registry.resolve.grants import Target
from registry.resolve.models import Resolution, ResolvedKey
from registry.resolve.secrets import secret
from registry.resolve.tables import KeyTables
from verifier import certificate, merkle
from verifier.bundle import utc
from verifier.check import TESTS_MOST
from verifier.evidence import ALPHA
from verifier.finding import (
    SCHEMA,
    CopyEntry,
    EvidenceEntry,
    ImageEntry,
    LedgerEntry,
    ModelEntry,
    NetworkEntry,
)
from verifier.images import decode_image
from verifier.lineage import LineageFinding
from verifier.network import Network, NetworkSpec

LARGEST_ALPHA = ALPHA
"""A larger alpha would let whoever guesses readings find a key to start from."""

IMAGES_MOST, READINGS_MOST = 64, TESTS_MOST

MODELS_MOST = 16
"""Models that one uploaded image is read for; who may resolve on more names one of them."""

PIXELS_MOST = 1 << 25
"""Of an uploaded image: 34 megapixels, some 100 MB decoded in a worker."""

AT_ONCE = 2
"""Queries that a process works on at a time. More would not be faster, and whoever holds the lock on a budget
would wait for the interpreter at each of his statements, and everybody for him."""

REFUSED = "resolve.budget-spent"

Source = Literal["client logits", "image"]

NamedKey = Row[UserKey, bytes | None, str, int | None]
"""A key that was named: its row, the digest of its copy, its recipient's address, its id again if revoked."""


@dataclass(frozen=True)
class Image:
    """One image of a query: its name and digest as the asker gives them, and its readings (n, k)."""

    path: str
    sha256: str | None
    readings: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Query:
    """Images asked about as one set; alpha is shared by ``groups`` such sets.

    ``network`` is the SHA-256 (hex) of the network's ONNX file or of its package. With ``before``, only keys
    that stand before that index of the ledger are tested.
    """

    model: str
    network: str
    images: Sequence[Image]
    alpha: float = ALPHA
    groups: int = 1
    source: Source = "client logits"
    before: int | None = None


@dataclass(frozen=True)
class Answer:
    """The verdict: ``named`` are ids of user keys (none where images contradict each other), ``document`` the
    finding for whoever asked."""

    target: Target
    named: Sequence[int]
    document: dict[str, Any]


@dataclass(frozen=True)
class InstalledNetwork:
    """A network that readings may come from."""

    package: str
    onnx: str
    spec: NetworkSpec


class _State:
    """What is kept in memory for one registry."""

    def __init__(self) -> None:
        self.tables = KeyTables()
        self.versions: dict[int, Sequence[NetworkVersion]] = {}
        self.networks: dict[int, InstalledNetwork] = {}
        self.readers: dict[int, Network] = {}
        self.payers = Payers()
        self.recent: dict[tuple[str, int], RecentSketches] = {}
        self.sketcher: Sketcher | None = None
        self.lock = threading.Lock()
        self.slots = threading.BoundedSemaphore(AT_ONCE)


_states: WeakKeyDictionary[Database, _State] = WeakKeyDictionary()
_states_lock = threading.Lock()


def _state(home: Home) -> _State:
    with _states_lock:
        return _states.setdefault(home.database, _State())


def resolve(home: Home, principal: Principal, query: Query) -> Answer:
    """Answer a query and log it.

    :class:`NotFoundError` for a model that is not open to the asker, :class:`InputError` for readings that
    its network does not give, :class:`StateError` where it has none, :class:`ThrottledError` where the
    budget is spent.
    """
    state = _state(home)
    with state.slots:
        return _resolve(home, state, principal, query)


def _resolve(home: Home, state: _State, principal: Principal, query: Query) -> Answer:
    with home.database.glance() as session:
        target, moment = grants.find_now(session, principal.organisation, query.model)
    installed = _versions(home, state, target.model, moment.networks)
    network = _network(home, state, target.model, installed, query.network)
    tests = deciding.tests_of(network.spec, [image.readings for image in query.images])
    asked = _asked(home, state, principal, target, query)
    with _refusals_logged(home, target):
        state.payers.require(asked)
    table = state.tables.of(home, target.model, moment.keys)
    issued = len(table) if query.before is None else _issued_before(home, target.model, query.before)
    q, foreign = keys.screened(installed)
    plus = keys.probabilities(home.master, target.model)
    acceptance = 1.0 - foreign * float(q)
    found = deciding.attributed(table, tests, query.alpha / query.groups, acceptance, issued, plus)
    with _refusals_logged(home, target):
        resolution, rows = _record(home, state, principal, target, query, network, asked, found)
    document = _finding(query, network, resolution, issued * len(tests), moment.ledger)
    if not rows:
        return Answer(target, (), document)
    copies = {row.UserKey.id: _copy(home, principal, target, row) for row in rows}
    for image, names in found.shown.items():
        document["images"][image]["alone"] = [copies[key].name for key in names]
    if found.contradiction is not None:
        return Answer(target, (), document)
    document |= _attributed(home, target, rows[0].UserKey, list(copies.values()), moment.ledger)
    return Answer(target, found.named, document)


def resolve_image(
    home: Home, principal: Principal, model: str | None, data: bytes, name: str = "the image"
) -> list[Answer]:
    """Answers for an image that this registry reads itself, with the newest network of each model.

    Of ``model``, or of every model that is open to the asker and has a network (the newest MODELS_MOST, with
    alpha shared among them). :class:`verifier.errors.InputError` where the bytes are no image, otherwise as
    :func:`resolve`.
    """
    image = decode_image(data, name, PIXELS_MOST)
    digest = hashlib.sha256(data).hexdigest()
    state = _state(home)
    with home.database.read() as session:
        targets = _readable(session, principal.organisation, model)
        newest = [generators.newest_network(session, target.model) for target in targets]
    answers = []
    for target, row in zip(targets, newest, strict=True):
        ranked = _reader(home, state, row).ranked([image])[0][:READINGS_MOST]
        readings = [reading.logits.tolist() for reading in ranked]
        asked = [Image(name, digest, readings)]
        network = _installed(home, state, row).onnx
        query = Query(target.label, network, asked, groups=len(targets), source="image")
        answers.append(resolve(home, principal, query))
    return answers


@dataclass(frozen=True)
class Judged:
    """The answer about images that the registry read itself; ``explained`` is there for named copies of the
    asker's own model, and for whoever may see its key table (:mod:`registry.resolve.explaining`)."""

    answer: Answer
    network: InstalledNetwork
    explained: Explained | None


def judge_images(
    home: Home,
    principal: Principal,
    target: Target,
    images: Sequence[tuple[str, str, Picture]],
    *,
    alpha: float,
    groups: int,
    before: int,
) -> Judged:
    """One set of images, each (name, SHA-256, picture), read with the target's newest network.

    Only keys before the ledger's entry ``before`` are tested. Errors as of :func:`resolve`.
    """
    state = _state(home)
    with home.database.read() as session:
        row = generators.newest_network(session, target.model)
        installed = generators.networks(session, target.model)
    network = _installed(home, state, row)
    ranked = [
        readings[:READINGS_MOST]
        for readings in _reader(home, state, row).ranked([picture for _, _, picture in images])
    ]
    asked = [
        Image(name, digest, [reading.logits.tolist() for reading in readings])
        for (name, digest, _), readings in zip(images, ranked, strict=True)
    ]
    query = Query(target.label, network.onnx, asked, alpha, groups, "image", before)
    answer = resolve(home, principal, query)
    if not answer.named or target.grant is not None:
        return Judged(answer, network, None)
    with home.database.read() as session:
        table = state.tables.of(home, target.model, keys.count(session, target.model))
    issued = _issued_before(home, target.model, before)
    q, foreign = keys.screened(installed)
    plus = keys.probabilities(home.master, target.model)
    explained = explaining.explain(table, answer.named, ranked, issued, 1.0 - foreign * float(q), plus)
    return Judged(answer, network, explained)


def lineage_of(home: Home, organisation: int, pictures: Sequence[Picture]) -> LineageFinding:
    """Which model made a set of pictures, told without keys among all models open to the organisation.

    Those without keys or network count too; they are named as :class:`Target` labels them. It costs nothing
    of a budget: it says nothing of a key.
    """
    with home.database.read() as session:
        targets = [Target(*row) for row in session.execute(grants.targets(organisation))]
        known = lineage.fingerprints_of(session, {target.model.id: target.label for target in targets})
    return lineage.told(known, pictures)


def readable_targets(session: Session, organisation: int) -> list[Target]:
    """The models that an image can be read for: open to the organisation, with a network."""
    return _readable(session, organisation, None)


def _issued_before(home: Home, model: Model, place: int) -> int:
    """How many of a model's keys come before an index of the ledger: they are the first ones of its table."""
    with home.database.read() as session:
        return keys.count(session, model) - keys.count_after(session, model, place - 1)


def _readable(session: Session, organisation: int, model: str | None) -> list[Target]:
    if model is not None:
        return [grants.find_target(session, organisation, model)]
    has_network = select(NetworkVersion.model_id).where(NetworkVersion.model_id == Model.id).exists()
    query = grants.targets(organisation).where(has_network).order_by(Model.id.desc()).limit(MODELS_MOST)
    return [Target(*row) for row in session.execute(query)]


def describe_target(home: Home, session: Session, target: Target) -> dict[str, Any]:
    """A model as whoever may resolve on it sees it: what he needs to ask."""
    state = _state(home)
    installed = [_installed(home, state, row) for row in generators.networks(session, target.model)]
    return {
        "model": target.label,
        "owner": target.owner,
        "digest": target.model.digest_text,
        "granted": target.grant is not None,
        "expires_at": None if target.grant is None or target.grant.expires_at is None
        else utc(target.grant.expires_at),
        "networks": [
            {
                "digest": network.onnx,
                "package": network.package,
                "version": network.spec.version,
                "bits": network.spec.bits,
                "largest_logit": round(network.spec.clip / network.spec.quantum),
                "quantum": network.spec.quantum,
            }
            for network in installed
        ],
        "daily_units": target.daily_units,
        "units_spent": budgets.spent(session, target.scope),
    }  # fmt: skip


@contextmanager
def _refusals_logged(home: Home, target: Target) -> Iterator[None]:
    """Tell the owner of the model that a budget is spent."""
    try:
        yield
    except ThrottledError:
        owner = target.model.organisation_id
        security.log(home, REFUSED, organisation=owner, model=target.model.label, scope=target.scope)
        raise


def _asked(home: Home, state: _State, principal: Principal, target: Target, query: Query) -> Asked:
    readings = np.concatenate([np.asarray(image.readings, np.int64) for image in query.images])
    return Asked(
        scope=target.scope,
        limit=target.daily_units,
        actor=actor(principal),
        model=target.model.id,
        images=len(query.images),
        sketches=_sketcher(home, state).sketches(readings),
    )


def actor(principal: Principal) -> str:
    """Who asks, as budgets and the log of queries name him."""
    if principal.token is not None:
        return f"token/{principal.token}"
    return f"person/{principal.person}"


def _record(
    home: Home,
    state: _State,
    principal: Principal,
    target: Target,
    query: Query,
    network: InstalledNetwork,
    asked: Asked,
    found: Attribution,
) -> tuple[str, Sequence[NamedKey]]:
    """Pay for the query and log it, both or neither; its public id, and what is known of the keys found."""
    public = secrets.token_hex(12)
    # All queries of a budget stand in line for its row: none is to wait there for the disk.
    with home.database.write(durable=False) as session:
        with state.lock:
            recent = state.recent.setdefault((asked.scope, asked.model), RecentSketches())
        units, repeated = budgets.charge(session, state.payers, recent, asked, len(found.named))
        logged = {
            "resolution_id": public,
            "organisation_id": principal.organisation,
            "actor": asked.actor,
            "scope": asked.scope,
            "model_id": asked.model,
            "owner_id": target.model.organisation_id,
            "grant_id": None if target.grant is None else target.grant.id,
            "source": query.source,
            "network": bytes.fromhex(network.onnx),
            "logits_sha256": _logits_digest(query),
            "sketches": asked.sketches.tobytes(),
            "alpha": query.alpha / query.groups,
            "images": len(query.images),
            "readings": len(asked.sketches),
            "repeated": repeated,
            "units": units,
            "attributed": bool(found.named) and found.contradiction is None,
            "asked_at": unix_now(),
        }
        number = session.execute(_LOG, logged).scalar_one()
        if not found.named:
            return public, ()
        # Looked up only now: a query that is refused takes no longer for having found something.
        named = session.execute(_FOUND, {"found": found.named}).all()
        pseudonyms = [
            {
                "resolution_id": number,
                "user_key_id": row.UserKey.id,
                "pseudonym": target.pseudonym(home.master, row.UserKey.key_id),
            }
            for row in named
        ]
        session.execute(_LOG_KEYS, pseudonyms)
        return public, named


_LOG = insert(table(Resolution)).returning(Resolution.id)
_LOG_KEYS = insert(table(ResolvedKey))
_FOUND = (
    select(UserKey, DeliveredCopy.sha256, Recipient.email, KeyRevocation.user_key_id)
    .join(Recipient, Recipient.id == UserKey.recipient_id)
    .outerjoin(DeliveredCopy, DeliveredCopy.user_key_id == UserKey.id)
    .outerjoin(KeyRevocation, KeyRevocation.user_key_id == UserKey.id)
    .where(UserKey.id.in_(bindparam("found", expanding=True)))
    .order_by(UserKey.id)
)


def _logits_digest(query: Query) -> bytes:
    """SHA-256 of the readings as canonical JSON, image by image."""
    text = json.dumps([image.readings for image in query.images], separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()


def _finding(
    query: Query,
    network: InstalledNetwork,
    resolution: str,
    hypotheses: int,
    size: int,
) -> dict[str, Any]:
    """The finding as far as it says nothing of keys: below alpha, all of it."""
    return {
        "schema": SCHEMA,
        "resolution": resolution,
        "provisional": query.source == "client logits",
        "source": query.source,
        "images": [vars(ImageEntry(image.path, image.sha256)) for image in query.images],
        "verdict": "not-attributed",
        "copies": [],
        "model": None,
        "lineage": None,
        "evidence": vars(EvidenceEntry(network.spec.bits, hypotheses, query.alpha, query.groups)),
        "network": vars(NetworkEntry(network.onnx, "client" if query.source != "image" else "registry")),
        "ledger": vars(LedgerEntry(None, size, False)),
        "elapsed_ms": None,
    }


def _copy(home: Home, principal: Principal, target: Target, row: NamedKey) -> CopyEntry:
    """A copy as whoever asked may see it.

    Under a grant it is a pseudonym and whether it was revoked: anything else could be looked up.
    """
    key, sha256, email, revocation = row
    own = target.grant is None
    may_unmask = own and Permission.READ_RECIPIENTS in principal.permissions
    return CopyEntry(
        id=certificate.COPY_PREFIX + key.key_id.hex() if own else None,
        key_id=target.pseudonym(home.master, key.key_id),
        sha256=sha256.hex() if own and sha256 is not None else None,
        recipient=email if may_unmask else None,
        issued_at=utc(key.issued_at) if own else None,
        revoked=revocation is not None,
        matching_bits=None,
        log10_p=None,
        log10_p_family=None,
    )


def _attributed(
    home: Home, target: Target, first: UserKey, copies: Sequence[CopyEntry], size: int
) -> dict[str, Any]:
    """What an attributed finding adds: copies, model, the first one's place in the ledger."""
    model = target.model
    found: dict[str, Any] = {
        "verdict": "attributed",
        "copies": [vars(copy) for copy in copies],
        "model": vars(ModelEntry(model.name, model.version, model.digest_text)),
    }
    if target.grant is None:
        with home.database.glance() as session:  # entries and tiles are only ever added
            found["ledger"] = vars(_ledger_entry(session, home, first, model, size))
    return found


def _ledger_entry(session: Session, home: Home, key: UserKey, model: Model, size: int) -> LedgerEntry:
    """The certificate's place in the ledger, after its inclusion was verified as a stranger would."""
    document = keys.certificate_document(key, model, home.identity.registry)
    checkpoint = merkle.Checkpoint.open(ledger.checkpoint(session), home.identity.public)
    size = max(size, checkpoint.size)
    proof = ledger.inclusion_proof(session, key.ledger_index, checkpoint.size)
    leaf = merkle.leaf_hash(certificate.leaf(document))
    merkle.verify_inclusion(leaf, key.ledger_index, checkpoint.size, proof, checkpoint.root)
    return LedgerEntry(key.ledger_index, checkpoint.size, True)


def _versions(home: Home, state: _State, model: Model, count: int) -> Sequence[NetworkVersion]:
    """The networks of a model that has ``count`` of them; networks are only ever added."""
    if len(state.versions.get(model.id, ())) < count:
        with home.database.read() as session:
            state.versions[model.id] = generators.networks(session, model)
    return state.versions.get(model.id, ())


def _network(
    home: Home, state: _State, model: Model, installed: Sequence[NetworkVersion], digest: str
) -> InstalledNetwork:
    """The installed network that ``digest`` names.

    :class:`InputError` if it names none of them, :class:`StateError` if there is none.
    """
    if not installed:
        raise StateError(
            f"model {model.label} has no attribution network yet.", "Its owner has to train one."
        )
    for row in reversed(installed):
        network = _installed(home, state, row)
        if digest in (network.onnx, network.package):
            return network
    raise StateError(
        f"model {model.label} has no network {digest[:12]}.", "Get a fresh bundle, or see its networks."
    )


def _installed(home: Home, state: _State, row: NetworkVersion) -> InstalledNetwork:
    if row.id not in state.networks:
        name = generators.network_name(row)
        onnx = hashlib.sha256(home.storage.read(f"{name}/network.onnx")).hexdigest()
        spec = NetworkSpec.parse(json.loads(home.storage.read(f"{name}/network.json")))
        state.networks[row.id] = InstalledNetwork(row.digest.hex(), onnx, spec)
    return state.networks[row.id]


def _reader(home: Home, state: _State, row: NetworkVersion) -> Network:
    """The network, ready to read images; opened once."""
    with state.lock:
        if row.id not in state.readers:
            with home.storage.local(generators.network_name(row)) as folder:
                state.readers[row.id] = Network.load(folder, device="cpu")
        return state.readers[row.id]


def _sketcher(home: Home, state: _State) -> Sketcher:
    if state.sketcher is None:
        state.sketcher = Sketcher(secret(home, "sketches"))
    return state.sketcher
