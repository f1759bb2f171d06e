"""Where a network runs: onnxruntime's providers, started and not only listed.

    session, device, why = open_session(onnx, "auto")         # "cpu", "no NVIDIA driver is installed: ..."

A device that was asked for runs or is an error that names what is missing; only ``auto`` may choose, and says
why it did not take the graphics card. TensorRT is never chosen by itself: it builds an engine for minutes.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import os
import re
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verifier.errors import InputError
from verifier.quiet import quiet_libraries

with quiet_libraries():  # it reports graphics cards that it cannot open while it is imported
    import onnxruntime

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
FORMS = "auto, cpu, cuda, cuda:N or tensorrt"

_FATAL = 4  # onnxruntime's severity above which it logs
_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_INSTALL = {
    "cuda": "Install an NVIDIA driver and CUDA's libraries (pip install 'onnxruntime-gpu[cuda,cudnn]'), "
    "or use --device cpu.",
    "tensorrt": "Install TensorRT 10 where the system finds its libraries, or use --device cuda.",
}


@dataclass(frozen=True)
class Device:
    """A kind of PROVIDERS, and the number of the graphics card."""

    kind: str
    index: int = 0

    @classmethod
    def parse(cls, text: str) -> Device:
        """``cuda:1`` and the like, without ``auto``; :class:`InputError` for anything else."""
        match = re.fullmatch(r"(cpu|cuda|tensorrt)|(cuda):(\d{1,3})", text)
        if match is None:
            raise InputError(f"--device {text}: choose one of {FORMS}.")
        return cls(match[1] or match[2], int(match[3] or 0))

    def __str__(self) -> str:
        return f"{self.kind}:{self.index}" if self.index else self.kind

    def providers(self, half: bool = False) -> list[Any]:
        """What onnxruntime is asked for: the device, and whatever computes what the device cannot.

        ``half``: the network is one in half precision, which TensorRT must be told.
        """
        if self.kind == "cpu":
            return [PROVIDERS["cpu"]]
        # Without TF32, whose products keep 10 bits of the mantissa: logits are to be the CPU's.
        cuda = (PROVIDERS["cuda"], {"device_id": str(self.index), "use_tf32": "0"})
        if self.kind == "cuda":
            return [cuda, PROVIDERS["cpu"]]
        options = {"device_id": str(self.index), "trt_fp16_enable": str(int(half))}
        return [(PROVIDERS["tensorrt"], options), cuda, PROVIDERS["cpu"]]

    @property
    def memory(self) -> tuple[str, int]:
        """Where its tensors lie, as onnxruntime names that."""
        return ("cpu", 0) if self.kind == "cpu" else ("cuda", self.index)


def open_session(onnx: bytes, device: str, threads: int = 0) -> tuple[Any, str, str]:
    """An inference session, the device it runs on, and why ``auto`` chose that (else an empty text).

    ``threads`` are those of one run on a CPU; with 0 it takes all processors.
    """
    if device != "auto":
        chosen = Device.parse(device)
        session, missing = start(onnx, chosen, threads)
        if session is None:
            raise InputError(f"--device {device} does not start: {missing}.", _INSTALL[chosen.kind])
        return session, str(chosen), ""
    session, missing = start(onnx, Device("cuda"), threads)
    if session is not None:
        return session, "cuda", "a graphics card that starts"
    session, _ = start(onnx, Device("cpu"), threads)
    return session, "cpu", missing


class Bound:
    """A session fed through memory of its device that is kept from run to run: onnxruntime's I/O binding.

    Every run is of the same shapes; threads may share it, each has memory of its own.
    """

    def __init__(
        self, session: Any, device: Device, pixels: tuple[int, ...], logits: tuple[int, ...]
    ) -> None:
        self._session, self._device, self._shapes = session, device, (pixels, logits)
        self._own = threading.local()

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The session's ``logits`` for ``pixels``."""
        own = self._own
        if not hasattr(own, "binding"):
            new = onnxruntime.OrtValue.ortvalue_from_shape_and_type
            given, answered = self._shapes
            own.pixels = new(given, np.uint8, *self._device.memory)
            own.logits = new(answered, np.float32, *self._device.memory)
            own.binding = self._session.io_binding()
            own.binding.bind_ortvalue_input("pixels", own.pixels)
            own.binding.bind_ortvalue_output("logits", own.logits)
        own.pixels.update_inplace(pixels)
        self._session.run_with_iobinding(own.binding)
        return np.array(own.logits.numpy())  # on a CPU that is the memory itself


def processors() -> int:
    """Those that this process may use."""
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return _granted() or seen


def _granted() -> int:
    """Threads by the variable with which job systems (Ray, Slurm) share out processors, 0 without it.

    onnxruntime's own builds ignore it.
    """
    with contextlib.suppress(KeyError, ValueError):
        return max(0, int(os.environ["OMP_NUM_THREADS"]))
    return 0


def start(onnx: bytes, device: Device, threads: int = 0, half: bool = False) -> tuple[Any, str]:
    """A session on exactly ``device``, or None and what is missing. :class:`InputError` for a bad network.

    ``half``: see :meth:`Device.providers`.
    """
    if device.kind != "cpu" and (missing := _missing(device.kind)):
        return None, missing
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    # Idle threads that spin take the processor from what runs between two readings.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.intra_op_num_threads = threads or _granted()
    try:
        with quiet_libraries():
            onnxruntime.set_default_logger_severity(_FATAL)
            session = onnxruntime.InferenceSession(onnx, options, providers=device.providers(half))
    except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions share no base
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
        if device.kind != "cpu":
            return None, reason
        raise InputError(f"network.onnx cannot be loaded: {reason}.") from None
    if session.get_providers()[0] != PROVIDERS[device.kind]:
        return None, "onnxruntime fell back to another provider without a word"
    return session, ""


def install_hint(kind: str) -> str:
    """What to do where a kind does not start."""
    return _INSTALL[kind]


@functools.cache
def _missing(kind: str) -> str:
    """The part that a graphics card's provider lacks on this machine, or an empty text."""
    available = onnxruntime.get_available_providers()
    if PROVIDERS[kind] not in available:
        return f"this onnxruntime has no {PROVIDERS[kind]} (it has {', '.join(available)})"
    try:
        ctypes.CDLL(_DRIVER)
    except OSError as error:
        return f"no NVIDIA driver is installed: {error}"
    _preload()
    folder = Path(onnxruntime.__file__).parent / "capi"
    # The shared part comes first: the other two resolve symbols in it.
    for library in ("shared", *(("cuda", "tensorrt") if kind == "tensorrt" else ("cuda",))):
        for path in folder.glob(f"*onnxruntime_providers_{library}.*"):
            try:
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                return f"a library is missing: {str(error).splitlines()[0]}"
    return ""


def _preload() -> None:
    """Load CUDA's libraries from their pip packages, where the system's loader would not look."""
    if hasattr(onnxruntime, "preload_dlls"):  # since 1.21
        # It prints what it does not find; _missing says that better.
        with quiet_libraries(), contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
            onnxruntime.preload_dlls()
