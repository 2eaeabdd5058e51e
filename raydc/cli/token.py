"""Commands for access tokens of an endpoint with `auth: token`: create, list, revoke."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from raydc.cli.app import SET, SPEC, load, report

if TYPE_CHECKING:
    from raydc.tokens import TokenStore

NAME = click.option("--name", required=True, help="Name of the token; the access log shows it.")
_DAY_S = 86400.0


@click.group()
def token() -> None:
    """Create, list and revoke access tokens of an endpoint."""


@token.command()
@SPEC
@SET
@NAME
@click.option(
    "--rights",
    default="read",
    show_default=True,
    help="read: send requests to the model. promote: also to canaries and shadows by version. "
    "Comma-separated.",
)
@click.option("--days", type=float, help="Days until it expires. Default: it never does.")
def create(
    spec: str, overrides: tuple[str, ...], name: str, rights: str, days: float | None
) -> None:
    """Create a token and print it. It cannot be shown again: only its hash is stored."""
    from raydc.registry import user

    wanted = tuple(right.strip() for right in rights.split(",") if right.strip())
    # Days on the command line, seconds everywhere else.
    lifetime_s = None if days is None else days * _DAY_S
    text = _tokens(spec, overrides).create(name, wanted, lifetime_s, user())
    # To stderr, so that `TOKEN=$(raydc token create ...)` takes the token alone.
    click.echo(
        f"token {name!r} may {' and '.join(wanted)}; "
        "it is shown only once, and works within seconds:",
        err=True,
    )
    report(text)


@token.command("list")
@SPEC
@SET
def list_(spec: str, overrides: tuple[str, ...]) -> None:
    """List the tokens: name, rights, age."""
    found = _tokens(spec, overrides).read_all()
    for one in found:
        until = "until it is revoked" if one.expires_s is None else f"until {_day(one.expires_s)}"
        # Expired tokens are refused, but their files stay until they are revoked.
        if one.has_expired(time.time()):
            until = f"expired on {_day(one.expires_s or 0.0)}"
        report(
            f"{one.name:<20} {'+'.join(one.rights):<14} "
            f"created {_day(one.created_s)} by {one.who}, {until}"
        )
    if not found:
        report("no tokens; `raydc token create SPEC --name NAME` makes one")


@token.command()
@SPEC
@SET
@NAME
def revoke(spec: str, overrides: tuple[str, ...], name: str) -> None:
    """Revoke a token."""
    _tokens(spec, overrides).revoke(name)
    report(f"token {name!r} is revoked; endpoints refuse it within seconds")


def _tokens(spec: str, overrides: tuple[str, ...]) -> TokenStore:
    from raydc import spec as specs
    from raydc.storage import Storage
    from raydc.tokens import TokenStore

    resolved = specs.resolve(load(spec, overrides))
    return TokenStore(Storage(resolved.storage), resolved.name)


def _day(time_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(time_s))
