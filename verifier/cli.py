"""The ``verifier`` command.

    verifier check suspect.png --bundle flowers.bundle
    verifier inspect copies/alice

Exit codes: 0 everything attributed (``inspect``: the copy is sound), 1 completed and something not
attributed, 2 a bad request or input, 3 trust failure, 4 internal error, 130 interrupted (by Ctrl-C, or
because nobody reads the output any more). Nothing else ends with 1.

Only click is imported here: what a command needs is imported when it runs, so that ``--help`` and
wrong options answer at once.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from verifier.errors import VerifierError

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    from verifier.bundle import Bundle
    from verifier.check import Checker
    from verifier.display import Row
    from verifier.scan import Progress as ScanProgress
    from verifier.update import Progress

ATTRIBUTED, NOT_ATTRIBUTED, BAD_INPUT, INTERNAL, INTERRUPTED = 0, 1, 2, 4, 130
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
HOME_VARIABLE = "HALLMARK_VERIFIER_HOME"
GARBAGE = 50_000  # new objects between two looks for cycles: starting makes many, and all of them stay
MANY = 32  # images from which on several are read at a time, with a thread each

Command = TypeVar("Command", bound=Callable[..., Any])


class Commands(click.Group):
    """A command group that ends with the documented exit codes and never with a traceback."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        kwargs["standalone_mode"] = False
        try:
            result = super().main(*args, **kwargs)
        except click.ClickException as error:  # a wrong option or argument
            error.show()
            result = BAD_INPUT
        except click.Abort:
            result = INTERRUPTED
        sys.exit(result if isinstance(result, int) else 0)

    def invoke(self, ctx: click.Context) -> int:
        """Run a command. Errors end here: click would give some of them an exit code of its own."""
        try:
            result = super().invoke(ctx)
            return result if isinstance(result, int) else 0
        except (click.ClickException, click.exceptions.Exit):
            raise
        except VerifierError as error:
            _complain(error.diagnostics())
            return error.exit_code
        except KeyboardInterrupt:
            _complain("interrupted.")
            return INTERRUPTED
        except BrokenPipeError:
            # The reader went away. Python flushes once more on leaving, which must not fail as well.
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return INTERRUPTED
        except Exception as error:  # noqa: BLE001 - whatever it is, a user gets one line
            if isinstance(error, OSError) and error.errno in FULL:
                _complain(f"cannot write the output: {error.strerror}. Make room, then repeat the command.")
                return BAD_INPUT
            if os.environ.get("HALLMARK_DEBUG") == "1":
                import traceback

                traceback.print_exc()
            reason = " ".join(str(error).split()) or "no reason given"
            _complain(f"internal error: {type(error).__name__}: {reason} (HALLMARK_DEBUG=1 shows where)")
            return INTERNAL


def _complain(message: str) -> None:
    with suppress(OSError):
        click.echo(f"verifier: {message}", err=True)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hallmark", prog_name="verifier")
def cli() -> None:
    """Tell whose copy of a generative model made an image.

    You need a bundle: a signed file from the registry that issued the copies. Everything is computed on
    this device; no image leaves it.
    """


def home_option(command: Command) -> Command:
    """``--home``: where `verifier update` keeps what it fetched."""
    return click.option(
        "--home",
        envvar=HOME_VARIABLE,
        default=lambda: click.get_app_dir("hallmark-verifier"),
        metavar="DIR",
        type=click.Path(file_okay=False),
        help=f"Where fetched bundles are kept [default: your configuration folder].  [env: {HOME_VARIABLE}]",
    )(command)


