"""The signed metadata of the trust root in the making: within one transaction, versions only grow.

    with home.database.write() as session:
        draft = Draft.open(home, session, now)
        draft.sign_again("targets", files)          # and with it what names it: snapshot and timestamp

Four roles (TUF specification 1.0): ``root`` names everybody's keys and is signed offline, ``targets`` names
the files, ``snapshot`` the version of targets, ``timestamp`` the version of snapshot. Snapshots are
consistent: files are fetched by version and by hash, so that an update in progress never sees two states.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, TypeAlias

from securesystemslib.signer import Signature, SSlibKey
from sqlalchemy import Select, select
from sqlalchemy.orm import Session
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from registry.db import DAY_SECONDS
from registry.errors import InputError, IntegrityError, StateError
from registry.home import Home
from registry.signing_keys import KeySettings, KeyStore, key_store
from registry.trust.models import TrustKey, TrustMetadata
from verifier import signing

ROOT, TARGETS, SNAPSHOT, TIMESTAMP = "root", "targets", "snapshot", "timestamp"
ONLINE = (TARGETS, SNAPSHOT, TIMESTAMP)
ROLES = (ROOT, *ONLINE)

AnyMetadata: TypeAlias = Metadata[Any]


@dataclass(frozen=True)
class Policy:
    """How long each role's metadata is valid, in days: ``[trust]`` in config.toml.

    A verifier that is kept from fresh metadata notices when the timestamp expires. ``bundle_days`` is the
    validity of the bundles among the targets.
    """

    root_days: int = 365
    targets_days: int = 90
    snapshot_days: int = 14
    timestamp_days: int = 2
    bundle_days: int = 30

    @classmethod
    def of(cls, home: Home) -> Policy:
        """The configured one; :class:`InputError` for a value that cannot be meant."""
        known = {field.name for field in fields(cls)}
        table = home.settings.table("trust")
        for name, value in table.items():
            if name not in known or type(value) is not int or not 1 <= value <= 36_500:
                raise InputError(
                    f"config.toml: [trust] {name} = {value!r} cannot be used.",
                    f"Known are {', '.join(sorted(known))}: whole days.",
                )
        return cls(**table)

    def days(self, role: str) -> int:
        """The validity of a role's metadata."""
        return int(getattr(self, f"{role}_days"))


