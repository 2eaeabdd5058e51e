"""The command line. Every command is a stage, `run` is all of them; the exit codes are those of `raydc.errors`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raydc.errors import RaydcError, RunError, SpecError, UsageError

if TYPE_CHECKING:
    from raydc.data.prepare import Prepared
    from raydc.pipeline import Job, Served
    from raydc.spec.sections import Spec

SPEC = click.argument("spec", metavar="SPEC", type=click.Path(dir_okay=False))
SET = click.option("--set", "overrides", metavar="PATH=VALUE", multiple=True, help="Override a field of the spec.")
ADDRESS = click.option(
    "--address", help="Ray cluster: host:port, ray://host:port or auto. Default: RAY_ADDRESS, else a Ray of its own."
)
RESUME = click.option("--resume", is_flag=True, help="Go on with the run of this name.")
NEW = click.option("--new", is_flag=True, help="Start again; the run of this name is kept beside the new one.")
FORK = click.option("--fork", metavar="RUN[:STEP]", help="Start a new run with the weights of another one.")
ALIAS = click.option("--alias", help="Alias to move. Default: serve.alias of the spec.")
WHY = click.option("--why", default="", help="Reason, for the history.")


def report(line: str) -> None:
    """Prints a line of progress."""
    click.echo(line)
    sys.stdout.flush()


class Commands(click.Group):
    """Turns deliberate errors into one message and their exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RaydcError as error:
            _fail(error)
        except OSError as error:
            place = error.filename or "storage"
            _fail(RunError(f"{place}: {error.strerror or error}", "Is there space, and may this user write there?"))
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(130)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def _fail(error: RaydcError) -> None:
    lines = str(error).splitlines()
    if isinstance(error, SpecError):
        lines.append(f"  {len(error.problems)} problem(s) in the spec; nothing was started.")
    click.echo(click.style("error: ", fg="red", bold=True, reset=True) + "\n".join(lines), err=True)
    sys.exit(error.exit_code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="raydc")
def main() -> None:
    """From a data set to an answering endpoint: one YAML file, on a laptop or on a Ray cluster."""


def _load(path: str, overrides: tuple[str, ...]) -> Spec:
    from raydc import spec

    return spec.load(path, overrides)


def _job(path: str, overrides: tuple[str, ...], address: str | None) -> Job:
    from raydc import pipeline

    return pipeline.open_job(_load(path, overrides), address, report)


@main.command()
@SPEC
@SET
@ADDRESS
@RESUME
@NEW
@FORK
@click.option("--once", is_flag=True, help="End after the first answered prediction, and take the endpoint down.")
def run(
    spec: str, overrides: tuple[str, ...], address: str | None, resume: bool, new: bool, fork: str | None, once: bool
) -> None:
    """Do all stages of a spec, from data to endpoint."""
    _one_of(resume, new, fork)
    from raydc import pipeline

    job = _job(spec, overrides, address)
    if fork and job.spec.sweep:
        raise UsageError(f"{spec} has a sweep, which --fork does not start", "Use raydc train, which leaves it out.")
    served = pipeline.run(job, Path(spec).read_text(), resume, new, fork)
    _summary(job, served)
    if served.url:
        _stay(job, once)


def _one_of(resume: bool, new: bool, fork: str | None = None) -> None:
    if resume and new:
        raise UsageError("--resume and --new exclude each other", "--resume goes on, --new starts again.")
    if resume and fork:
        hint = "--resume goes on with the run of this name, also with a fork; --fork starts a new one."
        raise UsageError("--resume and --fork exclude each other", hint)


def _summary(job: Job, served: Served) -> None:
    if served.prediction is not None:
        answer = served.prediction["predictions"][0]
        said = answer.get("label", answer.get("value"))
        score = f" (score {answer['score']:.3f})" if "score" in answer else ""
        truth = "" if served.expected is None else f"; the held-out row says {served.expected}"
        report(f"predict   {served.url}/predict answered {said}{score}{truth}")
    name = job.spec.train.metric or "loss"
    report(f"done      {job.spec.name} version {served.version}, {name} {served.metrics[name]:.4f} on held-out rows")
    report(f"          run folder {job.run_folder.uri}")


def _stay(job: Job, once: bool) -> None:
    """A local Ray ends with this process, so the endpoint needs it; a cluster does not."""
    from raydc import engine, serve

    if not job.engine.local:
        if once:
            serve.shutdown(job.spec.name)
        else:
            report("          the endpoint stays up on the cluster; raydc promote and rollback change its version")
        return
    if not once:
        report("          the endpoint stays up until Ctrl-C")
        try:
            serve.wait()
        except KeyboardInterrupt:
            report("serve     stopping")
    engine.disconnect()


