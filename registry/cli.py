"""The ``registry`` command line.

Exit codes: 0 done, 1 `trace` named no copy, 2 bad request or input, 3 stored data or a signature does
not hold, 4 internal error, 130 interrupted. Whatever needs torch is imported by the commands that use it.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from registry.accounts.commands import organisation, person, token
from registry.backup.commands import backup, restore, upgrade
from registry.cases.commands import case
from registry.command_line import OUT, chosen_home, home_option, json_option, opened, print_json, shown
from registry.copies.commands import downloads, link
from registry.errors import InputError, RegistryError
from registry.jobs.commands import job, worker
from registry.key_commands import master_key, signing_key
from registry.keys.commands import key
from registry.ledger.commands import ledger
from registry.lineage.commands import lineage, nearest_sentence
from registry.resolve.commands import index
from registry.serving.commands import serve
from registry.trust.commands import trust
from verifier.errors import VerifierError

DEBUG_VARIABLE = "HALLMARK_DEBUG"
INTERNAL, INTERRUPTED = 4, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="hallmark", prog_name="registry")
@home_option
def cli() -> None:
    """Register generative models, issue fingerprinted copies to recipients and keep the ledger.

    A first session:

    \b
      registry init
      registry model add flowers --adapter latent-diffusion --weights builtin:flowers-ldm@1
      registry recipient add ada@example.org
      registry issue --model flowers --to ada@example.org
      registry download COPY_ID --out ada
      registry bundle export --out flowers.bundle --with-keys
    """


@cli.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="The configuration (config.toml) to begin with [default: embedded database, local files].",
)
@home_option
@json_option
def init(config: Path | None, as_json: bool) -> None:
    """Create a registry: its home folder, database, keys and first administrator."""
    from registry.accounts.service import user_name
    from registry.home import Home

    folder = chosen_home()
    identity = Home.create(folder, config)
    if as_json:
        print_json({"home": str(folder), "registry": identity.registry, "public_key": identity.public_text})
        return
    click.echo(f"Registry {identity.registry} is ready in {folder}.")
    click.echo("Keep a copy of its master.key in a safe place, apart from backups of the database.")
    click.echo(
        f"Its console: `registry person password {user_name()}` lets its first administrator in, "
        "`registry serve` serves it at http://localhost:8080."
    )


@cli.group()
def model() -> None:
    """Register generators and prepare them for issuing."""


@model.command("add")
@click.argument("name")
@click.option(
    "--adapter",
    required=True,
    help="Architecture: latent-diffusion or stylegan2; vae, flow, gan or score for models of the zoo.",
)
@click.option(
    "--weights", required=True, metavar="PATH", help="Model folder or file, or builtin:NAME@VERSION."
)
@click.option(
    "--scheme",
    metavar="pca|pca-projected|learned",
    help="Where the fingerprint's directions come from.",
)
@click.option("--bits", type=int, metavar="K", help="Length of a key, a multiple of 8.")
@click.option("--strength", type=float, metavar="S", help="Strength of the fingerprint.")
@click.option("--shift", type=int, metavar="N", help="First principal component used.")
@click.option("--psnr", type=float, metavar="DB", help="Choose the strength for this quality instead.")
@click.option(
    "--collusion-resistant",
    is_flag=True,
    help="Biased keys: against colluders who choose among their bits, at the price of evidence.",
)
@home_option
@json_option
def model_add(
    name: str,
    adapter: str,
    weights: str,
    scheme: str | None,
    bits: int | None,
    strength: float | None,
    shift: int | None,
    psnr: float | None,
    collusion_resistant: bool,
    as_json: bool,
) -> None:
    """Register the generator at --weights under NAME.

    A builtin with no further options is ready for issuing at once; any other model is trained first
    (`registry model train`). Other weights under a known NAME become its next version.
    """
    from registry.generators import service
    from registry.generators.adapters import get_adapter

    options = service.SchemeOptions(scheme, bits, strength, shift, psnr, collusion_resistant)
    with opened() as home:
        added = service.add_model(home, name, adapter, weights, options)
        with home.database.read() as session:
            described = service.describe(session, added)
    if as_json:
        print_json(described)
        return
    click.echo(f"Model {added.label} is registered: {added.digest_text}.")
    if sentence := nearest_sentence(described["lineage"]):
        click.echo(sentence, err=True)
    if not described["networks"] and get_adapter(adapter).schemes:
        click.echo(f"Next: registry model train {added.label}")


@model.command("list")
@home_option
@json_option
def model_list(as_json: bool) -> None:
    """List the registered models."""
    from registry.generators import service

    with opened() as home, home.database.read() as session:
        described = [service.describe(session, found) for found in service.models(session)]
    if as_json:
        print_json(described)
        return
    for entry in described:
        label = f"{entry['name']}@{entry['version']}"
        state = f"{entry['bits']} bits" if entry["networks"] else "not trained"
        click.echo(f"{label}  {state}  {entry['keys_issued']} keys  {entry['digest']}")


@model.command("show")
@click.argument("name")
@home_option
@json_option
def model_show(name: str, as_json: bool) -> None:
    """Show one model (NAME or NAME@VERSION)."""
    from registry.generators import service

    with opened() as home, home.database.read() as session:
        described = service.describe(session, service.get_model(session, name))
    if as_json:
        print_json(described)
        return
    networks, known = described.pop("networks"), described.pop("lineage")
    if known is not None:
        described["lineage"] = f"fingerprint of {known['samples']} images. {nearest_sentence(known)}".rstrip()
    for field, value in described.items():
        click.echo(f"{field.replace('_', ' '):>18}  {'-' if value is None else value}")
    for network in networks:
        click.echo(f"{'network':>18}  {network['version']}: {network['digest']}, {network['installed_at']}")


@model.command("card")
@click.argument("name")
@click.option(
    "--recipients", type=int, metavar="N", help="Keys to tell apart [default: a million, or all issued]."
)
@click.option("--alpha", type=float, default=1e-6, show_default=True, help="Chance of a false accusation.")
@home_option
@json_option
def model_card(name: str, recipients: int | None, alpha: float, as_json: bool) -> None:
    """Show what the network of NAME reads after each attack, and how many images a verdict needs."""
    from registry.generators import card, service

    with opened() as home, home.database.read() as session:
        described = card.describe_card(
            home, session, service.get_model(session, name), recipients=recipients, alpha=alpha
        )
    if as_json:
        print_json(described)
    else:
        click.echo(card.as_text(described))


@model.command("train")
@click.argument("name")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Foreign photographs (folder or zip): keys are screened against them.",
)
@click.option("--steps", type=click.IntRange(1), help="Training steps of the network.")
@home_option
def model_train(name: str, data: Path | None, steps: int | None) -> None:
    """Compute the basis of model NAME if it has none, and train its attribution network.

    Ctrl-C keeps what was done; the same command goes on from there.
    """
    from registry.attribution import service as attribution
    from registry.attribution.folders import training_folder
    from registry.generators import service

    if data is not None and not data.exists():
        raise InputError(f"{data}: no such file or folder.", "Give --data a folder or zip of photographs.")
    with opened() as home:
        with home.database.read() as session:
            trained = service.get_model(session, name)
        with training_folder(home, trained) as work:
            attribution.train(home.database, home.storage, trained, data=data, steps=steps, work=work)
    with opened() as home, home.database.read() as session:
        described = service.describe(session, trained)
    if described["networks"]:
        click.echo(f"Model {trained.label} is ready for issuing.")
    if described["lineage"] and described["lineage"]["samples"]:
        click.echo(f"Its lineage is known from {described['lineage']['samples']} samples.")
    if sentence := nearest_sentence(described["lineage"]):
        click.echo(sentence, err=True)


@model.command("study")
@click.argument("name")
@click.option(
    "--schemes", default="", metavar="LIST", help="Schemes [default: pca and learned, as the model allows]."
)
@click.option(
    "--shifts",
    default="",
    metavar="LIST",
    help="First principal component used, where the scheme is not learned: numbers, or first, middle, last "
    "[default: these three].",
)
@click.option("--bits", default="", metavar="LIST", help="Lengths of a key, k [default: 64,256].")
@click.option("--strengths", default="", metavar="LIST", help="Strengths, sigma [default: by --psnrs].")
@click.option(
    "--psnrs",
    default="",
    metavar="LIST",
    help="Quality targets in dB from which the strengths are found [default: 32,36].",
)
@click.option(
    "--points",
    multiple=True,
    metavar="SCHEME:SHIFT:K:SIGMA",
    help="One point in place of the grid, such as pca:448:64:0.5, pca:last:64:34dB or, without a shift, "
    "learned:64:34dB; may be repeated.",
)
@click.option(
    "--steps", type=click.IntRange(1), default=300, show_default=True, help="Training steps of a network."
)
@click.option(
    "--images", type=click.IntRange(20), default=200, show_default=True, help="Images measured at each point."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Photographs (folder or zip) for Frechet distances to them.",
)
@click.option("--out", type=OUT, metavar="FILE", help="The report [default: NAME-study.html].")
@home_option
@json_option
def model_study(
    name: str,
    schemes: str,
    shifts: str,
    bits: str,
    strengths: str,
    psnrs: str,
    points: tuple[str, ...],
    steps: int,
    images: int,
    data: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure what scheme, shift, strength and k of a fingerprint on model NAME cost and buy; write a report.

    Every combination gets a basis and a small attribution network and is measured before and after the
    attacks of the latent-fingerprint paper. Ctrl-C keeps what was done; the same command goes on from
    there, and a wider one trains only what is new.
    """
    from registry.attribution.study import measuring
    from registry.attribution.study.plan import Sweep
    from registry.attribution.study.report import write_report

    report = out or Path(f"{name.replace('@', '-')}-study.html").resolve()
    if report.is_dir() or not report.parent.is_dir():
        raise InputError(
            f"{report}: no file can be written there.", "Give --out a file in a folder that exists."
        )
    if data is not None and not data.exists():
        raise InputError(f"{data}: no such file or folder.", "Give --data a folder or zip of photographs.")
    sweep = Sweep(schemes, shifts, bits, strengths, psnrs, points, steps, images)
    with opened() as home:
        found = measuring.run(home, name, sweep, data=data, say=lambda line: click.echo(line, err=True))
    write_report(found, report)
    if as_json:
        print_json(found.document())
        return
    click.echo(f"Take {found.recommended}. {found.recommendation.reason}")
    click.echo(f"The report is {report}.")


