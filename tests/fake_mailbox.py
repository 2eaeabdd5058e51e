"""A mailbox without an actor, for tests of what the controller posts."""

from __future__ import annotations

import types
from typing import Any


class FakeMailbox:
    """Keeps events and dropped holders; its methods have `remote`, as those of a handle."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.post_event = types.SimpleNamespace(remote=self.events.append)
        self.dropped: list[str] = []
        self.drop_holder = types.SimpleNamespace(remote=self.dropped.append)

    @property
    def kinds(self) -> list[str]:
        return [event["kind"] for event in self.events]
