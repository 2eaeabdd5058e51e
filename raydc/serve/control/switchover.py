"""Switches the versions of a running endpoint at one instant on all replicas. Runs in the driver.

A switch takes two declarations. After the first one every replica loads and verifies the new
versions while the old ones answer. The second one names the instant from which the new ones answer,
a little ahead, so that every replica knows it before it comes. No request fails, and a client that
has seen the new version does not see the old one again, if the hosts' clocks agree, as NTP keeps
them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial

from raydc.engine import interruption, serve_client
from raydc.errors import OvertakenError
from raydc.serve.control import application as application_module
from raydc.serve.control.readiness import Endpoint, wait_until_answering, wait_until_applied
from raydc.serve.settings import Settings, Traffic
from raydc.storage import Storage
from raydc.tracking import endpoint_record

# Serve passes settings to a fifth of the replicas at a time, which takes each about 0.2 s.
_LEAD_S = 2.0
_LEAD_PER_REPLICA_S = 0.3

# `serve.optimize` and vLLM compile the network in each replica, which may take minutes.
_COMPILE_TIMEOUT_S = 600.0
# Settings without a switch: they hold as soon as a replica has them.
_AT_ONCE = {"staged": (), "before": None, "since_s": 0.0}

Change = Callable[[Traffic], Traffic]
# Records a change in the registry, given the traffic before and after it.
Commit = Callable[[Traffic, Traffic], object]


def find_endpoint(
    storage: Storage, model: str, alias: str
) -> application_module.Application | None:
    """Finds the application on the connected Ray that serves an alias; None if there is none.

    Args:
        storage: Storage that holds the registry; one of another storage does not count.
        model: Name of the model in the registry.
        alias: Alias that the endpoint must serve; another alias of the model does not count.
    """
    found = application_module.find_application(model)
    if found is None:
        return None
    settings = application_module.read_settings(found)
    return found if (settings.storage, settings.alias) == (storage.uri, alias) else None


def change_traffic(
    storage: Storage,
    model: str,
    alias: str,
    change: Change,
    ready_timeout_s: float,
    commit: Commit,
    afterwards: Commit | None = None,
) -> tuple[str, Traffic] | None:
    """Changes the traffic of the endpoint that serves an alias.

    Args:
        storage: Storage that holds the registry.
        model: Name of the model in the registry.
        alias: The alias that the endpoint serves.
        change: Maps the current traffic to the wanted one.
        ready_timeout_s: Time limit for loading, switching and the first answer together.
        commit: Records the change when the endpoint answers; an error takes the change back.
        afterwards: Records what ended with the change; an error does not take it back.

    Returns:
        Address of the endpoint and the traffic before; None if no such endpoint runs, in which
        case nothing was recorded.

    Raises:
        ServeError: A version does not load or the time is up. The versions before still answer.
        OvertakenError: Another command has changed the endpoint or the registry meanwhile.
    """
    before = find_endpoint(storage, model, alias)
    if before is None:
        return None
    settings = application_module.read_settings(before)
    wanted = settings.model_copy(update={"traffic": change(settings.traffic)})
    endpoint = Endpoint(
        application_module.application_url(before), model, wanted.traffic.version, alias
    )
    application = application_module.replace_settings(before, wanted)
    apply_and_wait(
        endpoint,
        application,
        before,
        ready_timeout_s,
        lambda: commit(settings.traffic, wanted.traffic),
        partial(afterwards, settings.traffic, wanted.traffic) if afterwards else None,
    )
    return endpoint.url, settings.traffic


def apply_and_wait(
    endpoint: Endpoint,
    application: application_module.Application,
    before: application_module.Application | None,
    ready_timeout_s: float,
    commit: Callable[[], object],
    afterwards: Callable[[], object] | None = None,
) -> None:
    """Declares an application, waits until it answers, and records it.

    A failure on the way declares the old application again. A signal takes the change back until
    it is recorded; from then on it stands.

    Args:
        endpoint: The endpoint as it should be.
        application: The application to declare.
        before: The application that runs; None for a new endpoint.
        ready_timeout_s: Time limit for loading, switching and the first answer together.
        commit: Records the change in the registry; if it raises, nothing was recorded.
        afterwards: Records what ended with the change; if it raises, the change stands.

    Raises:
        ServeError: A version does not load or the time is up, and the versions before still
            answer.
        OvertakenError: Somebody else has changed the endpoint or the registry meanwhile, and their
            change stands.
    """
    deadline = time.monotonic() + ready_timeout_s
    asked = application_module.read_settings(application)
    if asked.optimize != "none" or asked.engine == "vllm":
        deadline += _COMPILE_TIMEOUT_S
    declaration = _Declaration(endpoint, application, deadline)
    old = application_module.read_settings(before) if before is not None else None
    new = application_module.read_settings(application)
    notes = _Notes(endpoint, Storage(new.storage))
    is_recorded = False
    try:
        # Before the first declaration: if this process is killed, the change that began is known.
        notes.begin(old.traffic if old else None, new.traffic)
        # A new endpoint, or one of another model, has no old version that could answer meanwhile.
        if old is None or not _is_same_model(old, new):
            declaration.apply(new.model_copy(update=_AT_ONCE))
        else:
            declaration.switch_over(old.traffic, new)
        wait_until_answering(endpoint, new.traffic, deadline)
        declaration.require_current()
        # A signal in here would take back what is recorded, or lose what belongs to it.
        with interruption.deferred():
            commit()
            is_recorded = True
            notes.end(new.traffic)
            if afterwards is not None:
                afterwards()
    # After Ctrl-C, too: the endpoint must not switch if no process is left to move the alias.
    except BaseException as error:
        if not is_recorded and not declaration.is_replaced(old):
            declaration.take_back(before)
            notes.undo()
            error.add_note(f"the change of {endpoint.url} was taken back")
        raise
    interruption.raise_received(
        f"the change of {endpoint.url} {_describe(new.traffic)} is made and recorded"
    )


class _Notes:
    """The record of an endpoint in the store, kept true through a change.

    Args:
        endpoint: Endpoint that changes.
        storage: Storage that holds the registry, and the record.
    """

    def __init__(self, endpoint: Endpoint, storage: Storage) -> None:
        self._endpoint = endpoint
        self._storage = storage
        self._before = endpoint_record.read_record(storage, endpoint.model, endpoint.alias)

    def begin(self, old: Traffic | None, new: Traffic) -> None:
        """Notes that a change begins. Raises OSError, and then nothing has changed yet."""
        self._write((old or new).version, _describe(new))

    def end(self, new: Traffic) -> None:
        """Notes what the endpoint answers with from now on."""
        # The change itself is recorded; a note that cannot be written must not undo it.
        with contextlib.suppress(OSError):
            self._write(new.version)

    def undo(self) -> None:
        """Restores the note from before the change."""
        model, alias = self._endpoint.model, self._endpoint.alias
        with contextlib.suppress(OSError):
            if self._before is None:
                endpoint_record.remove_record(self._storage, model, alias)
            else:
                endpoint_record.write_record(self._storage, model, self._before)

    def _write(self, version: int, change: str | None = None) -> None:
        record = endpoint_record.make_record(
            self._endpoint.alias, self._endpoint.url, serve_client.ray_address(), version, change
        )
        endpoint_record.write_record(self._storage, self._endpoint.model, record)


def _describe(traffic: Traffic) -> str:
    sides = (("canary", traffic.canary), ("shadow", traffic.shadow))
    beside = [f"{name} {one.version} ({one.fraction:g})" for name, one in sides if one is not None]
    return ", ".join([f"to version {traffic.version}", *beside])


def put_application(application: application_module.Application) -> None:
    """Declares an application, and leaves the others that Serve runs as they are."""
    others = [one for one in serve_client.applications() if one["name"] != application["name"]]
    # Serve removes applications that a declaration leaves out.
    serve_client.apply([*others, application])


def _is_same_model(old: Settings, new: Settings) -> bool:
    return (old.storage, old.model, old.alias) == (new.storage, new.model, new.alias)


class _Declaration:
    """The settings that this process declared last for an endpoint.

    Serve keeps whatever was declared last, by any process; this notices if another one did.

    Args:
        endpoint: Endpoint whose application is declared and queried.
        application: Its application; the settings in it are replaced.
        deadline: Value of `time.monotonic()` at which all waiting ends.
    """

    def __init__(
        self, endpoint: Endpoint, application: application_module.Application, deadline: float
    ) -> None:
        self._endpoint = endpoint
        self._application = application
        self._deadline = deadline
        self._settings: Settings | None = None

    def is_current(self) -> bool:
        """Whether the declaration is still in force and no other process has replaced it."""
        found = application_module.find_application(self._endpoint.model)
        return (
            self._settings is not None
            and found is not None
            and application_module.read_settings(found) == self._settings
        )

    def require_current(self) -> None:
        """Raises OvertakenError if another process has replaced the declaration."""
        if not self.is_current():
            model = self._endpoint.model
            raise OvertakenError(
                f"somebody else has changed the endpoint of {model} meanwhile, and their change "
                "stands",
                "`raydc canary SPEC` shows the versions that answer; the history in the registry "
                "says who it was. Then try again.",
            )

    def is_replaced(self, old: Settings | None) -> bool:
        """Whether another process has declared something since: neither this change nor `old`."""
        found = application_module.find_application(self._endpoint.model)
        now = application_module.read_settings(found) if found is not None else None
        return now not in (old, self._settings)

    def take_back(self, before: application_module.Application | None) -> None:
        """Declares the application from before, if this process has declared anything.

        Args:
            before: None removes the application, which was not there.
        """
        if self._settings is None:
            return
        if before is not None:
            put_application(before)
        else:
            application_module.remove(self._endpoint.model)

    def apply(self, settings: Settings) -> int:
        """Declares settings and waits until all replicas hold them; returns their number."""
        if self._settings is not None:
            self.require_current()
        self._settings = settings
        put_application(application_module.replace_settings(self._application, settings))
        return wait_until_applied(self._endpoint, settings, self._deadline, self.require_current)

    def switch_over(self, old: Traffic, new: Settings) -> None:
        """Loads the versions of `new` while `old` answers, then switches at one instant."""
        staged = {"traffic": old, "staged": new.traffic.versions, "before": None, "since_s": 0.0}
        num_replicas = self.apply(new.model_copy(update=staged))
        # Only limits have changed: no instant is needed, and none is waited for.
        if old == new.traffic:
            self.apply(new.model_copy(update=_AT_ONCE))
            return
        since_s = time.time() + _LEAD_S + _LEAD_PER_REPLICA_S * num_replicas
        self.apply(new.model_copy(update={"staged": (), "before": old, "since_s": since_s}))
        # The caller moves the alias when this returns, so the switch must be over.
        time.sleep(max(0.0, since_s - time.time()))
