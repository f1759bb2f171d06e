"""What a user may do wrong: one line that says what to do, the documented exit code, nothing half-written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from registry.bundles import service as bundles
from registry.bundles.service import BundleOptions
from registry.home import Home
from tests.e2e.conftest import BUILTIN, Done, World, command, folder_bytes

BAD, UNTRUSTED = 2, 3

# Files that are no usable images: how to make one from a good image's bytes.
UNUSABLE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda good: b"",
    "text": lambda good: b"this is no image\n",
    "truncated": lambda good: good[: len(good) // 2],
    "header": lambda good: good[:20],
    "executable": lambda good: b"\x7fELF" + bytes(200),
}


def image_error(done: Done) -> str:
    """An image that cannot be read is part of the answer: the first line of the findings."""
    assert "Traceback" not in done.err, done.err
    line = done.out.splitlines()[0]
    assert "ERROR" in line, done.out
    return line


@pytest.mark.parametrize("kind", UNUSABLE)
def test_files_that_are_no_images(world: World, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"{kind}.png"
    path.write_bytes(UNUSABLE[kind](world.images[0].read_bytes()))
    done = world.verifier("check", path, "--bundle", world.bundle)
    assert done.code == BAD
    assert path.name in image_error(done)


@pytest.mark.parametrize("size", [(1, 1), (1, 4000)])
def test_images_too_small_to_hold_anything(world: World, tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "small.png"
    Image.new("RGB", size, "red").save(path)
    done = world.verifier("check", path, "--bundle", world.bundle)
    assert done.code == BAD
    assert "small.png" in image_error(done)


def test_an_image_of_200_megapixels(world: World, tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    Image.new("1", (20_000, 10_000)).save(path)
    done = world.verifier("check", path, "--bundle", world.bundle)
    assert done.code == BAD
    assert "20000 x 10000" in image_error(done)


def test_paths_that_do_not_exist_or_are_folders(world: World, tmp_path: Path) -> None:
    for image in (tmp_path / "missing.png", tmp_path):
        done = world.verifier("check", image, "--bundle", world.bundle)
        assert done.code == BAD
        assert str(image) in image_error(done)
    done = world.verifier("check", world.images[0], "--bundle", tmp_path / "missing.bundle")
    assert done.code == BAD
    assert "missing.bundle" in done.error
    done = world.verifier("inspect", tmp_path / "nothing")
    assert done.code == BAD
    assert "nothing" in done.error


def test_one_bad_image_does_not_hide_the_findings_on_the_others(world: World, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    done = world.check(bad, world.images[0])
    assert done.code == BAD
    assert [finding["verdict"] for finding in done.json] == ["not-attributed", "attributed"]
    (image,) = done.json[0]["images"]
    assert "bad.png" in image["error"]


def test_requests_that_make_no_sense(world: World) -> None:
    assert world.verifier("check", world.images[0]).code == BAD
    assert world.verifier("check", "--bundle", world.bundle).code == BAD
    assert (
        world.verifier("check", world.images[0], "--bundle", world.bundle, "--device", "abacus").code == BAD
    )
    assert world.verifier("divine").code == BAD


def test_a_device_that_is_not_there_is_named(world: World) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers() and shutil.which("nvidia-smi"):
        pytest.skip("this machine has the device")
    done = world.verifier("check", world.images[0], "--bundle", world.bundle, "--device", "cuda")
    assert done.code == BAD
    assert "cuda" in done.error.lower()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.25, 0.5, 0.75, 0.9, 0.999])
def test_a_bundle_with_one_flipped_byte(world: World, tmp_path: Path, share: float) -> None:
    content = bytearray(world.bundle.read_bytes())
    content[int(share * len(content))] ^= 0x01
    tampered = tmp_path / "tampered.bundle"
    tampered.write_bytes(content)
    done = world.verifier("check", world.images[0], "--bundle", tampered)
    assert done.code == UNTRUSTED
    assert "bundle" in done.error
    assert done.out == ""


@pytest.mark.parametrize("content", [b"", b"no bundle", b"PK\x03\x04" + bytes(100)])
def test_a_file_that_is_no_bundle(world: World, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.bundle"
    path.write_bytes(content)
    done = world.verifier("check", world.images[0], "--bundle", path)
    assert done.code in (BAD, UNTRUSTED)
    assert "other.bundle" in done.error


def test_a_truncated_bundle(world: World, tmp_path: Path) -> None:
    path = tmp_path / "short.bundle"
    path.write_bytes(world.bundle.read_bytes()[:-1000])
    done = world.verifier("check", world.images[0], "--bundle", path)
    assert done.code in (BAD, UNTRUSTED)
    assert "short.bundle" in done.error


def test_an_expired_bundle(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "old.bundle"
    a_year_ago = bundles.unix_now() - 365 * 86_400
    monkeypatch.setattr(bundles, "unix_now", lambda: a_year_ago)
    home = Home.open(world.home)
    bundles.export(home, path, BundleOptions(with_keys=True, expires_days=30))
    home.close()
    done = world.verifier("check", world.images[0], "--bundle", path)
    assert done.code == UNTRUSTED
    assert "expired" in done.error


def test_a_bundle_of_another_registry_than_the_one_trusted(world: World) -> None:
    done = world.verifier("check", world.images[0], "--bundle", world.bundle, "--trust", "0" * 32)
    assert done.code == UNTRUSTED
    assert "0" * 32 in done.error


def test_a_copy_with_one_flipped_byte(world: World, tmp_path: Path) -> None:
    for relative in ("hallmark.json", "vqvae/diffusion_pytorch_model.safetensors", "unet/config.json"):
        copy = tmp_path / relative.replace("/", "-")
        shutil.copytree(world.copy, copy)
        path = copy / relative
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x01
        path.write_bytes(content)
        done = world.verifier("inspect", copy)
        assert done.code == UNTRUSTED, relative
        assert Path(relative).name in done.error


def test_a_copy_with_a_file_missing_or_added(world: World, tmp_path: Path) -> None:
    less, more = tmp_path / "less", tmp_path / "more"
    shutil.copytree(world.copy, less)
    (less / "unet" / "config.json").unlink()
    shutil.copytree(world.copy, more)
    (more / "extra.bin").write_bytes(b"x")
    for copy in (less, more):
        assert world.verifier("inspect", copy).code == UNTRUSTED


def test_a_forged_certificate(world: World, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(world.copy, copy)
    path = copy / "hallmark.json"
    document = json.loads(path.read_text())
    document["certificate"]["recipient"] = "0" * 64
    path.write_text(json.dumps(document))
    assert world.verifier("inspect", copy).code == UNTRUSTED


def test_commands_before_init(tmp_path: Path) -> None:
    for arguments in (("model", "list"), ("ledger", "verify"), ("recipient", "add", "ada@example.com")):
        done = command(tmp_path / "nowhere", "registry", *arguments)
        assert done.code == BAD
        assert "registry init" in done.error
    assert list(tmp_path.iterdir()) == []


def test_a_second_init_changes_nothing(world: World) -> None:
    key = (world.home / "master.key").read_bytes()
    done = world.registry("init")
    assert done.code == BAD
    assert "already" in done.error
    assert (world.home / "master.key").read_bytes() == key
    assert world.registry("ledger", "verify").code == 0


def test_init_where_a_file_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    done = command(tmp_path / "file", "registry", "init")
    assert done.code == BAD
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("issue", "--model", "flowers", "--to", "nobody@example.com"), "nobody@example.com"),
        (("issue", "--model", "trees", "--to", "ada@example.com"), "trees"),
        (("issue", "--model", "flowers", "--to", "ada@example.com", "--count", "0"), "0"),
        (("issue", "--model", "flowers", "--to", "ada@example.com", "--expires-days", "0"), "0"),
        (("recipient", "add", "ada@example.com"), "ada@example.com"),
        (("recipient", "add", "no address"), "no address"),
        (("download", "copy-000000000000000000000000", "--out", "x"), "000000000000000000000000"),
        (("download", "ada", "--out", "x"), "ada"),
        (("revoke", "000000000000000000000000", "--reason", "r"), "000000000000000000000000"),
        (("model", "add", "trees", *BUILTIN[:3], "builtin:trees@1"), "flowers-ldm@1"),
        (("model", "add", "trees", "--adapter", "oracle", *BUILTIN[2:]), "latent-diffusion"),
        (("model", "add", "trees", *BUILTIN[:3], "no/such/folder"), "no/such/folder"),
        (("sample", "--copy", "no/such/copy", "--out", "x"), "no/such/copy"),
        (("bundle", "export", "--out", "no/such/folder/bundle"), "no/such/folder"),
        (("bundle", "export", "--out", "b", "--with-recipients"), "--with-keys"),
    ],
)
def test_requests_the_registry_refuses(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = world.registry(*arguments)
    assert done.code == BAD
    assert named in done.error
    assert list(tmp_path.iterdir()) == []
    assert "trees" not in world.registry("model", "list").out


def test_a_model_with_a_broken_tensor_file(world: World, tmp_path: Path) -> None:
    (base,) = (world.home / "storage" / "models").iterdir()
    broken = tmp_path / "broken"
    shutil.copytree(base, broken)
    weights = broken / "vqvae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    done = world.registry("model", "add", "broken", *BUILTIN[:3], broken)
    assert done.code == BAD
    assert "diffusion_pytorch_model.safetensors" in done.error
    assert "broken" not in world.registry("model", "list").out


def test_a_download_never_overwrites(world: World, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("the only copy")
    before = folder_bytes(tmp_path)
    done = world.registry("download", world.certificates["ada"]["copy_id"], "--out", mine)
    assert done.code == BAD
    assert "mine" in done.error
    assert folder_bytes(tmp_path) == before
