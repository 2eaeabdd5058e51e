"""The report of a run: true to its files, harmless to the run, whole whatever is missing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reported_runs
from click.testing import CliRunner
from reported_runs import HOSTILE

from raydc.cli import main
from raydc.data.prepared import Prepared
from raydc.report import diagnosis, run_record, run_report
from raydc.report.markup import escape
from raydc.storage import Storage

Made = tuple[Path, Storage, Prepared]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Folder, run folder and data set of a classification that has its report."""
    folder = tmp_path_factory.mktemp("reported")
    reported_runs.write_rows(folder / "rows.csv")
    run_folder, data = reported_runs.finish_run(folder)
    lines: list[str] = []
    run_report.write_after_run(run_folder, "short", data, lines.append)
    assert lines == [f"report    {run_folder.uri}/report.html"]
    return folder, run_folder, data


@pytest.fixture
def copied(made: Made, tmp_path: Path) -> Made:
    """The same, to be broken."""
    folder = tmp_path / "copy"
    shutil.copytree(made[0] / "store" / "runs" / "short", folder / "store" / "runs" / "short")
    return folder, Storage(str(folder / "store" / "runs" / "short")), made[2]


def page_of(run_folder: Storage) -> str:
    return run_folder.read_bytes("report.html").decode()


def refuse(*_: Any) -> Any:
    raise AssertionError("called")


def test_page_stands_alone_and_holds_no_code_of_the_data(made: Made) -> None:
    page = page_of(made[1])
    assert not re.search(r"<script|<link|<iframe|https?://|url\(|@import|javascript:", page)
    assert page.count(escape(HOSTILE)) > 5
    parts = re.findall(r'<section id="(\w+)"', page)
    assert parts == [
        "curves", "classes", "calibration", "importance", "slices", "worst", "time", "spec",
    ]  # fmt: skip
    assert parts == re.findall(r'href="#(\w+)"', page)


def test_diagnosis_finds_what_the_target_follows_from(made: Made) -> None:
    found = made[1].read_json("diagnosis.json")
    assert found["left_out"] == []
    assert found["judged"] == made[2].num_rows["test"]
    assert found["importance"]["columns"][0]["column"] == "signal"
    assert found["gradients"][0]["column"] == "signal"
    assert sum(one["rows"] for one in found["calibration"]["bins"]) == found["judged"]
    assert 0 <= found["calibration"]["error"] < 0.3


def test_worst_rows_are_those_of_the_source(made: Made) -> None:
    found = made[1].read_json("diagnosis.json")["worst"]
    lines = (made[0] / "rows.csv").read_text().splitlines()
    losses = [one["loss"] for one in found]
    assert losses == sorted(losses, reverse=True)
    for one in found:
        number = int(one["place"].rpartition("row ")[2])
        signal, noise, place, target = lines[number].split(",")
        assert one["values"] == {"signal": signal, "noise": noise, HOSTILE: place}
        assert one["expected"] == target
    assert found[0]["answered"] != found[0]["expected"]


