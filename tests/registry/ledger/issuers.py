"""What the processes of test_processes.py do: issue keys and write down which were acknowledged."""

from __future__ import annotations

import os
from pathlib import Path

from registry.config import DATABASE_VARIABLE
from registry.home import Home
from registry.keys.service import Issuer
from tests.registry.support import MODEL, RECIPIENT


def issue(folder: Path, database: str, acknowledged: Path, transactions: int, keys: int) -> None:
    """Issue ``keys`` keys in each transaction; their ids go to the file once they are committed."""
    os.environ[DATABASE_VARIABLE] = database
    home = Home.open(folder)
    issuer = Issuer.open(home, MODEL, RECIPIENT)
    with acknowledged.open("ab", buffering=0) as file:
        for _ in range(transactions):
            documents = issuer.issue(keys)
            # One write each, so that a killed process leaves whole lines.
            os.write(file.fileno(), "".join(f"{document['key_id']}\n" for document in documents).encode())
    home.close()
