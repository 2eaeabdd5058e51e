"""How a sweep stands, in a file for reports while it runs and after its driver was killed.

Runs in the driver. The file is a convenience: nothing is decided with it, and what refuses it ends
no sweep.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from raydc.elastic.sweep_table import RUNS, SweepStanding
from raydc.elastic.trial_ends import TrialEnds
from raydc.errors import RaydcError
from raydc.search.draws import Draws
from raydc.storage import Storage
from raydc.tracking.trials import STANDING_FILE

# A thousand trials are 200 kB.
_EVERY_S = 5.0


class StandingFile:
    """The file of one sweep.

    Args:
        folder: Folder of the sweep, which gets the file.
        draws: The trials in the order of sampling.
        ends: Those that have ended.
        assert_owner: Called before each write; raises TakenOverError once another driver continues
            the sweep.
        now_s: A monotonic clock.
    """

    def __init__(
        self,
        folder: Storage,
        draws: Draws,
        ends: TrialEnds,
        assert_owner: Callable[[], None] = lambda: None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._draws, self._ends = folder, draws, ends
        self._assert_owner, self._now_s = assert_owner, now_s
        self._written_s: float | None = None

    def write_if_due(self, standing: Callable[[], SweepStanding]) -> None:
        """Writes the file, not more than once in five seconds.

        Args:
            standing: Returns how the sweep stands; called only if the file is due.
        """
        if self._written_s is None or self._now_s() - self._written_s >= _EVERY_S:
            self.write(standing())

    def write(self, standing: SweepStanding) -> None:
        """Writes the file, unless the storage refuses it or the sweep is another driver's.

        Args:
            standing: How the sweep stands.
        """
        self._written_s = self._now_s()
        record = {
            "num_samples": standing.num_samples,
            "time_s": round(time.time(), 3),
            "trials": self._trials(standing),
        }
        with contextlib.suppress(OSError, RaydcError):
            self._assert_owner()
            self._folder.write_json(STANDING_FILE, record)

    def _trials(self, standing: SweepStanding) -> list[dict[str, Any]]:
        found = []
        for one in standing.trials:
            key = self._draws.trials[one.number]["key"]
            if (ended := self._ends.find(key)) is not None:
                trial = asdict(ended)
            else:
                state = "running" if one.state == RUNS else "waiting"
                trial = {
                    "key": key,
                    "values": one.values,
                    "epochs": one.epochs,
                    "metric": one.metric,
                    "state": state,
                }
            found.append({"number": one.number, "why": one.why, **trial})
        return found
