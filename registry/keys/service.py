"""Issuing and revoking user keys.

    issuer = Issuer.open(home, "flowers", "ada@example.org")
    documents = issuer.issue(1)                   # signed certificates, committed with their ledger entries
    revoke(home, key_id, "leaked")

Key bits are derived from the model's secret (:mod:`verifier.phi`), so a row holds only what the
certificate says. Everything slow (derivation, screening, signing) happens before the transaction, which
then holds the ledger only for its inserts.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Boolean, Row, bindparam, func, insert, or_, select, text
from sqlalchemy.orm import Session

from registry.accounts import service as accounts
from registry.accounts.models import Recipient
from registry.attribution.models import NetworkVersion
from registry.db import DAY_SECONDS, stream, table, unix_now
from registry.errors import InputError, IntegrityError, NotFoundError, RegistryError, StateError
from registry.generators import service as generators
from registry.generators.models import Model
from registry.home import Home
from registry.identity import signature_bytes, signature_text
from registry.keys.models import KeyCount, KeyRevocation, UserKey
from registry.keys.screening import Q_TEXT, Screen
from registry.ledger import service as ledger
from registry.ledger.audit import Record
from registry.sealing import MasterKey
from registry.storage import Storage
from verifier import phi, signing
from verifier.bundle import utc
from verifier.certificate import Certificate, leaf, normal_key_id
from verifier.phi import BIASED, KEY_ID_BYTES, SCHEME, ModelSecret, Packed, commitment

CHUNK = 10_000
"""Keys a transaction: a second of work, so that an interrupted bulk issue loses little."""

MOST_REDRAWS = 0xFFFF
LONGEST_DAYS = 36_500


@dataclass(frozen=True)
class IssuedKey:
    """A key with what its certificate and its copy need."""

    row: UserKey
    model: Model
    revoked: bool
    document: signing.Document


Also = Callable[[Session, Sequence[Any]], Sequence[RegistryError | None]]


@dataclass(frozen=True)
class Batch:
    """Keys that are drawn and signed, and exist once :func:`commit` has logged them.

    ``also`` runs in the transaction of :func:`commit_each`, for what must be true exactly when the keys
    exist: at its beginning, while others still have the ledger. It gets the ``claim`` of every batch that
    shares it, and says of each what refuses the batch, if anything does.
    """

    rows: list[dict[str, Any]]
    documents: list[signing.Document]
    also: Also | None = None
    claim: Any = None


_ADD_KEYS = insert(table(UserKey)).inline()
_COUNT_ON = text(
    "INSERT INTO key_count (model_id, issued) VALUES (:model, :more) "
    "ON CONFLICT (model_id) DO UPDATE SET issued = key_count.issued + excluded.issued"
)


def commit(home: Home, batches: Sequence[Batch], first: Callable[[Session], None] | None = None) -> None:
    """Log and store the keys of all batches in one transaction, or none of them.

    ``first`` runs at its beginning, while others still have the ledger.
    """
    with home.database.write() as session:
        if first is not None:
            first(session)
        _log(session, home, batches)


def commit_each(home: Home, batches: Sequence[Batch]) -> list[RegistryError | None]:
    """:func:`commit` of those that no ``also`` refuses.

    For each batch its refusal, or ``None``.
    """
    with home.database.write() as session:
        refusals = _refusals(session, batches)
        issued = [batch for batch, refusal in zip(batches, refusals, strict=True) if refusal is None]
        if issued:
            _log(session, home, issued)
    return refusals


def _refusals(session: Session, batches: Sequence[Batch]) -> list[RegistryError | None]:
    refusals: list[RegistryError | None] = [None] * len(batches)
    for also in {batch.also for batch in batches if batch.also is not None}:
        sharing = [i for i, batch in enumerate(batches) if batch.also is also]
        said = also(session, [batches[i].claim for i in sharing])
        for i, refusal in zip(sharing, said, strict=True):
            refusals[i] = refusal
    return refusals


def _log(session: Session, home: Home, batches: Sequence[Batch]) -> None:
    rows = [row for batch in batches for row in batch.rows]
    digests = [leaf(document) for batch in batches for document in batch.documents]
    issued = Counter(row["model_id"] for row in rows)
    first = ledger.append(session, home.identity, ledger.CERTIFICATE, digests)
    session.execute(_ADD_KEYS, [{**row, "ledger_index": first + i} for i, row in enumerate(rows)])
    session.execute(_COUNT_ON, [{"model": model, "more": more} for model, more in issued.items()])


class Issuer:
    """Issues keys of one model to one recipient; opening it does the work that all keys share."""

    def __init__(self, home: Home, model: Model, recipient: Recipient, screen: Screen) -> None:
        self._home, self._model, self._recipient, self._screen = home, model, recipient, screen
        self._secret = generators.model_secret(home.master, model)

    @classmethod
    def of(cls, home: Home, model: Model, network: NetworkVersion, recipient: Recipient) -> Issuer:
        """For a model with its newest network; the recipient may be one that is yet to be stored."""
        return cls(home, model, recipient, _screen(home, model, generators.network_name(network)))

    @classmethod
    def open(cls, home: Home, model: str, email: str, organisation: int | None = None) -> Issuer:
        """For an organisation's model and recipient (``None``: the command line's).

        :class:`NotFoundError` for an unknown name, :class:`StateError` for a model without a network.
        """
        recipient, registered, network = _at_once(home, model, email, organisation) or _one_by_one(
            home, model, email, organisation
        )
        return cls.of(home, registered, network, recipient)

    def issue(self, count: int, expires_days: int | None = None) -> list[signing.Document]:
        """Issue ``count`` keys in one transaction: keys, certificates, ledger entries, all or nothing."""
        batch = self.draw(count, expires_days)
        commit(self._home, [batch])
        return batch.documents

    def draw(self, count: int, expires_days: int | None = None) -> Batch:
        """Draw, screen and sign ``count`` keys that :func:`commit` then issues."""
        issued_at = unix_now()
        expires_at = None if expires_days is None else issued_at + expires_days * DAY_SECONDS
        key_ids = _new_key_ids(count)
        redraws, packed = _draw(self._secret, key_ids, _bits(self._model), self._screen, scheme(self._model))
        committed = self._commitments(key_ids, redraws, packed)
        named = accounts.commitments(self._recipient, key_ids)

        registry = self._home.identity.registry
        rows: list[dict[str, Any]] = []
        documents: list[signing.Document] = []
        for i, key_id in enumerate(key_ids):
            redrawn = int(redraws[i])
            certificate = _certificate(
                registry, self._model, key_id, redrawn, named[i], committed[i], issued_at, expires_at
            )
            document = self._home.identity.sign(certificate.document())
            documents.append(document)
            rows.append(
                {
                    "key_id": key_id,
                    "organisation_id": self._model.organisation_id,
                    "model_id": self._model.id,
                    "recipient_id": self._recipient.id,
                    "redraws": redrawn,
                    "recipient_commitment": named[i],
                    "commitment": committed[i],
                    "issued_at": issued_at,
                    "expires_at": expires_at,
                    "signature": signature_bytes(document),
                }
            )
        return Batch(rows, documents)

    def _commitments(
        self, key_ids: Sequence[bytes], redraws: NDArray[np.int64], packed: Packed
    ) -> list[bytes]:
        blinders = self._secret.blinders(key_ids, redraws.tolist())
        pairs = zip(packed, blinders, strict=True)
        return [bytes.fromhex(commitment(phi.tobytes(), blinder.tobytes())) for phi, blinder in pairs]


_Needed = tuple[Recipient, Model, NetworkVersion]


_NEEDED = (
    select(Recipient, Model, NetworkVersion)
    .join(Model, Model.organisation_id == Recipient.organisation_id)
    .join(NetworkVersion, NetworkVersion.model_id == Model.id, isouter=True)
    .where(
        Recipient.organisation_id == bindparam("organisation"),
        Recipient.email == bindparam("email"),
        Model.name == bindparam("name"),
        or_(bindparam("newest", type_=Boolean()), Model.version == bindparam("version")),
    )
    .order_by(Model.version.desc(), NetworkVersion.version.desc())
    .limit(1)
)


def _at_once(home: Home, model: str, email: str, organisation: int | None) -> _Needed | None:
    """What an issuer needs, in one query: issuing over HTTP is measured in requests a second."""
    if organisation is None:
        return None
    name, _, version = model.partition("@")
    wanted = {
        "organisation": organisation,
        "email": accounts.normal_email(email),
        "name": name,
        "version": int(version) if version.isdecimal() else 0,
        "newest": not version,
    }
    with home.database.glance() as session:
        found = session.execute(_NEEDED, wanted).one_or_none()
    if found is None or found[2] is None or found[1].basis is None:
        return None
    return found[0], found[1], found[2]


def _one_by_one(home: Home, model: str, email: str, organisation: int | None) -> _Needed:
    """The same, so that each thing that is missing says what to do."""
    with home.database.read() as session:
        recipient = accounts.get_recipient(session, email, organisation)
        registered = generators.get_model(session, model, organisation)
        generators.basis_name(registered)
        return recipient, registered, generators.newest_network(session, registered)


def check_expiry(days: int | None) -> None:
    """:class:`InputError` unless ``days`` is a validity that can be meant."""
    if days is not None and not 1 <= days <= LONGEST_DAYS:
        raise InputError(f"--expires-days {days}: give a number from 1 to {LONGEST_DAYS}.")


def get_key(session: Session, registry: str, reference: str, organisation: int | None = None) -> IssuedKey:
    """The key with this key id or copy id, of an organisation's models (``None``: of any).

    :class:`NotFoundError` if none was issued.
    """
    try:
        key_id = bytes.fromhex(normal_key_id(reference))
    except ValueError as error:
        raise InputError(f"{error}.") from None
    query = (
        select(UserKey, Model, KeyRevocation.user_key_id)
        .join(Model, Model.id == UserKey.model_id)
        .outerjoin(KeyRevocation, KeyRevocation.user_key_id == UserKey.id)
        .where(UserKey.key_id == key_id)
    )
    if organisation is not None:
        query = query.where(Model.organisation_id == organisation)
    found = session.execute(query).one_or_none()
    if found is None:
        raise NotFoundError(f"this registry issued no key {key_id.hex()}.", "Check the id.")
    row, model, revocation = found
    return IssuedKey(row, model, revocation is not None, certificate_document(row, model, registry))


def select_keys(organisation: int) -> Any:
    """An organisation's keys with their models' and recipients' names and when they were revoked."""
    return (
        select(UserKey, Model.name, Model.version, Recipient.email, KeyRevocation.revoked_at)
        .join(Model, Model.id == UserKey.model_id)
        .join(Recipient, Recipient.id == UserKey.recipient_id)
        .outerjoin(KeyRevocation, KeyRevocation.user_key_id == UserKey.id)
        .where(UserKey.organisation_id == organisation)
    )


