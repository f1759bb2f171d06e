"""The C2PA Soft Binding Resolution API, every answer held against the published document."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import pytest
from cryptography import x509
from jsonschema import Draft202012Validator, ValidationError
from openapi_schema_validator import OAS30Validator
from PIL import Image
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT4

from registry.accounts.permissions import Role
from registry.app import create_app
from registry.c2pa import manifests
from registry.c2pa.authority import Authority
from registry.home import Home
from tests.registry.resolve.support import QUANTA, Caller, caller, issue, query, signs
from tests.registry.support import MODEL, RECIPIENT, SIDE

DOCUMENT = json.loads(
    (Path(__file__).parents[2] / "interop/c2pa/softbinding-resolution-api-1.0.0.json").read_text()
)
ALGORITHM = manifests.ALGORITHM


def validator(reference: str) -> OAS30Validator:
    """Of the schema that the document has at this place."""
    known = Registry().with_resource("urn:document", Resource(DOCUMENT, DRAFT4))
    return OAS30Validator({"$ref": f"urn:document{reference}"}, registry=known)


def conforms(path: str, method: str, answer: Any) -> Any:
    """The answer, once it is what the published document says."""
    responses = DOCUMENT["paths"][path][method]["responses"]
    assert str(answer.status_code) in responses, (answer.status_code, answer.get_data())
    content = responses[str(answer.status_code)].get("content", {})
    if content:
        assert answer.mimetype in content
        if schema := content[answer.mimetype].get("schema"):
            validator(schema["$ref"]).validate(answer.json)
    return answer


def value(content: Any) -> str:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.b64encode(raw).decode()


def by_binding(asker: Caller, content: Any, **parameters: Any) -> list[str]:
    answer = asker.request(
        "POST",
        "/c2pa/v1/matches/byBinding",
        {"alg": ALGORITHM, "value": value(content)},
        query_string=parameters,
    )
    conforms("/matches/byBinding", "post", answer)
    assert answer.status_code == 200, answer.json
    return [match["manifestId"] for match in answer.json["matches"]]


def by_content(asker: Caller, data: bytes, mimetype: str = "image/png", **parameters: Any) -> Any:
    answer = asker.client.post(
        "/c2pa/v1/matches/byContent",
        data=data,
        content_type=mimetype,
        query_string=parameters,
        headers={"Authorization": f"Bearer {asker.token}"},
    )
    return conforms("/matches/byContent", "post", answer)


def fetch(asker: Caller, manifest_id: str) -> Any:
    answer = asker.get(f"/c2pa/v1/manifests/{manifest_id}")
    return conforms("/manifests/{manifestId}", "get", answer)


def picture(home: Home, key_id: str) -> bytes:
    """A PNG that the tiny network reads as this key: the least change of grey that does.

    The network is one linear map W of the pixels, so it takes solving W'x = logits.
    """
    import onnx
    from onnx import numpy_helper

    from registry.generators import service as generators

    with home.database.read() as session:
        row = generators.newest_network(session, generators.get_model(session, MODEL))
    with home.storage.local(generators.network_name(row)) as folder:
        (weight,) = [
            numpy_helper.to_array(entry)
            for entry in onnx.load(folder / "network.onnx").graph.initializer
            if entry.name == "weight"
        ]
    grey = np.full(weight.shape[0], 128.0)
    change = np.linalg.lstsq(weight.T, 6.0 * signs(home, key_id) - grey @ weight, rcond=None)[0]
    pixels = np.rint(np.clip(grey + change, 0, 255)).astype(np.uint8).reshape(SIDE, SIDE, 3)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def trusted(ready: Home) -> Iterator[c2pa.Context]:
    """A validator that trusts this registry's root and nothing else, from what the registry serves."""
    root = create_app(ready).test_client().get("/c2pa/v1/authority").get_data(as_text=True)
    with c2pa.Context.from_dict({"trust": {"trust_anchors": root}, "verify": {"verify_trust": True}}) as made:
        yield made


