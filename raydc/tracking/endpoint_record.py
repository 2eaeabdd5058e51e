"""What the store says about the endpoint of an alias: where it is, and what it was set to last.

    models/<name>/endpoints/<alias>.json

Written in the driver by each command that changes an endpoint, before and after the change. Other
commands find the endpoint by it, on whichever Ray it runs. A driver that was killed in between
leaves the change that it had begun, and alias and endpoint may differ from then on.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import asdict, dataclass, fields
from typing import Any

from raydc.storage import Storage

FOLDER = "endpoints"
_FORMAT = 1


@dataclass(frozen=True)
class EndpointRecord:
    """An endpoint as its newest change left it.

    Attributes:
        alias: Alias that it serves.
        url: Address for clients.
        ray_address: `host:port` of the head of its Ray.
        version: Version that it answers with, canaries aside.
        by: Process that wrote this, for messages.
        time_s: Unix time of the change.
        change: A change that has begun, such as `promote to version 3`; None once it is over.
    """

    alias: str
    url: str
    ray_address: str
    version: int
    by: str
    time_s: float
    change: str | None = None


def make_record(
    alias: str, url: str, ray_address: str, version: int, change: str | None = None
) -> EndpointRecord:
    """Makes the record of an endpoint as of now.

    Args:
        alias: Alias that it serves.
        url: Address for clients.
        ray_address: `host:port` of the head of its Ray.
        version: Version that it answers with.
        change: A change that begins, in words; None for one that is over.
    """
    by = f"process {os.getpid()} on {socket.gethostname()}"
    return EndpointRecord(alias, url, ray_address, version, by, round(time.time(), 3), change)


def write_record(storage: Storage, model: str, record: EndpointRecord) -> None:
    """Writes the record of an endpoint. Raises OSError.

    Args:
        storage: Storage that holds the registry and the records of endpoints.
        model: Name of the model in the registry.
        record: Replaces the record of its alias.
    """
    folder = storage / "models" / model / FOLDER
    folder.write_json(f"{record.alias}.json", {"format": _FORMAT, **asdict(record)})


def read_record(storage: Storage, model: str, alias: str) -> EndpointRecord | None:
    """Reads the record of an alias's endpoint; None without a readable one.

    Args:
        storage: Storage that holds the registry and the records of endpoints.
        model: Name of the model in the registry.
        alias: Alias that the endpoint serves.
    """
    try:
        return parse_record((storage / "models" / model / FOLDER).read_json(f"{alias}.json"))
    # It only helps to find an endpoint: a damaged one must not keep anybody from changing it.
    except (OSError, ValueError):
        return None


def parse_record(value: Any) -> EndpointRecord | None:
    """A record from its JSON; None if that is damaged or of another format."""
    try:
        # A newer raydc may write more fields.
        record = EndpointRecord(
            **{field.name: value[field.name] for field in fields(EndpointRecord)}
        )
        time.gmtime(record.time_s)
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return None
    texts = (record.alias, record.url, record.ray_address, record.by, record.change or "")
    is_whole = isinstance(record.version, int) and all(isinstance(text, str) for text in texts)
    return record if is_whole else None


def read_records(storage: Storage, model: str) -> list[EndpointRecord]:
    """All readable records of a model's endpoints, by alias."""
    names = (storage / "models" / model).names(FOLDER)
    found = [read_record(storage, model, name.removesuffix(".json")) for name in names]
    return [record for record in found if record is not None]


def remove_record(storage: Storage, model: str, alias: str, ray_address: str | None = None) -> None:
    """Removes the record of an endpoint that is gone.

    Args:
        storage: Storage that holds the registry and the records of endpoints.
        model: Name of the model in the registry.
        alias: Alias that the endpoint served.
        ray_address: Its Ray. A record of an endpoint on another Ray stays; None removes any.
    """
    record = read_record(storage, model, alias)
    if record is not None and ray_address not in (None, record.ray_address):
        return
    (storage / "models" / model / FOLDER).delete(f"{alias}.json")


def describe_difference(record: EndpointRecord, version: int | None) -> str | None:
    """Says how an endpoint may differ from its alias, or None if they agree. Pure.

    Args:
        record: What the last command that changed the endpoint has written.
        version: Version that the alias stands for; None if there is no such alias.
    """
    if record.change is not None:
        began = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(record.time_s))
        return (
            f"alias {record.alias!r} stands for version {version}, and a change of its endpoint "
            f"{record.url} ({record.change}, begun at {began} by {record.by}) has not ended: if "
            "that process is gone, promote or roll back again"
        )
    if record.version != version:
        return (
            f"alias {record.alias!r} stands for version {version}, but its endpoint {record.url} "
            f"was last set to version {record.version}: if it still runs, promote or serve again"
        )
    return None
