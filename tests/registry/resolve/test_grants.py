from __future__ import annotations

import json

import numpy as np
import pytest
from sqlalchemy import select, update

from registry.accounts.models import SecurityEvent
from registry.accounts.permissions import Role
from registry.app import create_app
from registry.generators import service as generators
from registry.home import Home
from registry.resolve.models import ResolveGrant
from tests.registry.resolve.support import QUANTA, Caller, caller, issue, organisation, query, signs
from tests.registry.support import BITS, MODEL, RECIPIENT

AUDITORS = "Auditors & Sons/West"
"""An organisation's name is free text: the last slash of a reference counts."""

GRANTED = f"default/{MODEL}"


def grant(admin: Caller, name: str = AUDITORS, **fields: object) -> dict:
    answer = admin.post("/grants", {"model": MODEL, "organisation": name, **fields})
    assert answer.status_code == 201, answer.json
    return answer.json


def test_an_auditor_sees_pseudonyms_and_never_recipients(ready: Home) -> None:
    app = create_app(ready)
    admin, auditor = caller(ready, app, role=Role.ADMIN), caller(ready, app, AUDITORS, Role.ADMIN)
    keys = issue(ready, 2)
    asked = query(ready, QUANTA * signs(ready, keys[1]), model=GRANTED)
    assert auditor.post("/resolve", asked).status_code == 404  # no grant yet
    grant(admin)
    found = auditor.post("/resolve", asked).json
    assert found["verdict"] == "attributed"
    (copy,) = found["copies"]
    assert copy["key_id"] not in keys
    assert (copy["id"], copy["sha256"], copy["recipient"], copy["issued_at"]) == (None,) * 4
    assert found["ledger"]["index"] is None
    said = json.dumps(found)
    assert RECIPIENT not in said
    assert not any(key in said for key in keys)
    again = auditor.post("/resolve", asked).json["copies"]
    assert again == [copy]  # the same key has the same pseudonym
    (listed,) = auditor.get("/resolvable-models").json["items"]
    assert (listed["model"], listed["owner"], listed["granted"]) == (f"{GRANTED}@1", "default", True)


def test_two_auditors_cannot_compare_their_pseudonyms(ready: Home) -> None:
    app = create_app(ready)
    admin = caller(ready, app, role=Role.ADMIN)
    (key,) = issue(ready)
    asked = query(ready, QUANTA * signs(ready, key), model=GRANTED)
    shown = []
    for name in ("one", "two"):
        auditor = caller(ready, app, name)
        grant(admin, name)
        shown.append(auditor.post("/resolve", asked).json["copies"][0]["key_id"])
    assert shown[0] != shown[1]


def test_a_grant_ends_when_it_is_withdrawn_or_expires(ready: Home) -> None:
    app = create_app(ready)
    admin, auditor = caller(ready, app, role=Role.ADMIN), caller(ready, app, AUDITORS)
    asked = query(ready, np.zeros(BITS), model=GRANTED)
    first = grant(admin, expires_days=30)
    assert auditor.post("/resolve", asked).status_code == 200
    assert admin.post("/grants", {"model": MODEL, "organisation": AUDITORS}).status_code == 409
    assert admin.request("DELETE", f"/grants/{first['id']}").status_code == 204
    assert admin.request("DELETE", f"/grants/{first['id']}").status_code == 204
    assert auditor.post("/resolve", asked).status_code == 404
    assert auditor.get("/resolvable-models").json["items"] == []
    second = grant(admin, expires_days=30)
    assert auditor.post("/resolve", asked).status_code == 200
    with ready.database.write() as session:
        session.execute(
            update(ResolveGrant).where(ResolveGrant.grant_id == second["id"]).values(expires_at=1)
        )
    assert auditor.post("/resolve", asked).status_code == 404
    listed = admin.get("/grants").json["items"]
    assert [entry["id"] for entry in listed] == [second["id"], first["id"]]
    assert listed[1]["withdrawn_at"] is not None
    assert admin.get(f"/grants/{first['id']}").json == listed[1]


def test_grants_are_their_givers_business(ready: Home) -> None:
    app = create_app(ready)
    admin, other = caller(ready, app, role=Role.ADMIN), caller(ready, app, AUDITORS, Role.ADMIN)
    made = grant(admin)
    assert other.get("/grants").json["items"] == []
    assert other.get(f"/grants/{made['id']}").status_code == 404
    assert other.request("DELETE", f"/grants/{made['id']}").status_code == 404
    assert other.post("/grants", {"model": MODEL, "organisation": "default"}).status_code == 404
    assert admin.post("/grants", {"model": MODEL, "organisation": "nobody"}).status_code == 404
    assert admin.post("/grants", {"model": MODEL, "organisation": "default"}).status_code == 409
    assert caller(ready, app).post("/grants", {"model": MODEL, "organisation": AUDITORS}).status_code == 403
    with ready.database.read() as session:
        kinds = list(session.execute(select(SecurityEvent.kind)).scalars())
    assert "grant.created" in kinds