def test_an_image_of_a_copy_leads_to_the_validated_manifest_of_its_model(
    ready: Home, trusted: c2pa.Context
) -> None:
    app = create_app(ready)
    first, key = issue(ready, 2)
    auditor = caller(ready, app)
    answer = by_content(auditor, picture(ready, key))
    (manifest_id,) = [match["manifestId"] for match in answer.json["matches"]]
    store = fetch(auditor, manifest_id)
    assert store.mimetype == "application/c2pa"

    binding = Authority.open(ready).binding(bytes.fromhex(key))
    reader = c2pa.Reader(
        "text/plain", io.BytesIO(base64.b64encode(binding)), store.get_data(), context=trusted
    )
    with reader:
        assert reader.get_validation_state() == "Trusted"
        claim = reader.get_active_manifest()
    assert claim["label"] == manifest_id
    assertions = {entry["label"]: entry["data"] for entry in claim["assertions"]}
    (action,) = assertions["c2pa.actions.v2"]["actions"]
    assert action["action"] == "c2pa.created"
    assert action["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
    assert action["softwareAgent"] == {"name": MODEL, "version": "1"}
    bound = assertions["c2pa.soft-binding"]
    assert (bound["alg"], bound["blocks"][0]["value"]) == (ALGORITHM, value(binding))
    assert assertions["org.hallmark.model"]["distributor"] == "default"

    # The value found in a manifest leads back to it, and so do readings taken elsewhere.
    assert by_binding(auditor, binding) == [manifest_id]
    assert by_binding(auditor, query(ready, QUANTA * signs(ready, key))) == [manifest_id]
    (other,) = by_binding(auditor, query(ready, QUANTA * signs(ready, first)))
    assert other != manifest_id


def test_a_manifest_holds_neither_key_nor_recipient(ready: Home) -> None:
    app = create_app(ready)
    (key,) = issue(ready)
    (manifest_id,) = by_binding(caller(ready, app), query(ready, QUANTA * signs(ready, key)))
    store = fetch(caller(ready, app), manifest_id).get_data()
    packed = np.packbits(signs(ready, key) > 0).tobytes()
    for secret in (bytes.fromhex(key), key.encode(), packed, packed.hex().encode(), RECIPIENT.encode()):
        assert secret not in store
    assert value(packed).encode() not in store


def test_a_manifest_is_built_once(ready: Home) -> None:
    app = create_app(ready)
    (key,) = issue(ready)
    asked = query(ready, QUANTA * signs(ready, key))
    first = by_binding(caller(ready, app), asked)
    assert by_binding(caller(ready, app), asked) == first
    stores = {fetch(caller(ready, app), first[0]).get_data() for _ in range(2)}
    assert len(stores) == 1


def test_another_registry_does_not_validate_it(sqlite_ready: Home, tmp_path: Path) -> None:
    ready = sqlite_ready
    Home.create(tmp_path / "other")
    other = Home.open(tmp_path / "other")
    app = create_app(ready)
    (key,) = issue(ready)
    (manifest_id,) = by_binding(caller(ready, app), query(ready, QUANTA * signs(ready, key)))
    store = fetch(caller(ready, app), manifest_id).get_data()
    asset = base64.b64encode(Authority.open(ready).binding(bytes.fromhex(key)))
    with c2pa.Context.from_dict(manifests.settings(Authority.open(other))) as context:
        with c2pa.Reader("text/plain", io.BytesIO(asset), store, context=context) as reader:
            assert reader.get_validation_state() != "Trusted"
        with c2pa.Reader("text/plain", io.BytesIO(asset + b"="), store, context=context) as reader:
            assert reader.get_validation_state() == "Invalid"
    other.close()


def test_below_alpha_there_are_no_matches(ready: Home) -> None:
    app = create_app(ready)
    (key,) = issue(ready)
    auditor = caller(ready, app)
    near = signs(ready, key)
    near[:6] *= -1
    assert by_binding(auditor, query(ready, QUANTA * near)) == []
    grey = io.BytesIO()
    Image.new("RGB", (64, 48), "gray").save(grey, "JPEG")
    assert by_content(auditor, grey.getvalue(), "image/jpeg").json == {"matches": []}
    assert by_binding(auditor, bytes(32)) == []


def test_manifests_belong_to_whoever_may_resolve_on_the_model(ready: Home) -> None:
    app = create_app(ready)
    (key,) = issue(ready)
    admin, stranger = caller(ready, app, role=Role.ADMIN), caller(ready, app, "strangers")
    asked = query(ready, QUANTA * signs(ready, key))
    (manifest_id,) = by_binding(admin, asked)
    binding = Authority.open(ready).binding(bytes.fromhex(key))
    granted = {**asked, "model": f"default/{MODEL}"}
    assert fetch(stranger, manifest_id).status_code == 404
    assert by_binding(stranger, binding) == by_binding(stranger, granted) == []
    assert by_content(stranger, picture(ready, key)).json == {"matches": []}
    admin.post("/grants", {"model": MODEL, "organisation": "strangers"})
    assert fetch(stranger, manifest_id).status_code == 200
    assert by_binding(stranger, binding) == by_binding(stranger, granted) == [manifest_id]
    assert by_content(stranger, picture(ready, key)).json["matches"] == [{"manifestId": manifest_id}]
    issuer = caller(ready, app, role=Role.ISSUER)
    assert issuer.get(f"/c2pa/v1/manifests/{manifest_id}").status_code == 403
    assert app.test_client().get(f"/c2pa/v1/manifests/{manifest_id}").status_code == 401


def test_queries_by_binding_and_by_content_are_logged_and_paid_for(ready: Home) -> None:
    app = create_app(ready)
    (key,) = issue(ready)
    admin = caller(ready, app, role=Role.ADMIN)
    by_binding(admin, query(ready, QUANTA * signs(ready, key)))
    by_content(admin, picture(ready, key))
    entries = admin.get("/resolutions").json["items"]
    assert [entry["source"] for entry in entries] == ["image", "client logits"]
    assert all(entry["verdict"] == "attributed" for entry in entries)
    assert admin.get("/resolvable-models").json["items"][0]["units_spent"] >= 42


@pytest.mark.parametrize(
    "content",
    [b"", b"short", b"{", {"model": MODEL}, [], {"alg": "x"}, b"\xff" * 31, b"\xff" * 33],
)
def test_values_of_another_form_are_refused(sqlite_ready: Home, content: Any) -> None:
    asker = caller(sqlite_ready, create_app(sqlite_ready))
    body = {"alg": ALGORITHM, "value": value(content)}
    answer = asker.request("POST", "/c2pa/v1/matches/byBinding", body)
    assert conforms("/matches/byBinding", "post", answer).status_code == 400
    answer = asker.request("GET", "/c2pa/v1/matches/byBinding", query_string=body)
    assert conforms("/matches/byBinding", "get", answer).status_code == 400


def test_parameters_are_those_of_the_document(sqlite_ready: Home) -> None:
    home = sqlite_ready
    asker = caller(home, create_app(home))
    path = "/c2pa/v1/matches/byBinding"
    binding = value(bytes(range(200, 232)))
    assert "+" in binding or "/" in binding

    def asked(**parameters: Any) -> int:
        answer = asker.request("GET", path, query_string=parameters)
        return conforms("/matches/byBinding", "get", answer).status_code

    assert asked(alg=ALGORITHM, value=binding) == 200
    assert asked(alg=ALGORITHM, value=binding, maxResults=1) == 200
    assert asked(alg="com.example.other", value=binding) == 200  # nothing is bound by it here
    assert asked(alg=ALGORITHM) == asked(value=binding) == 400
    assert asked(alg=ALGORITHM, value=binding, maxResults=0) == 400
    assert asked(alg=ALGORITHM, value=binding, maxResults="many") == 400
    assert asked(alg=ALGORITHM, value="not base64") == 400
    assert asked(alg=ALGORITHM, value="A" * 5000) == 414
    for body in (None, [], {}, {"alg": 1, "value": 2}, "text"):
        answer = asker.request("POST", path, body)
        assert conforms("/matches/byBinding", "post", answer).status_code == 400
    for wrong, status in (("x", 400), ("urn:c2pa:" + "0" * 36, 400), ("..%2f..", 400)):
        answer = asker.get(f"/c2pa/v1/manifests/{wrong}")
        assert answer.status_code in (status, 404)
    unknown = "urn:c2pa:00000000-0000-4000-8000-000000000000"
    assert fetch(asker, unknown).status_code == 404
    answer = asker.request(
        "GET", f"/c2pa/v1/manifests/{unknown}", query_string={"returnActiveManifest": "perhaps"}
    )
    assert conforms("/manifests/{manifestId}", "get", answer).status_code == 400


def test_only_images_can_be_read(sqlite_ready: Home) -> None:
    asker = caller(sqlite_ready, create_app(sqlite_ready))
    small = io.BytesIO()
    Image.new("RGB", (4, 4)).save(small, "PNG")
    for data, mimetype in (
        (b"hello", "text/plain"),
        (b"hello", "image/png"),
        (b"", "image/png"),
        (small.getvalue(), "image/png"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "image/png"),
        (b"%PDF-1.7", "application/pdf"),
    ):
        assert by_content(asker, data, mimetype).status_code == 415
    too_large = asker.client.post(
        "/c2pa/v1/matches/byContent",
        data=bytes((32 << 20) + 1),
        content_type="image/png",
        headers={"Authorization": f"Bearer {asker.token}"},
    )
    assert too_large.status_code == 413


def test_a_hint_names_the_model_to_read_for(sqlite_ready: Home) -> None:
    home = sqlite_ready
    (key,) = issue(home)
    asker = caller(home, create_app(home))
    image = picture(home, key)
    for hint, found in (
        (value({"model": MODEL}), 1),
        (value({"model": "absent"}), 0),
        (value({"model": "a/b@x"}), 0),
        ("no base64", 1),
        (value([]), 1),
    ):
        answer = by_content(asker, image, hintAlg=ALGORITHM, hintValue=hint)
        assert len(answer.json["matches"]) == found
    assert by_content(asker, image, alg="com.example.other").json == {"matches": []}


def test_the_algorithm_is_announced_to_everybody(sqlite_ready: Home) -> None:
    answer = create_app(sqlite_ready).test_client().get("/c2pa/v1/services/supportedAlgorithms")
    conforms("/services/supportedAlgorithms", "get", answer)
    assert [entry["alg"] for entry in answer.json["watermarks"]] == [ALGORITHM]
    with pytest.raises(ValidationError, match="alg"):
        validator("#/components/schemas/c2pa.softBindingAlgList").validate({"watermarks": [{}]})


def test_the_name_of_the_algorithm_fits_the_public_list() -> None:
    entry = {
        "identifier": 0,
        "alg": ALGORITHM,
        "type": "watermark",
        "decodedMediaTypes": ["image"],
        "entryMetadata": {
            "description": "A fingerprint in the weights of a generator",
            "dateEntered": "2026-01-01T00:00:00Z",
            "contact": "operator@example.org",
            "informationalUrl": "https://example.org/",
        },
    }
    path = Path(__file__).parents[2] / "interop/c2pa/softbinding-algorithm-list.schema.json"
    Draft202012Validator(json.loads(path.read_text())).validate([entry])


def test_the_authority_is_made_once_and_its_keys_are_sealed(ready: Home) -> None:
    app = create_app(ready)
    pems = {app.test_client().get("/c2pa/v1/authority").get_data() for _ in range(2)}
    assert len(pems) == 1
    root = x509.load_pem_x509_certificate(pems.pop())
    authority = Authority.open(ready)
    authority.signer.verify_directly_issued_by(root)
    from registry.c2pa.models import C2paAuthority

    with ready.database.read() as session:
        row = session.get_one(C2paAuthority, 1)
    private = authority.key.private_numbers().private_value.to_bytes(32, "big")
    assert private not in row.sealed_signer_key
    assert authority.blinding not in row.sealed_binding