def derive(home: Home, key: IssuedKey) -> Packed:
    """The key's bits, packed (bits / 8,), from the model's secret."""
    secret = generators.model_secret(home.master, key.model)
    packed: Packed = derive_table(secret, key.model, [key.row.key_id], [key.row.redraws])[0]
    return packed


def derive_table(
    secret: ModelSecret, model: Model, key_ids: Sequence[bytes], redraws: Sequence[int]
) -> Packed:
    """The bits of many keys of a model, packed (n, bits / 8)."""
    return secret.bits(key_ids, redraws, _bits(model), scheme(model))


def scheme(model: Model) -> str:
    """How the keys of a model are drawn: what its certificates call it."""
    return BIASED if model.collusion_resistant else SCHEME


def biases(master: MasterKey, model: Model) -> NDArray[np.uint16] | None:
    """The secret biases (bits,) of a collusion-resistant model's keys, in units of 2^-16."""
    if not model.collusion_resistant:
        return None
    return generators.model_secret(master, model).biases(_bits(model))


def probabilities(master: MasterKey, model: Model) -> NDArray[np.float64] | None:
    """The same as :mod:`verifier.evidence` takes them: None for uniform keys."""
    found = biases(master, model)
    return None if found is None else phi.probabilities(found)


def certificate_document(row: UserKey | Row[Any], model: Model, registry: str) -> signing.Document:
    """The certificate rebuilt from its row, byte for byte what was signed."""
    unsigned = _certificate(
        registry, model, row.key_id, row.redraws, row.recipient_commitment, row.commitment,
        row.issued_at, row.expires_at,
    ).document()  # fmt: skip
    return {**unsigned, "signature": signature_text(row.signature)}