@model.command("export")
@click.argument("name")
@click.option("--out", type=OUT, required=True, help="New folder to write.")
@home_option
def model_export(name: str, out: Path) -> None:
    """Write the attribution network of NAME (ONNX) and its card to a new folder."""
    from registry.generators.export import export_model

    with opened() as home:
        export_model(home, name, out)
    click.echo(f"Written to {out}.")


@cli.group()
def recipient() -> None:
    """Manage who receives copies."""


@recipient.command("add")
@click.argument("email")
@click.option(
    "--public-key",
    type=click.Path(path_type=Path),
    help="The recipient's Ed25519 public key: PEM, OpenSSH or base64.",
)
@home_option
@json_option
def recipient_add(email: str, public_key: Path | None, as_json: bool) -> None:
    """Add the recipient with this e-mail address."""
    from registry.accounts import service

    key = None if public_key is None else service.load_public_key(public_key)
    with opened() as home, home.database.write() as session:
        added = service.describe(service.add_recipient(session, email, key))
    if as_json:
        print_json(added)
    else:
        click.echo(f"Recipient {added['email']} is added.")


@recipient.command("list")
@home_option
@json_option
def recipient_list(as_json: bool) -> None:
    """List all recipients."""
    from registry.accounts import service

    with opened() as home, home.database.read() as session:
        found = [service.describe(entry) for entry in service.recipients(session)]
    if as_json:
        print_json(found)
        return
    for entry in found:
        click.echo(f"{entry['email']}  {entry['public_key'] or 'no public key'}  {entry['created_at']}")


