"""`raydc inspect` as a command: what it prints, and the file that it writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from raydc.cli import main

SPEC = """
name: small
data: {source: rows.csv, target: y}
model: {name: linear}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    lines = [f"{row % 50},{'ab'[row % 2]},{'no' if row % 2 else 'yes'}" for row in range(200)]
    (tmp_path / "rows.csv").write_text("\n".join(["n,code,y", *lines]) + "\n")
    (tmp_path / "small.yaml").write_text(SPEC)
    return tmp_path


def inspect(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["inspect", *arguments])
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result.exit_code, result.output


def test_inspect_prints_columns_and_what_to_look_at(here: Path) -> None:
    code, output = inspect("small.yaml")
    assert code == 0, output
    assert "y (target)" in output
    assert "look      leak: column 'code' alone nearly determines the target (AUC 1.000)." in output
    assert {path.name for path in here.iterdir()} == {"rows.csv", "small.yaml"}


def test_inspect_writes_the_page_that_is_asked_for(here: Path) -> None:
    code, output = inspect("small.yaml", "--html", "seen.html")
    assert (code, "done      seen.html" in output) == (0, True), output
    text = (here / "seen.html").read_text()
    assert "Data of small" in text
    assert "Made by raydc " in text


def test_inspect_of_a_missing_source_fails_before_ray_starts(here: Path) -> None:
    (here / "rows.csv").unlink()
    code, output = inspect("small.yaml")
    assert code == 3
    assert "rows.csv" in output
