"""The trust root: what verifiers fetch, so that nobody between can alter, withhold or mix it.

    create(home, [root_key])                 # once; the root key then goes offline
    publish(home)                            # networks, revocations, checkpoint as they are now
    refresh(home)                            # the timestamp alone, before it expires
    keep_current(home)                       # whichever of the two is due: every worker does so each minute
    rotate(home, "timestamp", [root_key])    # a new key, announced in the next root

Targets are the members of bundles without keys, file by file, so that an update fetches what changed:
``bundles/<name>-<version>-<ledger index>/manifest.json`` and so on for each published model, and at the top
``trust.json``, ``checkpoint.txt`` and ``revocations.json`` (of all models). Which networks everybody may
have is a decision (whoever holds one can search for images without evidence, see docs/threat-model.md), so
models are published by name.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import select
from sqlalchemy.orm import Session
from tuf.api.metadata import Metadata, Root, TargetFile

from registry.bundles import service as bundles
from registry.db import DAY_SECONDS, unix_now
from registry.errors import InputError, NotFoundError, StateError
from registry.generators import service as generators
from registry.generators.models import Model
from registry.home import Home
from registry.keys import service as keys
from registry.ledger import service as ledger
from registry.trust.models import TrustMetadata, TrustModel, TrustTarget
from registry.trust.repository import (
    ONLINE,
    ROLES,
    ROOT,
    TARGETS,
    TIMESTAMP,
    Draft,
    Policy,
    file_name,
    load,
    newest_row,
    public_key,
)
from verifier import signing
from verifier.archive import Archive
from verifier.bundle import CHECKPOINT, REVOCATIONS, TRUST, Revocation, revocations_member, trust_member, utc

HOUR_SECONDS = 3_600
DUE = 3
"""Metadata is due to be signed again once less than a third of its validity is left."""


@dataclass(frozen=True)
class RoleStatus:
    """A role's metadata in force; ``warning`` is empty where nothing needs to be done."""

    role: str
    version: int
    created_at: int
    expires_at: int
    keys: Sequence[str]
    threshold: int
    warning: str


def create(
    home: Home, root_keys: Sequence[signing.Signer], threshold: int = 1, now: int | None = None
) -> None:
    """Create the trust root and publish its first state.

    Of the offline ``root_keys``, ``threshold`` must sign each later change of keys.
    """
    if not 1 <= threshold <= len({public_key(key).keyid for key in root_keys}):
        raise InputError(
            f"{threshold} of {len(root_keys)} different root keys cannot sign.", "Add --root-key."
        )
    with home.database.write() as session:
        if exists(session):
            raise StateError("this registry has a trust root already; nothing was changed.")
        draft = Draft(home, session, _time(now))
        draft.create(root_keys, threshold)
        _publish(home, session, draft)


def publish(
    home: Home,
    add: Iterable[Model] = (),
    withdraw: Iterable[Model] = (),
    *,
    beyond: int = 0,
    now: int | None = None,
) -> None:
    """Publish the present checkpoint, revocations and networks under new metadata.

    Models of ``add`` are published from now on, those of ``withdraw`` no longer (who fetched their networks
    keeps them). After a restore, versions above ``beyond``, the highest that verifiers have seen, are needed.
    """
    with home.database.write() as session:
        draft = Draft.open(home, session, _time(now), beyond)
        for model in add:
            generators.newest_network(session, model)  # says what to do where there is none yet
            session.merge(TrustModel(model_id=model.id, added_at=_time(now)))
        for model in withdraw:
            row = session.get(TrustModel, model.id)
            if row is None:
                raise StateError(f"model {model.label} is not published.", "Nothing was changed.")
            session.delete(row)
        session.flush()
        _publish(home, session, draft)


def refresh(home: Home, now: int | None = None) -> None:
    """Sign the timestamp again: nothing changed, and this is still so."""
    with home.database.write() as session:
        Draft.open(home, session, _time(now)).sign_again(TIMESTAMP)


