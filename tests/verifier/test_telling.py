"""`verifier lineage`: the model alone, from a bundle without keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from registry.bundles.service import BundleOptions, export
from registry.generators import service as generators
from registry.home import Home
from tests.registry.cases.support import samples
from tests.registry.resolve.support import issue
from verifier.bundle import Bundle
from verifier.cli import cli
from verifier.errors import InputError
from verifier.finding import LineageEntry
from verifier.telling import Teller


@pytest.fixture
def bundle(sqlite_ready: Home, tmp_path: Path) -> Path:
    """Without keys; two of its models carry none at all."""
    for family in ("vae", "flow"):
        generators.add_model(sqlite_ready, f"zoo-{family}", family, f"builtin:zoo-{family}@1")
        for number, image in enumerate(samples(family, 16)):
            image.save(tmp_path / f"{family}{number:02}.png")
    export(sqlite_ready, tmp_path / "open.bundle", BundleOptions())
    return tmp_path / "open.bundle"


def run(bundle: Path, *arguments: object) -> Result:
    shown = ["lineage", *map(str, arguments), "--bundle", str(bundle), "--device", "cpu"]
    return CliRunner().invoke(cli, shown)


def test_models_without_keys_are_told_from_a_bundle_without_keys(bundle: Path) -> None:
    images = sorted(bundle.parent.glob("flow*.png"))
    result = run(bundle, *images, "--set")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("set of 16 images: ")
    assert "made by zoo-flow@1 (confidence 0." in result.stdout.splitlines()[0]
    assert "Told among zoo-flow@1, zoo-vae@1." in result.stdout
    alone = run(bundle, *images, "--json")
    found = [json.loads(line) for line in alone.stdout.splitlines()]
    assert [each["schema"] for each in found] == ["hallmark/told/1"] * 16
    assert all(len(each["images"]) == 1 and 0 < each["lineage"]["confidence"] < 1 for each in found)


def test_a_mixture_and_files_that_are_no_images_have_exit_codes_of_their_own(bundle: Path) -> None:
    folder = bundle.parent
    both = sorted([*folder.glob("vae*.png"), *folder.glob("flow*.png")])
    mixed = run(bundle, *both, "--set")
    assert mixed.exit_code == 1, mixed.output
    assert "the set mixes models" in mixed.stdout
    (folder / "letter.png").write_text("no image")
    unread = run(bundle, folder / "vae00.png", folder / "letter.png")
    assert unread.exit_code == 2
    assert unread.stdout.splitlines()[1].startswith(f"{folder}/letter.png: ERROR: ")
    together = run(bundle, *both[16:], folder / "letter.png", "--set")
    assert together.exit_code == 2
    assert together.stdout.startswith("set of 16 images: made by zoo-vae@1")
    unfetched = CliRunner().invoke(cli, ["lineage", str(both[0]), "--registry", "https://registry.example"])
    assert unfetched.exit_code != 0


def test_a_bundle_without_lineage_says_so(sqlite_ready: Home, tmp_path: Path) -> None:
    path = tmp_path / "plain.bundle"
    export(sqlite_ready, path, BundleOptions())
    with pytest.raises(InputError, match="no lineage"):
        Teller([Bundle.open(path)])
    assert run(path, "any.png").exit_code == 2


def test_what_is_little_sure_is_said_with_a_perhaps_and_nothing_is_rounded_up() -> None:
    assert LineageEntry("a@1", 0.9987).statement() == "made by a@1 (confidence 0.99)"
    assert LineageEntry("a@1", 0.4199).statement() == "perhaps made by a@1 (confidence 0.41)"
    assert LineageEntry(None, 0.5, "none of them").statement() == "none of them (confidence 0.50)"


def test_a_report_on_a_set_with_a_file_that_could_not_be_read_has_its_lineage(
    bundle: Path, sqlite_ready: Home, tmp_path: Path
) -> None:
    full = tmp_path / "full.bundle"
    issue(sqlite_ready)
    export(sqlite_ready, full, BundleOptions(with_keys=True))
    images = [tmp_path / "missing.png", *sorted(tmp_path.glob("vae*.png"))]
    for path, keys in ((full, True), (bundle, False)):
        asked = ["check", *map(str, images), "--set", "--json", "--no-pose-search", "--bundle", str(full)]
        checked = CliRunner().invoke(cli, asked)
        assert checked.exit_code == 2, checked.output
        (tmp_path / "finding.json").write_text(checked.stdout.splitlines()[-1])
        out = tmp_path / f"report-{keys}.html"
        made = CliRunner().invoke(
            cli, ["report", str(tmp_path / "finding.json"), "--bundle", str(path), "--out", str(out)]
        )
        assert made.exit_code == 0, made.output
        assert "made by zoo-vae@1" in out.read_text()
