"""Recording deliveries: started before the first byte, and delivered only once every byte was sent.

    started = start(home, key, requester, FOLDER)                       # a folder written here
    document = finish(home, key, started, sha256, size)                 # its signed receipt

    body = send(home, key, copy, requester, Part.archive(copy), 0, 10_000)     # over HTTP, any range
    for chunk in body: ...
    body.close()

Over HTTP one delivery may take many responses: a download that broke off and goes on, files one by one,
ranges side by side. Those of one requester for one copy count as one delivery, which is complete when all
ranges together cover it. A response that ends is recorded at once; one whose process was killed leaves its
:class:`Transfer`, and what it sent is taken from the client's own word when he asks for the rest.
"""

from __future__ import annotations

import errno
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import structlog
from sqlalchemy import select
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

from registry.copies.build import PreparedCopy
from registry.copies.layout import Layout
from registry.copies.models import Countersignature, DeliveredCopy, Download, DownloadLink, Transfer
from registry.copies.sent import Sent
from registry.db import stream, unix_now
from registry.errors import IntegrityError, StateError, UnavailableError
from registry.generators import service as generators
from registry.home import Home
from registry.identity import signature_bytes, signature_text
from registry.keys.models import KeyRevocation, UserKey
from registry.keys.service import IssuedKey
from registry.ledger import service as ledger
from registry.ledger.audit import Record
from verifier import signing
from verifier.bundle import utc
from verifier.certificate import COPY_PREFIX, leaf

STARTED, DELIVERED, ABORTED = "started", "delivered", "aborted"
FOLDER, ARCHIVE, FILES = "folder", "archive", "files"

RESUME_SECONDS = 7 * 86_400
"""How long a delivery that broke off can go on as the same one."""

BEAT_SECONDS = 5
"""How often a response that is being sent records how far it is."""

DEAD_SECONDS = 4 * BEAT_SECONDS
"""Without a beat for so long, a response's process was killed."""

OVER = 0
"""``active_at`` of a transfer that was broken off: what is left of it is the chunk that was under way."""

_RETRY_SECONDS = (0.5, 1, 2, 4, 8)  # a database that restarts is back within that time

_AWAY = (OperationalError, InterfaceError)

log = structlog.get_logger(__name__)
Made = TypeVar("Made")


@dataclass(frozen=True)
class Requester:
    """Who asks for a copy and from where; ``link`` is the row of a one-time link."""

    actor: str
    origin: str
    user_agent: str = ""
    token: int | None = None
    person: int | None = None
    link: int | None = None


@dataclass(frozen=True)
class Part:
    """What one response sends from: the archive of a copy, or one of its files.

    ``sizes`` are all parts that this form of delivery must cover.
    """

    form: str
    name: str
    layout: Layout
    tag: str
    sizes: dict[str, int]

    @classmethod
    def archive(cls, copy: PreparedCopy) -> Self:
        """The copy as one archive."""
        return cls(ARCHIVE, "", copy.archive, copy.archive_tag, {"": copy.archive.size})

    @classmethod
    def file(cls, copy: PreparedCopy, path: str) -> Self:
        """One of the copy's files; the copy is delivered when all that its manifest lists were sent."""
        sizes = {listed: entry["size"] for listed, entry in copy.manifest.items()}
        return cls(FILES, path, copy.files[path].layout, copy.sha256, sizes)


def refuse(key: IssuedKey) -> None:
    """:class:`StateError` for a copy that is no longer delivered."""
    if key.revoked:
        raise StateError(
            f"key {key.row.key_id.hex()} is revoked, so its copy is no longer delivered.", "Issue a new key."
        )
    if key.row.expires_at is not None and key.row.expires_at < unix_now():
        raise StateError(
            f"the certificate of {key.row.key_id.hex()} expired at {utc(key.row.expires_at)}.",
            "Issue a new key.",
        )


def start(home: Home, key: IssuedKey, requester: Requester, form: str) -> Download:
    """Record a delivery that begins now."""
    started = _new_download(key, requester, form)
    with home.database.write() as session:
        session.add(started)
    return started


def abort(home: Home, started: Download) -> None:
    """Record that a delivery ended before its last byte."""
    with home.database.write() as session:
        row = session.get_one(Download, started.id)
        row.state, row.ended_at = ABORTED, unix_now()


