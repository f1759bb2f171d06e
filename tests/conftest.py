"""What all tests share: a small real model, and registries on both databases."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

from registry.config import DATABASE_VARIABLE, HOME_VARIABLE, STORAGE_VARIABLE
from registry.home import Home
from tests.absent import absent
from tests.registry.object_store import CREDENTIALS, ObjectStore, object_store
from tests.registry.support import TinyModel, make_tiny_model, postgres_database, register
from verifier.cli import HOME_VARIABLE as VERIFIER_HOME_VARIABLE

POSTGRES_VARIABLE = "HALLMARK_TEST_POSTGRES"
POSTGRES_DEFAULT = "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"

# No test fails because a machine is slow.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture(autouse=True)
def _no_registry_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test may see or touch the registry, or the fetched bundles, of whoever runs it."""
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "unused-home"))
    monkeypatch.setenv(VERIFIER_HOME_VARIABLE, str(tmp_path / "unused-verifier-home"))
    for variable in (DATABASE_VARIABLE, STORAGE_VARIABLE):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(scope="session")
def postgres_server() -> str:
    """URL of a PostgreSQL server on which databases can be created; skips where there is none."""
    url = os.environ.get(POSTGRES_VARIABLE, POSTGRES_DEFAULT)
    engine = create_engine(url, connect_args={"connect_timeout": 3})
    try:
        engine.connect().close()
    except OperationalError as error:
        reason = f"no PostgreSQL at {url}; name one in {POSTGRES_VARIABLE} ({str(error).splitlines()[0]})"
        absent(reason)
    finally:
        engine.dispose()
    return url


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """An empty PostgreSQL database of this test's own."""
    with postgres_database(postgres_server) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test once on each database, chosen through the environment as an operator would."""
    if request.param == "postgresql":
        monkeypatch.setenv(DATABASE_VARIABLE, request.getfixturevalue("postgres_url"))
    return str(request.param)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[ObjectStore]:
    """An object store that speaks S3."""
    with object_store() as store:
        yield store


@pytest.fixture
def s3(s3_server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """The object store, with its address and credentials in the environment."""
    for variable, value in CREDENTIALS.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.endpoint)
    return s3_server


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home as `registry init` leaves it; tests work on copies."""
    return _make_empty(tmp_path_factory)


@pytest.fixture(scope="session")
def empty_postgres(
    postgres_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, str]]:
    """The same on PostgreSQL: the home and the database."""
    with postgres_database(postgres_server) as url:
        yield _make_empty(tmp_path_factory, url), url


def _make_empty(tmp_path_factory: pytest.TempPathFactory, url: str | None = None) -> Path:
    folder = tmp_path_factory.mktemp("empty") / "home"
    with pytest.MonkeyPatch.context() as patch:
        for variable in (DATABASE_VARIABLE, STORAGE_VARIABLE):
            patch.delenv(variable, raising=False)
        if url is not None:
            patch.setenv(DATABASE_VARIABLE, url)
        Home.create(folder)
    return folder


@pytest.fixture(params=["sqlite", "postgresql"])
def home(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Home]:
    """An empty registry, on each database."""
    yield from _on_each(request, monkeypatch, tmp_path, "empty")


@pytest.fixture
def sqlite_home(empty_sqlite: Path, tmp_path: Path) -> Iterator[Home]:
    """An empty registry on the embedded database."""
    yield from _copied(empty_sqlite, tmp_path)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """A latent-diffusion model of 16 x 16 pixels with random weights, a basis and a network package."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def ready_sqlite(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with model ``tiny`` ready for issuing and recipient ada@example.org; tests work on copies."""
    return _make_ready(tmp_path_factory.mktemp("ready") / "home", tiny)


@pytest.fixture(scope="session")
def ready_postgres(
    postgres_server: str, tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, str]]:
    """The same on PostgreSQL: the home and the database."""
    with postgres_database(postgres_server) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv(DATABASE_VARIABLE, url)
        folder = _make_ready(tmp_path_factory.mktemp("ready") / "home", tiny)
        patch.undo()
        yield folder, url


def _make_ready(folder: Path, tiny: TinyModel) -> Path:
    Home.create(folder)
    home = Home.open(folder)
    register(home, tiny)
    home.close()
    return folder


@pytest.fixture(params=["sqlite", "postgresql"])
def ready(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Home]:
    """A registry with model ``tiny`` ready for issuing and recipient ada@example.org, on each database."""
    yield from _on_each(request, monkeypatch, tmp_path, "ready")


def _on_each(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> Iterator[Home]:
    if request.param == "sqlite":
        yield from _copied(request.getfixturevalue(f"{kind}_sqlite"), tmp_path)
        return
    server = request.getfixturevalue("postgres_server")
    folder, template = request.getfixturevalue(f"{kind}_postgres")
    with postgres_database(server, template) as url:
        monkeypatch.setenv(DATABASE_VARIABLE, url)
        yield from _copied(folder, tmp_path)


@pytest.fixture
def sqlite_ready(ready_sqlite: Path, tmp_path: Path) -> Iterator[Home]:
    """The same on the embedded database only."""
    yield from _copied(ready_sqlite, tmp_path)


def _copied(folder: Path, target: Path) -> Iterator[Home]:
    home = Home.open(Path(shutil.copytree(folder, target / "home")))
    yield home
    home.close()
