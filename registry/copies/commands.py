"""`registry link` and `registry downloads`."""

from __future__ import annotations

import click

from registry.command_line import home_option, json_option, opened, print_json, shown

LOCAL = "http://127.0.0.1:8080"


@click.command()
@click.argument("copy_id")
@click.option("--hours", type=click.IntRange(1), default=72, show_default=True, help="How long it holds.")
@click.option(
    "--url",
    help=f"Where the recipient reaches the registry [default: [serving] url of config.toml, else {LOCAL}].",
)
@home_option
@json_option
def link(copy_id: str, hours: int, url: str | None, as_json: bool) -> None:
    """Make a link with which a recipient downloads the copy COPY_ID (or key id) once.

    It needs a running `registry serve`. The link is shown this once; whoever has it can download the copy.
    """
    from registry.accounts.service import user_name
    from registry.accounts.settings import AccountSettings
    from registry.copies import deliveries, links
    from registry.copies.build import plan, prepare
    from registry.keys import service as keys
    from verifier.bundle import utc

    with opened() as home:
        with home.database.read() as session:
            key = keys.get_key(session, home.identity.registry, copy_id)
        deliveries.refuse(key)
        with shown("hashing the copy") as progress:
            prepare(home, key, progress(plan(home, key).size))
        row, secret = links.create(home, key, user_name(), hours)
        base = url or AccountSettings.load(home.settings).url or LOCAL
    address, expires = f"{base.rstrip('/')}/d/{secret}", utc(row.expires_at)
    if as_json:
        print_json({"link_id": row.link_id, "url": address, "expires_at": expires})
        return
    click.echo(address)
    click.echo(f"It works for one complete download, until {expires}.", err=True)


@click.command()
@click.option("--copy", "copy_id", metavar="COPY_ID", help="Only deliveries of this copy.")
@click.option("-n", "count", type=click.IntRange(1), default=50, show_default=True, help="The newest ones.")
@home_option
@json_option
def downloads(copy_id: str | None, count: int, as_json: bool) -> None:
    """List deliveries, newest first: who asked, from where, and how far it came."""
    from registry.accounts import service as accounts
    from registry.copies import deliveries
    from registry.copies.models import Download
    from registry.keys import service as keys

    with opened() as home, home.database.read() as session:
        chosen = deliveries.select_downloads(accounts.default_organisation(session).id)
        if copy_id is not None:
            key = keys.get_key(session, home.identity.registry, copy_id)
            chosen = chosen.where(Download.user_key_id == key.row.id)
        rows = session.execute(chosen.order_by(Download.id.desc()).limit(count))
        found = [deliveries.describe(row) for row in rows]
    if as_json:
        print_json(found)
        return
    for entry in found:
        signed = "  counter-signed" if entry["countersigned"] else ""
        click.echo(
            f"{entry['started_at']}  {entry['state']:9}  {entry['copy_id']}  {entry['form']:7}  "
            f"{entry['actor']} from {entry['origin']}{signed}"
        )