@main.command()
@SPEC
@SET
def validate(spec: str, overrides: tuple[str, ...]) -> None:
    """Check a spec: every problem with its place."""
    loaded = _load(spec, overrides)
    report(f"{spec}: valid ({loaded.name})")


@main.command()
@SPEC
@SET
@click.option("--address", help="Ray cluster to plan for. Default: RAY_ADDRESS, else this machine.")
def plan(spec: str, overrides: tuple[str, ...], address: str | None) -> None:
    """Say what would happen, and whether it fits; start nothing."""
    import os

    from raydc import engine
    from raydc import plan as planning
    from raydc import spec as specs

    resolved = specs.resolve(_load(spec, overrides))
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        resources, where = engine.connect(address).resources, f"the cluster at {address}"
    else:
        resources, where = engine.machine(), "this machine"
    made = planning.make(resolved, resources)
    report(f"on {where}: {resources.get('CPU', 0):g} CPU, {resources.get('GPU', 0):g} GPU")
    for line in made.lines:
        report(line)


@main.command()
@SPEC
@SET
@ADDRESS
def prepare(spec: str, overrides: tuple[str, ...], address: str | None) -> None:
    """Clean, split, fit features and write the data set's shards."""
    from raydc import pipeline

    pipeline.prepare_data(_job(spec, overrides, address))


@main.command()
@SPEC
@SET
@ADDRESS
@RESUME
@NEW
@FORK
def train(
    spec: str, overrides: tuple[str, ...], address: str | None, resume: bool, new: bool, fork: str | None
) -> None:
    """Train the spec as it is, without its sweep."""
    _one_of(resume, new, fork)
    from raydc import pipeline

    job = _job(spec, overrides, address)
    data = _prepare(job)
    weights = pipeline.load_fork(job, data, fork)
    resumed = pipeline.begin_run(job, Path(spec).read_text(), resume, new)
    report(f"done      the model is in {pipeline.train_model(job, data, resumed, weights).uri}")


@main.command()
@SPEC
@SET
@ADDRESS
@RESUME
@NEW
def sweep(spec: str, overrides: tuple[str, ...], address: str | None, resume: bool, new: bool) -> None:
    """Search the spec's space and show the trials."""
    _one_of(resume, new)
    from raydc import pipeline

    job = _job(spec, overrides, address)
    if job.spec.sweep is None:
        raise UsageError(f"{spec} has no section `sweep`", "Add one with a `space`, or use raydc train.")
    data = _prepare(job)
    resumed = pipeline.begin_run(job, Path(spec).read_text(), resume, new)
    report(f"done      the model is in {pipeline.search(job, data, resumed).uri}")


def _prepare(job: Job) -> Prepared:
    from raydc import pipeline

    data = pipeline.prepare_data(job)
    pipeline.check_model(job, data)
    return data


@main.command()
@SPEC
@SET
@ADDRESS
def evaluate(spec: str, overrides: tuple[str, ...], address: str | None) -> None:
    """Measure the trained model on the held-out rows and register it."""
    from raydc import pipeline

    job = _job(spec, overrides, address)
    data = pipeline.prepare_data(job)
    metrics = pipeline.evaluate_model(job, job.run_folder / "model", data)
    pipeline.register_model(job, job.run_folder / "model", metrics)


@main.command()
@SPEC
@SET
@ADDRESS
@click.option("--version", type=int, help="Version to serve. Default: the alias's, else the newest.")
@click.option("--once", is_flag=True, help="End as soon as the endpoint is ready, and take it down.")
def serve(spec: str, overrides: tuple[str, ...], address: str | None, version: int | None, once: bool) -> None:
    """Put a registered version behind the endpoint."""
    from raydc import pipeline
    from raydc.registry import Registry

    job = _job(spec, overrides, address)
    if job.spec.serve is None:
        raise UsageError(f"{spec} has no section `serve`", "Add `serve: {}` for the defaults.")
    chosen = version if version is not None else pipeline.version_to_serve(Registry(job.storage), job.spec)
    pipeline.serve_model(job, chosen, "raydc serve")
    _stay(job, once)


