"""What a sweep runs next: its decisions, their journal, and how Ray Tune is given its work.

Runs in the driver. To Tune each part of a trial between two rungs is a trial of its own, which
ends by itself; the next part continues from the checkpoint in the folder of the trial. So Tune
places and retries, and decides nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from raydc.elastic import sweep_table
from raydc.elastic.decision_method import make_method, plain_space
from raydc.elastic.sweep_table import SweepStanding, TrialStanding
from raydc.elastic.trial_costs import TrialCosts
from raydc.elastic.trial_draws import single_thread
from raydc.elastic.trial_ends import TrialEnds
from raydc.engine import interruption
from raydc.errors import RaydcError, RunError, TrainError
from raydc.search import DecisionFold, Method
from raydc.search.decision_log import DecisionLog
from raydc.search.draws import Draws
from raydc.spec import ResolvedSpec
from raydc.storage import Storage
from raydc.tracking import trials


class TrialQueue:
    """The trials of a sweep that run, may run, and are over.

    Args:
        spec: The resolved spec of the sweep.
        folder: Folder of the sweep; trials are in `trials/<key>` of it, the journal in `journal`.
        draws: The trials in the order of sampling; draws that depend on results are made here.
        ends: Takes the trials that are over.
        costs: What trials cost; one that costs more than the spec allows is not trained. None lets
            all train.
        assert_owner: Called before anything is begun, read or recorded; raises TakenOverError once
            another driver continues the sweep.

    Raises:
        RunError: The journal is damaged, has other decisions than the trials give, or is of more
            trials.
    """

    def __init__(
        self,
        spec: ResolvedSpec,
        folder: Storage,
        draws: Draws,
        ends: TrialEnds,
        costs: TrialCosts | None = None,
        assert_owner: Callable[[], None] = lambda: None,
    ) -> None:
        self._spec, self._folder, self._draws, self._ends = spec, folder, draws, ends
        self._costs, self._assert_owner = costs, assert_owner
        self._log = DecisionLog(folder / "journal")
        self._fold = DecisionFold(spec.seed, plain_space(spec), self._method(), draws.head())
        # A point that was drawn twice has one folder, in which one process trains.
        # Each key has the epoch to which its trial runs.
        self._running: dict[str, int] = {}
        self._lost: set[str] = set()
        self._numbers: dict[str, list[int]] = {}
        self._over: set[int] = set()
        self._stood: dict[int, TrialStanding] = {}
        self._error: Exception | None = None
        if not spec.train.exact:
            # A trial that is trained again may get other numbers, so what was decided counts.
            seen = {(number, 0): metric for number, metric in draws.known_metrics().items()}
            for result, metric in {**seen, **self._log.results()}.items():
                self._fold.add(result, metric)
        begun = set((folder / "trials").names())
        for number, one in enumerate(draws.trials):
            self._numbers.setdefault(one["key"], []).append(number)
        for key in self._numbers:
            if key in begun:
                self._read(key)
        self._draw()
        self._write()

    def _draw(self) -> None:
        """Draws what the results allow. A point that was drawn before has its results already."""
        first = len(self._draws.trials)
        with single_thread(self._draws.search_alg):
            while self._draws.extend(self._fold.first_metrics()):
                for number in range(first, len(self._draws.trials)):
                    key = self._draws.trials[number]["key"]
                    self._numbers.setdefault(key, []).append(number)
                    if self._draws.twin(number) is not None:
                        self._read(key)
                first = len(self._draws.trials)

    def _method(self) -> Method:
        past = self._log.past_samples()
        if past and past[-1] > self._draws.num_samples:
            raise RunError(
                f"this sweep has ended with {past[-1]} trials, and there are "
                f"{self._draws.num_samples} "
                "now",
                "Give sweep.num_samples as it was or larger, or pass --new.",
            )
        return make_method(self._spec, (*past, self._draws.num_samples))

    def next_segment(self) -> dict[str, Any] | None:
        """What Tune runs next, as `trial_worker` takes it; None if nothing may run now."""
        while (segment := self._next_open()) is not None:
            if not self._refuse(segment):
                break
        return segment

    def _owns_sweep(self) -> bool:
        """Whether this driver may go on; if it may not, `raise_failed` says why."""
        try:
            self._assert_owner()
        except RaydcError as error:
            self._error = self._error or error
            return False
        except OSError as error:
            # Asked again when something ends, and Tune asks all the time while something runs.
            if not self._running:
                self._error = self._error or error
            return False
        return True

    def _refuse(self, segment: dict[str, Any]) -> bool:
        """Ends a trial that costs too much, before it trains; says whether it did."""
        if self._costs is None or segment["rung"]:
            return False
        try:
            excess = self._costs.describe_excess(segment["all_values"])
            if excess is None:
                return False
            place = self._folder / "trials" / segment["key"]
            trials.mark_failed(place, segment["all_values"], excess, excess)
        # As in `end`: no time was kept, or no record, so this trial must not go on.
        except OSError as error:
            self._running.pop(segment["key"], None)
            self._error = self._error or error
            return True
        self.end(segment)
        return True

    def _next_open(self) -> dict[str, Any] | None:
        for number, rung in self._runnable():
            drawn = self._draws.trials[number]
            if drawn["key"] in self._running or drawn["key"] in self._lost:
                continue
            if not self._owns_sweep():
                return None
            self._running[drawn["key"]] = self._fold.method.epochs[rung]
            is_last = rung == len(self._fold.method.epochs) - 1
            epochs = None if is_last else self._fold.method.epochs[rung]
            return {**drawn, "number": number, "rung": rung, "epochs": epochs}
        return None

    def _runnable(self) -> list[tuple[int, int]]:
        """What may run now, or runs: without the trials that are not drawn yet."""
        if self._error is not None:
            return []
        num_drawn = len(self._draws.trials)
        return [result for result in self._fold.runnable() if result[0] < num_drawn]

    @property
    def is_over(self) -> bool:
        """Whether nothing runs and nothing can run any more."""
        keys = (self._draws.trials[number]["key"] for number, _ in self._runnable())
        return not self._running and all(key in self._lost for key in keys)

    def end(self, segment: dict[str, Any]) -> None:
        """Takes the result of a segment from the records of its trial.

        Args:
            segment: As `next_segment` gave it.
        """
        self._running.pop(segment["key"], None)
        try:
            self._assert_owner()
            self._read(segment["key"])
            self._refuse_missing(segment)
            self._draw()
            self._write()
        # Tune would show a traceback. `raise_failed` tells it, once what still runs has ended.
        except (RaydcError, OSError) as error:
            self._error = self._error or error

    def lose(self, segment: dict[str, Any], error: str) -> None:
        """Notes that a trial was lost with its process as often as it is tried: no result.

        Args:
            segment: As `next_segment` gave it.
            error: Text of the error.
        """
        self._running.pop(segment["key"], None)
        # The other driver has the trial now, whatever has become of this process.
        if not self._owns_sweep():
            return
        self._ends.add(self._draws.trials[segment["number"]], error)
        self._lost.add(segment["key"])

    def retry(self, segment: dict[str, Any], error: str) -> None:
        """Says that a trial was lost with its process and is tried again.

        Args:
            segment: As `next_segment` gave it.
            error: Text of the error.
        """
        self._ends.retry(self._draws.trials[segment["number"]], error)

    def standing(self) -> SweepStanding:
        """How the sweep stands, for its live table."""
        found = []
        for number, drawn in enumerate(self._draws.trials):
            # What is over does not change, and a thousand trials are shown thousands of times.
            standing = self._stood.get(number) or self._stands(number, drawn)
            if standing is not None:
                found.append(standing)
            if standing is not None and number in self._over:
                self._stood[number] = standing
        return SweepStanding(found, self._draws.num_samples, *self._fold.count_epochs())

    def _stands(self, number: int, drawn: dict[str, Any]) -> TrialStanding | None:
        """How a trial stands; None for one that has not begun, and for a point drawn again."""
        key, last = drawn["key"], self._fold.last_result(number)
        if self._draws.twin(number) is not None:
            return None
        ended, until = self._ends.find(key), self._running.get(key)
        if until is None and last is None and ended is None:
            return None
        rung, metric = last or (-1, None)
        epochs = self._fold.method.epochs[rung] if last else 0
        state, why = sweep_table.WAITS, ""
        if until is not None:
            state, why = sweep_table.RUNS, f"to epoch {until}"
        elif ended is not None and ended.state == "failed":
            state, why, metric = sweep_table.FAILED, ended.error or "", ended.metric
            epochs = ended.epochs
        elif number in self._over:
            why = self._fold.describe_stop(number)
            state = sweep_table.STOPPED if why else sweep_table.FINISHED
        return TrialStanding(number, drawn["all_values"], state, epochs, metric, why)

    def raise_failed(self) -> None:
        """Ends a sweep that is not complete.

        Raises:
            RaydcError: The journal or the records of a trial could not be read or written.
            TakenOverError: Another driver continues the sweep.
            TrainError: Trials were lost, on which decisions depend.
        """
        if self._error is not None:
            raise self._error
        if self._lost and not self._fold.is_complete:
            raise TrainError(
                f"{len(self._lost)} of {self._draws.num_samples} trials were lost with their "
                f"processes as often as fault_tolerance.max_failures allows, such as "
                f"{min(self._lost)}: which trials go on depends on their results",
                "--resume tries them again, and keeps all others.",
            )

    def _read(self, key: str) -> None:
        """Takes what a trial has recorded, for all samples with its point."""
        numbers = self._numbers[key]
        place = self._folder / "trials" / key
        own = trials.trial_spec(self._spec, self._draws.trials[numbers[0]]["all_values"])
        found = trials.rung_metrics(own, place, self._fold.method.epochs)
        for number, (rung, metric) in itertools.product(numbers, found.items()):
            result = (number, rung)
            if not self._spec.train.exact and self._fold.has_result(result):
                continue
            try:
                self._fold.add(result, metric)
            except ValueError as error:
                raise RunError(
                    f"{place.uri}: {error}",
                    "Exact training gives the same numbers each time: restore its files, or pass "
                    "--new. With train.exact: false what was decided first counts.",
                ) from None

    def _refuse_missing(self, segment: dict[str, Any]) -> None:
        """Without its result a trial would run again and again."""
        result = (segment["number"], segment["rung"])
        # A trial that stops for a driver that ends has none.
        if not self._fold.has_result(result) and interruption.received() is None:
            raise RunError(
                f"trial {segment['key']} has ended without a record of epoch "
                f"{self._fold.method.epochs[result[1]]} in {self._folder.uri}/trials",
                "Look at its events.jsonl; --resume runs it again.",
            )

    def _write(self) -> None:
        """Writes the decisions that are new, and says which trials are over."""
        self._log.extend(self._fold.lines)
        for number, drawn in enumerate(self._draws.trials):
            if number not in self._over and self._is_over(number):
                self._over.add(number)
                self._ends.add(drawn, why=self._fold.describe_stop(number))

    def _is_over(self, number: int) -> bool:
        if self._fold.stopped_after(number) is not None:
            return True
        # It has trained to its end, whatever is decided about it.
        return self._fold.has_result((number, len(self._fold.method.epochs) - 1))
