"""The served API against its own OpenAPI document: schemathesis with all its checks."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from werkzeug.serving import make_server

from registry.accounts import tokens
from registry.accounts.permissions import Role
from registry.api.document import DOCUMENT, Api
from registry.app import create_app
from registry.home import Home
from registry.keys.service import Issuer
from tests.registry.support import MODEL, RECIPIENT

EXAMPLES = 6


@contextmanager
def serving(app: Api) -> Iterator[str]:
    """The address of the application on a free port."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("ready", ["postgresql"], indirect=True)
def test_the_api_is_as_its_document_says(ready: Home, tmp_path: Path) -> None:
    (document,) = Issuer.open(ready, MODEL, RECIPIENT).issue(1)
    with ready.database.write() as session:
        _, secret = tokens.create(session, 1, "contract", Role.ADMIN)
    known = {
        "path.model": MODEL,
        "path.key_id": document["key_id"],
        "path.copy_id": document["copy_id"],
        "path.email": RECIPIENT,
        "query.model": MODEL,
        "query.recipient": RECIPIENT,
        "query.seconds": "1",
    }
    parameters = "\n".join(f'"{name}" = "{value}"' for name, value in known.items())
    (tmp_path / "schemathesis.toml").write_text(f"[parameters]\n{parameters}\n")
    with serving(create_app(ready)) as address:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", address + DOCUMENT),
                *("--header", f"Authorization: Bearer {secret}"),
                *("--phases", "coverage,fuzzing", "--max-examples", str(EXAMPLES)),
                *("--seed", "1", "--request-timeout", "30", "--generation-database", "none"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    report = done.stdout[done.stdout.find("= FAILURES") :]
    assert done.returncode == 0, f"{report}\n{done.stderr[-2000:]}"
