"""The file with how a sweep stands, while it runs and after its driver was killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reported_sweeps import begin_sweep, train_part

from raydc.cli.run_inventory import read_run
from raydc.cli.store_listing import StoreListing
from raydc.elastic.standing_file import StandingFile
from raydc.elastic.sweep_table import SweepStanding
from raydc.report import run_record
from raydc.report.sweep_parts import sweep_parts
from raydc.storage import Storage
from raydc.tracking.lease import TakenOverError
from raydc.tracking.trials import STANDING_FILE

NOTHING = SweepStanding([], 24, 0, 0.0)


def test_report_and_list_of_a_sweep_that_has_not_ended_know_its_trials(tmp_path: Path) -> None:
    begun = begin_sweep(tmp_path)
    file = StandingFile(begun.folder, begun.draws, begun.ends)
    place = begun.folder / "trials"
    segments = [begun.queue.next_segment() or {} for _ in range(9)]
    # Seven have a result at the first rung, and two train.
    for segment in segments[:7]:
        train_part(begun.spec, place / segment["key"], segment)
        begun.queue.end(segment)
    file.write(begun.queue.standing())
    record = run_record.read(begun.run, "searched")
    assert record.sweep is not None
    states = {trial.number: trial.state for trial in record.sweep.trials}
    assert sorted(states) == [segment["number"] for segment in segments]
    assert [number for number, state in states.items() if state == "running"] == [7, 8]
    stopped = [one for one in record.sweep.trials if one.state == "pruned"]
    assert stopped
    # Their results are not in the journal yet, which is in the order of the trials.
    assert all(one.why.startswith(("place ", "no metric ")) for one in stopped)
    firsts = {one.number for one in record.sweep.trials if one.first_metric is not None}
    assert firsts == {one.number for one in record.sweep.trials if one.metric is not None}
    assert record.sweep.num_samples == 24
    text = str(sweep_parts(record.sweep)[0].body)
    assert "The sweep has not ended at 20" in text
    assert "9 of 24 trials: 0 trained to the end" in text
    assert "2 running" in text
    run = read_run(StoreListing(Storage(begun.spec.storage)), "searched")
    assert run.standing == f"{len(stopped)} of 24 trials have ended"
    # Its end says it all.
    begun.folder.write_json("trials.json", [])
    begun.folder.delete(STANDING_FILE)
    assert run_record.read(begun.run, "searched").sweep is None
    assert read_run(StoreListing(Storage(begun.spec.storage)), "searched").standing == ""


def test_file_is_written_once_in_a_while(tmp_path: Path) -> None:
    begun, now_s = begin_sweep(tmp_path), [0.0]
    file = StandingFile(begun.folder, begun.draws, begun.ends, now_s=lambda: now_s[0])
    asked: list[float] = []

    def standing() -> SweepStanding:
        asked.append(now_s[0])
        return NOTHING

    for now_s[0] in (0.0, 1.0, 4.9, 5.1, 6.0, 10.2):
        file.write_if_due(standing)
    assert asked == [0.0, 5.1, 10.2]


@pytest.mark.parametrize("error", [OSError(28, "no space"), TakenOverError("another driver")])
def test_sweep_of_another_driver_or_without_space_is_left_alone(
    tmp_path: Path, error: Exception
) -> None:
    begun = begin_sweep(tmp_path)

    def refuse() -> Any:
        raise error

    StandingFile(begun.folder, begun.draws, begun.ends, refuse).write(NOTHING)
    assert not begun.folder.exists(STANDING_FILE)


def test_time_that_is_none_is_left_out(tmp_path: Path) -> None:
    begun = begin_sweep(tmp_path)
    trial = {"values": {}, "state": "running", "number": 0}
    for time_s in (1e300, -5, "x", None):
        standing = {"num_samples": 3, "time_s": time_s, "trials": [trial]}
        begun.folder.write_json(STANDING_FILE, standing)
        record = run_record.read(begun.run, "searched")
        assert record.sweep is not None
        body = str(sweep_parts(record.sweep)[0].body)
        assert "The sweep has not ended. 1 of 3 trials: 0 trained" in body


@pytest.mark.parametrize("damaged", [b"", b"[]", b'{"trials": {}}', b'{"trials": ["x"]}'])
def test_damaged_file_stops_no_reader(tmp_path: Path, damaged: bytes) -> None:
    begun = begin_sweep(tmp_path)
    begun.folder.write_bytes(STANDING_FILE, damaged)
    assert run_record.read(begun.run, "searched").sweep is None
    assert read_run(StoreListing(Storage(begun.spec.storage)), "searched").standing == ""
