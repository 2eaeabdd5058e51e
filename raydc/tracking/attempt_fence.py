"""The fence of an attempt: only the newest attempt of a run writes to it. Runs in rank 0.

A worker whose host is cut from the network may still reach storage, and goes on while the driver
starts the next attempt elsewhere. Each attempt therefore claims the run with a number, in
`attempt.json`, and every commit of a checkpoint, of metrics and of events is preceded by a look
whether a newer attempt has claimed it since. A driver that has lost the run may start attempts too;
the claim of their driver tells them that they must not write.
"""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass

from raydc.errors import RunError
from raydc.storage import Storage
from raydc.tracking import lease

FILE = "attempt.json"
_HINT = "This process writes nothing more. The run goes on there."


@dataclass(frozen=True)
class Attempt:
    """The claim of an attempt.

    Attributes:
        number: Larger than those of the attempts before it.
        token: Random name; two attempts that claim at once may have the same number.
        driver: Token of its driver; None without one.
    """

    number: int
    token: str
    driver: str | None


class ReplacedError(RunError):
    """A newer attempt has claimed the run. It says nothing about the run itself."""


class AttemptFence:
    """The claim of one attempt.

    Args:
        folder: Folder of the run or trial, which holds the claim.
        claim: The claim of its driver; None takes whoever drives the run at this moment for it.
    """

    def __init__(self, folder: Storage, claim: lease.Claim | None = None) -> None:
        self._folder = folder
        self._driver = claim.token if claim else lease.owner_token(folder)
        self._assert_same_driver = claim.check if claim else lease.owner_check(folder)
        # With a claim the owner of the run is known, and not only that it has not changed.
        self._has_claim = claim is not None
        self._mine: Attempt | None = None

    def claim(self, number: int | None = None) -> None:
        """Claims the run for this attempt; from now on the attempts before it write nothing.

        Args:
            number: Grows with each attempt of this driver, and comes from a place that a worker
                which is cut off cannot ask; None counts in the file.

        Raises:
            ReplacedError: A newer attempt of this driver has claimed the run already.
            TakenOverError: Another driver owns the run.
        """
        self._assert_same_driver()
        newest = self._read()
        if number is None:
            number = _next_number(newest)
        # A worker that was suspended at its start must not end the attempt that replaced it.
        elif newest and newest.driver == self._driver and newest.number > number:
            raise self._replaced()
        mine = Attempt(number, uuid.uuid4().hex, self._driver)
        self._folder.write_json(FILE, asdict(mine))
        self._mine = mine

    def next_number(self) -> int:
        """A number that is larger than that of the newest claim. Raises OSError."""
        return _next_number(self._read())

    def check(self) -> None:
        """Checks that this attempt may write.

        Raises:
            ReplacedError: A newer attempt has taken over the run.
            TakenOverError: Another driver has.
        """
        self._assert_same_driver()
        # A file that is gone or damaged is nobody's claim.
        if self._mine is None or (newest := self._read()) in (self._mine, None):
            return
        if self._is_late(newest):
            self._folder.write_json(FILE, asdict(self._mine))
            return
        raise self._replaced()

    def _is_late(self, newest: Attempt) -> bool:
        """Whether the claim in the file is of an attempt that must not write any more."""
        if newest.driver != self._driver:
            # An attempt of a driver that lost the run between its look and its claim.
            return self._has_claim
        # An older attempt of this driver, which has found such a claim.
        return self._mine is not None and newest.number < self._mine.number

    def _replaced(self) -> ReplacedError:
        return ReplacedError(
            f"a newer attempt of the run at {self._folder.uri} has started while this worker did "
            "not respond",
            _HINT,
        )

    def _read(self) -> Attempt | None:
        try:
            claim = self._folder.read_json(FILE)
            return Attempt(int(claim["number"]), str(claim["token"]), claim["driver"])
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None


def _next_number(newest: Attempt | None) -> int:
    return newest.number + 1 if newest else 1
