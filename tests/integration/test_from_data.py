"""From a stranger's file to an answer: `raydc init`, `raydc run`, and nothing edited.

The first rows of real data sets, which are not part of the project.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from click.testing import CliRunner

from raydc import engine
from raydc.cli import main
from raydc.registry import Registry
from raydc.storage import Storage

NUM_ROWS = 2000
# Tests share a Ray and its ports. `--once` ends the command where it would go on to serve.
ON_THIS_MACHINE = ("--once", "--set", "serve.port=0")
DATA_SETS = {
    "housing": ("california_housing/housing.csv", "median_house_value"),
    "adult": ("adult/adult_train.csv", "income"),
    "bank": ("bank_marketing/bank_additional_full.csv.gz", "y"),
    "telco": ("telco_churn/Telco-Customer-Churn.csv", "Churn"),
}


def _head(source: Path, target: Path) -> None:
    """The first rows of a file, as a file."""
    content = source.read_bytes()
    content = gzip.decompress(content) if source.suffix == ".gz" else content
    target.write_bytes(b"".join(content.splitlines(keepends=True)[: NUM_ROWS + 1]))


# The tutorial, tests/integration/test_readme.py, goes the same way in the default suite.
@pytest.mark.soak
@pytest.mark.parametrize("name", ["housing", "adult", "bank", "telco"])
def test_file_of_a_stranger_becomes_an_answer(
    ray_engine: engine.Engine,
    shared_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    file, target = DATA_SETS[name]
    _head(shared_data / file, tmp_path / f"{name}.csv")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", ray_engine.address)
    made = CliRunner().invoke(main, ["init", f"{name}.csv", "--target", target])
    assert made.exit_code == 0, made.output
    ran = CliRunner().invoke(main, ["run", f"{name}.yaml", *ON_THIS_MACHINE])
    assert ran.exit_code == 0, ran.output
    assert f"answers as {name} version 1" in ran.output
    answered = next(line for line in ran.output.splitlines() if line.startswith("predict"))
    assert "the held-out row says" in answered
    assert Registry(Storage(str(tmp_path / "store"))).aliases(name) == {"production": 1}
