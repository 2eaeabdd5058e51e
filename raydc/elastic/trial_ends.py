"""How the trials of a sweep end: a line and a record for each, and which checkpoints remain.

Runs in the driver.
"""

from __future__ import annotations

import contextlib
import re
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from raydc.checkpoint import best
from raydc.checkpoint.store import CheckpointStore, Found
from raydc.engine import interruption
from raydc.errors import Say
from raydc.search.draws import Draws
from raydc.spec import ResolvedSpec
from raydc.storage import Storage
from raydc.tracking import trials
from raydc.tracking.trials import Trial

_LONGEST_LINE = 160
# A line of a traceback that names an error, and what it says.
_ERROR = re.compile(r"^\s*(?:\w+\.)*(\w*(?:Error|Exception)\w*: .+)$", re.MULTILINE)


class TrialEnds:
    """The trials of a sweep that have ended so far.

    Args:
        spec: The resolved spec of the sweep.
        folder: Folder of the sweep; trials are in `trials/<key>` of it.
        draws: The trials in the order of sampling, as far as they are drawn.
        report: Shows a line of progress.
        say_end: Shows a line for a trial that has ended without an error; None takes `report`.
    """

    def __init__(
        self,
        spec: ResolvedSpec,
        folder: Storage,
        draws: Draws,
        report: Say,
        say_end: Say | None = None,
    ) -> None:
        self._spec, self._folder, self._draws, self._report = spec, folder, draws, report
        self._say_end = say_end or report
        self._ended: dict[str, Trial] = {}
        self._num_ended = 0
        self._without_checkpoints: set[str] = set()

    def add(self, drawn: dict[str, Any], error: str | None = None, why: str = "") -> None:
        """Records that a trial has ended, and says so.

        Args:
            drawn: The trial as it was drawn.
            why: Why it does not go on; empty if it has trained to its end.
            error: Text of the error with which it has failed as often as the spec allows; None if
                it has finished, was pruned, or has a record of its own failure.
        """
        key, place = drawn["key"], self._folder / "trials" / drawn["key"]
        is_over = trials.has_ended(place) or trials.is_failed(place)
        # A trial that stops for a driver that ends is not pruned: the next driver continues it.
        if error is None and not is_over and interruption.received() is None:
            values = drawn["all_values"]
            own = trials.trial_spec(self._spec, values)
            # Without a record the next driver decides it again, from the same results.
            with contextlib.suppress(OSError):
                trials.mark_ended(place, own, values, trials.PRUNED_FILE)
        trial = self._read(drawn, None if error is None else _line(error))
        self._ended[key] = trial
        self._num_ended += 1
        self._drop_losers(but=key)
        count = f"{self._num_ended} of {self._draws.num_samples}"
        say = self._report if trial.state == "failed" else self._say_end
        say(f"sweep     {count} {self._describe(trial, why)}")

    def retry(self, drawn: dict[str, Any], error: str) -> None:
        """Says that a trial has failed and is tried again.

        Args:
            drawn: The trial as it was drawn.
            error: Text of the error.
        """
        values = trials.format_values(drawn["all_values"])
        self._report(f"sweep     a trial is tried again after {_line(error)}: {values}")

    def drop_checkpoints(self, winner: Trial, found: Found) -> None:
        """Removes the checkpoints that neither the model nor a continued sweep needs.

        The winner keeps up to three, all other trials that have ended none. One that Tune has given
        up keeps its own, because `--resume` goes on with it. Called when no trial runs any more,
        and the model is written.

        Args:
            winner: Trial whose model is that of the sweep.
            found: Its checkpoint that became the model.
        """
        self._remove([trial for trial in self.all() if trial.key != winner.key])
        best.keep_model(self._store(winner), found)

    def _drop_losers(self, but: str) -> None:
        """Removes checkpoints of trials that cannot win any more, so that few are there at a time.

        Args:
            but: Key of the trial that has ended just now, and may still be writing.
        """
        drawn = (one["key"] for one in self._draws.trials)
        ended = [self._ended[key] for key in drawn if key in self._ended]
        leader = trials.pick_best(ended, self._spec.train.mode)
        # All checkpoints of a trial that has finished are there; a pruned one may still write some.
        if leader is None or leader.state != "finished":
            return
        done = {leader.key, but, *self._without_checkpoints}
        losers = [trial for trial in ended if trial.key not in done]
        # The end of the sweep comes back to all of them.
        with contextlib.suppress(OSError):
            self._remove(losers)
            self._without_checkpoints |= {loser.key for loser in losers}

    def _remove(self, losers: Sequence[Trial]) -> None:
        for loser in losers:
            place = self._folder / "trials" / loser.key
            if trials.has_ended(place) or trials.is_failed(place):
                # First one by one: what is left of an interrupted removal is no checkpoint.
                self._store(loser).keep_only(())
                self._store(loser).folder.delete()

    def _store(self, trial: Trial) -> CheckpointStore:
        return CheckpointStore(self._folder / "trials" / trial.key / "checkpoints", 1)

    def find(self, key: str) -> Trial | None:
        """A trial that has ended, by its key; None for one that has not."""
        return self._ended.get(key)

    def all(self) -> tuple[Trial, ...]:
        """The trials in the order of sampling."""
        found = (self._ended.get(one["key"]) or self._read(one) for one in self._draws.trials)
        return tuple(
            replace(trial, twin=self._draws.twin(number)) for number, trial in enumerate(found)
        )

    def _read(self, drawn: dict[str, Any], error: str | None = None) -> Trial:
        return trials.read_trial(self._spec, self._folder, **drawn, error=error)

    def _describe(self, trial: Trial, why: str) -> str:
        values = trials.format_values(trial.values)
        if trial.state == "failed":
            return f"failed: {trial.error}: {values}"
        score = "no metric" if trial.metric is None else f"{trial.metric:.4f}"
        result = f"{trial.epochs} epoch(s), best {self._spec.train.metric} {score}"
        # The word is that of the state in the table.
        stopped = f", {trial.state}: {why}" if why and trial.state == "pruned" else ""
        return f"ended after {result}{stopped}: {values}"


def _line(text: str) -> str:
    """The line of an error's text that says most: the last one that names an error."""
    named = _ERROR.findall(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = str(named[-1]) if named else lines[-1] if lines else "an unknown error"
    # Ray explains a dead process in ten lines.
    return textwrap.shorten(said, _LONGEST_LINE, placeholder=" ...")
