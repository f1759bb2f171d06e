"""Models in the console: registering, preparing, and what is known of each."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from flask import Blueprint, make_response, url_for
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.accounts.permissions import Permission
from registry.api.access import home, principal, requires
from registry.console.page import Answer, Form, done, listing, render
from registry.errors import IntegrityError, NotFoundError
from registry.generators import service, uploads
from registry.generators.builtin import known_builtins
from registry.generators.card import ceiling_decades, decades_needed, images_needed
from registry.generators.models import Model
from registry.jobs import kinds
from registry.jobs import service as jobs
from registry.jobs.models import Job
from registry.jobs.running import file_name
from registry.keys import service as keys

pages = Blueprint("model_pages", __name__, url_prefix="/console/models", template_folder="templates")

ALPHA = 1e-6
"""The bound that the page's "images a verdict needs" are counted for."""
LEAST_KEYS = 1_000_000
"""Keys that they are counted among, unless more were issued."""
_RECENT = 200
"""Jobs that are searched for those of one model: the newest of the organisation."""
_STUDY_FIGURES = 4 << 20
_NEAREST = 5
_LABEL = re.compile(r"[a-z0-9][a-z0-9._-]*(@[1-9][0-9]{0,8})?")
ADAPTERS = (("latent-diffusion", "Latent diffusion (diffusers folder)"), ("stylegan2", "StyleGAN2"))
SCHEMES = (
    ("", "As the architecture suggests"),
    ("pca", "pca: principal directions of the latent"),
    ("pca-projected", "pca-projected: the same, its own part taken out"),
    ("learned", "learned: directions in the weights themselves"),
)
ATTACKS = {
    "clean": "as made",
    "jpeg": "JPEG",
    "jpeg50": "JPEG, quality 50",
    "webp": "WebP",
    "noise": "noise",
    "blur": "blur",
    "brightness": "brightness",
    "contrast": "contrast",
    "downscale": "scaled down and up",
    "combination": "several in turn",
    "window": "cropped",
    "none": "as made",
}


@pages.get("")
@requires(Permission.READ_MODELS)
def index() -> Answer:
    """The organisation's models."""
    owner = principal().organisation
    with home().database.read() as session:
        found = listing(session, select(Model).where(Model.organisation_id == owner), Model.id)
        rows = [(row, service.networks(session, row), keys.count(session, row)) for row in found]
        waiting = _active(session, owner, kind="register-model")
    return render("generators/index.html", models=found.each(rows), waiting=waiting)


@pages.get("/new")
@requires(Permission.WRITE_MODELS)
def new() -> Answer:
    """The form to register a model with."""
    return _new(Form({"source": "builtin", "adapter": ADAPTERS[0][0]}))


@pages.post("/new")
@requires(Permission.WRITE_MODELS)
def register() -> Answer:
    """Start the job that checks and registers a model."""
    form = Form.sent()
    name = form.text(
        "name",
        pattern=r"[a-z0-9][a-z0-9._-]{0,62}",
        wanted="Use lower-case letters, digits, dots and dashes, such as flowers.",
    )
    source = form.choice("source", ("builtin", "upload", "folder"))
    adapter = form.choice("adapter", [value for value, _ in ADAPTERS])
    wanted: dict[str, Any] = {"name": name, "adapter": adapter, **_scheme(form)}
    if source:
        chosen = form.get(source).removeprefix("builtin:")
        if not chosen:
            form.errors[source] = {"upload": "Choose the files of the model."}.get(source, "Choose one.")
        wanted["weights"] = f"{source}:{chosen}"
    owner = principal().organisation
    with form.refusals():
        if form.ok:
            try:
                arguments = kinds.kind("register-model").arguments.model_validate(wanted)
            except ValidationError as error:
                for problem in error.errors():
                    form.errors[str(problem["loc"][0])] = problem["msg"]
                return _new(form), 422
            if source == "upload":
                uploads.files(home(), owner, chosen)
            with home().database.write() as session:
                job = jobs.enqueue(session, owner, "register-model", arguments, principal())
            return done(
                url_for("job_pages.show", job_id=job.job_id),
                f"The weights of {name} are being checked. This page follows it.",
            )
    return _new(form), 422


@pages.get("/<model>")
@requires(Permission.READ_MODELS)
def show(model: str) -> Answer:
    """The model's card: what it is, what was measured, what its fingerprint does, and its jobs."""
    return _show(model, Form())