def revoke(home: Home, reference: str, reason: str, organisation: int | None = None) -> signing.Document:
    """Revoke a key (of an organisation's models) and log it; its copy stays resolvable.

    :class:`StateError` if it is revoked already.
    """
    reason = reason.strip()
    if not reason:
        raise InputError("--reason is empty.", "Say why the key is revoked.")
    with home.database.read() as session:
        key = get_key(session, home.identity.registry, reference, organisation)
    salt, now = os.urandom(32), unix_now()
    reason_commitment = hashlib.sha256(b"hallmark/reason/v1" + salt + reason.encode()).digest()
    document = home.identity.sign(_revocation(home.identity.registry, key.row.key_id, reason_commitment, now))
    with home.database.write() as session:
        index = ledger.append(session, home.identity, ledger.REVOCATION, [leaf(document)])
        if session.get(KeyRevocation, key.row.id) is not None:
            raise StateError(f"key {key.row.key_id.hex()} is already revoked.", "Nothing was changed.")
        session.add(
            KeyRevocation(
                user_key_id=key.row.id,
                reason=reason,
                reason_salt=salt,
                reason_commitment=reason_commitment,
                revoked_at=now,
                signature=signature_bytes(document),
                ledger_index=index,
            )
        )
    return document


@dataclass(frozen=True)
class Revoked:
    """A revoked key, as bundles list it."""

    key_id: bytes
    revoked_at: int
    reason: str


