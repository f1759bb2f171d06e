"""Copies in the console: issuing one or many, finding them, links, deliveries, revocation."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import Any

from flask import Blueprint, redirect, request, url_for
from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.accounts import security
from registry.accounts import service as accounts
from registry.accounts.permissions import Permission
from registry.api.access import accepts, home, principal, requires
from registry.console.page import Answer, Form, Listing, done, listing, render, saved, uploaded_text
from registry.copies import countersignatures, deliveries, links
from registry.copies.models import DeliveredCopy, Download, DownloadLink
from registry.copies.routes import LINK_CREATED, end_link, find_key, link_url, new_link, receipt_of, settled
from registry.db import DAY_SECONDS, unix_now
from registry.errors import InputError, NotFoundError
from registry.generators import service as generators
from registry.generators.models import Model
from registry.keys import bulk
from registry.keys import service as keys
from registry.keys.models import KeyRevocation, UserKey
from registry.serving.metrics import KEYS_ISSUED
from verifier.bundle import utc
from verifier.certificate import COPY_PREFIX, normal_key_id

pages = Blueprint("copy_pages", __name__, url_prefix="/console/copies", template_folder="templates")

LARGEST_TABLE = 8 << 20
_ID = re.compile(r"(copy-)?[0-9a-f]{24}")
_SHOWN = 20
_STATES = (("", "Any state"), ("revoked", "Revoked"), ("expiring", "Expires within 30 days"))
_DELIVERY_STATES = (
    ("", "Any state"),
    ("delivered", "Delivered"),
    ("started", "Under way"),
    ("aborted", "Broken off"),
)


@pages.get("")
@requires(Permission.READ_KEYS)
def index() -> Answer:
    """The organisation's copies, newest first, by what is looked for."""
    form = Form(request.args)
    wanted = form.get("q").strip()
    if _ID.fullmatch(wanted.lower()):
        return redirect(url_for("copy_pages.show", copy_id=wanted.lower()))
    owner = principal().organisation
    with home().database.read() as session:
        chosen, number = keys.select_keys(owner), UserKey.ledger_index
        if form.get("state") == "revoked":
            chosen, number = chosen.where(KeyRevocation.user_key_id.is_not(None)), KeyRevocation.ledger_index
        elif form.get("state") == "expiring":
            soon = (unix_now(), unix_now() + 30 * DAY_SECONDS)
            chosen = chosen.where(UserKey.expires_at.is_not(None), UserKey.expires_at.between(*soon))
        found: Listing | None = None
        try:
            if form.get("model"):
                model = generators.get_model(session, form.get("model"), owner)
                chosen = chosen.where(UserKey.model_id == model.id)
            if wanted:
                principal().require(Permission.READ_RECIPIENTS)
                recipient = accounts.get_recipient(session, wanted, owner)
                chosen = chosen.where(UserKey.recipient_id == recipient.id)
            found = listing(session, chosen, number)
        except NotFoundError:
            pass
        except InputError:
            form.errors["q"] = "Give a copy id, a key id, or a recipient's whole address."
        names = _model_names(session, owner)
    return render(
        "copies/index.html",
        copies=found or Listing((), None, None),
        form=form,
        models=[("", "Any model"), *names],
        states=_STATES,
        filtered=bool(wanted or form.get("model") or form.get("state")),
    )


@pages.get("/issue")
@requires(Permission.ISSUE)
def issue() -> Answer:
    """The form for one copy, and the one for many."""
    return _issue_page(Form({"model": request.args.get("model", ""), "email": request.args.get("email", "")}))


@pages.post("/issue")
@requires(Permission.ISSUE)
def issue_one() -> Answer:
    """Issue one copy; an address that is new becomes a recipient."""
    form = Form.sent()
    model, email = form.get("model"), form.text("email", longest=254)
    days = None if not form.get("expires_days").strip() else form.number("expires_days", 1, keys.LONGEST_DAYS)
    if not model:
        form.errors["model"] = "Choose a model."
    owner = principal().organisation
    with form.refusals():
        if form.ok:
            order = bulk.Order(0, accounts.normal_email(email), model, days)
            with home().database.read() as session:
                known = accounts.is_recipient(session, order.email, owner)
            if known:
                (document,) = keys.Issuer.open(home(), model, order.email, owner).issue(1, days)
            else:
                principal().require(Permission.WRITE_RECIPIENTS)
                try:
                    (document,) = bulk.issue_orders(home(), [order], owner)
                except bulk.RowsError as error:
                    raise InputError(error.rows[0].reason) from None
            KEYS_ISSUED.inc()
            return done(
                url_for("copy_pages.show", copy_id=document["copy_id"]),
                f"The copy for {order.email} is issued. Make a link for its recipient, or download it here.",
            )
    return _issue_page(form), 422


