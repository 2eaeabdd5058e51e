"""The stages of a run, as functions of a job, and `run`, which does all of them. In the driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from raydc import spec
from raydc.checkpoint import run_files, run_name
from raydc.data import prepare, prepared
from raydc.engine import interruption
from raydc.errors import ServeError
from raydc.job import Job
from raydc.registry import Registry, user
from raydc.spec.sections import Serve
from raydc.storage import Storage
from raydc.tokens import TokenStore
from raydc.tracking import lease

if TYPE_CHECKING:
    from raydc.checkpoint.fork import Fork


@dataclass(frozen=True)
class Served:
    """How a run ended.

    Attributes:
        version: The registered version.
        metrics: Scores on the held-out rows.
        url: Address of its endpoint; None without a section `serve`.
        prediction: Answer of the endpoint to one held-out row; None without an endpoint, or
            without a row that it takes.
        expected: The label or value of that row.
    """

    version: int
    metrics: dict[str, float]
    url: str | None = None
    prediction: dict[str, Any] | None = None
    expected: Any = None


def prepare_data(job: Job) -> prepared.Prepared:
    """Stage prepare: returns the data set, which may have been there already."""
    return prepare.run(job.spec, lambda line: job.report(f"prepare   {line}"))


def begin_run(job: Job, given_text: str | None, resume: bool, new: bool) -> bool:
    """Makes the run folder, or takes the existing one to continue its run.

    Args:
        job: Names the run folder and holds the resolved spec that the folder records.
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
    folder = job.run_folder
    run_name.refuse_taken_name(job.storage / "runs", job.spec.name, resume, new)
    exists = folder.exists("resolved.yaml")
    if exists and new:
        job.report(f"run       the previous run is now {_set_aside(job)}")
    with lease.hold(folder):
        if exists and resume:
            run_files.compare_resolved(job.spec, folder, job.report)
            return True
        resolved = yaml.safe_dump(spec.to_dict(job.spec), sort_keys=False)
        folder.write_bytes(
            "spec.yaml", (given_text if given_text is not None else resolved).encode()
        )
        # Last, because this file makes the folder a run.
        folder.write_bytes("resolved.yaml", resolved.encode())
        return False


def _set_aside(job: Job) -> str:
    """Renames an existing run to the first free `<name>.<number>`, and returns that name."""
    runs, name = job.storage / "runs", job.spec.name
    taken = set(runs.names())
    number = next(n for n in range(1, len(taken) + 2) if f"{name}.{n}" not in taken)
    with lease.hold(job.run_folder):
        runs.move(name, f"{name}.{number}")
    # The lease moved with the folder, and no process drives the old run.
    (runs / f"{name}.{number}").delete(lease.FILE)
    return f"{name}.{number}"


def require_builder(job: Job) -> None:
    """Imports a user's builder on the nodes of a cluster, before data is prepared for it.

    Raises:
        SpecError: A node cannot import it.
    """
    # A local Ray has the folders and the environment of this process.
    if not job.engine.local:
        from raydc.elastic import builder_import

        builder_import.require_on_nodes(job.spec.model)


def check_model(job: Job, data: prepared.Prepared) -> None:
    """Builds the model and tries a user's own on a few rows, before anything is written.

    Raises:
        SpecError: There is no such model, it, the augmentation or the loss does not fit the data,
            or its state would not survive a checkpoint.
    """
    from raydc import models
    from raydc.loop import augment, state_proof
    from raydc.models.losses import check_loss

    signature = data.features.signature
    augment.make_augmenter(job.spec.data.augment, signature, job.spec.seed)
    check_loss(job.spec.train.loss, signature)

    # Pretrained weights have the shapes of fresh ones; a check need not download them.
    models.build(job.spec.model.without_weights(), signature, job.spec.seed)
    state_proof.prove_state(job.spec, data)


def load_fork(job: Job, data: prepared.Prepared, given: str | None) -> Fork | None:
    """Reads the weights that a new run starts with.

    Args:
        job: The job of the new run.
        data: Data set that it will train on; the other run's rows must have the same shape.
        given: RUN or RUN:STEP of `--fork`; None for a run that starts with random weights.

    Raises:
        UsageError: STEP is not a number.
        RunError: There is no such run, or its model differs.
        CheckpointError: It has no such checkpoint that verifies.
    """
    from raydc.checkpoint import fork

    return fork.load(job.spec, data, job.storage / "runs", given) if given else None


def train_model(
    job: Job, data: prepared.Prepared, resume: bool, fork: Fork | None = None
) -> Storage:
    """Stage train.

    Args:
        job: The resolved spec, and the run folder that takes checkpoints and the model.
        data: Data set of the spec, with its training and validation rows.
        resume: Continue from the newest checkpoint.
        fork: Weights that a new run starts with; None for random weights.

    Returns:
        The folder of the model.
    """
    from raydc import train

    train.run(job.spec, data, job.run_folder, job.report, resume=resume, fork=fork)
    return job.run_folder / "model"


