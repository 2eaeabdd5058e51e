"""The stages of a run, each a function, and `run`, which calls all of them. Runs in the driver."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raydc.data import prepare
from raydc.data.prepared import Prepared
from raydc.engine import interruption
from raydc.errors import ServeError
from raydc.registry import Registry, user
from raydc.run_context import RunContext
from raydc.spec.sections import Serve
from raydc.storage import Storage
from raydc.tokens import TokenStore, describe_access
from raydc.tracking import lease

if TYPE_CHECKING:
    from raydc.checkpoint.fork import Fork


@dataclass(frozen=True)
class Served:
    """How a run ended.

    Attributes:
        version: Number of the registered version.
        metrics: Scores on the held-out rows.
        url: Address of its endpoint; None without a section `serve`.
        prediction: Answer of the endpoint to one held-out row; None without an endpoint, or
            without a row that it takes.
        expected: The label or value of that row.
    """

    version: int
    metrics: dict[str, Any]
    url: str | None = None
    prediction: dict[str, Any] | None = None
    expected: Any = None


def prepare_data(context: RunContext) -> Prepared:
    """Stage prepare: returns the data set, which may have been there already."""
    return prepare.run(
        context.spec,
        lambda line: context.report(f"prepare   {line}"),
        connect=context.connect,
    )


def begin_run(context: RunContext, given_text: str | None, resume: bool, new: bool) -> bool:
    """Makes the run folder, or takes the existing one to continue its run.

    Args:
        context: Names the run folder and holds the resolved spec that the folder records.
        given_text: The spec file as the user wrote it, stored next to the resolved one; None
            stores the resolved one in its place.
        resume: Continue an existing run.
        new: Rename an existing run and start a new one.

    Returns:
        True when an existing run continues.

    Raises:
        RunError: A run of this name exists and neither flag was given; there is nothing to resume;
            the spec has changed since; or another process drives it.
    """
    # Imports torch, which a preparation does not need.
    from raydc.checkpoint import run_files, run_name

    folder = context.run_folder
    run_name.refuse_taken_name(context.storage / "runs", context.spec.name, resume, new)
    exists = folder.exists("resolved.yaml")
    if exists and new:
        name = run_name.set_aside(context.storage / "runs", context.spec.name)
        context.report(f"run       the previous run is now {name}")
    with lease.hold(folder):
        if exists and resume:
            run_files.compare_resolved(context.spec, folder, context.report)
            return True
        run_files.write_spec(context.spec, folder, given_text)
        return False


def require_builder(context: RunContext) -> None:
    """Imports a user's functions on the nodes of a cluster, before data is prepared for them.

    Raises:
        SpecError: A node cannot import one.
    """
    # A local Ray has the folders and the environment of this process.
    if context.is_connected and not context.engine.local:
        from raydc.elastic import builder_import

        builder_import.require_on_nodes(context.spec)


def check_model(context: RunContext, data: Prepared) -> None:
    """Builds the model and tries a user's own on a few rows, before anything is written.

    Raises:
        SpecError: There is no such model, it, the augmentation, the loss, a metric or the
            threshold does not fit the data, or its state would not survive a checkpoint.
    """
    from raydc import models
    from raydc.loop import augment, optimizer, row_order, state_proof
    from raydc.models import description
    from raydc.models.losses import check_loss
    from raydc.models.score_threshold import check_scores

    resolved, signature = context.spec, data.features.signature
    model, train = resolved.model, resolved.train
    augment.check_augment(resolved.data.augment, signature, resolved.seed)
    row_order.check_groups(train, signature)
    check_loss(train.loss, signature)
    check_scores(train, data.features, data.num_rows["validation"])

    network = models.build_to_check(model, signature, resolved.seed)
    optimizer.check_names(train, network)
    for line in description.describe(model, network, resolved.data, train.cache_frozen):
        context.report(f"model     {line}")
    state_proof.prove_state(resolved, data)


def load_fork(context: RunContext, data: Prepared, given: str | None) -> Fork | None:
    """Reads the weights that a new run starts with.

    Args:
        context: Spec and storage of the new run.
        data: Data set that it will train on; the other run's rows must have the same shape.
        given: RUN or RUN:STEP of `--fork`; None for a run that starts with random weights.

    Raises:
        UsageError: STEP is not a number.
        RunError: There is no such run, or its model differs.
        CheckpointError: It has no such checkpoint that verifies.
    """
    from raydc.checkpoint import fork

    return fork.load(context.spec, data, context.storage / "runs", given) if given else None


def train_model(
    context: RunContext,
    data: Prepared,
    resume: bool,
    fork: Fork | None = None,
    watch: Callable[[dict[str, Any]], None] | None = None,
) -> Storage:
    """Stage train.

    Args:
        context: The resolved spec, and the run folder that takes checkpoints and the model.
        data: Data set of the spec, with its training and validation rows.
        resume: Continue from the newest checkpoint.
        fork: Weights that a new run starts with; None for random weights.
        watch: Takes each record that the run publishes; None for nobody.

    Returns:
        The folder of the model.
    """
    from raydc import train

    if context.spec.scaling.max_workers:
        context.connect()
    folder, report = context.run_folder, context.report
    train.run(context.spec, data, folder, report, resume=resume, fork=fork, watch=watch)
    return context.run_folder / "model"


def search(context: RunContext, data: Prepared) -> Storage:
    """Stage sweep; continues a sweep in this run folder.

    Returns the folder of the best trial's model.
    """
    from raydc import sweep

    return sweep.run(context.spec, data, context.run_folder, context.report).bundle_folder


def evaluate_model(
    context: RunContext, folder: Storage, data: Prepared, slices: Sequence[str] | None = None
) -> dict[str, Any]:
    """Stage evaluate.

    Args:
        context: Its run folder takes the scores as `evaluation.json`.
        folder: Bundle to score.
        data: Data set with the features of the bundle, which has the rows to score.
        slices: Columns to score by value, see `evaluate.run`, and all metrics are reported; None
            reports those of each epoch only.

    Returns:
        Metrics on the held-out rows, or on the validation rows if none are held out.
    """
    from raydc import evaluate
    from raydc.models.evaluation_tables import describe

    split = "test" if data.num_rows.get("test") else "validation"
    metrics = evaluate.run(
        folder, data.folder, split, context.report, slices or (), context.connect
    )
    for line in describe(metrics, split, context.spec if slices is None else None):
        context.report(line)
    context.run_folder.write_json("evaluation.json", {"split": split, **metrics})
    return metrics


def register_model(context: RunContext, bundle_folder: Storage, metrics: dict[str, Any]) -> int:
    """Stage register.

    Args:
        context: Its storage has the registry; the model gets the name of its spec.
        bundle_folder: Bundle to copy into the registry.
        metrics: Scores to record with the version.

    Returns:
        The version. A model that is registered already keeps its version.

    Raises:
        CheckpointError: The bundle does not verify, or does not compute its golden rows.
    """
    from raydc import bundle

    # What no replica would load must not become a version.
    bundle.load(bundle_folder).check_golden()
    source = {"run": context.spec.name, "by": user(), "metrics": metrics}
    version = Registry(context.storage).register(context.spec.name, bundle_folder, source)
    context.report(f"register  {context.spec.name} version {version}")
    return version


def write_report(context: RunContext, data: Prepared) -> None:
    """Writes `report.html` of the run; a report that fails is a line, and the run is complete."""
    from raydc.report import run_report

    run_report.write_after_run(context.run_folder, context.spec.name, data, context.report)


def serve_model(context: RunContext, version: int, why: str) -> str:
    """Stage serve: deploys a version, then moves the alias to it.

    Args:
        context: Its spec may have a section `serve`; the defaults hold where it has none.
        version: Registered version that should answer.
        why: Reason of the move, for the history of the alias.

    Returns:
        The URL of the endpoint.
    """
    from raydc import serve

    section = context.spec.serve or Serve()
    for note in serve.notes_before_serving(context.storage, context.spec.name, section.alias):
        context.report(f"serve     note: {note}")
    endpoint = serve.deploy(context.spec, context.storage, version=version, why=why)
    model, answering = endpoint.model, endpoint.version
    context.report(f"serve     {endpoint.url} answers as {model} version {answering}")
    for path_line in serve.describe_path(endpoint):
        context.report(f"          {path_line}")
    tokens = TokenStore(context.storage, context.spec.name)
    if (line := describe_access(context.spec.serve, tokens)) is not None:
        context.report(f"          {line}")
    return endpoint.url


def serve_registered(context: RunContext, version: int) -> str:
    """Stage serve of a run; if it fails, the error says how to go on with the version."""
    try:
        return serve_model(context, version, f"raydc run {context.spec.name}")
    except ServeError as error:
        done = f"{context.spec.name} version {version} is registered: `raydc serve SPEC` goes on."
        error.hint = f"{error.hint} {done}" if error.hint else done
        raise


def run(context: RunContext, text: str, resume: bool, new: bool, fork: str | None = None) -> Served:
    """Does all stages that the spec names.

    Args:
        context: The resolved spec, which says what stages there are, and the run folder.
        text: The spec file as the user wrote it, for the run folder.
        resume: Continue an existing run.
        new: Rename an existing run and start a new one.
        fork: RUN or RUN:STEP whose weights a new run starts with; None for random weights.
    """
    require_builder(context)
    data = prepare_data(context)
    check_model(context, data)
    weights = load_fork(context, data, fork)
    resumed = begin_run(context, text, resume, new)
    with contextlib.ExitStack() as leaving:
        early = None
        # A search does not say when it ends, and a cluster may serve something already.
        if context.spec.serve and context.spec.sweep is None and context.engine.local:
            from raydc.serve.control.early_start import EarlyStart

            early = EarlyStart(context.spec, data)
            leaving.callback(early.leave)
        if context.spec.sweep is not None:
            model = search(context, data)
        else:
            watch = None if early is None else early.watch
            model = train_model(context, data, resumed, weights, watch)
        leaving.enter_context(interruption.resumable())
        metrics = evaluate_model(context, model, data)
        version = register_model(context, model, metrics)
        write_report(context, data)
        if context.spec.serve is None:
            return Served(version, metrics)
        from raydc import serve

        if early is not None:
            early.wait()
        url = serve_registered(context, version)
        answer, expected = serve.ask_held_out(context.spec, context.storage, data, url)
        return Served(version, metrics, url, answer, expected)
