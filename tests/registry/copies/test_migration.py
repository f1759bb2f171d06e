from __future__ import annotations

from pathlib import Path

from sqlalchemy import text

from registry.copies import service
from registry.db import REVISION
from registry.home import Home
from registry.keys.service import Issuer
from registry.verification import verify_ledger
from tests.registry.support import MODEL, RECIPIENT


def test_deliveries_of_before_streaming_are_kept_as_folders(ready: Home, tmp_path: Path) -> None:
    copy_id = Issuer.open(ready, MODEL, RECIPIENT).issue(1)[0]["copy_id"]
    service.download(ready, copy_id, tmp_path / "copy")
    ready.database.upgrade("0003")
    with ready.database.read() as session:
        before = session.execute(text("SELECT download_id, state, ended_at FROM download")).all()
    assert [row.state for row in before] == ["delivered"]
    assert ready.database.upgrade() == ("0003", REVISION)
    with ready.database.read() as session:
        (row,) = service.downloads(session)
    assert (row.download_id, row.state, row.active_at) == tuple(before[0])
    assert (row.form, row.sent, row.link_id) == ("folder", "{}", None)
    assert verify_ledger(ready).size == 3
    service.download(ready, copy_id, tmp_path / "again")
    assert verify_ledger(ready).size == 4