@pages.post("/issue-many")
@requires(Permission.ISSUE)
@accepts(LARGEST_TABLE)
def issue_many() -> Answer:
    """Issue a table of copies: all of its rows, or none and what is wrong with each."""
    form = Form.sent()
    owner = principal().organisation
    days = None
    if form.get("expires_days").strip():
        days = form.number("expires_days", 1, keys.LONGEST_DAYS)
    bad: Sequence[bulk.BadRow] = ()
    with form.refusals():
        principal().require(Permission.WRITE_RECIPIENTS)
        form.values["table_text"] = text = uploaded_text("table", LARGEST_TABLE)
        try:
            if form.ok:
                documents = bulk.issue_orders(home(), bulk.read_orders(text, form.get("model"), days), owner)
                KEYS_ISSUED.inc(len(documents))
                first, last = _range(documents[0]["key_id"], documents[-1]["key_id"])
                return done(
                    url_for("copy_pages.batch", first=first, last=last),
                    f"{len(documents):,} copies are issued, each with its certificate in the ledger.",
                )
        except bulk.RowsError as error:
            bad = error.rows
            raise
    return _issue_page(form, many=True, bad=bad), 422


@pages.get("/batch/<int:first>-<int:last>")
@requires(Permission.READ_KEYS)
def batch(first: int, last: int) -> Answer:
    """Copies that were issued together."""
    with home().database.read() as session:
        found = listing(session, _between(first, last), UserKey.ledger_index, newest_first=False)
    if not found.rows:
        raise NotFoundError("no copies of yours have these numbers.", "See the list of copies.")
    return render("copies/batch.html", copies=found, first=first, last=last, hours=links.DEFAULT_HOURS)


@pages.get("/batch/<int:first>-<int:last>/certificates.jsonl")
@requires(Permission.READ_KEYS)
def batch_certificates(first: int, last: int) -> Answer:
    """Their certificates, one in each line."""
    registry = home().identity.registry
    with home().database.read() as session:
        models = {model.id: model for model in generators.models(session, principal().organisation)}
        rows = session.execute(_between(first, last).limit(bulk.MOST_ORDERS)).all()
    lines = [
        json.dumps(keys.certificate_document(row.UserKey, models[row.UserKey.model_id], registry)) + "\n"
        for row in rows
    ]
    return saved("".join(lines), f"certificates-{first}-{last}.jsonl", "application/jsonl")


@pages.post("/batch/<int:first>-<int:last>/links.csv")
@requires(Permission.DOWNLOAD)
def batch_links(first: int, last: int) -> Answer:
    """A link for each of them that is still delivered, as a table to write to the recipients from."""
    principal().require(Permission.READ_RECIPIENTS)
    form = Form.sent()
    hours = form.number("hours", 1, links.LONGEST_HOURS, links.DEFAULT_HOURS)
    if not form.ok:
        raise InputError("the hours are no number that can be meant.", f"Give 1 to {links.LONGEST_HOURS}.")
    registry = home().identity.registry
    written = io.StringIO()
    table = csv.writer(written)
    table.writerow(("email", "copy_id", "link", "expires_at"))
    with home().database.write() as session:
        rows = session.execute(_between(first, last).limit(bulk.MOST_ORDERS)).all()
        current = [row for row in rows if row.revoked_at is None]
        issued = [keys.get_key(session, registry, row.UserKey.key_id.hex()) for row in current]
        for row, (link, secret) in zip(
            current, links.create_all(session, issued, principal().label, hours), strict=True
        ):
            named = COPY_PREFIX + row.UserKey.key_id.hex()
            security.record(session, LINK_CREATED, link=link.link_id, copy_id=named)
            table.writerow((_cell(row.email), named, link_url(secret), utc(link.expires_at)))
    return saved(written.getvalue(), f"links-{first}-{last}.csv", "text/csv")


@pages.get("/<copy_id>")
@requires(Permission.READ_KEYS)
def show(copy_id: str) -> Answer:
    """One copy: its certificate, links, deliveries, and what can be done with it."""
    return _show(copy_id, Form())


@pages.get("/<copy_id>/certificate.json")
@requires(Permission.READ_KEYS)
def certificate(copy_id: str) -> Answer:
    """The signed certificate, to keep."""
    key = find_key(copy_id)
    named = COPY_PREFIX + key.row.key_id.hex()
    return saved(json.dumps(key.document, indent=2) + "\n", f"{named}.certificate.json", "application/json")


@pages.post("/<copy_id>/revoke")
@requires(Permission.REVOKE)
def revoke(copy_id: str) -> Answer:
    """Revoke a copy, with a reason."""
    form = Form.sent()
    reason = form.text("reason", longest=500)
    with form.refusals():
        if form.ok:
            keys.revoke(home(), copy_id, reason, principal().organisation)
            return done(
                url_for("copy_pages.show", copy_id=copy_id),
                "The copy is revoked. It is no longer delivered; images that it made stay attributable.",
                "warn",
            )
    return _show(copy_id, form, asked="revoke"), 422


@pages.post("/<copy_id>/links")
@requires(Permission.DOWNLOAD)
def add_link(copy_id: str) -> Answer:
    """Make a link; its address is shown this once."""
    form = Form.sent()
    hours = form.number("hours", 1, links.LONGEST_HOURS)
    with form.refusals():
        if form.ok:
            _, address = new_link(find_key(copy_id), hours)
            return _show(copy_id, Form(), address=address)
    return _show(copy_id, form, asked="link"), 422


