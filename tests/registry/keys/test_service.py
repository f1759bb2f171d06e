from __future__ import annotations

import base64
import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from registry.accounts import service as accounts
from registry.errors import InputError, StateError
from registry.generators import service as generators
from registry.generators.models import Model
from registry.home import Home
from registry.identity import Identity, signature_bytes
from registry.keys import service
from registry.keys.models import KeyRevocation, UserKey
from registry.ledger import service as ledger
from registry.verification import verify_ledger
from tests.registry.support import BITS, MODEL, RECIPIENT, TinyModel
from verifier import signing
from verifier.certificate import Certificate, leaf
from verifier.phi import SCHEME, commitment


def issue(home: Home, count: int = 1, days: int | None = None) -> list[signing.Document]:
    return service.Issuer.open(home, MODEL, RECIPIENT).issue(count, days)


def test_an_issued_certificate_holds_and_its_commitments_open(ready: Home) -> None:
    (document,) = issue(ready, days=30)
    certificate = Certificate.parse(document, ready.identity.public)
    with ready.database.read() as session:
        key = service.get_key(session, ready.identity.registry, certificate.copy_id)
        recipient = accounts.get_recipient(session, RECIPIENT)
        model = generators.get_model(session, MODEL)
    assert key.document == document
    assert (certificate.bits, certificate.scheme, certificate.redraws) == (BITS, SCHEME, 0)
    assert certificate.model == generators.reference(model)
    key_id = bytes.fromhex(certificate.key_id)
    assert bytes.fromhex(certificate.recipient) == accounts.commitments(recipient, [key_id])[0]
    secret = generators.model_secret(ready.master, model)
    blinder = secret.blinders([key_id], [0])[0].tobytes()
    assert certificate.commitment == commitment(service.derive(ready, key).tobytes(), blinder)


