"""Many copies at once: orders from a table, checked as a whole and issued in one transaction.

    orders = read_orders(text, default_model="flowers")
    found = issue_orders(home, orders, organisation)        # certificates, in the order of the rows
    except RowsError as error: error.rows                    # every bad row, by line

A table is CSV with the columns ``email`` and, where they are needed, ``model``, ``expires_days`` and
``public_key`` (Ed25519: OpenSSH or base64). Addresses that are no recipients yet become some. Of a table with
a bad row nothing is issued.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError as DuplicateError
from sqlalchemy.orm import Session

from registry.accounts import service as accounts
from registry.accounts.models import Recipient
from registry.attribution.models import NetworkVersion
from registry.errors import InputError, NotFoundError, RegistryError, StateError
from registry.generators import service as generators
from registry.generators.models import Model
from registry.home import Home
from registry.keys.service import LONGEST_DAYS, Batch, Issuer, commit
from verifier import signing

MOST_ORDERS = 5_000
"""Rows of one table: some seconds of work, done while the browser waits."""

COLUMNS = ("email", "model", "expires_days", "public_key")
_AT_ONCE = 500
_LONGEST_FIELD = 2_000


@dataclass(frozen=True)
class BadRow:
    """What is wrong with one line of a table."""

    line: int
    reason: str


class RowsError(InputError):
    """A table with bad rows; ``rows`` are all of them in their order."""

    def __init__(self, rows: Sequence[BadRow]) -> None:
        these = "one row" if len(rows) == 1 else f"{len(rows)} rows"
        super().__init__(
            f"{these} cannot be used, so nothing was issued.", "Correct the table, send it again."
        )
        self.rows = tuple(rows)


@dataclass(frozen=True)
class Order:
    """One copy to issue: ``line`` is where the table asks for it."""

    line: int
    email: str
    model: str
    expires_days: int | None = None
    public_key: bytes | None = None


def read_orders(text: str, default_model: str = "", expires_days: int | None = None) -> list[Order]:
    """The orders of a table; a row that does not name a model, or a validity, has the default one.

    :class:`RowsError` for rows that no order can be read from, :class:`InputError` for no table at all.
    """
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    if not first:
        raise InputError("the table is empty.", "Give one address in each line, or a CSV file with a header.")
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    columns = _header(first, delimiter)
    orders: list[Order] = []
    bad: list[BadRow] = []
    seen: dict[tuple[str, str], int] = {}
    try:
        for row in reader:
            line = reader.line_num
            if not any(field.strip() for field in row) or (columns.named and line == _first_line(lines)):
                continue
            if len(orders) + len(bad) >= MOST_ORDERS:
                raise InputError(f"the table has more than {MOST_ORDERS} rows.", "Split it.")
            try:
                order = _order(line, row, columns.names, default_model, expires_days)
                earlier = seen.setdefault((order.email, order.model), line)
                if earlier != line:
                    raise InputError(f"the same recipient and model as in line {earlier}.")
                orders.append(order)
            except RegistryError as error:
                bad.append(BadRow(line, error.diagnostics()))
    except csv.Error as error:
        bad.append(BadRow(reader.line_num, f"this is no CSV ({error})."))
    if bad:
        raise RowsError(bad)
    if not orders:
        raise InputError("the table has a header and no rows.", "Add a row for each copy.")
    return orders


def issue_orders(home: Home, orders: Sequence[Order], organisation: int) -> list[signing.Document]:
    """Issue all orders, or none: recipients, keys, certificates and ledger entries in one transaction.

    :class:`RowsError` names the rows whose model or recipient does not allow it.
    """
    with home.database.read() as session:
        models, bad = _models(session, orders, organisation)
        known = _recipients(session, [order.email for order in orders], organisation)
    recipients: dict[str, Recipient] = {}
    for order in orders:
        recipient = recipients.get(order.email) or known.get(order.email)
        if recipient is None:
            try:
                recipient = accounts.new_recipient(order.email, order.public_key, organisation)
            except InputError as error:
                bad.append(BadRow(order.line, str(error)))
                continue
        elif order.public_key is not None and order.public_key != recipient.public_key:
            bad.append(BadRow(order.line, f"{order.email} has another public key."))
        recipients[order.email] = recipient
    if bad:
        raise RowsError(sorted(bad, key=lambda row: row.line))
    fresh = [recipient for email, recipient in recipients.items() if email not in known]
    batches: list[Batch] = []
    owners: list[Recipient] = []
    for order in orders:
        recipient = recipients[order.email]
        batches.append(Issuer.of(home, *models[order.model], recipient).draw(1, order.expires_days))
        owners.append(recipient)

    def store(session: Session) -> None:
        session.add_all(fresh)
        session.flush()
        for batch, owner in zip(batches, owners, strict=True):
            for row in batch.rows:
                row["recipient_id"] = owner.id

    together = Batch(
        [row for batch in batches for row in batch.rows],
        [document for batch in batches for document in batch.documents],
    )
    try:
        commit(home, [together], store)
    except DuplicateError:
        raise StateError(
            "one of the recipients was added by somebody else meanwhile, so nothing was issued.",
            "Send the table again.",
        ) from None
    return together.documents


@dataclass(frozen=True)
class _Columns:
    names: Sequence[str]
    named: bool


def _header(first: str, delimiter: str) -> _Columns:
    """What the columns are called; a table without a header has addresses, then models."""
    names = [name.strip().strip('"').lower() for name in first.split(delimiter)]
    if "email" not in names:
        if "@" in names[0]:
            return _Columns(COLUMNS[: len(names)], named=False)
        raise InputError(
            f"the table's first line names no column email: {first[:80]!r}.",
            f"Begin with a line such as {','.join(COLUMNS[:2])}; known are {', '.join(COLUMNS)}.",
        )
    unknown = [name for name in names if name not in COLUMNS]
    if unknown or len(set(names)) < len(names):
        which = f"an unknown column {unknown[0][:40]!r}" if unknown else "a column twice"
        raise InputError(f"the table has {which}.", f"Known are {', '.join(COLUMNS)}.")
    return _Columns(names, named=True)


def _first_line(lines: Sequence[str]) -> int:
    return next(number for number, line in enumerate(lines, 1) if line.strip())


def _order(
    line: int, row: Sequence[str], columns: Sequence[str], default_model: str, default_days: int | None
) -> Order:
    if len(row) > len(columns):
        raise InputError(f"{len(row)} fields where there are {len(columns)} columns.")
    if any(len(field) > _LONGEST_FIELD for field in row):
        raise InputError(f"a field is longer than {_LONGEST_FIELD} characters.")
    given = {name: field.strip() for name, field in zip(columns, row, strict=False)}
    email = accounts.normal_email(given.get("email", ""))
    model = given.get("model") or default_model
    if not model:
        raise InputError("no model is named.", "Choose one for the whole table, or fill the column model.")
    days, key = given.get("expires_days", ""), given.get("public_key", "")
    if days and not (days.isdecimal() and 1 <= int(days) <= LONGEST_DAYS):
        raise InputError(f"expires_days {days[:20]!r} is no number from 1 to {LONGEST_DAYS}.")
    return Order(
        line,
        email,
        model,
        int(days) if days else default_days,
        public_key(key) if key else None,
    )


def public_key(text: str) -> bytes:
    """The raw Ed25519 key in ``text``: a line of OpenSSH, or base64 of 32 bytes. :class:`InputError`."""
    try:
        if text.startswith("ssh-"):
            loaded = load_ssh_public_key(text.encode())
            if isinstance(loaded, Ed25519PublicKey):
                return signing.public_bytes(loaded)
        else:
            return accounts.raw_public_key(base64.b64decode(text, validate=True))
    except (ValueError, UnsupportedAlgorithm, binascii.Error):
        pass
    raise InputError(
        "public_key is no Ed25519 key.", "Give a line of id_ed25519.pub, or base64 of its 32 bytes."
    )


def _models(
    session: Session, orders: Sequence[Order], organisation: int
) -> tuple[dict[str, tuple[Model, NetworkVersion]], list[BadRow]]:
    """Each model that is asked for, with its newest network; the rows that ask for one that is not ready."""
    found: dict[str, tuple[Model, NetworkVersion]] = {}
    refused: dict[str, str] = {}
    for name in {order.model for order in orders}:
        try:
            model = generators.get_model(session, name, organisation)
            generators.basis_name(model)
            found[name] = model, generators.newest_network(session, model)
        except (NotFoundError, StateError) as error:
            refused[name] = str(error)
    return found, [BadRow(order.line, refused[order.model]) for order in orders if order.model in refused]


def _recipients(session: Session, emails: Sequence[str], organisation: int) -> dict[str, Recipient]:
    known: dict[str, Recipient] = {}
    for start in range(0, len(emails), _AT_ONCE):
        query = select(Recipient).where(
            Recipient.organisation_id == organisation, Recipient.email.in_(emails[start : start + _AT_ONCE])
        )
        known |= {row.email: row for row in session.execute(query).scalars()}
    return known
