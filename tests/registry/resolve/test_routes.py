from __future__ import annotations

import numpy as np
import pytest

from registry.accounts.permissions import Role
from registry.app import create_app
from registry.home import Home
from registry.keys import service as keys
from registry.resolve import budgets
from tests.registry.resolve.support import QUANTA, caller, issue, network, query, signs
from tests.registry.support import BITS, MODEL, RECIPIENT


def test_readings_of_a_copy_name_it(ready: Home) -> None:
    app = create_app(ready)
    first, second, third = issue(ready, 3)
    auditor = caller(ready, app)
    keys.revoke(ready, second, "leaked")
    answer = auditor.post("/resolve", query(ready, QUANTA * signs(ready, second), alpha=1e-6))
    assert answer.status_code == 200, answer.json
    found = answer.json
    assert found["schema"] == "hallmark/finding/1"
    assert found["verdict"] == "attributed"
    assert (found["provisional"], found["source"]) == (True, "client logits")
    (copy,) = found["copies"]
    assert (copy["id"], copy["key_id"], copy["revoked"]) == (f"copy-{second}", second, True)
    assert copy["recipient"] is None  # an auditor's role does not include recipients
    assert (copy["matching_bits"], copy["log10_p"], copy["log10_p_family"]) == (None, None, None)
    assert found["model"]["name"] == MODEL
    assert found["evidence"] == {"bits": BITS, "hypotheses": 3, "alpha": 1e-6, "groups": 1}
    assert found["ledger"]["verified"]
    with ready.database.read() as session:
        assert found["ledger"]["index"] == keys.get_key(session, "", second).row.ledger_index
    admin = caller(ready, app, role=Role.ADMIN)
    named = admin.post("/resolve", query(ready, QUANTA * signs(ready, third))).json["copies"]
    assert [(copy["key_id"], copy["recipient"]) for copy in named] == [(third, RECIPIENT)]
    assert first not in {copy["key_id"] for copy in named}


def test_images_that_contradict_each_other_get_no_verdict_and_are_paid_for(ready: Home) -> None:
    app = create_app(ready)
    first, second = issue(ready, 2)
    auditor = caller(ready, app)
    asked = query(ready)
    asked["images"] = [
        {"path": f"{name}.png", "readings": [(QUANTA * signs(ready, key)).tolist()]}
        for name, key in (("a", first), ("b", first), ("c", second), ("d", second))
    ]
    found = auditor.post("/resolve", asked).json
    assert (found["verdict"], found["copies"], found["model"]) == ("not-attributed", [], None)
    assert found["ledger"]["index"] is None
    # One pair that contradicts itself and no more: more bits would be more than was paid for.
    alone = [image["alone"] for image in found["images"]]
    assert alone == [[f"copy-{first}"], [], [f"copy-{second}"], []]
    (logged,) = caller(ready, app, role=Role.ADMIN).get("/resolutions").json["items"]
    assert (logged["verdict"], logged["units"]) == ("not-attributed", 4 + 2 * budgets.NAMED)
    asked["images"] = asked["images"][:2]
    found = auditor.post("/resolve", asked).json
    assert (found["verdict"], [copy["key_id"] for copy in found["copies"]]) == ("attributed", [first])
    assert [image["alone"] for image in found["images"]] == [[f"copy-{first}"], []]


def test_below_alpha_nothing_is_said(ready: Home) -> None:
    app = create_app(ready)
    (key,) = issue(ready)
    auditor = caller(ready, app)
    near = signs(ready, key)
    near[:6] *= -1  # 26 of 32 bits: p is about 2e-4
    rng = np.random.default_rng(0)
    answers = [
        auditor.post("/resolve", query(ready, reading)).json
        for reading in (QUANTA * near, rng.integers(-QUANTA, QUANTA + 1, BITS), np.zeros(BITS))
    ]
    for answer in answers:
        answer.pop("resolution")
    assert answers[0] == answers[1] == answers[2]
    assert answers[0]["verdict"] == "not-attributed"
    assert answers[0]["copies"] == []
    assert answers[0]["model"] is answers[0]["elapsed_ms"] is answers[0]["ledger"]["index"] is None


def test_keys_issued_after_a_query_are_found_by_the_next(ready: Home) -> None:
    app = create_app(ready)
    auditor = caller(ready, app)
    nothing = auditor.post("/resolve", query(ready, np.full(BITS, QUANTA)))
    assert nothing.json["verdict"] == "not-attributed"
    for _ in range(3):
        (key,) = issue(ready)
        found = auditor.post("/resolve", query(ready, QUANTA * signs(ready, key))).json
        assert [copy["key_id"] for copy in found["copies"]] == [key]


