"""Actions of the endpoint commands: choose a version, move an alias, stop. In the driver."""

from __future__ import annotations

from collections.abc import Iterator

from raydc import engine, spec
from raydc.errors import ServeError
from raydc.job import Job
from raydc.registry import Registry
from raydc.spec import ResolvedSpec, Spec
from raydc.spec.sections import Serve
from raydc.storage import Storage


def alias_of(given: Spec) -> str:
    """The alias that a spec serves; the default one if it has no section `serve`."""
    return (given.serve or Serve()).alias


def version_to_serve(registry: Registry, given: Spec) -> int:
    """The version that the spec's alias stands for, or the newest.

    Args:
        registry: The registry of the spec's storage.
        given: Spec with the name of the model and, in `serve`, its alias.

    Raises:
        RegistryError: The model has no version.
    """
    alias = given.serve.alias if given.serve else ""
    if alias in registry.aliases(given.name):
        return registry.resolve(given.name, alias)
    known = registry.versions(given.name)
    # Without a version, `resolve` raises the error that lists what exists.
    return max(known) if known else registry.resolve(given.name, alias)


def predict_file(job: Job, source: str, output: str) -> None:
    """Predicts every row of a file with the version that the endpoint would serve.

    Args:
        job: Connection to Ray, and the storage with the registered model.
        source: A csv, parquet or jsonl file, or a folder of them.
        output: A file that ends with .csv, .parquet or .jsonl.
    """
    from raydc import evaluate

    registry = Registry(job.storage)
    version = version_to_serve(registry, job.spec)
    num_rows = evaluate.predict_file(registry.folder(job.spec.name, version), source, output)
    job.report(f"predict   {num_rows:,} rows with {job.spec.name} version {version} -> {output}")


def move_alias(
    given: Spec, address: str | None, alias: str | None, version: int | None, why: str
) -> str:
    """Moves an alias to a version, or undoes its last move. An endpoint that serves it follows.

    Args:
        given: A spec, for its name, storage and section `serve`.
        address: Ray cluster; None takes RAY_ADDRESS, else a Ray that runs on this machine, if any.
        alias: Alias to move; None takes `serve.alias`.
        version: The version; None undoes the last move.
        why: Reason, for the history.

    Returns:
        What happened, as one line.
    """
    from raydc import serve

    resolved = spec.resolve(given)
    alias = alias or alias_of(resolved)
    storage = Storage(resolved.storage)
    # Without a Ray no endpoint can follow, and only the alias moves.
    attached = engine.attach(address)
    if version is None:
        moved = serve.rollback(storage, resolved.name, alias, why=why, live=attached)
    else:
        moved = serve.promote(storage, resolved.name, alias, version, why=why, live=attached)
    # The endpoint may serve another alias of the model, which does not move.
    wanted = (storage.uri, resolved.name, alias, moved)
    answers = attached and any(
        (one["storage"], one["model"], one["alias"], one["version"]) == wanted
        for one in serve.status()
    )
    follows = "and the endpoint answers with it" if answers else "(no running endpoint serves it)"
    return f"{resolved.name}: alias {alias!r} is now version {moved} {follows}"


def stop_endpoints(given: ResolvedSpec | None) -> Iterator[str]:
    """Takes endpoints of the connected Ray down; other applications on it stay.

    Args:
        given: A spec, whose endpoint is stopped; None stops every endpoint of raydc.

    Yields:
        A line for each endpoint that is down, and one for those that are still up.

    Raises:
        ServeError: There is no such endpoint, or it serves another storage.
    """
    from raydc import serve

    running = serve.status()
    chosen = running if given is None else [one for one in running if one["model"] == given.name]
    if not chosen:
        names = ", ".join(one["model"] for one in running)
        what = "raydc serves nothing" if given is None else f"no endpoint serves {given.name}"
        raise ServeError(
            f"{what} on this Ray",
            f"It serves: {names}." if names else "`raydc serve SPEC` starts an endpoint.",
        )
    for one in chosen:
        # Two storages may have a model of one name; the spec must not stop somebody else's.
        if given is not None and one["storage"] != Storage(given.storage).uri:
            raise ServeError(
                f"the endpoint of {given.name} on this Ray serves {one['storage']}, and the spec "
                f"says {Storage(given.storage).uri}",
                f"Name its storage to stop it: --set storage={one['storage']}",
            )
    # All were checked before the first one stops.
    for one in chosen:
        serve.stop(one)
        yield f"stopped   {one['url']}: {one['model']} version {one['version']}"
    left = [f"{one['model']} at {one['url']}" for one in serve.status()]
    if left:
        yield f"          still up: {', '.join(left)}"