_BUNDLE = click.option(
    "--bundle",
    envvar="HALLMARK_BUNDLE",
    metavar="FILE",
    type=click.Path(),
    help="Bundle from `registry bundle export`; `check` and `scan` need its keys unless a registry is asked "
    "[default: what `verifier update` fetched].  [env: HALLMARK_BUNDLE]",
)
_TRUST = click.option(
    "--trust",
    envvar="HALLMARK_TRUST",
    metavar="REGISTRY_ID",
    help="Accept only this registry's bundle.  [env: HALLMARK_TRUST]",
)
_DEVICE = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda[:N]|tensorrt",
    help="Where the network runs; what does not start is an error (see `verifier doctor`).",
)
_CHECKER_OPTIONS = (
    _BUNDLE,
    click.option(
        "--registry",
        "url",
        metavar="URL",
        help="Ask this registry: images are read here, and only the readings are sent. Its token is taken "
        "from HALLMARK_TOKEN.",
    ),
    click.option("--token-file", metavar="FILE", type=click.Path(), help="Take the token from this file."),
    click.option(
        "--key",
        envvar="HALLMARK_KEY",
        metavar="FILE",
        type=click.Path(),
        help="Your private key (`verifier key new`), for a bundle whose keys are encrypted to it.  "
        "[env: HALLMARK_KEY]",
    ),
    home_option,
    click.option(
        "--alpha",
        default=1e-6,
        show_default=True,
        help="Bound on the probability that this run names anyone falsely.",
    ),
    _TRUST,
    _DEVICE,
    click.option(
        "--no-pose-search",
        is_flag=True,
        help="Read images as they are; faster, but crops are rarely recognised.",
    ),
)


def checker_options(command: Command) -> Command:
    """What `check` and `scan` have in common: whose keys, which device, how images are read."""
    for option in reversed(_CHECKER_OPTIONS):
        command = option(command)
    return command


@cli.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", type=click.Path())
@click.option("--set", "as_set", is_flag=True, help="Test all images together, as one set of one source.")
@checker_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per finding, a line each.")
def check(
    images: Sequence[str],
    bundle: str | None,
    url: str | None,
    token_file: str | None,
    key: str | None,
    home: str,
    as_set: bool,
    alpha: float,
    trust: str | None,
    device: str,
    no_pose_search: bool,
    as_json: bool,
) -> int:
    """Tell whose copy made the images.

    Each IMAGE is tested alone, or all of them together with --set: then the verdict says that at least
    one of them depends on the key named. "Attributed" means: if none of the images had been made with
    the keys of this registry, the chance that this run names anyone is at most --alpha.

    Exit codes: 0 everything attributed, 1 something not attributed, 2 bad input (an unreadable image,
    too), 3 the bundle cannot be trusted, 4 internal error, 130 interrupted.
    """
    import json

    if len(images) < MANY:
        # numpy's OpenBLAS would start threads, which takes longer than what it has to compute for so few.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    verifier = _checker(bundle, url, token_file, key, home, trust, device, parallel=len(images) >= MANY)
    note = _trust_note(verifier.bundle.registry, verifier.bundle.pinned)
    if as_json and not verifier.bundle.pinned:
        _complain(note)
    code = ATTRIBUTED
    with _progress(len(images)) as advance:
        found = verifier.findings(
            images, as_set=as_set, alpha=alpha, pose_search=not no_pose_search, progress=advance
        )
        for finding in found:
            if as_json:
                click.echo(json.dumps(finding.document()))
            else:
                from verifier.display import finding_rows

                _print_rows(finding_rows(finding, verifier.bundle))
            worse = BAD_INPUT if finding.has_errors else ATTRIBUTED if finding.attributed else NOT_ATTRIBUTED
            code = max(code, worse)
    if not as_json:
        why = f" ({verifier.chosen})" if verifier.chosen else ""
        asked = "" if url is None else f" {url} was asked with the readings alone."
        click.echo(f"{note} Read on {verifier.told}{why}.{asked}")
    return code


@cli.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", type=click.Path())
@click.option("--set", "as_set", is_flag=True, help="All images are of one source: many tell more than one.")
@_BUNDLE
@click.option("--registry", "url", metavar="URL", help="Use what was fetched from this registry; ask nobody.")
@home_option
@_TRUST
@_DEVICE
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per answer, a line each.")
def lineage(
    images: Sequence[str],
    as_set: bool,
    bundle: str | None,
    url: str | None,
    home: str,
    trust: str | None,
    device: str,
    as_json: bool,
) -> int:
    """Tell which registered model made the images, without any key.

    A bundle without keys is enough, and models that carry none are told too. It says nothing of whose copy
    it was, and is evidence against nobody: that is what `verifier check` is for, which says both.

    Exit codes: 0 a model was told for all images, 1 some are of none of the registered models, or of several,
    2 bad input (an unreadable image, too), 3 the bundle cannot be trusted, 4 internal error, 130 interrupted.
    """
    import json

    from verifier.display import told_rows
    from verifier.telling import Teller

    bundles = _bundles(bundle, url, home, trust, None)
    teller = Teller(bundles, device)
    note = _trust_note(bundles[0].registry, bundles[0].pinned)
    if as_json and not bundles[0].pinned:
        _complain(note)
    code = ATTRIBUTED
    with _progress(len(images)) as advance:
        for told in teller.tell(images, as_set=as_set, progress=advance):
            if as_json:
                click.echo(json.dumps(told.document()))
            else:
                _print_rows(told_rows(told))
            known = told.lineage is not None and told.lineage.model is not None
            code = max(code, BAD_INPUT if told.has_errors else ATTRIBUTED if known else NOT_ATTRIBUTED)
    if not as_json:
        click.echo(f"{note} Told among {', '.join(teller.models)}.")
    return code


