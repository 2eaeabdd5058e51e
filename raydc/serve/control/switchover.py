"""Changes who answers behind an endpoint that runs, without a failed request and at one instant on all replicas.

Two declarations: the first has every replica load and prove the new versions beside the old ones; the second
names the instant from which they answer, a little ahead, so that every replica knows it before it comes. A client
that has seen the new version does not see the old one again (hosts must agree on the time, as NTP makes them do).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from raydc.errors import ServeError
from raydc.serve.control import application as application_module
from raydc.serve.control.readiness import Endpoint, wait_until_answering, wait_until_applied
from raydc.serve.settings import Settings, Traffic
from raydc.storage import Storage

# Serve tells a fifth of the replicas at a time, each within about 0.2 s.
_LEAD_S = 2.0
_LEAD_PER_REPLICA_S = 0.3

Change = Callable[[Traffic], Traffic]


def find(storage: Storage, model: str, alias: str) -> application_module.Application | None:
    """The endpoint of the connected Ray that serves this alias, or None."""
    found = application_module.find_application(model)
    if found is None:
        return None
    settings = application_module.read_settings(found)
    return found if (settings.storage, settings.alias) == (storage.uri, alias) else None


def traffic(
    storage: Storage, model: str, alias: str, change: Change, ready_timeout_s: float
) -> Traffic | None:
    """Changes the traffic of the endpoint that serves an alias.

    Args:
        storage: Where the registry is.
        model: The model.
        alias: The alias that the endpoint serves.
        change: The traffic now to the traffic wanted.
        ready_timeout_s: How long all of it may take.

    Returns:
        The traffic before; None where no such endpoint runs.

    Raises:
        ServeError: A version does not load or the time is over; what answered before answers still.
    """
    before = find(storage, model, alias)
    if before is None:
        return None
    settings = application_module.read_settings(before)
    wanted = settings.model_copy(update={"traffic": change(settings.traffic)})
    endpoint = Endpoint(
        application_module.application_url(before), model, wanted.traffic.version, alias
    )
    declared(endpoint, application_module.replace_settings(before, wanted), before, ready_timeout_s)
    return settings.traffic


def declared(
    endpoint: Endpoint,
    application: application_module.Application,
    before: application_module.Application | None,
    ready_timeout_s: float,
) -> None:
    """Declares an application and waits for it; where it fails, what was there before is declared again.

    Raises:
        ServeError: As of `traffic`; or somebody else has changed the endpoint meanwhile, and what they declared stands.
    """
    deadline = time.monotonic() + ready_timeout_s
    if application_module.read_settings(application).optimize != "none":
        deadline += _COMPILE_TIMEOUT_S
    change = _TrafficChange(endpoint, application, deadline)
    try:
        old = application_module.read_settings(before) if before is not None else None
        new = application_module.read_settings(application)
        if old is None or not _is_same_model(old, new):
            change.tell(new.model_copy(update=_AT_ONCE))
        else:
            change.shift(old.traffic, new)
        wait_until_answering(endpoint, new.traffic, deadline)
    except (
        BaseException
    ):  # Ctrl-C too: an endpoint must not change over with nobody who moves the alias.
        if change.stands():
            if before is not None:
                application_module.apply(before)
            else:
                application_module.remove(endpoint.model)
        raise


# Compilers take their time.
_COMPILE_TIMEOUT_S = 600.0
_AT_ONCE = {"staged": (), "before": None, "since_s": 0.0}


def _is_same_model(old: Settings, new: Settings) -> bool:
    return (old.storage, old.model, old.alias) == (new.storage, new.model, new.alias)


class _TrafficChange:
    """What this process has declared of an endpoint last. Serve keeps what was declared last by anybody."""

    def __init__(
        self, endpoint: Endpoint, application: application_module.Application, deadline: float
    ) -> None:
        self._endpoint = endpoint
        self._application = application
        self._deadline = deadline
        self._told: Settings | None = None

    def stands(self) -> bool:
        """Whether nobody else has declared something since."""
        found = application_module.find_application(self._endpoint.model)
        return (
            self._told is not None
            and found is not None
            and application_module.read_settings(found) == self._told
        )

    def tell(self, settings: Settings) -> int:
        """Declares these settings; returns the number of replicas once all of them hold them."""
        if self._told is not None and not self.stands():
            raise _overtaken(self._endpoint)
        self._told = settings
        application_module.apply(application_module.replace_settings(self._application, settings))

        def check() -> None:
            if not self.stands():
                raise _overtaken(self._endpoint)

        return wait_until_applied(self._endpoint, settings, self._deadline, check)

    def shift(self, old: Traffic, new: Settings) -> None:
        """Changes over in two parts."""
        staged = {"traffic": old, "staged": new.traffic.versions, "before": None, "since_s": 0.0}
        num_replicas = self.tell(new.model_copy(update=staged))
        if old == new.traffic:
            self.tell(new.model_copy(update=_AT_ONCE))
            return
        since_s = time.time() + _LEAD_S + _LEAD_PER_REPLICA_S * num_replicas
        self.tell(new.model_copy(update={"staged": (), "before": old, "since_s": since_s}))
        time.sleep(max(0.0, since_s - time.time()))


def _overtaken(endpoint: Endpoint) -> ServeError:
    return ServeError(
        f"somebody else has changed the endpoint of {endpoint.model} meanwhile, and their change stands",
        "`raydc canary SPEC` says what answers; the history in the registry says who it was. Then try again.",
    )
