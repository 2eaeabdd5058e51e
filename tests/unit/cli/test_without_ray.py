"""Commands on a few rows do their work in their own process: none of them starts Ray."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

from raydc import engine
from raydc.cli import main
from raydc.data import small_jobs, tasks
from raydc.engine import Engine

SPEC = """
name: small
data:
  source: rows.csv
  target: y
  split: {validation_fraction: 0.2, test_fraction: 0.2}
model: {name: mlp, hidden: [4]}
train: {epochs: 2, global_batch_size: 16}
scaling: {num_workers: 0}
"""


class RayStartedError(Exception):
    """A command has asked for Ray."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose commands may not connect to Ray."""

    def connect(*_: object, **__: object) -> Engine:
        raise RayStartedError

    monkeypatch.setattr(engine, "connect", connect)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    lines = [f"{row % 50},{'abc'[row % 3]},{'no' if row % 2 else 'yes'}" for row in range(200)]
    (tmp_path / "rows.csv").write_text("\n".join(["n,code,y", *lines]) + "\n")
    (tmp_path / "small.yaml").write_text(SPEC)
    return tmp_path


def run(*arguments: str) -> str:
    """Output of a command that has to succeed."""
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def contents(storage: Path) -> dict[str, bytes]:
    """The files of the data sets of a storage, without the logs of when they were made."""
    data = storage / "data"
    return {
        str(path.relative_to(data)): path.read_bytes()
        for path in data.rglob("*")
        if path.suffix in (".arrow", ".json")
    }


def test_each_stage_runs_here(here: Path) -> None:
    assert "look " in run("inspect", "small.yaml")
    assert "200 rows" in run("prepare", "small.yaml")
    assert "done      the model is in" in run("train", "small.yaml")
    assert "register  small version 1" in run("evaluate", "small.yaml")
    run("predict", "small.yaml", "--input", "rows.csv", "--output", "out.csv")
    with (here / "out.csv").open(newline="") as file:
        assert {row["prediction"] for row in csv.DictReader(file)} <= {"no", "yes"}


def test_run_without_workers_and_endpoint_runs_here() -> None:
    output = run("run", "small.yaml")
    assert "done      small version 1" in output
    assert "local Ray" not in output


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "small.yaml", "--set", "scaling.num_workers=1"),
        ("run", "small.yaml", "--set", "serve={}"),
        ("prepare", "small.yaml", "--address", "127.0.0.1:1"),
        ("predict", "small.yaml", "--input", "rows.csv", "--output", "o.csv", "--address", "x:1"),
    ],
)
def test_what_needs_ray_asks_for_it_before_any_work(here: Path, arguments: tuple[str, ...]) -> None:
    with pytest.raises(RayStartedError):
        run(*arguments)
    assert not (here / "store").exists()


def test_larger_sources_go_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(small_jobs.SMALL_VARIABLE, "0.001")
    with pytest.raises(RayStartedError):
        run("prepare", "small.yaml")


@pytest.mark.parametrize("command", ["prepare", "inspect"])
def test_rows_that_turn_out_to_be_large_go_to_ray(
    here: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(tasks, "_MAX_KEPT_BYTES", 1000)
    monkeypatch.setattr(tasks, "_MAX_MAPPED_BYTES", 1000)
    with pytest.raises(RayStartedError):
        run(command, "small.yaml")
    assert not [path for path in (here / "store").rglob("*") if path.is_file()]


def test_rows_beyond_the_memory_for_them_are_mapped_files(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("prepare", "small.yaml")
    expected = contents(here / "store")
    scratch = here / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(tasks, "_MAX_KEPT_BYTES", 1000)
    opened: list[str] = []
    map_file = pa.memory_map
    monkeypatch.setattr(pa, "memory_map", lambda path: (opened.append(path), map_file(path))[1])
    run("prepare", "small.yaml", "--set", "storage=other")
    assert [Path(path).parent for path in opened] == [scratch]
    assert contents(here / "other") == expected
    assert not list(scratch.iterdir())


def test_mapped_rows_may_have_a_dictionary_for_each_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_MAX_KEPT_BYTES", 0)
    parts = [pa.table({"c": pa.array(texts).dictionary_encode()}) for texts in (["a"], ["b"])]
    table = pa.concat_tables(parts)
    assert tasks._keep(table).equals(table)


def test_files_in_memory_save_none(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"a / ext4 rw 0 0\nb {tmp_path} tmpfs rw 0 0\nc {tmp_path}/disk ext4 rw 0 0\n"
    )
    assert tasks._is_in_memory(str(tmp_path / "x"), mounts)
    assert not tasks._is_in_memory(str(tmp_path / "disk" / "x"), mounts)
    assert not tasks._is_in_memory("/", mounts)
    monkeypatch.setattr(tasks, "_MAX_KEPT_BYTES", 1000)
    monkeypatch.setattr(tasks, "_is_in_memory", lambda _: True)
    with pytest.raises(RayStartedError):
        run("prepare", "small.yaml")


def test_rows_go_to_ray_before_they_fill_the_disk(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "_MAX_KEPT_BYTES", 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9000, 7000, 2000))
    with pytest.raises(RayStartedError):
        run("prepare", "small.yaml")


@pytest.mark.parametrize("limit", ["8MB", "-1", "nan"])
def test_limit_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setenv(small_jobs.SMALL_VARIABLE, limit)
    result = CliRunner().invoke(main, ["prepare", "small.yaml"])
    assert result.exit_code == 2
    assert f"RAYDC_SMALL_MB is {limit!r}, which is not a number from 0 on" in result.output


def test_preparation_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys; from raydc.cli import main;"
        "main(['prepare', 'small.yaml'], standalone_mode=False);"
        "print(sorted({'ray', 'torch'} & set(sys.modules)))"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True, timeout=120)
    assert output.splitlines()[-1] == "[]"