@cli.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "--out", required=True, metavar="FILE.parquet", type=click.Path(), help="The table of findings."
)
@click.option(
    "--group",
    "rule",
    type=click.Choice(["source", "folder", "none"]),
    default="source",
    show_default=True,
    help="What is tested together: files of a folder that were made alike, a folder's files, or nothing.",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Read on this machine, or on a Ray cluster (pip install 'hallmark[scan]').",
)
@click.option("--address", metavar="ADDRESS", help="The Ray cluster [default: one of this machine alone].")
@click.option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    help="Images read at a time [default: processors of this machine].",
)
@click.option("--so-far", is_flag=True, help="Judge what an interrupted scan has read, and keep its journal.")
@click.option(
    "--retry-errors",
    is_flag=True,
    help="Read files that failed once more after all others, those of an interrupted scan, too.",
)
@checker_options
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
def scan(
    sources: Sequence[str],
    out: str,
    rule: str,
    engine: str,
    address: str | None,
    workers: int | None,
    so_far: bool,
    retry_errors: bool,
    bundle: str | None,
    url: str | None,
    token_file: str | None,
    key: str | None,
    home: str,
    alpha: float,
    trust: str | None,
    device: str,
    no_pose_search: bool,
    as_json: bool,
) -> int:
    """Tell whose copies made any of very many images, as a table.

    Each SOURCE is a folder, an image, an archive (zip, tar, tar.gz, .bz2, .xz), a quoted pattern, a text
    file with a source a line, or s3://bucket/prefix. Images are put into groups by what can be told without
    keys, and tested together as well as each alone; --alpha bounds the probability that the whole scan names
    anyone falsely.

    FILE.parquet.journal keeps what was read. Ctrl-C stops, and the same command goes on where it stopped.

    Exit codes: 0 the table is written (images that could not be read are in it), 2 bad input (also where no
    image could be read at all), 3 the bundle cannot be trusted, 4 internal error, 130 interrupted.
    """
    import json
    from importlib.util import find_spec
    from pathlib import Path

    from verifier.errors import InputError

    if find_spec("pyarrow") is None:
        raise InputError("`verifier scan` needs pyarrow.", "Run `pip install 'hallmark[scan]'`.")
    if address is not None and engine != "ray":
        raise click.UsageError("--address goes with --engine ray.")
    if so_far and retry_errors:
        raise click.UsageError("--so-far reads nothing, so it does not go with --retry-errors.")
    from verifier.display import summary_rows
    from verifier.scan import Stopped
    from verifier.scan import scan as scan_sources

    checker = _checker(bundle, url, token_file, key, home, trust, device, parallel=True)
    note = _trust_note(checker.bundle.registry, checker.bundle.pinned)
    if as_json and not checker.bundle.pinned:
        _complain(note)
    with _stages() as progress:
        try:
            summary = scan_sources(
                sources,
                Path(out),
                checker,
                alpha=alpha,
                pose_search=not no_pose_search,
                rule=rule,
                engine=engine,
                workers=workers,
                address=address,
                so_far=so_far,
                retry_errors=retry_errors,
                progress=progress,
            )
        except Stopped as stopped:
            _complain(str(stopped))
            return INTERRUPTED
    if as_json:
        click.echo(json.dumps(summary.document()))
    else:
        _print_rows(summary_rows(summary))
        click.echo(note)
    return BAD_INPUT if summary.errors == summary.images else 0


def _checker(
    bundle: str | None,
    url: str | None,
    token_file: str | None,
    key: str | None,
    home: str,
    trust: str | None,
    device: str,
    parallel: bool,
) -> Checker:
    """Who judges: this device with the keys of a bundle, or a registry."""
    if token_file is not None and url is None:
        raise click.UsageError("--token-file goes with --registry.")
    bundles = _bundles(bundle, url, home, trust, key)
    if url is None:
        return _offline(bundles, device, parallel)
    return _online(bundles, url, token_file, device, parallel)