def test_a_later_version_needs_a_grant_of_its_own(ready: Home, tiny) -> None:
    app = create_app(ready)
    admin, auditor = caller(ready, app, role=Role.ADMIN), caller(ready, app, AUDITORS)
    grant(admin)
    generators.add_model(
        ready, MODEL, "latent-diffusion", str(tiny.weights), generators.SchemeOptions(strength=0.25)
    )
    assert [model["model"] for model in auditor.get("/resolvable-models").json["items"]] == [f"{GRANTED}@1"]
    assert len(admin.get("/resolvable-models").json["items"]) == 2


@pytest.mark.parametrize("approve", [True, False])
def test_a_recipient_is_told_after_the_distributor_agreed(ready: Home, approve: bool) -> None:
    app = create_app(ready)
    admin, auditor = caller(ready, app, role=Role.ADMIN), caller(ready, app, AUDITORS)
    stranger = caller(ready, app, "strangers", Role.ADMIN)
    (key,) = issue(ready)
    grant(admin)
    found = auditor.post("/resolve", query(ready, QUANTA * signs(ready, key), model=GRANTED)).json
    pseudonym = found["copies"][0]["key_id"]
    wanted = {"resolution": found["resolution"], "key_id": pseudonym, "reason": "case 17"}
    assert stranger.post("/unmaskings", wanted).status_code == 404
    assert auditor.post("/unmaskings", {**wanted, "key_id": key}).status_code == 404
    made = auditor.post("/unmaskings", wanted)
    assert made.status_code == 201, made.json
    assert (made.json["state"], made.json["recipient"]) == ("pending", None)
    assert auditor.post("/unmaskings", wanted).status_code == 409
    path = f"/unmaskings/{made.json['id']}"
    decision = {"approve": approve, "note": "as agreed"}
    assert auditor.get(path).json["recipient"] is None
    assert stranger.get(path).status_code == 404
    assert stranger.get("/unmaskings").json["items"] == []
    assert auditor.post(f"{path}/decision", decision).status_code == 403
    assert stranger.post(f"{path}/decision", decision).status_code == 404
    auditing_admin = caller(ready, app, AUDITORS, Role.ADMIN)
    assert auditing_admin.post(f"{path}/decision", decision).status_code == 404  # not theirs to decide
    assert admin.post(f"{path}/decision", decision).json["state"] == ("approved" if approve else "denied")
    assert admin.post(f"{path}/decision", decision).status_code == 409
    shown = auditor.get(path).json
    own_auditor = caller(ready, app)  # of the distributor, whom nobody told
    assert own_auditor.get(path).json["recipient"] is None
    if approve:
        assert (shown["recipient"]["email"], shown["recipient"]["key_id"]) == (RECIPIENT, key)
        assert admin.get(path).json["recipient"]["email"] == RECIPIENT
    else:
        assert shown["recipient"] is None
        assert auditor.post("/unmaskings", wanted).status_code == 201  # with better reasons
    assert all(entry["recipient"] is None for entry in auditor.get("/unmaskings").json["items"])
    with ready.database.read() as session:
        events = session.execute(select(SecurityEvent.kind, SecurityEvent.organisation_id)).all()
    owner, asking = organisation(ready, "default"), organisation(ready, AUDITORS)
    for kind in ["unmasking.requested", "unmasking.decided", *(["unmasking.shown"] if approve else [])]:
        assert {number for logged, number in events if logged == kind} == {owner, asking}


def test_an_organisations_own_auditor_asks_in_the_same_way(ready: Home) -> None:
    app = create_app(ready)
    auditor, admin = caller(ready, app), caller(ready, app, role=Role.ADMIN)
    (key,) = issue(ready)
    found = auditor.post("/resolve", query(ready, QUANTA * signs(ready, key))).json
    wanted = {"resolution": found["resolution"], "key_id": key, "reason": "an inquiry"}
    made = auditor.post("/unmaskings", wanted).json
    admin.post(f"/unmaskings/{made['id']}/decision", {"approve": True})
    assert auditor.get(f"/unmaskings/{made['id']}").json["recipient"]["email"] == RECIPIENT


def test_a_distributor_sees_who_asked_about_his_models_and_nobody_elses(ready: Home) -> None:
    app = create_app(ready)
    admin, auditor = caller(ready, app, role=Role.ADMIN), caller(ready, app, AUDITORS)
    grant(admin)
    auditor.post("/resolve", query(ready, np.zeros(BITS), model=GRANTED))
    (entry,) = admin.get("/resolutions").json["items"]
    assert entry["organisation"] == "granted"
    stranger = caller(ready, app, "strangers", Role.ADMIN)
    assert stranger.get("/resolutions").json["items"] == []
