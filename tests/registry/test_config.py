from __future__ import annotations

from pathlib import Path

import pytest

from registry.config import Settings, home_folder
from registry.errors import InputError, StateError


def test_home_is_the_given_one_then_the_environment_then_the_data_folder() -> None:
    environment = {"HALLMARK_HOME": "/srv/hallmark", "XDG_DATA_HOME": "/data"}
    assert home_folder(Path("/given"), environment) == Path("/given")
    assert home_folder(None, environment) == Path("/srv/hallmark")
    assert home_folder(None, {"XDG_DATA_HOME": "/data"}) == Path("/data/hallmark")
    assert home_folder(None, {}) == Path.home() / ".local/share/hallmark"


def test_defaults_lie_in_the_home(tmp_path: Path) -> None:
    settings = Settings.write_new(tmp_path, {})
    assert settings.database_url == f"sqlite:///{tmp_path}/registry.db"
    assert settings.storage_url == str(tmp_path / "storage")
    assert Settings.load(tmp_path, {}) == settings


def test_environment_overrides_the_database(tmp_path: Path) -> None:
    Settings.write_new(tmp_path, {})
    url = "postgresql+psycopg://hallmark:secret@db/hallmark"
    assert Settings.load(tmp_path, {"HALLMARK_DATABASE_URL": url}).database_url == url


def test_a_home_made_with_the_environment_keeps_no_password_and_asks_for_the_variable(tmp_path: Path) -> None:
    Settings.write_new(tmp_path, {"HALLMARK_DATABASE_URL": "postgresql+psycopg://u:secret@db/h"})
    assert "secret" not in (tmp_path / "config.toml").read_text()
    with pytest.raises(StateError, match="HALLMARK_DATABASE_URL is not set"):
        Settings.load(tmp_path, {})


def test_a_folder_without_registry_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(StateError) as caught:
        Settings.load(tmp_path, {})
    assert f"registry init --home {tmp_path}" in caught.value.diagnostics()


@pytest.mark.parametrize("content", ["[database", "[database]\nurl = 3\n", "", '[storage]\nurl = "s"\n'])
def test_a_damaged_configuration_names_the_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.toml").write_text(content)
    with pytest.raises(InputError, match=r"config\.toml"):
        Settings.load(tmp_path, {})


def test_environment_overrides_the_storage(tmp_path: Path) -> None:
    Settings.write_new(tmp_path, {})
    assert Settings.load(tmp_path, {"HALLMARK_STORAGE_URL": "s3://b/p"}).storage_url == "s3://b/p"


def test_a_home_made_for_an_object_store_asks_for_the_variable(tmp_path: Path) -> None:
    assert Settings.write_new(tmp_path, {"HALLMARK_STORAGE_URL": "s3://b/p"}).storage_url == "s3://b/p"
    with pytest.raises(StateError, match="HALLMARK_STORAGE_URL is not set"):
        Settings.load(tmp_path, {})


def test_an_object_store_has_options_but_no_secrets_in_the_configuration(tmp_path: Path) -> None:
    Settings.write_new(tmp_path, {})
    path = tmp_path / "config.toml"
    written = path.read_text()
    path.write_text(written + 'endpoint = "http://store"\nregion = "eu"\n')
    assert Settings.load(tmp_path, {}).storage_options == {"endpoint": "http://store", "region": "eu"}
    path.write_text(written + 'secret_access_key = "x"\n')
    with pytest.raises(InputError, match="secret_access_key") as caught:
        Settings.load(tmp_path, {})
    assert "belong in the environment" in caught.value.diagnostics()
