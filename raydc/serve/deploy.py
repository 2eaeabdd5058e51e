"""Puts a version behind an endpoint, changes it, and proves that every replica answers with it.

Everything goes through Serve's declarative configuration. `serve.run` would restart the replicas, and a
controller that recovers would silently put back what was declared before it.
"""

from __future__ import annotations

import time
from typing import Any

from raydc import checkpoint, serving
from raydc.errors import ServeError
from raydc.registry import Registry
from raydc.serve import declare
from raydc.serve.app import DEPLOYMENT
from raydc.serve.ready import Endpoint, wait_until_served
from raydc.spec.sections import Serve, Spec
from raydc.storage import Storage

READY_TIMEOUT_S = 180.0


def deploy(
    spec: Spec,
    storage: Storage,
    version: int | None = None,
    *,
    who: str = "",
    why: str = "",
    ready_timeout_s: float = READY_TIMEOUT_S,
) -> Endpoint:
    """Serves a model on the connected Ray: waits for its answer, then moves the alias of `spec.serve`.

    A model that is deployed already is changed in place, its endpoint stays. Other applications of the cluster's
    Serve are left alone.

    Args:
        spec: A resolved spec with a section `serve`.
        storage: Where its registry is.
        version: Version to serve. Default: the one that the alias stands for.
        who: For the history of the alias.
        why: The same.
        ready_timeout_s: How long the endpoint may take to answer with the version.

    Raises:
        RegistryError: There is no such version, or the alias stands for none.
        CheckpointError: The version does not verify.
        ServeError: The port is taken, or the endpoint does not answer with the version; the alias has not moved,
            and an endpoint that was there answers as before.
    """
    section = spec.serve or Serve()
    registry = Registry(storage)
    if version is None:
        version = registry.resolve(spec.name, section.alias)
    checkpoint.read_artefact(registry.folder(spec.name, version))
    host, port = declare.listen(section)
    applications = serving.applications()
    before = declare.find(applications, spec.name)
    prefix = before["route_prefix"] if before else declare.free_prefix(applications, spec.name)
    settings = declare.settings_for(spec.name, section, storage, version)
    endpoint = Endpoint(declare.url_of(host, port, prefix), spec.name, version, section.alias)
    _change(endpoint, declare.application_for(section, settings, prefix), before, ready_timeout_s)
    registry.set_alias(spec.name, section.alias, version, who, why)
    return endpoint


def promote(
    storage: Storage,
    model: str,
    alias: str,
    version: int,
    *,
    who: str = "",
    why: str = "",
    live: bool = True,
    ready_timeout_s: float = READY_TIMEOUT_S,
) -> int:
    """Points an alias at a version; an endpoint that serves the alias answers with it before the alias moves.

    Args:
        storage: Where the registry is.
        model: The model.
        alias: The alias to move.
        version: Where to.
        who: For the history.
        why: The same.
        live: False when no Ray is connected: the alias moves, and that is all.
        ready_timeout_s: How long the endpoint may take.

    Returns:
        The version.

    Raises:
        RegistryError: There is no such model or version.
        ServeError: The version did not load. The alias has not moved, and the old version answers.
    """
    registry = Registry(storage)
    registry.folder(model, version)
    if live:
        _swap(storage, model, alias, version, ready_timeout_s)
    registry.set_alias(model, alias, version, who, why)
    return version


def rollback(
    storage: Storage,
    model: str,
    alias: str,
    *,
    who: str = "",
    why: str = "",
    live: bool = True,
    ready_timeout_s: float = READY_TIMEOUT_S,
) -> int:
    """Takes back the last move of an alias; an endpoint that serves it follows. Arguments as of `promote`.

    Returns:
        The version that the alias stands for now.

    Raises:
        RegistryError: There is nothing to go back to.
        ServeError: The older version did not load; nothing has changed.
    """
    registry = Registry(storage)
    if live:
        _swap(storage, model, alias, registry.previous(model, alias), ready_timeout_s)
    return registry.rollback(model, alias, who, why)


def _swap(storage: Storage, model: str, alias: str, version: int, ready_timeout_s: float) -> None:
    """Changes the endpoint that serves this alias, where there is one."""
    before = declare.find(serving.applications(), model)
    if before is None:
        return
    deployment = before["deployments"][0]
    settings = deployment["user_config"]
    if (settings["storage"], settings["alias"]) != (storage.uri, alias):
        return
    changed = {**deployment, "user_config": {**settings, "version": version}}
    url = declare.url_of(*serving.address(), before["route_prefix"])
    endpoint = Endpoint(url, model, version, alias)
    _change(endpoint, {**before, "deployments": [changed]}, before, ready_timeout_s)


def _change(
    endpoint: Endpoint, application: declare.Application, before: declare.Application | None, ready_timeout_s: float
) -> None:
    """Declares an application and waits for it; where it fails, what was there before is declared again."""
    try:
        declare.apply(application)
        wait_until_served(endpoint, application, ready_timeout_s)
    except ServeError:
        if before is not None:
            declare.apply(before)
        else:
            shutdown(endpoint.model)
        raise


def status() -> list[dict[str, Any]]:
    """What raydc serves on the connected Ray: name, status, url, model, alias, storage, version, replicas."""
    from ray import serve

    applications = [one for one in serving.applications() if one["import_path"] == declare.IMPORT_PATH]
    if not applications:
        return []
    address = serving.address()
    running = serve.status().applications
    shown = []
    for application in applications:
        settings = application["deployments"][0]["user_config"]
        state = running.get(application["name"])
        shown.append(
            {
                "app_name": application["name"],
                "url": declare.url_of(*address, application["route_prefix"]),
                "model": settings["model"],
                "alias": settings["alias"],
                "storage": settings["storage"],
                "version": settings["version"],
                "status": state.status.value if state else "UNKNOWN",
                "replicas": sum(state.deployments[DEPLOYMENT].replica_states.values())
                if state and DEPLOYMENT in state.deployments
                else 0,
            }
        )
    return shown


def wait(poll_interval_s: float = 2.0) -> None:
    """Returns when raydc serves nothing any more on the connected Ray."""
    while any(application["import_path"] == declare.IMPORT_PATH for application in serving.applications()):
        time.sleep(poll_interval_s)


def shutdown(model: str | None = None) -> None:
    """Takes down the endpoint of a model, or every endpoint of raydc; Serve itself when nothing else runs on it."""
    from ray import serve

    applications = serving.applications()
    kept = [
        one for one in applications if one["import_path"] != declare.IMPORT_PATH or model not in (None, one["name"])
    ]
    if kept:
        serving.apply(kept)
    elif applications:
        serve.shutdown()