def test_one_good_reading_among_many_is_enough_and_paid_for(ready: Home) -> None:
    app = create_app(ready)
    issue(ready, 5)
    (key,) = issue(ready)
    auditor = caller(ready, app)
    rng = np.random.default_rng(1)
    windows = [rng.integers(-QUANTA, QUANTA + 1, BITS) for _ in range(20)]
    asked = query(ready, *windows, 100 * signs(ready, key))
    found = auditor.post("/resolve", asked).json
    assert found["verdict"] == "attributed"
    assert found["evidence"]["hypotheses"] == 6 * 21
    # With 31 of 32 bits right the same reading suffices alone, but not as one of 21.
    asked["alpha"] = 1e-7
    near = signs(ready, key)
    near[0] *= -1
    alone = query(ready, 100 * near, alpha=1e-7)
    assert auditor.post("/resolve", alone).json["verdict"] == "attributed"


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"model": "absent"}, 404),
        ({"model": "Other Org/tiny"}, 404),
        ({"network": "0" * 64}, 409),
        ({"alpha": 1e-3}, 422),
        ({"alpha": 0}, 422),
        ({"groups": 0}, 422),
        ({"images": []}, 422),
        ({"images": [{"readings": [[0] * 8]}]}, 422),
        ({"images": [{"readings": [[QUANTA + 1] * BITS]}]}, 422),
        ({"images": [{"readings": [[0.5] * BITS]}]}, 422),
        ({"images": [{"readings": [["1"] * BITS]}]}, 422),
        ({"more": 1}, 422),
    ],
)
def test_what_cannot_be_asked_is_refused(sqlite_ready: Home, change: dict, status: int) -> None:
    auditor = caller(sqlite_ready, create_app(sqlite_ready))
    answer = auditor.post("/resolve", {**query(sqlite_ready, np.zeros(BITS)), **change})
    assert answer.status_code == status, answer.json
    assert answer.mimetype == "application/problem+json"


def test_only_auditors_and_administrators_resolve(sqlite_ready: Home) -> None:
    app = create_app(sqlite_ready)
    for role, status in ((Role.VIEWER, 403), (Role.ISSUER, 403), (Role.AUDITOR, 200), (Role.ADMIN, 200)):
        answer = caller(sqlite_ready, app, role=role).post("/resolve", query(sqlite_ready, np.zeros(BITS)))
        assert answer.status_code == status
    assert app.test_client().post("/api/v1/resolve", json={}).status_code == 401


def test_models_that_may_be_asked_about_are_listed_with_their_networks(ready: Home) -> None:
    app = create_app(ready)
    auditor = caller(ready, app)
    (model,) = auditor.get("/resolvable-models").json["items"]
    assert (model["model"], model["granted"]) == ("tiny@1", False)
    (described,) = model["networks"]
    assert described["package"] == network(ready)
    assert (described["bits"], described["largest_logit"], described["quantum"]) == (BITS, QUANTA, 0.0625)
    asked = query(ready, np.zeros(BITS), network=described["digest"], model=model["model"])
    assert auditor.post("/resolve", asked).status_code == 200
    assert auditor.get("/resolvable-models").json["items"][0]["units_spent"] == 1


def test_every_query_is_logged_without_its_logits(ready: Home) -> None:
    app = create_app(ready)
    (key,) = issue(ready)
    auditor, admin = caller(ready, app), caller(ready, app, role=Role.ADMIN)
    reading = QUANTA * signs(ready, key)
    auditor.post("/resolve", query(ready, reading))
    auditor.post("/resolve", query(ready, np.zeros(BITS)))
    entries = admin.get("/resolutions").json["items"]
    assert [entry["verdict"] for entry in entries] == ["not-attributed", "attributed"]
    assert {entry["organisation"] for entry in entries} == {"own"}
    assert entries[1]["units"] == 21
    assert len({entry["logits_sha256"] for entry in entries}) == 2
    first = admin.get("/resolutions?limit=1").json
    second = admin.get(f"/resolutions?limit=1&after={first['next']}").json
    assert (first["items"] + second["items"], second["next"]) == (entries, None)
    assert auditor.get("/resolutions").status_code == 403
