"""The C2PA Soft Binding Resolution API 1.0.0 under ``/c2pa/v1``.

Its description is C2PA's own document, so these routes are not in ours: parameters, statuses and bodies are
as it says. ``byContent`` uploads the image, which the registry reads itself and does not keep; whoever must
not send images asks ``byBinding`` with the readings that his own machine took (``docs/c2pa.md``).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any

from flask import Blueprint, Response, make_response, request
from werkzeug.exceptions import BadRequest, RequestURITooLarge, UnsupportedMediaType

from registry.accounts.permissions import Permission
from registry.api import problems
from registry.api.access import home, principal, public, requires
from registry.c2pa import service
from registry.c2pa.authority import Authority
from registry.c2pa.manifests import ALGORITHM
from registry.errors import InputError, NotFoundError, StateError
from verifier.errors import InputError as UnreadableError

c2pa = Blueprint("c2pa", __name__, url_prefix="/c2pa/v1")

MEDIA_TYPE = "application/c2pa"
LARGEST_UPLOAD = 32 << 20
LONGEST_VALUE = 4096
"""Characters of a binding value in a URL; longer ones are sent by POST."""

DEFAULT_RESULTS, MOST_RESULTS = 10, 1000
_MANIFEST_ID = re.compile(r"urn:c2pa:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(:[A-Za-z0-9._-]{1,64}){0,2}")


@c2pa.get("/matches/byBinding")
@requires(Permission.RESOLVE)
def match_by_binding() -> dict[str, Any]:
    """Manifests for a binding value in the URL."""
    value, algorithm = request.args.get("value"), request.args.get("alg")
    if value is None or algorithm is None:
        raise BadRequest("name the algorithm in `alg` and give the value in `value`.")
    if len(value) > LONGEST_VALUE:
        raise RequestURITooLarge("the value is too long for a URL: send it by POST.")
    # An unescaped + in a query string arrives as a space, which base64 has none of.
    return _matches_by_binding(algorithm, value.replace(" ", "+"))


@c2pa.post("/matches/byBinding")
@requires(Permission.RESOLVE)
def match_by_large_binding() -> dict[str, Any]:
    """Manifests for a binding value in the body."""
    body = request.get_json(silent=True)
    if not isinstance(body, dict) or not all(isinstance(body.get(name), str) for name in ("alg", "value")):
        raise BadRequest("send a JSON object with the texts `alg` and `value`.")
    return _matches_by_binding(body["alg"], body["value"])


@c2pa.post("/matches/byContent")
@requires(Permission.RESOLVE)
def match_by_content() -> dict[str, Any]:
    """Manifests for an uploaded image, which is read here and not kept."""
    most = _most_results()
    request.max_content_length = LARGEST_UPLOAD
    if not request.mimetype.startswith("image/"):
        raise UnsupportedMediaType("only images can be read.")
    data = request.get_data(cache=False)
    if request.args.get("alg", ALGORITHM) != ALGORITHM:
        return _result([], most)
    try:
        return _result(service.by_content(home(), principal(), data, _hinted_model()), most)
    except UnreadableError as error:
        raise UnsupportedMediaType(error.diagnostics()) from None


@c2pa.get("/manifests/<manifest_id>")
@requires(Permission.RESOLVE)
def get_manifest(manifest_id: str) -> Response:
    """A manifest store. It holds one manifest, so the active one is all of it."""
    if request.args.get("returnActiveManifest", "false") not in ("true", "false"):
        raise BadRequest("returnActiveManifest is true or false.")
    if not _MANIFEST_ID.fullmatch(manifest_id):
        raise BadRequest("this is no identifier of a C2PA manifest.")
    response = make_response(service.manifest(home(), principal(), manifest_id))
    response.mimetype = MEDIA_TYPE
    return response


@c2pa.get("/services/supportedAlgorithms")
@public
def supported_algorithms() -> dict[str, Any]:
    """The one algorithm of this registry."""
    # The published schema asks each watermark for a field `watermarks` or `fingerprints` beside `alg`.
    return {"watermarks": [{"alg": ALGORITHM, "watermarks": [ALGORITHM]}], "fingerprints": []}


@c2pa.get("/authority")
@public
def authority() -> Response:
    """The root certificate of this registry's claim signers (PEM), for validators to trust. Not C2PA's."""
    response = make_response(Authority.open(home()).root_pem)
    response.mimetype = "application/x-pem-file"
    return response


@c2pa.errorhandler(NotFoundError)
def _not_found(error: NotFoundError) -> Response:
    return problems.respond(404, str(error), error.hint)


@c2pa.errorhandler(InputError)
@c2pa.errorhandler(StateError)
def _invalid_value(error: InputError | StateError) -> Response:
    status = problems.status_of(error)
    return problems.respond(400 if status in (409, 422) else status, str(error), error.hint)


def _matches_by_binding(algorithm: str, value: str) -> dict[str, Any]:
    most = _most_results()
    if algorithm != ALGORITHM:
        return _result([], most)
    return _result(service.by_binding(home(), principal(), value), most)


def _result(manifests: list[str], most: int) -> dict[str, Any]:
    return {"matches": [{"manifestId": manifest} for manifest in manifests[:most]]}


def _most_results() -> int:
    text = request.args.get("maxResults", str(DEFAULT_RESULTS))
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise BadRequest("maxResults is a number from 1.")
    return min(int(text), MOST_RESULTS)


def _hinted_model() -> str | None:
    """The model that ``hintValue`` names under our algorithm; other hints are of no use here."""
    if request.args.get("hintAlg") != ALGORITHM:
        return None
    try:
        hint = json.loads(base64.b64decode(request.args.get("hintValue", ""), validate=True))
    except (ValueError, binascii.Error, RecursionError):
        return None
    model = hint.get("model") if isinstance(hint, dict) else None
    return model if isinstance(model, str) else None
