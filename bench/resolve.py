"""The search among up to 10^8 keys: how fast, how large, how soon made, and that it misses nothing.

python -m bench.resolve [--quick] [--folder FOLDER]

Keys are derived from a model secret as a registry's are, laid out, encrypted and written segment by segment,
then opened as a worker opens them. Readings are half of them random, half of keys of the table with a fifth
of their bits wrong. ``recall`` is held against every score of a matrix product in float32, whose integers are
exact. Times are medians of wall-clock time on whatever else the machine does; processor time stands beside.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from bench.common import Goal, close
from registry.progress import progress
from verifier import phi, resolve
from verifier.blocks import blocked
from verifier.phi import KEY_ID_BYTES, ModelSecret
from verifier.resolve import KeyIndex
from verifier.segments import SavedIndex

COPIES = 16
WRONG = 0.2
BATCH = 64
ROUNDS = 9
LABEL = "bench"
BANDWIDTH_BYTES = 1 << 29
BRUTE_ROWS, BRUTE_QUERIES = 1 << 9, 1000
"""Keys and queries multiplied at a time: their products (2 MB) stay in the second-level cache."""

GOALS = {
    "one_query_ms_{bits}": Goal("<=", 250.0),
    "batch_query_ms_{bits}": Goal("<=", 60.0),
    "size_ratio_{bits}": Goal("<=", 1.1),
    "build_keys_per_s_{bits}": Goal(">=", 1.5e6),
}


@dataclass(frozen=True)
class Case:
    """A table of ``keys`` keys of ``bits`` bits."""

    keys: int
    bits: int


FULL = [Case(10**8, 64), Case(10**7, 128), Case(10**7, 256)]
QUICK = [Case(2 * 10**6, 64), Case(3 * 10**5, 128), Case(3 * 10**5, 256)]


@click.command()
@click.option("--quick", is_flag=True, help="2 * 10^6 keys and 300 queries in place of 10^8 and 10 000.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where the index is written (2.4 GB).")
@click.option(
    "--queries", type=click.IntRange(10), help="Queries held against brute force [default: 10 000 or 300]."
)
def main(quick: bool, folder: Path | None, queries: int | None) -> None:
    """Build, open and search indices; the last line is JSON."""
    figures: dict[str, float] = {"bandwidth_gb_per_s": bandwidth() / 1e9}
    goals: dict[str, Goal] = {}
    for case in QUICK if quick else FULL:
        click.echo(f"{case.keys:,} keys of {case.bits} bits")
        with index_of(case, folder) as (index, built):
            figures |= built
            figures |= searched(index, figures["bandwidth_gb_per_s"] * 1e9)
        goals |= {name.format(bits=case.bits): goal for name, goal in GOALS.items()}
    count, usual = (10**6, 300) if quick else (10**7, 10_000)
    asked = queries or usual
    click.echo(f"{asked:,} queries among {count:,} keys against brute force")
    figures["recall_queries"] = asked
    figures["recall"], figures["settled_by_shortlist"] = recall(count, asked)
    goals["recall"] = Goal(">=", 1.0)
    project(figures, (QUICK if quick else FULL)[0])
    close("resolve", figures, goals)


def bandwidth() -> float:
    """Bytes a second that all cores read from memory together, the best of some rounds."""
    data = np.ones(BANDWIDTH_BYTES // 8, np.int64)
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        times = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            list(pool.map(np.add.reduce, np.array_split(data, cores)))
            times.append(time.perf_counter() - started)
    return BANDWIDTH_BYTES / min(times)


@contextmanager
def index_of(case: Case, folder: Path | None) -> Iterator[tuple[KeyIndex, dict[str, float]]]:
    """The index of a case, built and opened, with the figures of that."""
    bits = case.bits
    with tempfile.TemporaryDirectory(prefix="hallmark-bench-", dir=folder) as name:
        saved = SavedIndex(Path(name), os.urandom(32), LABEL, bits // 8)
        derived, derived_cpu, whole = build(case, saved)
        size = sum(path.stat().st_size for path in Path(name).glob("*.segment"))
        started = time.perf_counter()
        index, ids, _ = saved.load()
        opened = time.perf_counter() - started
        packed = case.keys * bits // 8
        blocks = sum(segment.blocks.nbytes for segment in index.segments)
        assert len(index) == len(ids) == case.keys
        yield (
            index,
            {
                f"build_keys_per_s_{bits}": case.keys / derived,
                f"build_keys_per_cpu_s_{bits}": case.keys / derived_cpu,
                f"build_and_write_keys_per_s_{bits}": case.keys / whole,
                f"open_s_{bits}": opened,
                f"size_ratio_{bits}": blocks / packed,
                f"file_ratio_{bits}": (size - 8 * case.keys) / packed,
            },
        )


def build(case: Case, saved: SavedIndex) -> tuple[float, float, float]:
    """Seconds until all keys are derived and laid out, of the clock and the processors; and until written.

    Key ids are drawn beforehand, segment by segment; drawing them is not counted.
    """
    secret = ModelSecret(os.urandom(32))
    derived = derived_cpu = whole = 0.0
    with progress("building", case.keys) as bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, case.keys, resolve.SEGMENT):
            count = min(resolve.SEGMENT, case.keys - first)
            drawn = os.urandom(KEY_ID_BYTES * count)
            ids = [drawn[i : i + KEY_ID_BYTES] for i in range(0, len(drawn), KEY_ID_BYTES)]
            started, used = time.perf_counter(), time.process_time()
            parts = [ids[i : i + (1 << 16)] for i in range(0, count, 1 << 16)]
            packed = np.concatenate(
                list(pool.map(lambda part: secret.bits(part, [0] * len(part), case.bits), parts))
            )
            blocked(packed, pool.map)
            derived += time.perf_counter() - started
            derived_cpu += time.process_time() - used
            saved.folder.mkdir(exist_ok=True)
            saved.write(first, packed, np.arange(first, first + count), first + count)
            whole += time.perf_counter() - started
            bar.update(first + count)
    return derived, derived_cpu, whole


def searched(index: KeyIndex, bytes_per_s: float) -> dict[str, float]:
    """Times of one query and of a batch, with the share of the memory's bandwidth that they use."""
    bits, rng = index.bits, np.random.default_rng(1)
    asked = readings(index, BATCH, rng)
    one, one_cpu = timed(lambda: index.top_batch(asked[:1], COPIES))
    batch, batch_cpu = timed(lambda: index.top_batch(asked, COPIES))
    scanned = len(index) * bits // 8
    return {
        f"one_query_ms_{bits}": 1e3 * one,
        f"one_query_cpu_ms_{bits}": 1e3 * one_cpu,
        f"batch_query_ms_{bits}": 1e3 * batch / BATCH,
        f"batch_query_cpu_ms_{bits}": 1e3 * batch_cpu / BATCH,
        f"bandwidth_share_{bits}": scanned / one / bytes_per_s,
    }


