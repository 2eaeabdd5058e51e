"""Points of the trials of a sweep, by its search algorithm, and the sweep that they make."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from training import training_spec

from raydc import spec as specs
from raydc.elastic.trial_draws import known_points, make_draws, single_thread
from raydc.elastic.trial_ends import TrialEnds
from raydc.elastic.trial_queue import TrialQueue
from raydc.errors import RunError
from raydc.search.draws import Draws
from raydc.storage import Storage
from raydc.tracking import events, trial_table, trials

RATE, DEPTH = "train.learning_rate", "model.depth"
SPACE = {RATE: {"loguniform": [1e-4, 1e-1]}, DEPTH: {"choice": [1, 2]}}
SMALL = {DEPTH: {"choice": [1, 2]}, "model.width": {"choice": [8, 16]}}
SCHEDULER = {"name": "asha", "type": "promotion", "reduction_factor": 2}


class SampledSweep:
    """A sweep whose trials are records of this process, in a folder of its own."""

    def __init__(self, folder: Path, exact: bool = True, **sweep: Any) -> None:
        given = {"space": SPACE, "scheduler": SCHEDULER, "search_alg": "tpe", "lag": 2, **sweep}
        model = {"name": "mlp", "depth": 1, "width": 8}
        train = {"exact": exact}
        self.spec = training_spec(str(folder), model=model, sweep=given, train=train)
        self.folder = Storage(str(folder / "sweep"))
        self.lines: list[str] = []
        self.ran: list[tuple[str, int | None]] = []
        self.begin()

    def begin(self) -> None:
        """Begins as a driver does."""
        recorded = specs.to_dict(self.spec)
        self.draws = make_draws(self.spec, recorded, self.folder, self.lines.append)
        self.ends = TrialEnds(self.spec, self.folder, self.draws, self.lines.append)
        self.queue = TrialQueue(self.spec, self.folder, self.draws, self.ends)

    def train(self, segment: dict[str, Any]) -> None:
        """Writes what a trial records up to a rung, or to its end."""
        key, until, values = segment["key"], segment["epochs"], segment["all_values"]
        self.ran.append((key, until))
        place = self.folder / "trials" / key
        for epoch in range(len(trials.read_epochs(place)) + 1, 1 + (until or 3)):
            accuracy = 1 / (1 + abs(values.get(RATE, 0.0) - 0.01)) + 0.01 * epoch * values[DEPTH]
            events.EventLog(place, "metrics").write(
                kind="epoch", step=7 * epoch, epoch=epoch, accuracy=accuracy
            )
        if until is None:
            own = trials.trial_spec(self.spec, values)
            trials.mark_ended(place, own, values, trials.FINISHED_FILE)

    def run(self, workers: int = 1, order: int = 0, kills: int = 0) -> None:
        """Runs the sweep on some workers, whose trials end in a random order."""
        generator, running = random.Random(order), list[dict[str, Any]]()
        while True:
            while len(running) < workers and (segment := self.queue.next_segment()) is not None:
                running.append(segment)
            if not running:
                break
            self.train(done := running.pop(generator.randrange(len(running))))
            if kills and generator.random() < 0.2:
                kills, running = kills - 1, []
                self.begin()
                continue
            self.queue.end(done)
        assert self.queue.is_over
        self.queue.raise_failed()

    def journals(self) -> list[bytes]:
        return [
            self.folder.read_bytes(f"{journal}/{name}")
            for journal in ("draws", "journal")
            for name in self.folder.names(journal)
        ]


def test_journals_are_the_same_at_any_concurrency_and_after_kills(tmp_path: Path) -> None:
    one = SampledSweep(tmp_path / "one", num_samples=9)
    one.run()
    assert b'"kind":"end"' in one.journals()[-1]
    assert sum(b'"kind":"sample"' in line for line in one.journals()) == 9
    for number, workers in enumerate((2, 4)):
        several = SampledSweep(tmp_path / f"of {workers}", num_samples=9)
        several.run(workers, order=number)
        assert several.journals() == one.journals()
        assert several.ends.all() == one.ends.all()
        killed = SampledSweep(tmp_path / f"killed of {workers}", num_samples=9)
        killed.run(workers, order=number, kills=3)
        assert killed.journals() == one.journals()


def test_no_more_trials_than_the_lag_are_in_flight_before_a_result(tmp_path: Path) -> None:
    sweep = SampledSweep(tmp_path, num_samples=9, lag=3)
    given = [sweep.queue.next_segment() for _ in range(4)]
    assert [one is None for one in given] == [False] * 3 + [True]
    assert not sweep.queue.is_over
    # The second result lets nobody begin: the next sample waits for that of the first.
    sweep.train(given[1] or {})
    sweep.queue.end(given[1] or {})
    waiting = sweep.queue.next_segment()
    assert waiting is None or waiting["number"] < 3
    sweep.train(given[0] or {})
    sweep.queue.end(given[0] or {})
    assert len(sweep.draws.trials) == 5


def test_wider_sweep_continues_its_draws(tmp_path: Path) -> None:
    sweep = SampledSweep(tmp_path / "widened", num_samples=5)
    sweep.run()
    before, points = sweep.journals(), [one["all_values"] for one in sweep.draws.trials]
    sweep.spec = specs.with_values(sweep.spec, {"sweep.num_samples": 9})
    sweep.begin()
    sweep.run()
    assert [one["all_values"] for one in sweep.draws.trials][:5] == points
    assert set(before) < set(sweep.journals())
    whole = SampledSweep(tmp_path / "whole", num_samples=9)
    whole.run()
    assert whole.draws.trials == sweep.draws.trials


def test_point_that_is_drawn_again_takes_the_results_of_its_twin(tmp_path: Path) -> None:
    sweep = SampledSweep(tmp_path, space=SMALL, num_samples=10, scheduler="fifo")
    sweep.run(workers=2)
    keys = [one["key"] for one in sweep.draws.trials]
    assert len(keys) == 10
    # Each point has run once.
    assert sorted(sweep.ran) == sorted((key, None) for key in set(keys))
    ended = sweep.ends.all()
    again = [number for number, trial in enumerate(ended) if trial.twin is not None]
    assert len(again) == 10 - len(set(keys)) >= 6
    for number in again:
        twin = ended[ended[number].twin or 0]
        assert (twin.key, twin.metric) == (keys[number], ended[number].metric)
    winner = trials.pick_winner(ended, "max")
    assert winner.twin is None
    table = trial_table.format_table(ended, winner, "accuracy")
    assert sum(f"trial {ended[again[0]].twin} drawn again" in line for line in table) >= 1
    assert table[-1] == f"{len(again)} of 10 samples were drawn again, and run once"
    assert len(table) == 12
    assert [line.split(" ended ")[0] for line in sweep.lines] == [
        f"sweep     {number} of 10" for number in range(1, 11)
    ]
    entries = sum(b'"kind":"entry"' in line for line in sweep.journals())
    assert entries == 10


def test_twin_waits_for_the_trial_that_runs(tmp_path: Path) -> None:
    sweep = SampledSweep(tmp_path, space={DEPTH: {"choice": [1]}}, num_samples=4)
    first = sweep.queue.next_segment()
    assert first is not None
    assert sweep.queue.next_segment() is None
    sweep.train(first)
    sweep.queue.end(first)
    sweep.run()
    assert {key for key, _ in sweep.ran} <= {first["key"]}


@pytest.mark.parametrize("exact", [True, False])
def test_result_that_a_draw_has_seen_counts_unless_it_can_be_had_again(
    tmp_path: Path, exact: bool
) -> None:
    sweep = SampledSweep(tmp_path, exact=exact, num_samples=4, lag=1)
    segment = sweep.queue.next_segment()
    assert segment is not None
    sweep.train(segment)
    sweep.queue.end(segment)
    assert len(sweep.draws.trials) == 2
    (sweep.folder / "trials" / segment["key"]).delete()
    sweep.begin()
    again = sweep.queue.next_segment()
    assert again is not None
    # Exact training gives the same result again; other training would give another one.
    assert again["number"] == (0 if exact else 1)
    # The draw is still the one that was written.
    assert len(sweep.draws.trials) == 2


def test_random_points_of_flat_spaces_have_no_journal_of_draws(tmp_path: Path) -> None:
    """So that sweeps of earlier versions continue: their points and first lines stay."""
    given = {"num_samples": 6, "search_alg": "random"}
    space = {RATE: {"loguniform": [1e-4, 1e-1]}, DEPTH: {"choice": [1, 2]}}
    spec = training_spec(str(tmp_path), model={"name": "mlp"}, sweep={"space": space, **given})
    draws = make_draws(spec, specs.to_dict(spec), Storage(str(tmp_path / "sweep")), print)
    assert draws.head() is None
    assert [one["all_values"] for one in draws.trials[:2]] == [
        {RATE: 0.004430375245218269, DEPTH: 2},
        {RATE: 0.03410336598413758, DEPTH: 2},
    ]
    assert not (tmp_path / "sweep" / "draws").exists()


@pytest.mark.parametrize("search_alg", ["random", "quasi_random", "grid"])
def test_points_with_domains_inside_sections_are_valid_trials(
    tmp_path: Path, search_alg: str
) -> None:
    width: dict[str, Any] = {"choice": [8, 16]} if search_alg == "grid" else {"lograndint": [8, 65]}
    space = {
        "model": {"choice": [{"name": "mlp", "width": width}, {"name": "linear"}]},
        "train.optimizer": {
            "choice": ["adam", {"name": "sgd", "momentum": {"choice": [0.5, 0.9]}}]
        },
    }
    given = {"space": space, "search_alg": search_alg, "num_samples": 20}
    spec = training_spec(str(tmp_path), sweep=given)
    points = known_points(spec)
    drawn = [trials.trial_spec(spec, point) for point in points]
    assert len(drawn) == (9 if search_alg == "grid" else 20)
    assert {one.train.optimizer.momentum for one in drawn} == {0.0, 0.5, 0.9}
    assert {one.model.name for one in drawn} == {"mlp", "linear"}  # type: ignore[union-attr]
    assert points == known_points(spec)


def test_points_before_results_are_those_that_a_learning_sweep_begins_with(tmp_path: Path) -> None:
    sweep = SampledSweep(tmp_path, num_samples=9, lag=3)
    points = known_points(sweep.spec)
    assert points == [one["all_values"] for one in sweep.draws.trials]
    assert len(points) == 3


@pytest.mark.parametrize(
    ("num_samples", "said"),
    [
        (9, ["sweep     the grid has 4 points, fewer than the 9 of sweep.num_samples"]),
        (4, []),
        (3, ["sweep     3 of the 4 points of the grid; sweep.num_samples says how many"]),
    ],
)
def test_grid_says_how_many_of_its_points_are_tried(
    tmp_path: Path, num_samples: int, said: list[str]
) -> None:
    sweep = SampledSweep(tmp_path, space=SMALL, num_samples=num_samples, search_alg="grid", lag=8)
    assert len(sweep.draws.trials) == min(4, num_samples)
    assert sweep.lines == said


def test_trials_that_were_not_drawn_are_refused(tmp_path: Path) -> None:
    sweep = SampledSweep(tmp_path, num_samples=4)
    sweep.run()
    assert isinstance(sweep.draws, Draws)
    (sweep.folder / "draws").delete()
    sweep.spec = specs.with_values(sweep.spec, {"sweep.lag": 1})
    with pytest.raises(RunError, match="are none of the"):
        sweep.begin()


def test_gaussian_processes_are_computed_on_one_thread(tmp_path: Path) -> None:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for search_alg, threads in (("gp", 1), ("tpe", 2)):
            with single_thread(search_alg):
                assert torch.get_num_threads() == threads
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("search_alg", ["random", "quasi_random", "tpe", "grid"])
def test_space_that_is_written_in_another_order_draws_the_same_points(
    tmp_path: Path, search_alg: str
) -> None:
    domains = {
        "train.optimizer": {"choice": ["adam", "sgd"]},
        "model.depth": {"choice": [1, 2, 3]},
        "model.width": {"choice": [8, 16, 32]},
    }

    def points_of(order: list[str]) -> list[dict[str, Any]]:
        sweep = {
            "space": {path: domains[path] for path in order},
            "search_alg": search_alg,
            "num_samples": 6,
        }
        if search_alg == "tpe":
            sweep["lag"] = 6
        model = {"name": "mlp", "depth": 1, "width": 8}
        spec = training_spec(str(tmp_path), model=model, sweep=sweep)
        nonlocal recorded
        # What the run has recorded when it began.
        recorded = recorded or specs.to_dict(spec)
        folder = Storage(str(tmp_path / "-".join(order)))
        draws = make_draws(spec, recorded, folder, lambda _: None)
        return [draws.trials[number]["all_values"] for number in range(len(draws.trials))]

    recorded: dict[str, Any] = {}
    first = points_of(list(domains))
    assert points_of(list(reversed(domains))) == first
