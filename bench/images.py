"""How the image loader stands up to hostile files, and how fast it is with honest ones.

python -m bench.images [--quick] [--mutations 200000] [--state FILE]

Mutated files of every format are decoded in a child process whose address space is limited; a file on which
it hangs, dies, or raises anything but a clean error is counted and kept beside the state. With ``--state``
the run can be interrupted and goes on where it stopped, mutation by mutation the same.
"""

from __future__ import annotations

import io
import json
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import pillow_heif
from PIL import Image, ImageCms

from bench.common import Goal, close, in_turn
from verifier import guard
from verifier.devices import processors
from verifier.images import MIN_SIDE, decode, load_image
from verifier.reading import in_parallel

ADDRESS_SPACE = 2 << 30
"""Of the fuzzed process: its files are small, so what comes near is an allocation that a mutation caused."""

DEADLINE = 1.5 * guard.SECONDS * guard.PATIENCE
"""Seconds for one mutation: longer than the loader's own deadline, which must have ended it before."""

SLOW = 30.0
"""Seconds from which a file is worth a look."""

CHUNK = 5000
SIDE = 256

BULK = 8
"""Times that a photograph is read in bulk."""

pillow_heif.register_heif_opener()


def seeds() -> list[tuple[str, bytes]]:
    """(format, file): small files of every format and of the features that decoders get wrong."""
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (5, 6, 3), np.uint8)
    picture = Image.fromarray(noise).resize((48, 40), Image.Resampling.BICUBIC)
    clear = picture.copy()
    clear.putalpha(Image.linear_gradient("L").resize((48, 40)))
    exif = Image.Exif()
    exif[0x0112] = 6
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    wide = Image.fromarray(rng.integers(0, 65536, (40, 48), np.uint16))
    tagged = {"exif": exif, "icc_profile": srgb}

    def frames() -> dict[str, Any]:  # anew each time: an encoder leaves settings in the images
        return {"save_all": True, "append_images": [picture.rotate(90), picture.rotate(180)]}

    def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
        file = io.BytesIO()
        image.copy().save(file, kind, **options)
        return file.getvalue()

    return [
        *(("JPEG", saved(picture, "JPEG", **options)) for options in ({}, {"progressive": True}, tagged)),
        ("JPEG", saved(picture.convert("CMYK"), "JPEG")),
        ("JPEG", saved(picture, "MPO", **frames())),
        *(("PNG", saved(image, "PNG")) for image in (picture, clear, wide, picture.convert("1"))),
        ("PNG", saved(picture.quantize(9), "PNG", transparency=1)),
        ("PNG", saved(picture, "PNG", **tagged)),
        ("PNG", saved(picture, "PNG", **frames())),
        *(("WebP", saved(image, "WEBP", lossless=exact)) for image in (picture, clear) for exact in (0, 1)),
        *(("WebP", saved(picture, "WEBP", **options)) for options in (frames(), tagged)),
        *(("BMP", saved(image, "BMP")) for image in (picture, picture.quantize(9), picture.convert("1"))),
        *(
            ("TIFF", saved(picture, "TIFF", compression=compression))
            for compression in (None, "tiff_lzw", "jpeg", "tiff_adobe_deflate", "packbits", "zstd", "lzma")
        ),
        *(("TIFF", saved(picture.convert("1"), "TIFF", compression=c)) for c in ("group3", "group4")),
        *(("TIFF", saved(image, "TIFF")) for image in (clear, wide, picture.convert("CMYK"))),
        *(("TIFF", saved(picture.convert("F"), "TIFF", **options)) for options in ({}, tagged)),
        ("TIFF", saved(picture, "TIFF", **frames())),
        *(("GIF", saved(picture, "GIF", **options)) for options in ({}, frames(), {"comment": b"x" * 50})),
        *(("AVIF", saved(image, "AVIF", speed=10)) for image in (picture, clear)),
        *(("AVIF", saved(picture, "AVIF", speed=10, **options)) for options in (frames(), tagged)),
        *(("HEIC", saved(image, "HEIF")) for image in (picture, clear)),
        ("HEIC", saved(picture, "HEIF", icc_profile=srgb)),
        ("HEIC", saved(picture, "HEIF", **frames())),
    ]


