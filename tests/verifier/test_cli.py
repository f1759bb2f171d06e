"""The command line: what is printed where, and the documented exit codes, also from a real process."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.factories import CREATED, World, make_world, write_copy
from verifier import check
from verifier.bundle import Bundle, Revocation
from verifier.cli import cli

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = make_world(tmp_path_factory.mktemp("world"), keys=20)
    made.revocations = [Revocation(made.models[0].documents[4]["key_id"], CREATED, "leaked to a forum")]
    made.bundle()
    return made


@pytest.fixture
def run(world: World, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in this process."""
    for name in ("HALLMARK_BUNDLE", "HALLMARK_TRUST", "HALLMARK_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    return lambda *arguments: CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture
def checked(world: World, run: Run) -> Run:
    """`verifier check ARGUMENTS --bundle ...`."""
    return lambda *arguments: run("check", *arguments, "--bundle", world.folder / "test.bundle")


def process(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "verifier", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HALLMARK_")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=environment, **{**pipes, **options})


def one_line(text: str) -> bool:
    return len(text.strip().splitlines()) == 1 and "Traceback" not in text


def test_an_attributed_image_ends_with_0_and_says_whose_it_is(world: World, checked: Run) -> None:
    result = checked(world.save_image(3))
    assert result.exit_code == 0
    assert "ATTRIBUTED" in result.stdout
    for shown in (world.copy_id(3), "bruno@example.com", "this image depends on the key of", "64 of 64 bits"):
        assert shown in result.stdout
    assert f"pin it with --trust {world.registry}" in result.stdout
    assert result.stderr == ""


def test_an_image_of_nobodys_copy_ends_with_1(world: World, checked: Run) -> None:
    result = checked(world.save_image(3), world.save_foreign(1))
    assert result.exit_code == 1
    assert "not attributed" in result.stdout
    assert "no copy can be named for this image at this alpha" in result.stdout
    assert "shared by 2 tests" in result.stdout


def test_an_unreadable_image_ends_with_2_after_the_others_were_checked(world: World, checked: Run) -> None:
    result = checked(world.folder / "missing.png", world.save_image(3), world.save_foreign(1))
    assert result.exit_code == 2
    assert "ERROR: cannot read" in result.stdout
    assert world.copy_id(3) in result.stdout


def test_a_set_is_worded_as_a_set(world: World, checked: Run) -> None:
    result = checked("--set", world.save_image(3, 1), world.save_image(3, 2), world.folder / "missing.png")
    assert result.exit_code == 2
    assert "set of 3 images: ATTRIBUTED" in result.stdout
    assert "at least one of these images depends on the key of" in result.stdout
    assert "p of the others without it" in result.stdout


def test_a_revoked_key_is_shown_with_its_reason(world: World, checked: Run) -> None:
    result = checked(world.save_image(4))
    assert result.exit_code == 0
    assert "leaked to a forum" in result.stdout


def test_json_is_one_object_a_line_and_nothing_else(world: World, checked: Run) -> None:
    result = checked("--json", world.save_image(3), world.save_foreign(1))
    documents = [json.loads(line) for line in result.stdout.splitlines()]
    assert [document["verdict"] for document in documents] == ["attributed", "not-attributed"]
    assert result.exit_code == 1
    assert one_line(result.stderr)
    assert world.registry in result.stderr
    pinned = checked("--json", "--trust", world.registry, world.save_image(3))
    assert (pinned.exit_code, pinned.stderr) == (0, "")


def test_options_reach_the_check(world: World, checked: Run) -> None:
    path = world.folder / "crop.png"
    world.image(12, size=64).crop((8, 4, 56, 52)).save(path)
    assert checked(path).exit_code == 0
    assert checked(path, "--no-pose-search").exit_code == 1
    assert checked(path, "--alpha", "1e-30").exit_code == 1
    document = json.loads(checked(path, "--alpha", "1e-3", "--json", "--device", "cpu").stdout)
    assert document["evidence"]["alpha"] == 1e-3
    assert document["network"]["device"] == "cpu"


def test_the_environment_names_the_bundle_and_the_registry(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HALLMARK_BUNDLE", str(world.folder / "test.bundle"))
    monkeypatch.setenv("HALLMARK_TRUST", world.registry)
    assert run("check", world.save_image(3)).exit_code == 0
    monkeypatch.setenv("HALLMARK_TRUST", "0" * 32)
    assert run("check", world.save_image(3)).exit_code == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["check"],
        ["check", "image.png"],
        ["check", "--bundle", "x"],
        ["check", "image.png", "--bundle", "x", "--device", "abacus"],
        ["check", "image.png", "--bundle", "x", "--alpha", "small"],
        ["check", "image.png", "--bundle", "x", "--unknown"],
        ["check", "image.png", "--bundle", "/nowhere/x"],
        ["divine"],
        ["inspect"],
        ["inspect", "/nowhere"],
        [],
    ],
)
def test_bad_requests_end_with_2_and_no_traceback(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert result.stderr


def test_a_bad_alpha_and_a_bundle_without_keys_end_with_2(world: World, run: Run, checked: Run) -> None:
    assert checked(world.save_image(3), "--alpha", "2").exit_code == 2
    public = world.bundle("public.bundle", with_keys=False)
    result = run("check", world.save_image(3), "--bundle", public)
    assert result.exit_code == 2
    assert one_line(result.stderr)
    assert "--with-keys" in result.stderr


def test_what_cannot_be_trusted_ends_with_3_in_one_line(world: World, run: Run, checked: Run) -> None:
    tampered = world.folder / "tampered.bundle"
    data = bytearray((world.folder / "test.bundle").read_bytes())
    data[len(data) // 2] ^= 1
    tampered.write_bytes(data)
    expired = world.bundle(
        "expired.bundle", created_at="2020-01-01T00:00:00Z", expires_at="2020-02-01T00:00:00Z"
    )
    image = world.save_image(3)
    for result in (
        run("check", image, "--bundle", tampered),
        run("check", image, "--bundle", expired),
        checked(image, "--trust", "0" * 32),
        run("check", image, "--bundle", image),
    ):
        assert result.exit_code == 3
        assert one_line(result.stderr)
        assert result.stdout == ""


def test_an_unexpected_error_ends_with_4_in_one_line(
    world: World, checked: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("something\nunforeseen")

    monkeypatch.setattr(check.Verifier, "findings", fail)
    result = checked(world.save_image(3))
    assert result.exit_code == 4
    assert one_line(result.stderr)
    assert "internal error: RuntimeError: something unforeseen" in result.stderr
    monkeypatch.setenv("HALLMARK_DEBUG", "1")
    assert "Traceback" in checked(world.save_image(3)).stderr


def test_ctrl_c_ends_with_130(world: World, checked: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(check.Verifier, "findings", interrupt)
    result = checked(world.save_image(3))
    assert result.exit_code == 130
    assert result.stderr == "verifier: interrupted.\n"


def test_help_explains_every_command(run: Run) -> None:
    for arguments in (["--help"], ["check", "-h"], ["inspect", "--help"]):
        result = run(*arguments)
        assert result.exit_code == 0
        assert "Usage: " in result.stdout
    assert "at least\n" in run("check", "--help").stdout or "at least one" in run("check", "--help").stdout


def test_inspect_tells_whose_copy_and_whether_it_is_sound(world: World, run: Run) -> None:
    copy = write_copy(world, 1, world.folder / "copy")
    result = run("inspect", copy)
    assert result.exit_code == 0
    assert world.copy_id(1) in result.stdout
    assert "every file is as it was issued" in result.stdout
    assert "nothing here vouches for" in result.stdout
    single = run("inspect", copy / "vae/diffusion_pytorch_model.safetensors", "--trust", world.registry)
    assert single.exit_code == 0
    assert "can only be compared on the whole folder" in single.stdout
    document = json.loads(run("inspect", copy, "--json", "--bundle", world.folder / "test.bundle").stdout)
    assert (document["copy_id"], document["pinned"], document["revoked"]) == (world.copy_id(1), True, False)
    (copy / "model_index.json").write_text("{} ")
    altered = run("inspect", copy)
    assert altered.exit_code == 3
    assert one_line(altered.stderr)
    assert "model_index.json" in altered.stderr


def test_a_real_process_attributes_prints_and_exits(world: World) -> None:
    bundle = world.folder / "test.bundle"
    running = process("check", world.save_image(3), world.save_foreign(1), "--bundle", bundle, "--json")
    out, err = running.communicate(timeout=60)
    assert running.returncode == 1, err
    assert [json.loads(line)["verdict"] for line in out.splitlines()] == ["attributed", "not-attributed"]
    assert one_line(err)


def test_a_reader_that_goes_away_is_no_traceback(world: World) -> None:
    read, write = os.pipe()
    os.close(read)
    running = process("check", world.save_image(3), "--bundle", world.folder / "test.bundle", stdout=write)
    os.close(write)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert err == ""


def test_an_interrupted_process_ends_with_130(world: World) -> None:
    images = [world.save_foreign(1)] * 5000
    running = process("check", *images, "--bundle", world.folder / "test.bundle", "--json")
    assert running.stdout is not None
    first = json.loads(running.stdout.readline())  # it is at work
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert first["verdict"] == "not-attributed"
    assert running.returncode == 130
    assert err.splitlines()[-1] == "verifier: interrupted."
    assert "Traceback" not in err


def test_checking_never_loads_what_only_the_registry_needs(world: World) -> None:
    program = (
        "import sys\n"
        "from verifier.cli import cli\n"
        "assert 'numpy' not in sys.modules and 'onnxruntime' not in sys.modules\n"
        "try:\n"
        "    cli.main(sys.argv[1:])\n"
        "except SystemExit as exit:\n"
        "    assert exit.code == 0, exit.code\n"
        "heavy = {'torch', 'sqlalchemy', 'flask', 'alembic', 'diffusers', 'registry', 'onnx', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert 'onnxruntime' in sys.modules\n"
    )
    arguments = ["check", world.save_image(3), "--bundle", world.folder / "test.bundle"]
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_colours_on_a_terminal_say_the_same(world: World) -> None:
    from rich.console import Console

    from verifier.display import finding_rows, inspection_rows
    from verifier.inspect import inspect_copy

    bundle = Bundle.open(world.folder / "test.bundle")
    verifier = check.Verifier(bundle)
    copy = inspect_copy(write_copy(world, 2, world.folder / "another"), bundle=bundle)
    rows = [
        *finding_rows(verifier.check([world.save_image(4), world.save_image(4, 2)], as_set=True)[0], bundle),
        *inspection_rows(copy),
    ]
    file = io.StringIO()
    console = Console(force_terminal=True, width=300, color_system="truecolor", file=file)
    for row in rows:
        console.print(row.rich(), soft_wrap=True)
    shown = file.getvalue()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert plain.splitlines() == [row.plain() for row in rows]
    assert "\x1b[" in shown


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a disk that is always full")  # noqa: PTH110
def test_output_onto_a_full_disk_is_said(world: World) -> None:
    check = ("check", world.save_image(3), "--bundle", world.folder / "test.bundle")
    for options in ((), ("--json",)):
        with open("/dev/full", "w") as full:  # noqa: PTH123
            checking = process(*check, *options, stdout=full)
            _, said = checking.communicate(timeout=60)
        assert checking.returncode == 2
        assert "cannot write the output: No space left on device. Make room" in said.splitlines()[-1]
