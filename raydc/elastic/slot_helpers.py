"""The helpers of a sweep as its driver knows them: what each one does, and who is to leave.

Runs in the driver.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from raydc.elastic.crews import Standing

# How often helpers are told again to leave: what a mailbox knew is lost if it dies.
_REMIND_EVERY_S = 5.0


class CrewBox(Protocol):
    """What the driver tells the mailbox of a sweep about its helpers, as `Crews` has it."""

    def standing(self) -> tuple[float, dict[str, Standing], list[str]]: ...

    def assign(self, helper: str, task: dict[str, Any]) -> None: ...

    def release(self, helpers: Iterable[str]) -> None: ...

    def withdraw(self, helper: str) -> None: ...


@dataclass
class _Helper:
    """A helper, and the trial that it trains; None between two, and since when."""

    key: str | None
    idle_since_s: float = 0.0
    is_released: bool = False


class SlotHelpers:
    """The helpers that hold a slot, or wait for one.

    Args:
        box: Knows them, too.
        now_s: A monotonic clock.
    """

    def __init__(self, box: CrewBox, now_s: Callable[[], float]) -> None:
        self._box, self._now_s = box, now_s
        self._helpers: dict[str, _Helper] = {}
        self._reminded_s = now_s()

    def __len__(self) -> int:
        return len(self._helpers)

    def add(self, key: str) -> str:
        """Adds a helper of a trial, and returns its name."""
        name = uuid.uuid4().hex
        self._helpers[name] = _Helper(key)
        return name

    def remove(self, name: str) -> None:
        """Forgets one that has given its slot back."""
        self._helpers.pop(name, None)

    def assign(self, name: str, task: dict[str, Any]) -> None:
        """Gives one without a trial a task, as `Crews.assign` takes it."""
        self._helpers[name].key = task["key"]
        self._box.assign(name, task)

    def free(self, names: Iterable[str]) -> None:
        """Notes that some have no trial any more, as far as they stay."""
        for name in {*names} & {*self.staying()}:
            if self._helpers[name].key is not None:
                self._helpers[name] = _Helper(None, self._now_s())

    def key_of(self, name: str) -> str | None:
        """The trial of a helper; None between two."""
        return self._helpers[name].key

    def of(self, key: str) -> list[str]:
        """Helpers of a trial that stay, the first one first."""
        return [name for name in self.staying() if self._helpers[name].key == key]

    def idle(self) -> list[str]:
        """Those that stay and have no trial."""
        return [name for name in self.staying() if self._helpers[name].key is None]

    def staying(self) -> list[str]:
        """Those that are not to leave, the first one first."""
        return [name for name, one in self._helpers.items() if not one.is_released]

    def release(self, names: list[str]) -> None:
        """Sends some away."""
        if names:
            for name in names:
                self._helpers[name].is_released = True
            self._box.release(names)

    def release_idle(self, after_s: float) -> None:
        """Sends those away that have had no trial for some seconds."""
        before_s = self._now_s() - after_s
        self.release([one for one in self.idle() if self._helpers[one].idle_since_s <= before_s])

    def remind(self) -> None:
        """Tells those to leave again that are to leave and are still there, now and then."""
        if self._now_s() - self._reminded_s >= _REMIND_EVERY_S:
            self._reminded_s = self._now_s()
            if leaving := [name for name, one in self._helpers.items() if one.is_released]:
                self._box.release(leaving)
