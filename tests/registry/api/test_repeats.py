from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select, update

from registry.api import repeats
from registry.api.document import Api
from registry.db import DAY_SECONDS, unix_now
from registry.home import Home
from registry.keys.models import UserKey
from registry.verification import verify_ledger
from tests.registry.api.client import Client, client

ORDER = {"model": "tiny", "recipient": "ada@example.org"}


def _issue(who: Client, key: str, order: dict[str, Any] = ORDER) -> Any:
    return who.post("/keys", json=order, headers={"Idempotency-Key": key})


def _issued(home: Home) -> int:
    with home.database.read() as session:
        return session.execute(select(func.count()).select_from(UserKey)).scalar_one()


def test_a_repeated_request_is_answered_as_the_first_and_not_done_again(admin: Client, ready: Home) -> None:
    first, again = _issue(admin, "order-1"), _issue(admin, "order-1")
    assert first.status_code == again.status_code == 201
    assert first.json == again.json
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert _issued(ready) == 1
    assert _issue(admin, "order-2").json != first.json
    verify_ledger(ready)


def test_equal_requests_at_once_are_done_once(app: Api, admin: Client, ready: Home) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: _issue(admin, "order-1"), range(6)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.get_data() for answer in answers}) == 1
    assert _issued(ready) == 1
    verify_ledger(ready)


def test_a_key_that_was_used_for_another_request_is_refused(admin: Client, ready: Home) -> None:
    _issue(admin, "order-1")
    refused = _issue(admin, "order-1", {**ORDER, "count": 2})
    assert refused.status_code == 409
    assert "another request" in refused.json["detail"]
    assert _issued(ready) == 1


def test_what_failed_may_be_tried_again_under_its_key(admin: Client, ready: Home) -> None:
    order = {**ORDER, "recipient": "new@example.org"}
    assert _issue(admin, "order-1", order).status_code == 404
    assert admin.post("/recipients", json={"email": "new@example.org"}).status_code == 201
    assert _issue(admin, "order-1", order).status_code == 201


def test_organisations_choose_their_keys_apart(app: Api, admin: Client, ready: Home) -> None:
    _issue(admin, "order-1")
    other = client(app, ready, organisation="other")
    assert _issue(other, "order-1").status_code == 404  # its own request, which names a model it has not
    assert _issue(admin, "é").status_code == 422


def test_answers_are_forgotten_after_a_while(
    admin: Client, ready: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeats, "_FORGOTTEN_AT_ONCE", 2)
    for number in range(5):
        _issue(admin, f"order-{number}")
    old = unix_now() - repeats.KEPT_DAYS * DAY_SECONDS - 1
    with ready.database.write() as session:
        chosen = update(repeats.IdempotencyKey).where(repeats.IdempotencyKey.key != "order-4")
        session.execute(chosen.values(created_at=old))
    assert repeats.forget_old(ready) == 4
    assert repeats.forget_old(ready) == 0
    assert _issue(admin, "order-4").headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in _issue(admin, "order-0").headers
    assert _issued(ready) == 6