@pages.post("/<copy_id>/links/<link_id>/withdraw")
@requires(Permission.DOWNLOAD)
def withdraw_link(copy_id: str, link_id: str) -> Answer:
    """Withdraw a link."""
    end_link(find_key(copy_id), link_id)
    return done(url_for("copy_pages.show", copy_id=copy_id) + "#links", "The link is withdrawn.")


@pages.get("/downloads")
@requires(Permission.DOWNLOAD)
def downloads() -> Answer:
    """Deliveries of the organisation's copies."""
    form = Form(request.args)
    chosen = deliveries.select_downloads(principal().organisation)
    if form.get("state") in [state for state, _ in _DELIVERY_STATES[1:]]:
        chosen = chosen.where(Download.state == form.get("state"))
    with home().database.read() as session:
        found = listing(session, chosen, Download.id)
        shown = found.each([deliveries.describe(row) for row in found])
    return render("copies/downloads.html", downloads=shown, form=form, states=_DELIVERY_STATES)


@pages.get("/downloads/<download_id>")
@requires(Permission.DOWNLOAD)
def download(download_id: str) -> Answer:
    """One delivery with its receipt."""
    row, key = settled(download_id)
    with home().database.read() as session:
        chosen = deliveries.select_downloads(principal().organisation).where(Download.id == row.id)
        described = deliveries.describe(session.execute(chosen).one())
        signed = countersignatures.find(session, home().identity.registry, row)
    receipt = receipt_of(row, key.row) if row.state == deliveries.DELIVERED else None
    return render("copies/download.html", download=described, receipt=receipt, countersignature=signed)


@pages.get("/downloads/<download_id>/receipt.json")
@requires(Permission.DOWNLOAD)
def receipt(download_id: str) -> Answer:
    """The signed receipt, to keep."""
    row, key = settled(download_id)
    document = receipt_of(row, key.row)
    return saved(json.dumps(document, indent=2) + "\n", f"{download_id}.receipt.json", "application/json")


def _show(copy_id: str, form: Form, asked: str = "", address: str = "") -> str:
    key = find_key(copy_id)
    who = principal()
    form.values.setdefault("hours", str(links.DEFAULT_HOURS))
    with home().database.read() as session:
        chosen = keys.select_keys(who.organisation).where(UserKey.id == key.row.id)
        row = session.execute(chosen).one()
        revocation = session.get(KeyRevocation, key.row.id)
        delivered = session.get(DeliveredCopy, key.row.id)
        made: list[Any] = []
        sent: list[Any] = []
        if Permission.DOWNLOAD in who.permissions:
            of_copy = select(DownloadLink).where(DownloadLink.user_key_id == key.row.id)
            made = list(session.execute(of_copy.order_by(DownloadLink.id.desc()).limit(_SHOWN)).scalars())
            latest = deliveries.select_downloads(who.organisation).where(Download.user_key_id == key.row.id)
            found = session.execute(latest.order_by(Download.id.desc()).limit(_SHOWN))
            sent = [deliveries.describe(entry) for entry in found]
    return render(
        "copies/show.html",
        copy=row.UserKey,
        copy_id=COPY_PREFIX + key.row.key_id.hex(),
        email=row.email if Permission.READ_RECIPIENTS in who.permissions else None,
        model=key.model,
        document=key.document,
        revocation=revocation,
        delivered=delivered,
        links=made,
        downloads=sent,
        form=form,
        asked=asked,
        address=address,
        now=unix_now(),
    )


def _issue_page(form: Form, many: bool = False, bad: Any = ()) -> str:
    with home().database.read() as session:
        owner = principal().organisation
        ready = [
            model.label for model in generators.models(session, owner) if generators.networks(session, model)
        ]
    form.values.setdefault("model", ready[-1] if len(ready) == 1 else "")
    return render("copies/issue.html", form=form, models=ready, many=many, bad=bad, columns=bulk.COLUMNS)


def _model_names(session: Session, owner: int) -> list[tuple[str, str]]:
    labels = select(Model.name, Model.version).where(Model.organisation_id == owner)
    rows = session.execute(labels.order_by(Model.name, Model.version.desc())).all()
    return [(f"{row.name}@{row.version}", f"{row.name}@{row.version}") for row in rows]


def _between(first: int, last: int) -> Any:
    chosen = keys.select_keys(principal().organisation)
    return chosen.where(UserKey.ledger_index >= first, UserKey.ledger_index <= last).order_by(
        UserKey.ledger_index
    )


def _range(first: str, last: str) -> tuple[int, int]:
    """Ledger numbers of two keys that were just issued."""
    ids = [bytes.fromhex(normal_key_id(key_id)) for key_id in (first, last)]
    with home().database.read() as session:
        found = session.execute(select(UserKey.ledger_index).where(UserKey.key_id.in_(ids))).scalars().all()
    return min(found), max(found)


def _cell(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in "=+-@\t\r" else text
