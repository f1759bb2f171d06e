"""Tables of copies: every bad row is named by its line, and a table is issued whole or not at all."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import func, select

from registry.accounts import service as accounts
from registry.accounts.models import Recipient
from registry.errors import InputError
from registry.generators import service as generators
from registry.home import Home
from registry.keys import bulk
from registry.keys import service as keys
from registry.keys.models import UserKey
from registry.ledger import service as ledger
from registry.verification import verify_ledger
from tests.registry.support import MODEL, RECIPIENT


def counts(home: Home) -> tuple[int, int, int]:
    """Recipients, keys and ledger entries."""
    with home.database.read() as session:
        people = session.execute(select(func.count()).select_from(Recipient)).scalar_one()
        issued = session.execute(select(func.count()).select_from(UserKey)).scalar_one()
        return people, issued, ledger.size(session)


def test_a_table_is_issued_in_its_order_with_new_and_known_recipients(ready: Home) -> None:
    public = Ed25519PrivateKey.generate().public_key()
    line = public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    table = (
        f"model,email,expires_days,public_key\n{MODEL},{RECIPIENT},,\n\n{MODEL}@1,New@Example.org,30,{line}\n"
    )
    people, issued, size = counts(ready)
    documents = bulk.issue_orders(ready, bulk.read_orders(table), 1)
    assert counts(ready) == (people + 1, issued + 2, size + 2)
    with ready.database.read() as session:
        found = [keys.get_key(session, ready.identity.registry, one["key_id"]) for one in documents]
        assert [key.document for key in found] == documents
        added = accounts.get_recipient(session, "new@example.org", 1)
        assert [key.row.recipient_id for key in found][1] == added.id
        assert added.public_key == base64.b64decode(accounts.describe(added)["public_key"])
        assert found[1].row.expires_at == found[1].row.issued_at + 30 * 86_400
        keys.check_counts(session)
        assert keys.count(session, generators.get_model(session, MODEL, 1)) == issued + 2


def test_every_bad_row_is_named_and_none_is_issued(ready: Home) -> None:
    before = counts(ready)
    table = (
        "email,model,expires_days,public_key\n"
        f"good@example.org,{MODEL},,\n"
        f"no address,{MODEL},,\n"
        f"good@example.org,{MODEL},,\n"
        f"soon@example.org,{MODEL},soon,\n"
        f"key@example.org,{MODEL},,not-a-key\n"
        f"more@example.org,{MODEL},,,extra\n"
    )
    with pytest.raises(bulk.RowsError) as refused:
        bulk.read_orders(table)
    assert [row.line for row in refused.value.rows] == [3, 4, 5, 6, 7]
    assert "same recipient and model as in line 2" in refused.value.rows[1].reason

    unknown = (
        f"email,model\na@example.org,{MODEL}\nb@example.org,nothing\n{RECIPIENT},{MODEL}@7\n"
        f"recipient-9@{accounts.ERASED},{MODEL}\n"
    )
    with pytest.raises(bulk.RowsError) as refused:
        bulk.issue_orders(ready, bulk.read_orders(unknown), 1)
    assert [row.line for row in refused.value.rows] == [3, 4, 5]
    assert counts(ready) == before


def test_a_table_without_a_header_has_addresses_and_the_chosen_model(sqlite_ready: Home) -> None:
    orders = bulk.read_orders("\ufeffa@example.org;\nb@example.org;\n".lstrip("\ufeff"), MODEL, 9)
    assert [(order.email, order.model, order.expires_days) for order in orders] == [
        ("a@example.org", MODEL, 9),
        ("b@example.org", MODEL, 9),
    ]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("", "the table is empty"),
        ("email,model\n", "a header and no rows"),
        ("name,model\nx,y\n", "names no column email"),
        ("email,colour\na@example.org,red\n", "unknown column"),
        ("email\n" + "a@example.org\n" * 3, "cannot be used"),
        ("email\na@example.org\n", "cannot be used"),  # no model anywhere
        ("email\n" + "".join(f"a{i}@example.org\n" for i in range(bulk.MOST_ORDERS + 1)), "more than"),
        ('email,model\n"a@example.org,x\n', "cannot be used"),  # a quote that never ends
    ],
)
def test_what_is_no_table_is_refused_in_a_sentence(table: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        bulk.read_orders(table)


def test_what_was_issued_together_is_whole(sqlite_ready: Home) -> None:
    rows = "".join(f"r{i}@example.org\n" for i in range(40))
    bulk.issue_orders(sqlite_ready, bulk.read_orders(f"email\n{rows}", MODEL), 1)
    assert verify_ledger(sqlite_ready).size >= 41