def mutated(data: bytes, generator: random.Random) -> bytes:
    """``data`` with some bytes changed, and now and then cut, or a piece moved, doubled or taken out."""
    changed = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 5, 20))):
        reach = len(changed) if generator.random() < 0.5 else min(300, len(changed))
        at = generator.randrange(reach)
        if generator.random() < 0.3:
            edge = generator.choice(
                (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1", b"\x80")
            )
            changed[at : at + len(edge)] = edge
        else:
            changed[at] = generator.randrange(256)
    if generator.random() < 0.2:
        start = generator.randrange(len(changed))
        piece = changed[start : start + generator.randrange(1, 64)]
        how = generator.random()
        if how < 0.4:
            del changed[start:]
        elif how < 0.6:
            del changed[start : start + len(piece)]
        else:
            at = generator.randrange(len(changed))
            changed[at:at] = piece * generator.choice((1, 2, 30))
    return bytes(changed) or b"\0"


@dataclass
class Tally:
    """What came of the mutations so far."""

    done: int = 0
    images: int = 0
    errors: int = 0
    crashes: int = 0
    hangs: int = 0
    unclean: int = 0
    slow: int = 0
    peak_bytes: int = 0
    slowest_s: float = 0.0
    kept: list[str] = field(default_factory=list)


def mutation(number: int, files: list[tuple[str, bytes]]) -> bytes:
    """Mutation ``number``: the same in every run."""
    generator = random.Random(number)
    return mutated(files[number % len(files)][1], generator)


@click.command()
@click.option("--quick", is_flag=True, help="Fewer mutations and smaller photographs: at most two minutes.")
@click.option("--mutations", default=200_000, show_default=True, help="Mutated files in total.")
@click.option("--state", type=click.Path(path_type=Path), help="Go on from this file; written as it goes.")
@click.option("--seconds", "limit", type=float, help="Stop after so long; --state lets the next run go on.")
@click.option("--worker", is_flag=True, hidden=True)
def main(quick: bool, mutations: int, state: Path | None, limit: float | None, worker: bool) -> None:
    """Fuzz the image loader and measure its speed."""
    if worker:
        _work()
        return
    tally = Tally(**json.loads(state.read_text())) if state and state.exists() else Tally()
    ends = time.monotonic() + limit if limit else float("inf")
    total = 2000 if quick else mutations
    while tally.done < total and time.monotonic() < ends:
        _fuzz(tally, min(CHUNK, total - tally.done), state)
        if state:
            state.write_text(json.dumps(asdict(tally)))
        print(f"\r{tally.done}/{total}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    counted = {name: float(value) for name, value in asdict(tally).items() if name != "kept"}
    goals = dict.fromkeys(("crashes", "hangs", "unclean"), Goal("<=", 0))
    goals["peak_bytes"] = Goal("<=", ADDRESS_SPACE)
    figures = {**counted, **({} if limit else speed(quick))}
    if not limit:
        goals["12_megapixels_bulk_times_pillow"] = Goal(">=", 3)
    close("images", figures, goals)


def _fuzz(tally: Tally, count: int, state: Path | None) -> None:
    """Have a child decode the next ``count`` mutations; a number on which it falls is counted and skipped."""
    command = [sys.executable, "-m", "bench.images", "--worker"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(b"%d %d\n" % (tally.done, count))  # all at once: nobody waits for the other
    child.stdin.close()
    for number in range(tally.done, tally.done + count):
        deadline = threading.Timer(DEADLINE, child.kill)
        deadline.start()
        line = child.stdout.readline()
        deadline.cancel()
        tally.done = number + 1
        if not line:
            kind = "hangs" if deadline.finished.is_set() and child.wait() == -signal.SIGKILL else "crashes"
            setattr(tally, kind, getattr(tally, kind) + 1)
            _keep(tally, number, kind, state)
            break
        told = json.loads(line)
        setattr(tally, told["outcome"], getattr(tally, told["outcome"]) + 1)
        tally.peak_bytes = max(tally.peak_bytes, told["peak_bytes"])
        tally.slowest_s = max(tally.slowest_s, told["seconds"])
        tally.slow += told["seconds"] > SLOW
        if told["outcome"] == "unclean" or told["seconds"] > SLOW:
            _keep(tally, number, told["why"] or "slow", state)
    child.kill()
    child.wait()
    child.stdout.close()


def _keep(tally: Tally, number: int, why: str, state: Path | None) -> None:
    tally.kept.append(f"{number}: {why}")
    if state:
        state.with_suffix(f".{number}").write_bytes(mutation(number, seeds()))


def _work() -> None:
    """The child: decode the mutations whose numbers come in, one line of JSON for each."""
    from verifier.errors import InputError

    files = seeds()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    first, count = map(int, sys.stdin.readline().split())
    for number in range(first, first + count):
        data = mutation(number, files)
        why, began = "", time.perf_counter()
        try:
            decoded = decode(data, "x", side=MIN_SIDE if number % 2 else None)  # JPEGs at reduced scale, too
            found = "images" if decoded.image.mode == "RGB" else "unclean"
        except InputError as error:
            found, why = "errors", error.diagnostics()
            if "crash" in why or "not decoded within" in why or "\n" in why:
                found = "unclean"  # the guard caught it: no harm done, but worth a look
        except Exception as error:  # noqa: BLE001 - what is looked for
            found, why = "unclean", repr(error)
        taken = time.perf_counter() - began
        told = {"outcome": found, "why": why, "seconds": taken, "peak_bytes": _peak()}
        print(json.dumps(told), flush=True)


def _peak() -> int:
    """Most memory that this process or one of its children has held."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ended = [1024 * resource.getrusage(each).ru_maxrss for each in who]
    living = [_highest(pid) for pid in guard.waiting()]
    return max(ended + living)


def _highest(pid: int) -> int:
    """A living process's most memory, as Linux tells it."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def speed(quick: bool) -> dict[str, float]:
    """Photographs from file to RGB against Pillow's full decode: one at a time, and in bulk as scans read."""
    figures: dict[str, float] = {}
    for name, size in _photographs(quick):
        with photographs(size, 1) as (path,):
            loaded, pillow = in_turn([partial(load_image, path, SIDE), partial(full_decode, [path])], 9)
        figures |= {f"{name}_ms": 1000 * loaded, f"{name}_times_pillow": pillow / loaded}
    return figures | bulk(lambda path: load_image(path, SIDE), quick)


def bulk(read: Callable[[Path], object], quick: bool) -> dict[str, float]:
    """12-megapixel JPEGs a second that threads ``read``, one for each processor, against Pillow's full decode
    of the same files: in a loop, as programs mostly have it, and in as many threads."""

    def threads(work: Callable[[Path], object]) -> None:
        for _ in in_parallel(work, BULK * paths, processors()):
            pass

    with photographs((4000, 3000), processors()) as paths:
        ours, loop, others = in_turn(
            [
                lambda: threads(read),
                lambda: full_decode(BULK * paths),
                lambda: threads(lambda path: full_decode([path])),
            ],
            3 if quick else 9,
        )
    return {
        "12_megapixels_bulk_per_s": BULK * len(paths) / ours,
        "12_megapixels_bulk_times_pillow": loop / ours,
        "12_megapixels_bulk_times_pillow_in_threads": others / ours,
    }


def full_decode(paths: list[Path]) -> None:
    """What programs do that know nothing of reduced scale."""
    for path in paths:
        with Image.open(path) as image:
            image.convert("RGB").load()


@contextmanager
def photographs(size: tuple[int, int], count: int) -> Iterator[list[Path]]:
    """So many JPEGs in a temporary folder."""
    with TemporaryDirectory(prefix="hallmark-photographs-") as folder:
        paths = [Path(folder) / f"{number}.jpg" for number in range(count)]
        for number, path in enumerate(paths):
            _photograph(size, number).save(path, quality=90)
        yield paths


def _photographs(quick: bool) -> Iterator[tuple[str, tuple[int, int]]]:
    yield "12_megapixels", (4000, 3000)
    if not quick:
        yield "48_megapixels", (8000, 6000)


def _photograph(size: tuple[int, int], seed: int) -> Image.Image:
    """Smooth shapes with a sensor's grain."""
    rng = np.random.default_rng(seed)
    shapes = Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    grain = np.clip(np.asarray(shapes, np.int16) + rng.integers(-4, 5, (size[1], size[0], 1)), 0, 255)
    return Image.fromarray(grain.astype(np.uint8))


if __name__ == "__main__":
    main()
