"""The application class: flask-openapi3 with what every operation of this API has in common.

The OpenAPI 3.1 document is generated from the routes. Here it gains what their decorators know: security,
permissions, the refusals that any request can meet, the headers that every response carries.
"""

from __future__ import annotations

import re
from importlib.metadata import version
from typing import Any

from flask import current_app, request
from flask.json.provider import DefaultJSONProvider
from flask_openapi3 import APIBlueprint, Info, OpenAPI
from werkzeug.exceptions import BadRequest, UnsupportedMediaType

from registry.accounts.permissions import Permission
from registry.api import problems
from registry.api.access import PUBLIC, SECURITY_SCHEMES, access_of, public
from registry.api.repeats import HEADER

DOCUMENT = "/api/openapi.json"
_PROBLEM = {"$ref": "#/components/schemas/ProblemDetails"}
_ALWAYS = {
    "400": "Malformed",
    "422": "Does not fit its description",
    "429": "Too many requests",
    "503": "Not available",
}
_GUARDED = {"401": "Not authenticated", "403": "Permission is lacking"}
_WITH_BODY = {"413": "Too large", "415": "Another media type is needed"}


class Json(DefaultJSONProvider):
    """JSON as all routes read and write it."""

    sort_keys = False

    def loads(self, s: str | bytes, **options: Any) -> Any:
        """``ValueError`` for what is no JSON, and for what is nested deeper than anything that is meant."""
        try:
            return super().loads(s, **options)
        except RecursionError:
            raise ValueError("nested too deeply") from None


class Api(OpenAPI):
    """The Flask application."""

    def __init__(self, name: str) -> None:
        super().__init__(
            name,
            info=Info(
                title="Hallmark registry",
                version=version("hallmark"),
                description="Register generative image models, issue fingerprinted copies, keep the ledger, "
                "and resolve what attribution networks read off suspect images.",
            ),
            security_schemes=SECURITY_SCHEMES,
            doc_ui=False,
            validation_error_model=problems.ProblemDetails,
            validation_error_callback=problems.invalid,
            operation_id_callback=lambda *, bp_name, name, path, method: f"{bp_name}.{name}",
            static_folder=None,
        )

    def register_api(self, api: APIBlueprint, **options: Any) -> None:
        """Register a feature's routes; ``RuntimeError`` where two schemas would share a name."""
        for name, schema in api.components_schemas.items():
            if self.components_schemas.get(name, schema) != schema:
                raise RuntimeError(f"{api.name}: another schema is called {name} already")
        super().register_api(api, **options)

    def generate_spec_json(self) -> None:
        """Build the document and complete every operation from its view."""
        super().generate_spec_json()  # type: ignore[no-untyped-call]
        self.spec_json["components"]["schemas"].update(problems.document_schema())
        for rule in self.url_map.iter_rules():
            path = re.sub(r"<(?:[^<:>]+:)?([^<>]+)>", r"{\1}", rule.rule)
            for method in rule.methods or ():
                operation = self.spec_json["paths"].get(path, {}).get(method.lower())
                if operation is not None:
                    _complete(operation, access_of(self.view_functions[rule.endpoint]), "{" in path)


def _complete(operation: dict[str, Any], access: Permission | str | None, named: bool) -> None:
    statuses = dict(_ALWAYS)
    if access == PUBLIC:
        operation["security"] = []
    elif isinstance(access, Permission):
        statuses |= _GUARDED
        operation["security"] = [{scheme: []} for scheme in SECURITY_SCHEMES]
        said = operation.get("description") or ""
        operation["description"] = f"{said}\n\nPermission: `{access.value}`.".strip()
    if "requestBody" in operation:
        statuses |= _WITH_BODY
    if named:
        statuses["404"] = "There is no such thing, or not for you"
    if any(parameter.get("name") == HEADER for parameter in operation.get("parameters", ())):
        statuses["409"] = f"This {HEADER} was used for another request"
    responses = operation["responses"]
    for status, description in statuses.items():
        if status == "422" or status not in responses:
            responses[status] = problem(description)
    for response in responses.values():
        response.setdefault("headers", {})["X-Request-Id"] = {"schema": {"type": "string"}}


def problem(description: str) -> dict[str, Any]:
    """A documented refusal, for the ``responses`` of a route that has one of its own."""
    return {"description": description, "content": {problems.MEDIA_TYPE: {"schema": _PROBLEM}}}


def serve_document(app: Api) -> None:
    """Serve the OpenAPI document."""

    @app.route(DOCUMENT)
    @public
    def openapi_document() -> dict[str, Any]:
        return app.api_doc


def check_json() -> None:
    """A body that is promised to be JSON must say so and be so, before anything is made of it."""
    if request.endpoint is None or request.method not in ("POST", "PUT", "PATCH", "DELETE"):
        return
    view = current_app.view_functions[request.endpoint]
    if "body" not in getattr(view, "__annotations__", {}):
        return
    if not request.is_json:
        raise UnsupportedMediaType("send the body as application/json.")
    try:
        request.get_json()
    except BadRequest:
        raise BadRequest("the body is not JSON.") from None
