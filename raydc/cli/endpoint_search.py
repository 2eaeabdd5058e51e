"""Finds the Ray on which an endpoint runs, by its record in the store. Runs in the command.

Several Rays may run on one machine, and Ray itself attaches to the newest. A command that changes
an endpoint must reach the one that serves it, or say that none does.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from raydc import engine
from raydc.errors import ClusterError, ServeError
from raydc.storage import Storage
from raydc.tracking import endpoint_record
from raydc.tracking.endpoint_record import EndpointRecord

_CONNECT_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class Search:
    """Where an endpoint was looked for.

    Attributes:
        attached: Whether a Ray is connected now.
        gone: What the record says about an endpoint that is not there any more; None without one.
    """

    attached: bool
    gone: EndpointRecord | None = None

    @property
    def reason(self) -> str:
        """Why no endpoint follows a change, for a message."""
        if self.gone is None:
            return "no running endpoint serves it"
        # A loopback address in a shared store may be that of another machine.
        return (
            f"no endpoint follows it: the one at {self.gone.url}, set by {self.gone.by}, is gone "
            "or cannot be reached from here"
        )


def attach_to_endpoint(storage: Storage, model: str, alias: str, address: str | None) -> Search:
    """Attaches to the Ray that serves an alias.

    Args:
        storage: Storage that holds the registry and the records of endpoints.
        model: Name of the model in the registry.
        alias: Alias that the endpoint serves.
        address: Ray cluster; None takes RAY_ADDRESS, else the Ray of the record in the store, else
            a Ray that runs on this machine, if any.

    Raises:
        ClusterError: There is no cluster at the address that was given.
        ServeError: The endpoint answers, but it is not on that Ray, or its Ray cannot be reached.
    """
    record = endpoint_record.read_record(storage, model, alias)
    given = address or os.environ.get("RAY_ADDRESS")
    if record is None:
        return Search(engine.attach(address))
    if given:
        engine.attach(address)
        if _is_served_here(storage, model, alias):
            return Search(attached=True)
        _refuse_if_alive(record, model, f"and not on the one at {given}")
        return Search(attached=True, gone=record)
    try:
        if not _listens(record.ray_address):
            raise ClusterError(f"no Ray at {record.ray_address}")
        engine.attach(record.ray_address)
    except ClusterError as error:
        _refuse_if_alive(record, model, f"which cannot be reached: {error.message}")
        return Search(attached=False, gone=record)
    if _is_served_here(storage, model, alias):
        return Search(attached=True)
    return Search(attached=True, gone=record)


def _is_served_here(storage: Storage, model: str, alias: str) -> bool:
    from raydc.serve.control import switchover

    return switchover.find_endpoint(storage, model, alias) is not None


def _refuse_if_alive(record: EndpointRecord, model: str, where: str) -> None:
    """Raises ServeError if the endpoint of a record answers: the alias must not move alone."""
    from raydc.serve.control import recorded_endpoint

    if recorded_endpoint.answering_version(record, model) is None:
        return
    raise ServeError(
        f"the endpoint of {model} {record.alias!r} answers at {record.url}; it is on the Ray at "
        f"{record.ray_address}, {where}",
        f"Give --address {record.ray_address}, or run this where that Ray can be reached.",
    )


def _listens(address: str) -> bool:
    """Whether something listens at `host:port`; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError):
        return False
    return True
