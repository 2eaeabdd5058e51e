"""Commands of the endpoint: serve, predict, promote, rollback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raydc.cli.app import ADDRESS, ALIAS, SET, SPEC, WHY, load, open_job, report
from raydc.errors import UsageError

if TYPE_CHECKING:
    from raydc.job import Job


@click.command()
@SPEC
@SET
@ADDRESS
@click.option(
    "--version", type=int, help="Version to serve. Default: the alias's, else the newest."
)
@click.option(
    "--once", is_flag=True, help="End as soon as the endpoint is ready, and take it down."
)
def serve(
    spec: str, overrides: tuple[str, ...], address: str | None, version: int | None, once: bool
) -> None:
    """Put a registered version behind the endpoint."""
    from raydc import pipeline
    from raydc.registry import Registry

    job = open_job(spec, overrides, address)
    if job.spec.serve is None:
        raise UsageError(f"{spec} has no section `serve`", "Add `serve: {}` for the defaults.")
    chosen = (
        version
        if version is not None
        else pipeline.version_to_serve(Registry(job.storage), job.spec)
    )
    pipeline.serve_model(job, chosen, "raydc serve")
    stay(job, once)


@click.command()
@click.argument("spec", metavar="[SPEC]", required=False, type=click.Path(dir_okay=False))
@SET
@ADDRESS
@click.option(
    "--url", help="Address of an endpoint. Default: serve.host and serve.port of the spec."
)
@click.option(
    "--row", "rows", multiple=True, metavar="JSON", help="A row as a JSON object; may be repeated."
)
@click.option("--image", type=click.Path(exists=True, dir_okay=False), help="An image file.")
@click.option(
    "--input", "source", help="Predict a whole file with Ray Data: csv, parquet or jsonl."
)
@click.option("--output", help="Where the predictions of --input go: .csv, .parquet or .jsonl.")
@click.option(
    "--timeout", "timeout_s", default=30.0, show_default=True, help="Seconds for a request in all."
)
@click.option("--token", help="Access token of the endpoint. Default: the variable RAYDC_TOKEN.")
def predict(
    spec: str | None, overrides: tuple[str, ...], address: str | None, url: str | None, rows: tuple[str, ...],
    image: str | None, source: str | None, output: str | None, timeout_s: float, token: str | None,
) -> None:  # fmt: skip
    """Ask the endpoint, or predict a whole file."""
    if source is not None:
        if spec is None or output is None:
            raise UsageError(
                "--input needs SPEC and --output",
                "raydc predict spec.yaml --input a.csv --output b.csv",
            )
        from raydc import pipeline

        pipeline.predict_file(open_job(spec, overrides, address), source, output)
        return
    if bool(rows) == bool(image):
        raise UsageError(
            "nothing to predict", "Give --row (one or more), --image, or --input with --output."
        )
    parsed = [_json(row) for row in rows]
    if url is None:
        url = _endpoint_of(spec, overrides, token)
    from raydc import client

    answer = client.predict(url, parsed or None, Path(image) if image else None, timeout_s, token)
    click.echo(json.dumps(answer, indent=2, ensure_ascii=False))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(
            f"--row {text}: not JSON: {error}", """Example: --row '{"age": 41}'"""
        ) from error


def _endpoint_of(spec: str | None, overrides: tuple[str, ...], token: str | None) -> str:
    if spec is None:
        raise UsageError("no endpoint", "Give --url, or SPEC with a section `serve`.")
    loaded = load(spec, overrides)
    if loaded.serve is None or loaded.serve.port == 0:
        raise UsageError(f"{spec} does not say where the endpoint is", "Give --url.")
    from raydc import client

    host = f"[{loaded.serve.host}]" if ":" in loaded.serve.host else loaded.serve.host
    return client.locate(f"http://{host}:{loaded.serve.port}", loaded.name, token=token)


@click.command()
@SPEC
@SET
@ADDRESS
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
    """Move an alias, and the endpoint, to a version."""
    from raydc import pipeline

    moved = pipeline.move_alias(load(spec, overrides), address, alias, version, why)
    report(moved)


@click.command()
@SPEC
@SET
@ADDRESS
@ALIAS
@WHY
def rollback(
    spec: str, overrides: tuple[str, ...], address: str | None, alias: str | None, why: str
) -> None:
    """Move an alias back to its version before."""
    from raydc import pipeline

    moved = pipeline.move_alias(load(spec, overrides), address, alias, None, why)
    report(moved)


def stay(job: Job, once: bool) -> None:
    """A local Ray ends with this process, so the endpoint needs it; a cluster does not."""
    from raydc import engine, serve

    if not job.engine.local:
        if once:
            serve.shutdown(job.spec.name)
        else:
            report(
                "          the endpoint stays up on the cluster; raydc promote and rollback change its version"
            )
        return
    if not once:
        report("          the endpoint stays up until Ctrl-C")
        try:
            serve.wait()
        except KeyboardInterrupt:
            report("serve     stopping")
    engine.disconnect()