@pages.post("/<model>/<action>")
@requires(Permission.RUN_JOBS)
def start(model: str, action: str) -> Answer:
    """Start training, a study, an export or the drawing of pictures."""
    kind = {
        "train": "train-model",
        "study": "study-model",
        "export": "export-model",
        "pictures": "picture-model",
    }.get(action)
    if kind is None:
        raise NotFoundError(f"nothing is called {action} here.", "Go back to the model.")
    principal().require(kinds.kind(kind).permission)
    form = Form.sent()
    owner = principal().organisation
    with form.refusals():
        with home().database.read() as session:
            found = service.get_model(session, model, owner)
        arguments: dict[str, Any] = {"model": found.label}
        if action == "train" and form.get("steps").strip():
            arguments["steps"] = form.number("steps", 1, 1_000_000)
        if action == "study":
            arguments |= {"steps": form.number("steps", 1, 1_000_000, 300)}
            arguments |= {"images": form.number("images", 20, 10_000, 200)}
            arguments |= {name: form.text(name, needed=False, longest=400) for name in ("bits", "psnrs")}
        if form.ok:
            with home().database.write() as session:
                job = jobs.enqueue(session, owner, kind, arguments, principal())
            if action == "export":
                return done(url_for("job_pages.show", job_id=job.job_id), "The export is under way.")
            return done(url_for("model_pages.show", model=found.label), "It is under way; see below.")
    return _show(model, form, asked=action), 422


@pages.get("/<model>/pictures/<job_id>/<name>")
@requires(Permission.READ_MODELS)
def picture(model: str, job_id: str, name: str) -> Answer:
    """One picture that a job drew of this model."""
    owner = principal().organisation
    with home().database.read() as session:
        found = service.get_model(session, model, owner)
        job = jobs.describe(jobs.get_job(session, job_id, owner))
    files = {entry["name"]: entry for entry in (job["result"] or {}).get("files", [])}
    drawn = job["kind"] == "picture-model" and job["arguments"]["model"] == found.label
    if not drawn or name not in files:
        raise NotFoundError(f"there is no picture {name}.", "Draw the pictures again.")
    response = make_response(home().storage.read(file_name(job_id, name)))
    response.mimetype = "image/png"
    response.headers["Cache-Control"] = "private, max-age=86400"
    return response


def _new(form: Form) -> str:
    with home().database.read() as session:
        placed = [path.name for path in uploads.placeable(home(), session, principal().organisation)]
    return render(
        "generators/new.html",
        form=form,
        builtins=[(name, name) for name in known_builtins()],
        placed=placed,
        adapters=ADAPTERS,
        schemes=SCHEMES,
        upload=form.get("upload") or f"console-{secrets.token_hex(8)}",
    )


def _scheme(form: Form) -> dict[str, Any]:
    """How the model is to be fingerprinted, as far as the form says."""
    chosen: dict[str, Any] = {}
    if form.get("scheme"):
        chosen["scheme"] = form.get("scheme")
    if form.get("bits").strip():
        chosen["bits"] = form.number("bits", 8, 2000)
    if form.get("psnr").strip():
        try:
            chosen["psnr"] = float(form.get("psnr"))
        except ValueError:
            form.errors["psnr"] = "Give a number of decibels, such as 36."
    if form.flag("collusion_resistant"):
        chosen["collusion_resistant"] = True
    return chosen


def _show(reference: str, form: Form, asked: str = "") -> str:
    if not _LABEL.fullmatch(reference):
        raise NotFoundError(f"no model {reference} is registered.", "See the list of models.")
    who = principal()
    with home().database.read() as session:
        model = service.get_model(session, reference, who.organisation)
        networks = service.networks(session, model)
        issued = keys.count(session, model)
        versions = [
            row
            for row in service.models(session, who.organisation)
            if row.name == model.name and row.id != model.id
        ]
        own = _jobs_of(session, model)
        relatives = _relatives(session, model)
    newest = networks[-1] if networks else None
    measured = {} if newest is None else _evidence(service.network_name(newest))
    hypotheses = max(LEAST_KEYS, issued)
    needed = decades_needed(hypotheses, ALPHA)
    bits = model.basis_bits or 0
    ceiling = ceiling_decades(bits, collusion_resistant=model.collusion_resistant)
    study = next((job for job in own if job["kind"] == "study-model" and job["state"] == "done"), None)
    drawn = next((job for job in own if job["kind"] == "picture-model" and job["state"] == "done"), None)
    return render(
        "generators/show.html",
        model=model,
        networks=networks,
        issued=issued,
        versions=versions,
        jobs=own[:10],
        relatives=relatives,
        active=[job for job in own if job["state"] in ("queued", "running")],
        attacks=_attacks(measured, needed, ceiling),
        hypotheses=hypotheses,
        alpha=ALPHA,
        needed=needed,
        reliability=_reliability(measured),
        evidence_chart=_evidence_chart(measured, needed),
        study=study,
        study_chart=None if study is None else _study_chart(study),
        pictures=drawn,
        form=form,
        asked=asked,
    )


