"""Organisations, people, tokens and the security log on the command line, for the operator on the machine.

registry organisation add acme --admin ada
registry person password ada
registry token create ci --role issuer --scope keys:issue
"""

from __future__ import annotations

import sys
from typing import Any

import click

from registry.accounts.permissions import Permission, Role
from registry.command_line import home_option, json_option, opened, print_json
from registry.errors import InputError

ROLES = click.Choice([role.value for role in Role])
SCOPES = click.Choice([permission.value for permission in Permission])
organisation_option = click.option(
    "--organisation", metavar="NAME", help="The organisation [default: the operator's]."
)


@click.group()
def organisation() -> None:
    """Distributors and auditors on this registry; the first organisation is the operator's."""


@organisation.command("add")
@click.argument("name")
@click.option("--admin", metavar="LOGIN", help="Login name of its first administrator.")
@click.option("--email", metavar="EMAIL", help="The administrator's address.")
@home_option
@json_option
def organisation_add(name: str, admin: str | None, email: str | None, as_json: bool) -> None:
    """Add the organisation NAME, perhaps with its first administrator."""
    from registry.accounts import people

    if email is not None and admin is None:
        raise InputError("--email is the administrator's.", "Name him with --admin.")
    with opened() as home, home.database.write() as session:
        added = people.add_organisation(session, name)
        described: dict[str, Any] = {"organisation": people.describe_organisation(added)}
        if admin is not None:
            person = people.add_person(session, added.id, admin, Role.ADMIN, email)
            described |= {"person": people.describe(person), "invitation": people.invite(session, person)}
    if as_json:
        print_json(described)
        return
    click.echo(f"Organisation {name} is added.")
    if admin is not None:
        _show_invitation(admin, described["invitation"])


@organisation.command("list")
@home_option
@json_option
def organisation_list(as_json: bool) -> None:
    """List the organisations."""
    from registry.accounts import people

    with opened() as home, home.database.read() as session:
        described = [people.describe_organisation(found) for found in people.organisations(session)]
    if as_json:
        print_json(described)
        return
    for entry in described:
        click.echo(f"{entry['name']}  since {entry['created_at']}")


@click.group()
def person() -> None:
    """Who may sign in, and as what."""


@person.command("add")
@click.argument("name")
@click.option("--role", type=ROLES, required=True, help="What the person may do.")
@click.option("--email", metavar="EMAIL", help="The person's address.")
@organisation_option
@home_option
@json_option
def person_add(name: str, role: str, email: str | None, organisation: str | None, as_json: bool) -> None:
    """Add a person with the login name NAME and print an invitation to set a password with."""
    from registry.accounts import people

    with opened() as home, home.database.write() as session:
        owner = people.organisation(session, organisation)
        added = people.add_person(session, owner.id, name, Role(role), email)
        described = {"person": people.describe(added), "invitation": people.invite(session, added)}
    if as_json:
        print_json(described)
        return
    _show_invitation(name, str(described["invitation"]))


@person.command("password")
@click.argument("name")
@click.option("--stdin", "from_stdin", is_flag=True, help="Read the password from standard input.")
@home_option
def person_password(name: str, from_stdin: bool) -> None:
    """Set the password of NAME, who is signed out everywhere. It is asked for, never an argument."""
    from registry.accounts import people

    with opened() as home:
        with home.database.read() as session:
            people.get_person(session, name)
        password = _read_password(from_stdin)
        with home.database.write() as session:
            people.set_password(session, people.get_person(session, name), password)
    click.echo(f"{name} has a new password.")


@person.command("list")
@organisation_option
@home_option
@json_option
def person_list(organisation: str | None, as_json: bool) -> None:
    """List the people of an organisation."""
    from registry.accounts import people

    with opened() as home, home.database.read() as session:
        owner = people.organisation(session, organisation)
        described = [people.describe(found) for found in people.people(session, owner.id)]
    if as_json:
        print_json(described)
        return
    for entry in described:
        state = "disabled" if entry["disabled_at"] else entry["role"]
        click.echo(f"{entry['name']}  {state}  {entry['email'] or '-'}")