def _bundles(
    path: str | None, url: str | None, home: str, trust: str | None, key: str | None
) -> list[Bundle]:
    """The bundle at ``path``, or those that were fetched from ``url`` or from the only registry known."""
    from pathlib import Path

    from verifier.bundle import Bundle
    from verifier.errors import InputError, TrustError
    from verifier.store import Store

    if path is not None:
        opened = Bundle.open(path, trust, auditor=None if key is None else _auditor(Path(key)))
        for store in Store.all(Path(home)):  # a bundle is as old as its export
            if store.registry == opened.registry:
                opened.learn(store.revocations())
        return [opened]
    stores = Store.all(Path(home)) if url is None else [Store.at(url, Path(home))]
    if len(stores) != 1:
        known = ", ".join(store.url for store in stores) or "nothing was fetched yet"
        raise InputError(
            f"no bundle was named, and there is no single one in {home} ({known}).",
            "Give --bundle FILE, or --registry URL after `verifier update --registry URL`.",
        )
    found = stores[0].bundles()
    if trust is not None and trust != stores[0].registry:
        raise TrustError(f"{stores[0].url} is registry {stores[0].registry}, not {trust}.", "Check --trust.")
    return found


def _auditor(path: Path) -> X25519PrivateKey:
    from verifier.sealed import load_private

    return load_private(path, _passphrase)


def _offline(bundles: Sequence[Bundle], device: str, parallel: bool) -> Checker:
    """Whoever searches the keys of the bundle; fetched ones, which may be several, have none."""
    from verifier.check import Verifier

    return Verifier(bundles[0], device, parallel)


def _online(
    bundles: Sequence[Bundle], url: str, token_file: str | None, device: str, parallel: bool
) -> Checker:
    """Whoever asks the registry; says so where it cannot be asked about a model."""
    from verifier.client import Client, read_token
    from verifier.online import OnlineVerifier

    verifier = OnlineVerifier(bundles, Client(url, read_token(token_file)), device, parallel)
    if verifier.left_out:
        _complain(f"not asked about {', '.join(verifier.left_out)}: not open to this token.")
    return verifier


