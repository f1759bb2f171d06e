"""The lineage page and what a model's page says of its relatives."""

from __future__ import annotations

import pytest

from registry.generators import service as generators
from registry.home import Home
from tests.registry.accounts.support import Browser, admins_browser


@pytest.fixture
def browser(sqlite_home: Home) -> Browser:
    return admins_browser(sqlite_home)


def test_derived_models_stand_beside_what_they_come_from(sqlite_home: Home, browser: Browser) -> None:
    empty = browser.client.get("/console/lineage").text
    assert "No tree yet" in empty
    for name, family in (("zoo-vae", "vae"), ("zoo-flow", "flow"), ("renamed", "flow")):
        generators.add_model(sqlite_home, name, family, f"builtin:zoo-{family}@1")
    page = browser.client.get("/console/lineage").text
    assert page.count("derived weights</span>") == 2
    assert page.count("farther than derived</span>") == 1
    assert page.count("<rect ") == 9
    model = browser.client.get("/console/models/renamed@1").text
    assert model.index("zoo-flow@1") < model.index("zoo-vae@1")
    assert model.count("derived weights</span>") == 1