def revocations(session: Session, models: Sequence[Model]) -> list[Revoked]:
    """The revoked keys of these models in ledger order."""
    query = (
        select(UserKey.key_id, KeyRevocation.revoked_at, KeyRevocation.reason)
        .join(UserKey, UserKey.id == KeyRevocation.user_key_id)
        .where(UserKey.model_id.in_([model.id for model in models]))
        .order_by(KeyRevocation.ledger_index)
    )
    return [Revoked(*row) for row in session.execute(query)]


def count(session: Session, model: Model) -> int:
    """The number of keys ever issued for a model, revoked and expired ones too."""
    return session.execute(select(KeyCount.issued).where(KeyCount.model_id == model.id)).scalar() or 0


def count_after(session: Session, model: Model, place: int) -> int:
    """How many of a model's keys come after an index of the ledger."""
    query = select(func.count()).where(UserKey.model_id == model.id, UserKey.ledger_index > place)
    return session.execute(query).scalar_one()


def check_counts(session: Session) -> None:
    """:class:`IntegrityError` unless each model's count and organisation are those of its keys.

    The ledger does not say them, but findings depend on the one and what an organisation sees on the other.
    """
    query = select(UserKey.model_id, UserKey.organisation_id, func.count()).group_by(
        UserKey.model_id, UserKey.organisation_id
    )
    found = {(row[0], row[1]): row[2] for row in session.execute(query)}
    counted = select(Model.id, Model.organisation_id, KeyCount.issued).join(KeyCount)
    expected = {(row[0], row[1]): row[2] for row in session.execute(counted)}
    for model, organisation in sorted(found.keys() | expected.keys()):
        kept, there = expected.get((model, organisation), 0), found.get((model, organisation), 0)
        if kept != there:
            raise IntegrityError(
                f"{kept} keys were counted for model number {model} of organisation number {organisation}, "
                f"{there} are stored.",
                "The database was altered outside Hallmark or damaged; restore it from a backup.",
            )


def rows(session: Session, model: Model) -> Generator[Row[Any]]:
    """All keys of a model in ledger order, as light rows that are named like the table's columns."""
    query = select(UserKey.__table__).where(UserKey.model_id == model.id).order_by(UserKey.ledger_index)
    return stream(session, query)


def records(session: Session, registry: str) -> Generator[Record]:
    """All certificates in ledger order, rebuilt from their rows."""
    models = {model.id: model for model in generators.models(session)}
    query = select(UserKey.__table__).order_by(UserKey.ledger_index)
    for row in stream(session, query):
        yield row.ledger_index, certificate_document(row, models[row.model_id], registry)


def revocation_records(session: Session, registry: str) -> Generator[Record]:
    """All revocations in ledger order, rebuilt from their rows."""
    query = (
        select(KeyRevocation, UserKey.key_id)
        .join(UserKey, UserKey.id == KeyRevocation.user_key_id)
        .order_by(KeyRevocation.ledger_index)
    )
    for row, key_id in stream(session, query):
        document = _revocation(registry, key_id, row.reason_commitment, row.revoked_at)
        yield row.ledger_index, {**document, "signature": signature_text(row.signature)}


def screening(session: Session, model: Model) -> tuple[str, int]:
    """(q as text, most foreign images that any key of the model was screened against)."""
    return screened(generators.networks(session, model))


def screening_account(session: Session, model: Model) -> dict[str, Any]:
    """What the screening of a model's keys did: how many were drawn again, and how often."""
    q, images = screening(session, model)
    query = select(func.count(), func.coalesce(func.sum(UserKey.redraws), 0)).where(
        UserKey.model_id == model.id, UserKey.redraws > 0
    )
    redrawn, redraws = session.execute(query).one()
    return {
        "q": q,
        "foreign_images": images,
        "acceptance": 1.0 - images * float(q),
        "keys_issued": count(session, model),
        "keys_redrawn": int(redrawn),
        "candidates_redrawn": int(redraws),
    }


