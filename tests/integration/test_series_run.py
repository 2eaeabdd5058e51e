"""A table of series becomes a model of its windows that answers, on the shared Ray."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from endpoints import SMALL, take_down
from series_files import Row, machine_rows, series_data, write_rows

from raydc import bundle, client, engine
from raydc.cli import main
from raydc.storage import Storage

LENGTH = 8


def _rows() -> list[Row]:
    """Waves of two machines, one far above the other."""
    rows = machine_rows(80)
    for row in rows:
        level, step = divmod(row["load"], 1000)
        row["load"] = round(level * 50 + 10 * math.sin(step / 4), 3)
    return rows


@pytest.mark.soak
def test_from_a_table_of_series_to_an_answer(
    ray_engine: engine.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", ray_engine.address)
    rows = _rows()
    spec = {
        "name": "machines",
        "storage": str(tmp_path / "store"),
        "data": series_data(write_rows(tmp_path, rows, 2), length=LENGTH, horizon=3),
        "model": {"name": "nlinear"},
        "train": {"epochs": 30, "learning_rate": 0.01, "global_batch_size": 16},
        "scaling": {"num_workers": 1},
        "serve": {"port": 0, "auth": "none", "ray_actor_options": SMALL},
    }
    path = tmp_path / "machines.yaml"
    path.write_text(yaml.safe_dump(spec))
    take_down()
    try:
        done = CliRunner().invoke(main, ["run", str(path)])
        assert done.exit_code == 0, done.output
        assert "140 windows of 2 series" in done.output
        assert "step 3: mae" in done.output
        url = re.search(r"http://127\.0\.0\.1:\d+", done.output)[0]  # type: ignore[index]
        run = Storage(spec["storage"]) / "runs/machines"
        scores = run.read_json("evaluation.json")
        assert np.mean([one["mae"] for one in scores["by_step"]]) == pytest.approx(scores["mae"])
        assert scores["mae_over_persistence"] < 1
        # The last rows of a machine, as they are in the table.
        last = [row for row in rows if row["machine"] == "b"][-LENGTH:]
        answer = client.predict(url, rows=[{"window": last}])
        loaded = bundle.load(run / "model")
        assert answer["predictions"] == loaded.predict_rows([{"window": last}])
        forecast = answer["predictions"][0]["value"]
        assert len(forecast) == 3
        assert all(30 < value < 70 for value in forecast)
        assert "importance" in json.loads(run.read_bytes("diagnosis.json"))
    finally:
        take_down()
