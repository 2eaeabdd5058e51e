"""Actions of the endpoint commands: choose a version, move an alias, stop. In the driver."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from raydc import engine, spec
from raydc.cli.endpoint_search import attach_to_endpoint
from raydc.errors import ServeError
from raydc.registry import Registry
from raydc.run_context import RunContext
from raydc.spec import ResolvedSpec, Spec
from raydc.spec.language import LANGUAGE
from raydc.spec.sections import Serve
from raydc.storage import Storage
from raydc.tracking.endpoint_record import remove_record


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


@contextlib.contextmanager
def own_endpoint(context: RunContext) -> Iterator[None]:
    """Ends the local Ray of a run after the block, and the record of its endpoint before that.

    However the block ends: nobody must look for an endpoint that ended with its Ray. A cluster
    keeps its endpoints.
    """
    try:
        yield
    finally:
        if context.is_connected and context.engine.local:
            remove_record(
                context.storage, context.spec.name, alias_of(context.spec), context.engine.address
            )
    if context.is_connected and context.engine.local:
        engine.disconnect()


def predict_file(context: RunContext, source: str, output: str, asked: Mapping[str, Any]) -> None:
    """Predicts every row of a file with the version that the endpoint would serve.

    Args:
        context: Connection to Ray, and the storage with the registered model.
        source: A csv, parquet or jsonl file, or a folder of them.
        output: A file that ends with .csv, .parquet or .jsonl.
        asked: Fields of `evaluate.CompletionOptions` that were given; those that are not are the
            defaults, with the slots, threads and limits of the endpoint.
    """
    from raydc import evaluate

    registry = Registry(context.storage)
    version = version_to_serve(registry, context.spec)
    folder = registry.folder(context.spec.name, version)
    completions = None
    if asked or context.spec.data.task == LANGUAGE:
        section = context.spec.serve or Serve()
        completions = evaluate.CompletionOptions(
            generation=section.generation, num_threads=section.num_threads, **asked
        )
    num_rows = evaluate.predict_file(
        folder, source, output, context.report, context.connect, completions
    )
    context.report(
        f"predict   {num_rows:,} rows with {context.spec.name} version {version} -> {output}"
    )


def move_alias(
    given: Spec, address: str | None, alias: str | None, version: int | None, why: str
) -> str:
    """Moves an alias to a version, or undoes its last move. An endpoint that serves it follows.

    Args:
        given: A spec, for its name, storage and section `serve`.
        address: Ray cluster; None takes RAY_ADDRESS, else the Ray that serves the alias.
        alias: Alias to move; None takes `serve.alias`.
        version: The version; None undoes the last move.
        why: Reason, for the history.

    Returns:
        What happened, as one line.

    Raises:
        OvertakenError: Another command has changed the model meanwhile.
    """
    from raydc import serve

    resolved = spec.resolve(given)
    alias = alias or alias_of(resolved)
    storage = Storage(resolved.storage)
    # Before the search, which takes seconds: what changes from now on was not known to the user.
    after = Registry(storage).history_number(resolved.name)
    found = attach_to_endpoint(storage, resolved.name, alias, address)
    # Without a Ray no endpoint can follow, and only the alias moves.
    if version is None:
        moved = serve.rollback(
            storage, resolved.name, alias, why=why, live=found.attached, after=after
        )
    else:
        moved = serve.promote(
            storage, resolved.name, alias, version, why=why, live=found.attached, after=after
        )
    # What the change itself saw: a look at the endpoint now could already see the next change.
    follows = "and the endpoint answers with it" if moved.url else f"({found.reason})"
    return f"{resolved.name}: alias {alias!r} is now version {moved.version} {follows}"


def find_endpoint_to_stop(given: ResolvedSpec, address: str | None) -> None:
    """Attaches to the Ray of a spec's endpoint.

    Args:
        given: A spec, for its name, storage and alias.
        address: Ray cluster; None takes RAY_ADDRESS, else the Ray that serves the alias.

    Raises:
        ServeError: There is no endpoint. A record of one that is gone is removed.
    """
    storage, alias = Storage(given.storage), alias_of(given)
    found = attach_to_endpoint(storage, given.name, alias, address)
    if found.gone is not None:
        remove_record(storage, given.name, alias, found.gone.ray_address)
        raise ServeError(
            f"no endpoint serves {given.name}: the one at {found.gone.url} is gone already",
            "Its record in the store was removed; `raydc serve SPEC` starts an endpoint.",
        )
    if not found.attached:
        raise ServeError(
            "no Ray is running here, so there is no endpoint",
            "Give --address of the cluster that serves it, or start it: raydc serve SPEC",
        )


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