@recipient.command("erase")
@click.argument("email")
@click.option("--yes", is_flag=True, help="Do not ask.")
@home_option
@json_option
def recipient_erase(email: str, yes: bool, as_json: bool) -> None:
    """Erase who the recipient with this address is, for good.

    Address, key, salt, open links, where downloads came from and reasons of revocations go. Certificates, the
    ledger and every proof stay valid, and images still lead to the copies, but nobody can tell whose they
    were. Backups made before, the security log and what people wrote into cases are not reached.
    """
    from registry.copies import erasure

    if not yes and not click.confirm(f"Erase who {email} is? This cannot be undone.", err=True):
        raise click.Abort
    with opened() as home:
        done = erasure.erase(home, email)
    if as_json:
        print_json(asdict(done))
        return
    click.echo(
        f"Erased. {done.email} stands for the recipient of {done.copies} copies; "
        f"{done.links_withdrawn} links are withdrawn, {done.downloads_cleared} downloads cleared."
    )


@cli.command()
@click.option("--model", "model_name", required=True, metavar="NAME", help="The model to issue a copy of.")
@click.option("--to", "email", required=True, metavar="EMAIL", help="The recipient.")
@click.option(
    "--expires-days", type=int, metavar="DAYS", help="The certificate's validity [default: no end]."
)
@click.option("--count", type=click.IntRange(1), default=1, show_default=True, help="Keys to issue in bulk.")
@home_option
def issue(model_name: str, email: str, expires_days: int | None, count: int) -> None:
    """Issue a key for a copy and print its signed certificate (JSON).

    With --count above 1 a summary is printed instead. Bulk issues commit every 10 000 keys; Ctrl-C ends
    between two commits.
    """
    from registry.keys import service

    service.check_expiry(expires_days)
    with opened() as home:
        issuer = service.Issuer.open(home, model_name, email)
        if count == 1:
            print_json(issuer.issue(1, expires_days)[0])
            return
        print_json(_issue_many(issuer, count, expires_days))


