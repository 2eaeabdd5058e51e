"""What a sweep runs next: its decisions, their journal, and how Ray Tune is given its work.

Runs in the driver. To Tune each part of a trial between two rungs is a trial of its own, which
ends by itself; the next part continues from the checkpoint in the folder of the trial. So Tune
places and retries, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raydc import spec as specs
from raydc.elastic.trial_ends import TrialEnds
from raydc.engine import interruption
from raydc.errors import RaydcError, RunError, TrainError
from raydc.search import DecisionFold, Method, rung_epochs
from raydc.search.decision_log import DecisionLog
from raydc.spec import ResolvedSpec
from raydc.storage import Storage
from raydc.tracking import trials


class TrialQueue:
    """The trials of a sweep that run, may run, and are over.

    Args:
        spec: The resolved spec of the sweep.
        folder: Folder of the sweep; trials are in `trials/<key>` of it, the journal in `journal`.
        drawn: The trials in the order of sampling, each with `key` and `all_values`.
        ends: Takes the trials that are over.

    Raises:
        RunError: The journal is damaged, has other decisions than the trials give, or is of more
            trials.
    """

    def __init__(
        self,
        spec: ResolvedSpec,
        folder: Storage,
        drawn: Sequence[dict[str, Any]],
        ends: TrialEnds,
    ) -> None:
        self._spec, self._folder, self._drawn, self._ends = spec, folder, drawn, ends
        self._log = DecisionLog(folder / "journal")
        self._fold = DecisionFold(spec.seed, _plain_space(spec), self._method())
        self._running: set[tuple[int, int]] = set()
        self._lost: dict[int, str] = {}
        self._over: set[int] = set()
        self._error: Exception | None = None
        if not spec.train.exact:
            # A trial that is trained again may get other numbers, so what was decided counts.
            for result, metric in self._log.results().items():
                self._fold.add(result, metric)
        begun = set((folder / "trials").names())
        for number, one in enumerate(drawn):
            if one["key"] in begun:
                self._read(number)
        self._write()

    def _method(self) -> Method:
        past = self._log.past_samples()
        if past and past[-1] > len(self._drawn):
            raise RunError(
                f"this sweep has ended with {past[-1]} trials, and there are {len(self._drawn)} "
                "now",
                "Give sweep.num_samples as it was or larger, or pass --new.",
            )
        return make_method(self._spec, (*past, len(self._drawn)))

    def next_segment(self) -> dict[str, Any] | None:
        """What Tune runs next, as `trial_worker` takes it; None if nothing may run now."""
        for number, rung in self._fold.runnable() if self._error is None else ():
            if (number, rung) in self._running or number in self._lost:
                continue
            self._running.add((number, rung))
            is_last = rung == len(self._fold.method.epochs) - 1
            epochs = None if is_last else self._fold.method.epochs[rung]
            return {**self._drawn[number], "number": number, "rung": rung, "epochs": epochs}
        return None

    @property
    def is_over(self) -> bool:
        """Whether nothing runs and nothing can run any more."""
        waiting = self._fold.runnable() if self._error is None else ()
        return not self._running and all(number in self._lost for number, _ in waiting)

    def end(self, segment: dict[str, Any]) -> None:
        """Takes the result of a segment from the records of its trial.

        Args:
            segment: As `next_segment` gave it.
        """
        self._running.discard((segment["number"], segment["rung"]))
        try:
            self._read(segment["number"])
            self._refuse_missing(segment)
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
        number = segment["number"]
        self._running.discard((number, segment["rung"]))
        self._ends.add(self._drawn[number], error)
        self._lost[number] = self._drawn[number]["key"]

    def retry(self, segment: dict[str, Any], error: str) -> None:
        """Says that a trial was lost with its process and is tried again.

        Args:
            segment: As `next_segment` gave it.
            error: Text of the error.
        """
        self._ends.retry(self._drawn[segment["number"]], error)

    def raise_failed(self) -> None:
        """Ends a sweep that is not complete.

        Raises:
            RaydcError: The journal or the records of a trial could not be read or written.
            TrainError: Trials were lost, on which decisions depend.
        """
        if self._error is not None:
            raise self._error
        if self._lost and not self._fold.is_complete:
            raise TrainError(
                f"{len(self._lost)} of {len(self._drawn)} trials were lost with their processes "
                f"as often as fault_tolerance.max_failures allows, such as "
                f"{next(iter(self._lost.values()))}: which trials go on depends on their results",
                "--resume tries them again, and keeps all others.",
            )

    def _read(self, number: int) -> None:
        """Takes what a trial has recorded."""
        one = self._drawn[number]
        place = self._folder / "trials" / one["key"]
        own = trials.trial_spec(self._spec, one["all_values"])
        for rung, metric in trials.rung_metrics(own, place, self._fold.method.epochs).items():
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
        for number in range(len(self._drawn)):
            if number not in self._over and self._is_over(number):
                self._over.add(number)
                self._ends.add(self._drawn[number], why=self._fold.describe_stop(number))

    def _is_over(self, number: int) -> bool:
        if self._fold.stopped_after(number) is not None:
            return True
        # It has trained to its end, whatever is decided about it.
        return self._fold.has_result((number, len(self._fold.method.epochs) - 1))


def make_method(spec: ResolvedSpec, samples: Sequence[int]) -> Method:
    """The method of a sweep.

    Args:
        spec: The resolved spec of the sweep.
        samples: Numbers of trials with which it has ended or ends, in any order.
    """
    assert spec.sweep is not None
    scheduler, train = spec.sweep.scheduler, spec.train
    # An epoch has one step at least.
    longest = train.epochs or train.max_steps or 1
    rungs = rung_epochs(longest, scheduler.grace_period, scheduler.reduction_factor)
    return Method(
        type=scheduler.type,
        epochs=rungs if scheduler.name == "asha" else (longest,),
        factor=scheduler.reduction_factor,
        mode=train.mode,
        samples=tuple(sorted({*samples})),
    )


def _plain_space(spec: ResolvedSpec) -> dict[str, Any]:
    """The search space without the kinds of domains that it does not use."""
    space = (specs.to_dict(spec)["sweep"] or {})["space"]
    return {
        path: {kind: value for kind, value in domain.items() if value is not None}
        for path, domain in space.items()
    }