def search(job: Job, data: prepared.Prepared) -> Storage:
    """Stage sweep; continues a sweep in this run folder.

    Returns the folder of the best trial's model.
    """
    from raydc import sweep

    return sweep.run(job.spec, data, job.run_folder, job.report).bundle_folder


def evaluate_model(job: Job, bundle_folder: Storage, data: prepared.Prepared) -> dict[str, Any]:
    """Stage evaluate.

    Args:
        job: Its run folder takes the scores as `evaluation.json`.
        bundle_folder: Bundle to score.
        data: Data set with the features of the bundle, which has the rows to score.

    Returns:
        Metrics on the held-out rows, or on the validation rows if none are held out.
    """
    from raydc import evaluate

    split = "test" if data.num_rows.get("test") else "validation"
    metrics = evaluate.run(bundle_folder, data.folder, split, job.report)
    shown = "  ".join(
        f"{name} {value:.4f}" for name, value in metrics.items() if isinstance(value, float)
    )
    job.report(f"evaluate  {split}: {shown} ({data.num_rows[split]:,} rows)")
    job.run_folder.write_json("evaluation.json", {"split": split, **metrics})
    return metrics


def register_model(job: Job, bundle_folder: Storage, metrics: dict[str, Any]) -> int:
    """Stage register.

    Args:
        job: Its storage has the registry; the model gets the name of its spec.
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
    source = {"run": job.spec.name, "by": user(), "metrics": metrics}
    version = Registry(job.storage).register(job.spec.name, bundle_folder, source)
    job.report(f"register  {job.spec.name} version {version}")
    return version


def serve_model(job: Job, version: int, why: str) -> str:
    """Stage serve: deploys a version, then moves the alias to it.

    Args:
        job: The job of a spec with a section `serve`.
        version: Registered version that should answer.
        why: Reason of the move, for the history of the alias.

    Returns:
        The URL of the endpoint.
    """
    from raydc import serve

    section = job.spec.serve or Serve()
    for note in serve.notes_before_serving(job.storage, job.spec.name, section.alias):
        job.report(f"serve     note: {note}")
    endpoint = serve.deploy(job.spec, job.storage, version=version, why=why)
    job.report(f"serve     {endpoint.url} answers as {endpoint.model} version {endpoint.version}")
    for path_line in serve.describe_path(endpoint):
        job.report(f"          {path_line}")
    if (line := _access_note(job)) is not None:
        job.report(f"          {line}")
    return endpoint.url


def _access_note(job: Job) -> str | None:
    """A line about open or locked access; None if there are tokens, or all clients are local."""
    section = job.spec.serve
    if section is None or (section.auth == "none" and section.is_local):
        return None
    if section.auth == "none":
        return f"anyone who reaches {section.host} can send requests: serve.auth is none"
    tokens = TokenStore(job.storage, job.spec.name).read_all()
    if any(not one.is_internal for one in tokens):
        return None
    return "requests need a token, and there is none: raydc token create SPEC --name NAME"


def serve_registered(job: Job, version: int) -> str:
    """Stage serve of a run; if it fails, the error says how to go on with the version."""
    try:
        return serve_model(job, version, f"raydc run {job.spec.name}")
    except ServeError as error:
        done = f"{job.spec.name} version {version} is registered: `raydc serve SPEC` goes on."
        error.hint = f"{error.hint} {done}" if error.hint else done
        raise


def run(job: Job, given_text: str, resume: bool, new: bool, fork: str | None = None) -> Served:
    """Does all stages that the spec names.

    Args:
        job: The resolved spec, which says what stages there are, and the run folder.
        given_text: The spec file as the user wrote it, for the run folder.
        resume: Continue an existing run.
        new: Rename an existing run and start a new one.
        fork: RUN or RUN:STEP whose weights a new run starts with; None for random weights.
    """
    require_builder(job)
    data = prepare_data(job)
    check_model(job, data)
    weights = load_fork(job, data, fork)
    resumed = begin_run(job, given_text, resume, new)
    bundle_folder = (
        search(job, data) if job.spec.sweep else train_model(job, data, resumed, weights)
    )
    with interruption.resumable():
        metrics = evaluate_model(job, bundle_folder, data)
        version = register_model(job, bundle_folder, metrics)
        if job.spec.serve is None:
            return Served(version, metrics)
        from raydc import serve

        url = serve_registered(job, version)
        answer, expected = serve.ask_held_out(job.spec, job.storage, data, url)
        return Served(version, metrics, url, answer, expected)
