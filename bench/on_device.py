"""Check on your device: one 512-pixel image in a browser, with WebAssembly on one thread.

python -m bench.on_device [--quick]

Debian's Chromium opens the page of a served registry with the reference model and checks an image of a copy
again and again: decoding, resampling, the network, and the registry's answer. `check_seconds` is what an
auditor waits from choosing the file to the finding (median); `first_seconds` is the first check after the
page was opened, which also fetches and starts the runtime and the network.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sysconfig
import time
from pathlib import Path

import click
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from bench.common import Goal, close, prepared
from bench.serve import serving
from registry.console.assets import Assets

SIDE = 512
CHECK_SECONDS = 1.5
PASSWORD = "a long password of this benchmark"  # noqa: S105


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Fewer checks.")
def main(quick: bool) -> None:
    """Run the benchmark."""
    chromium = shutil.which("chromium")
    if chromium is None or Assets.load().folder("onnxruntime") is None:
        raise SystemExit("needs Chromium (Debian: apt install chromium) and the runtime (make assets)")
    with prepared(keys=0, images=1) as bench, sync_playwright() as playwright:
        picture = bench.folder / "suspect.png"
        with Image.open(bench.images[0]) as image:
            image.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(picture)
        name = bench.commands.registry("person", "list").split()[0]
        registry = [str(Path(sysconfig.get_path("scripts")) / "registry"), "person", "password", name]
        given = {"input": PASSWORD + "\n", "text": True, "capture_output": True, "check": True}
        subprocess.run([*registry, "--stdin", "--home", str(bench.home)], **given)  # type: ignore[call-overload]
        with serving(bench.commands, "--workers", "1") as port:
            browser = playwright.chromium.launch(
                executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
            )
            page = browser.new_page(base_url=f"http://localhost:{port}")
            page.goto("/console/sign-in")
            page.get_by_label("Name").fill(name)
            page.get_by_label("Password").fill(PASSWORD)
            page.get_by_role("button", name="Sign in", exact=True).click()
            page.wait_for_url("**/console")
            page.goto("/console/device")
            waited = [_check(page, picture, number) for number in range(1, 6 if quick else 21)]
            reading = [float(row.get_attribute("data-milliseconds") or "nan") for row in _rows(page)[:-1]]
            browser.close()
    figures = {
        "check_seconds": statistics.median(waited[1:]),
        "first_seconds": waited[0],
        "reading_milliseconds": statistics.median(reading),
    }
    close("on_device", figures, {"check_seconds": Goal("<=", CHECK_SECONDS)})


def _rows(page: Page) -> list:  # type: ignore[type-arg]
    return page.locator("article[data-done]").all()


def _check(page: Page, picture: Path, number: int) -> float:
    """Seconds until the page shows its ``number``-th finding, which must name somebody."""
    started = time.perf_counter()
    page.get_by_label("Images").set_input_files(picture)
    page.wait_for_function(
        "number => document.querySelectorAll('article[data-done]').length === number", arg=number
    )
    taken = time.perf_counter() - started
    said = _rows(page)[0].inner_text()
    if "depends on the key of" not in said:
        raise SystemExit(f"the image was not attributed: {said}")
    return taken


if __name__ == "__main__":
    main()
