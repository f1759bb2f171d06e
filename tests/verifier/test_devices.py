from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from tests.factories import write_network
from verifier import devices
from verifier.devices import Device
from verifier.errors import InputError
from verifier.network import Network

HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def has_driver() -> bool:
    try:
        ctypes.CDLL(devices._DRIVER)
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("network"))


def test_devices_are_named_in_their_forms_only() -> None:
    assert Device.parse("cuda") == Device.parse("cuda:0") == Device("cuda", 0)
    assert Device.parse("cuda:3") == Device("cuda", 3)
    assert [str(Device.parse(text)) for text in ("cpu", "cuda:0", "cuda:7", "tensorrt")] == [
        *("cpu", "cuda", "cuda:7", "tensorrt")
    ]
    for text in (
        "abacus",
        "",
        "CPU",
        "cpu:1",
        "cuda:",
        "cuda:-1",
        "cuda:1000",
        "cuda:x",
        "tensorrt:1",
        "cuda:1\n",
    ):
        with pytest.raises(InputError, match=r"choose one of auto, cpu, cuda, cuda:N or tensorrt"):
            Device.parse(text)


@pytest.mark.skipif(has_driver(), reason="this machine has an NVIDIA driver")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "tensorrt"])
def test_a_device_that_does_not_start_is_an_error_that_names_what_is_missing(
    folder: Path, device: str, capfd: pytest.CaptureFixture[str]
) -> None:
    lacking = r"libcuda|nvcuda" if HAS_CUDA else "has no .*ExecutionProvider"
    with pytest.raises(InputError, match=rf"--device {device} does not start: .*({lacking})") as caught:
        Network.load(folder, device=device)
    assert caught.value.exit_code == 2
    assert "Install" in caught.value.hint
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(has_driver(), reason="this machine has an NVIDIA driver")
def test_auto_takes_the_cpu_and_says_why(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    network = Network.load(folder, device="auto")
    assert network.device == "cpu"
    assert ("no NVIDIA driver" if HAS_CUDA else "has no CUDAExecutionProvider") in network.chosen
    assert Network.load(folder, device="cpu").chosen == ""
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not has_driver(), reason="this machine has no NVIDIA driver")
def test_the_graphics_card_reads_as_the_cpu_does(folder: Path) -> None:
    from tests.factories import background

    cuda, cpu = Network.load(folder, device="cuda"), Network.load(folder, device="cpu")
    assert cuda.device == Network.load(folder, device="auto").device == "cuda"
    image = background(3)
    assert abs(cuda.read(image, False).logits - cpu.read(image, False).logits).max() <= 1


@pytest.mark.skipif(not HAS_CUDA or not sys.platform.startswith("linux"), reason="needs onnxruntime-gpu")
def test_a_missing_cuda_library_is_named_where_there_is_a_driver(folder: Path, tmp_path: Path) -> None:
    """A library by the driver's name is put in the loader's way: what is missing then is CUDA's own."""
    if has_driver():
        pytest.skip("this machine has an NVIDIA driver")
    empty = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime_providers_shared.so"))
    (tmp_path / "libcuda.so.1").symlink_to(empty)
    program = (
        "from verifier.network import Network\n"
        f"try: Network.load({str(folder)!r}, device='cuda')\n"
        "except Exception as error: print(type(error).__name__, error.diagnostics())\n"
        f"print(Network.load({str(folder)!r}).chosen)"
    )
    environment = {"LD_LIBRARY_PATH": str(tmp_path), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    error, chosen = done.stdout.splitlines()
    assert error.startswith("InputError --device cuda does not start: a library is missing: lib")
    assert "onnxruntime-gpu[cuda,cudnn]" in error
    assert "a library is missing: lib" in chosen
    assert done.stderr == ""


def test_threads_follow_the_variable_by_which_processors_are_shared_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value, threads in (("1", 1), ("3", 3), ("many", 0), ("-2", 0)):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        session, _ = devices.start((folder / "network.onnx").read_bytes(), Device("cpu"))
        assert session.get_session_options().intra_op_num_threads == threads
