from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from registry.api.pages import PageQuery, encode
from registry.home import Home
from registry.keys.service import Issuer
from tests.registry.api.client import Client
from tests.registry.support import MODEL, RECIPIENT


def test_pages_cover_a_list_once_while_it_grows(admin: Client, ready: Home) -> None:
    issuer = Issuer.open(ready, MODEL, RECIPIENT)
    issued = {document["key_id"] for document in issuer.issue(7)}
    seen: list[str] = []
    cursor = ""
    while True:
        found = admin.get(f"/keys?limit=3{cursor}").json
        seen += [item["key_id"] for item in found["items"]]
        issuer.issue(1)  # newer ones come before the pages that follow
        if found["next"] is None:
            break
        cursor = f"&after={found['next']}"
    assert len(seen) == 7
    assert set(seen) == issued


def test_the_last_page_that_is_just_full_has_no_next(admin: Client, ready: Home) -> None:
    Issuer.open(ready, MODEL, RECIPIENT).issue(3)
    assert admin.get("/keys?limit=3").json["next"] is None


def test_lists_can_be_narrowed(admin: Client, ready: Home) -> None:
    Issuer.open(ready, MODEL, RECIPIENT).issue(2)
    assert len(admin.get("/keys?model=tiny@1&recipient=ada@example.org").json["items"]) == 2
    assert admin.get("/keys?model=other").status_code == 404


def test_limits_and_unknown_parameters_are_refused(admin: Client) -> None:
    for query in ("limit=0", "limit=201", "limit=x", "after=", "after=zz", "page=2"):
        assert admin.get(f"/keys?{query}").status_code == 422, query


@given(st.integers(0, 2**63 - 1))
def test_every_number_has_a_cursor(number: int) -> None:
    assert int(PageQuery(after=encode(number)).after or "", 16) == number
