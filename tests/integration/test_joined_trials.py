"""Idle workers join the trials of a sweep, and leave, and die: the sweep stays the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from training import training_spec, write_pictures

from raydc import engine, sweep
from raydc import spec as specs
from raydc.data import prepared
from raydc.elastic import join_gain, slot_queue
from raydc.spec import ResolvedSpec
from raydc.storage import Storage, sha256
from raydc.sweep import SweepResult
from raydc.tracking import events
from raydc.tracking.phase_timer import read_account

_SHARDS = 4
_END_TIMEOUT_S = 60


def spec_of(
    folder: Path, hurry: Path, workers: Any, trials_at_once: int | None = None
) -> ResolvedSpec:
    """Two trials that wait in their steps until the file `hurry` exists."""
    arguments = {"width": 8, "file": str(hurry)}
    space = {"model.arguments.width": {"grid": [8, 16]}}
    return training_spec(
        str(folder),
        model={"builder": "waiting_network:network", "arguments": arguments},
        train={"epochs": 12, "logical_shards": _SHARDS, "log_every_steps": 1},
        scaling={"num_workers": workers},
        sweep={
            "space": space,
            "num_samples": 2,
            "search_alg": "grid",
            "scheduler": "fifo",
            "max_concurrent_trials": trials_at_once,
        },
        checkpoint={"every_steps": 1000},
        fault_tolerance={"max_recomputed_steps": 1},
    )


@pytest.fixture(scope="module", autouse=True)
def _eager() -> Iterator[None]:
    """Whoever is idle joins: these trials are short, and nothing would be gained."""
    patch = pytest.MonkeyPatch()
    # Trials import their network from where the driver was started.
    patch.chdir(Path(__file__).parent.parent)
    choose = join_gain.choose_joins
    patch.setattr(
        slot_queue,
        "choose_joins",
        lambda running, free, most, shards, _: choose(running, free, most, shards, 0.0),
    )
    yield
    patch.undo()


class WatchedSweep:
    """A sweep in this process, and what its trials record meanwhile."""

    def __init__(self, spec: ResolvedSpec, data: prepared.Prepared, folder: Path) -> None:
        self.folder, self.lines = Storage(str(folder)), [""]
        self._spec, self._data = spec, data
        self._stop = threading.Event()

    def run(self, disturb: Callable[[], None]) -> SweepResult:
        """Runs it, while a thread disturbs it."""
        thread = threading.Thread(target=disturb, daemon=True)
        thread.start()
        result = sweep.run(self._spec, self._data, self.folder, self.lines.append)
        self._stop.set()
        thread.join()
        return result

    def wait(self, is_true: Callable[[], Any]) -> Any:
        while not (found := is_true()) and not self._stop.is_set():
            time.sleep(0.02)
        return found

    def events(self) -> dict[str, list[dict[str, Any]]]:
        """Events of each trial that has begun, by its key."""
        return {
            key: list(events.read(self.folder / "sweep" / "trials" / key, "events"))
            for key in self.folder.names("sweep/trials")
        }

    def kinds(self, kind: str) -> list[dict[str, Any]]:
        return [one for log in self.events().values() for one in log if one["kind"] == kind]

    def num_steps(self) -> int:
        """Records of steps of all trials, those that are done again included."""
        places = [self.folder / "sweep" / "trials" / key for key in self.events()]
        logs = (events.read(place, "metrics") for place in places)
        return sum(one["kind"] == "step" for log in logs for one in log)

    def trains_together(self) -> list[list[int]]:
        """Processes of each trial that trains with several workers now."""
        found = []
        for log in self.events().values():
            starts = [one for one in log if one["kind"] == "attempt_started"]
            changes = ("resize", "run_finished", "workers_left")
            ends = [one for one in log if one["kind"] in changes]
            is_newer = starts and (not ends or starts[-1]["time_s"] > ends[-1]["time_s"])
            if is_newer and starts[-1]["world_size"] > 1:
                found.append(starts[-1]["pids"])
        return found

    def journal(self) -> list[bytes]:
        names = [name for name in self.folder.names("sweep/journal") if name.endswith(".json")]
        return [self.folder.read_bytes(f"sweep/journal/{name}") for name in names]

    def standing(self) -> list[dict[str, Any]]:
        """Trials of a sweep that has not ended."""
        found: list[dict[str, Any]] = self.folder.read_json("sweep/standing.json")["trials"]
        return found

    def model(self) -> str:
        return sha256(self.folder.read_bytes("model/model.safetensors"))


@dataclass(frozen=True)
class Place:
    """Where the sweeps of this module are, and the one whose trials have one worker each."""

    folder: Path
    hurry: Path
    data: prepared.Prepared
    alone: WatchedSweep
    expected: SweepResult

    def sweep(self, workers: Any, name: str, trials_at_once: int | None = None) -> WatchedSweep:
        """A sweep of the same trials, which wait until it is disturbed."""
        self.hurry.unlink()
        given = spec_of(self.folder, self.hurry, workers, trials_at_once)
        return WatchedSweep(given, self.data, self.folder / name)

    def expect_same(self, watched: WatchedSweep, result: SweepResult) -> None:
        """Fails unless a sweep has the trials, decisions and model of the one without joining."""
        assert result.trials == self.expected.trials
        assert watched.journal() == self.alone.journal()
        assert watched.model() == self.alone.model()


@pytest.fixture(scope="module")
def place(ray_engine: engine.Engine, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("joined")
    hurry = folder / "hurry"
    hurry.touch()
    data = prepared.load(write_pictures(Storage(str(folder / "data"))))
    alone = WatchedSweep(spec_of(folder, hurry, 1), data, folder / "alone")
    expected = alone.run(lambda: None)
    assert not alone.kinds("workers_joined")
    return Place(folder, hurry, data, alone, expected)


def test_sweep_is_the_same_with_workers_that_join_and_die(place: Place) -> None:
    joined = place.sweep({"min": 1, "max": _SHARDS}, "joined")

    def disturb() -> None:
        # A helper of one trial dies, then the leader of one.
        (pids, *_) = joined.wait(joined.trains_together)
        os.kill(pids[1], signal.SIGKILL)
        joined.wait(lambda: [e for e in joined.kinds("workers_left") if e["reason"] == "lost"])
        (pids, *_) = joined.wait(joined.trains_together)
        os.kill(pids[0], signal.SIGKILL)
        joined.wait(lambda: any("is tried again" in line for line in joined.lines))
        place.hurry.touch()

    result = joined.run(disturb)
    place.expect_same(joined, result)
    assert len(joined.kinds("workers_joined")) >= 2
    for key, log in joined.events().items():
        # Every second between the first record and the last is accounted for.
        account = read_account(joined.folder / "sweep" / "trials" / key)
        until_s = max(one["until_s"] for one in log if one["kind"] == "time")
        assert account.wall_s == pytest.approx(until_s - log[0]["since_s"], abs=0.1)
        # Few steps are done again, though there was no checkpoint for most of them.
        assert account.recomputed_steps <= 16
    assert sum("is tried again" in line for line in joined.lines) == 1
    assert sum("has lost a worker" in line for line in joined.lines) == 1


def test_trials_of_two_workers_train_together_from_the_start_and_after_a_loss(
    place: Place,
) -> None:
    both = place.sweep(2, "both")

    def disturb() -> None:
        (pids, *_) = both.wait(both.trains_together)
        os.kill(pids[1], signal.SIGKILL)
        both.wait(lambda: any("is tried again" in line for line in both.lines))
        place.hurry.touch()

    result = both.run(disturb)
    place.expect_same(both, result)
    starts = both.kinds("attempt_started")
    assert {one["world_size"] for one in starts} == {2}
    # One of two trials has begun again.
    assert len(starts) == 3
    assert len({pid for one in starts for pid in one["pids"]}) >= 4


def test_helpers_that_are_left_after_a_loss_train_on_and_an_error_of_a_group_is_none_of_the_trial(
    place: Place,
) -> None:
    one = place.sweep({"min": 1, "max": _SHARDS}, "one", trials_at_once=1)
    refusal = place.hurry.with_name("hurry.together")
    left: list[int] = []
    after: list[int] = []

    def disturb() -> None:
        (pids,) = one.wait(lambda: [pids for pids in one.trains_together() if len(pids) == _SHARDS])
        # The leader has states in its memory then that no helper can read.
        before = one.num_steps()
        one.wait(lambda: one.num_steps() > before + 3)
        os.kill(pids[-1], signal.SIGKILL)
        one.wait(lambda: [e for e in one.kinds("workers_left") if e["reason"] == "lost"])
        after.extend(*one.wait(one.trains_together))
        left.extend(pids[:-1])
        refusal.touch()
        one.wait(lambda: [e for e in one.kinds("workers_left") if e["reason"] == "failed"])
        place.hurry.touch()

    result = one.run(disturb)
    refusal.unlink()
    place.expect_same(one, result)
    assert {*left} <= {*after}
    # It needed no second attempt.
    assert not any("is tried again" in line for line in one.lines)


def test_error_in_one_of_two_workers_is_the_result_of_the_trial(place: Place) -> None:
    failure = place.hurry.with_name("hurry.wide")
    failure.touch()
    found = []
    for workers, name in ((1, "failing"), (2, "failing-both")):
        watched = place.sweep(workers, name)
        place.hurry.touch()
        found.append((watched.run(lambda: None).trials, watched.journal(), watched.model()))
    failure.unlink()
    assert found[0] == found[1]
    errors = {trial.error for trial in found[0][0]}
    assert errors == {None, "ValueError: these rows do not fit"}


# What a command does, so that it can be interrupted; its workers join as in this process.
DRIVER = """
import json, sys
from raydc import engine, spec, sweep
from raydc.cli import process
from raydc.data import prepared
from raydc.elastic import join_gain, slot_queue
from raydc.storage import Storage
address, given, data, folder = json.loads(sys.argv[1])
choose = join_gain.choose_joins
slot_queue.choose_joins = lambda running, free, most, shards, _: choose(
    running, free, most, shards, 0.0
)
def command():
    engine.connect(address)
    place = prepared.load(Storage(data))
    sweep.run(spec.resolve(spec.from_dict(given)), place, Storage(folder), print)