def timed(action: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of wall-clock time and of processor time."""
    action()
    wall, cpu = [], []
    for _ in range(ROUNDS):
        started, used = time.perf_counter(), time.process_time()
        action()
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
    return statistics.median(wall), statistics.median(cpu)


def readings(index: KeyIndex, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Readings as networks give them: every second one of a key of the table, a fifth of its bits wrong."""
    sizes = np.rint(np.abs(rng.normal(0, 60, (count, index.bits)))).clip(1, 128).astype(np.int64)
    signs = phi.unpack(index.rows(rng.integers(0, len(index), count))).astype(np.int64)
    signs[::2] = rng.integers(0, 2, signs[::2].shape) * 2 - 1
    wrong = rng.random(signs.shape) < WRONG
    return np.asarray(sizes * np.where(wrong, -signs, signs), np.int64)


def recall(count: int, queries: int) -> tuple[float, float]:
    """The share of queries whose best key is the one that scoring every key finds; and the share that no
    second look was needed for."""
    rng = np.random.default_rng(2)
    packed = rng.integers(0, 256, (count, 8), np.uint8)
    packed[-(count // 1000) :] = packed[: count // 1000]  # some keys twice: of equals the first one counts
    index = KeyIndex.of(packed)
    looks: list[int] = []
    scored = KeyIndex._scored

    def counted(*arguments: object) -> object:
        looks.append(1)
        return scored(*arguments)  # type: ignore[arg-type]

    right = done = 0
    starts = range(0, queries, BRUTE_QUERIES)
    asked = [readings(index, min(BRUTE_QUERIES, queries - start), rng) for start in starts]
    KeyIndex._scored = counted  # type: ignore[method-assign,assignment]
    try:
        with progress("brute force", queries) as bar, ThreadPoolExecutor(os.cpu_count()) as pool:
            truth = pool.map(lambda part: brute_force(packed, part), asked)
            for part, (rows, scores) in zip(asked, truth, strict=True):
                for found, row, score in zip(index.top_batch(part, 1), rows, scores, strict=True):
                    right += (int(found[0][0]), int(found[1][0])) == (row, score)
                bar.update(done := done + len(part))
    finally:
        KeyIndex._scored = scored  # type: ignore[method-assign]
    return right / queries, 1 - len(looks) / queries


def brute_force(packed: NDArray[np.uint8], asked: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """Row and score of each query's best key, of equals the first."""
    queries = asked.astype(np.float32)
    best, rows = np.full(len(asked), -np.inf, np.float32), np.zeros(len(asked), np.int64)
    for start in range(0, len(packed), BRUTE_ROWS):
        signs = phi.unpack(packed[start : start + BRUTE_ROWS]).astype(np.float32)
        products = queries @ signs.T
        places = products.argmax(axis=1)
        scores = products[np.arange(len(asked)), places]
        better = scores > best
        best[better], rows[better] = scores[better], places[better] + start
    return rows.tolist(), best.astype(np.int64).tolist()


def project(figures: dict[str, float], case: Case) -> None:
    """What 10^9 keys of 64 bits would need, with the arithmetic."""
    times = 10**9 / case.keys
    one, batch = figures["one_query_ms_64"], figures["batch_query_ms_64"]
    click.echo(
        f"\nProjection to 10^9 keys of 64 bits, the scan being linear in the keys:\n"
        f"  one query       {one:.1f} ms x {times:g} = {one * times / 1e3:.2f} s on {os.cpu_count()} cores\n"
        f"  of a batch      {batch:.1f} ms x {times:g} = {batch * times / 1e3:.2f} s\n"
        f"  build           10^9 / {figures['build_keys_per_s_64']:,.0f} a second = "
        f"{1e9 / figures['build_keys_per_s_64'] / 60:.1f} min\n"
        f"  memory          10^9 x 8 bytes x {figures['size_ratio_64']:.3f} = "
        f"{8 * figures['size_ratio_64']:.2f} GB, and 8 GB of ids\n"
        f"  opening         {figures['open_s_64']:.2f} s x {times:g} = {figures['open_s_64'] * times:.1f} s\n"
    )
    figures["projected_1e9_one_query_s"] = one * times / 1e3


if __name__ == "__main__":
    main()
