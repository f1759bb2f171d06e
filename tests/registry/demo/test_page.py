from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from registry.demo.drawings import draw_flower
from registry.demo.page import write_page
from registry.demo.results import Report, Result, Truth


class Page(HTMLParser):
    """Counts figures by class, collects image sources, and checks that tags are closed in order."""

    VOID = frozenset({"meta", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.figures: list[str | None] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "figure":
            self.figures.append(values["class"])
        if tag == "img":
            self.sources.append(values["src"] or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def report(tmp_path: Path) -> Report:
    paths = []
    for i in range(3):
        draw_flower(np.random.default_rng(i), 64).save(tmp_path / f"{i}.png")
        paths.append(f"{i}.png")
    ada = Truth("ada<script>@example.com", "copy-a")
    right = Result((paths[0],), "clean", ada, "attributed", "ada<script>@example.com", ("copy-a",), -31.5)
    missed = Result((paths[1],), "clean", ada, "not-attributed", None, (), None)
    foreign = Result((paths[2],), "base model", Truth(), "not-attributed", None, (), None)
    return Report([right, missed], [], [foreign], [])


def test_the_page_shows_every_image_with_its_verdict(report: Report, tmp_path: Path) -> None:
    write_page(report, tmp_path, keys=1234, elapsed=5.0)
    content = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(content)
    assert page.open == []
    assert page.figures == ["right", "none", "none"]
    assert "1,234 keys" in page.text
    assert "1 of 2" in page.text


def test_the_page_needs_nothing_but_itself(report: Report, tmp_path: Path) -> None:
    write_page(report, tmp_path, keys=1, elapsed=1.0)
    content = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(content)
    assert all(source.startswith("data:image/webp;base64,") for source in page.sources)
    assert "http://" not in content
    assert "https://" not in content


def test_names_cannot_inject_markup(report: Report, tmp_path: Path) -> None:
    write_page(report, tmp_path, keys=1, elapsed=1.0)
    assert "<script>" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_drawings_are_reproducible_and_differ() -> None:
    first, again, second = (np.asarray(draw_flower(np.random.default_rng(i), 32)) for i in (1, 1, 2))
    assert first.shape == (32, 32, 3)
    assert (first == again).all()
    assert (first != second).any()
