"""Commands of the endpoint: serve, predict, promote, rollback, stop."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raydc.cli.app import (
    ADDRESS,
    ALIAS,
    DASHBOARD,
    RUNNING,
    SET,
    SPEC,
    WHY,
    load,
    open_context,
    report,
    resolve,
)
from raydc.cli.completion_options import completion_options, given_options, refuse_options
from raydc.errors import UsageError, shown

if TYPE_CHECKING:
    from raydc.run_context import RunContext

# Seconds that other drivers get to leave a local Ray before it ends.
LEAVE_GRACE_S = 10.0


@click.command()
@SPEC
@SET
@ADDRESS
@DASHBOARD
@click.option(
    "--version",
    type=int,
    help="Version to serve. Default: the one that serve.alias stands for, else the newest.",
)
@click.option(
    "--once", is_flag=True, help="Take the endpoint down as soon as it is ready, and exit."
)
def serve(
    spec: str,
    overrides: tuple[str, ...],
    address: str | None,
    dashboard: bool,
    version: int | None,
    once: bool,
) -> None:
    """Serve a registered version over HTTP.

    Several models can share one Ray: the first answers at /, each further one at /NAME.
    """
    from raydc import pipeline
    from raydc.cli import endpoint_actions
    from raydc.cli.early_checks import check_endpoint, require_serve
    from raydc.registry import Registry
    from raydc.storage import Storage

    resolved = resolve(spec, overrides)
    require_serve(resolved, spec)
    check_endpoint(resolved, address)
    registry = Registry(Storage(resolved.storage))
    # All of this before Ray starts, which takes twenty seconds.
    chosen = (
        version if version is not None else endpoint_actions.version_to_serve(registry, resolved)
    )
    context = open_context(spec, overrides, address, dashboard)
    with endpoint_actions.own_endpoint(context):
        pipeline.serve_model(context, chosen, "raydc serve")
        stay(context, once)


@click.command()
@click.argument("spec", metavar="[SPEC]", required=False, type=click.Path(dir_okay=False))
@SET
@ADDRESS
@click.option(
    "--url", help="URL of the endpoint. Default: from serve.host and serve.port of the spec."
)
@click.option(
    "--row", "rows", multiple=True, metavar="JSON", help="Row as a JSON object. May be repeated."
)
@click.option(
    "--image", type=click.Path(exists=True, dir_okay=False), help="Image file to predict."
)
@click.option(
    "--input",
    "source",
    help="File to predict without an endpoint: csv, parquet, jsonl; of prompts also txt.",
)
@click.option("--output", help="File for the predictions of --input: .csv, .parquet or .jsonl.")
@click.option(
    "--timeout",
    "timeout_s",
    default=30.0,
    show_default=True,
    help="Seconds for a request, retries included.",
)
@click.option(
    "--token", help="Access token of the endpoint. Default: environment variable RAYDC_TOKEN."
)
@completion_options
def predict(
    spec: str | None,
    overrides: tuple[str, ...],
    address: str | None,
    url: str | None,
    rows: tuple[str, ...],
    image: str | None,
    source: str | None,
    output: str | None,
    timeout_s: float,
    token: str | None,
    **asked: Any,
) -> None:
    """Predict rows or an image at the endpoint, or a whole file."""
    # A whole file needs no endpoint: Ray Data computes it with the version from the registry.
    if source is not None:
        if spec is None or output is None:
            raise UsageError(
                "--input needs SPEC and --output",
                "raydc predict spec.yaml --input a.csv --output b.csv",
            )
        from raydc.cli import endpoint_actions

        context = open_context(spec, overrides, address, deferred=True)
        endpoint_actions.predict_file(context, source, output, given_options(asked))
        return
    refuse_options(asked)
    choices = "Give --row (one or more), --image, or --input with --output."
    if rows and image:
        raise UsageError("one request carries rows or an image, not both", choices)
    if not rows and not image:
        raise UsageError("nothing to predict", choices)
    # Parsed before the endpoint is looked for, so that a typo costs no request.
    parsed = [_json(row) for row in rows]
    if url is None:
        url = _endpoint_of(spec, overrides, token)
    from raydc import client

    answer = client.predict(url, parsed or None, Path(image) if image else None, timeout_s, token)
    click.echo(json.dumps(answer, indent=2, ensure_ascii=False))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"--row {shown(text)}: not JSON: {error}", """Example: --row '{"age": 41}'"""
        ) from error


def _endpoint_of(spec: str | None, overrides: tuple[str, ...], token: str | None) -> str:
    if spec is None:
        raise UsageError("no endpoint", "Give --url, or SPEC with a section `serve`.")
    loaded = load(spec, overrides)
    # Port 0 is a free port, known only to the process that chose it.
    if loaded.serve is None or loaded.serve.port == 0:
        raise UsageError(
            f"{spec} does not say where the endpoint is: it has no section `serve`, or port 0",
            "Give --url with the address that `raydc serve` printed.",
        )
    from raydc import client

    # An IPv6 address needs brackets in a URL.
    host = f"[{loaded.serve.host}]" if ":" in loaded.serve.host else loaded.serve.host
    return client.locate(f"http://{host}:{loaded.serve.port}", loaded.name, token=token)


@click.command()
@SPEC
@SET
@RUNNING
@click.option("--version", type=int, required=True, help="Version that the alias moves to.")
@ALIAS
@WHY
def promote(
    spec: str,
    overrides: tuple[str, ...],
    address: str | None,
    version: int,
    alias: str | None,
    why: str,
) -> None:
    """Move an alias, and its endpoint, to a version."""
    from raydc.cli import endpoint_actions

    moved = endpoint_actions.move_alias(load(spec, overrides), address, alias, version, why)
    report(moved)


@click.command()
@SPEC
@SET
@RUNNING
@ALIAS
@WHY
def rollback(
    spec: str, overrides: tuple[str, ...], address: str | None, alias: str | None, why: str
) -> None:
    """Undo the last move of an alias; its endpoint follows."""
    from raydc.cli import endpoint_actions

    moved = endpoint_actions.move_alias(load(spec, overrides), address, alias, None, why)
    report(moved)


@click.command()
@click.argument("spec", metavar="[SPEC]", required=False, type=click.Path(dir_okay=False))
@SET
@RUNNING
@click.option("--all", "everything", is_flag=True, help="Stop every endpoint of raydc on that Ray.")
def stop(
    spec: str | None, overrides: tuple[str, ...], address: str | None, everything: bool
) -> None:
    """Take the endpoint of a spec down.

    Endpoints of other models on the same Ray stay up.
    """
    # No default: leaving SPEC out must not mean --all.
    if everything == (spec is not None):
        raise UsageError("stop takes either SPEC or --all", "raydc stop spec.yaml")
    from raydc import spec as specs
    from raydc.cli import endpoint_actions
    from raydc.cli.inventory import require_ray

    # The spec is read first: its problems should not wait for a connection.
    resolved = None if spec is None else specs.resolve(load(spec, overrides))
    if resolved is None:
        require_ray(address)
    else:
        endpoint_actions.find_endpoint_to_stop(resolved, address)
    for line in endpoint_actions.stop_endpoints(resolved):
        report(line)


def stay(context: RunContext, once: bool) -> None:
    """Keeps a local Ray up for its endpoints; returns at once on a cluster.

    Call it in the block of `endpoint_actions.own_endpoint`.
    """
    from raydc import serve
    from raydc.cli.endpoint_actions import alias_of
    from raydc.tracking.endpoint_record import remove_record

    served = (context.storage, context.spec.name, alias_of(context.spec), context.engine.address)
    # A cluster outlives this process, and so do its endpoints.
    if not context.engine.local:
        if once:
            serve.shutdown(context.spec.name)
            remove_record(*served)
        else:
            report(
                "          the endpoint stays up as long as that Ray does; "
                "`raydc stop SPEC` takes it down"
            )
        return
    if once:
        return
    report("          the endpoint stays up until Ctrl-C or `raydc stop SPEC`")
    try:
        # Other processes may serve further models on this Ray: it ends after the last of them.
        serve.wait()
        report("serve     the endpoint was stopped")
        # `raydc stop` is attached to this Ray and would be aborted with it: it has to read
        # that the endpoint is gone, print that and leave.
        time.sleep(LEAVE_GRACE_S)
    except KeyboardInterrupt:
        report("serve     stopping")
        # First, because there may be no time left after it.
        remove_record(*served)
        # Requests in progress are answered first, as far as the limit of an interruption allows.
        serve.shutdown()
        raise