@cli.command()
@click.argument("copy", metavar="COPY", type=click.Path())
@click.option(
    "--bundle",
    envvar="HALLMARK_BUNDLE",
    metavar="FILE",
    type=click.Path(),
    help="Compare with this bundle: its registry, revocations, deliveries.  [env: HALLMARK_BUNDLE]",
)
@click.option(
    "--trust",
    envvar="HALLMARK_TRUST",
    metavar="REGISTRY_ID",
    help="Accept only a copy of this registry.  [env: HALLMARK_TRUST]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def inspect(copy: str, bundle: str | None, trust: str | None, as_json: bool) -> int:
    """Tell whose copy these files are, and whether they were altered.

    COPY is the folder that was downloaded (or the hallmark.json in it), or one .safetensors file. A
    folder is compared byte for byte with what the registry signed; a single file shows its certificate
    only.

    Exit codes: 0 the copy is sound, 2 there is no copy to read, 3 something was altered or is not of
    the registry you trust, 4 internal error, 130 interrupted.
    """
    import json

    from verifier.bundle import Bundle
    from verifier.display import inspection_rows
    from verifier.inspect import inspect_copy

    opened = Bundle.open(bundle, trust) if bundle else None
    inspection = inspect_copy(copy, trust, opened)
    if as_json:
        click.echo(json.dumps(inspection.document()))
    else:
        _print_rows(inspection_rows(inspection))
        click.echo(_trust_note(inspection.certificate.registry, inspection.pinned))
    return 0


@cli.command()
@click.option("--registry", "url", required=True, metavar="URL", help="The registry's address.")
@click.option(
    "--root",
    metavar="FILE|SHA256",
    help="The first time: the registry's first root, or its SHA-256 as published where its name is known.",
)
@click.option("--model", metavar="NAME[@VERSION]", help="Only this model [default: all that are published].")
@click.option("--out", metavar="FILE", type=click.Path(), help="Also write the bundle to this file.")
@home_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def update(url: str, root: str | None, model: str | None, out: str | None, home: str, as_json: bool) -> int:
    """Fetch the registry's networks, revocations and ledger checkpoint, or what is new of them.

    Everything is checked against the registry's trust root (TUF): what somebody between altered, withheld,
    mixed or put back to an earlier state is refused. `verifier check --registry` uses what was fetched.

    Exit codes: 0 up to date, 2 the registry cannot be reached or a bad request, 3 something was refused.
    """
    import json
    from importlib.util import find_spec
    from pathlib import Path

    from verifier.errors import InputError
    from verifier.update import publish_to, update

    if find_spec("tuf") is None:
        raise InputError("`verifier update` needs python-tuf.", "Run `pip install 'hallmark[update]'`.")
    with _transfer() as progress:
        found = update(url, Path(home), root=root, model=model, progress=progress)
    if out is not None:
        publish_to(found, Path(out))
    if as_json:
        click.echo(json.dumps(found.document()))
        return 0
    for name, path in found.bundles.items():
        click.echo(f"{name}: {path}")
    if not found.bundles:
        click.echo("The registry publishes no network; its revocations and its checkpoint are up to date.")
    click.echo(
        f"Registry {found.registry}: {found.entries} ledger entries, {found.revocations} revocations; "
        f"{found.fetched} bytes fetched."
    )
    return 0


@cli.command()
@click.argument("receipt", metavar="RECEIPT.json", type=click.Path())
@click.option(
    "--key",
    required=True,
    metavar="FILE",
    type=click.Path(),
    help="Your Ed25519 private key: OpenSSH (id_ed25519) or PEM. It is used on this device only.",
)
@click.option(
    "--copy",
    metavar="FOLDER",
    type=click.Path(),
    help="The copy that you received: compared byte for byte with the receipt before you sign.",
)
def countersign(receipt: str, key: str, copy: str | None) -> int:
    """Confirm with your own key that you received a copy, and print the signed confirmation (JSON).

    RECEIPT.json came with the copy. Hand the confirmation to the registry: it checks it against your public
    key and logs it.

    Exit codes: 0 signed, 2 bad input, 3 the copy is not the one on the receipt, 4 internal error.
    """
    import json
    from pathlib import Path

    from verifier import countersign as confirming

    document = confirming.load_receipt(Path(receipt))
    if copy is not None:
        confirming.compare_copy(Path(copy), document)
    private = confirming.load_private_key(Path(key), _passphrase)
    click.echo(json.dumps(confirming.countersign(document, private), indent=2))
    return 0


@cli.group()
def key() -> None:
    """Your key pairs as an auditor: one to which registries encrypt key tables, one that signs reports."""


@key.command("new")
@click.option("--out", required=True, metavar="FILE", type=click.Path(), help="File of the private key.")
@click.option("--signing", is_flag=True, help="Make a key (Ed25519) that signs your reports instead.")
@click.option(
    "--passphrase", is_flag=True, help="Ask for a passphrase, and encrypt the private key under it."
)
def new_key(out: str, signing: bool, passphrase: bool) -> int:
    """Make a key pair: FILE is yours alone, FILE.pub is for others.

    Without --signing the pair (X25519) is one to which registries encrypt key tables: the registry exports
    with `registry bundle export --with-keys --for FILE.pub`, you check with `verifier check --bundle BUNDLE
    --key FILE`. A lost key cannot be replaced: ask for a new bundle.

    With --signing (Ed25519) you sign with `verifier report --key FILE`, and readers compare your key's
    SHA-256 with `verifier report --check --signer SHA256`.

    Exit codes: 0 made, 2 a file is there already or cannot be written.
    """
    from pathlib import Path

    from verifier import sealed

    path, secret = Path(out), _new_passphrase() if passphrase else ""
    if signing:
        from verifier.report.signatures import new_key as new_signing_key

        signer = new_signing_key(path, secret)
        click.echo(f"{path}: keep it to yourself, and sign with `verifier report --key {path}`.")
        click.echo(f"SHA-256 {signer}; tell it to your readers by another way, for --signer.")
        return 0
    public = sealed.new_key(path, secret)
    click.echo(f"{path}: keep it to yourself. {sealed.public_path(path)}: give it to the registry.")
    click.echo(f"Key id {sealed.key_id(public)}; tell it to the registry by another way, to compare.")
    return 0


@cli.command()
@click.argument("proof", metavar="PROOF.json", type=click.Path())
@click.option("--trust", required=True, metavar="ID", envvar="HALLMARK_TRUST", help="The registry you trust.")
@click.option(
    "--record", metavar="FILE", type=click.Path(), help="The signed record that is to be in the ledger."
)
@click.option("--seen", metavar="FILE", type=click.Path(), help="A checkpoint that you kept from earlier.")
def proof(proof: str, trust: str, record: str | None, seen: str | None) -> int:
    """Check a proof from a registry's ledger: that an entry is in it, or that it only grew.

    PROOF.json comes from `registry ledger prove` or `consistency`, or from /api/v1/ledger. Growth is checked
    from the checkpoint --seen.

    Exit codes: 0 it holds, 2 bad input, 3 it does not hold, 4 internal error.
    """
    from verifier import proof as proofs

    document = proofs.read(proof)
    kept = None if seen is None else proofs.read_note(seen)
    if isinstance(document, dict) and document.get("schema") == proofs.CONSISTENCY:
        if kept is None or record is not None:
            raise click.UsageError("a proof of growth needs --seen, and no --record.")
        newest = proofs.check_consistency(document, trust, kept)
        click.echo(f"The ledger of registry {trust} only grew, to {newest.size} entries.")
        return 0
    of = None if record is None else proofs.read(record)
    index = proofs.check_inclusion(document, trust, of, kept)
    click.echo(f"Entry {index} is in the ledger of registry {trust}.")
    return 0


@cli.command()
@click.argument("files", nargs=-1, required=True, metavar="FINDING.json...", type=click.Path())
@click.option(
    "--out",
    "outs",
    multiple=True,
    metavar="FILE",
    type=click.Path(),
    help="Page (.html), document (.pdf) or the signed data alone (.json) to write; may be repeated.",
)
@click.option("--check", "checking", is_flag=True, help="Check reports instead of making one.")
@click.option(
    "--images",
    multiple=True,
    metavar="FOLDER|FILE",
    type=click.Path(),
    help="Where the images are, under whatever names [default: beside the finding].",
)
@click.option(
    "--bundle",
    envvar="HALLMARK_BUNDLE",
    metavar="FILE",
    type=click.Path(),
    help="The registry's bundle [default: what `verifier update` fetched].  [env: HALLMARK_BUNDLE]",
)
@click.option(
    "--auditor-key",
    envvar="HALLMARK_KEY",
    metavar="FILE",
    type=click.Path(),
    help="Your private key for a bundle whose keys are encrypted to it.  [env: HALLMARK_KEY]",
)
@click.option(
    "--opening",
    "openings",
    multiple=True,
    metavar="FILE",
    type=click.Path(),
    help="Opened commitment (`registry key open`); may be repeated.",
)
@click.option(
    "--key",
    metavar="FILE",
    type=click.Path(),
    help="Sign with this Ed25519 private key: PEM or OpenSSH [default: a draft that nobody signed].",
)
@click.option("--name", default="", metavar="TEXT", help="In whose name the report is signed.")
@click.option("--title", default="Report on the origin of images", show_default=True, metavar="TEXT")
@click.option("--case", metavar="TEXT", help="Number or name of the case, to be printed.")
@click.option("--note", "notes", multiple=True, metavar="TEXT", help="A remark to print; may be repeated.")
@click.option(
    "--show-bits",
    is_flag=True,
    help="Print the keys' bits from the bundle's key table: every reader can then forge these fingerprints.",
)
@click.option(
    "--trust",
    envvar="HALLMARK_TRUST",
    metavar="REGISTRY_ID",
    help="The registry that you trust.  [env: HALLMARK_TRUST]",
)
@click.option("--signer", metavar="SHA256", help="With --check: the key that must have signed the report.")
@click.option("--offline", is_flag=True, help="With --check: ask nobody, which is how it is always done.")
@home_option
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]|tensorrt")
@click.option("--json", "as_json", is_flag=True, help="With --check: print one JSON object per report.")
def report(checking: bool, files: Sequence[str], **options: Any) -> int:
    """Write findings as a signed report, or check one.

    FINDING.json is what `verifier check --json` printed. The images are read again, and with the key table
    or an opened commitment the evidence is computed again, before anything is written. A FINDING.json may
    also be a report: then it is laid out anew, as it was signed.

    With --check the files are reports (HTML, PDF or JSON). Everything that they state is compared with the
    images, the bundle (which needs no keys) and what the registry signed, line by line.

    Exit codes: 0 written, or everything in the report holds; 1 what could be checked holds, but not
    everything could be; 2 bad input; 3 something does not hold; 4 internal error; 130 interrupted.
    """
    from verifier.report import commands

    if checking and (options["outs"] or options["key"]):
        raise click.UsageError("--check writes nothing: leave out --out and --key.")
    if not checking and not options["outs"]:
        raise click.UsageError("name a file to write with --out, or --check.")
    return commands.check(files, **options) if checking else commands.make(files, **options)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(as_json: bool) -> int:
    """Tell what this installation can do: versions, processor, devices, image formats.

    Every device is started with a tiny network, so what is said to start does start; for the others it
    says what is missing and what to install.

    Exit codes: 0 images can be checked, 4 they cannot.
    """
    import json

    from verifier.doctor import examine, rows

    diagnosis = examine()
    if as_json:
        click.echo(json.dumps(diagnosis.document()))
    else:
        _print_rows(list(rows(diagnosis)))
    return ATTRIBUTED if diagnosis.sound else INTERNAL


