"""How `verifier scan` grows: with the number of images in memory, with workers in speed.

python -m bench.scan [--quick] [--images 100000]

Memory: a process of its own scans hard links to a few images (so that the disk holds them), and its resident
memory is watched. What it holds while the last tenth is read and judged is compared with what it held after
the first tenth was read. Speed: images a second between the first and the last that were read, so without the
start of a cluster, with one worker and two, on Ray and without, each worker with one thread. Ray's workers
run at the priority of everybody else here, not at the low one that they have by default.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from bench.common import Goal, Prepared, close, prepared
from verifier import Verifier
from verifier.scan import scan

LINKS = 5000
"""Images in a folder, and to one file: fewer than file systems allow."""

SAMPLED = 0.1  # seconds between two looks at a process's memory

PROGRAM = """
import sys
from pathlib import Path
from verifier import Verifier
from verifier.scan import scan

def display(stage, total=None):
    done = 0
    def step(count):
        nonlocal done
        done += count
        print(stage, done, total, flush=True)
    return step

folder, out, bundle = sys.argv[1:]
checker = Verifier.from_bundle(bundle, device="cpu", parallel=True)
scan([folder], Path(out), checker, pose_search=False, progress=display)
"""


@click.command()
@click.option("--quick", is_flag=True, help="Fewer images and rounds: at most two minutes.")
@click.option("--images", type=click.IntRange(100), help="Images of the scan whose memory is watched.")
@click.option("--no-ray", is_flag=True, help="Leave Ray out.")
def main(quick: bool, images: int | None, no_ray: bool) -> None:
    """Measure scans."""
    count = images or (5000 if quick else 100_000)
    goals = {"memory_growth": Goal("<=", 1.1)}
    os.environ.setdefault("RAY_worker_niceness", "0")
    with prepared(1000, 24) as bench, TemporaryDirectory(prefix="hallmark-scan-") as name:
        figures = _memory(bench, _linked(bench, Path(name) / "many", count), count)
        some = _linked(bench, Path(name) / "some", 2400 if quick else 6000)
        rounds = 1 if quick else 3
        figures |= _workers(bench, some, "local", rounds)
        if not no_ray:
            figures |= _workers(bench, some, "ray", rounds)
            goals["ray_two_workers_times_one"] = Goal(">=", 1.6)
    close("scan", figures, goals)


def _linked(bench: Prepared, folder: Path, count: int) -> Path:
    """A folder of folders with so many names of the sampled images."""
    for start in range(0, count, LINKS):
        part = folder / str(start)
        part.mkdir(parents=True)
        source = part / "0.png"
        source.write_bytes(bench.images[start // LINKS % len(bench.images)].read_bytes())
        for number in range(1, min(LINKS, count - start)):
            os.link(source, part / f"{number}.png")
    return folder


def _memory(bench: Prepared, folder: Path, count: int) -> dict[str, float]:
    """Most resident memory after the first tenth and in the last tenth of both stages, in MB."""
    out = bench.folder / "many.parquet"
    arguments = list(map(str, (folder, out, bench.bundle)))
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    early, late, looked = 0.0, 0.0, 0.0
    for line in process.stdout:
        stage, done, total = line.split()
        share = int(done) / int(total) if total != "None" else 0.0
        if time.monotonic() - looked < SAMPLED and 0.01 < share < 0.99:
            continue
        looked, resident = time.monotonic(), _resident(process.pid)
        if stage == "reading" and 0.05 < share <= 0.1:
            early = max(early, resident)
        elif share >= 0.9:
            late = max(late, resident)
    if process.wait():
        raise SystemExit(f"the scan ended with {process.returncode}")
    return {
        "scanned_images": float(count),
        "scanned_images_per_s": count / (time.monotonic() - began),
        "memory_early_mb": early,
        "memory_late_mb": late,
        "memory_growth": late / early,
        "memory_growth_bytes_an_image": 1e6 * (late - early) / (0.9 * count),
        "table_mb": out.stat().st_size / 1e6,
    }


def _resident(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return int(status.split("VmRSS:")[1].split()[0]) / 1e3 if "VmRSS:" in status else 0.0


def _workers(bench: Prepared, folder: Path, engine: str, rounds: int) -> dict[str, float]:
    checker = Verifier.from_bundle(bench.bundle, device="cpu", parallel=True)
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for workers, found in rates.items():
            steps: list[tuple[float, int]] = []
            out = bench.folder / f"{engine}.parquet"
            options: dict[str, Any] = {"engine": engine, "workers": workers, "pose_search": False}
            scan([str(folder)], out, checker, progress=_timed(steps), **options)
            (first, _), (last, _) = steps[0], steps[-1]
            found.append(sum(count for _, count in steps[1:]) / (last - first))
    one, two = (statistics.median(found) for found in rates.values())
    return {
        f"{engine}_one_worker_images_per_s": one,
        f"{engine}_two_workers_images_per_s": two,
        f"{engine}_two_workers_times_one": two / one,
    }


def _timed(steps: list[tuple[float, int]]) -> Callable[..., Callable[[int], None]]:
    """A display that notes when how many images were read."""

    def begin(stage: str, total: int | None = None) -> Callable[[int], None]:  # noqa: ARG001
        def step(count: int) -> None:
            if stage == "reading" and count:
                steps.append((time.perf_counter(), count))

        return step

    return begin


if __name__ == "__main__":
    main()
