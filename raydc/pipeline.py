"""The stages of a run, one after the other: what `raydc run` does, and what each command does of it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from raydc import engine, spec
from raydc.checkpoint import resume as resuming
from raydc.data import prepare, prepared, shards
from raydc.errors import RunError
from raydc.job import Job
from raydc.registry import Registry, user
from raydc.spec.sections import Spec
from raydc.storage import Storage
from raydc.tokens import TokenStore
from raydc.tracking import lease

if TYPE_CHECKING:
    from raydc.checkpoint.fork import Fork


@dataclass(frozen=True)
class Served:
    """How a run ended: the version that answers, and what it answered on a held-out row."""

    version: int
    metrics: dict[str, float]
    url: str | None = None
    prediction: dict[str, Any] | None = None
    expected: Any = None


def prepare_data(job: Job) -> prepared.Prepared:
    """Stage prepare."""
    return prepare.run(job.spec, lambda line: job.report(f"prepare   {line}"))


def begin_run(job: Job, given_text: str | None, resume: bool, new: bool) -> bool:
    """Makes the run folder, or goes on with the one that is there.

    Args:
        job: The job.
        given_text: The spec file as the user wrote it, kept beside the resolved one.
        resume: Go on with an existing run.
        new: Move an existing run aside and start afresh.

    Returns:
        True when an existing run goes on.

    Raises:
        RunError: A run of this name exists and neither was said; there is nothing to resume; the spec has changed
            since; or another process drives it.
    """
    folder, name = job.run_folder, job.spec.name
    exists = folder.exists("resolved.yaml")
    if resume:
        resuming.require_run(folder, job.storage / "runs", name)
    if exists and not resume and not new:
        raise RunError(
            f"run {name!r} exists already at {folder.uri}",
            "Type --resume to go on with it, --new to start again (the old one is kept beside it), "
            "or choose another name: --set name=...",
        )
    if exists and new:
        job.report(f"run       the run before is now {_set_aside(job)}")
    with lease.hold(folder):
        if exists and resume:
            resuming.refuse_other_spec(job.spec, yaml.safe_load(folder.read_bytes("resolved.yaml")))
            return True
        resolved = yaml.safe_dump(spec.to_dict(job.spec), sort_keys=False)
        folder.write_bytes(
            "spec.yaml", (given_text if given_text is not None else resolved).encode()
        )
        folder.write_bytes("resolved.yaml", resolved.encode())
        return False


def _set_aside(job: Job) -> str:
    runs, name = job.storage / "runs", job.spec.name
    taken = set(runs.names())
    number = next(n for n in range(1, len(taken) + 2) if f"{name}.{n}" not in taken)
    with lease.hold(job.run_folder):
        runs.move(name, f"{name}.{number}")
    (runs / f"{name}.{number}").delete(lease.FILE)
    return f"{name}.{number}"


def check_model(job: Job, data: prepared.Prepared) -> None:
    """Builds the model once, while nothing has been written yet.

    Raises:
        SpecError: There is no such model, or it or the augmentation does not fit the data.
    """
    from raydc import models
    from raydc.loop import augment

    augment.make(job.spec.data.augment, data.features.signature, job.spec.seed)

    # Pretrained weights have the shapes of fresh ones; a check need not download them.
    models.build(job.spec.model.without_weights(), data.features.signature, job.spec.seed)


def load_fork(job: Job, data: prepared.Prepared, given: str | None) -> Fork | None:
    """The weights that a new run starts with: of RUN or RUN:STEP; see `raydc.checkpoint.fork.load`."""
    from raydc.checkpoint import fork

    return fork.load(job.spec, data, job.storage / "runs", given) if given else None


def train_model(
    job: Job, data: prepared.Prepared, resume: bool, fork: Fork | None = None
) -> Storage:
    """Stage train: returns the folder of the bundle."""
    from raydc import train

    train.run(job.spec, data, job.run_folder, job.report, resume=resume, fork=fork)
    return job.run_folder / "model"


def search(job: Job, data: prepared.Prepared, resume: bool) -> Storage:
    """Stage sweep: returns the folder of the winner's bundle."""
    from raydc import sweep

    return sweep.run(job.spec, data, job.run_folder, job.report, resume=resume).bundle_folder


def evaluate_model(job: Job, bundle_folder: Storage, data: prepared.Prepared) -> dict[str, Any]:
    """Stage evaluate: metrics on the held-out rows, or on the validation rows where none are held out."""
    from raydc import evaluate

    split = "test" if data.num_rows.get("test") else "validation"
    metrics = evaluate.run(bundle_folder, data.folder, split)
    shown = "  ".join(
        f"{name} {value:.4f}" for name, value in metrics.items() if isinstance(value, float)
    )
    job.report(f"evaluate  {split}: {shown} ({data.num_rows[split]:,} rows)")
    job.run_folder.write_json("evaluation.json", {"split": split, **metrics})
    return metrics


