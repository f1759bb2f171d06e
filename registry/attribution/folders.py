"""Where a model's training is kept, so that an interrupted one goes on.

with training_folder(home, model) as work:
    train(..., work=work)
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.errors import StateError
from registry.generators.models import Model
from registry.home import Home


def training_path(home: Home, model: Model) -> Path:
    """The folder of a model's training; two organisations may call different models the same."""
    return home.settings.home / "training" / str(model.organisation_id) / model.label


@contextmanager
def training_folder(home: Home, model: Model) -> Iterator[Path]:
    """The folder of a model's training, for this process alone: :class:`StateError` while another has it."""
    folder = training_path(home, model)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateError(
                f"model {model.label} is being trained or studied already.", "Wait for that to end."
            ) from None
        yield folder