def test_key_and_ledger_entry_are_one_transaction(ready: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    issuer = service.Issuer.open(ready, MODEL, RECIPIENT)
    issuer.issue(2)

    append = ledger.append

    def interrupted(*arguments: Any) -> int:
        append(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            issuer.issue(300)
    issuer.issue(1)
    with ready.database.read() as session:
        model = generators.get_model(session, MODEL)
        assert service.count(session, model) == 3
        assert ledger.size(session) == 4
    assert verify_ledger(ready).size == 4


def test_bulk_keys_are_all_different_and_all_logged(ready: Home) -> None:
    documents = issue(ready, 600)
    assert len({document["key_id"] for document in documents}) == 600
    assert len({document["recipient"] for document in documents}) == 600
    assert verify_ledger(ready).size == 601
    with ready.database.read() as session:
        rows = list(service.rows(session, generators.get_model(session, MODEL)))
    assert [row.ledger_index for row in rows] == list(range(1, 601))
    assert [row.key_id.hex() for row in rows] == [document["key_id"] for document in documents]


def test_parallel_issuers_leave_no_gap(ready: Home) -> None:
    def work(_: int) -> None:
        for _turn in range(4):
            issue(ready, 5)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    report = verify_ledger(ready)
    assert report.size == 81
    assert report.checkpoints == 18


def test_keys_need_a_trained_model_and_a_known_recipient(home: Home, tiny: TinyModel) -> None:
    model = generators.add_model(home, MODEL, "latent-diffusion", str(tiny.weights))
    with home.database.write() as session:
        accounts.add_recipient(session, RECIPIENT)
    with pytest.raises(InputError, match="no recipient"):
        service.Issuer.open(home, MODEL, "eve@example.org")
    with pytest.raises(InputError, match="no model nonsense"):
        service.Issuer.open(home, "nonsense", RECIPIENT)
    with pytest.raises(StateError, match="no fingerprint basis"):
        service.Issuer.open(home, MODEL, RECIPIENT)
    with home.database.write() as session:
        generators.install_basis(session, home.storage, model, tiny.basis)
    with pytest.raises(StateError, match="no attribution network"):
        service.Issuer.open(home, MODEL, RECIPIENT)


def test_no_row_holds_key_bits_or_addresses(ready: Home) -> None:
    issue(ready)
    with ready.database.read() as session:
        row = session.execute(select(UserKey)).scalar_one()
        key = service.get_key(session, ready.identity.registry, row.key_id.hex())
        stored = [getattr(row, column.name) for column in UserKey.__table__.columns]
    bits = service.derive(ready, key).tobytes()
    assert not any(isinstance(value, bytes) and bits in value for value in stored)
    assert RECIPIENT not in repr(stored)


def test_thresholds_are_computed_once(sqlite_ready: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    issue(sqlite_ready)

    def again(*_: object) -> None:
        raise AssertionError("thresholds were computed twice")

    monkeypatch.setattr(service.Screen, "against", again)
    issue(sqlite_ready)


def test_a_revoked_key_stays_and_is_logged_without_its_reason(ready: Home) -> None:
    (document,) = issue(ready)
    revocation = service.revoke(ready, document["copy_id"], "  leaked by Ada  ")
    body = signing.verify(revocation, ready.identity.public, "hallmark/revocation/1")
    assert body["key_id"] == document["key_id"]
    assert "Ada" not in str(body)
    with ready.database.read() as session:
        row = session.execute(select(KeyRevocation)).scalar_one()
        opened = hashlib.sha256(b"hallmark/reason/v1" + row.reason_salt + b"leaked by Ada").hexdigest()
        assert body["reason_commitment"] == opened
        assert service.get_key(session, ready.identity.registry, document["key_id"]).revoked
        (listed,) = service.revocations(session, [generators.get_model(session, MODEL)])
        assert (listed.key_id.hex(), listed.reason) == (document["key_id"], "leaked by Ada")
        ((index, rebuilt),) = service.revocation_records(session, ready.identity.registry)
    assert (index, rebuilt) == (2, revocation)
    with pytest.raises(StateError, match="already revoked"):
        service.revoke(ready, document["key_id"], "again")
    assert verify_ledger(ready).size == 3


@pytest.mark.parametrize("reference", ["", "copy-", "xyz", "0" * 23, "copy-" + "g" * 24])
def test_what_is_no_key_id_is_refused(sqlite_ready: Home, reference: str) -> None:
    with pytest.raises(InputError, match="no key id"):
        service.revoke(sqlite_ready, reference, "reason")


def test_an_unknown_key_and_an_empty_reason_are_refused(sqlite_ready: Home) -> None:
    with pytest.raises(InputError, match="issued no key"):
        service.revoke(sqlite_ready, "0" * 24, "reason")
    with pytest.raises(InputError, match="--reason is empty"):
        service.revoke(sqlite_ready, "0" * 24, "  ")


@pytest.mark.parametrize("days", [0, -1, 40_000])
def test_a_validity_that_cannot_be_meant_is_refused(days: int) -> None:
    with pytest.raises(InputError, match="--expires-days"):
        service.check_expiry(days)


octets = st.binary(min_size=32, max_size=32)
seconds = st.integers(0, 4_000_000_000)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key_id=st.binary(min_size=12, max_size=12),
    redraws=st.integers(0, 65535),
    recipient=octets,
    committed=octets,
    issued_at=seconds,
    expires_at=st.none() | seconds,
    model_digest=octets,
    basis=octets,
)
def test_a_certificate_is_rebuilt_byte_for_byte(
    sqlite_home: Home,
    key_id: bytes,
    redraws: int,
    recipient: bytes,
    committed: bytes,
    issued_at: int,
    expires_at: int | None,
    model_digest: bytes,
    basis: bytes,
) -> None:
    identity: Identity = sqlite_home.identity
    model = Model(name="m", version=2, digest=model_digest, basis=basis, basis_bits=256)
    fields = (key_id, redraws, recipient, committed, issued_at, expires_at)
    signed = identity.sign(service._certificate(identity.registry, model, *fields).document())
    row = UserKey(
        key_id=key_id,
        redraws=redraws,
        recipient_commitment=recipient,
        commitment=committed,
        issued_at=issued_at,
        expires_at=expires_at,
        signature=signature_bytes(signed),
    )
    rebuilt = service.certificate_document(row, model, identity.registry)
    assert signing.canonical(rebuilt) == signing.canonical(signed)
    assert leaf(rebuilt) == leaf(signed)
    assert base64.b64decode(rebuilt["signature"]) == row.signature
    Certificate.parse(rebuilt, identity.public)
