"""`registry trust`: the TUF repository from which verifiers are kept current."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from registry.command_line import home_option, json_option, opened, print_json
from registry.errors import InputError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from registry.home import Home

PASSPHRASE_VARIABLE = "HALLMARK_ROOT_PASSPHRASE"  # noqa: S105  (a name)

Command = TypeVar("Command", bound=Callable[..., Any])


def root_key_option(command: Command) -> Command:
    """``--root-key``, once for each key that signs."""
    return click.option(
        "--root-key",
        "root_keys",
        type=click.Path(path_type=Path),
        required=True,
        multiple=True,
        metavar="FILE",
        help=f"A root key; may be repeated. Its passphrase is asked for, or in {PASSPHRASE_VARIABLE}.",
    )(command)


unencrypted_option = click.option(
    "--unencrypted", is_flag=True, help="Write new root keys without a passphrase (mode 0600)."
)


@click.group()
def trust() -> None:
    """Publish networks, revocations and checkpoints to verifiers, signed and expiring (TUF)."""


@trust.command("init")
@root_key_option
@click.option(
    "--threshold", type=click.IntRange(1), default=1, show_default=True, help="Root keys that must sign."
)
@unencrypted_option
@home_option
def trust_init(root_keys: Sequence[Path], threshold: int, unencrypted: bool) -> None:
    """Create the trust root. Each --root-key FILE that does not exist yet is written with a new key."""
    from registry.trust import service

    with opened() as home:
        keys = [_read_or_write(path, unencrypted) for path in root_keys]
        service.create(home, keys, threshold)
        digest = _digest(service.first_root(home))
    click.echo(f"The trust root is served at /tuf. Its first root has SHA-256 {digest}.")
    for path in root_keys:
        click.echo(f"{path} belongs offline: copy it to two places apart, then delete it here.")


@trust.command("publish")
@click.option(
    "--model", "add", multiple=True, metavar="NAME", help="Publish this model's network from now on."
)
@click.option("--withdraw", multiple=True, metavar="NAME", help="Publish this model's network no longer.")
@click.option("--organisation", metavar="NAME", help="Whose models [default: the operator's].")
@click.option(
    "--beyond",
    type=click.IntRange(0, 2**31),
    default=0,
    metavar="VERSION",
    help="After a restore: the highest version that verifiers may have seen.",
)
@home_option
@json_option
def trust_publish(
    add: Sequence[str], withdraw: Sequence[str], organisation: str | None, beyond: int, as_json: bool
) -> None:
    """Publish checkpoint, revocations and networks as they are now.

    Anybody can then fetch the networks of models named with --model, and search with them for images that
    carry no evidence (docs/threat-model.md): publish a model when verifiers outside need it.
    """
    from registry.accounts import people
    from registry.generators import service as generators
    from registry.trust import service

    with opened() as home:
        with home.database.read() as session:
            owner = people.organisation(session, organisation).id
            chosen, ended = (
                [generators.get_model(session, name, owner) for name in names] for names in (add, withdraw)
            )
        service.publish(home, chosen, ended, beyond=beyond)
        _report(home, as_json)


@trust.command("refresh")
@click.option("--if-due", is_flag=True, help="Only do what is due, publishing included: for a timer.")
@home_option
@json_option
def trust_refresh(if_due: bool, as_json: bool) -> None:
    """Sign the timestamp again, so that verifiers know that nothing newer is withheld."""
    from registry.trust import service

    with opened() as home:
        if if_due:
            done = service.keep_current(home)
            click.echo(f"The trust root was {done}." if done else "Nothing is due.", err=True)
        else:
            service.refresh(home)
        _report(home, as_json)


@trust.command("rotate")
@click.argument("role", type=click.Choice(["root", "targets", "snapshot", "timestamp"]))
@root_key_option
@click.option(
    "--new-root-key",
    "new_keys",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="For root: a key that joins; written if there is no such file. May be repeated.",
)
@click.option("--retire", multiple=True, metavar="KEYID", help="For root: a key that ends [default: all].")
@click.option(
    "--threshold", type=click.IntRange(1), help="For root: keys that must sign [default: as before]."
)
@unencrypted_option
@home_option
@json_option
def trust_rotate(
    role: str,
    root_keys: Sequence[Path],
    new_keys: Sequence[Path],
    retire: Sequence[str],
    threshold: int | None,
    unencrypted: bool,
    as_json: bool,
) -> None:
    """Replace the key of ROLE. Needs the offline root keys, since the root names everybody's keys."""
    from registry.trust import service

    if role != "root" and (new_keys or retire or threshold or unencrypted):
        raise InputError(
            "--new-root-key, --retire, --threshold and --unencrypted are for root.", "Leave them out."
        )
    if role == "root" and not new_keys and not retire:
        raise InputError("nothing would change.", "Name --new-root-key FILE, or run `registry trust renew`.")
    with opened() as home:
        signers = [_read(path) for path in root_keys]
        if role == "root":
            joining = [_read_or_write(path, unencrypted) for path in new_keys]
            service.rotate_root(home, signers, joining, retire or None, threshold)
        else:
            service.rotate(home, role, signers)
        _report(home, as_json)