@main.command()
@click.argument("spec", metavar="[SPEC]", required=False, type=click.Path(dir_okay=False))
@SET
@ADDRESS
@click.option("--url", help="Address of an endpoint. Default: serve.host and serve.port of the spec.")
@click.option("--row", "rows", multiple=True, metavar="JSON", help="A row as a JSON object; may be repeated.")
@click.option("--image", type=click.Path(exists=True, dir_okay=False), help="An image file.")
@click.option("--input", "source", help="Predict a whole file with Ray Data: csv, parquet or jsonl.")
@click.option("--output", help="Where the predictions of --input go: .csv, .parquet or .jsonl.")
@click.option("--timeout", "timeout_s", default=30.0, show_default=True, help="Seconds for a request in all.")
def predict(
    spec: str | None, overrides: tuple[str, ...], address: str | None, url: str | None, rows: tuple[str, ...],
    image: str | None, source: str | None, output: str | None, timeout_s: float,
) -> None:  # fmt: skip
    """Ask the endpoint, or predict a whole file."""
    if source is not None:
        if spec is None or output is None:
            raise UsageError("--input needs SPEC and --output", "raydc predict spec.yaml --input a.csv --output b.csv")
        from raydc import pipeline

        pipeline.predict_file(_job(spec, overrides, address), source, output)
        return
    if bool(rows) == bool(image):
        raise UsageError("nothing to predict", "Give --row (one or more), --image, or --input with --output.")
    parsed = [_json(row) for row in rows]
    if url is None:
        url = _endpoint_of(spec, overrides)
    from raydc import client

    answer = client.predict(url, rows=parsed or None, image=Path(image) if image else None, timeout_s=timeout_s)
    click.echo(json.dumps(answer, indent=2, ensure_ascii=False))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(f"--row {text}: not JSON: {error}", """Example: --row '{"age": 41}'""") from error


def _endpoint_of(spec: str | None, overrides: tuple[str, ...]) -> str:
    if spec is None:
        raise UsageError("no endpoint", "Give --url, or SPEC with a section `serve`.")
    loaded = _load(spec, overrides)
    if loaded.serve is None or loaded.serve.port == 0:
        raise UsageError(f"{spec} does not say where the endpoint is", "Give --url.")
    from raydc import client

    host = f"[{loaded.serve.host}]" if ":" in loaded.serve.host else loaded.serve.host
    return client.locate(f"http://{host}:{loaded.serve.port}", loaded.name)


@main.command()
@SPEC
@SET
@ADDRESS
@click.option("--version", type=int, required=True, help="Version that the alias moves to.")
@ALIAS
@WHY
def promote(
    spec: str, overrides: tuple[str, ...], address: str | None, version: int, alias: str | None, why: str
) -> None:
    """Move an alias, and the endpoint, to a version."""
    from raydc import pipeline

    moved = pipeline.move_alias(_load(spec, overrides), address, alias, version, why)
    report(moved)


@main.command()
@SPEC
@SET
@ADDRESS
@ALIAS
@WHY
def rollback(spec: str, overrides: tuple[str, ...], address: str | None, alias: str | None, why: str) -> None:
    """Move an alias back to its version before."""
    from raydc import pipeline

    moved = pipeline.move_alias(_load(spec, overrides), address, alias, None, why)
    report(moved)


@main.command()
@SPEC
@SET
@ADDRESS
@click.option("--steps", default=24, show_default=True, help="Steps of the small run.")
@click.option("--kills", default=5, show_default=True, help="How often something is killed.")
@click.option("--seed", default=0, show_default=True, help="Decides what is killed, and when.")
@click.option(
    "--only", multiple=True, metavar="KIND", help="worker, checkpoint, restore, driver or resize; repeatable."
)
def chaos(
    spec: str, overrides: tuple[str, ...], address: str | None, steps: int, kills: int, seed: int, only: tuple[str, ...]
) -> None:
    """Break a small run of the spec on purpose, and prove that it ends as an undisturbed one."""
    from raydc import chaos as breaking
    from raydc import pipeline

    job = _job(spec, overrides, address)
    data = pipeline.prepare_data(job)
    pipeline.check_model(job, data)
    options = breaking.Options(steps, seed, kills, only)
    breaking.run(job.spec, data, job.storage, job.engine, report, options)


@main.command()
@click.argument("name", required=False)
@click.option("--storage", default="store", show_default=True, help="Folder or URI of the runs.")
def runs(name: str | None, storage: str) -> None:
    """List runs, models and aliases, or say where the time of one run went."""
    from raydc import listing

    if name is None:
        listing.show(storage)
    else:
        listing.show_run(storage, name)


@main.command()
def schema() -> None:
    """Print the JSON Schema of a spec, for editors."""
    from raydc.spec.sections import Spec

    click.echo(json.dumps(Spec.model_json_schema(), indent=2))
