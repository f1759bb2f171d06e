"""How long `verifier check` takes: one image as a whole process, pose search, and images in bulk.

python -m bench.verify [--quick] [--peer PYTHON]

The yardstick of a whole process is the bare import of the six packages that the verifier depends on; that of
bulk work is an onnxruntime session that is fed the same network with ready batches and does nothing else,
both with all processors, and both with one thread (then in processor time, which others on the machine
disturb less). Reading is measured from files to logits; checking adds the search among the keys and the
proofs of what is named. ``--peer`` is an interpreter that has trustmark, whose mere import is compared (it
depends on torchvision, which does not go with Hallmark's environment); without it that goal is left out.

From JPEGs of several sizes to readings it is measured on every device that starts, against what the network
itself does there with ready canvases, as many as it takes at a time.

Half precision, in which graphics cards read, is compared with single on the shipped networks, on images of
noise, parts of the copies' images, and the hardest canvases: weights and what every node gives are rounded to
16 bits, sums are not.
"""

from __future__ import annotations

import os
import statistics
import sys
import sysconfig
import time
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from bench.common import Goal, Prepared, close, in_turn, prepared, process
from bench.images import bulk
from registry.attribution.attacks import ATTACKS
from registry.attribution.half import hard_images
from registry.generators.builtin import ROOT
from verifier import Verifier
from verifier.check import IMAGES_AT_A_TIME
from verifier.devices import Device, processors, start
from verifier.network import TOLERANCE, Network
from verifier.reading import Reader, file_at, in_parallel

IMPORTS = "import click, cryptography, numpy, onnxruntime, PIL.Image, rich"
PEER = "import torch; torch.library.register_fake = lambda *_, **__: lambda f: f; import trustmark"
"""torchvision's wheels are built for CUDA builds of torch, and stumble over one without when they declare
their operators: that is left out, which only makes the import shorter."""

SIDES = (64, 256, 512)
"""Of the JPEGs that are read on every device, in pixels."""

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
        "one_thread_share_jpeg": Goal(">=", 0.9),
        "one_thread_share_png": Goal(">=", 0.9),
        "12_megapixels_bulk_times_pillow": Goal(">=", 3.0),
        "half_precision_most_quanta": Goal("<=", TOLERANCE),
    }
    with prepared(keys, images) as bench:
        figures = {"keys": float(keys + 1), **_single(bench, rounds, peer), **_bulk(bench, rounds)}
        reader = Reader(_networks(bench), pose_search=False)
        figures |= bulk(lambda path: reader.read([file_at(path)]), quick)
        for device in ("cpu", "cuda"):
            if start(_onnx(bench), Device(device))[0] is not None:
                figures |= _from_jpegs(bench, device, rounds)
            else:
                print(f"{device} does not start here and is left out.")
    figures |= _half(32 if quick else 256)
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
        alone = [_one_thread(bench, Path(name) / kind, kind, rounds) for kind in ("jpeg", "png")]
    fastest = min(times[: len(BATCHES)])
    return {
        **alone[0],
        **alone[1],
        "bare_session_images_per_s": len(files) / fastest,
        "reading_images_per_s": len(files) / times[-2],
        "reading_share_of_bare_session": fastest / times[-2],
        "checking_images_per_s": len(files) / times[-1],
        "checking_share_of_bare_session": fastest / times[-1],
    }


