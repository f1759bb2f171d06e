"""The verifier as a single file: ``make verifier-pyz``, or

    python deploy/verifier_pyz.py --out dist/verifier.pyz [--gpu]
    ./dist/verifier.pyz check suspect.png --bundle flowers.bundle

The file holds the package ``verifier`` and what it depends on, taken from the environment that runs this
script, so in tested versions; of the registry nothing. It needs a Python of the same version and platform,
and unpacks itself once (into SHIV_ROOT, by default ~/.shiv). Without ``--gpu`` onnxruntime's CUDA and
TensorRT providers stay out: they are nine tenths of the size.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("heic", "search", "report")
PROVIDERS = ("*onnxruntime_providers_cuda*", "*onnxruntime_providers_tensorrt*")
KEPT = {"METADATA", "entry_points.txt"}  # of hallmark's own metadata: the rest tells of an editable install


def main() -> None:
    """Gather and pack."""
    parser = argparse.ArgumentParser(description="Build the single-file verifier.")
    parser.add_argument("--out", type=Path, default=Path("dist/verifier.pyz"))
    parser.add_argument("--gpu", action="store_true", help="with onnxruntime's CUDA and TensorRT providers")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="hallmark-pyz-") as work:
        packages = Path(work) / "packages"
        packages.mkdir()
        gather(packages, gpu=arguments.gpu)
        shiv = [sys.executable, "-m", "shiv", "--site-packages", str(packages), "--reproducible"]
        shiv += ["--entry-point", "verifier.cli:main", "--output-file", str(arguments.out)]
        # `env python3` may be another Python than the one whose compiled packages these are.
        shiv += ["--python", f"/usr/bin/env python{sys.version_info.major}.{sys.version_info.minor}"]
        subprocess.run(shiv, check=True)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.0f} MB")


def gather(packages: Path, gpu: bool) -> None:
    """Copy the verifier and all that it needs into the folder ``packages``."""
    caches = ("__pycache__", "*.pyc")
    left_out = shutil.ignore_patterns(*caches, *(() if gpu else PROVIDERS))
    shutil.copytree(ROOT / "verifier", packages / "verifier", ignore=left_out)
    hallmark = distribution("hallmark")
    metadata = packages / f"hallmark-{hallmark.version}.dist-info"
    metadata.mkdir()
    for name in KEPT:
        (metadata / name).write_text(hallmark.read_text(name) or "")
    for needed in needed_by(requirements()):
        for top in sorted({file.parts[0] for file in needed.files or []} - {"..", "__pycache__"}):
            source = Path(str(needed.locate_file(top)))
            if source.is_dir():
                shutil.copytree(source, packages / top, ignore=left_out, dirs_exist_ok=True)
            elif source.exists():
                shutil.copy2(source, packages / top)


def requirements() -> list[str]:
    """What the verifier asks for, with the EXTRAS, as pyproject.toml says."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["dependencies"] + [r for extra in EXTRAS for r in project["optional-dependencies"][extra]]


def needed_by(requirements: list[str]) -> Iterator[Distribution]:
    """Every installed distribution that these need on this platform, each once."""
    pending = [(Requirement(text), "") for text in requirements]
    seen = set()
    while pending:
        needed, extra = pending.pop()
        name = canonicalize_name(needed.name)
        if name in seen or (needed.marker is not None and not needed.marker.evaluate({"extra": extra})):
            continue
        seen.add(name)
        found = distribution(name)
        yield found
        for text in found.requires or []:
            pending += [(Requirement(text), extra) for extra in ("", *needed.extras)]


if __name__ == "__main__":
    main()
