"""Commands that look and change nothing: validate, plan, runs, schema."""

from __future__ import annotations

import json
import os

import click

from raydc.cli.app import SET, SPEC, load, report


@click.command()
@SPEC
@SET
def validate(spec: str, overrides: tuple[str, ...]) -> None:
    """Check a spec: every problem with its place."""
    loaded = load(spec, overrides)
    report(f"{spec}: valid ({loaded.name})")


@click.command()
@SPEC
@SET
@click.option("--address", help="Ray cluster to plan for. Default: RAY_ADDRESS, else this machine.")
def plan(spec: str, overrides: tuple[str, ...], address: str | None) -> None:
    """Say what would happen, and whether it fits; start nothing."""
    from raydc import engine
    from raydc import plan as planning
    from raydc import spec as specs

    resolved = specs.resolve(load(spec, overrides))
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        resources, where = engine.connect(address).resources, f"the cluster at {address}"
    else:
        resources, where = engine.machine(), "this machine"
    made = planning.make(resolved, resources)
    report(f"on {where}: {resources.get('CPU', 0):g} CPU, {resources.get('GPU', 0):g} GPU")
    for line in made.lines:
        report(line)


@click.command()
@click.argument("name", required=False)
@click.option("--storage", default="store", show_default=True, help="Folder or URI of the runs.")
def runs(name: str | None, storage: str) -> None:
    """List runs, models and aliases, or say where the time of one run went."""
    from raydc.cli import listing

    if name is None:
        listing.show(storage)
    else:
        listing.show_run(storage, name)


@click.command()
def schema() -> None:
    """Print the JSON Schema of a spec, for editors."""
    from raydc.spec.sections import Spec

    click.echo(json.dumps(Spec.model_json_schema(), indent=2))
