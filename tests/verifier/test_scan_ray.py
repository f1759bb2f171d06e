"""The same scan on a Ray cluster of two workers, one of which is killed midway."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.factories import background, make_world
from verifier import Verifier
from verifier.scan import cluster, scan


def workers() -> list[int]:
    """Process ids of the cluster's actors, as they call themselves."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes()
            mine = f"HALLMARK_TEST={os.getpid()}".encode() in (folder / "environ").read_bytes()
        except OSError:
            continue
        if mine and name.startswith(b"ray::MapWorker"):
            found.append(int(folder.name))
    return sorted(found)


# Ray leaves sockets and files to its processes, and warns of its own future.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(600)
def test_nothing_is_lost_or_doubled_when_a_worker_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("HALLMARK_TEST", str(os.getpid()))
    monkeypatch.setattr(cluster, "BATCHES", 1)
    world = make_world(tmp_path, keys=20)
    folder = tmp_path / "images"
    folder.mkdir()
    for seed in range(60):
        world.image(seed % 3, seed).save(folder / f"key{seed}.png")
        background(seed).save(folder / f"foreign{seed}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / os.fsdecode(b"odd\xff.png")).write_bytes((folder / "key0.png").read_bytes())
    checker = Verifier.from_bundle(world.bundle(), device="cpu")
    scan([str(folder)], tmp_path / "local.parquet", checker, pose_search=False)
    killed: list[int] = []

    def display(stage: str, total: int | None = None) -> Callable[[int], None]:
        seen = 0

        def step(count: int) -> None:
            nonlocal seen
            seen += count
            if stage == "reading" and seen >= 16 and not killed:
                assert len(workers()) == 2
                killed.append(workers()[0])
                os.kill(killed[0], signal.SIGKILL)

        return step

    options: dict[str, Any] = {"engine": "ray", "workers": 2, "pose_search": False}
    summary = scan([str(folder)], tmp_path / "ray.parquet", checker, progress=display, **options)
    assert killed
    assert (summary.images, summary.attributed, summary.errors) == (122, 61, 1)

    def rows(name: str) -> list[dict[str, Any]]:
        return sorted(pq.read_table(tmp_path / name).to_pylist(), key=lambda row: row["path"])

    assert rows("ray.parquet") == rows("local.parquet")
