"""What this installation can do, tried out and not only listed: ``verifier doctor``.

diagnosis = examine()
print(json.dumps(diagnosis.document()))               # schema hallmark/doctor/1
"""

from __future__ import annotations

import io
import platform
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from PIL import Image

from verifier.devices import PROVIDERS, Device, install_hint, processors, start
from verifier.display import Row
from verifier.errors import VerifierError
from verifier.images import MAX_BYTES, MAX_PIXELS, readable_formats

SCHEMA = "hallmark/doctor/1"

PACKAGES = {
    "hallmark": "",
    "cryptography": "",
    "numpy": "",
    "pillow": "",
    "onnxruntime-gpu": "",
    "onnxruntime": "",
    "faiss-cpu": "search",
    "pi-heif": "heic",
    "tuf": "update",
    "pyarrow": "scan",
    "ray": "scan",
    "fpdf2": "report",
}
"""What is looked for, and the extra that brings it."""

VECTOR_FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimd", "asimddp", "i8mm")
"""As Linux names them: what an onnxruntime on the CPU owes its speed to (VNNI: sums of 8-bit products)."""

# The graph y = x + x, [1] float: what would write it, the package onnx, is not among the verifier's own.
_TINY = bytes.fromhex(
    "08083a380a0e0a01780a01781201792203416464120474696e795a0f0a0178120a0a08080112040a020801620f0a0179120a"
    "0a08080112040a02080142040a001011"
)


@dataclass(frozen=True)
class Started:
    """A device: whether a network starts on it, and if not what is missing and what to do."""

    device: str
    starts: bool
    missing: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What was found. ``packages`` are versions, None where absent; ``formats`` those that can be read;
    ``guard`` says why no process for decoding can be started, and is empty if it can."""

    python: str
    system: str
    processors: int
    vector_flags: list[str]
    packages: dict[str, str | None]
    devices: list[Started]
    formats: dict[str, bool]
    guard: str

    def document(self) -> dict[str, Any]:
        """The JSON object of schema ``hallmark/doctor/1``."""
        limits = {"bytes": MAX_BYTES, "pixels": MAX_PIXELS}
        return {"schema": SCHEMA, **asdict(self), "limits": limits}

    @property
    def sound(self) -> bool:
        """Whether images can be checked at all."""
        return not self.guard and any(device.starts for device in self.devices)


def examine() -> Diagnosis:
    """Look around and try everything once: some seconds where there is a graphics card."""
    return Diagnosis(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processors=processors(),
        vector_flags=_vector_flags(),
        packages={name: _version(name) for name in PACKAGES},
        devices=[_try(Device(kind)) for kind in PROVIDERS],
        formats=readable_formats(),
        guard=_try_guard(),
    )


def rows(diagnosis: Diagnosis) -> Iterator[Row]:
    """A diagnosis for people."""
    yield Row(
        "", "Hallmark verifier: " + ("ready" if diagnosis.sound else "NOT READY"), _colour(diagnosis.sound)
    )
    yield Row("system", f"Python {diagnosis.python}, {diagnosis.system}")
    flags = ", ".join(diagnosis.vector_flags) or "vector units unknown"
    yield Row("processors", f"{diagnosis.processors}: {flags}")
    for name, found in diagnosis.packages.items():
        if found or PACKAGES[name]:
            missing = f"not installed (optional: pip install 'hallmark[{PACKAGES[name]}]')"
            yield Row("package", f"{name} {found or missing}")
    for device in diagnosis.devices:
        told = "starts" if device.starts else f"does not start: {device.missing}. {device.hint}"
        yield Row("device", f"{device.device} {told}", _colour(device.starts))
    able = ", ".join(name for name, readable in diagnosis.formats.items() if readable)
    unable = ", ".join(name for name, readable in diagnosis.formats.items() if not readable)
    yield Row("images", able + (f"; not {unable}" if unable else ""))
    yield Row("limits", f"{MAX_BYTES >> 20} MiB and {MAX_PIXELS / 1e6:.0f} megapixels an image")
    if diagnosis.guard:
        yield Row("decoding", diagnosis.guard, "red")


def _try(device: Device) -> Started:
    session, missing = start(_TINY, device)
    if session is None:
        return Started(str(device), False, missing, install_hint(device.kind))
    return Started(str(device), True)


def _try_guard() -> str:
    from verifier.guard import decode_guarded

    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "BMP")
    try:
        decode_guarded(file.getvalue(), "a test image", MAX_PIXELS, None)
    except VerifierError as error:
        return error.diagnostics()
    return ""


def _vector_flags() -> list[str]:
    found: set[str] = set()
    with suppress(OSError):  # Linux alone has the file
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                found.update(value.split())
    return [flag for flag in VECTOR_FLAGS if flag in found]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _colour(good: bool) -> str:
    return "green" if good else "yellow"
