"""Writes canaries and shadows that start and end into the history of an alias. In the driver."""

from __future__ import annotations

import time

from raydc.registry import Registry, user
from raydc.serve.settings import Traffic
from raydc.tracking.alias_history import Move


def record_changes(
    registry: Registry, model: str, alias: str, before: Traffic, after: Traffic, who: str, why: str
) -> None:
    """Writes into the history which canary and shadow started and ended.

    Args:
        registry: Registry that holds the history of the alias.
        model: Name of the model in the registry.
        alias: Alias whose history gets the entries.
        before: Traffic that the endpoint had.
        after: Traffic that it has now; entries are written only for what differs.
        who: Author of the change; empty means the user of this process.
        why: Reason that the history shows; may be empty.
    """
    for kind in ("canary", "shadow"):
        old, new = getattr(before, kind), getattr(after, kind)
        if old == new:
            continue
        versions = (old.version if old else None, new.version if new else None)
        entry = kind if new else f"{kind} ended"
        fraction = new.fraction if new else None
        registry.note(
            model,
            Move(entry, alias, *versions, who or user(), why, round(time.time(), 3), fraction),
        )
