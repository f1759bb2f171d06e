from __future__ import annotations

import pytest

from registry.accounts import security
from registry.api.document import Api
from registry.app import create_app
from registry.home import Home
from tests.registry.api.client import Client, client


@pytest.fixture(autouse=True)
def _nobody_was_refused_before() -> None:
    """Refusals are logged so many times a minute for each source, and all tests come from one address."""
    security._refusals.storage.reset()


@pytest.fixture
def app(ready: Home) -> Api:
    """The application on a registry with model ``tiny``, on each database."""
    return create_app(ready)


@pytest.fixture
def admin(app: Api, ready: Home) -> Client:
    """An administrator of the first organisation."""
    return client(app, ready)