def _from_jpegs(bench: Prepared, device: str, rounds: int) -> dict[str, float]:
    """Images a second from JPEGs of several sizes to readings, and their share of the network's own rate."""
    verifier = Verifier.from_bundle(bench.bundle, device=device, parallel=True)
    (network,) = verifier.networks
    reader = Reader([network], pose_search=False)
    count = 4 * processors() * IMAGES_AT_A_TIME
    shape = (count // processors(), network.spec.size, network.spec.size, 3)
    canvases = np.random.default_rng(1).integers(0, 256, shape, np.uint8)

    def threads(work: Callable[[Any], object], tasks: Sequence[Any]) -> None:
        for _ in in_parallel(work, tasks, processors()):
            pass

    actions = [lambda: threads(network.logits, [canvases] * processors())]
    with TemporaryDirectory() as name:
        for side in SIDES:
            folder = Path(name) / str(side)
            folder.mkdir()
            paths = _distinct(bench.images, folder, count, side=side)
            starts = range(0, count, IMAGES_AT_A_TIME)
            batches = [[file_at(path) for path in paths[s : s + IMAGES_AT_A_TIME]] for s in starts]
            actions.append(partial(threads, reader.read, batches))
        alone, *reading = in_turn(actions, rounds)
    figures = {f"{device}_network_images_per_s": count / alone}
    for side, taken in zip(SIDES, reading, strict=True):
        figures |= {
            f"{device}_{side}_px_images_per_s": count / taken,
            f"{device}_{side}_px_share": alone / taken,
        }
    return figures


def _one_thread(bench: Prepared, folder: Path, kind: str, rounds: int) -> dict[str, float]:
    """Processor time of the bare session on one thread over that of reading files of a kind on one.

    And over that of a program that does nothing but open them with Pillow and run the session: more than that
    takes another decoder.
    """
    folder.mkdir()
    paths = _distinct(bench.images, folder, 6 * IMAGES_AT_A_TIME, kind)
    starts = range(0, len(paths), IMAGES_AT_A_TIME)
    batches = [paths[start : start + IMAGES_AT_A_TIME] for start in starts]
    reader = Reader(_networks(bench), pose_search=False)
    run = _session(bench, 1)

    def read() -> None:
        for batch in batches:
            reader.read([file_at(path) for path in batch])

    def plain() -> None:
        for batch in batches:
            run(np.stack([np.asarray(Image.open(path)) for path in batch]))

    actions = [*(_bare_session(bench, len(paths), batch, 1) for batch in BATCHES), plain, read]
    times: list[list[float]] = [[] for _ in actions]
    for _ in range(rounds):
        for action, found in zip(actions, times, strict=True):
            began = time.process_time()
            action()
            found.append(time.process_time() - began)
    *bare, opening, reading = map(statistics.median, times)
    return {
        f"one_thread_share_{kind}": min(bare) / reading,
        f"one_thread_share_{kind}_pillow_alone": min(bare) / opening,
    }


def _networks(bench: Prepared) -> Sequence[Network]:
    """As scans open them: one thread a run."""
    return Verifier.from_bundle(bench.bundle, device="cpu", parallel=True).networks


def _distinct(
    images: list[Path], folder: Path, count: int, kind: str = "jpeg", side: int | None = None
) -> list[Path]:
    """So many files of the sampled images, enlarged to ``side``; JPEGs, as most photographs are."""
    paths = [folder / f"{number}.{kind}" for number in range(count)]
    for number, path in enumerate(paths):
        with Image.open(images[number % len(images)]) as image:
            size = image.size if side is None else (side, side)
            image.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(path, quality=95)
    return paths


def _bare_session(bench: Prepared, images: int, batch: int, threads: int = 0) -> Callable[[], None]:
    """The action that runs ``images`` ready canvases through the session."""
    run = _session(bench, threads)
    side = Verifier.from_bundle(bench.bundle, device="cpu").networks[0].spec.size
    canvases = np.random.default_rng(1).integers(0, 256, (batch, side, side, 3), np.uint8)

    def action() -> None:
        for _ in range(images // batch):
            run(canvases)

    return action


def _session(bench: Prepared, threads: int) -> Callable[[NDArray[np.uint8]], object]:
    """onnxruntime's session of the network, as its documentation shows it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(_onnx(bench), options, providers=["CPUExecutionProvider"])
    return lambda canvases: session.run(None, {"pixels": canvases})


def _onnx(bench: Prepared) -> bytes:
    with zipfile.ZipFile(bench.bundle) as bundle:
        return bundle.read(next(name for name in bundle.namelist() if name.endswith("network.onnx")))


def _half(images: int) -> dict[str, float]:
    """Quanta by which readings of the shipped networks move in half precision: the most, and how many do."""
    most = moved = logits = 0
    for package in sorted(ROOT.glob("*/*/network")):
        network = Network.load(package, device="cpu")
        rounded = Network(_rounded(package / "network.onnx"), network.spec, "cpu")
        size = network.spec.size
        noise = np.random.default_rng(1).integers(0, 256, (images, 16, 16, 3), np.uint8)
        pictures = [Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC) for image in noise]
        with Image.open(package.parent / "copies.png") as sheet:
            whole = sheet.convert("RGB")
        steps = range(0, whole.width - size + 1, size // 4), range(0, whole.height - size + 1, size // 2)
        windows = [(left, top, left + size, top + size) for left in steps[0] for top in steps[1]]
        pictures += [whole.crop(window) for window in windows[:images]]
        pixels = np.concatenate([np.stack([np.asarray(each) for each in pictures]), hard_images(size)])
        apart = network.quantise(network.logits(pixels)) - network.quantise(rounded.logits(pixels))
        print(
            f"{package.parent.parent.name}: {len(pixels)} images, most {np.abs(apart).max()} quanta, "
            f"{(apart != 0).mean():.1%} of the readings moved"
        )
        most = max(most, int(np.abs(apart).max()))
        moved, logits = moved + int((apart != 0).sum()), logits + apart.size
    return {"half_precision_most_quanta": float(most), "half_precision_share_moved": moved / logits}


def _rounded(path: Path) -> bytes:
    """The network computed as a graphics card does in half precision: numbers in 16 bits, sums in 32."""
    model = onnx.load(path)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    floats = {
        value.name
        for value in (*inferred.value_info, *inferred.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        for place, name in enumerate(node.output):
            if name in floats:
                node.output[place] = f"{name}/exact"
                for given, made, kind in (("exact", "half", "FLOAT16"), ("half", "", "FLOAT")):
                    output = f"{name}/{made}" if made else name
                    to = onnx.TensorProto.DataType.Value(kind)
                    nodes.append(onnx.helper.make_node("Cast", [f"{name}/{given}"], [output], to=to))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())


if __name__ == "__main__":
    main()
