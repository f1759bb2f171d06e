"""The ledger's tree against published vectors and against the definition written down naively."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.factories import ledger_levels, signing_key, tile_reader
from verifier import merkle, note
from verifier.errors import TrustError

# The reference tree of the certificate-transparency project, used by its C++ and Go tests.
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSION = {
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
CONSISTENCY = {
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}


def naive_root(leaves: list[bytes]) -> bytes:
    """MTH as RFC 6962, section 2.1 defines it."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    split = 1
    while 2 * split < len(leaves):
        split *= 2
    return hashlib.sha256(b"\1" + naive_root(leaves[:split]) + naive_root(leaves[split:])).digest()


def reader(leaves: list[bytes]) -> merkle.ReadTile:
    return tile_reader(ledger_levels([merkle.leaf_hash(leaf) for leaf in leaves]))


def numbered(size: int) -> list[bytes]:
    return [b"leaf %d" % i for i in range(size)]


@pytest.mark.parametrize("size", range(9))
def test_roots_are_the_published_ones(size: int) -> None:
    assert merkle.tree_root(size, reader(LEAVES)).hex() == ROOTS[size]
    assert naive_root(LEAVES[:size]).hex() == ROOTS[size]


@pytest.mark.parametrize("case", INCLUSION)
def test_inclusion_proofs_are_the_published_ones(case: tuple[int, int]) -> None:
    index, size = case
    proof = merkle.inclusion_proof(index, size, reader(LEAVES))
    assert [value.hex() for value in proof] == INCLUSION[case]
    root = bytes.fromhex(ROOTS[size])
    merkle.verify_inclusion(merkle.leaf_hash(LEAVES[index]), index, size, proof, root)


@pytest.mark.parametrize("case", CONSISTENCY)
def test_consistency_proofs_are_the_published_ones(case: tuple[int, int]) -> None:
    old, new = case
    proof = merkle.consistency_proof(old, new, reader(LEAVES))
    assert [value.hex() for value in proof] == CONSISTENCY[case]
    merkle.verify_consistency(old, new, proof, bytes.fromhex(ROOTS[old]), bytes.fromhex(ROOTS[new]))


