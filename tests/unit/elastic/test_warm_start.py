"""Results of earlier sweeps and of studies of Optuna, with which a sweep begins."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from training import training_spec

from raydc import spec as specs
from raydc.cli import early_checks
from raydc.elastic.trial_draws import known_points, make_draws, read_results
from raydc.errors import SpecError, UsageError
from raydc.search import DecisionFold, Method
from raydc.search.decision_log import DecisionLog
from raydc.search.draws import LearnedDraws
from raydc.search.learned_points import Draw, LearnedPoints
from raydc.spec import ResolvedSpec
from raydc.storage import Storage

RATE, DEPTH = "train.learning_rate", "model.depth"
SPACE = {RATE: {"loguniform": [1e-4, 1e-1]}, DEPTH: {"choice": [1, 2, 3]}}
MODEL = {"name": "mlp", "depth": 1}


def swept(folder: Path, *warm_start: str, **sweep: Any) -> ResolvedSpec:
    given = {"space": SPACE, "search_alg": "tpe", "num_samples": 6, "warm_start": [*warm_start]}
    return training_spec(str(folder), model=MODEL, sweep={**given, **sweep})


def make_run(folder: Path, name: str, results: list[float | None], **sections: Any) -> None:
    """An earlier sweep, which has these first results."""
    sweep = {"space": SPACE, "num_samples": len(results), **sections.pop("sweep", {})}
    spec = training_spec(str(folder), model=MODEL, sweep=sweep, **sections)
    run = Storage(str(folder)) / "runs" / name
    run.write_bytes("resolved.yaml", yaml.safe_dump(specs.to_dict(spec)).encode())
    draws = make_draws(spec, specs.to_dict(spec), run / "sweep", print)
    metrics = dict(enumerate(results))
    while draws.extend(metrics):
        pass
    fold = DecisionFold(0, {}, Method("stopping", (1,), 2, "max", (len(results),)))
    for number, metric in metrics.items():
        fold.add((number, 0), metric)
    DecisionLog(run / "sweep" / "journal").extend(fold.lines)


@pytest.mark.parametrize("sweep", [{}, {"search_alg": "tpe", "lag": 2}])
def test_sweep_begins_with_the_results_of_an_earlier_one(
    tmp_path: Path, sweep: dict[str, Any]
) -> None:
    results = [0.1, None, 0.3, 0.9, 0.2]
    make_run(tmp_path, "older", results, sweep=sweep)
    lines: list[str] = []
    found = read_results(swept(tmp_path, "older"), lines.append)
    assert [one.metric for one in found] == results
    assert all(set(one.numbers) == {RATE, DEPTH} for one in found)
    assert lines == ["sweep     begins with 5 of 5 results of older"]
    # As places in the list of values.
    narrow = {**SPACE, DEPTH: {"choice": [2, 3]}}
    fitting = read_results(swept(tmp_path, "older", space=narrow), lines.append)
    assert 0 < len(fitting) < 5
    assert [one.metric for one in fitting] == [
        one.metric for one in found if one.numbers[DEPTH] > 0
    ]
    assert lines[1].startswith(
        f"sweep     begins with {len(fitting)} of 5 results of older; {5 - len(fitting)} do not "
        "fit the space, the first: model.depth of 1 is outside"
    )


def test_results_are_copied_into_the_journal_of_the_sweep(tmp_path: Path) -> None:
    make_run(tmp_path, "older", [0.1, 0.2, 0.3, 0.9, 0.2])
    spec = swept(tmp_path, "older")
    folder = Storage(str(tmp_path / "sweep"))
    lines: list[str] = []
    draws = make_draws(spec, specs.to_dict(spec), folder, lines.append)
    draws.extend({})
    points = known_points(spec, read_results(spec, lambda _: None))
    assert points == [one["all_values"] for one in draws.trials]
    head = json.loads(folder.read_bytes("draws/00000001.json"))
    assert [metric for _, metric in head["known"]] == [0.1, 0.2, 0.3, 0.9, 0.2]
    # A sweep that continues needs the earlier one no more.
    (Storage(str(tmp_path)) / "runs").delete()
    again = make_draws(spec, specs.to_dict(spec), folder, lines.append)
    assert isinstance(again, LearnedDraws)
    assert again.trials == draws.trials
    assert len(lines) == 1
    # Without them other points are drawn.
    cold = swept(tmp_path)
    other = make_draws(cold, specs.to_dict(cold), Storage(str(tmp_path / "cold")), print)
    other.extend({})
    assert other.trials != draws.trials


@pytest.mark.parametrize("name", ["tpe", "gp", "cmaes"])
def test_first_points_are_drawn_once_by_the_checks_and_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    make_run(tmp_path, "older", [0.1, 0.2, 0.3, 0.9, 0.2])
    spec = swept(tmp_path, "older", search_alg=name, lag=4)
    drawn: list[str] = []
    draw = LearnedPoints.draw

    def count(self: LearnedPoints) -> Draw:
        drawn.append(name)
        return draw(self)

    monkeypatch.setattr(LearnedPoints, "draw", count)
    early_checks.check_points(spec, resume=False)
    draws = make_draws(spec, specs.to_dict(spec), Storage(str(tmp_path / "sweep")), print)
    draws.extend({})
    assert (len(drawn), len(draws.trials)) == (4, 4)
    # What comes next is as if all had been drawn in one study.
    results = dict.fromkeys(range(2), 0.5)
    draws.extend(results)
    assert (len(drawn), len(draws.trials)) == (6, 6)
    known = read_results(spec, lambda _: None)
    assert spec.sweep is not None
    alone = LearnedPoints(name, spec.sweep.space, spec.seed, "max", known, lag=spec.sweep.lag)
    points = []
    for number in range(6):
        if number >= 4:
            alone.tell(number - 4, results[number - 4])
        points.append(draw(alone).point)
    assert [one["all_values"] for one in draws.trials] == points


def make_study(folder: Path, kind: str, direction: str = "maximize", *names: str) -> str:
    if kind == "journal":
        place = str(folder / "study.log")
        backend = optuna.storages.journal.JournalFileBackend(place)
        storage: Any = optuna.storages.JournalStorage(backend)
    else:
        place = storage = f"sqlite:///{folder}/study.db"
    for name in names or ("one",):
        study = optuna.create_study(storage=storage, study_name=name, direction=direction)
        for rate, depth in ((1e-3, 1), (1e-2, 2), (0.5, 3)):
            trial = study.ask()
            trial.suggest_float(RATE, rate, rate)
            trial.suggest_int(DEPTH, depth, depth)
            study.tell(trial, 100 * rate)
        study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
    return place


@pytest.mark.parametrize("kind", ["journal", "database"])
def test_sweep_begins_with_a_study_of_optuna(tmp_path: Path, kind: str) -> None:
    place, lines = make_study(tmp_path, kind), list[str]()
    found = read_results(swept(tmp_path, place), lines.append)
    assert [(dict(one.numbers), one.metric) for one in found] == [
        ({RATE: 1e-3, DEPTH: 0}, 0.1),
        ({RATE: 1e-2, DEPTH: 1}, 1.0),
    ]
    assert lines == [
        f"sweep     begins with 2 of 3 results of {place}; 1 do not fit the space, the first: "
        f"{RATE} of 0.5 is outside"
    ]


def test_one_of_several_studies_is_chosen_by_its_name(tmp_path: Path) -> None:
    place = make_study(tmp_path, "journal", "maximize", "one", "two")
    assert len(read_results(swept(tmp_path, f"{place}#two"), print)) == 2
    with pytest.raises(UsageError, match=r"study\.log has 2 studies: one, two"):
        read_results(swept(tmp_path, place), print)


def test_url_with_a_password_is_that_of_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url in ("postgresql://me:secret@host/db", "postgresql://host/db?password=secret"):
        value = specs.to_dict(swept(tmp_path, url))
        with pytest.raises(SpecError, match=r"warm_start\.0: holds a password; give it as \$NAME"):
            specs.loads(yaml.safe_dump(value))
    spec = swept(tmp_path, "$STUDIES#two")
    with pytest.raises(UsageError, match="the environment variable STUDIES is not set"):
        read_results(spec, print)
    monkeypatch.setenv("STUDIES", make_study(tmp_path, "journal", "maximize", "one", "two"))
    assert len(read_results(spec, print)) == 2
    # No message says what it holds.
    for place in ("nothing://me:secret@host", f"{tmp_path}/study.log"):
        monkeypatch.setenv("STUDIES", place)
        with pytest.raises(UsageError) as caught:
            read_results(swept(tmp_path, "$STUDIES"), print)
        assert place not in f"{caught.value.message} {caught.value.hint}"
        assert "$STUDIES" in caught.value.message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "nowhere is no run with a sweep in .*/runs"),
        ("plain", "plain is no run with a sweep"),
        ("of loss", r"of loss compares loss \(min\), and this sweep accuracy \(max\)"),
        ("sqlite:///no.db", r"sqlite:///no\.db cannot be read: no file no\.db"),
        ("no.log", r"no\.log cannot be read: no file no\.log"),
        ("minimised", "study one has minimize, and this sweep looks for the max of one metric"),
        ("nothing://x", "nothing://x cannot be read: "),
    ],
)
def test_results_that_cannot_be_used_are_refused(tmp_path: Path, name: str, message: str) -> None:
    make_run(tmp_path, "of loss", [0.5, 0.6], train={"metric": "loss", "mode": "min"})
    plain = training_spec(str(tmp_path), model=MODEL)
    run = Storage(str(tmp_path)) / "runs" / "plain"
    run.write_bytes("resolved.yaml", yaml.safe_dump(specs.to_dict(plain)).encode())
    if name == "minimised":
        name = make_study(tmp_path, "journal", "minimize")
    with pytest.raises(UsageError, match=rf"^sweep\.warm_start: {message}"):
        read_results(swept(tmp_path, name), print)
    assert not (tmp_path / "no.log").exists()


@pytest.mark.parametrize("search_alg", ["tpe", "random", "quasi_random"])
def test_earlier_run_is_only_read(tmp_path: Path, search_alg: str) -> None:
    make_run(tmp_path, "older", [0.1, 0.2, 0.3], sweep={"search_alg": search_alg})
    run = Storage(str(tmp_path)) / "runs" / "older"
    # Two runs of old versions: one whose draws are gone, and one that has none yet.
    run.delete("sweep/draws")
    before = files(tmp_path)
    given = swept(tmp_path, "older")
    if search_alg == "tpe":
        message = r"^sweep\.warm_start: run older has a result of trial 2, and 0 points"
        with pytest.raises(UsageError, match=message):
            read_results(given, print)
    else:
        assert len(read_results(given, print)) == 3
    assert files(tmp_path) == before


def files(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in found}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("resolved.yaml", b"sweep: {space: {}}\nname: older\n", r".*data.*"),
        ("sweep/journal/00000002.json", b"{", r".*does not follow decision 1 .*"),
        ("sweep/draws/00000003.json", b"{}", r".*does not follow decision 2 .*"),
    ],
)
def test_damage_of_an_earlier_run_reads_as_that_of_the_earlier_run(
    tmp_path: Path, file: str, content: bytes, message: str
) -> None:
    make_run(tmp_path, "older", [0.1, 0.2, 0.3], sweep={"search_alg": "tpe"})
    (Storage(str(tmp_path)) / "runs" / "older").write_bytes(file, content)
    with pytest.raises(
        UsageError, match=rf"^sweep\.warm_start: run older cannot be read: {message}"
    ):
        read_results(swept(tmp_path, "older"), print)


@pytest.mark.parametrize("driver", ["sqlite", "sqlite+pysqlite"])
def test_mistaken_database_is_left_as_it_is(tmp_path: Path, driver: str) -> None:
    path = tmp_path / "customers.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE customers (id INTEGER)")
    before = path.read_bytes()
    for given in (f"{driver}:///{path}", f"{driver}:///{path}?timeout=5"):
        with pytest.raises(UsageError, match=r"cannot be read: .*no such table"):
            read_results(swept(tmp_path, given), print)
    with pytest.raises(UsageError, match="cannot be read: no file"):
        read_results(swept(tmp_path, f"{driver}:///{tmp_path}/custmers.db"), print)
    assert files(tmp_path) == {str(path): before}


def test_run_does_not_begin_with_its_own_results(tmp_path: Path) -> None:
    spec = swept(tmp_path, "earlier", "again").model_copy(update={"name": "again"})
    with pytest.raises(UsageError, match="again is this run itself") as caught:
        early_checks.check_points(spec, resume=False)
    assert "--resume" in (caught.value.hint or "")
