"""Operations on an endpoint, in the driver's process: deploy, show, wait, shut down.

Everything goes through Serve's declarative configuration. `serve.run` would restart the replicas,
and a controller that recovers would silently restore what was declared before it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from raydc import checksummed_folder
from raydc.engine import interruption, serve_client
from raydc.errors import ServeError
from raydc.registry import Registry
from raydc.serve.app import DEPLOYMENT
from raydc.serve.control import application as application_module
from raydc.serve.control import switchover
from raydc.serve.control.exclusive_change import hold_change
from raydc.serve.control.readiness import Endpoint
from raydc.serve.control.traffic_history import record_changes
from raydc.serve.settings import Traffic
from raydc.spec import ResolvedSpec
from raydc.spec.language import LANGUAGE
from raydc.spec.sections import Serve
from raydc.storage import Storage
from raydc.tracking.endpoint_record import remove_record

READY_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 120.0


def deploy(
    spec: ResolvedSpec,
    storage: Storage,
    version: int | None = None,
    *,
    who: str = "",
    why: str = "",
    ready_timeout_s: float = READY_TIMEOUT_S,
) -> Endpoint:
    """Serves a model on the connected Ray: waits for its answer, then moves the spec's alias.

    A deployed model is changed in place and keeps its address. Other applications of the same
    Serve are not touched.

    Args:
        spec: A resolved spec with a section `serve`.
        storage: Storage that holds the registry.
        version: Version to serve. Default: the version of the alias.
        who: Author of the change, for the history of the alias.
        why: Reason of the change, for the history of the alias.
        ready_timeout_s: Time limit until the endpoint answers with the version.

    Raises:
        RegistryError: There is no such version, or the alias has none.
        CheckpointError: The version does not verify.
        ServeError: The port is taken, or the endpoint does not answer with the version. The alias
            has not moved, and an endpoint that was there answers as before.
        OvertakenError: Another command has changed the model meanwhile, and that stands.
    """
    section = spec.serve or Serve()
    registry = Registry(storage)
    number = registry.history_number(spec.name)
    if version is None:
        version = registry.resolve(spec.name, section.alias)
    # Verified here, so that a damaged version fails before any process starts.
    checksummed_folder.read_checksummed(registry.folder(spec.name, version))
    with hold_change(storage, spec.name, number) as held:
        return _deploy(spec, section, held, version, who, why, ready_timeout_s)


def _deploy(
    spec: ResolvedSpec,
    section: Serve,
    registry: Registry,
    version: int,
    who: str,
    why: str,
    ready_timeout_s: float,
) -> Endpoint:
    storage = registry.storage
    host, port = application_module.listen(section)
    applications = serve_client.applications()
    before = application_module.find_in(applications, spec.name)
    prefix = (
        before["route_prefix"]
        if before
        else application_module.choose_route_prefix(applications, spec.name)
    )
    found = switchover.find_endpoint(storage, spec.name, section.alias)
    running = application_module.read_settings(found).traffic if found else None
    # The same version keeps its canary and shadow; for another version both end.
    traffic = running if running and running.version == version else Traffic(version=version)
    settings = application_module.build_settings(spec.name, section, storage, traffic)
    endpoint = Endpoint(
        application_module.endpoint_url(host, port, prefix), spec.name, version, section.alias
    )
    switchover.apply_and_wait(
        endpoint,
        application_module.build_application(
            section, settings, prefix, has_streams=spec.data.task == LANGUAGE
        ),
        before,
        ready_timeout_s,
        lambda: registry.set_alias(spec.name, section.alias, version, who, why),
        lambda: record_changes(
            Registry(storage), spec.name, section.alias, running or traffic, traffic, who, why
        ),
    )
    return endpoint


def status() -> list[dict[str, Any]]:
    """Lists the endpoints of raydc on the connected Ray, a dict of plain values for each."""
    from ray import serve

    applications = [
        one
        for one in serve_client.applications()
        if one["import_path"] == application_module.IMPORT_PATH
    ]
    if not applications:
        return []
    address = serve_client.address()
    running = serve.status().applications
    shown = []
    for application in applications:
        settings = application_module.read_settings(application)
        state = running.get(application["name"])
        shown.append(
            {
                "app_name": application["name"],
                "url": application_module.endpoint_url(*address, application["route_prefix"]),
                "model": settings.model,
                "alias": settings.alias,
                "storage": settings.storage,
                "version": settings.traffic.version,
                "canary": settings.traffic.canary,
                "shadow": settings.traffic.shadow,
                "status": state.status.value if state else "UNKNOWN",
                "replicas": sum(state.deployments[DEPLOYMENT].replica_states.values())
                if state and DEPLOYMENT in state.deployments
                else 0,
            }
        )
    return shown


def wait(poll_interval_s: float = 2.0) -> None:
    """Blocks until raydc serves nothing on the connected Ray.

    Args:
        poll_interval_s: Seconds between two checks.
    """
    from ray import serve

    seen: set[str] = set()
    while True:
        declared = {
            application["name"]
            for application in serve_client.applications()
            if application["import_path"] == application_module.IMPORT_PATH
        }
        seen |= declared
        # An application is undeclared before its replicas have answered their last requests.
        if not declared and not seen & set(serve.status().applications):
            return
        time.sleep(poll_interval_s)


def shutdown(model: str | None = None) -> None:
    """Takes down the endpoint of a model, or with None every endpoint of raydc.

    Serve itself is shut down if no application is left.
    """
    application_module.remove(model)


def stop(running: Mapping[str, Any], timeout_s: float = STOP_TIMEOUT_S) -> None:
    """Takes one endpoint down, and returns when its replicas are gone.

    Args:
        running: Description of the endpoint, one entry of what `status` returns.
        timeout_s: How long Serve may take to remove it; requests in flight end first.

    Raises:
        ServeError: It is still there.
    """
    from ray import serve

    model = running["model"]
    note = f"the endpoint of {model} is taken down"
    try:
        # A record must not outlive its endpoint.
        with interruption.deferred():
            shutdown(model)
            _record_end(running)
    except KeyboardInterrupt as error:
        # Requests in progress took longer than the time left; Serve goes on without this process.
        _record_end(running)
        error.add_note(note)
        raise
    interruption.raise_received(note)
    deadline = time.monotonic() + timeout_s
    while model in serve.status().applications:
        if time.monotonic() > deadline:
            raise ServeError(
                f"the endpoint of {model} has not ended within {timeout_s:g} s",
                "Requests in flight end first; `serve status` shows its state.",
            )
        time.sleep(0.2)


def _record_end(running: Mapping[str, Any]) -> None:
    """Removes the record of an endpoint that ends, and notes what ends with it."""
    model, alias, storage = running["model"], running["alias"], Storage(running["storage"])
    remove_record(storage, model, alias, serve_client.ray_address())
    # A canary or shadow that ended with its endpoint must not look in use for ever.
    before = Traffic(version=running["version"], canary=running["canary"], shadow=running["shadow"])
    after = Traffic(version=running["version"])
    record_changes(Registry(storage), model, alias, before, after, "", "endpoint stopped")
