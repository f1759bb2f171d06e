"""The job that exports a model's attribution network."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import Any

from registry.accounts.permissions import Permission
from registry.api.schemas import Body, ModelLabel
from registry.jobs.kinds import job
from registry.jobs.running import Run


class ExportModel(Body):
    """Write a model's attribution network (ONNX) and its card to a zip file."""

    model: ModelLabel


@job("export-model", ExportModel, Permission.READ_MODELS)
def export_model(run: Run, wanted: ExportModel) -> dict[str, Any]:
    """`registry model export`."""
    from registry.generators import export

    with tempfile.TemporaryDirectory(prefix="hallmark-") as work:
        folder = export.export_model(run.home, wanted.model, Path(work) / "network", run.organisation)
        packed = Path(work) / "network.zip"
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.iterdir()):
                archive.write(path, path.name)
        return {"model": wanted.model, "files": [run.keep(packed, packed.name)]}
