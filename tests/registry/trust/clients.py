"""A served registry, somebody between it and its verifiers, and python-tuf's own client."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuf.ngclient import Updater
from tuf.ngclient.config import UpdaterConfig
from werkzeug.serving import make_server
from werkzeug.test import Client

from registry.app import create_app
from registry.home import Home


class Between:
    """A WSGI application before the registry's that answers chosen paths with other bytes."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self.app = app
        self.altered: dict[str, bytes] = {}
        self.asked: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        self.asked.append(path)
        if path not in self.altered:
            return self.app(environ, start_response)
        content = self.altered[path]
        start_response("200 OK", [("Content-Length", str(len(content)))])
        return io.BytesIO(content)

    def content(self, path: str) -> bytes:
        """What the registry itself answers."""
        response = Client(self.app).get(path)
        assert response.status_code == 200, path
        content = response.data
        response.close()
        return content


@contextmanager
def served(home: Home) -> Iterator[tuple[str, Between]]:
    """The registry on a free port: its URL, and who stands before it."""
    between = Between(create_app(home).wsgi_app)
    server = make_server("127.0.0.1", 0, between, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}", between
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Verifier:
    """One verifier's folder; every update is a new client on it, as python-tuf asks."""

    def __init__(self, folder: Path, url: str, root: bytes) -> None:
        self._folder, self._url, self._root = folder, url, root
        (folder / "targets").mkdir(parents=True)

    def move(self, url: str) -> None:
        """Look for the registry elsewhere from now on."""
        self._url = url

    def update(self) -> Updater:
        """Fetch what is new; raises what python-tuf raises."""
        updater = Updater(
            str(self._folder / "metadata"),
            f"{self._url}/tuf/metadata/",
            str(self._folder / "targets"),
            f"{self._url}/tuf/targets/",
            config=UpdaterConfig(),
            bootstrap=self._root,
        )
        updater.refresh()
        return updater

    def fetch(self, path: str) -> bytes:
        """Update and return a target."""
        updater = self.update()
        info = updater.get_targetinfo(path)
        assert info is not None, path
        return Path(updater.download_target(info)).read_bytes()

    def versions(self) -> dict[str, int]:
        """The versions of the metadata this verifier trusts."""
        roles = ("root", "timestamp", "snapshot", "targets")
        documents = {
            role: json.loads((self._folder / "metadata" / f"{role}.json").read_bytes()) for role in roles
        }
        return {role: document["signed"]["version"] for role, document in documents.items()}