def _issue_many(issuer: Any, count: int, expires_days: int | None) -> dict[str, Any]:
    from registry.interrupts import between_steps
    from registry.keys.service import CHUNK

    done, first, last = 0, None, None
    try:
        with shown("issuing keys") as progress, between_steps() as check:
            seen = progress(count)
            while done < count:
                check()
                documents = issuer.issue(min(CHUNK, count - done), expires_days)
                done += len(documents)
                first, last = first or documents[0]["key_id"], documents[-1]["key_id"]
                seen(done)
    except KeyboardInterrupt:
        click.echo(f"{done} of {count} keys were issued.", err=True)
        raise
    return {"schema": "hallmark/issue/1", "issued": done, "first_key_id": first, "last_key_id": last}


@cli.command()
@click.argument("copy_id")
@click.option("--out", type=OUT, required=True, help="New folder for the copy.")
@click.option(
    "--receipt",
    type=OUT,
    help="The signed receipt's file [default: OUT.receipt.json].",
)
@home_option
@json_option
def download(copy_id: str, out: Path, receipt: Path | None, as_json: bool) -> None:
    """Build the copy COPY_ID (or key id) into a folder and record the delivery."""
    from registry.copies import service

    with opened() as home, shown("building the copy") as progress:
        delivery = service.download(home, copy_id, out, receipt, progress)
    if as_json:
        print_json(delivery.receipt)
        return
    click.echo(f"{delivery.receipt['copy_id']} is in {out}: SHA-256 {delivery.receipt['sha256']}.")
    click.echo(f"Its receipt is {delivery.receipt_path}.")


