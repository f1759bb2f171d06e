"""The job that exports a bundle."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from registry.accounts.permissions import Permission
from registry.api.schemas import WHOLE, Body, ModelLabel
from registry.jobs.kinds import job
from registry.jobs.running import Run


class ExportBundle(Body):
    """Write a bundle for verifiers, without the key table: key material never lies in the storage."""

    model: Annotated[ModelLabel | None, Field(description="Only this model; all of yours if empty.")] = None
    expires_days: Annotated[int, Field(ge=1, le=366), WHOLE] = 30


@job("export-bundle", ExportBundle, Permission.EXPORT_BUNDLES)
def export_bundle(run: Run, wanted: ExportBundle) -> dict[str, Any]:
    """`registry bundle export`."""
    from registry.bundles import service

    options = service.BundleOptions(
        model=wanted.model, organisation=run.organisation, expires_days=wanted.expires_days
    )
    with tempfile.TemporaryDirectory(prefix="hallmark-") as folder:
        out = Path(folder) / "hallmark.bundle"
        manifest = service.export(run.home, out, options, run.progress("key table"))
        return {"expires_at": manifest["expires_at"], "files": [run.keep(out, out.name)]}
