"""`registry case`: investigations on the command line, for the operator's own organisation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry.command_line import OUT, home_option, json_option, opened, print_json, shown

if TYPE_CHECKING:
    from registry.accounts.permissions import Principal
    from registry.home import Home


@click.group("case")
def case() -> None:
    """Investigate suspect images: their findings, notes and the signed report.

    \b
      registry case new "Leak of 3 May"
      registry case add-images CASE suspect.png more.zip
      registry case show CASE
      registry case report CASE --out report.pdf
    """


@case.command("new")
@click.argument("title")
@click.option("--description", default="", help="What it is about.")
@click.option("--alpha", type=float, default=1e-6, show_default=True, help="Bound shared by all findings.")
@home_option
@json_option
def case_new(title: str, description: str, alpha: float, as_json: bool) -> None:
    """Open a case called TITLE."""
    from registry.cases import service

    with opened() as home:
        made = service.open_case(home, _operator(home), title, description, alpha)
        _print(home, made.case_id, as_json, f"{made.case_id} is open.")


@case.command("list")
@click.option("--status", type=click.Choice(["open", "disputed", "closed"]), help="Only these.")
@home_option
@json_option
def case_list(status: str | None, as_json: bool) -> None:
    """List the cases, newest first."""
    from registry.cases import service
    from registry.cases.models import Case

    with opened() as home, home.database.read() as session:
        wanted = None if status is None else service.Status(status)
        chosen = service.select_cases(_operator(home).organisation, wanted).order_by(Case.id.desc())
        found = [service.describe(session, row) for row in session.execute(chosen).scalars()]
    if as_json:
        print_json(found)
    for each in [] if as_json else found:
        click.echo(f"{each['id']}  {each['status']:8}  {each['counts']['images']} images  {each['title']}")


@case.command("add-images")
@click.argument("case_id")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--set", "as_set", is_flag=True, help="Check these together too, as from one source.")
@click.option("--no-check", is_flag=True, help="Add them only.")
@home_option
@json_option
def add_images(case_id: str, files: tuple[Path, ...], as_set: bool, no_check: bool, as_json: bool) -> None:
    """Add image FILES and zip archives of images to CASE_ID, and check them. Each wrong file is reported."""
    from registry.cases import checking, images, service
    from registry.interrupts import between_steps
    from verifier.images import read_bounded

    with opened() as home:
        who = _operator(home)
        received = images.add(home, who, case_id, [(path.name, read_bounded(path)) for path in files])
        added = [each.image_id for each in received if each.error is None and each.image_id is not None]
        if added and not no_check:
            checking.start(home, who, case_id, images=added, in_background=False)
            if as_set and len(added) > 1:
                checking.start(home, who, case_id, images=added, as_set=True, in_background=False)
            with shown("checking images") as progress, between_steps():
                checking.work(home, case_id, who.organisation, progress)
        for each in received:
            if each.error is not None:
                click.echo(f"{each.name}: {each.error}", err=True)
        _print(home, case_id, as_json, f"{len(added)} of {len(received)} files were added.")
        if not as_json:
            with home.database.read() as session:
                _statements(home, service.get_case(session, case_id, who.organisation))


@case.command("show")
@click.argument("case_id")
@home_option
@json_option
def case_show(case_id: str, as_json: bool) -> None:
    """Show CASE_ID with its findings and notes."""
    from registry.cases import service

    with opened() as home:
        with home.database.read() as session:
            found = service.get_case(session, case_id, _operator(home).organisation)
        _print(home, case_id, as_json, f"{found.case_id} ({found.status}): {found.title}")
        if as_json:
            return
        _statements(home, found)
        with home.database.read() as session:
            for note in service.notes(session, found):
                click.echo(f"{note.note_id}  {note.author}: {note.text}")


@case.command("note")
@click.argument("case_id")
@click.argument("text")
@home_option
@json_option
def case_note(case_id: str, text: str, as_json: bool) -> None:
    """Add a note to CASE_ID."""
    from registry.cases import service

    with opened() as home:
        row = service.note(home, _operator(home), case_id, text)
    described = service.describe_note(row)
    if as_json:
        print_json(described)
    else:
        click.echo(f"{row.note_id} was added.")


@case.command("close")
@click.argument("case_id")
@click.option("--erase-images", is_flag=True, help="Remove its images and their names, for good.")
@home_option
@json_option
def case_close(case_id: str, erase_images: bool, as_json: bool) -> None:
    """Close CASE_ID; findings, hashes and notes stay."""
    from registry.cases import service

    with opened() as home:
        who = _operator(home)
        with home.database.read() as session:
            seen = service.get_case(session, case_id, who.organisation).version
        service.edit(home, who, case_id, seen=seen, status=service.Status.CLOSED)
        if erase_images:
            service.erase(home, who, case_id)
        _print(home, case_id, as_json, f"{case_id} is closed.")


@case.command("report")
@click.argument("case_id")
@click.option("--out", required=True, type=OUT, help="report.html or report.pdf.")
@click.option("--note", "notes", multiple=True, metavar="NOTE_ID", help="A note that goes in; repeatable.")
@home_option
def case_report(case_id: str, out: Path, notes: tuple[str, ...]) -> None:
    """Write the signed report of CASE_ID."""
    from registry.cases import reporting
    from registry.errors import InputError
    from registry.storage import atomic_file

    form = out.suffix.removeprefix(".")
    if form not in ("html", "pdf"):
        raise InputError(f"{out.name}: a report is HTML or PDF.", "Name it report.html or report.pdf.")
    with opened() as home:
        _, content = reporting.make(
            home, _operator(home), case_id, "pdf" if form == "pdf" else "html", notes=notes
        )
    with atomic_file(out) as file:
        file.write(content)
    click.echo(f"The report is in {out.name}.")


def _operator(home: Home) -> Principal:
    """Whoever sits at the registry's machine, for its own organisation."""
    from registry.accounts import service as accounts
    from registry.accounts.permissions import Principal, Role

    with home.database.read() as session:
        owner = accounts.default_organisation(session).id
    return Principal(owner, Role.ADMIN, f"operator {accounts.user_name()}")


def _print(home: Home, case_id: str, as_json: bool, said: str) -> None:
    from registry.cases import service, showing

    if not as_json:
        click.echo(said)
        return
    who = _operator(home)
    with home.database.read() as session:
        found = service.get_case(session, case_id, who.organisation)
        document: dict[str, Any] = {
            **service.describe(session, found),
            "images": [service.describe_image(session, image) for image in service.images(session, found)],
            "findings": [each.document() for each in showing.findings(home, session, who, found)],
            "notes": [service.describe_note(row) for row in service.notes(session, found)],
        }
    print_json(document)


def _statements(home: Home, found: Any) -> None:
    from registry.cases import showing

    with home.database.read() as session:
        for each in showing.findings(home, session, _operator(home), found):
            names = ", ".join(image.name for image in each.images)
            document = each.document()
            said = document["error"] or document["statement"] or "waits to be checked"
            chance = f" {document['chance']}" if each.finding is not None and each.finding.attributed else ""
            click.echo(f"{names}: {said}{chance}")
            if each.finding is not None and each.finding.lineage is not None:
                click.echo(f"  lineage: {each.finding.lineage.statement()}")
