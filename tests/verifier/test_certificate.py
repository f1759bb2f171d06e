from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.factories import make_world, signing_key
from verifier import signing
from verifier.certificate import Certificate, leaf, normal_key_id
from verifier.errors import TrustError


@pytest.fixture
def document(tmp_path: Path) -> signing.Document:
    return make_world(tmp_path, keys=2).models[0].documents[1]


def test_a_certificate_survives_signing(document: signing.Document) -> None:
    certificate = Certificate.parse(document, signing_key().public_key())
    assert certificate.sign(signing_key()) == document
    assert certificate.copy_id == document["copy_id"] == "copy-" + certificate.key_id
    assert certificate.model.name == "flowers"
    assert leaf(document) == signing.digest(document)


def test_every_field_is_signed(document: signing.Document) -> None:
    for name in document:
        changed: dict[str, Any] = {**document, name: "another"}
        with pytest.raises(TrustError):
            Certificate.parse(changed, signing_key().public_key())


def test_fields_that_the_schema_does_not_have_are_refused_though_signed(document: signing.Document) -> None:
    unsigned = {name: value for name, value in document.items() if name != "signature"}
    short = {name: value for name, value in unsigned.items() if name != "bits"}
    copy_of_another = {**unsigned, "copy_id": "copy-" + "0" * 24}
    for body in ({**unsigned, "extra": 1}, short, {**unsigned, "model": "flowers"}, copy_of_another):
        with pytest.raises(TrustError):
            Certificate.parse(signing.sign(body, signing_key()), signing_key().public_key())


def test_commands_take_a_key_id_or_a_copy_id() -> None:
    key_id = "00ff" * 6
    assert normal_key_id(key_id) == normal_key_id("copy-" + key_id) == normal_key_id(key_id.upper()) == key_id
    for text in ("", "copy-", key_id[:-1], key_id + "0", "copy-" + "g" * 24, "copy-copy-" + key_id):
        with pytest.raises(ValueError, match="no key id"):
            normal_key_id(text)
