"""What a report says about a sweep: true to its files, whole whatever is missing."""

from __future__ import annotations

import json
import math
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import reported_sweeps
import yaml
from reported_runs import HOSTILE

from raydc.report import run_page, run_record, sweep_record
from raydc.report.markup import escape
from raydc.report.sweep_parts import sweep_parts
from raydc.report.sweep_record import SweepRecord
from raydc.storage import Storage


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return reported_sweeps.finish_sweep(tmp_path_factory.mktemp("swept"))[0]


def page_of(run: Storage) -> str:
    return run_page.render(run_record.read(run, "searched"), "made by a test")


def record_of(run: Storage) -> SweepRecord:
    found = run_record.read(run, "searched").sweep
    assert found is not None
    return found


def part(sweep: SweepRecord, name: str) -> str:
    return str(next(one.body for one in sweep_parts(sweep) if one.name == name))


def rows(text: str) -> list[list[str]]:
    """Cells of the body of the first table, without markup."""
    body = re.search(r"<tbody>(.*?)</tbody>", text, re.DOTALL)
    assert body is not None
    found = re.findall(r"<tr>(.*?)</tr>", body[1])
    return [[re.sub("<[^>]+>", "", cell) for cell in row.split("</td>")[:-1]] for row in found]


def test_page_of_a_sweep_has_its_parts_and_holds_no_code_of_its_values(swept: Storage) -> None:
    page = page_of(swept)
    assert re.findall(r'<section id="(\w+)"', page) == [
        "trials", "space", "fields", "decisions", "spec",
    ]  # fmt: skip
    assert not re.search(r"<script|<link|https?://|url\(|javascript:", page)
    assert escape(HOSTILE) in page


def test_trials_are_in_the_order_of_their_metric_each_with_why_it_was_stopped(
    swept: Storage,
) -> None:
    shown = rows(part(record_of(swept), "trials"))
    trials = swept.read_json("sweep/trials.json")
    assert len(shown) == len(trials) == 24
    scores = [float(row[5]) for row in shown if row[5] != "-"]
    assert scores == sorted(scores, reverse=True)
    assert [row[0] for row in shown] == ["best"] + [""] * 23
    for row in shown:
        trial = trials[int(row[1])]
        assert (row[6], row[7]) == (str(trial["epochs"]), trial["state"])
        assert bool(row[8]) == (trial["state"] == "pruned"), row
    reasons = {re.sub(r"\d+", "9", row[8]).replace("epochs", "epoch") for row in shown}
    assert reasons == {"", "place 9 of 9 after 9 epoch, 9 go on", "no metric after 9 epoch"}


def test_decisions_are_those_of_the_journal(swept: Storage) -> None:
    names = swept.names("sweep/journal")
    journal = [swept.read_json(f"sweep/journal/{name}") for name in names]
    entries = {str(one["number"]): one for one in journal if one["kind"] == "entry"}
    shown = rows(part(record_of(swept), "decisions"))
    assert [row[0] for row in shown] == list(entries)
    for number, trial, epochs, _, then, because in shown:
        entry = entries[number]
        assert (trial, epochs) == (str(entry["trial"]), str(entry["epochs"]))
        goes_on = entry["trial"] in entry["goes_on"]
        assert then == ("is at the end" if epochs == "9" else "goes on" if goes_on else "stops")
        if entry["rank"] is not None:
            assert because.startswith(f"place {entry['rank']} of {entry['place']} after ")


def test_promotion_says_who_waits_and_whom_a_result_lets_go_on(tmp_path: Path) -> None:
    scheduler = {"name": "asha", "type": "promotion"}
    run, _ = reported_sweeps.finish_sweep(tmp_path, scheduler=scheduler, num_samples=9)
    shown = rows(part(record_of(run), "decisions"))
    assert {row[4] for row in shown} >= {"waits", "is at the end"}
    assert any(re.search(r"; trials? \d.* now$", row[5]) for row in shown)


