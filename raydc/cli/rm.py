"""Commands that remove from a storage: rm run, rm data, rm model, rm alias."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from raydc.cli.app import RUNNING, STORAGE, WHY, report

if TYPE_CHECKING:
    from raydc.cli.removal import Removal
    from raydc.cli.store_listing import StoreListing

_YES = click.option("--yes", is_flag=True, help="Remove; without it, only show what would go.")
_NAMES = click.argument("names", metavar="NAME...", nargs=-1, required=True)


@click.group()
def rm() -> None:
    """Remove runs, data sets, models or aliases that nothing uses.

    Shows what would go, and how many bytes; only --yes removes it. What is in use is refused.
    """


@rm.command()
@_NAMES
@STORAGE
@_YES
def run(names: tuple[str, ...], storage: str, yes: bool) -> None:
    """Remove runs: their records, checkpoints and models. Registered versions stay."""
    from raydc.cli import removal, run_inventory
    from raydc.cli.model_inventory import versions_of_run
    from raydc.cli.store_listing import open_listing

    listing = open_listing(storage)
    # All are planned before the first is removed: one refusal keeps all of them.
    planned = []
    for name in names:
        one = run_inventory.read_run(listing, name)
        forks = run_inventory.forks_of(listing, name)
        planned.append(removal.plan_run(listing, one, versions_of_run(listing, one), forks))
    _finish(listing, planned, yes)


@rm.command()
@_NAMES
@STORAGE
@_YES
def data(names: tuple[str, ...], storage: str, yes: bool) -> None:
    """Remove prepared data sets; `raydc prepare` makes them again from their sources."""
    from raydc.cli import data_inventory, removal, run_inventory
    from raydc.cli.store_listing import open_listing

    listing = open_listing(storage)
    runs = run_inventory.read_runs(listing)
    found = [data_inventory.read_data_set(listing, name, runs) for name in names]
    _finish(listing, [removal.plan_data_set(listing, one) for one in found], yes)


@rm.command()
@click.argument("name")
@click.option(
    "--version",
    "versions",
    type=int,
    multiple=True,
    help="Remove this version only. May be repeated.",
)
@STORAGE
@RUNNING
@_YES
def model(
    name: str, versions: tuple[int, ...], storage: str, address: str | None, yes: bool
) -> None:
    """Remove a registered model, or some of its versions."""
    from raydc.cli import inventory, model_inventory, removal
    from raydc.cli.store_listing import open_listing
    from raydc.registry import Registry
    from raydc.serve.control import recorded_endpoint
    from raydc.tracking.alias_history import running_beside

    listing = open_listing(storage)
    # An unknown name needs no Ray to be refused.
    model_inventory.read_model(listing, name, [])
    endpoints = inventory.query_endpoints(address)
    elsewhere = recorded_endpoint.endpoints_elsewhere(listing.storage, name, endpoints or [])
    in_use = [*(endpoints or []), *elsewhere]
    found = model_inventory.read_model(listing, name, [], in_use)
    previous: dict[str, int] = {}
    beside: dict[tuple[str, str], int] = {}
    # The remains of an interrupted removal are no longer a model, and were checked when it began.
    if not name.startswith("."):
        registry = Registry(listing.storage)
        # An unreadable history raises here: it may say that an alias or a canary needs a version.
        previous = registry.previous_versions(name)
        # A running Ray is authoritative: the history may still list what a dead endpoint served. It
        # does not know canaries of endpoints on other clusters.
        is_unknown = endpoints is None or elsewhere
        beside = running_beside(registry.history(name)) if is_unknown else {}
    # Without --version all of it goes: tokens and history too, which single versions leave.
    if versions:
        planned = removal.plan_versions(found, versions, beside, previous)
    else:
        planned = [removal.plan_model(listing, found, beside)]
    _warn_without_ray(endpoints is not None)
    _finish(listing, planned, yes)


@rm.command()
@click.argument("model_name", metavar="MODEL")
@click.argument("alias")
@STORAGE
@RUNNING
@WHY
@_YES
def alias(
    model_name: str, alias: str, storage: str, address: str | None, why: str, yes: bool
) -> None:
    """Remove an alias of a model; the version that it stands for stays."""
    from raydc.cli import inventory, removal
    from raydc.cli.store_listing import open_listing
    from raydc.registry import Registry
    from raydc.serve.control import recorded_endpoint

    listing = open_listing(storage)
    registry = Registry(listing.storage)
    # An unknown name is refused before a Ray is looked for, which takes seconds.
    version = registry.resolve_alias(model_name, alias)
    endpoints = inventory.query_endpoints(address)
    known = endpoints or []
    elsewhere = recorded_endpoint.endpoints_elsewhere(listing.storage, model_name, known)
    uri = listing.storage.uri
    removal.refuse_served_alias(model_name, alias, uri, [*known, *elsewhere])
    _warn_without_ray(endpoints is not None)
    if yes:
        registry.remove_alias(model_name, alias, why=why)
        report(f"removed alias {alias!r} of {model_name}, which stood for version {version}")
    else:
        report(f"would remove alias {alias!r} of {model_name}, which stands for version {version}")
        _report_dry_run()


def _finish(listing: StoreListing, planned: Sequence[Removal], yes: bool) -> None:
    """Shows what goes and, with --yes, deletes it. All of it was checked before anything goes."""
    from raydc.cli import removal, tables
    from raydc.cli.texts import size_text

    # What could not be read may have said that something is in use.
    tables.warn_of_damage(listing)
    for one in planned:
        size = f"{size_text(one.extent.num_bytes)} in {one.extent.num_files:,} files"
        if yes:
            removal.carry_out(listing.storage, one)
        report(f"{'removed' if yes else 'would remove'} {one.what}: {size}")
        for note in one.notes:
            report(f"    {note}")
    if not yes:
        _report_dry_run()


def _report_dry_run() -> None:
    report("Nothing was removed. Add --yes to remove it.")


def _warn_without_ray(has_ray: bool) -> None:
    if not has_ray:
        note = (
            "note: no Ray was found here; endpoints elsewhere were not checked "
            "(give --address to check one)"
        )
        click.echo(note, err=True)
