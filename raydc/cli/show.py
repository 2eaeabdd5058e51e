"""Commands about a spec that start nothing: validate, plan, schema."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import click

from raydc.cli.app import SET, SPEC, report, resolve

if TYPE_CHECKING:
    from raydc.spec import ResolvedSpec


@click.command()
@SPEC
@SET
def validate(spec: str, overrides: tuple[str, ...]) -> None:
    """Check a spec, and whether its network and source are there.

    Each problem of the file is shown with its line and column."""
    from raydc.cli.early_checks import check_early

    resolved = resolve(spec, overrides)
    check_early(resolved)
    report(f"{spec}: valid ({resolved.name})")
    _report_network(resolved)


@click.command()
@SPEC
@SET
@click.option("--address", help="Ray cluster to plan for. Default: RAY_ADDRESS, else this machine.")
def plan(spec: str, overrides: tuple[str, ...], address: str | None) -> None:
    """Show what a run would do, and whether it fits; start nothing."""
    from raydc import engine
    from raydc import plan as planning
    from raydc.cli.early_checks import check_early

    resolved = resolve(spec, overrides)
    check_early(resolved)
    # Unlike other commands, a plan starts no Ray: without a cluster it counts this machine's CPUs.
    address = address or os.environ.get("RAY_ADDRESS")
    nodes: tuple[dict[str, float], ...] = ()
    if address:
        connected = engine.connect(address)
        resources, nodes = connected.resources, connected.nodes
        where = f"the cluster at {address}"
    else:
        resources, where = engine.machine(), "this machine"
    made = planning.make(resolved, resources, nodes=nodes)
    report(f"on {where}: {resources.get('CPU', 0):g} CPU, {resources.get('GPU', 0):g} GPU")
    for line in made.lines:
        report(line)
    _report_network(resolved)
    if resolved.sweep is not None:
        from raydc.elastic.trial_draws import read_results
        from raydc.elastic.trial_sizes import describe_points

        for line in describe_points(resolved, read_results(resolved, report)):
            report(f"sweep     {line}")
    if resolved.serve is not None:
        report(
            "direct    serve.direct is "
            f"{resolved.serve.direct}{_direct_support(resolved.serve.direct)}"
        )
        # HAProxy belongs to the Ray that runs there.
        if address and resolved.serve.direct == "auto":
            _report_missing_limits()


def _report_network(spec: ResolvedSpec) -> None:
    """Says where the weights come from, what trains, and which options the weights contradict."""
    from raydc.spec.sequence_models import Decoder, HuggingFace

    # Most networks have nothing to say, and need not be built.
    is_of_texts = isinstance(spec.model, Decoder | HuggingFace)
    if spec.model.freeze or spec.model.weights or spec.model.normalisation or is_of_texts:
        from raydc.models import description

        for line in description.describe_early(spec.model, spec.data, spec.train.cache_frozen):
            report(f"model     {line}")


def _report_missing_limits() -> None:
    """Names each limit that HAProxy will not have on the connected cluster, and the way out."""
    from raydc.engine import direct_support

    missing = direct_support.missing_haproxy_limits()
    for text in missing:
        report(f"          not in force: {text}")
    if missing:
        report(f"          {direct_support.way_out()}")


def _direct_support(direct: str) -> str:
    """Whether the direct path can be taken with what is installed here; empty if it is off."""
    if direct == "off":
        return ": Ray Serve's own path, and HAProxy as Ray Serve configures it"
    from raydc.engine import direct_support

    return f": {direct_support.describe_support()}"


@click.command()
def schema() -> None:
    """Print the JSON Schema of specs, for editors."""
    from raydc.spec.sections import Spec

    click.echo(json.dumps(Spec.model_json_schema(), indent=2))