process.run(command)
"""


def test_interrupted_driver_of_joined_trials_exports_nothing_and_is_continued(
    place: Place, ray_engine: engine.Engine
) -> None:
    signalled = place.sweep({"min": 1, "max": _SHARDS}, "signalled")
    given = spec_of(place.folder, place.hurry, {"min": 1, "max": _SHARDS})
    sources = place.data.folder.uri, signalled.folder.uri
    arguments = json.dumps([ray_engine.address, specs.to_dict(given), *sources])
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, arguments],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        # A job in the background ignores it, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        signalled.wait(lambda: signalled.trains_together() or driver.poll() is not None)
        driver.send_signal(signal.SIGINT)
        assert driver.wait(_END_TIMEOUT_S) == 130
    finally:
        driver.kill()
    assert signalled.kinds("workers_joined")
    # Nothing of it became a model, and no trial is over that only stopped with its driver.
    assert not signalled.folder.exists("model")
    assert not signalled.folder.exists("sweep/trials.json")
    assert [one["state"] for one in signalled.standing()] == ["running"] * 2
    before = signalled.num_steps()
    assert before
    place.hurry.touch()
    result = signalled.run(lambda: None)
    place.expect_same(signalled, result)
    # It went on from where it was stopped, with a checkpoint of each trial.
    assert signalled.num_steps() == place.alone.num_steps()
