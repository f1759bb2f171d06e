"""Check on your device: the page, what it fetches, and what is said about the readings that it sends."""

from __future__ import annotations

from os import SEEK_END

from flask import Blueprint, Response, make_response, request
from pydantic import ValidationError

from registry.accounts.permissions import Permission
from registry.api.access import home, principal, requires
from registry.api.files import attachment
from registry.api.problems import Problem
from registry.console.assets import Assets
from registry.console.page import allow_wasm, render
from registry.device import service
from registry.resolve import service as resolving
from registry.resolve.requests import ResolveRequest
from registry.serving.metrics import RESOLVES
from verifier import words
from verifier.finding import OnlineFinding
from verifier.typed import load

pages = Blueprint("device_pages", __name__, url_prefix="/console/device", template_folder="templates")


@pages.get("")
@requires(Permission.RESOLVE)
def index() -> str:
    """Drop an image; it is read in the browser."""
    allow_wasm()
    with home().database.read() as session:
        readable = service.networks(session, principal().organisation)
    return render("device/index.html", networks=readable, runtime=Assets.load().folder("onnxruntime"))


@pages.get("/networks/<digest>/<name>")
@requires(Permission.RESOLVE)
def network(digest: str, name: str) -> Response:
    """A file of a network that its reader may resolve with."""
    with home().database.read() as session:
        stored = service.file(session, principal().organisation, digest, name)
    content = home().storage.open(stored)
    size = content.seek(0, SEEK_END)
    content.seek(0)
    response = attachment(content, size, "application/octet-stream", name)
    response.headers["Cache-Control"] = "private, max-age=86400"  # the digest in its name is its contents'
    return response


@pages.post("/resolve")
@requires(Permission.RESOLVE)
def resolve() -> Response:
    """What the readings of one image say, as a part of the page."""
    try:
        body = ResolveRequest.model_validate_json(request.get_data())
    except ValidationError:
        raise Problem(422, "these are no readings of an image.", "Reload the page.") from None
    answer = resolving.resolve(home(), principal(), body.query())
    RESOLVES.labels(answer.document["verdict"]).inc()
    # Not `parse`: that asks for the image's digest and the time it took, of which nobody here was told.
    told = {name: value for name, value in answer.document.items() if name not in ("schema", "source")}
    found = load(OnlineFinding, told | {"elapsed_ms": 0}, "the finding")
    return make_response(render("device/finding.html", finding=found, words=words))
