from __future__ import annotations

import re

from openapi_spec_validator import validate

from registry.accounts.permissions import Permission
from registry.api.access import PUBLIC, access_of
from registry.api.document import DOCUMENT, Api
from tests.registry.api.client import Client


def test_the_document_is_valid_openapi_and_served_to_everybody(app: Api) -> None:
    served = app.test_client().get(DOCUMENT)
    assert served.status_code == 200
    assert served.json["openapi"].startswith("3.1")
    validate(served.json)


def test_every_api_route_is_described_with_its_permission(app: Api) -> None:
    paths = app.test_client().get(DOCUMENT).json["paths"]
    for rule in app.url_map.iter_rules():
        if not rule.rule.startswith("/api/v1/"):
            continue
        path = re.sub(r"<(?:[^<:>]+:)?([^<>]+)>", r"{\1}", rule.rule)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            operation = paths[path][method.lower()]
            access = access_of(app.view_functions[rule.endpoint])
            if access == PUBLIC:
                assert operation["security"] == [], rule
            else:
                assert isinstance(access, Permission)
                assert f"`{access.value}`" in operation["description"], rule
                assert {"401", "403"} <= operation["responses"].keys(), rule
            assert operation["summary"], rule


def test_answers_can_be_asked_for_again_without_being_sent_again(admin: Client) -> None:
    first = admin.get("/models")
    assert admin.get("/models", headers={"If-None-Match": first.headers["ETag"]}).status_code == 304
    assert first.headers["Cache-Control"] == "no-store"
    admin.post("/keys", json={"model": "tiny", "recipient": "ada@example.org"})
    assert admin.get("/models", headers={"If-None-Match": first.headers["ETag"]}).status_code == 200