def finish(home: Home, key: IssuedKey, started: Download, sha256: str, size: int) -> signing.Document:
    """Record the delivery, its receipt and the copy's digest in one transaction with the ledger."""
    with home.database.write() as session:
        return _deliver(session, home, key, session.get_one(Download, started.id), sha256, size)


def send(
    home: Home, key: IssuedKey, copy: PreparedCopy, requester: Requester, part: Part, start: int, stop: int
) -> Sending:
    """The body of a response with bytes ``start <= i < stop`` of ``part``, recorded as begun.

    :class:`IntegrityError` where the copy is not the one that was delivered before.
    """
    with home.database.write() as session:
        # Of two first requests at once, one must find the delivery that the other begins.
        session.execute(select(UserKey.id).where(UserKey.id == key.row.id).with_for_update())
        compare_digest(session, key, copy.sha256)
        download = _unfinished(session, key, requester, part)
        if download is None:
            download = _new_download(key, requester, part.form)
            sent = Sent.of(part.sizes, tag=part.tag, sha256=copy.sha256, size=copy.plan.size)
            download.sent = sent.dump()
            session.add(download)
            session.flush()
        now = unix_now()
        for other in _transfers(session, download):
            last = other.stop + (other.active_at == OVER)
            if other.part == part.name and other.start <= start < last:
                other.claimed = max(other.claimed, start)
        transfer = Transfer(
            download_id=download.id, part=part.name, start=start, stop=stop, claimed=start, active_at=now
        )
        download.state, download.active_at, download.ended_at = STARTED, now, None
        session.add(transfer)
        session.flush()
    return Sending(home, key, copy, download.id, transfer.id, requester, part, start, stop)


class Sending:
    """Chunks of bytes that are being sent; asking for the next one says that those before are sent."""

    def __init__(
        self,
        home: Home,
        key: IssuedKey,
        copy: PreparedCopy,
        download: int,
        transfer: int,
        requester: Requester,
        part: Part,
        start: int,
        stop: int,
    ) -> None:
        self._home, self._key, self._copy = home, key, copy
        self._download, self._transfer, self._part = download, transfer, part.name
        self._chunks = part.layout.chunks(home.storage, start, stop)
        self._start, self._stop, self._at, self._length = start, stop, start, 0
        self._by_link = requester.link is not None
        self._beaten, self._ended = time.monotonic(), False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self._at, self._length = self._at + self._length, 0
        try:
            chunk = next(self._chunks)
            last = self._by_link and self._at + len(chunk) == self._stop
            if last or time.monotonic() - self._beaten > BEAT_SECONDS:
                self._beat(last)
        except BaseException:  # the end of the chunks, too
            self.close()
            raise
        self._length = len(chunk)
        return chunk

    def close(self) -> None:
        """Record what was sent; the server calls this whatever ended the response."""
        if self._ended:
            return
        self._ended = True
        self._chunks.close()
        try:
            _again(self._end)
        except Exception as error:  # noqa: BLE001  (the response is over; the row still says that it began)
            log.error("a delivery could not be recorded", download=self._download, error=str(error))

    def _beat(self, last: bool) -> None:
        """Record how far this is, and stop where the rest must not be sent.

        Of two responses at once through one link only one gets to send its ``last`` chunk: it claims the end.
        """
        self._beaten = time.monotonic()
        try:
            with self._home.database.write() as session:
                download = _locked(session, self._download)
                over = self._is_over(session, download)
                if not over:
                    self._note(session, download, self._stop if last else self._at)
        except _AWAY as error:
            log.warning("the progress of a delivery was not recorded", error=str(error.orig))
            return
        if over:
            raise BrokenPipeError(errno.EPIPE, "this delivery is over")

    def _is_over(self, session: Session, download: Download) -> bool:
        """Whether the rest must not be sent: to one who no longer may have it, or through a used link."""
        if session.get(KeyRevocation, self._key.row.id) is not None:
            return True
        if download.link_id is None:
            return False
        if download.state == DELIVERED or session.get_one(DownloadLink, download.link_id).withdrawn_at:
            return True
        ending = (
            other
            for other in _transfers(session, download)
            if other.id != self._transfer and other.part == self._part and other.claimed >= self._stop
        )
        return any(unix_now() - other.active_at <= DEAD_SECONDS for other in ending)

    def _note(self, session: Session, download: Download, claimed: int) -> None:
        sent = Sent.load(download.sent)
        sent.add(self._part, self._start, self._at)
        download.sent, download.active_at = sent.dump(), unix_now()
        transfer = session.get(Transfer, self._transfer)
        if transfer is not None:
            transfer.claimed, transfer.active_at = max(transfer.claimed, claimed), download.active_at

    def _end(self) -> None:
        intact = self._intact()
        with self._home.database.write() as session:
            download = _locked(session, self._download)
            if download.state == DELIVERED:
                return
            if intact:
                self._note(session, download, self._at)
            self._close_transfer(session)
            _settle(session, self._home, self._key, download)

    def _intact(self) -> bool:
        """Whether the stored files beneath are still those whose digests were computed."""
        try:
            marks = self._home.storage.marks(generators.template_name(self._key.model))
        except UnavailableError:
            return True  # they were when this began, and nothing more can be read of them now
        if marks != self._copy.plan.marks:
            log.error("a stored file was written while it was sent", copy=self._copy.copy_id)
        return marks == self._copy.plan.marks

    def _close_transfer(self, session: Session) -> None:
        """Only the client knows how much of a chunk arrived: he says so when he asks for the rest."""
        transfer = session.get(Transfer, self._transfer)
        if transfer is None:
            return
        if self._length:
            transfer.start = transfer.claimed = self._at
            transfer.stop, transfer.active_at = self._at + self._length, OVER
        else:
            session.delete(transfer)
        session.flush()