class Draft:
    """The repository as one transaction sees and extends it; new versions lie above ``beyond``."""

    def __init__(self, home: Home, session: Session, now: int, beyond: int = 0) -> None:
        self._home, self._session, self.now, self.beyond = home, session, now, beyond
        self._policy = Policy.of(home)

    @classmethod
    def open(cls, home: Home, session: Session, now: int, beyond: int = 0) -> Draft:
        """Lock the repository for this transaction; :class:`StateError` where there is none yet."""
        first = select(TrustMetadata).where(TrustMetadata.role == ROOT, TrustMetadata.version == 1)
        if session.execute(first.with_for_update()).scalar_one_or_none() is None:
            raise StateError(
                "this registry has no trust root yet.", "Run `registry trust init --root-key FILE`."
            )
        return cls(home, session, now, beyond)

    def newest(self, role: str) -> AnyMetadata:
        """The metadata of a role that is in force."""
        return load(self._home, newest_row(self._session, role))

    def create(self, root_keys: Sequence[signing.Signer], threshold: int) -> None:
        """The first version of every role, with new online keys and no targets."""
        root = Root(version=1, expires=self._expires(ROOT), consistent_snapshot=True)
        root.roles[ROOT].threshold = threshold
        for key in root_keys:
            root.add_key(public_key(key), ROOT)
        for role in ONLINE:
            root.add_key(public_key(self.new_key(role)), role)
        self._sign_and_store(ROOT, Metadata(root), root_keys)
        self._sign_and_store(TARGETS, Metadata(Targets(1, expires=self._expires(TARGETS))))
        self._sign_and_store(SNAPSHOT, Metadata(Snapshot(1, expires=self._expires(SNAPSHOT))))
        self._sign_and_store(TIMESTAMP, Metadata(Timestamp(1, expires=self._expires(TIMESTAMP))))

    def new_key(self, role: str) -> signing.Signer:
        """Take a new key for an online role and retire the one before."""
        for row in self._session.execute(_keys_in_use(role)).scalars():
            row.retired_at, row.sealed = self.now, b""
        signer, sealed = self._store(role).create()
        public = signing.public_bytes(signer.public_key())
        if self._session.execute(select(TrustKey.id).where(TrustKey.public_key == public)).first():
            raise StateError(
                f"the key of {role} is the same as before.", "Let the key service make a new one."
            )
        self._session.add(TrustKey(role=role, public_key=public, sealed=sealed, created_at=self.now))
        self._session.flush()
        return signer

    def sign_root(self, root: Metadata[Root], signers: Sequence[signing.Signer]) -> None:
        """Store the next root, signed by enough keys of the present one and of itself."""
        before: Root = self.newest(ROOT).signed
        for key in map(public_key, signers):
            if key.keyid not in {*before.roles[ROOT].keyids, *root.signed.roles[ROOT].keyids}:
                raise InputError(f"{key.keyid} is no root key.", "See `registry trust status`.")
        root.signed.version = before.version + 1
        root.signed.expires = self._expires(ROOT)
        root.signatures.clear()
        self._sign_and_store(ROOT, root, signers, before)

    def sign_again(self, role: str, targets: Mapping[str, TargetFile] | None = None) -> None:
        """The next version of an online role, and of those that name it."""
        metadata = self.newest(role)
        metadata.signed.version = max(metadata.signed.version, self.beyond) + 1
        metadata.signed.expires = self._expires(role)
        metadata.signatures.clear()
        if targets is not None:
            metadata.signed.targets = dict(targets)
        if role == SNAPSHOT:
            metadata.signed.meta = {"targets.json": MetaFile(self._version(TARGETS))}
        if role == TIMESTAMP:
            metadata.signed.snapshot_meta = MetaFile(self._version(SNAPSHOT))
        self._sign_and_store(role, metadata)
        if role != TIMESTAMP:
            self.sign_again(ONLINE[ONLINE.index(role) + 1])

    def _sign_and_store(
        self,
        role: str,
        metadata: AnyMetadata,
        signers: Sequence[signing.Signer] = (),
        before: Root | None = None,
    ) -> None:
        for signer in signers or [self._signer(role)]:
            key_id = public_key(signer).keyid
            metadata.signatures[key_id] = Signature(key_id, signer.sign(metadata.signed_bytes).hex())
        self._check_signatures(role, metadata, before)
        content = metadata.to_bytes()
        digest = hashlib.sha256(content).digest()
        self._home.storage.put_bytes(file_name(digest), content)
        expires = int(metadata.signed.expires.timestamp())
        self._session.add(
            TrustMetadata(
                role=role,
                version=metadata.signed.version,
                sha256=digest,
                created_at=self.now,
                expires_at=expires,
            )
        )
        self._session.flush()

    def _check_signatures(self, role: str, metadata: AnyMetadata, before: Root | None) -> None:
        """What a verifier will check, so that nothing is ever published that it refuses."""
        root: Root = metadata.signed if role == ROOT else self.newest(ROOT).signed
        for delegator in (root, before):
            if delegator is None:
                continue
            result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
            if not result.verified and role == ROOT:
                raise StateError(
                    f"root version {delegator.version} asks for {result.threshold} of its "
                    f"{len(delegator.roles[ROOT].keyids)} keys; {len(result.signed)} signed.",
                    "Name the key files with --root-key.",
                )
            if not result.verified:
                raise IntegrityError(
                    f"the key of {role} in use is not the one that root version {delegator.version} names.",
                    f"Run `registry trust rotate {role}`.",
                )

    def _signer(self, role: str) -> signing.Signer:
        row = self._session.execute(_keys_in_use(role)).scalar_one()
        return self._store(role).load(row.public_key, row.sealed)

    def _store(self, role: str) -> KeyStore:
        return key_store(KeySettings.of(self._home.settings, role), f"trust-{role}", self._home.master)

    def _version(self, role: str) -> int:
        return newest_row(self._session, role).version

    def _expires(self, role: str) -> datetime:
        return datetime.fromtimestamp(self.now + DAY_SECONDS * self._policy.days(role), UTC)


def newest_row(session: Session, role: str) -> TrustMetadata:
    """The row of the metadata in force; :class:`StateError` where there is no trust root."""
    newest = select(TrustMetadata).where(TrustMetadata.role == role).order_by(TrustMetadata.version.desc())
    found = session.execute(newest.limit(1)).scalar_one_or_none()
    if found is None:
        raise StateError("this registry has no trust root yet.", "Run `registry trust init --root-key FILE`.")
    return found


def load(home: Home, row: TrustMetadata) -> AnyMetadata:
    """The metadata that a row names; :class:`IntegrityError` where the storage holds something else."""
    content = home.storage.read(file_name(row.sha256))
    if hashlib.sha256(content).digest() != row.sha256:
        raise IntegrityError(f"{file_name(row.sha256)} was altered in the storage.", "Restore its backup.")
    return Metadata.from_bytes(content)


def public_key(signer: signing.Signer) -> SSlibKey:
    """A key as TUF metadata carries it."""
    return SSlibKey.from_crypto(signer.public_key())


def file_name(digest: bytes) -> str:
    """Where a file of the trust root lies in the storage."""
    return f"trust/{digest.hex()}"


def _keys_in_use(role: str) -> Select[TrustKey]:
    return select(TrustKey).where(TrustKey.role == role, TrustKey.retired_at.is_(None))
