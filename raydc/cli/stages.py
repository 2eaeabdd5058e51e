"""Commands of the stages up to a registered version, and `chaos`, which breaks them on purpose."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raydc.cli.app import (
    ADDRESS,
    DASHBOARD,
    FORK,
    NEW,
    RESUME,
    SET,
    SPEC,
    imports_of,
    load,
    open_context,
    report,
    resolve,
)
from raydc.cli.endpoint import stay
from raydc.cli.example_line import describe_example
from raydc.errors import UsageError

if TYPE_CHECKING:
    from raydc.data.prepared import Prepared
    from raydc.pipeline import Served
    from raydc.run_context import RunContext


# More lines than this would push the rest of the output off the screen.
_MOST_CLASSES = 20


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
    from raydc.cli.early_checks import check_endpoint, check_points, check_run
    from raydc.cli.endpoint_actions import own_endpoint

    resolved = resolve(spec, overrides)
    # A search varies the model, which must be the same as that of the fork.
    if fork and resolved.sweep:
        raise UsageError(
            f"{spec} has a sweep, and --fork cannot be combined with a sweep",
            "Use raydc train, which ignores the sweep.",
        )
    check_run(resolved, resume, new)
    check_endpoint(resolved, address)
    # Training in this process and no endpoint leave nothing for Ray to do.
    needs_ray = resolved.scaling.max_workers or resolved.sweep or resolved.serve
    imports = imports_of(resolved, sweeps=True, serves=True)
    context = open_context(spec, overrides, address, dashboard, not needs_ray, imports)
    # Beside the start of Ray, torch was imported, which takes longer than the check itself.
    check_points(resolved, resume)
    with own_endpoint(context):
        # The text as the user wrote it goes into the run folder, with comments.
        served = pipeline.run(context, Path(spec).read_text(), resume, new, fork)
        _summary(context, served)
        if served.url:
            stay(context, once)


# Checked before Ray starts: a contradiction should not cost twenty seconds.
def _one_of(resume: bool, new: bool, fork: str | None = None) -> None:
    if resume and new:
        raise UsageError(
            "--resume and --new exclude each other", "--resume continues, --new starts again."
        )
    if resume and fork:
        hint = "--resume continues the run of this name, a fork too; --fork starts a new one."
        raise UsageError("--resume and --fork exclude each other", hint)


def _summary(context: RunContext, served: Served) -> None:
    if served.url is not None:
        report(describe_example(served.url, served.prediction, served.expected))
    name, value = context.spec.train.metric, served.metrics[context.spec.train.metric]
    # A metric is undefined on rows that lack a class, for example.
    score = "undefined" if value is None else f"{value:.4f}"
    report(
        f"done      {context.spec.name} version {served.version}, {name} {score} on held-out rows"
    )
    report(f"          run folder {context.run_folder.uri}")
    _say_how_to_look(context)


def _say_how_to_look(context: RunContext) -> None:
    """Names the command that shows the curves, which only a local folder has."""
    if context.run_folder.is_local:
        report(f"          curves: tensorboard --logdir {context.run_folder.local_path}")


@click.command()
@SPEC
@SET
@ADDRESS
def prepare(spec: str, overrides: tuple[str, ...], address: str | None) -> None:
    """Prepare the data set: clean, split, fit features, write."""
    from raydc import pipeline
    from raydc.data.source_check import check_source

    check_source(resolve(spec, overrides).data)
    pipeline.prepare_data(open_context(spec, overrides, address, deferred=True))


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

    resolved = resolve(spec, overrides)
    check_run(resolved, resume, new)
    trains_here = resolved.scaling.max_workers == 0
    imports = imports_of(resolved)
    context = open_context(spec, overrides, address, dashboard, trains_here, imports)
    data = _prepare_checked(context)
    weights = pipeline.load_fork(context, data, fork)
    resumed = pipeline.begin_run(context, Path(spec).read_text(), resume, new)
    folder = pipeline.train_model(context, data, resumed, weights)
    pipeline.write_report(context, data)
    report(f"done      the model is in {folder.uri}")
    _say_how_to_look(context)


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
    from raydc.cli.early_checks import check_points, check_run

    resolved = resolve(spec, overrides)
    # Training the base spec instead would be a surprise that costs hours.
    if resolved.sweep is None:
        raise UsageError(
            f"{spec} has no section `sweep`", "Add one with a `space`, or use raydc train."
        )
    check_run(resolved, resume, new)
    imports = imports_of(resolved, sweeps=True)
    context = open_context(spec, overrides, address, dashboard, imports=imports)
    check_points(resolved, resume)
    data = _prepare_checked(context)
    pipeline.begin_run(context, Path(spec).read_text(), resume, new)
    folder = pipeline.search(context, data)
    pipeline.write_report(context, data)
    report(f"done      the model is in {folder.uri}")
    _say_how_to_look(context)


@click.command()
@SPEC
@SET
@ADDRESS
@click.option(
    "--slice",
    "slices",
    multiple=True,
    metavar="COLUMN[:EDGES]",
    help="Score rows by the value of a column too: of categories by name, of numbers with the "
    "edges of its bins, as in age:30,50. May be repeated.",
)
def evaluate(
    spec: str, overrides: tuple[str, ...], address: str | None, slices: tuple[str, ...]
) -> None:
    """Score the model on the held-out rows, and register it."""
    from raydc import pipeline

    context = open_context(spec, overrides, address, deferred=True)
    data = pipeline.prepare_data(context)
    metrics = pipeline.evaluate_model(context, context.run_folder / "model", data, slices)
    _show_classes(metrics)
    for column, by_name in metrics.get("slices", {}).items():
        for name, values in by_name.items():
            score = values[context.spec.train.metric]
            text = "undefined" if score is None else f"{score:.4f}"
            report(
                f"          {column} {name}: {context.spec.train.metric} {text} "
                f"({values['num_rows']:,} rows)"
            )
    pipeline.register_model(context, context.run_folder / "model", metrics)
    pipeline.write_report(context, data)


def _show_classes(metrics: dict[str, Any]) -> None:
    """Shows a line for each class; `evaluation.json` has those that are left out."""
    per_class = metrics.get("per_class", {})
    for name in list(per_class)[:_MOST_CLASSES]:
        numbers = "  ".join(
            f"{metric} {value:.4f}"
            for metric, value in per_class[name].items()
            if isinstance(value, float)
        )
        report(f"          {name}: {numbers} ({metrics['support'][name]:,} rows)")
    if len(per_class) > _MOST_CLASSES:
        report(f"          and {len(per_class) - _MOST_CLASSES} more classes: evaluation.json")


def _prepare_checked(context: RunContext) -> Prepared:
    from raydc import pipeline

    pipeline.require_builder(context)
    data = pipeline.prepare_data(context)
    # A model that does not fit should fail before workers start and a run folder exists.
    pipeline.check_model(context, data)
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
    from raydc import pipeline, run_context
    from raydc import spec as specs

    # Nodes of --nodes are started for this test, because killing those of a cluster harms others.
    if nodes and address:
        raise UsageError(
            "--nodes and --address exclude each other", "Nodes of a cluster in use are left alone."
        )
    # Relative paths are resolved here: all nodes are on this machine and reach them.
    resolved = specs.resolve(load(spec, overrides))
    with breaking.Nodes(nodes) if nodes else contextlib.nullcontext() as own:
        context = (
            run_context.open_context(resolved, own.address, report)
            if own
            else open_context(spec, overrides, address)
        )
        data = pipeline.prepare_data(context)
        pipeline.check_model(context, data)
        options = breaking.Options(steps, seed, kills, only)
        breaking.run(context.spec, data, context.storage, context.engine, report, options, own)