def keep_current(home: Home, now: int | None = None) -> str:
    """Do what is due, as a worker does every minute: what that was, ``published``, ``refreshed`` or ``""``.

    A revocation is published at once, other records of the ledger within an hour, everything else (such as a
    network that was trained again) within a day; a timestamp is refreshed before it expires.
    """
    time = _time(now)
    with home.database.read() as session:
        if newest_row(session, ROOT).expires_at <= time:
            raise StateError("the root metadata has expired.", "Run `registry trust renew --root-key FILE`.")
        row = newest_row(session, TARGETS)
        shown = load(home, row).signed.targets
        age = time - row.created_at
        grown = _changed(shown, CHECKPOINT, ledger.checkpoint(session).encode())
        revoked = _changed(shown, REVOCATIONS, _revocations(session))
        due = {role for role in ONLINE if _due(newest_row(session, role), time)}
    if revoked or (grown and age >= HOUR_SECONDS) or age >= DAY_SECONDS or due - {TIMESTAMP}:
        publish(home, now=now)
        return "published"
    if due:
        refresh(home, now=now)
        return "refreshed"
    return ""


def exists(session: Session) -> bool:
    """Whether this registry has a trust root."""
    return session.get(TrustMetadata, (ROOT, 1)) is not None


def rotate(home: Home, role: str, root_keys: Sequence[signing.Signer], now: int | None = None) -> None:
    """Give an online role a new key: a new root, and everything that the old key signed signed again."""
    if role not in ONLINE:
        raise InputError(f"{role} is no online role.", f"Online are {', '.join(ONLINE)}.")
    with home.database.write() as session:
        draft = Draft.open(home, session, _time(now))
        root: Metadata[Root] = draft.newest(ROOT)
        for key_id in list(root.signed.roles[role].keyids):
            root.signed.revoke_key(key_id, role)
        root.signed.add_key(public_key(draft.new_key(role)), role)
        draft.sign_root(root, root_keys)
        draft.sign_again(role)


def rotate_root(
    home: Home,
    root_keys: Sequence[signing.Signer],
    new_keys: Sequence[signing.Signer],
    retire: Sequence[str] | None = None,
    threshold: int | None = None,
    now: int | None = None,
) -> None:
    """Replace root keys: the next root is signed by keys of the present one and by its own.

    ``retire`` names the keys (ids) that end, all present ones by default; ``root_keys`` must hold enough
    of the present ones, whether they end or stay.
    """
    with home.database.write() as session:
        draft = Draft.open(home, session, _time(now))
        root: Metadata[Root] = draft.newest(ROOT)
        for key_id in list(root.signed.roles[ROOT].keyids) if retire is None else retire:
            if key_id not in root.signed.roles[ROOT].keyids:
                raise NotFoundError(f"{key_id} is no root key.", "See `registry trust status`.")
            root.signed.revoke_key(key_id, ROOT)
        for key in new_keys:
            root.signed.add_key(public_key(key), ROOT)
        root.signed.roles[ROOT].threshold = threshold or root.signed.roles[ROOT].threshold
        draft.sign_root(root, [*root_keys, *new_keys])


def renew_root(home: Home, root_keys: Sequence[signing.Signer], now: int | None = None) -> None:
    """Sign the root again, before it expires; no key changes."""
    rotate_root(home, root_keys, [], retire=[], now=now)


def status(home: Home, now: int | None = None) -> list[RoleStatus]:
    """Each role's metadata in force, with what is to be done."""
    with home.database.read() as session:
        root: Root = load(home, newest_row(session, ROOT)).signed
        return [_role_status(newest_row(session, role), root, _time(now)) for role in ROLES]


def published_models(session: Session) -> Sequence[Model]:
    """The models whose networks are published."""
    query = select(Model).join(TrustModel, TrustModel.model_id == Model.id).order_by(Model.ledger_index)
    return session.execute(query).scalars().all()


