"""Moves an alias together with the endpoint that serves it. Runs in the driver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from raydc.registry import Registry
from raydc.serve.control import switchover
from raydc.serve.control.exclusive_change import hold_change
from raydc.serve.control.traffic_history import record_changes
from raydc.serve.settings import Traffic
from raydc.storage import Storage

_READY_TIMEOUT_S = 180.0


@dataclass(frozen=True)
class Moved:
    """What a promote or a rollback did.

    Attributes:
        version: The version of the alias from now on.
        url: Address of the endpoint that followed; None if none did.
    """

    version: int
    url: str | None


def promote(
    storage: Storage,
    model: str,
    alias: str,
    version: int,
    *,
    who: str = "",
    why: str = "",
    live: bool = True,
    after: int | None = None,
    ready_timeout_s: float = _READY_TIMEOUT_S,
) -> Moved:
    """Points an alias at a version, once an endpoint that serves the alias answers with it.

    Args:
        storage: Storage that holds the registry.
        model: Name of the model in the registry.
        alias: An alias of the model; it is made if it is new.
        version: Number of the version that the alias will point to.
        who: Author of the change, for the history.
        why: Reason of the change, for the history.
        live: Whether a Ray is connected. If not, only the alias moves.
        after: `Registry.history_number` on which the user has decided; None takes the one of now.
        ready_timeout_s: Time limit until the endpoint answers with the version.

    Raises:
        RegistryError: There is no such model or version.
        ServeError: The version did not load. The alias has not moved, and the old version answers.
        OvertakenError: Another command has changed the model meanwhile, and that stands.
    """
    registry = Registry(storage)
    # Raises if there is no such version.
    registry.folder(model, version)
    number = registry.history_number(model) if after is None else after
    with hold_change(storage, model, number) as held:
        write = partial(held.set_alias, model, alias, version, who, why)
        return _move(held, model, alias, version, write, live, ready_timeout_s, who, why)


def rollback(
    storage: Storage,
    model: str,
    alias: str,
    *,
    who: str = "",
    why: str = "",
    live: bool = True,
    after: int | None = None,
    ready_timeout_s: float = _READY_TIMEOUT_S,
) -> Moved:
    """Undoes the last move of an alias; an endpoint that serves the alias follows.

    Args:
        storage: Storage that holds the registry.
        model: Name of the model in the registry.
        alias: The alias to move back.
        who: Author of the change, for the history.
        why: Reason of the change, for the history.
        live: Whether a Ray is connected. If not, only the alias moves.
        after: `Registry.history_number` on which the user has decided; None takes the one of now.
        ready_timeout_s: Time limit until the endpoint answers with the version.

    Raises:
        RegistryError: There is nothing to go back to.
        ServeError: The older version did not load; nothing has changed.
        OvertakenError: Another command has changed the model meanwhile, and that stands.
    """
    registry = Registry(storage)
    number = registry.history_number(model) if after is None else after
    # Raises if there is no such alias, or nothing to go back to.
    version = registry.previous(model, alias)
    with hold_change(storage, model, number) as held:
        write = partial(held.rollback, model, alias, who, why)
        return _move(held, model, alias, version, write, live, ready_timeout_s, who, why)


def _move(
    registry: Registry,
    model: str,
    alias: str,
    version: int,
    write: Callable[[], object],
    live: bool,
    ready_timeout_s: float,
    who: str,
    why: str,
) -> Moved:
    """Changes the endpoint that serves the alias, if there is one, and records the move.

    Its canary ends.
    """

    def change(now: Traffic) -> Traffic:
        # A shadow stays, unless it is the version that now answers.
        shadow = now.shadow if now.shadow and now.shadow.version != version else None
        return Traffic(version=version, shadow=shadow)

    found = (
        switchover.change_traffic(
            registry.storage,
            model,
            alias,
            change,
            ready_timeout_s,
            lambda _before, _after: write(),
            # The move is the change as a whole: these only say what ended with it.
            lambda before, now: record_changes(
                Registry(registry.storage), model, alias, before, now, who, why
            ),
        )
        if live
        else None
    )
    if found is None:
        write()
        return Moved(version, None)
    return Moved(version, found[0])