def settle(home: Home, key: IssuedKey, download: Download) -> Download:
    """The delivery as it stands: complete, if a killed response and its sequel make it so."""
    if download.state != STARTED or download.form == FOLDER:
        return download
    with home.database.write() as session:
        row = _locked(session, download.id)
        if row.state == STARTED:
            _settle(session, home, key, row)
        return row


def compare_digest(session: Session, key: IssuedKey, sha256: str) -> bool:
    """Whether the copy was delivered before; :class:`IntegrityError` if with another digest."""
    known = session.get(DeliveredCopy, key.row.id)
    if known is not None and known.sha256.hex() != sha256:
        raise IntegrityError(
            f"the rebuilt copy has SHA-256 {sha256}, but {known.sha256.hex()} was delivered before; "
            "nothing was delivered.",
            "The storage was altered or damaged; restore it from its backup.",
        )
    return known is not None


def records(session: Session, registry: str) -> Generator[Record]:
    """All receipts in ledger order, rebuilt from their rows."""
    query = (
        select(Download, UserKey.key_id, UserKey.recipient_commitment)
        .join(UserKey, UserKey.id == Download.user_key_id)
        .where(Download.state == DELIVERED)
        .order_by(Download.ledger_index)
    )
    for row, key_id, recipient in stream(session, query):
        assert row.ledger_index is not None, "a delivery and its ledger entry are one transaction"
        yield row.ledger_index, receipt(registry, row, key_id, recipient)


def receipt(registry: str, row: Download, key_id: bytes, recipient: bytes) -> signing.Document:
    """The signed receipt of a delivery, rebuilt from its row, byte for byte what was signed."""
    assert row.signature is not None, "only a finished delivery has a receipt"
    return {**_receipt(registry, row, key_id, recipient), "signature": signature_text(row.signature)}


def select_downloads(organisation: int) -> Any:
    """The deliveries of an organisation's copies, with what :func:`describe` shows of them."""
    return (
        select(Download, UserKey.key_id, DownloadLink.link_id, Countersignature.signed_at)
        .join(UserKey, UserKey.id == Download.user_key_id)
        .outerjoin(DownloadLink, DownloadLink.id == Download.link_id)
        .outerjoin(Countersignature, Countersignature.download_id == Download.id)
        .where(Download.organisation_id == organisation)
    )


def describe(row: Any) -> dict[str, Any]:
    """A row of :func:`select_downloads` as the API and the command line show it."""
    download = row.Download
    sent = None if download.form == FOLDER else Sent.load(download.sent)
    return {
        "download_id": download.download_id,
        "copy_id": COPY_PREFIX + row.key_id.hex(),
        "form": download.form,
        "state": download.state,
        "actor": download.actor,
        "origin": download.origin,
        "user_agent": download.user_agent,
        "link_id": row.link_id,
        "started_at": utc(download.started_at),
        "ended_at": None if download.ended_at is None else utc(download.ended_at),
        "bytes_sent": None if sent is None else sent.bytes_sent,
        "size": download.size,
        "sha256": None if download.sha256 is None else download.sha256.hex(),
        "ledger_index": download.ledger_index,
        "countersigned": row.signed_at is not None,
    }