def first_root(home: Home) -> bytes:
    """The first root, with which a verifier begins; it may come from anywhere if its digest is known."""
    with home.database.read() as session:
        newest_row(session, ROOT)  # says what to do where there is no trust root yet
        with open_metadata(home, session, ROOT, 1) as file:
            return file.read()


def open_metadata(home: Home, session: Session, role: str, version: int | None) -> BinaryIO:
    """A role's metadata of a version (``None``: in force); :class:`NotFoundError` where there is none."""
    query = select(TrustMetadata).where(TrustMetadata.role == role)
    if version is not None:
        query = query.where(TrustMetadata.version == version)
    row = session.execute(query.order_by(TrustMetadata.version.desc()).limit(1)).scalar_one_or_none()
    if row is None:
        raise NotFoundError(f"the trust root has no {role} of that version.")
    return home.storage.open(file_name(row.sha256))


def open_target(home: Home, session: Session, path: str, digest: bytes) -> tuple[BinaryIO, int]:
    """A target that was ever published, and its size; :class:`NotFoundError` for anything else."""
    row = session.get(TrustTarget, (path, digest))
    if row is None:
        raise NotFoundError("the trust root has no such target.")
    return home.storage.open(file_name(digest)), row.size


def _publish(home: Home, session: Session, draft: Draft) -> None:
    targets = {}
    for path, content in _contents(home, session):
        digest = hashlib.sha256(content).digest()
        if session.get(TrustTarget, (path, digest)) is None:
            if not home.storage.exists(file_name(digest)):
                home.storage.put_bytes(file_name(digest), bytes(content))
            session.add(TrustTarget(path=path, sha256=digest, size=len(content), published_at=draft.now))
        targets[path] = TargetFile(len(content), {"sha256": digest.hex()}, path)
    draft.sign_again(TARGETS, targets)


def _contents(home: Home, session: Session) -> Iterator[tuple[str, bytes | memoryview]]:
    """Every target's path and content, as they are now."""
    yield TRUST, trust_member(home.identity.public)
    yield CHECKPOINT, ledger.checkpoint(session).encode()
    yield REVOCATIONS, _revocations(session)
    for model in published_models(session):
        yield from _bundle(home, model)


def _revocations(session: Session) -> bytes:
    revoked = keys.revocations(session, generators.models(session))
    return revocations_member([Revocation(row.key_id.hex(), utc(row.revoked_at), "") for row in revoked])


def _changed(shown: Mapping[str, TargetFile], path: str, content: bytes) -> bool:
    return shown[path].hashes["sha256"] != hashlib.sha256(content).hexdigest()


def _bundle(home: Home, model: Model) -> Iterator[tuple[str, memoryview]]:
    folder = f"bundles/{model.name}-{model.version}-{model.ledger_index}"
    options = bundles.BundleOptions(
        model=model.label, organisation=model.organisation_id, expires_days=Policy.of(home).bundle_days
    )
    with tempfile.TemporaryDirectory(prefix="hallmark-") as work:
        path = Path(work) / "bundle"
        bundles.export(home, path, options)
        archive = Archive(path)
        for name in archive.names():
            yield f"{folder}/{name}", archive.read(name)


def _role_status(row: TrustMetadata, root: Root, now: int) -> RoleStatus:
    named = root.roles[row.role]
    return RoleStatus(
        row.role,
        row.version,
        row.created_at,
        row.expires_at,
        tuple(named.keyids),
        named.threshold,
        _warning(row, now),
    )


def _warning(row: TrustMetadata, now: int) -> str:
    if row.expires_at > now and not _due(row, now):
        return ""
    what = "has expired: verifiers refuse it" if row.expires_at <= now else "expires soon"
    command = {ROOT: "renew --root-key FILE", TIMESTAMP: "refresh"}.get(row.role, "publish")
    return f"{what}; run `registry trust {command}`"


def _due(row: TrustMetadata, now: int) -> bool:
    return DUE * (row.expires_at - now) < row.expires_at - row.created_at


def _time(now: int | None) -> int:
    return unix_now() if now is None else now
