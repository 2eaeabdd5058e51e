"""Commands that list what a storage holds: runs, data, models."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from raydc.cli.app import JSON, STORAGE
from raydc.errors import ClusterError, ServeError

if TYPE_CHECKING:
    from raydc.cli.store_listing import StoreListing


@click.command()
@click.argument("name", required=False)
@STORAGE
@JSON
def runs(name: str | None, storage: str, as_json: bool) -> None:
    """List the runs of a storage, or show one."""
    from raydc.cli import run_inventory, tables
    from raydc.cli.store_listing import open_listing

    listing = open_listing(storage)
    if name is None:
        found = run_inventory.read_runs(listing)
        if as_json:
            tables.print_json(listing, runs=found)
        else:
            tables.print_runs(listing, found)
        tables.warn_of_damage(listing)
        return
    from raydc.cli.model_inventory import versions_of_run
    from raydc.tracking import time_account
    from raydc.tracking.phase_timer import read_account

    run = run_inventory.read_run(listing, name)
    # Only details read files of other runs and models; the list stays cheap.
    versions = versions_of_run(listing, run)
    forks = run_inventory.forks_of(listing, name)
    account = read_account(listing.storage / "runs" / name)
    if as_json:
        tables.print_json(listing, run=run, versions=versions, forks=forks, seconds=account.seconds)
    else:
        # The account of a sweep is in its trials; zeros would claim that it took no time.
        lines = time_account.format_lines(account) if account.wall_s else ["not recorded"]
        tables.print_run(listing, run, versions, forks, lines)
    tables.warn_of_damage(listing)


@click.command()
@click.argument("name", required=False)
@STORAGE
@JSON
def data(name: str | None, storage: str, as_json: bool) -> None:
    """List the data sets of a storage, or show one."""
    from raydc.cli import data_inventory, run_inventory, tables
    from raydc.cli.store_listing import open_listing

    listing = open_listing(storage)
    # A data set does not record which runs use it, so the runs are read.
    known_runs = run_inventory.read_runs(listing)
    if name is None:
        found = data_inventory.read_data_sets(listing, known_runs)
        if as_json:
            tables.print_json(listing, data=found)
        else:
            tables.print_data_sets(listing, found)
    else:
        one = data_inventory.read_data_set(listing, name, known_runs)
        versions = data_inventory.versions_trained_on(listing, name)
        if as_json:
            tables.print_json(listing, data=one, versions=versions)
        else:
            tables.print_data_set(listing, one, versions)
    tables.warn_of_damage(listing)


@click.command()
@click.argument("name", required=False)
@STORAGE
@JSON
@click.option(
    "--address",
    help="Ray cluster whose endpoints are shown too. Default: RAY_ADDRESS, else none.",
)
def models(name: str | None, storage: str, as_json: bool, address: str | None) -> None:
    """List the models of a storage, or show one."""
    from raydc.cli import model_inventory, run_inventory, tables
    from raydc.cli.store_listing import open_listing

    listing = open_listing(storage)
    # A table of names should not cost the start of a Ray client unless a cluster was given.
    wanted = address or os.environ.get("RAY_ADDRESS")
    endpoints = query_endpoints(wanted) or [] if wanted else []
    if name is None:
        found = model_inventory.read_models(listing, endpoints)
        if as_json:
            tables.print_json(listing, models=found)
        else:
            tables.print_models(listing, found)
            for one in found:
                tables.print_notes(one)
        tables.warn_of_damage(listing)
        return
    known_runs = run_inventory.read_runs(listing)
    model = model_inventory.read_model(listing, name, known_runs, endpoints)
    beside = running_beside(listing, name)
    if as_json:
        open_ = [{"alias": a, "kind": k, "version": v} for (a, k), v in beside.items()]
        tables.print_json(listing, model=model, beside=open_)
    else:
        tables.print_model(listing, model, beside)
        tables.print_notes(model)
    tables.warn_of_damage(listing)


def query_endpoints(address: str | None) -> list[dict[str, Any]] | None:
    """Endpoints of raydc on the Ray of an address, or on one that runs here; None without a Ray.

    Raises:
        ClusterError: There is no cluster at the address that was given.
    """
    from raydc import engine, serve

    try:
        return serve.status() if engine.attach(address) else None
    except ClusterError as error:
        if address or os.environ.get("RAY_ADDRESS"):
            raise
        # A Ray of another user, another version or with another token cannot be queried.
        click.echo(f"note: the Ray on this machine cannot be queried: {error.message}", err=True)
        return None


def running_beside(listing: StoreListing, name: str) -> dict[tuple[str, str], int]:
    """Canaries and shadows that run according to a model's history; notes unreadable entries."""
    from raydc.tracking.alias_history import running_beside as open_in

    # Names count up with eight digits, so sorting them is the order of time.
    paths = sorted(p for p in listing.files("models", name) if p.startswith("history/"))
    records = listing.map(lambda path: listing.read_json(f"models/{name}/{path}"), paths)
    return open_in([record["move"] for record in records if "move" in record])


def require_ray(address: str | None) -> None:
    """Attaches to a Ray. Raises ServeError if none runs: then there is no endpoint."""
    from raydc import engine

    if not engine.attach(address):
        raise ServeError(
            "no Ray is running here, so there is no endpoint",
            "Give --address of the cluster that serves it, or start it: raydc serve SPEC",
        )
