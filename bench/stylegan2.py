"""StyleGAN2 at its published size on a CPU: memory and time of an image, and the bytes that are a copy's own.

python -m bench.stylegan2 [--quick] [--threads 2]

Configuration F at 1024 pixels (256 with --quick) with random weights, on which neither figure depends.
Base model and copy are rendered in a process of their own each; two copies are compared tensor by tensor.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import torch
from safetensors import safe_open

from bench.common import Goal, close
from registry.copies.splice import splice
from registry.fingerprints.basis import Basis
from registry.generators.adapters import get_adapter
from registry.generators.stylegan2.checkpoints import WEIGHTS, save_model
from registry.generators.stylegan2.network import Layout, Synthesis

BITS, STRENGTH = 64, 0.3
KIB = 1 if sys.platform == "darwin" else 1024
"""Unit of ``ru_maxrss`` in bytes."""


def make_base(size: int, folder: Path) -> Basis:
    """A generator of random weights in ``folder``, and a basis of random rows for it."""
    torch.manual_seed(0)
    save_model(Synthesis(Layout.config_f(size)).state_dict(), folder)
    adapter = get_adapter("stylegan2")
    (dimensions,) = adapter.latent_shape(folder)
    square = np.random.default_rng(0).standard_normal((dimensions, dimensions))
    rows = np.linalg.qr(square)[0][:BITS].astype(np.float32)
    return Basis("pca", STRENGTH, dimensions - BITS, "sha256:0", adapter.fold(folder, rows))


def make_copy(base: Path, basis: Basis, seed: int, folder: Path) -> Path:
    """A copy as the registry composes it, without a certificate."""
    signs = np.random.default_rng(seed).choice(np.array([-1, 1], np.int8), BITS)
    deltas = {name: delta for (_, name), delta in basis.deltas(signs).items()}
    folder.mkdir()
    with (base / WEIGHTS).open("rb") as source, (folder / WEIGHTS).open("wb") as target:
        for chunk in splice(source, (base / WEIGHTS).stat().st_size, deltas, {}).chunks(source):
            target.write(chunk)
    return folder


def differing_tensors(a: Path, b: Path) -> dict[str, int]:
    """Sizes in bytes, by name, of the tensors that are not the same in two models."""
    with safe_open(a / WEIGHTS, "np") as first, safe_open(b / WEIGHTS, "np") as second:
        pairs = ((name, first.get_tensor(name), second.get_tensor(name)) for name in first.keys())
        return {name: x.nbytes for name, x, y in pairs if not np.array_equal(x, y)}


def rendered(folder: Path, images: int, threads: int) -> dict[str, float]:
    """Figures of a fresh process that loads the model and renders ``images`` images one after another."""
    command = [sys.executable, "-m", "bench.stylegan2", "--render", str(folder)]
    command += ["--images", str(images), "--threads", str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def render(folder: Path, images: int) -> dict[str, float]:
    """Load, sample, measure: what :func:`rendered` runs."""
    started = time.perf_counter()
    adapter = get_adapter("stylegan2")
    adapter.check(folder)
    generator = adapter.load(folder)
    load, busy, times = time.perf_counter() - started, time.process_time(), []
    for seed in range(images):
        started = time.perf_counter()
        (image,) = generator.sample(1, seed)
        times.append(time.perf_counter() - started)
    assert image.size == (generator.size, generator.size)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB
    return {
        "load_seconds": load,
        "image_seconds": statistics.median(times),
        "image_processor_seconds": (time.process_time() - busy) / images,
        "peak_gb": peak / 1e9,
    }


@click.command()
@click.option("--quick", is_flag=True, help="256 pixels, one image.")
@click.option("--images", default=3, show_default=True, help="Images rendered one after another.")
@click.option("--threads", default=2, show_default=True)
@click.option("--render", "folder", type=click.Path(exists=True, path_type=Path), hidden=True)
def main(quick: bool, images: int, threads: int, folder: Path | None) -> None:
    """Measure one image, base and copy, and compare two copies."""
    torch.set_num_threads(threads)
    if folder is not None:
        print(json.dumps(render(folder, images)))
        return
    size, images = (256, 1) if quick else (1024, images)
    with tempfile.TemporaryDirectory(prefix="hallmark-bench-") as name:
        work = Path(name)
        basis = make_base(size, work / "base")
        ada, bob = (make_copy(work / "base", basis, seed, work / f"copy-{seed}") for seed in (1, 2))
        different = differing_tensors(ada, bob)
        elsewhere = different.keys() - {name for _, name in basis.directions}
        figures = {
            "pixels": float(size),
            "copy_bytes": float((ada / WEIGHTS).stat().st_size),
            "differing_bytes": float(sum(different.values())),
            "differing_bytes_besides_style_biases": float(sum(different[name] for name in elsewhere)),
            **{f"base_{key}": value for key, value in rendered(work / "base", images, threads).items()},
            **{f"copy_{key}": value for key, value in rendered(ada, images, threads).items()},
        }
    goals = {
        "differing_bytes": Goal("<=", 100_000.0),
        "differing_bytes_besides_style_biases": Goal("<=", 0.0),
        "base_peak_gb": Goal("<=", 4.0),
        "copy_peak_gb": Goal("<=", 4.0),
    }
    close("stylegan2", figures, goals)


if __name__ == "__main__":
    main()