def _new_download(key: IssuedKey, requester: Requester, form: str) -> Download:
    now = unix_now()
    return Download(
        download_id=f"download-{secrets.token_hex(12)}",
        organisation_id=key.row.organisation_id,
        user_key_id=key.row.id,
        actor=requester.actor,
        origin=requester.origin,
        user_agent=requester.user_agent,
        token_id=requester.token,
        person_id=requester.person,
        link_id=requester.link,
        form=form,
        state=STARTED,
        started_at=now,
        active_at=now,
    )


def _unfinished(session: Session, key: IssuedKey, requester: Requester, part: Part) -> Download | None:
    """The delivery that this request goes on with. A link is one recipient's wherever he is."""
    query = select(Download).where(
        Download.user_key_id == key.row.id,
        Download.form == part.form,
        Download.state != DELIVERED,
        Download.active_at >= unix_now() - RESUME_SECONDS,
        Download.link_id == requester.link,
    )
    if requester.link is None:
        query = query.where(
            Download.token_id == requester.token,
            Download.person_id == requester.person,
            Download.origin == requester.origin,
        )
    newest = query.order_by(Download.id.desc()).limit(1).with_for_update()
    found = session.execute(newest).scalar_one_or_none()
    return found if found is not None and Sent.load(found.sent).tag == part.tag else None


def _transfers(session: Session, download: Download) -> Sequence[Transfer]:
    return session.execute(select(Transfer).where(Transfer.download_id == download.id)).scalars().all()


def _locked(session: Session, download: int) -> Download:
    return session.execute(select(Download).where(Download.id == download).with_for_update()).scalar_one()


def _settle(session: Session, home: Home, key: IssuedKey, download: Download) -> None:
    sent, now, open_transfers = Sent.load(download.sent), unix_now(), 0
    for transfer in _transfers(session, download):
        killed = now - transfer.active_at > DEAD_SECONDS
        if killed and transfer.claimed > transfer.start:
            sent.add(transfer.part, transfer.start, transfer.claimed)
            session.delete(transfer)
        elif transfer.active_at != OVER:
            open_transfers += 1
    download.sent = sent.dump()
    if sent.complete:
        for transfer in _transfers(session, download):
            session.delete(transfer)
        _deliver(session, home, key, download, sent.sha256, sent.size)
    elif not open_transfers:
        download.state, download.ended_at = ABORTED, now


def _deliver(
    session: Session, home: Home, key: IssuedKey, row: Download, sha256: str, size: int
) -> signing.Document:
    row.state, row.ended_at = DELIVERED, unix_now()
    row.active_at = row.ended_at
    row.sha256, row.size = bytes.fromhex(sha256), size
    if row.link_id is not None:
        session.get_one(DownloadLink, row.link_id).used_at = row.ended_at
    unsigned = _receipt(home.identity.registry, row, key.row.key_id, key.row.recipient_commitment)
    document = home.identity.sign(unsigned)
    row.signature = signature_bytes(document)
    row.ledger_index = ledger.append(session, home.identity, ledger.RECEIPT, [leaf(document)])
    # The ledger is locked by now, so of two first deliveries at once one finds the other's digest.
    if not compare_digest(session, key, sha256):
        session.add(
            DeliveredCopy(
                user_key_id=key.row.id, sha256=row.sha256, size=size, first_delivered_at=row.ended_at
            )
        )
    return document


def _receipt(registry: str, row: Download, key_id: bytes, recipient: bytes) -> dict[str, Any]:
    assert row.sha256 is not None, "only a finished delivery has a receipt"
    assert row.ended_at is not None
    return {
        "schema": ledger.RECEIPT,
        "registry": registry,
        "download_id": row.download_id,
        "copy_id": COPY_PREFIX + key_id.hex(),
        "key_id": key_id.hex(),
        "recipient": recipient.hex(),
        "sha256": row.sha256.hex(),
        "bytes": row.size,
        "delivered_at": utc(row.ended_at),
    }


def _again(action: Callable[[], Made]) -> Made:
    """``action``, tried again for a while where the database does not answer."""
    for pause in _RETRY_SECONDS:
        try:
            return action()
        except _AWAY:
            time.sleep(pause)
    return action()