@person.command("role")
@click.argument("name")
@click.argument("role", type=ROLES)
@home_option
def person_role(name: str, role: str) -> None:
    """Give NAME another ROLE, at once."""
    from registry.accounts import people

    with opened() as home, home.database.write() as session:
        people.change_role(session, people.get_person(session, name), Role(role))
    click.echo(f"{name} is {role}.")


@person.command("disable")
@click.argument("name")
@home_option
def person_disable(name: str) -> None:
    """Shut NAME out: sessions end and tokens no longer hold."""
    from registry.accounts import people

    with opened() as home, home.database.write() as session:
        people.disable(session, people.get_person(session, name))
    click.echo(f"{name} is disabled.")


@person.command("enable")
@click.argument("name")
@home_option
def person_enable(name: str) -> None:
    """Let NAME in again."""
    from registry.accounts import people

    with opened() as home, home.database.write() as session:
        people.enable(session, people.get_person(session, name))
    click.echo(f"{name} is enabled.")


@click.group()
def token() -> None:
    """API tokens: bearer secrets for programs."""


@token.command("create")
@click.argument("name")
@click.option("--role", type=ROLES, required=True, help="What the token may do.")
@click.option("--scope", "scopes", type=SCOPES, multiple=True, help="Restrict it to this; may be repeated.")
@click.option("--expires-days", type=int, default=90, show_default=True, help="Validity of the token.")
@click.option("--person", "holder", metavar="LOGIN", help="Whose it is [default: the organisation's].")
@organisation_option
@home_option
@json_option
def token_create(
    name: str,
    role: str,
    scopes: tuple[str, ...],
    expires_days: int,
    holder: str | None,
    organisation: str | None,
    as_json: bool,
) -> None:
    """Create a token and print its secret, this once. NAME says what it is for."""
    from registry.accounts import people, tokens

    wanted = {Permission(scope) for scope in scopes}
    with opened() as home, home.database.write() as session:
        owner = people.organisation(session, organisation).id
        whose = None if holder is None else people.get_person(session, holder, owner).id
        row, secret = tokens.create(
            session, owner, name, Role(role), scopes=wanted, expires_days=expires_days, person=whose
        )
        described = tokens.describe(row)
    if as_json:
        print_json({**described, "token": secret})
        return
    click.echo(secret)
    click.echo(f"Token {described['prefix']} holds until {described['expires_at']}.", err=True)


@token.command("list")
@organisation_option
@home_option
@json_option
def token_list(organisation: str | None, as_json: bool) -> None:
    """List the tokens of an organisation."""
    from registry.accounts import people, tokens

    with opened() as home, home.database.read() as session:
        owner = people.organisation(session, organisation).id
        described = [tokens.describe(row) for row in tokens.tokens(session, owner)]
    if as_json:
        print_json(described)
        return
    for entry in described:
        state = "revoked" if entry["revoked_at"] else f"until {entry['expires_at']}"
        click.echo(f"{entry['prefix']}  {entry['name']}  {entry['role']}  {state}")


@token.command("revoke")
@click.argument("prefix")
@organisation_option
@home_option
def token_revoke(prefix: str, organisation: str | None) -> None:
    """Revoke the token whose secret begins with hm_PREFIX."""
    from registry.accounts import people, tokens

    with opened() as home, home.database.write() as session:
        owner = people.organisation(session, organisation).id
        tokens.revoke(session, owner, prefix.removeprefix("hm_"))
    click.echo(f"Token {prefix} is revoked.")


def _show_invitation(name: str, invitation: str) -> None:
    click.echo(f"Invitation of {name}, for seven days: {invitation}")
    click.echo(f"Or set a password here: registry person password {name}")


def _read_password(from_stdin: bool) -> str:
    if not from_stdin:
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True))
    password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise InputError("there is no password on standard input.", "Send it as one line.")
    return password