@trust.command("renew")
@root_key_option
@home_option
@json_option
def trust_renew(root_keys: Sequence[Path], as_json: bool) -> None:
    """Sign the root again before it expires; no key changes."""
    from registry.trust import service

    with opened() as home:
        service.renew_root(home, [_read(path) for path in root_keys])
        _report(home, as_json)


@trust.command("status")
@home_option
@json_option
def trust_status(as_json: bool) -> None:
    """Show versions, expiry and keys, and what is to be done."""
    with opened() as home:
        _report(home, as_json)


@trust.command("root")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE", help="File to write.")
@home_option
def trust_first_root(out: Path) -> None:
    """Write the first root metadata, with which verifiers begin."""
    from registry.trust import service

    with opened() as home:
        content = service.first_root(home)
    out.write_bytes(content)
    click.echo(f"{out}: SHA-256 {_digest(content)}.")


def _report(home: Home, as_json: bool) -> None:
    from registry.trust import service
    from verifier.bundle import utc

    found = service.status(home)
    with home.database.read() as session:
        models = [model.label for model in service.published_models(session)]
    if as_json:
        print_json(
            {
                "roles": [
                    {**vars(role), "created_at": utc(role.created_at), "expires_at": utc(role.expires_at)}
                    for role in found
                ],
                "models": models,
            }
        )
        return
    for role in found:
        line = f"{role.role:<10} version {role.version:<5} expires {utc(role.expires_at)}"
        click.echo(f"{line}  {role.threshold} of {', '.join(key[:16] for key in role.keys)}")
    click.echo(f"published: {', '.join(models) or 'no networks, only checkpoint and revocations'}")
    for role in found:
        if role.warning:
            click.echo(f"registry: {role.role} {role.warning}.", err=True)


def _read(path: Path) -> Ed25519PrivateKey:
    from registry.signing_keys import is_encrypted, read_key

    return read_key(path, _passphrase(path) if is_encrypted(path) else None)


def _read_or_write(path: Path, unencrypted: bool) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from registry.signing_keys import write_key

    if path.exists():
        return _read(path)
    key = Ed25519PrivateKey.generate()
    write_key(path, key, None if unencrypted else _passphrase(path, new=True))
    if unencrypted:
        click.echo(f"registry: {path} is not encrypted: whoever reads it can replace every key.", err=True)
    return key


def _passphrase(path: Path, new: bool = False) -> str:
    found = os.environ.get(PASSPHRASE_VARIABLE)
    if found is None:
        found = click.prompt(f"Passphrase of {path}", hide_input=True, confirmation_prompt=new, err=True)
    if not found:
        raise InputError(f"{PASSPHRASE_VARIABLE} is empty.", "Set it, or use --unencrypted.")
    return str(found)


def _digest(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()