def _relatives(session: Session, model: Model) -> Sequence[Any]:
    """The nearest other models by lineage."""
    from registry.lineage import service as lineage  # which itself builds on this feature

    return lineage.relatives(session, model)[:_NEAREST]


def _active(session: Session, owner: int, kind: str) -> list[dict[str, Any]]:
    query = jobs.select_jobs(owner).where(Job.state.in_((jobs.State.QUEUED, jobs.State.RUNNING)))
    rows = session.execute(query.where(Job.kind == kind).order_by(Job.id.desc()).limit(10)).scalars()
    return [jobs.describe(row) for row in rows]


def _jobs_of(session: Session, model: Model) -> list[dict[str, Any]]:
    """The model's jobs among the organisation's newest, newest first."""
    query = jobs.select_jobs(model.organisation_id).order_by(Job.id.desc()).limit(_RECENT)
    rows = [jobs.describe(row) for row in session.execute(query).scalars()]
    names = (model.label, model.name)
    return [row for row in rows if row["arguments"].get("model") in names]


def _evidence(network: str) -> Mapping[str, Any]:
    """The figures that the network's package carries; empty where it has none."""
    try:
        found = json.loads(home().storage.read(f"{network}/network.json"))["evidence"]
    except (KeyError, ValueError, IntegrityError):
        return {}
    return found if isinstance(found, dict) else {}


def _attacks(measured: Mapping[str, Any], needed: float, ceiling: float) -> list[dict[str, Any]]:
    """Each attack's figures with the images of one copy that a verdict takes, usual and careful."""
    return [
        {
            "name": ATTACKS.get(name, name),
            "bits_right": seen["bits_right"],
            "evidence_5": seen["evidence_5"],
            "evidence_50": seen["evidence_50"],
            "usual": images_needed(needed, seen["evidence_50"], seen["evidence_50"], ceiling),
            "careful": images_needed(needed, seen["evidence_50"], seen["evidence_5"], ceiling),
        }
        for name, seen in measured.get("attacks", {}).items()
    ]


def _evidence_chart(measured: Mapping[str, Any], needed: float) -> dict[str, Any] | None:
    attacks = measured.get("attacks", {})
    if not attacks:
        return None
    return {
        "kind": "bar",
        "x": [ATTACKS.get(name, name) for name in attacks],
        "y_name": "decades of evidence",
        "series": [
            {
                "name": "weakest twentieth",
                "values": [round(seen["evidence_5"], 1) for seen in attacks.values()],
            },
            {"name": "middle image", "values": [round(seen["evidence_50"], 1) for seen in attacks.values()]},
            {
                "name": "needed for a verdict",
                "kind": "line",
                "dashed": True,
                "values": [round(needed, 1)] * len(attacks),
            },
        ],
    }


def _reliability(measured: Mapping[str, Any]) -> dict[str, Any] | None:
    diagram = measured.get("reliability")
    if not diagram or not diagram.get("claimed"):
        return None
    claimed = [round(100 * value, 1) for value in diagram["claimed"]]
    return {
        "kind": "line",
        "numeric": True,
        "x": claimed,
        "x_name": "certainty that the network claims, %",
        "y_name": "share of bits that are right, %",
        "series": [
            {"name": "measured", "values": [round(100 * value, 1) for value in diagram["observed"]]},
            {"name": "as claimed", "dashed": True, "values": claimed},
        ],
    }


def _study_chart(job: Mapping[str, Any]) -> dict[str, Any] | None:
    """The study's points: what a fingerprint costs in quality and buys in evidence."""
    entry = next((file for file in job["result"]["files"] if file["name"] == "study.json"), None)
    if entry is None or entry["size"] > _STUDY_FIGURES:
        return None
    try:
        points = json.loads(home().storage.read(file_name(job["job_id"], "study.json")))["points"]
        rows = [
            (
                str(point["point"]["scheme"]),
                round(point["quality"]["psnr_db"], 2),
                round(point["attacks"]["mix"]["evidence_5"], 2),
                f"k {point['point']['bits']}, sigma {point['strength']:.3g}",
            )
            for point in points
        ]
    except (KeyError, ValueError, TypeError, IntegrityError):
        return None
    return _by_scheme(rows)


def _by_scheme(rows: Sequence[tuple[str, float, float, str]]) -> dict[str, Any]:
    schemes = sorted({row[0] for row in rows})
    return {
        "kind": "points",
        "x": [row[1] for row in rows],
        "x_name": "PSNR between copy and base, dB",
        "y_name": "evidence after attacks, decades",
        "series": [
            {
                "name": scheme,
                "values": [row[2] if row[0] == scheme else None for row in rows],
                "names": [f"{row[0]}, {row[3]}" for row in rows],
            }
            for scheme in schemes
        ],
    }