def test_lines_of_the_fields_lie_where_the_values_are(swept: Storage) -> None:
    sweep = record_of(swept)
    text = part(sweep, "space")
    drawing = ET.fromstring(f"<r>{text}</r>").find(".//svg[@class='chart wide']")
    assert drawing is not None
    titles = [one.text for one in drawing.findall("text[@class='t']")]
    assert titles == [
        "model", "depth (mlp)", "width (mlp)", "learning_rate", "optimizer", "momentum (sgd)",
        "accuracy",
    ]  # fmt: skip
    # The best is drawn last, over all others, and only trials with a metric are there.
    lines = drawing.findall("polyline")
    measured = [one for one in sweep.trials if one.metric is not None]
    assert len(lines) == len(measured) < 24
    assert f"{24 - len(measured)} trials without a metric are left out" in text
    assert [line.get("class") for line in lines].count("line s1 best") == 1
    best = sweep.ranked()[0]
    assert (lines[-1].findtext("title") or "").startswith(f"trial {best.number}: accuracy ")
    heights = [[float(pair.split(",")[1]) for pair in line.get("points", "").split()]
               for line in lines]  # fmt: skip
    # Upwards is a lower number in a drawing: the last axis has the best at the top.
    assert [one[-1] for one in heights] == sorted((one[-1] for one in heights), reverse=True)
    rates = [one.values["train.learning_rate"] for one in reversed(sweep.ranked()) if one.metric]
    by_rate = [height for _, height in sorted(zip(rates, (one[3] for one in heights), strict=True))]
    assert by_rate == sorted(by_rate, reverse=True)
    # What a trial does not have is below all axes.
    has_none = [one.values["model"].get("depth") is None for one in reversed(sweep.ranked())
                if one.metric is not None]  # fmt: skip
    lowest = max(height for one in heights for height in one)
    assert [one[1] == lowest for one in heights] == has_none


def test_smallest_loss_is_at_the_top(tmp_path: Path) -> None:
    def error(values: dict[str, Any], epoch: int) -> float:
        return 1 - (reported_sweeps.accuracy(values, epoch) or 0.0)

    run, _ = reported_sweeps.finish_sweep(tmp_path, score=error, num_samples=6)
    resolved = run.read_bytes("resolved.yaml").replace(b"mode: max", b"mode: min")
    run.write_bytes("resolved.yaml", resolved)
    text = part(record_of(run), "space")
    drawing = ET.fromstring(f"<r>{text}</r>").find(".//svg[@class='chart wide']")
    assert drawing is not None
    ends = [float((one.get("points") or "").rpartition(",")[2]) for one in
            drawing.findall("polyline")]  # fmt: skip
    assert ends == sorted(ends, reverse=True)


def test_importances_find_the_field_that_matters_and_need_enough_trials(
    swept: Storage, tmp_path: Path
) -> None:
    names = re.findall(r'<th scope="row">([^<]+)', part(record_of(swept), "fields"))
    assert names[0] == "learning_rate"
    assert set(names) == {
        "model", "depth (mlp)", "width (mlp)", "learning_rate", "optimizer", "momentum (sgd)",
    }  # fmt: skip
    few, _ = reported_sweeps.finish_sweep(tmp_path, num_samples=19)
    said = "Importances need 20 different trials, and this sweep has 19."
    assert said in part(record_of(few), "fields")


def test_front_is_what_no_other_trial_is_better_than(tmp_path: Path) -> None:
    limit = 12_000
    run, _ = reported_sweeps.finish_sweep(
        tmp_path,
        objectives=["parameters"],
        constraints={"parameters": limit},
        scheduler="fifo",
    )
    sweep = record_of(run)
    text = part(sweep, "front")
    shown = [int(row[0]) for row in rows(text)]
    trials = run.read_json("sweep/trials.json")
    points = {
        number: (-one["metric"], one["costs"]["parameters"])
        for number, one in enumerate(trials)
        if one["metric"] is not None and one["costs"]["parameters"] <= limit
    }
    expected = {
        number
        for number, (metric, cost) in points.items()
        if not any(
            m <= metric and c <= cost and (m, c) != (metric, cost) for m, c in points.values()
        )
    }
    assert set(shown) <= expected
    assert {points[number] for number in shown} == {points[number] for number in expected}
    # The line goes through the front, from the smallest model to the largest.
    drawing = ET.fromstring(f"<r>{text}</r>").find(".//svg[@class='chart']")
    assert drawing is not None
    front = drawing.find("polyline[@class='line s0']")
    assert front is not None
    places = [tuple(map(float, pair.split(","))) for pair in front.get("points", "").split()]
    assert len(places) == len(shown) > 1
    assert places == sorted(places, key=lambda place: (place[0], -place[1]))
    assert [y for _, y in places] == sorted((y for _, y in places), reverse=True)
    # All other trials with a metric are dots behind it, and the limit is a line.
    others = [one for one in trials if one["metric"] is not None]
    assert len(drawing.findall("circle[@class='back mark']")) == len(others) - len(shown)
    assert drawing.find("polyline[@class='guide']") is not None
    assert "parameters" in part(sweep, "space")