def screened(networks: Sequence[NetworkVersion]) -> tuple[str, int]:
    """:func:`screening` of a model with these networks."""
    return Q_TEXT, max((network.foreign_images for network in networks), default=0)


def _certificate(
    registry: str,
    model: Model,
    key_id: bytes,
    redraws: int,
    recipient: bytes,
    committed: bytes,
    issued_at: int,
    expires_at: int | None,
) -> Certificate:
    assert model.basis is not None, "keys are issued only under a basis"
    return Certificate(
        registry=registry,
        key_id=key_id.hex(),
        model=generators.reference(model),
        basis=model.basis.hex(),
        scheme=scheme(model),
        bits=_bits(model),
        redraws=redraws,
        recipient=recipient.hex(),
        commitment=committed.hex(),
        issued_at=utc(issued_at),
        expires_at=None if expires_at is None else utc(expires_at),
    )


def _revocation(registry: str, key_id: bytes, reason_commitment: bytes, revoked_at: int) -> signing.Document:
    return {
        "schema": ledger.REVOCATION,
        "registry": registry,
        "key_id": key_id.hex(),
        "reason_commitment": reason_commitment.hex(),
        "revoked_at": utc(revoked_at),
    }


def _bits(model: Model) -> int:
    assert model.basis_bits is not None, "keys are issued only under a basis"
    return model.basis_bits


def _new_key_ids(count: int) -> list[bytes]:
    drawn = os.urandom(KEY_ID_BYTES * count)
    return [drawn[i : i + KEY_ID_BYTES] for i in range(0, len(drawn), KEY_ID_BYTES)]


def _draw(
    secret: ModelSecret, key_ids: Sequence[bytes], bits: int, screen: Screen, scheme: str = SCHEME
) -> tuple[NDArray[np.int64], Packed]:
    """Redraw counts (n,) and packed bits (n, bits / 8) of keys that pass the screen."""
    redraws = np.zeros(len(key_ids), np.int64)
    packed = secret.bits(key_ids, redraws.tolist(), bits, scheme).copy()
    pending = np.flatnonzero(screen.rejects(packed))
    while len(pending):
        redraws[pending] += 1
        if redraws.max() > MOST_REDRAWS:
            raise StateError(
                "the screening refuses nearly every key: the network answers foreign images alike.",
                "Train the model again.",
            )
        ids = [key_ids[i] for i in pending.tolist()]
        packed[pending] = secret.bits(ids, redraws[pending].tolist(), bits, scheme)
        pending = pending[screen.rejects(packed[pending])]
    return redraws, packed


def _screen(home: Home, model: Model, network: str) -> Screen:
    """The screen of keys of a model against what a stored network read of foreign images."""
    if not model.collusion_resistant:
        return _load_screen(home.storage, network)
    found = biases(home.master, model)
    assert found is not None
    return _load_biased_screen(
        home.storage,
        home.master,  # type: ignore[arg-type]  # hashed by identity
        network,
        model.id,
        found.tobytes(),
    )


@lru_cache(maxsize=32)
def _load_biased_screen(
    storage: Storage, master: MasterKey, network: str, model: int, secret: bytes
) -> Screen:
    """The same for biased keys: thresholds tell about the biases, so they are kept encrypted."""
    logits = generators.foreign_logits(storage, network)
    name = f"screens/{network.rpartition('/')[2]}-{Q_TEXT}-{model}.sealed"
    if storage.exists(name):
        try:
            return Screen(logits, np.frombuffer(master.open(storage.read(name), name)))
        except IntegrityError:  # of an earlier master key
            pass
    screen = Screen.against(logits, plus=phi.probabilities(np.frombuffer(secret, np.uint16)))
    storage.put_bytes(name, master.seal(screen.thresholds.tobytes(), name))
    return screen


@lru_cache(maxsize=32)
def _load_screen(storage: Storage, network: str) -> Screen:
    """The screen of a stored network; its thresholds are computed once and kept beside the network."""
    logits = generators.foreign_logits(storage, network)
    name = f"screens/{network.rpartition('/')[2]}-{Q_TEXT}.npy"
    if storage.exists(name):
        return Screen(logits, np.load(io.BytesIO(storage.read(name)), allow_pickle=False))
    screen = Screen.against(logits)
    content = io.BytesIO()
    np.save(content, screen.thresholds)
    storage.put_bytes(name, content.getvalue())
    return screen
