"""How long `verifier check` takes: one image as a whole process, pose search, and images in bulk.

python -m bench.verify [--quick] [--peer PYTHON]

The yardstick of a whole process is the bare import of the six packages that the verifier depends on; that of
bulk work is an onnxruntime session that is fed the same network with ready batches and does nothing else,
both with all processors. Reading is measured from files to logits; checking adds the search among the keys
and the proofs of what is named. ``--peer`` is an interpreter that has trustmark, whose mere import is
compared (it depends on torchvision, which does not go with Hallmark's environment); without it that goal is
left out.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import onnxruntime
from PIL import Image

from bench.common import Goal, Prepared, close, in_turn, prepared, process
from bench.images import speed
from registry.attribution.attacks import ATTACKS
from verifier import Verifier
from verifier.check import IMAGES_AT_A_TIME
from verifier.devices import processors
from verifier.reading import Reader, file_at, in_parallel

IMPORTS = "import click, cryptography, numpy, onnxruntime, PIL.Image, rich"
PEER = "import torch; torch.library.register_fake = lambda *_, **__: lambda f: f; import trustmark"
"""torchvision's wheels are built for CUDA builds of torch, and stumble over one without when they declare
their operators: that is left out, which only makes the import shorter."""

BATCHES = (16, 64)
"""Of the bare session: the faster one counts."""


@click.command()
@click.option("--quick", is_flag=True, help="Fewer keys and rounds: at most two minutes.")
@click.option("--peer", metavar="PYTHON", help="An interpreter that can import trustmark.")
def main(quick: bool, peer: str | None) -> None:
    """Measure the verifier's speed."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed is compiled
    keys, images, rounds = (10_000, 48, 5) if quick else (100_000, 192, 15)
    goals = {
        "process_ratio": Goal("<=", 1.5),
        "reading_share_of_bare_session": Goal(">=", 0.9),
        "12_megapixels_times_pillow": Goal(">=", 3.0),
    }
    with prepared(keys, images) as bench:
        figures = {"keys": float(keys + 1), **_single(bench, rounds, peer), **_bulk(bench, rounds)}
    figures |= speed(quick)
    if peer is not None:
        goals["times_faster_than_importing_trustmark"] = Goal(">=", 15.0)
    else:
        print("trustmark is not compared: no --peer PYTHON that has it was named.")
    close("verify", figures, goals)


def _single(bench: Prepared, rounds: int, peer: str | None) -> dict[str, float]:
    searched = _searched(bench)
    verifier = Path(sysconfig.get_path("scripts")) / "verifier"
    imports, check, search = in_turn(
        [
            process(sys.executable, "-c", IMPORTS),
            process(verifier, "check", bench.images[0], "--bundle", bench.bundle),
            process(verifier, "check", searched, "--bundle", bench.bundle),
        ],
        rounds,
    )
    figures = {
        "imports_s": imports,
        "process_s": check,
        "process_ratio": check / imports,
        "process_with_pose_search_s": search,
        "pose_search_s": search - check,
    }
    if peer is not None:
        command = process(verifier, "check", bench.images[0], "--bundle", bench.bundle)
        ours, theirs = in_turn([command, process(peer, "-c", PEER)], max(3, rounds // 3))
        figures |= {"trustmark_import_s": theirs, "times_faster_than_importing_trustmark": theirs / ours}
    return figures


def _searched(bench: Prepared) -> Path:
    """A cropped image that the verifier finds worth a pose search: its pose is not the whole canvas."""
    path = bench.folder / "cropped.png"
    for seed, source in enumerate(bench.images):
        with Image.open(source) as image:
            ATTACKS["crop"](image, np.random.default_rng(seed)).save(path)
            whole = image.width
        (finding,) = bench.commands.check([path], bench.bundle)
        if finding["images"][0]["pose"]["width"] != whole:
            return path
    raise SystemExit("no cropped image needed a pose search; there is nothing to measure")


def _bulk(bench: Prepared, rounds: int) -> dict[str, float]:
    """Images a second of the bare session, of reading files, and of checking them, in turn."""
    verifier = Verifier.from_bundle(bench.bundle, device="cpu", parallel=True)
    reader = Reader(verifier.networks, pose_search=False)
    with TemporaryDirectory() as name:
        files = _distinct(bench.images, Path(name), 4 * processors() * IMAGES_AT_A_TIME)
        starts = range(0, len(files), IMAGES_AT_A_TIME)

        def read() -> None:
            batches = ([file_at(path) for path in files[s : s + IMAGES_AT_A_TIME]] for s in starts)
            for _ in in_parallel(reader.read, batches, processors()):
                pass

        bare = [_bare_session(bench, len(files), batch) for batch in BATCHES]
        check = lambda: verifier.check(files, pose_search=False)  # noqa: E731
        times = in_turn([*bare, read, check], rounds)
    fastest = min(times[: len(BATCHES)])
    return {
        "bare_session_images_per_s": len(files) / fastest,
        "reading_images_per_s": len(files) / times[-2],
        "reading_share_of_bare_session": fastest / times[-2],
        "checking_images_per_s": len(files) / times[-1],
        "checking_share_of_bare_session": fastest / times[-1],
    }


def _distinct(images: list[Path], folder: Path, count: int) -> list[Path]:
    """So many files, JPEGs as most photographs are, of the sampled images."""
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        with Image.open(images[number % len(images)]) as image:
            image.convert("RGB").save(path, quality=95)
    return paths


def _bare_session(bench: Prepared, images: int, batch: int) -> Callable[[], None]:
    with zipfile.ZipFile(bench.bundle) as bundle:
        network = next(name for name in bundle.namelist() if name.endswith("network.onnx"))
        content = bundle.read(network)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (pixels,) = session.get_inputs()
    side = pixels.shape[1]
    canvases = np.random.default_rng(1).integers(0, 256, (batch, side, side, 3), np.uint8)

    def run() -> None:
        for _ in range(images // batch):
            session.run(None, {pixels.name: canvases})

    return run


if __name__ == "__main__":
    main()