def _passphrase() -> str:
    return str(click.prompt("Passphrase", hide_input=True, err=True, default="", show_default=False))


def _new_passphrase() -> str:
    return str(click.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True))


def _trust_note(registry: str, pinned: bool) -> str:
    if pinned:
        return f"Signed by registry {registry}, which you trust."
    return f"Signed by registry {registry}, which nothing here vouches for; pin it with --trust {registry}."


def _print_rows(rows: Sequence[Row]) -> None:
    """With colours on a terminal; plain elsewhere, where rich would only cost start-up time."""
    if not sys.stdout.isatty():
        for row in rows:
            click.echo(row.plain())
        return
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for row in rows:
        console.print(row.rich())


class _Silent:
    """No progress display: standard error is no terminal, or there is next to nothing to do."""

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None: ...

    def __call__(self) -> None: ...


class _Bar(_Silent):
    """A bar of images read, on standard error."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._progress = Progress(console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task("images", total=total)

    def __enter__(self) -> _Silent:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self) -> None:
        self._progress.advance(self._task)


def _progress(images: int) -> _Silent:
    return _Bar(images) if images > 1 and sys.stderr.isatty() else _Silent()


PLAIN_EVERY = 30.0  # seconds between lines of progress where there is no terminal


@contextmanager
def _stages() -> Iterator[ScanProgress]:
    """Each stage of a scan as a bar with its rate and the time left, or as a line now and then."""
    if not sys.stderr.isatty():
        yield _lines
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.0f}/s" if speed else "", style="progress.data.speed")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate())
    with Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as bar:

        def begin(stage: str, total: int | None = None) -> Callable[[int], None]:
            for task in bar.task_ids:
                bar.remove_task(task)
            task = bar.add_task(stage, total=total)
            return lambda count: bar.advance(task, count)

        yield begin


def _lines(stage: str, total: int | None = None) -> Callable[[int], None]:
    """Progress as lines on standard error, one every PLAIN_EVERY seconds."""
    import time

    began = told = time.monotonic()
    done = before = -1

    def step(count: int) -> None:
        nonlocal done, before, told
        first = done < 0
        done = count if first else done + count
        before = count if first and total is not None else max(before, 0)
        now = time.monotonic()
        if now - told < PLAIN_EVERY:
            return
        told, rate = now, (done - before) / (now - began)
        of = "" if total is None else f" of {total:,}"
        left = "" if total is None or rate <= 0 else f", {(total - done) / rate / 60:.0f} min left"
        _complain(f"{stage} {done:,}{of}, {rate:,.1f}/s{left}")

    return step


@contextmanager
def _transfer() -> Iterator[Progress]:
    """A bar of bytes with rate and time left, on standard error if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = ("fetching", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:

        def begin(total: int) -> Callable[[int], None]:
            task = bar.add_task("", total=total)
            return lambda came: bar.advance(task, came)

        yield begin


def main() -> NoReturn:
    """Entry point of the console script."""
    code = INTERNAL
    gc.set_threshold(GARBAGE)
    # A process may be started with its streams closed; then Python gives None for them.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115
    try:
        cli.main(prog_name="verifier")
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else INTERNAL
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    # Everything is printed and nothing is open for writing. Taking numpy and onnxruntime apart would take
    # about as long as checking an image.
    os._exit(code)


if __name__ == "__main__":
    main()
