"""Jobs that register a model and that export its attribution network."""

from __future__ import annotations

import tempfile
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from registry.accounts.permissions import Permission
from registry.api.schemas import WHOLE, Body, ModelLabel, Name
from registry.errors import RegistryError
from registry.generators.service import SchemeOptions
from registry.jobs.kinds import job
from registry.jobs.running import Run


class ExportModel(Body):
    """Write a model's attribution network (ONNX) and its card to a zip file."""

    model: ModelLabel


class PictureModel(Body):
    """Draw what the fingerprint of a model does to its images: base, copy, and the difference enlarged."""

    model: ModelLabel
    count: Annotated[int, Field(ge=1, le=16), WHOLE] = 8
    seed: Annotated[int, Field(ge=0, le=2**31), WHOLE] = 1


class RegisterModel(Body):
    """Register the generator at `weights`.

    They are `builtin:NAME@VERSION`, `upload:NAME` for uploaded files or, for the operator's administrators,
    `folder:NAME` for what lies in the folder that `[models] folder` in config.toml names.
    """

    name: Name
    adapter: Name
    weights: Annotated[
        str,
        StringConstraints(
            max_length=140,
            pattern=r"^(builtin:[a-z0-9-]+@[0-9]+|upload:[a-z0-9-]+|folder:[A-Za-z0-9_-][A-Za-z0-9._-]{0,99})$",
        ),
    ]
    scheme: Literal["pca", "pca-projected", "learned"] | None = None
    bits: Annotated[int, Field(ge=8, le=2000, multiple_of=8), WHOLE] | None = None
    strength: Annotated[float, Field(gt=0, lt=1e6)] | None = None
    shift: Annotated[int, Field(ge=0, le=1_000_000), WHOLE] | None = None
    psnr: Annotated[float, Field(ge=10, le=80)] | None = None
    collusion_resistant: bool = False

    def options(self) -> SchemeOptions:
        """How the model is to be fingerprinted."""
        return SchemeOptions(
            self.scheme, self.bits, self.strength, self.shift, self.psnr, self.collusion_resistant
        )


@job("register-model", RegisterModel, Permission.WRITE_MODELS)
def register_model(run: Run, wanted: RegisterModel) -> dict[str, Any]:
    """`registry model add`; an upload that became a model is removed."""
    from registry.generators import service, uploads

    source, _, name = wanted.weights.partition(":")
    with ExitStack() as fetched:
        weights, place = wanted.weights, ""
        if source == "upload":
            sent = uploads.files(run.home, run.organisation, name)
            folder = fetched.enter_context(
                run.home.storage.local(uploads.folder_name(run.organisation, name))
            )
            weights, place = str(folder / next(iter(sent)) if len(sent) == 1 else folder), str(folder)
        elif source == "folder":
            with run.home.database.read() as session:
                weights = place = str(uploads.placed(run.home, session, run.organisation, name))
        try:
            added = service.add_model(
                run.home, wanted.name, wanted.adapter, weights, wanted.options(), run.organisation
            )
        except RegistryError as error:
            if place:  # where the files lie here tells nothing to who sent them
                error.args = (str(error).replace(f"{place}/", "").replace(place, name),)
            raise
    if source == "upload":
        uploads.discard(run.home, run.organisation, name)
    with run.home.database.read() as session:
        return service.describe(session, added)


@job("picture-model", PictureModel, Permission.READ_MODELS)
def picture_model(run: Run, wanted: PictureModel) -> dict[str, Any]:
    """The pictures (PNG) and what they measure, for the model's page."""
    from registry.generators import pictures, service

    with run.home.database.read() as session:
        model = service.get_model(session, wanted.model, run.organisation)
    with tempfile.TemporaryDirectory(prefix="hallmark-") as work:
        drawn = pictures.draw_pictures(run.home, model, Path(work), wanted.count, wanted.seed)
        return {
            "model": model.label,
            "basis": model.basis.hex() if model.basis is not None else None,
            "psnr_db": [round(figure, 2) for figure in drawn.psnr_db],
            "side": drawn.side,
            "files": [run.keep(path, path.name) for path in drawn.files],
        }


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
