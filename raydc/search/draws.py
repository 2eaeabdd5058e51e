"""The draws of a sweep: which points its trials have, and the journal of those that were chosen.

Runs in the driver. Sample i sees the first results of samples 0 to i - lag, whatever else is known
by then, so that all clusters draw the same points. Each draw is one numbered object, written before
its trial begins; it is in no order with the decisions, which may be known later.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raydc.errors import RunError
from raydc.search.decision_log import DecisionLog
from raydc.search.goals import NO_GOALS, Goals
from raydc.search.learned_points import Draw, LearnedPoints, Observation
from raydc.search.point import Space
from raydc.storage import Storage, canonical_json, sha256

_FORMAT = 1


class Draws:
    """The trials of a sweep whose points do not depend on results.

    Args:
        trials: All of them in the order of sampling, each with `key` and `all_values`.

    Attributes:
        trials: The trials that are drawn, in the order of sampling, each with `key` and
            `all_values`. Two have the same key if the same point was drawn twice.
        num_samples: Number of trials of the sweep, drawn or not.
    """

    # Name of what chooses the points; None if they do not depend on results.
    search_alg: str | None = None

    def __init__(self, trials: Sequence[dict[str, Any]]) -> None:
        self.trials: list[dict[str, Any]] = list(trials)
        self.num_samples = len(self.trials)
        self._first: dict[str, int] = {}
        for number, trial in enumerate(self.trials):
            self._first.setdefault(trial["key"], number)

    def extend(self, metrics: Mapping[int, float | None]) -> int:
        """Draws what may be drawn now.

        Args:
            metrics: First results by number of the trial; None for the worst of all.

        Returns:
            How many were drawn.
        """
        del metrics
        return 0

    def known_metrics(self) -> dict[int, float | None]:
        """First results that draws have seen, by number of the trial."""
        return {}

    def twin(self, number: int) -> int | None:
        """The first trial with the same point; None for one that is the first itself.

        Args:
            number: Number of a trial that is drawn.
        """
        first = self._first[self.trials[number]["key"]]
        return None if first == number else first

    def head(self) -> dict[str, Any] | None:
        """What the first line of the journal says about the draws; None for random points."""
        return None


class LearnedDraws(Draws):
    """The trials of a sweep whose points are chosen with the results of earlier ones.

    Args:
        folder: Folder of the journal of draws; it need not exist.
        name: `tpe`, `gp`, `cmaes` or `nsga2`.
        lag: How many samples before the one that is drawn are not seen, and the one itself.
        space: Domains by spec path.
        seed: Seed of the spec.
        mode: Whether the largest or the smallest metric is the best: `max` or `min`.
        num_samples: Number of samples.
        make_key: Names a trial by its values; two points that mean the same have one name.
        read_known: Reads the results of other sweeps. They are copied into the journal, which a
            sweep that continues reads instead.
        make_first: Makes the draws before the first result, of those results; None makes them one
            by one here.
        goals: Costs that count beside the metric.
        measure: What a point costs, by its values. It is copied into the journal, because a latency
            is another one each time; None without goals.

    Raises:
        RunError: The journal is damaged, of other settings, or has more samples.
    """

    def __init__(
        self,
        folder: Storage,
        name: str,
        lag: int,
        space: Space,
        seed: int,
        mode: str,
        num_samples: int,
        make_key: Callable[[dict[str, Any]], str],
        read_known: Callable[[], Sequence[Observation]] = tuple,
        make_first: Callable[[Sequence[Observation]], Sequence[Draw]] | None = None,
        goals: Goals = NO_GOALS,
        measure: Callable[[dict[str, Any]], dict[str, float]] | None = None,
    ) -> None:
        super().__init__(())
        self.num_samples = num_samples
        self.search_alg, self._lag = name, lag
        self._make_key, self._folder = make_key, folder
        self._log = DecisionLog(folder)
        # After draws of another version of Optuna, others would follow.
        self._make_first = None if len(self._log.lines) > 1 else make_first
        self._known = _read_known(self._log) if self._log.lines else tuple(read_known())
        self._goals, self._measure = goals, measure
        self._points = LearnedPoints(name, space, seed, mode, self._known, goals, lag)
        self._seen: dict[int, float | None] = {}
        self._unproven: dict[int, float | None] = {}
        stored = list(self._log.lines)
        self._lines: list[bytes] = []
        self._write(
            kind="draws",
            format=_FORMAT,
            search_alg=name,
            lag=lag,
            seed=seed,
            mode=mode,
            space={path: one.model_dump(exclude_none=True) for path, one in space.items()},
            known=_plain(self._known),
            **goals.to_dict(),
        )
        for line in stored[1:]:
            self._replay(json.loads(line))
        if len(self.trials) > num_samples:
            raise RunError(
                f"{folder.uri} has {len(self.trials)} samples, and the spec {num_samples}",
                "Give sweep.num_samples as it was or larger, or pass --new.",
            )

    def head(self) -> dict[str, Any] | None:
        """What the first line of the journal says about the draws."""
        given: dict[str, Any] = {"search_alg": self.search_alg, "lag": self._lag}
        given |= self._goals.to_dict()
        if self._known:
            given["known"] = sha256(canonical_json(_plain(self._known)))
        return given

    def known_metrics(self) -> dict[int, float | None]:
        """First results that draws have seen, by number of the trial."""
        return dict(self._seen)

    def extend(self, metrics: Mapping[int, float | None]) -> int:
        """Draws what may be drawn now, and writes it.

        Args:
            metrics: First results by number of the trial; None for the worst of all.

        Returns:
            How many were drawn.

        Raises:
            RunError: A result is not the one that a draw has seen before.
            OSError: The store refuses.
        """
        self._prove(metrics)
        before = len(self.trials)
        while len(self.trials) < self.num_samples:
            number = len(self.trials)
            last = number - self._lag
            # All before the last one are known, or an earlier sample would wait here.
            if last >= 0 and last not in metrics:
                break
            saw = None if last < 0 else self._look(last, metrics[last])
            if saw is not None:
                self._see(saw)
            if last < 0 and self._make_first is not None:
                drawn = self._make_first(self._known)[number].numbers
                self._add(self._points.replay(drawn), saw)
            else:
                self._add(self._points.draw(), saw)
        return len(self.trials) - before

    def _look(self, number: int, metric: float | None) -> dict[str, Any]:
        saw: dict[str, Any] = {"trial": number, "metric": metric}
        if self._measure is not None and self._goals.costs:
            saw["costs"] = self._measure(self.trials[number]["all_values"])
        return saw

    def _see(self, saw: dict[str, Any]) -> None:
        self._seen[saw["trial"]] = saw["metric"]
        self._points.tell(saw["trial"], saw["metric"], saw.get("costs"))

    def _replay(self, record: dict[str, Any]) -> None:
        saw = record["saw"]
        if saw is not None:
            self._see(saw)
            self._unproven[saw["trial"]] = saw["metric"]
        self._add(self._points.replay(record["drawn"]), saw)

    def _add(self, draw: Draw, saw: dict[str, Any] | None) -> None:
        number = len(self.trials)
        key = self._make_key(draw.point)
        self._first.setdefault(key, number)
        self.trials.append({"key": key, "all_values": draw.point})
        self._write(
            kind="sample",
            sample=number,
            saw=saw,
            drawn=draw.numbers,
            point=draw.point,
            twin=self.twin(number),
        )

    def _prove(self, metrics: Mapping[int, float | None]) -> None:
        for number in [number for number in self._unproven if number in metrics]:
            before = self._unproven.pop(number)
            if metrics[number] != before:
                raise RunError(
                    f"{self._folder.uri}: trial {number} has a first result of {metrics[number]}, "
                    f"and a draw has seen {before}",
                    "Exact training gives the same numbers each time: restore its files, or pass "
                    "--new. With train.exact: false what was seen first counts.",
                )

    def _write(self, **record: Any) -> None:
        before = sha256(self._lines[-1]) if self._lines else ""
        self._lines.append(
            canonical_json({**record, "number": len(self._lines) + 1, "before": before})
        )
        # What is replayed is compared; what is new is written before its trial begins.
        self._log.extend(self._lines)


def _plain(known: Sequence[Observation]) -> list[list[Any]]:
    return [[dict(one.numbers), one.metric] for one in known]


def _read_known(log: DecisionLog) -> tuple[Observation, ...]:
    return tuple(Observation(*one) for one in json.loads(log.lines[0])["known"])
