"""Scans end to end on a small real registry: groups, alpha, the table, and what interrupts them."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from tests.factories import World, background, make_world, paint
from verifier import Verifier, cli, lineage, reading
from verifier.check import TESTS_MOST, weighted_tests
from verifier.errors import InputError
from verifier.network import Pose, Reading
from verifier.scan import Stopped, Summary, journal, local, scan, table

QUICK: dict[str, Any] = {"pose_search": False}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = make_world(tmp_path_factory.mktemp("world"), keys=50, models=("flowers", "birds"))
    made.bundle()
    return made


@pytest.fixture(scope="module")
def checker(world: World) -> Verifier:
    return Verifier.from_bundle(world.folder / "test.bundle", device="cpu", parallel=True)


@pytest.fixture(scope="module")
def photos(world: World) -> Path:
    """60 images: 20 each of two keys of two models in one folder, 20 of nobody's in another."""
    folder = world.folder / "photos"
    for name in ("made", "found"):
        (folder / name).mkdir(parents=True)
    for seed in range(20):
        world.image(3, seed).save(folder / "made" / f"flower{seed:02}.png")
        world.image(8, seed, model=1).save(folder / "made" / f"bird{seed:02}.png")
        background(seed).save(folder / "found" / f"{seed:02}.png")
    return folder


def rows(path: Path) -> list[dict[str, Any]]:
    return sorted(pq.read_table(path).to_pylist(), key=lambda row: row["path"])


def interrupting(after: int) -> Callable[..., Callable[[int], None]]:
    """A display that presses Ctrl-C once so many files were read."""
    done = 0

    def begin(stage: str, total: int | None = None) -> Callable[[int], None]:
        def step(count: int) -> None:
            nonlocal done
            done += count if stage == "reading" else 0
            if done >= after:
                done = -(10**9)
                os.kill(os.getpid(), signal.SIGINT)

        return step

    return begin


def weak(world: World, row: int, seed: int) -> Image.Image:
    """Too weak to name its key alone, but not with others."""
    image = np.asarray(paint(world.signs(row), 32, seed, strength=1.6))
    noise = np.random.default_rng(seed).normal(0, 25, (32, 32, 3))
    return Image.fromarray(np.clip(image + noise, 0, 255).astype(np.uint8))