def test_report_is_made_again_from_stored_files_alone(
    copied: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run_folder, _ = copied
    before = page_of(run_folder)
    run_folder.delete("report.html")
    monkeypatch.setattr(diagnosis, "diagnose", refuse)
    run_report.write(run_folder, "short", refuse, 60.0)
    foot = re.compile(r"<footer>.*?</footer>")
    assert foot.sub("", page_of(run_folder)) == foot.sub("", before)


def test_another_model_is_diagnosed_again(copied: Made) -> None:
    _, run_folder, data = copied
    old = run_folder.read_json("diagnosis.json")
    run_folder.write_json("diagnosis.json", {**old, "model": "another", "worst": []})
    run_report.write(run_folder, "short", lambda: data, 60.0)
    found = run_folder.read_json("diagnosis.json")
    assert (found["model"], found["worst"]) == (old["model"], old["worst"])


def test_changed_sources_are_noticed(made: Made, copied: Made) -> None:
    _, run_folder, data = copied
    rows = made[0] / "rows.csv"
    text = rows.read_text()
    try:
        rows.write_text(text.replace("Rome", "Oslo"))
        found = diagnosis.diagnose(run_folder / "model", data, 60.0)
        assert found["left_out"] == [
            "values of the rows: the sources have changed since preparation"
        ]
        assert "values" not in found["worst"][0]
        assert found["importance"]["columns"][0]["column"] == "signal"
        rows.unlink()
        gone = diagnosis.diagnose(run_folder / "model", data, 60.0)
        assert gone["left_out"][0].startswith("values of the rows: ")
        assert gone["worst"][0]["place"].startswith("row ")
    finally:
        rows.write_text(text)


def test_diagnosis_without_time_says_what_it_left_out(copied: Made) -> None:
    found = diagnosis.diagnose(copied[1] / "model", copied[2], 0.0)
    assert found["judged"] > 0
    assert "importance of 3 columns: the time limit was reached" in found["left_out"]


DAMAGES: dict[str, Callable[[Storage], None]] = {
    "no evaluation": lambda folder: folder.delete("evaluation.json"),
    "evaluation of another kind": lambda folder: folder.write_json("evaluation.json", [1]),
    "torn evaluation": lambda folder: folder.write_bytes("evaluation.json", b"{"),
    "odd matrix": lambda folder: folder.write_json(
        "evaluation.json", {"confusion_matrix": [[1]], "support": {"a": 1}, "loss": None}
    ),
    "no metrics": lambda folder: folder.delete("metrics.jsonl"),
    "odd metrics": lambda folder: folder.write_bytes(
        "metrics.jsonl", b'{"kind":"step","step":1,"loss":"x"}\n{"kind":"epoch","step":2}\nxx\n'
    ),
    "no events": lambda folder: folder.delete("events.jsonl"),
    "no spec": lambda folder: (folder.delete("spec.yaml"), folder.delete("resolved.yaml"))[0],
    "torn spec": lambda folder: folder.write_bytes("resolved.yaml", b"a: [\xff"),
    "no model": lambda folder: folder.delete("model"),
    "torn diagnosis": lambda folder: folder.write_bytes("diagnosis.json", b"[1"),
    "old diagnosis": lambda folder: folder.write_json("diagnosis.json", {"format": 0}),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_page_is_whole_whatever_is_missing(copied: Made, damage: str) -> None:
    _, run_folder, data = copied
    DAMAGES[damage](run_folder)
    run_report.write(run_folder, "short", lambda: data, 60.0)
    page = page_of(run_folder)
    assert page.endswith("</html>\n")
    assert "Where the time went" in page


def test_report_that_fails_is_a_line_and_no_error(
    copied: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run_folder, data = copied

    def fail(*_: Any) -> Any:
        raise ValueError("no page today")

    lines: list[str] = []
    monkeypatch.setattr("raydc.report.run_page.render", fail)
    run_report.write_after_run(run_folder, "short", data, lines.append)
    assert lines == ["report    none: ValueError: no page today; `raydc report short` tries again"]


def test_model_that_cannot_be_diagnosed_leaves_the_rest_of_the_page(
    copied: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run_folder, data = copied
    run_folder.delete("diagnosis.json")

    def fail(*_: Any) -> Any:
        raise RuntimeError("a layer of mine")

    monkeypatch.setattr(diagnosis, "diagnose", fail)
    lines: list[str] = []
    run_report.write_after_run(run_folder, "short", data, lines.append)
    assert "Left out: the diagnosis: a layer of mine." in page_of(run_folder)
    assert not run_folder.exists("diagnosis.json")


def test_interruption_is_not_swallowed(copied: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    _, run_folder, data = copied

    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("raydc.report.run_page.render", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_report.write_after_run(run_folder, "short", data, lambda line: None)


def test_regression_is_reported_in_units_of_its_target(tmp_path: Path) -> None:
    reported_runs.write_rows(tmp_path / "rows.csv", "regression")
    run_folder, data = reported_runs.finish_run(tmp_path, data={"task": "regression"})
    run_report.write(run_folder, "short", lambda: data, 60.0)
    found = run_folder.read_json("diagnosis.json")
    assert found["left_out"] == []
    assert found["importance"]["columns"][0]["column"] == "signal"
    for one in found["worst"]:
        assert one["loss"] == pytest.approx((one["expected"] - one["answered"]) ** 2)
        assert 80 < one["expected"] < 120
    assert "Predicted and true values" in page_of(run_folder)


def test_command_makes_reports_and_compares_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported_runs.write_rows(tmp_path / "rows.csv")
    monkeypatch.chdir(tmp_path)
    for name, rate in (("slow", 0.001), ("fast", 0.05)):
        reported_runs.finish_run(tmp_path, name, train={"learning_rate": rate})
    result = CliRunner().invoke(main, ["report", "slow", "fast", "slow"])
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.output.splitlines()] == ["report", "report", "done"]
    page = (tmp_path / "comparison.html").read_text()
    assert "<td>train.learning_rate</td><td>0.001</td><td>0.05</td>" in page
    # The name of a run is not a difference of its spec.
    assert "<td>name</td>" not in page
    assert page.count(" slow</span>") >= 3
    unknown = CliRunner().invoke(main, ["report", "slwo"])
    assert (unknown.exit_code, "slow" in unknown.output) == (5, True)


def test_curves_are_the_history_that_the_model_has_seen(copied: Made) -> None:
    _, run_folder, _ = copied
    lines = [
        {"kind": "step", "step": 1, "loss": 3.0}, {"kind": "step", "step": 2, "loss": 9.0},
        {"kind": "start", "step": 1}, {"kind": "step", "step": 2, "loss": 2.0},
    ]  # fmt: skip
    run_folder.write_bytes("metrics.jsonl", "\n".join(map(json.dumps, lines)).encode())
    curve = run_record.read(run_folder, "short").curves["train/loss"]
    assert (curve.steps, curve.values) == ([1.0, 2.0], [3.0, 2.0])


def test_slices_that_were_asked_for_are_shown(copied: Made) -> None:
    _, run_folder, data = copied
    scores = {"num_rows": 20, "accuracy": 0.75, "f1": None, "per_class": {"a": 1}}
    asked = {"split": "test", "slices": {HOSTILE: {"Rome": scores, HOSTILE: {"num_rows": 1}}}}
    run_folder.write_json("evaluation.json", asked)
    run_report.write(run_folder, "short", lambda: data, 60.0)
    page = page_of(run_folder)
    assert '<td>Rome</td><td class="n">20</td><td class="n">0.75</td>' in page
    assert f'<td>{escape(HOSTILE)}</td><td class="n">1</td><td class="n">-</td>' in page
    assert "per_class" not in page
