"""Signed notes against the vectors of Go's sumdb/note package and of the C2SP documents."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tests.factories import signing_key
from verifier import note
from verifier.errors import TrustError

# golang.org/x/mod/sumdb/note, note_test.go.
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_SECRET = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
ENOCH = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER_LINE = (
    "— PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
ENOCH_LINE = (
    "— EnochRoot "
    "rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
)


def public(vkey: str) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(base64.b64decode(vkey.split("+", 2)[2])[1:])


def private(skey: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(base64.b64decode(skey.split("+", 4)[4])[1:])


def test_signing_gives_what_go_gives() -> None:
    assert note.sign(TEXT, "PeterNeumann", private(PETER_SECRET)) == f"{TEXT}\n{PETER_LINE}"
    assert note.verifier_key("PeterNeumann", private(PETER_SECRET).public_key()) == PETER
    assert note.verifier_key("EnochRoot", public(ENOCH)) == ENOCH


def test_the_notes_of_go_hold() -> None:
    both = f"{TEXT}\n{PETER_LINE}{ENOCH_LINE}"
    assert note.verify(f"{TEXT}\n{PETER_LINE}", "PeterNeumann", public(PETER)) == TEXT
    for name, key in (("PeterNeumann", PETER), ("EnochRoot", ENOCH)):
        assert note.verify(both, name, public(key)) == TEXT
    assert note.verify(f"{TEXT}\n{PETER_LINE}{PETER_LINE}", "PeterNeumann", public(PETER)) == TEXT


@pytest.mark.parametrize(
    "malformed",
    [
        "",
        TEXT,
        f"{TEXT}\n",
        f"{TEXT}\n{PETER_LINE[:-1]}",
        f"\x01{TEXT}\n{PETER_LINE}",
        f"{TEXT}\n— Bad Name {PETER_LINE.split()[2]}\n",
        f"{TEXT}\n— a+b {PETER_LINE.split()[2]}\n{PETER_LINE}",
        f"{TEXT}\n{PETER_LINE}Unexpected line.\n",
        f"{TEXT}\n{PETER_LINE}— short AAAA\n",
        f"{TEXT}\n{PETER_LINE}— padding AAAAA\n",
        f"{TEXT}\n{PETER_LINE.replace('— ', '- ')}",
        f"{TEXT}\n{PETER_LINE * 101}",
        f"{TEXT}\n\n{PETER_LINE}",
        f"{TEXT}\r\n{PETER_LINE}",
    ],
)
def test_malformed_notes_are_refused(malformed: str) -> None:
    with pytest.raises(TrustError):
        note.verify(malformed, "PeterNeumann", public(PETER))


def test_a_signature_of_a_known_key_must_hold() -> None:
    broken = f"{PETER_LINE[:60]}ABCD{PETER_LINE[60:]}"
    for lines in (broken, broken + PETER_LINE, PETER_LINE + broken):
        with pytest.raises(TrustError, match="does not hold"):
            note.verify(f"{TEXT}\n{lines}", "PeterNeumann", public(PETER))
    with pytest.raises(TrustError, match="does not hold"):
        note.verify(f"{TEXT.replace('If', 'in')}\n{PETER_LINE}", "PeterNeumann", public(PETER))


def test_signatures_of_unknown_keys_are_ignored() -> None:
    broken = f"{ENOCH_LINE[:60]}ABCD{ENOCH_LINE[60:]}"
    assert note.verify(f"{TEXT}\n{broken}{PETER_LINE}", "PeterNeumann", public(PETER)) == TEXT
    for name, key in (("EnochRoot", PETER), ("PeterNeumann", ENOCH)):
        with pytest.raises(TrustError, match="not signed"):
            note.verify(f"{TEXT}\n{PETER_LINE}", name, public(key))


def test_the_examples_of_c2sp_have_the_documented_form() -> None:
    example = (
        "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n"
        "— quasimodo.example/salvatore "
        "NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n"
    )
    with pytest.raises(TrustError, match="not signed"):  # well formed, of a key that is not published
        note.verify(example, "quasimodo.example/salvatore", public(PETER))


def test_a_note_holds_by_the_specification_alone() -> None:
    """Written from c2sp.org/signed-note with nothing of ours but the note itself."""
    key = signing_key()
    signed = note.sign("a\n\nb\n", "example.org/log", key)
    text, _, line = signed.rpartition("\n\n")
    dash, name, encoded = line.removesuffix("\n").split(" ")
    raw = key.public_key().public_bytes_raw()
    decoded = base64.b64decode(encoded, validate=True)
    assert (dash, name) == ("\N{EM DASH}", "example.org/log")
    assert decoded[:4] == hashlib.sha256(name.encode() + b"\x0a\x01" + raw).digest()[:4]
    key.public_key().verify(decoded[4:], (text + "\n").encode())


@pytest.mark.parametrize(
    ("text", "name"), [("no newline", "a"), ("tab\t\n", "a"), ("x\n", ""), ("x\n", "a b"), ("x\n", "a+b")]
)
def test_what_no_note_can_hold_is_not_signed(text: str, name: str) -> None:
    with pytest.raises(ValueError, match="no note can hold"):
        note.sign(text, name, signing_key())