@cli.command()
@click.option("--copy", "copy_folder", type=click.Path(path_type=Path), required=True, help="The copy.")
@click.option("-n", "count", type=click.IntRange(1), default=16, show_default=True, help="Number of images.")
@click.option("--out", type=OUT, required=True, help="New folder for the PNG files.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="The same seed gives the same images.")
@json_option
def sample(copy_folder: Path, count: int, out: Path, seed: int | None, as_json: bool) -> None:
    """Make images with a copy (or base model), as its recipient would. Needs no registry."""
    from registry.generators.sampling import sample_to_folder

    chosen = secrets.randbelow(2**31) if seed is None else seed
    written = sample_to_folder(copy_folder, count, chosen, out)
    if as_json:
        print_json({"seed": chosen, "images": [str(path) for path in written]})
    else:
        click.echo(f"{count} images are in {out} (seed {chosen}).")


@cli.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--model", "model_name", required=True, metavar="NAME", help="The model that made the image.")
@click.option("--steps", type=click.IntRange(1), default=2000, show_default=True, help="Steps of each start.")
@click.option("--starts", type=click.IntRange(1), default=20, show_default=True, help="Number of starts.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@click.option(
    "--lpips",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Weights of VGG-16 or AlexNet for the loss LPIPS [default: torch's cache, else a structural loss].",
)
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    help="Where the search is kept [default: the model's training].",
)
@click.option("--out", type=OUT, metavar="FILE", help="Write the result (JSON) here too.")
@home_option
@json_option
def invert(
    image: Path,
    model_name: str,
    steps: int,
    starts: int,
    seed: int,
    lpips: Path | None,
    work: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Attribute IMAGE by synthesis: search the latent and the key of model NAME that make it again.

    The slow second opinion of the latent-fingerprint paper: minutes to hours where the network takes
    milliseconds. Ctrl-C keeps what was done; the same command goes on from there.
    """
    from registry.attribution import inversion

    if out is not None and not out.parent.is_dir():
        raise InputError(f"{out.parent}: no such folder.", "Give --out a file in a folder that exists.")
    settings = inversion.Settings(steps, starts, seed)
    with opened() as home:
        found = inversion.invert(home, image, model_name, settings, lpips=lpips, work=work)
    if out is not None:
        out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if as_json:
        print_json(found)
        return
    for line in inversion.summary(found):
        click.echo(line)


@cli.command("trace")
@click.argument("suspect", metavar="FILE|FOLDER", type=click.Path(path_type=Path))
@click.option("--model", "model_name", metavar="NAME", help="Only this model [default: all that fit].")
@click.option(
    "--alpha",
    default=1e-6,
    show_default=True,
    help="Bound on the probability that this run names anyone falsely.",
)
@home_option
@json_option
def trace_weights(suspect: Path, model_name: str | None, alpha: float, as_json: bool) -> int:
    """Tell whose copy the weights in FILE or FOLDER are.

    Reads model folders, safetensors files and PyTorch checkpoints (without running code in them), under
    whatever names: as they were delivered, or rounded, pruned, fine-tuned, converted or mixed from several
    copies. The certificate inside is checked too, but the weights decide.

    Exit codes: 0 attributed, 1 not attributed, 2 bad request or input, 3 stored data does not hold,
    4 internal error, 130 interrupted.
    """
    from registry.copies import trace

    with opened() as home, shown("keys") as progress:
        found = trace.trace(home, suspect, model_name, alpha, progress)
    if as_json:
        print_json(found.document())
    else:
        for row in trace.rows(found):
            click.echo(row.plain())
    return 0 if found.attributed else 1


@cli.command()
@click.argument("key_id")
@click.option("--reason", required=True, help="Why; kept in the database, not in the ledger.")
@home_option
def revoke(key_id: str, reason: str) -> None:
    """Revoke the key KEY_ID (or copy id) and print the signed revocation (JSON).

    Its copy is no longer delivered; images it made stay attributable and are marked revoked.
    """
    from registry.keys import service

    with opened() as home:
        print_json(service.revoke(home, key_id, reason))


@cli.group()
def bundle() -> None:
    """Export what verifiers need."""


@bundle.command("export")
@click.option("--out", type=OUT, required=True, help="File to write.")
@click.option("--with-keys", is_flag=True, help="Add the key table: secret, for authorised auditors only.")
@click.option("--with-recipients", is_flag=True, help="Add the recipients' addresses to the key table.")
@click.option(
    "--for",
    "auditors",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Encrypt the key table to this auditor's public key (`verifier key new`); may be repeated.",
)
@click.option("--model", "model_name", metavar="NAME", help="Only this model [default: all].")
@click.option("--expires-days", type=int, default=30, show_default=True, help="Validity of the bundle.")
@home_option
@json_option
def bundle_export(
    out: Path,
    with_keys: bool,
    with_recipients: bool,
    auditors: Sequence[Path],
    model_name: str | None,
    expires_days: int,
    as_json: bool,
) -> None:
    """Write a signed bundle for `verifier check --bundle`."""
    from registry.bundles import service
    from verifier.sealed import key_id, load_public

    public = [load_public(path) for path in auditors]
    options = service.BundleOptions(
        with_keys, with_recipients, model_name, expires_days=expires_days, auditors=public
    )
    with opened() as home, shown("key table") as progress:
        manifest = service.export(home, out, options, progress)
    if as_json:
        print_json(manifest)
        return
    names = ", ".join(f"{entry['name']} ({entry['keys_issued']} keys)" for entry in manifest["models"])
    click.echo(f"{out}: {names}, expires {manifest['expires_at']}.")
    if public:
        click.echo(f"Only the holders of {', '.join(map(key_id, public))} can read its key table.")
    elif with_keys:
        click.echo("It holds the key table: whoever has it can read and forge fingerprints.")


# Commands of features, from their commands.py.
cli.add_command(job)
cli.add_command(worker)
cli.add_command(link)
cli.add_command(downloads)
cli.add_command(serve)
cli.add_command(upgrade)
cli.add_command(backup)
cli.add_command(restore)
cli.add_command(case)
cli.add_command(ledger)
cli.add_command(lineage)
cli.add_command(index)
cli.add_command(trust)
cli.add_command(key)
cli.add_command(master_key)
cli.add_command(signing_key)
cli.add_command(organisation)
cli.add_command(person)
cli.add_command(token)


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; every failure ends as one line on standard error."""
    try:
        result = cli.main(arguments, prog_name="registry", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        return _failed("interrupted; what was finished is kept, nothing half-done is.", INTERRUPTED)
    except click.ClickException as error:
        return _failed(_usage(error), error.exit_code if error.exit_code != 1 else 2)
    except (RegistryError, VerifierError) as error:
        return _failed(error.diagnostics(), error.exit_code)
    except Exception as error:  # noqa: BLE001  (no traceback ever reaches a user)
        known = _explain(error)
        return _failed(known.diagnostics(), known.exit_code)
    return result if isinstance(result, int) else 0


def _usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    hint = f" Try `{context.command_path} --help`." if context is not None else ""
    return error.format_message().replace("\n", " ") + hint


def _explain(error: Exception) -> RegistryError:
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] not in (
        "registry",
        "verifier",
    ):
        return InputError(
            f"this command needs {error.name}, which is not installed.",
            "Run `pip install 'hallmark[registry]'`.",
        )
    if "sqlalchemy" in sys.modules:
        from sqlalchemy.exc import SQLAlchemyError

        from registry.db import explain

        if isinstance(error, SQLAlchemyError):
            return explain(error)
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return InputError(f"{where}{error.strerror}.", "Correct that and run the command again.")
    summary = f"{type(error).__name__}: {error}".splitlines()[0]
    failed = RegistryError(f"internal error: {summary}.", f"Run with {DEBUG_VARIABLE}=1 for the details.")
    failed.exit_code = INTERNAL
    return failed


def _failed(message: str, code: int) -> int:
    if os.environ.get(DEBUG_VARIABLE) == "1":
        traceback.print_exc()
    click.echo(f"registry: {message}", err=True)
    return code


def main() -> None:
    """Entry point of the ``registry`` command."""
    sys.exit(run())


if __name__ == "__main__":
    main()