def test_every_image_has_a_row_and_the_summary_counts_them(
    world: World, checker: Verifier, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "findings.parquet"
    (photos / "notes.txt").write_text("no image")
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    summary = scan([str(photos)], out, checker, **QUICK)
    (photos / "broken.png").unlink()
    found = rows(out)
    counts = (summary.images, summary.attributed, summary.in_attributed_groups, summary.undecided)
    assert counts == (61, 40, 0, 20)
    assert (summary.errors, summary.passed_over, summary.complete) == (1, 1, True)
    assert Counter(row["verdict"] for row in found) == {"attributed": 40, "not-attributed": 20, "error": 1}
    for row in found:
        name = Path(row["path"]).name
        assert row["copy"] == (
            world.copy_id(3)
            if name.startswith("flower")
            else world.copy_id(8, 1)
            if name.startswith("bird")
            else None
        )
    named = {name: {"images": 20, "groups": each["groups"]} for name, each in summary.by_model.items()}
    assert named == summary.by_model
    assert set(named) == {"flowers@1", "birds@1"}
    assert {label: each["images"] for label, each in summary.by_recipient.items()} == {
        "bruno@example.com": 20,
        "ada@example.com": 20,
    }
    assert list(summary.by_error) == [
        "it is a damaged PNG file: unpack_from requires a buffer of at least N "
        "bytes for unpacking N bytes at offset N (actual buffer size is N)"[:100]
    ]
    bird = next(row for row in found if "bird" in row["path"])
    assert (bird["model"], bird["model_version"], bird["recipient"]) == ("birds", 1, "ada@example.com")
    assert (bird["ledger_index"], bird["ledger_verified"], bird["bits"]) == (59, True, 64)
    assert bird["matching_bits"] == 64
    about = json.loads(pq.read_schema(out).metadata[b"hallmark"])
    assert (about["schema"], about["alpha"], about["groups"]) == ("hallmark/scan/1", 1e-6, summary.groups)
    assert not list(tmp_path.glob("*journal*"))


def test_groups_are_made_of_one_folder_and_one_kind_of_file(
    checker: Verifier, photos: Path, tmp_path: Path
) -> None:
    other = tmp_path / "kinds"
    other.mkdir()
    for seed in range(3):
        background(seed).save(other / f"{seed}.png")
        background(seed).save(other / f"{seed}-90.jpg", quality=90)
        background(seed).save(other / f"{seed}-60.jpg", quality=60)
    sizes = {}
    for rule in ("source", "folder", "none"):
        out = tmp_path / f"{rule}.parquet"
        summary = scan([str(other), str(photos)], out, checker, rule=rule, **QUICK)
        grouped: dict[int, list[str]] = {}
        for row in rows(out):
            grouped.setdefault(row["group"], []).append(row["path"])
            assert row["group_images"] <= journal.GROUP_MOST
        assert sorted(grouped) == list(range(summary.groups))
        assert all(len({Path(path).parent for path in paths}) == 1 for paths in grouped.values())
        sizes[rule] = sorted(map(len, grouped.values()))
    assert sizes["source"] == [3, 3, 3, 4, 8, 16, 16, 16]
    assert sizes["folder"] == [4, 8, 9, 16, 16, 16]
    assert sizes["none"] == [1] * 69


def test_weak_images_of_one_source_are_named_together_and_none_of_them_alone(
    world: World, checker: Verifier, tmp_path: Path
) -> None:
    folder = tmp_path / "weak"
    folder.mkdir()
    for seed in range(12):
        weak(world, 3, seed).save(folder / f"{seed}.png")
    for rule, verdict in (("source", "group"), ("none", "not-attributed")):
        summary = scan([str(folder)], tmp_path / "f.parquet", checker, rule=rule, **QUICK)
        assert {row["verdict"] for row in rows(tmp_path / "f.parquet")} == {verdict}
    assert summary.undecided == 12


def test_alpha_is_shared_by_all_groups_of_the_scan(world: World, checker: Verifier, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    paths = [folder / "0.png"]
    seeds = iter(range(400, 500))
    alone = {"attributed": False}
    while not alone["attributed"]:
        weak(world, 9, next(seeds)).save(paths[0])
        (finding,) = checker.check(paths, alpha=0.2, **QUICK)
        alone = {"attributed": finding.attributed}
    family = 10 ** finding.copies[0].log10_p_family
    for seed in range(30):
        background(500 + seed).save(folder / f"other{seed}.png")
    for share, expected in ((0.99, 0), (1.01, 1)):
        summary = scan(
            [str(folder)], tmp_path / "f.parquet", checker, alpha=31 * share * family, rule="none", **QUICK
        )
        assert (summary.groups, summary.attributed) == (31, expected)
    # In groups every test has its weight as well: whatever is named is within its share.
    scan([str(folder)], tmp_path / "f.parquet", checker, alpha=0.9, **QUICK)
    limit = math.log10(0.9 / 2)
    named = [row for row in rows(tmp_path / "f.parquet") if row["copy"]]
    assert all(row["log10_p_family"] <= limit for row in named)


def test_the_shares_of_all_tests_of_a_scan_sum_to_alpha() -> None:
    rng = np.random.default_rng(1)
    alpha, total = 1e-6, 0.0
    sizes = [1, 3, 16]
    for size in sizes:
        images = [
            [
                Reading(rng.integers(-9, 9, 64, np.int32), Pose(0, 0, 32, 32), float(rng.random()))
                for _ in range(rng.integers(1, 40))
            ]
            for _ in range(size)
        ]
        total += sum(test.weight for test in weighted_tests(images)) * alpha / len(sizes)
    assert total == pytest.approx(alpha)


def test_readings_come_back_from_the_journal_as_they_were(checker: Verifier, photos: Path) -> None:
    with Image.open(photos / "found" / "00.png") as image:
        ranked = [network.ranked([image.rotate(9)])[0] for network in checker.networks]
    back = journal.unpack(journal.pack(ranked), [64, 64])
    for before, after in zip(ranked, back, strict=True):
        assert len(after) == min(len(before), TESTS_MOST) > 100
        for one, two in zip(before, after, strict=False):
            assert (one.pose, one.confidence) == (two.pose, two.confidence)
            assert np.array_equal(one.logits, two.logits)


def test_ctrl_c_keeps_what_was_read_and_the_same_command_goes_on(
    checker: Verifier, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan([str(photos)], tmp_path / "whole.parquet", checker, **QUICK)
    out = tmp_path / "f.parquet"
    files = sum(path.is_file() for path in photos.rglob("*"))
    read: list[str] = []

    def read_item(item: Any) -> bytes:
        read.append(item.name)
        return Path(item.place).read_bytes()

    monkeypatch.setattr(local, "read_item", read_item)
    monkeypatch.setattr("verifier.scan.IMAGES_AT_A_TIME", 16)
    monkeypatch.setattr(reading, "AHEAD", 1)  # or a quick machine has read everything before it stops
    with pytest.raises(Stopped, match=rf"interrupted; \d+ of {files} files were read and are kept in"):
        scan([str(photos)], out, checker, workers=2, progress=interrupting(16), **QUICK)
    assert 16 <= len(read) < files
    assert not out.exists()
    sofar = scan([str(photos)], out, checker, so_far=True, **QUICK)
    assert (sofar.images + sofar.passed_over, sofar.complete) == (len(read), False)
    assert not json.loads(pq.read_schema(out).metadata[b"hallmark"])["complete"]
    assert scan([str(photos)], out, checker, **QUICK).complete
    assert sorted(read) == sorted(set(read))  # nothing was read twice
    assert len(read) == files
    assert rows(out) == rows(tmp_path / "whole.parquet")


def test_files_that_failed_are_read_again_if_asked(
    world: World, checker: Verifier, photos: Path, tmp_path: Path
) -> None:
    """A link to a place that is there again later: what storage does that was away for a while."""
    folder, away, out = tmp_path / "photos", tmp_path / "away.png", tmp_path / "findings.parquet"
    folder.mkdir()
    for path in sorted((photos / "found").iterdir()):
        (folder / path.name).symlink_to(path)
    (folder / "away.png").symlink_to(away)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")

    def coming_back(stage: str, total: int | None = None) -> Callable[[int], None]:
        begun.append(stage)
        if begun.count("reading") == 2:
            world.image(3, 1).save(away)
        return lambda _: None

    for options, passes, errors in (({}, 1, 2), ({"retry_errors": True}, 2, 1)):
        begun: list[str] = []
        summary = scan([str(folder)], out, checker, progress=coming_back, **options, **QUICK)
        assert (begun.count("reading"), summary.images, summary.errors) == (passes, 22, errors)
    assert {row["verdict"] for row in rows(out) if row["path"] == str(folder / "away.png")} == {"attributed"}

    away.unlink()
    with pytest.raises(Stopped):
        scan([str(folder)], out, checker, progress=interrupting(22), **QUICK)
    world.image(3, 1).save(away)
    summary = scan([str(folder)], out, checker, retry_errors=True, **QUICK)
    assert (summary.images, summary.errors, summary.attributed) == (22, 1, 1), "of an interrupted scan, too"


def test_a_scan_that_is_killed_goes_on_where_it_was(
    world: World, checker: Verifier, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "f.parquet"
    program = f"""
import os, sys
from pathlib import Path
from verifier import Verifier
from verifier.scan import scan
seen = 0
def display(stage, total=None):
    def step(count):
        global seen
        seen += count if stage == {{!r}} else 0
        if seen >= 24:
            os.kill(os.getpid(), 9)
    return step
checker = Verifier.from_bundle({str(world.folder / "test.bundle")!r}, device="cpu")
scan([{str(photos)!r}], Path({str(out)!r}), checker, pose_search=False, progress=display)
"""
    for stage in ("reading", "judging"):
        ended = subprocess.run([sys.executable, "-c", program.replace("{!r}", repr(stage))], check=False)
        assert ended.returncode == (-signal.SIGKILL if stage == "reading" else 0)
        if stage == "reading":
            kept = sqlite3.connect(f"file:{out}.journal?mode=ro", uri=True)
            assert kept.execute("SELECT count(*) FROM readings").fetchone()[0] == 32  # a batch
            kept.close()
    scan([str(photos)], tmp_path / "whole.parquet", checker, **QUICK)
    assert rows(out) == rows(tmp_path / "whole.parquet")


def test_a_journal_serves_its_own_scan_only(
    checker: Verifier, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "f.parquet"
    with pytest.raises(Stopped):
        scan([str(photos)], out, checker, progress=interrupting(8), **QUICK)
    with pytest.raises(InputError, match="journal of another scan") as caught:
        scan([str(photos / "made")], out, checker, **QUICK)
    assert "delete the journal" in caught.value.hint
    with pytest.raises(InputError, match="journal of another scan"):
        scan([str(photos)], out, checker, pose_search=True)
    with monkeypatch.context() as patch, pytest.raises(InputError, match="journal of another scan"):
        patch.setattr(checker, "lineage_members", {lineage.IMAGES: b"another network's features"})
        scan([str(photos)], out, checker, **QUICK)
    path = tmp_path / "f.parquet.journal"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(InputError, match="another scan writes there"):
        scan([str(photos)], out, checker, **QUICK)
    other.close()
    path.write_bytes(b"something else" * 1000)
    with pytest.raises(InputError, match="no journal of a scan, or a damaged one"):
        scan([str(photos)], out, checker, **QUICK)


def test_verdicts_that_were_made_stay_until_something_changes(
    checker: Verifier, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that could not be written costs no second judgement; another alpha does."""
    judged: list[int] = []
    judge = checker.judge
    monkeypatch.setattr(
        checker, "judge", lambda groups, *rest: judged.append(len(groups)) or judge(groups, *rest)
    )

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "f.parquet"
    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetWriter, "write_table", full)
        with pytest.raises(InputError, match="no space is left; everything that was read is kept"):
            scan([str(photos)], out, checker, **QUICK)
        assert [path.name for path in tmp_path.iterdir()] == ["f.parquet.journal"]
        groups = sum(judged)
        with pytest.raises(InputError, match="no space is left"):
            scan([str(photos)], out, checker, **QUICK)
        assert sum(judged) == groups
        with pytest.raises(InputError, match="no space is left"):
            scan([str(photos)], out, checker, alpha=1e-9, **QUICK)
        assert sum(judged) == 2 * groups
    assert scan([str(photos)], out, checker, **QUICK).attributed == 40


def test_a_full_disk_under_the_journal_is_said_and_nothing_read_is_lost(
    checker: Verifier, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, out = journal.Journal.record, tmp_path / "f.parquet"

    def small(self: journal.Journal, records: Any) -> None:
        if not self.tally().read:  # SQLite itself answers as on a full disk
            ((pages,),) = self._database.execute("PRAGMA page_count")
            self._database.execute(f"PRAGMA max_page_count = {pages + 5}")
        record(self, records)

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "record", small)
        with pytest.raises(InputError, match="no space is left for") as caught:
            scan([str(photos)], out, checker, **QUICK)
    assert "goes on where it stopped" in caught.value.hint
    kept = sqlite3.connect(f"{out}.journal")
    ((before,),) = kept.execute("SELECT count(*) FROM readings")
    kept.close()
    assert 0 < before < 60
    assert scan([str(photos)], out, checker, **QUICK).images == 60


def test_a_folder_without_images_is_an_error(checker: Verifier, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    out = tmp_path / "f.parquet"
    with pytest.raises(InputError, match="there is no image in what was to be scanned"):
        scan([str(folder)], out, checker, **QUICK)
    (folder / "a.txt").write_text("text")
    with pytest.raises(InputError, match="there is no image among 1 files"):
        scan([str(folder)], out, checker, **QUICK)
    assert not list(tmp_path.glob("f.parquet*")), "the next scan begins anew"
    for wrong in (tmp_path / "none" / "f.parquet", folder):
        with pytest.raises(InputError, match=r"is no folder to write|is a folder"):
            scan([str(folder)], wrong, checker, **QUICK)
    with pytest.raises(InputError, match="no scan with this --out was interrupted"):
        scan([str(folder)], tmp_path / "h.parquet", checker, so_far=True, **QUICK)


def test_the_command_prints_the_summary(world: World, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.parquet"
    command = ["scan", str(photos), "--out", str(out), "--bundle", str(world.folder / "test.bundle")]
    command += ["--device", "cpu", "--no-pose-search"]
    result = CliRunner().invoke(cli.cli, [*command, "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["schema"] == table.SCHEMA
    assert set(document) == {"schema", *Summary.__dataclass_fields__}
    assert (document["images"], document["attributed"], document["undecided"]) == (60, 40, 20)
    result = CliRunner().invoke(cli.cli, command)
    assert "attributed    40 images by themselves" in result.stdout
    assert "model         birds@1: 20 images" in result.stdout
    wrong = CliRunner().invoke(cli.cli, [*command, "--address", "auto"])
    assert (wrong.exit_code, "--address goes with --engine ray" in wrong.output) == (2, True)
    command[1:4] = [str(tmp_path / "missing.png"), "--out", str(tmp_path / "g.parquet")]
    result = CliRunner().invoke(cli.cli, command)
    assert (result.exit_code, "0 images in 0 groups" in result.stdout) == (2, True)
    assert "1: cannot read it: No such file or directory" in result.stdout
    assert [row["verdict"] for row in rows(tmp_path / "g.parquet")] == ["error"]


def test_the_command_ends_with_130_after_ctrl_c(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    background(1).resize((512, 512)).save(folder / "0.png")
    for number in range(1, 400):
        (folder / f"{number}.png").hardlink_to(folder / "0.png")
    command = [sys.executable, "-m", "verifier", "scan", str(folder), "--out", str(tmp_path / "f.parquet")]
    command += ["--bundle", str(world.folder / "test.bundle"), "--device", "cpu"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    path = tmp_path / "f.parquet.journal-wal"
    while process.poll() is None and not (path.exists() and path.stat().st_size > 400_000):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130, told
    assert "are kept in" in told
    assert "add --so-far" in told


def test_the_journal_is_its_owners_alone(checker: Verifier, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        scan([str(photos)], tmp_path / "f.parquet", checker, progress=interrupting(8), **QUICK)
    assert (tmp_path / "f.parquet.journal").stat().st_mode & 0o777 == 0o600
    (tmp_path / "g.parquet.journal").mkdir()
    with pytest.raises(InputError, match=r"g.parquet.journal"):
        scan([str(photos)], tmp_path / "g.parquet", checker, **QUICK)
