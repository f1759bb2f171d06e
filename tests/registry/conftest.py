from __future__ import annotations

import pytest

from registry.api.document import Api
from registry.app import create_app
from registry.home import Home
from tests.registry.api.client import Client, client


@pytest.fixture
def app(ready: Home) -> Api:
    """The application on a registry with model ``tiny``, on each database."""
    return create_app(ready)


@pytest.fixture
def admin(app: Api, ready: Home) -> Client:
    """An administrator of the first organisation."""
    return client(app, ready)
