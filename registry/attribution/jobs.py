"""Jobs that train and study a model's attribution."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from registry.accounts.permissions import Permission
from registry.api.schemas import WHOLE, Body, ModelLabel
from registry.jobs.kinds import job
from registry.jobs.running import Run

MOST_STEPS = 1_000_000
MOST_IMAGES = 10_000
LIST = r"^[A-Za-z0-9.,:-]*$"

Steps = Annotated[int, Field(ge=1, le=MOST_STEPS), WHOLE]
List = Annotated[str, Field(max_length=400, pattern=LIST)]


class TrainModel(Body):
    """Compute the basis of a model if it has none, and train its next attribution network."""

    model: ModelLabel
    steps: Annotated[Steps | None, Field(description="Of the network; the usual number if empty.")] = None


class StudyModel(Body):
    """Measure what scheme, shift, strength and length of a fingerprint on a model cost and buy.

    Lists are separated by commas, as for `registry model study`.
    """

    model: ModelLabel
    schemes: List = ""
    shifts: List = ""
    bits: List = ""
    strengths: List = ""
    psnrs: List = ""
    points: Annotated[list[List], Field(max_length=100, default_factory=list)]
    steps: Steps = 300
    images: Annotated[int, Field(ge=20, le=MOST_IMAGES), WHOLE] = 200


@job("train-model", TrainModel, Permission.WRITE_MODELS)
def train_model(run: Run, wanted: TrainModel) -> dict[str, Any]:
    """`registry model train`."""
    from registry.attribution import service
    from registry.attribution.folders import training_folder
    from registry.generators import service as generators

    with run.home.database.read() as session:
        model = generators.get_model(session, wanted.model, run.organisation)
    with training_folder(run.home, model) as work:
        service.train(run.home.database, run.home.storage, model, data=None, steps=wanted.steps, work=work)
    with run.home.database.read() as session:
        network = generators.newest_network(session, model)
        return {"model": model.label, "network": network.version, "digest": network.digest.hex()}


@job("study-model", StudyModel, Permission.WRITE_MODELS)
def study_model(run: Run, wanted: StudyModel) -> dict[str, Any]:
    """`registry model study`: the report (HTML) and the figures (JSON)."""
    import json
    import tempfile
    from pathlib import Path

    from registry.attribution.study import measuring
    from registry.attribution.study.plan import Sweep
    from registry.attribution.study.report import write_report

    sweep = Sweep(
        wanted.schemes, wanted.shifts, wanted.bits, wanted.strengths, wanted.psnrs,
        tuple(wanted.points), wanted.steps, wanted.images,
    )  # fmt: skip
    found = measuring.run(
        run.home, wanted.model, sweep, data=None, say=run.log, organisation=run.organisation
    )
    with tempfile.TemporaryDirectory(prefix="hallmark-") as folder:
        report, figures = Path(folder) / "study.html", Path(folder) / "study.json"
        write_report(found, report)
        figures.write_text(json.dumps(found.document(), indent=1) + "\n", encoding="utf-8")
        return {
            "recommended": str(found.recommended),
            "reason": found.recommendation.reason,
            "files": [run.keep(report, report.name), run.keep(figures, figures.name)],
        }
