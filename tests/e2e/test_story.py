"""From an empty folder to the recipient behind an image, through the command lines alone."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tests.e2e.conftest import ROOT, World, attacked, command_environment, folder_bytes

FINDING = {
    *("schema", "images", "verdict", "copies", "model", "lineage"),
    *("evidence", "network", "ledger", "elapsed_ms"),
}


def test_an_image_leads_to_its_recipient(world: World) -> None:
    done = world.check(world.images[0])
    assert done.code == 0, done.err
    (finding,) = done.json
    assert set(finding) == FINDING
    assert finding["schema"] == "hallmark/finding/1"
    assert finding["verdict"] == "attributed"
    (copy,) = finding["copies"]
    ada = world.certificates["ada"]
    assert (copy["id"], copy["key_id"]) == (ada["copy_id"], ada["key_id"])
    assert copy["recipient"] == "ada@example.com"
    assert copy["revoked"] is False
    assert copy["log10_p_family"] <= -6
    assert finding["model"]["name"] == "flowers"
    assert finding["evidence"]["bits"] == ada["bits"]
    assert finding["evidence"]["hypotheses"] >= 1002
    assert finding["ledger"]["verified"] is True


def test_every_image_of_the_copy_alone_and_as_a_set(world: World) -> None:
    alone = world.check(*world.images)
    assert alone.code == 0, alone.err
    assert [finding["copies"][0]["recipient"] for finding in alone.json] == ["ada@example.com"] * 4

    (together,) = world.check(*world.images, "--set").json
    assert together["verdict"] == "attributed"
    assert together["copies"][0]["key_id"] == world.certificates["ada"]["key_id"]
    assert together["copies"][0]["log10_p"] < min(f["copies"][0]["log10_p"] for f in alone.json)
    assert len(together["images"]) == 4
    assert all(image["log10_p_without"] is not None for image in together["images"])


def test_attacked_images_lead_to_the_same_recipient(world: World, tmp_path: Path) -> None:
    attacks = ("jpeg", "noise", "blur", "crop", "combination")
    images = [attacked(attacks[i % len(attacks)], world.images[i % 4], tmp_path) for i in range(8)]
    (finding,) = world.check(*images, "--set").json
    assert finding["verdict"] == "attributed"
    assert finding["copies"][0]["recipient"] == "ada@example.com"


def test_images_of_the_base_model_lead_to_nobody(world: World) -> None:
    done = world.check(*world.base_images)
    assert done.code == 1, done.err
    for finding in done.json:
        assert finding["verdict"] == "not-attributed"
        assert finding["copies"] == []
        assert finding["model"] is None
        assert all(image["log10_p"] is None for image in finding["images"])


def test_a_mixture_is_completed_and_ends_with_1(world: World) -> None:
    done = world.check(world.images[0], world.base_images[0])
    assert done.code == 1
    assert [finding["verdict"] for finding in done.json] == ["attributed", "not-attributed"]


def test_the_fingerprint_costs_little_quality(world: World) -> None:
    """The same seed gives the same latents, so copy and base model can be compared image by image."""
    errors = [
        np.mean((_pixels(copied) - _pixels(base)) ** 2)
        for copied, base in zip(world.images, world.base_images, strict=True)
    ]
    assert max(errors) > 0
    assert 10 * math.log10(255**2 / float(np.mean(errors))) >= 32


def test_the_terminal_shows_what_the_json_says(world: World) -> None:
    done = world.verifier("check", world.images[0], "--bundle", world.bundle)
    assert done.code == 0, done.err
    assert world.certificates["ada"]["key_id"] in done.out.replace("\n", "")
    assert "ada@example.com" in done.out


def test_a_copy_rebuilt_is_the_same_to_the_byte(world: World, tmp_path: Path) -> None:
    again = tmp_path / "again"
    done = world.registry("download", world.certificates["ada"]["copy_id"], "--out", again)
    assert done.code == 0, done.err
    assert folder_bytes(again) == folder_bytes(world.copy)


def test_a_copy_tells_whose_it_is(world: World) -> None:
    done = world.verifier("inspect", world.copy, "--bundle", world.bundle, "--json")
    assert done.code == 0, done.err
    assert world.certificates["ada"]["key_id"] in done.out


def test_the_code_in_the_readme_samples_from_a_copy(world: World, tmp_path: Path) -> None:
    """It names the copy's folder ``ada``, as this world does."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    save = f"for i, image in enumerate(images): image.save({str(tmp_path)!r} + f'/{{i}}.png')"
    environment = {**command_environment(world.home), "HF_HOME": str(tmp_path / "cache")}
    subprocess.run(
        [sys.executable, "-c", f"{code}\n{save}"], cwd=world.folder, env=environment, check=True, timeout=240
    )
    (finding,) = world.check(*tmp_path.glob("*.png"), "--set").json
    assert finding["copies"][0]["recipient"] == "ada@example.com"


def test_a_revoked_key_is_attributed_as_ever_and_marked(world: World, tmp_path: Path) -> None:
    """On a second key of Bruno's, so that the shared world stays as it is for the other tests."""
    bruno = world.certificates["bruno"]["key_id"]
    copy, images, bundle = tmp_path / "bruno", tmp_path / "images", tmp_path / "bundle"
    assert world.registry("download", bruno, "--out", copy).code == 0
    assert world.registry("sample", "--copy", copy, "-n", "2", "--out", images, "--seed", "9").code == 0
    assert world.registry("revoke", bruno, "--reason", "leaked").code == 0
    assert world.registry("bundle", "export", "--out", bundle, "--with-keys").code == 0

    (finding,) = world.check(*images.glob("*.png"), "--set", bundle=bundle).json
    (found,) = finding["copies"]
    assert finding["verdict"] == "attributed"
    assert found["key_id"] == bruno
    assert found["revoked"] is not False
    assert found["recipient"] is None, "this bundle was exported without recipients"

    refused = world.registry("download", bruno, "--out", tmp_path / "again")
    assert refused.code == 2
    assert "revoked" in refused.error
    assert world.registry("ledger", "verify").code == 0


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.float64)
