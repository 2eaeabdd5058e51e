"""Commands of the stages up to a registered version, and `chaos`, which breaks them on purpose."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raydc.cli.app import (
    ADDRESS,
    DASHBOARD,
    FORK,
    NEW,
    RESUME,
    SET,
    SPEC,
    load,
    open_job,
    report,
    resolve,
)
from raydc.cli.endpoint import stay
from raydc.errors import UsageError

if TYPE_CHECKING:
    from raydc.data.prepared import Prepared
    from raydc.job import Job
    from raydc.pipeline import Served


@click.command()
@SPEC
@SET
@ADDRESS
@DASHBOARD
@RESUME
@NEW
@FORK
@click.option(
    "--once",
    is_flag=True,
    help="Take the endpoint down after one answered prediction, and exit.",
)
def run(
    spec: str,
    overrides: tuple[str, ...],
    address: str | None,
    dashboard: bool,
    resume: bool,
    new: bool,
    fork: str | None,
    once: bool,
) -> None:
    """Run all stages of a spec, from data to endpoint."""
    _one_of(resume, new, fork)
    from raydc import pipeline
    from raydc.cli.early_checks import check_port, check_run

    resolved = resolve(spec, overrides)
    # Each trial would need the weights of another model: the search varies what a fork must keep.
    if fork and resolved.sweep:
        raise UsageError(
            f"{spec} has a sweep, and --fork cannot be combined with a sweep",
            "Use raydc train, which ignores the sweep.",
        )
    check_run(resolved, resume, new)
    check_port(resolved, address)
    job = open_job(spec, overrides, address, dashboard)
    # The text as the user wrote it goes into the run folder, with comments.
    served = pipeline.run(job, Path(spec).read_text(), resume, new, fork)
    _summary(job, served)
    if served.url:
        stay(job, once)


# Checked before Ray starts: a contradiction should not cost twenty seconds.
def _one_of(resume: bool, new: bool, fork: str | None = None) -> None:
    if resume and new:
        raise UsageError(
            "--resume and --new exclude each other", "--resume continues, --new starts again."
        )
    if resume and fork:
        hint = "--resume continues the run of this name, a fork too; --fork starts a new one."
        raise UsageError("--resume and --fork exclude each other", hint)


def _summary(job: Job, served: Served) -> None:
    if served.prediction is not None:
        answer = served.prediction["predictions"][0]
        # A classifier answers with a label, a regression with a value.
        said = answer.get("label", answer.get("value"))
        score = f" (score {answer['score']:.3f})" if "score" in answer else ""
        truth = "" if served.expected is None else f"; the held-out row says {served.expected}"
        report(f"predict   {served.url}/predict answered {said}{score}{truth}")
    elif served.url is not None:
        report("predict   no held-out row was sent: each lacks a value that the endpoint needs")
    name = job.spec.train.metric
    report(
        f"done      {job.spec.name} version {served.version}, "
        f"{name} {served.metrics[name]:.4f} on held-out rows"
    )
    report(f"          run folder {job.run_folder.uri}")
    _say_how_to_look(job)


def _say_how_to_look(job: Job) -> None:
    """Names the command that shows the curves, which only a local folder has."""
    if job.run_folder.is_local:
        report(f"          curves: tensorboard --logdir {job.run_folder.local_path}")


@click.command()
@SPEC
@SET
@ADDRESS
def prepare(spec: str, overrides: tuple[str, ...], address: str | None) -> None:
    """Prepare the data set: clean, split, fit features, write."""
    from raydc import pipeline
    from raydc.data.source_check import check_source

    check_source(resolve(spec, overrides).data)
    pipeline.prepare_data(open_job(spec, overrides, address))


@click.command()
@SPEC
@SET
@ADDRESS
@DASHBOARD
@RESUME
@NEW
@FORK
def train(
    spec: str,
    overrides: tuple[str, ...],
    address: str | None,
    dashboard: bool,
    resume: bool,
    new: bool,
    fork: str | None,
) -> None:
    """Train the model of a spec; a sweep in it is ignored."""
    _one_of(resume, new, fork)
    from raydc import pipeline
    from raydc.cli.early_checks import check_run

    check_run(resolve(spec, overrides), resume, new)
    job = open_job(spec, overrides, address, dashboard)
    data = _prepare_checked(job)
    weights = pipeline.load_fork(job, data, fork)
    resumed = pipeline.begin_run(job, Path(spec).read_text(), resume, new)
    report(f"done      the model is in {pipeline.train_model(job, data, resumed, weights).uri}")
    _say_how_to_look(job)


@click.command()
@SPEC
@SET
@ADDRESS
@DASHBOARD
@RESUME
@NEW
def sweep(
    spec: str,
    overrides: tuple[str, ...],
    address: str | None,
    dashboard: bool,
    resume: bool,
    new: bool,
) -> None:
    """Search the space of the spec, and keep the best model."""
    _one_of(resume, new)
    from raydc import pipeline
    from raydc.cli.early_checks import check_run

    resolved = resolve(spec, overrides)
    # Training the base spec instead would be a surprise that costs hours.
    if resolved.sweep is None:
        raise UsageError(
            f"{spec} has no section `sweep`", "Add one with a `space`, or use raydc train."
        )
    check_run(resolved, resume, new)
    job = open_job(spec, overrides, address, dashboard)
    data = _prepare_checked(job)
    pipeline.begin_run(job, Path(spec).read_text(), resume, new)
    report(f"done      the model is in {pipeline.search(job, data).uri}")
    _say_how_to_look(job)


@click.command()
@SPEC
@SET
@ADDRESS
def evaluate(spec: str, overrides: tuple[str, ...], address: str | None) -> None:
    """Score the model on the held-out rows, and register it."""
    from raydc import pipeline

    job = open_job(spec, overrides, address)
    data = pipeline.prepare_data(job)
    metrics = pipeline.evaluate_model(job, job.run_folder / "model", data)
    pipeline.register_model(job, job.run_folder / "model", metrics)


def _prepare_checked(job: Job) -> Prepared:
    from raydc import pipeline

    pipeline.require_builder(job)
    data = pipeline.prepare_data(job)
    # A model that does not fit should fail before workers start and a run folder exists.
    pipeline.check_model(job, data)
    return data


@click.command()
@SPEC
@SET
@ADDRESS
@click.option("--steps", default=24, show_default=True, help="Steps of the small run.")
@click.option("--kills", default=5, show_default=True, help="Number of faults.")
@click.option("--seed", default=0, show_default=True, help="Random seed: what is killed, and when.")
@click.option(
    "--only",
    multiple=True,
    metavar="KIND",
    help="Use only this kind of fault: worker, checkpoint, restore, driver, resize, node or drain. "
    "May be repeated.",
)
@click.option(
    "--nodes",
    default=0,
    help="Start a Ray of this many nodes on this machine, whose nodes are killed and drained too.",
)
def chaos(
    spec: str,
    overrides: tuple[str, ...],
    address: str | None,
    steps: int,
    kills: int,
    seed: int,
    only: tuple[str, ...],
    nodes: int,
) -> None:
    """Break a small run on purpose, and compare the models.

    Kills workers, nodes or the driver of a small run of the spec, and proves that its model equals
    that of an undisturbed run, bit for bit."""
    from raydc import chaos as breaking
    from raydc import job as jobs
    from raydc import pipeline
    from raydc import spec as specs

    # Nodes of --nodes are started for this test, because killing those of a cluster harms others.
    if nodes and address:
        raise UsageError(
            "--nodes and --address exclude each other", "Nodes of a cluster in use are left alone."
        )
    # Relative paths are resolved here: all nodes are on this machine and reach them.
    resolved = specs.resolve(load(spec, overrides))
    with breaking.Nodes(nodes) if nodes else contextlib.nullcontext() as own:
        job = (
            jobs.open_job(resolved, own.address, report)
            if own
            else open_job(spec, overrides, address)
        )
        data = pipeline.prepare_data(job)
        pipeline.check_model(job, data)
        options = breaking.Options(steps, seed, kills, only)
        breaking.run(job.spec, data, job.storage, job.engine, report, options, own)
