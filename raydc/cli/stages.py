"""Commands of the stages up to a registered version: run, prepare, train, sweep, evaluate, chaos."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raydc.cli.app import ADDRESS, FORK, NEW, RESUME, SET, SPEC, open_job, report
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
@RESUME
@NEW
@FORK
@click.option(
    "--once",
    is_flag=True,
    help="End after the first answered prediction, and take the endpoint down.",
)
def run(
    spec: str,
    overrides: tuple[str, ...],
    address: str | None,
    resume: bool,
    new: bool,
    fork: str | None,
    once: bool,
) -> None:
    """Do all stages of a spec, from data to endpoint."""
    _one_of(resume, new, fork)
    from raydc import pipeline

    job = open_job(spec, overrides, address)
    if fork and job.spec.sweep:
        raise UsageError(
            f"{spec} has a sweep, which --fork does not start",
            "Use raydc train, which leaves it out.",
        )
    served = pipeline.run(job, Path(spec).read_text(), resume, new, fork)
    _summary(job, served)
    if served.url:
        stay(job, once)


def _one_of(resume: bool, new: bool, fork: str | None = None) -> None:
    if resume and new:
        raise UsageError(
            "--resume and --new exclude each other", "--resume goes on, --new starts again."
        )
    if resume and fork:
        hint = (
            "--resume goes on with the run of this name, also with a fork; --fork starts a new one."
        )
        raise UsageError("--resume and --fork exclude each other", hint)


def _summary(job: Job, served: Served) -> None:
    if served.prediction is not None:
        answer = served.prediction["predictions"][0]
        said = answer.get("label", answer.get("value"))
        score = f" (score {answer['score']:.3f})" if "score" in answer else ""
        truth = "" if served.expected is None else f"; the held-out row says {served.expected}"
        report(f"predict   {served.url}/predict answered {said}{score}{truth}")
    name = job.spec.train.metric
    report(
        f"done      {job.spec.name} version {served.version}, {name} {served.metrics[name]:.4f} on held-out rows"
    )
    report(f"          run folder {job.run_folder.uri}")


@click.command()
@SPEC
@SET
@ADDRESS
def prepare(spec: str, overrides: tuple[str, ...], address: str | None) -> None:
    """Clean, split, fit features and write the data set's shards."""
    from raydc import pipeline

    pipeline.prepare_data(open_job(spec, overrides, address))


@click.command()
@SPEC
@SET
@ADDRESS
@RESUME
@NEW
@FORK
def train(
    spec: str,
    overrides: tuple[str, ...],
    address: str | None,
    resume: bool,
    new: bool,
    fork: str | None,
) -> None:
    """Train the spec as it is, without its sweep."""
    _one_of(resume, new, fork)
    from raydc import pipeline

    job = open_job(spec, overrides, address)
    data = _prepare_checked(job)
    weights = pipeline.load_fork(job, data, fork)
    resumed = pipeline.begin_run(job, Path(spec).read_text(), resume, new)
    report(f"done      the model is in {pipeline.train_model(job, data, resumed, weights).uri}")


@click.command()
@SPEC
@SET
@ADDRESS
@RESUME
@NEW
def sweep(
    spec: str, overrides: tuple[str, ...], address: str | None, resume: bool, new: bool
) -> None:
    """Search the spec's space and show the trials."""
    _one_of(resume, new)
    from raydc import pipeline

    job = open_job(spec, overrides, address)
    if job.spec.sweep is None:
        raise UsageError(
            f"{spec} has no section `sweep`", "Add one with a `space`, or use raydc train."
        )
    data = _prepare_checked(job)
    resumed = pipeline.begin_run(job, Path(spec).read_text(), resume, new)
    report(f"done      the model is in {pipeline.search(job, data, resumed).uri}")


@click.command()
@SPEC
@SET
@ADDRESS
def evaluate(spec: str, overrides: tuple[str, ...], address: str | None) -> None:
    """Measure the trained model on the held-out rows and register it."""
    from raydc import pipeline

    job = open_job(spec, overrides, address)
    data = pipeline.prepare_data(job)
    metrics = pipeline.evaluate_model(job, job.run_folder / "model", data)
    pipeline.register_model(job, job.run_folder / "model", metrics)


def _prepare_checked(job: Job) -> Prepared:
    from raydc import pipeline

    data = pipeline.prepare_data(job)
    pipeline.check_model(job, data)
    return data


@click.command()
@SPEC
@SET
@ADDRESS
@click.option("--steps", default=24, show_default=True, help="Steps of the small run.")
@click.option("--kills", default=5, show_default=True, help="How often something is killed.")
@click.option("--seed", default=0, show_default=True, help="Decides what is killed, and when.")
@click.option(
    "--only",
    multiple=True,
    metavar="KIND",
    help="worker, checkpoint, restore, driver, resize, node, drain.",
)
@click.option(
    "--nodes", default=0, help="Start a Ray of so many nodes here, which may be killed and drained."
)
def chaos(
    spec: str, overrides: tuple[str, ...], address: str | None, steps: int, kills: int, seed: int,
    only: tuple[str, ...], nodes: int,
) -> None:  # fmt: skip
    """Break a small run of the spec on purpose, and prove that it ends as an undisturbed one."""
    from raydc import chaos as breaking
    from raydc import job as jobs
    from raydc import pipeline
    from raydc import spec as specs

    if nodes and address:
        raise UsageError(
            "--nodes and --address exclude each other", "Nodes of a cluster in use are left alone."
        )
    # Its nodes are all on this machine: they reach a folder below the current one.
    resolved = specs.resolve(specs.load(spec, overrides))
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