def test_damaged_files_are_named_and_the_rest_is_shown(swept: Storage, tmp_path: Path) -> None:
    shutil.copytree(swept.local_path, tmp_path / "run")
    run = Storage(str(tmp_path / "run"))
    run.write_bytes("sweep/journal/00000003.json", b"{")
    trials = run.read_json("sweep/trials.json")
    trials[0] = {"values": "odd", "metric": "odd", "key": "0"}
    run.write_json("sweep/trials.json", [*trials, "odd"])
    page = page_of(run)
    assert "sweep/journal (" in page
    assert re.findall(r'<section id="(\w+)"', page) == ["trials", "space", "fields", "spec"]
    run.write_json("sweep/trials.json", {})
    assert run_record.read(run, "searched").sweep is None


@pytest.mark.parametrize("wrong", [10**12, -1, None, "8", [8]])
def test_odd_number_of_samples_takes_no_memory_and_is_named(
    swept: Storage, tmp_path: Path, wrong: Any
) -> None:
    shutil.copytree(swept.local_path, tmp_path / "run")
    run = Storage(str(tmp_path / "run"))
    trials = run.read_json("sweep/trials.json")
    run.write_json("sweep/standing.json", {"num_samples": wrong, "trials": trials})
    found = record_of(run)
    assert len(found.trials) == len(trials)
    assert found.num_samples is None
    assert any("standing.json (num_samples is" in one for one in found.damaged)


@pytest.mark.parametrize("wrong", [None, 1.5, "x", [1], {"a": "x"}])
def test_odd_sections_of_a_damaged_spec_leave_a_page(
    swept: Storage, tmp_path: Path, wrong: Any
) -> None:
    shutil.copytree(swept.local_path, tmp_path / "run")
    run = Storage(str(tmp_path / "run"))
    shutil.rmtree(tmp_path / "run" / "sweep" / "journal")
    whole = yaml.safe_load(run.read_bytes("resolved.yaml"))
    damaged = [{**whole, name: wrong} for name in ("train", "sweep", "model", "data")]
    names = ("space", "objectives", "constraints")
    damaged += [{**whole, "sweep": {**whole["sweep"], name: wrong}} for name in names]
    for one in damaged:
        run.write_bytes("resolved.yaml", yaml.safe_dump(one).encode())
        assert '<section id="trials"' in page_of(run)


def test_metric_that_is_no_number_is_not_the_best(swept: Storage, tmp_path: Path) -> None:
    shutil.copytree(swept.local_path, tmp_path / "run")
    run = Storage(str(tmp_path / "run"))
    best = record_of(run).ranked()[0].number
    trials = run.read_json("sweep/trials.json")
    for odd in (math.nan, math.inf, -math.inf, 10**400, True, "1"):
        trials[best - 1]["metric"] = odd
        (tmp_path / "run" / "sweep" / "trials.json").write_text(json.dumps(trials))
        assert record_of(run).ranked()[0].number == best
        assert page_of(run)


def test_titles_are_short_where_that_is_clear() -> None:
    space = {
        "model": {"choice": [{"name": "mlp", "depth": {"choice": [1, 2]}}, {"name": "linear"}]},
        "train.optimizer.name": {"choice": ["sgd", "adam"]},
        "train.sampling.seed": {"choice": [1, 2]},
        "data.seed": {"choice": [1, 2]},
    }
    spec = {"sweep": {"space": space}, "train": {"metric": "loss", "mode": "min"}}
    sweep = sweep_record.read(Storage("/nowhere"), json.loads(json.dumps(spec)), [])
    assert sweep.titles() == {
        "model": "model",
        "model[0].depth": "depth (mlp)",
        "train.optimizer.name": "optimizer.name",
        "train.sampling.seed": "train.sampling.seed",
        "data.seed": "data.seed",
    }


def test_front_of_several_objectives_is_shown_with_its_costs(tmp_path: Path) -> None:
    goals = {"objectives": ["parameters"], "constraints": {"latency_ms": 1.5}}
    run, _ = reported_sweeps.finish_sweep(tmp_path, scheduler="fifo", **goals)
    sweep = record_of(run)
    shown = rows(part(sweep, "front"))
    trials = run.read_json("sweep/trials.json")
    sizes = [trials[int(row[0])]["costs"]["parameters"] for row in shown]
    assert len(shown) > 1
    # The best metric comes first, and each that follows is smaller.
    assert sizes == sorted(set(sizes), reverse=True)
    assert all(float(row[3]) <= 1.5 for row in shown)
    text = part(sweep, "front")
    assert "latency_ms at most 1.5" in text
    assert f"{sweep.metric} over parameters" in text
    assert 'id="front"' in page_of(run)


def test_sweep_of_one_objective_has_no_front(swept: Storage) -> None:
    assert all(one.name != "front" for one in sweep_parts(record_of(swept)))
