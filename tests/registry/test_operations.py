from __future__ import annotations

from pathlib import Path

import pytest

from registry.config import CONFIG_NAME, Settings
from registry.errors import InputError
from registry.operations import Operations


def settings(folder: Path, text: str) -> Settings:
    found = Settings.write_new(folder, {})
    with (folder / CONFIG_NAME).open("a") as file:
        file.write(text)
    return found


def test_defaults_need_nothing(tmp_path: Path) -> None:
    assert Operations.load(settings(tmp_path, ""), {}) == Operations(None, 0, None)


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    text = '[jobs]\nredis = "redis://file/0"\n[serving]\nproxies = 1\n[metrics]\ntoken = "sixteen letters!"\n'
    found = settings(tmp_path, text)
    assert Operations.load(found, {}) == Operations("redis://file/0", 1, "sixteen letters!")
    environment = {
        "HALLMARK_REDIS_URL": "rediss://other/1",
        "HALLMARK_PROXIES": "2",
        "HALLMARK_METRICS_TOKEN": "another sixteen letters",
    }
    assert Operations.load(found, environment) == Operations("rediss://other/1", 2, "another sixteen letters")


@pytest.mark.parametrize(
    ("text", "environment"),
    [
        ('[jobs]\nredis = "http://x"\n', {}),
        ("[jobs]\nredis = 5\n", {}),
        ('[jobs]\nredis = ""\n', {}),
        ("jobs = 1\n", {}),
        ("[serving]\nproxies = -1\n", {}),
        ("[serving]\nproxies = 1.5\n", {}),
        ("[serving]\nproxies = 9\n", {}),
        ("", {"HALLMARK_PROXIES": "one"}),
        ('[metrics]\ntoken = "short"\n', {}),
        ("", {"HALLMARK_METRICS_TOKEN": "short"}),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, text: str, environment: dict[str, str]) -> None:
    if text.startswith("jobs"):
        found = Settings.write_new(tmp_path, {})
        path = tmp_path / CONFIG_NAME
        path.write_text(text + path.read_text())
    else:
        found = settings(tmp_path, text)
    with pytest.raises(InputError):
        Operations.load(found, environment)