def register_model(job: Job, bundle_folder: Storage, metrics: dict[str, Any]) -> int:
    """Stage register: the version number of this bundle; the same bundle keeps its version."""
    source = {"run": job.spec.name, "by": user(), "metrics": metrics}
    version = Registry(job.storage).register(job.spec.name, bundle_folder, source)
    job.report(f"register  {job.spec.name} version {version}")
    return version


def serve_model(job: Job, version: int, why: str) -> str:
    """Stage serve: the alias moves to a version and the endpoint answers with it. Returns its address."""
    from raydc import serve

    endpoint = serve.deploy(job.spec, job.storage, version=version, why=why)
    job.report(f"serve     {endpoint.url} answers as {endpoint.model} version {endpoint.version}")
    if (line := _who_may_ask(job)) is not None:
        job.report(f"          {line}")
    return endpoint.url


def _who_may_ask(job: Job) -> str | None:
    """What one should know of it; None where there is nothing to say."""
    section = job.spec.serve
    if section is None or (section.auth == "none" and section.is_local):
        return None
    if section.auth == "none":
        return f"everybody who reaches {section.host} may ask: serve.auth is none"
    there_are = any(
        not one.is_internal for one in TokenStore(job.storage, job.spec.name).read_all()
    )
    return None if there_are else "nobody may ask yet: raydc token create SPEC --name NAME"


def run(job: Job, given_text: str, resume: bool, new: bool, fork: str | None = None) -> Served:
    """All stages that the spec names; `fork` as in `load_fork`."""
    data = prepare_data(job)
    check_model(job, data)
    weights = load_fork(job, data, fork)
    resumed = begin_run(job, given_text, resume, new)
    bundle_folder = (
        search(job, data, resumed) if job.spec.sweep else train_model(job, data, resumed, weights)
    )
    metrics = evaluate_model(job, bundle_folder, data)
    version = register_model(job, bundle_folder, metrics)
    if job.spec.serve is None:
        return Served(version, metrics)
    url = serve_model(job, version, f"raydc run {job.spec.name}")
    return ask_held_out(job, data, Served(version, metrics, url))


def ask_held_out(job: Job, data: prepared.Prepared, served: Served) -> Served:
    """One real request: a held-out row, what the endpoint says of it, and what the data set says."""
    from raydc import serve

    # Golden rows are the first of the held-out rows, or of the validation rows where none are held out.
    row = data.folder.read_json("golden_rows.json")[0]
    split = "test" if data.num_rows.get("test") else "validation"
    _, y = shards.open_rows(data.folder, split).gather(np.zeros(1, dtype=np.int64))
    classes = data.features.signature.classes
    expected = classes[int(y[0])] if classes else float(data.features.unscale(y[:, None])[0])
    is_open = job.spec.serve is None or job.spec.serve.auth == "none"
    own = (
        contextlib.nullcontext()
        if is_open
        else TokenStore(job.storage, job.spec.name).temporary(user())
    )
    with own as token:
        answer = serve.predict_row(served.url or "", row, token)
    return Served(served.version, served.metrics, served.url, answer, expected)


def version_to_serve(registry: Registry, given: Spec) -> int:
    """The version that the spec's alias names, or the newest.

    Raises:
        RegistryError: The model has no version.
    """
    alias = given.serve.alias if given.serve else ""
    if alias in registry.aliases(given.name):
        return registry.resolve(given.name, alias)
    known = registry.versions(given.name)
    return (
        max(known) if known else registry.resolve(given.name, alias)
    )  # Which says that there is none.


def predict_file(job: Job, source: str, output: str) -> None:
    """Predicts every row of a file with the version that the endpoint would serve."""
    from raydc import evaluate

    registry = Registry(job.storage)
    version = version_to_serve(registry, job.spec)
    num_rows = evaluate.predict_file(registry.folder(job.spec.name, version), source, output)
    job.report(f"predict   {num_rows:,} rows with {job.spec.name} version {version} -> {output}")


def move_alias(
    given: Spec, address: str | None, alias: str | None, version: int | None, why: str
) -> str:
    """Moves an alias to a version, or back to the one before, and the endpoint with it where one is deployed.

    Args:
        given: A spec; its name, storage and `serve` section count.
        address: Ray cluster; default `RAY_ADDRESS`, else a Ray that runs on this machine, if any.
        alias: Alias to move; default `serve.alias`.
        version: Where to; None goes back.
        why: Reason, for the history.

    Returns:
        What happened, as one line.
    """
    from raydc import serve

    resolved = spec.resolve(given)
    alias = alias or (resolved.serve.alias if resolved.serve else "production")
    storage = Storage(resolved.storage)
    attached = engine.attach(address)
    if version is None:
        moved = serve.rollback(storage, resolved.name, alias, why=why, live=attached)
    else:
        moved = serve.promote(storage, resolved.name, alias, version, why=why, live=attached)
    wanted = (storage.uri, resolved.name, alias, moved)
    answers = attached and any(
        (one["storage"], one["model"], one["alias"], one["version"]) == wanted
        for one in serve.status()
    )
    follows = (
        "and the endpoint answers with it"
        if answers
        else "(no endpoint that could be found serves it)"
    )
    return f"{resolved.name}: alias {alias!r} is now version {moved} {follows}"