@pytest.mark.parametrize("size", [1, 2, 3, 255, 256, 257, 511, 512, 700, 1025])
def test_trees_over_several_tiles_have_the_defined_root_and_proofs(size: int) -> None:
    leaves = numbered(size)
    read = reader(leaves)
    root = merkle.tree_root(size, read)
    assert root == naive_root(leaves)
    for index in {0, size // 3, size // 2, size - 1, min(255, size - 1), min(256, size - 1)}:
        proof = merkle.inclusion_proof(index, size, read)
        merkle.verify_inclusion(merkle.leaf_hash(leaves[index]), index, size, proof, root)
    for old in {1, size // 2 or 1, max(size - 1, 1), size, min(256, size)}:
        proof = merkle.consistency_proof(old, size, read)
        merkle.verify_consistency(old, size, proof, naive_root(leaves[:old]), root)


def test_a_tree_of_more_than_two_tile_levels() -> None:
    hashes = [merkle.leaf_hash(b"%d" % i) for i in range(65_536 + 300)]
    read = tile_reader(ledger_levels(hashes))
    root = merkle.tree_root(len(hashes), read)
    assert root == merkle.node_hash(
        merkle.subtree_root(hashes[:65_536]),
        merkle.node_hash(merkle.subtree_root(hashes[65_536:65_792]), merkle.subtree_root(hashes[65_792:])),
    )
    for index in (0, 65_535, 65_536, 65_835):
        proof = merkle.inclusion_proof(index, len(hashes), read)
        merkle.verify_inclusion(hashes[index], index, len(hashes), proof, root)


@given(st.integers(1, 80), st.data())
@settings(max_examples=150)
def test_no_altered_inclusion_proof_passes(size: int, data: st.DataObject) -> None:
    leaves = numbered(size)
    read = reader(leaves)
    root = merkle.tree_root(size, read)
    index = data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(index, size, read)
    leaf = merkle.leaf_hash(leaves[index])
    merkle.verify_inclusion(leaf, index, size, proof, root)
    wrong = data.draw(st.integers(0, size + 2).filter(lambda i: i != index))
    altered: list[tuple[bytes, int, list[bytes], bytes]] = [
        (leaf, wrong, proof, root),
        (merkle.leaf_hash(b"another"), index, proof, root),
        (leaf, index, [*proof, leaf], root),
        (leaf, index, proof, leaf if leaf != root else bytes(32)),
    ]
    if proof:
        altered += [(leaf, index, proof[:-1], root), (leaf, index, [bytes(32), *proof[1:]], root)]
    for bad_leaf, bad_index, bad_proof, bad_root in altered:
        with pytest.raises(TrustError):
            merkle.verify_inclusion(bad_leaf, bad_index, size, bad_proof, bad_root)


@given(st.integers(2, 80), st.data())
@settings(max_examples=150)
def test_no_altered_history_passes(new: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, new - 1))
    leaves = numbered(new)
    read = reader(leaves)
    roots = naive_root(leaves[:old]), naive_root(leaves)
    proof = merkle.consistency_proof(old, new, read)
    merkle.verify_consistency(old, new, proof, *roots)
    changed = data.draw(st.integers(0, old - 1))
    rewritten = [*leaves[:changed], b"rewritten", *leaves[changed + 1 :]]
    other = merkle.consistency_proof(old, new, reader(rewritten))
    with pytest.raises(TrustError):
        merkle.verify_consistency(old, new, other, roots[0], naive_root(rewritten))
    for bad in (proof[:-1], [*proof, bytes(32)]):
        with pytest.raises(TrustError):
            merkle.verify_consistency(old, new, bad, *roots)
    with pytest.raises(TrustError):
        merkle.verify_consistency(new, old, proof, *roots)


def test_proofs_of_what_is_not_there_are_refused() -> None:
    read = reader(LEAVES)
    with pytest.raises(ValueError, match="not in a tree"):
        merkle.inclusion_proof(8, 8, read)
    with pytest.raises(ValueError, match="no consistency proof"):
        merkle.consistency_proof(9, 8, read)
    with pytest.raises(TrustError, match="shorter"):
        merkle.tree_root(9, read)


def test_a_checkpoint_survives_the_note_and_nothing_else_does() -> None:
    key = signing_key()
    checkpoint = merkle.Checkpoint("hallmark/00ff", 7, hashlib.sha256(b"x").digest())
    signed = checkpoint.sign(key)
    assert merkle.Checkpoint.open(signed, key.public_key()) == checkpoint
    lines = signed.splitlines()
    assert lines[:3] == ["hallmark/00ff", "7", base64.b64encode(checkpoint.root).decode()]
    assert lines[4].startswith("\u2014 hallmark/00ff ")
    with pytest.raises(TrustError):
        merkle.Checkpoint.open(signed, signing_key(2).public_key())
    cut = (signed[:-1], signed[:-8])
    for altered in (signed.replace("\n7\n", "\n8\n"), signed.replace("00ff", "00fe"), *cut, "", "x\n\ny"):
        with pytest.raises(TrustError):
            merkle.Checkpoint.open(altered, key.public_key())


def test_a_checkpoint_may_carry_other_signatures_as_well() -> None:
    key = signing_key()
    checkpoint = merkle.Checkpoint("hallmark/00ff", 7, bytes(32))
    witness = merkle.Checkpoint("hallmark/00ff", 7, bytes(32)).sign(signing_key(2)).splitlines()[-1]
    body, own = checkpoint.sign(key).split("\n\n")
    assert merkle.Checkpoint.open(f"{body}\n\n{witness}\n{own}", key.public_key()) == checkpoint


@pytest.mark.parametrize(
    "body",
    [
        "hallmark/00ff\n007\n{root}\n",
        "hallmark/00ff\n-7\n{root}\n",
        "hallmark/00ff\n\u0667\n{root}\n",
        "hallmark/00ff\n7\n{short}\n",
        "hallmark/00ff\n7\n{root}=\n",
        "hallmark/00ff\n7\n",
        "hallmark/00ff\n7 {root}\n",
        "hallmark/00ff\n7\u2028{root}\n",
        "hallmark/00ff\n7\n{root}\n\nextension\n",
    ],
)
def test_a_signed_text_that_is_no_checkpoint_is_refused(body: str) -> None:
    root, short = (base64.b64encode(bytes(n)).decode() for n in (32, 31))
    key = signing_key()
    signed = note.sign(body.format(root=root, short=short), "hallmark/00ff", key)
    with pytest.raises(TrustError, match="no checkpoint"):
        merkle.Checkpoint.open(signed, key.public_key())


def test_a_checkpoint_may_have_extension_lines() -> None:
    key = signing_key()
    plain = merkle.Checkpoint("hallmark/00ff", 7, bytes(32))
    signed = note.sign(plain.body() + "an extension\n", "hallmark/00ff", key)
    assert merkle.Checkpoint.open(signed, key.public_key()) == plain
