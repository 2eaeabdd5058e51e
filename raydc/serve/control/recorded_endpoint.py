"""Compares the record of an endpoint in the store with what answers. Runs in the driver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raydc import client
from raydc.engine import serve_client
from raydc.errors import RaydcError
from raydc.registry import Registry
from raydc.storage import Storage
from raydc.tracking import endpoint_record
from raydc.tracking.endpoint_record import EndpointRecord

_HEALTH_TIMEOUT_S = 3.0


def answering_version(record: EndpointRecord, model: str) -> int | None:
    """Version that the address of a record answers with; None if it is not there any more.

    Args:
        record: Names the address, which another endpoint may have taken meanwhile.
        model: Model that must answer there.
    """
    try:
        health = client.health(record.url, _HEALTH_TIMEOUT_S)
    except RaydcError:
        return None
    return int(health["version"]) if health.get("model") == model else None


def notes_before_serving(storage: Storage, model: str, alias: str) -> list[str]:
    """What whoever serves an alias should know about its endpoint so far.

    Args:
        storage: Storage that holds the registry and the records of endpoints.
        model: Name of the model in the registry.
        alias: Alias that is about to be served.
    """
    record = endpoint_record.read_record(storage, model, alias)
    if record is None:
        return []
    difference = endpoint_record.describe_difference(
        record, Registry(storage).aliases(model).get(alias)
    )
    is_alive = answering_version(record, model) is not None
    notes = [difference] if difference and (is_alive or record.change) else []
    if is_alive and record.ray_address != serve_client.ray_address():
        notes.append(
            f"{record.url}, on the Ray at {record.ray_address}, serves {alias!r} too: promote, "
            "rollback, canary and stop find the new endpoint from now on, and that one with "
            f"--address {record.ray_address}"
        )
    return notes


def endpoints_elsewhere(storage: Storage, model: str, known: Sequence[Any]) -> list[dict[str, Any]]:
    """Endpoints of a model that answer, on a Ray that was not asked, as `serve.status` lists them.

    Args:
        storage: Storage that holds the registry and the records of endpoints.
        model: Name of the model in the registry.
        known: Endpoints that a Ray has listed; they are left out.
    """
    found = []
    for record in endpoint_record.read_records(storage, model):
        if any(one["url"] == record.url for one in known):
            continue
        version = answering_version(record, model)
        if version is None:
            continue
        # A canary may have answered, so the version of the record counts as well.
        found += [
            {
                "storage": storage.uri,
                "model": model,
                "alias": record.alias,
                "url": record.url,
                "version": number,
                "canary": None,
                "shadow": None,
            }
            for number in sorted({version, record.version})
        ]
    return found
