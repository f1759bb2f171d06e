"""How long `verifier check` takes: one image as a whole process, pose search, and images in bulk.

python -m bench.verify [--quick]

The yardstick of a whole process is the bare import of what it needs; that of bulk work is an
onnxruntime session that is fed the same network with ready batches and does nothing else.
"""

from __future__ import annotations

import sys
import sysconfig
import zipfile
from pathlib import Path

import click
import numpy as np
import onnxruntime
from PIL import Image

from bench.common import Goal, Prepared, close, in_turn, prepared, process, seconds
from registry.attribution.attacks import ATTACKS

IMPORTS = "import numpy, onnxruntime, PIL.Image, cryptography"
BATCH = 64


@click.command()
@click.option("--quick", is_flag=True, help="Fewer keys and rounds: at most two minutes.")
def main(quick: bool) -> None:
    """Measure the verifier's speed."""
    keys, images, rounds = (10_000, 48, 5) if quick else (100_000, 192, 15)
    with prepared(keys, images) as bench:
        figures = {"keys": float(keys + 1), **_single(bench, rounds), **_bulk(bench, 2 if quick else 5)}
    close("verify", figures, {"process_ratio": Goal("<=", 2.0)})


def _single(bench: Prepared, rounds: int) -> dict[str, float]:
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
    return {
        "imports_s": imports,
        "process_s": check,
        "process_ratio": check / imports,
        "process_with_pose_search_s": search,
        "pose_search_s": search - check,
    }


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
    """Images a second beyond the first, so that start-up is left out."""
    one, many = bench.images[:1], bench.images
    times = in_turn(
        [lambda: bench.commands.check(one, bench.bundle), lambda: bench.commands.check(many, bench.bundle)],
        rounds,
    )
    checked = (len(many) - 1) / (times[1] - times[0])
    bare = _bare_session(bench)
    return {
        "bulk_images_per_s": checked,
        "bare_session_images_per_s": bare,
        "bulk_share_of_bare_session": checked / bare,
    }


def _bare_session(bench: Prepared) -> float:
    with zipfile.ZipFile(bench.bundle) as bundle:
        network = next(name for name in bundle.namelist() if name.endswith("network.onnx"))
        content = bundle.read(network)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (pixels,) = session.get_inputs()
    side = pixels.shape[1]
    batch = np.random.default_rng(1).integers(0, 256, (BATCH, side, side, 3), np.uint8)
    session.run(None, {pixels.name: batch})
    taken = min(seconds(lambda: session.run(None, {pixels.name: batch})) for _ in range(10))
    return BATCH / taken


if __name__ == "__main__":
    main()
