"""A real browser on a real server: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from registry.home import Home
from tests.registry.accounts.support import PASSWORD
from tests.servers import free_port, listens, program, running, wait_for

BUILD = Path(__file__).resolve().parents[3] / "build" / "console"
"""Where the screenshots of the last run are kept."""

LIGHT, DARK, PHONE = "light", "dark", "phone"
VIEWPORTS = {LIGHT: (1280, 800), DARK: (1280, 800), PHONE: (390, 844)}
SERIOUS = ("serious", "critical")
STANDARDS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@dataclass(frozen=True)
class Console:
    """A server with the console, and a browser to look at it with."""

    url: str
    home: Home
    chromium: Browser

    def context(self, kind: str = LIGHT) -> BrowserContext:
        """A fresh profile of the browser, in the light or dark scheme or of a telephone's width."""
        width, height = VIEWPORTS[kind]
        return self.chromium.new_context(
            base_url=self.url,
            viewport={"width": width, "height": height},
            color_scheme=DARK if kind == DARK else LIGHT,
            reduced_motion="reduce",
            is_mobile=kind == PHONE,
            has_touch=kind == PHONE,
            locale="en-GB",
            timezone_id="Europe/Vienna",
        )

    def page(self, context: BrowserContext | None = None) -> Watched:
        """A tab that notes what goes wrong in it."""
        return Watched((context or self.context()).new_page())


class Watched:
    """A tab; errors of scripts, of the policy and of requests are collected in ``wrong``."""

    def __init__(self, page: Page) -> None:
        self.page, self.wrong = page, list[str]()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("console", lambda said: self.wrong.append(said.text) if said.type == "error" else None)

    def sign_in(self, name: str, password: str = PASSWORD) -> None:
        """Sign in with a password."""
        self.page.goto("/console/sign-in")
        self.page.get_by_label("Name").fill(name)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Sign in", exact=True).click()
        self.page.wait_for_url(re.compile(r"/console(/sign-in\?.*|/?)$"))

    def shot(self, name: str, kind: str) -> None:
        """Keep a picture of the whole page; charts are drawn when they come into view."""
        BUILD.mkdir(parents=True, exist_ok=True)
        charts = self.page.locator("[data-chart]").all()
        for chart in charts:
            chart.scroll_into_view_if_needed()
            chart.locator("canvas").wait_for()
        if charts:
            self.page.evaluate("scrollTo(0, 0)")
        self.page.screenshot(path=BUILD / f"{name}-{kind}.png", full_page=True)


@contextmanager
def console(home: Home) -> Iterator[Console]:
    """The registry of ``home``, served; its limits are taken away, since all tests have one address."""
    with (home.settings.home / "config.toml").open("a") as file:
        file.write('\n[limits]\nrequests = ""\nstrangers = ""\nsign_in = ""\n')
    port, log = free_port(), home.settings.home / "serve.log"
    command = [sys.executable, "-m", "registry.cli", "serve", "--home", str(home.settings.home)]
    command += ["--port", str(port), "--workers", "1"]
    chromium = program("chromium", "chromium")
    with running(command, log, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        wait_for(lambda: process.poll() is not None or listens(port), "listening")
        assert process.poll() is None, log.read_text()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
            )
            yield Console(f"http://localhost:{port}", home, browser)
            browser.close()


def accessibility(page: Page) -> list[str]:
    """What axe finds serious or critical on a page, by rule and element."""
    options: dict[str, Any] = {"runOnly": STANDARDS, "resultTypes": ["violations"]}
    found = Axe().run(page, options=options).response["violations"]
    return [
        f"{violation['id']} ({violation['impact']}): {node['html'][:200]} {node['failureSummary'][:300]}"
        for violation in found
        if violation["impact"] in SERIOUS
        for node in violation["nodes"]
    ]


def overflows(page: Page) -> bool:
    """Whether the page is wider than its window."""
    wide: bool = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    return wide
