"""What models of trials cost: counted, measured once, and refused above a limit before training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from records import FIELDS, record_features
from training import training_spec, write_pictures

from raydc import spec as specs
from raydc.bundle import Bundle
from raydc.data import prepared
from raydc.elastic.trial_costs import TrialCosts
from raydc.elastic.trial_draws import make_draws
from raydc.elastic.trial_ends import TrialEnds
from raydc.elastic.trial_queue import TrialQueue
from raydc.errors import Problem, SpecError, UsageError
from raydc.models import networks
from raydc.storage import Storage
from raydc.tracking import events, trials

WIDTH, RATE = "model.width", "train.learning_rate"
SPACE = {WIDTH: {"choice": [4, 8, 16, 32]}, RATE: {"loguniform": [1e-4, 1e-1]}}


class CostlySweep:
    """A sweep of networks of one hidden layer, whose trials are records of this process."""

    def __init__(
        self,
        folder: Path,
        search_alg: str = "nsga2",
        serve: dict[str, Any] | None = None,
        **sweep: Any,
    ) -> None:
        given = {
            "space": SPACE,
            "scheduler": "fifo",
            "search_alg": search_alg,
            "num_samples": 20,
            "objectives": ["parameters"],
            **sweep,
        }
        model = {"name": "mlp", "depth": 1, "width": 8}
        sections = {} if serve is None else {"serve": serve}
        self.spec = training_spec(str(folder), model=model, sweep=given, **sections)
        self.data = prepared.load(write_pictures(Storage(str(folder / "data"))))
        self.folder = Storage(str(folder / "sweep"))
        self.lines: list[str] = []
        self.begin()

    def begin(self) -> None:
        self.costs = TrialCosts(self.spec, self.data, self.folder)
        say = self.lines.append
        recorded = specs.to_dict(self.spec)
        draws = make_draws(self.spec, recorded, self.folder, say, self.costs.of)
        self.ends = TrialEnds(self.spec, self.folder, draws, say)
        self.queue = TrialQueue(self.spec, self.folder, draws, self.ends, self.costs)

    def run(self, restarts: bool = False) -> list[int]:
        """Runs all trials; returns the widths of those that train."""
        widths = []
        while (segment := self.queue.next_segment()) is not None:
            values, place = segment["all_values"], self.folder / "trials" / segment["key"]
            widths.append(values[WIDTH])
            accuracy = 1.0 - 1.0 / values[WIDTH] - values[RATE]
            events.EventLog(place, "metrics").write(
                kind="epoch", step=7, epoch=1, accuracy=accuracy
            )
            own = trials.trial_spec(self.spec, values)
            trials.mark_ended(place, own, values, trials.FINISHED_FILE)
            self.queue.end(segment)
            if restarts:
                self.begin()
        self.queue.raise_failed()
        assert self.queue.is_over
        return widths

    def num_parameters(self, width: int) -> int:
        signature = self.data.features.signature
        num_inputs = int(signature.shape[0] * signature.shape[1] * signature.shape[2])
        return width * (num_inputs + 1) + signature.num_outputs * (width + 1)

    def journals(self) -> list[bytes]:
        places = ("draws", "journal")
        names = [f"{place}/{name}" for place in places for name in self.folder.names(place)]
        return [self.folder.read_bytes(name) for name in names]


def test_parameters_are_those_of_the_network_of_the_data(tmp_path: Path) -> None:
    sweep = CostlySweep(tmp_path)
    for width in (4, 32):
        found = sweep.costs.of({WIDTH: width, RATE: 0.01})
        assert found == {"parameters": sweep.num_parameters(width)}


def test_network_that_cannot_be_built_has_no_costs_and_fails_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise SpecError([Problem("", "model", "too deep")])

    monkeypatch.setattr(networks, "build", fail)
    sweep = CostlySweep(tmp_path, constraints={"parameters": 1})
    assert sweep.costs.of({WIDTH: 8, RATE: 0.01}) == {}
    assert (sweep.queue.next_segment() or {})["number"] == 0


@pytest.mark.parametrize("search_alg", ["nsga2", "tpe", "random"])
def test_trial_above_a_limit_is_not_trained(tmp_path: Path, search_alg: str) -> None:
    limit = CostlySweep(tmp_path / "first").num_parameters(8)
    sweep = CostlySweep(tmp_path / "it", search_alg, constraints={"parameters": limit})
    widths = sweep.run()
    assert set(widths) == {4, 8}
    ended = sweep.ends.all()
    refused = [trial for trial in ended if trial.state == "failed"]
    assert {trial.values[WIDTH] for trial in refused} == {16, 32}
    assert all(trial.metric is None for trial in refused)
    costs = f"{sweep.num_parameters(16):,}, of at most {limit:,}"
    assert any(trial.error == f"infeasible: parameters {costs}" for trial in refused)
    assert len(ended) == 20


def test_journals_are_the_same_after_restarts(tmp_path: Path) -> None:
    limit = CostlySweep(tmp_path / "first").num_parameters(16)
    constraints = {"parameters": limit}
    whole = CostlySweep(tmp_path / "whole", constraints=constraints)
    whole.run()
    restarted = CostlySweep(tmp_path / "restarted", constraints=constraints)
    restarted.run(restarts=True)
    assert restarted.journals() == whole.journals()


def test_latency_is_measured_once_for_each_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[int] = []
    measure = TrialCosts._time

    def count(self: TrialCosts, network: Any, own: Any) -> float:
        timed.append(own.model.width)
        return measure(self, network, own)

    monkeypatch.setattr(TrialCosts, "_time", count)
    limit = {"latency_ms": 1000.0}
    sweep = CostlySweep(tmp_path, constraints=limit, objectives=["latency_ms"], num_samples=6)
    sweep.run(restarts=True)
    assert len(timed) == len(set(timed)) > 1
    costs = sweep.costs.of({WIDTH: timed[0], RATE: 0.05})
    assert costs["latency_ms"] > 0
    assert costs == TrialCosts(sweep.spec, sweep.data, sweep.folder).of(
        {WIDTH: timed[0], RATE: 0.001}
    )
    assert len(timed) == len(set(timed)), "kept for another driver"


def test_latency_of_a_network_with_too_many_parameters_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[int] = []

    def count(_: TrialCosts, __: Any, own: Any) -> float:
        timed.append(own.model.width)
        return 0.5

    monkeypatch.setattr(TrialCosts, "_time", count)
    limit = CostlySweep(tmp_path / "first").num_parameters(8)
    limits = {"latency_ms": 1000.0, "parameters": limit}
    goals = {"constraints": limits, "objectives": ["latency_ms"]}
    sweep = CostlySweep(tmp_path / "it", **goals)
    assert set(sweep.run()) == {4, 8}
    assert set(timed) == {4, 8}
    wide = sweep.costs.of({WIDTH: 32, RATE: 0.01})
    assert wide == {"parameters": sweep.num_parameters(32)}
    again = CostlySweep(tmp_path / "again", **goals)
    again.run(restarts=True)
    assert again.journals() == sweep.journals()


def test_latency_is_measured_with_the_threads_of_a_replica(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    run = Bundle.run

    def note(self: Bundle, x: Any) -> Any:
        threads.append(self.num_threads)
        return run(self, x)

    monkeypatch.setattr(Bundle, "run", note)
    serve = {"ray_actor_options": {"num_cpus": 2}}
    for options in (None, serve):
        sweep = CostlySweep(tmp_path, serve=options, objectives=["latency_ms"], num_samples=1)
        sweep.costs.of({WIDTH: 8, RATE: 0.01})
    assert threads[0] == 1
    assert threads[-1] == 2, "a time with other threads is another one"


def test_latency_of_texts_is_that_of_the_longest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    forward = Bundle.forward

    def note(self: Bundle, x: Any) -> Any:
        lengths.extend(np.diff(x.fields["words"].offsets).tolist())
        return forward(self, x)

    monkeypatch.setattr(Bundle, "forward", note)
    fields = {"words": FIELDS["words"]}
    data: Any = SimpleNamespace(features=record_features(fields), data_hash="of texts")
    space = {WIDTH: {"choice": [8, 16]}}
    given = {"space": space, "scheduler": "fifo", "constraints": {"latency_ms": 1000.0}}
    model = {"name": "transformer", "width": 8, "depth": 1, "heads": 2}
    spec = training_spec(str(tmp_path), model=model, sweep=given)
    costs = TrialCosts(spec, data, Storage(str(tmp_path))).of({WIDTH: 8})
    assert costs["latency_ms"] > 0
    assert set(lengths) == {FIELDS["words"].max_length}


def test_disk_that_takes_no_record_of_a_refusal_ends_the_sweep_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left")

    sweep = CostlySweep(tmp_path, constraints={"parameters": 1})
    monkeypatch.setattr(trials, "mark_failed", fail)
    assert sweep.queue.next_segment() is None
    assert sweep.queue.is_over
    with pytest.raises(OSError, match="No space left"):
        sweep.queue.raise_failed()


def test_latency_of_a_gpu_is_not_measured_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    spec = training_spec(
        str(tmp_path),
        model={"name": "mlp", "depth": 1, "width": 8},
        sweep={"space": SPACE, "scheduler": "fifo", "constraints": {"latency_ms": 5}},
        serve={"ray_actor_options": {"num_gpus": 1}},
    )
    data = prepared.load(write_pictures(Storage(str(tmp_path / "data"))))
    with pytest.raises(UsageError, match="latency_ms is that of a replica with a GPU"):
        TrialCosts(spec, data, Storage(str(tmp_path / "sweep")))
