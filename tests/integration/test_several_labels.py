"""Several labels for each row, from a file to an answered request, on the Ray of the tests."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from raydc import bundle, engine
from raydc.cli import main
from raydc.registry import Registry
from raydc.storage import Storage

LABELS = ("bright", "loud", "warm")


def write_source(path: Path) -> None:
    """Rows of which each number decides about one label, and an id that decides about none."""
    choose = random.Random(1)
    lines = ["id,heat,light,noise,tags"]
    for row in range(400):
        numbers = [choose.gauss(0, 1) for _ in range(3)]
        sizes = zip(("warm", "bright", "loud"), numbers, strict=True)
        tags = [name for name, size in sizes if size > 0.5]
        cells = ",".join(f"{number:.4f}" for number in numbers)
        lines.append(f"{row},{cells},{';'.join(tags)}")
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.soak
def test_from_a_file_to_an_answer(
    ray_engine: engine.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_source(tmp_path / "rows.csv")
    spec = {
        "name": "tags",
        "storage": str(tmp_path / "store"),
        "data": {
            "source": "rows.csv",
            "task": "multilabel",
            "target": "tags",
            "label_delimiter": ";",
            "clean": {"missing_values": []},
            "features": {"exclude": ["id"]},
        },
        "model": {"name": "linear"},
        "train": {
            "epochs": 12,
            "global_batch_size": 32,
            "learning_rate": 0.05,
            "threshold": {"name": "f1"},
            "logical_shards": 2,
        },
        "scaling": {"num_workers": 2, "use_gpu": False},
        "serve": {"port": 0, "auth": "none", "ray_actor_options": {"num_cpus": 0.5}},
    }
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", ray_engine.address)
    done = CliRunner().invoke(main, ["run", "spec.yaml", "--once"])
    assert done.exit_code == 0, done.stdout + done.stderr
    said = next(line for line in done.stdout.splitlines() if line.startswith("predict"))
    assert "answered [" in said
    assert "the held-out row says [" in said

    storage = Storage(str(tmp_path / "store"))
    found = storage.read_json("runs/tags/evaluation.json")
    assert found["f1"] > 0.9
    assert list(found["per_class"]) == sorted(LABELS) == list(found["support"])
    assert "confusion_matrix" not in found
    assert "Scores by label" in (tmp_path / "store/runs/tags/report.html").read_text()

    # Batch predictions are those of the bundle, labels of the source or not.
    output = tmp_path / "out.csv"
    arguments = ["predict", "spec.yaml", "--input", "rows.csv", "--output", str(output)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.stdout + done.stderr
    loaded = bundle.load(Registry(storage).folder("tags", 1))
    assert len(loaded.features.label_thresholds) == 3
    rows = list(csv.DictReader(output.open()))
    given = [
        {name: float(row[name]) for name in ("heat", "light", "noise")}
        for row in csv.DictReader((tmp_path / "rows.csv").open())
    ]
    answers = loaded.predict_rows(given)
    assert [row["prediction"] for row in rows] == [";".join(one["labels"]) for one in answers]
    assert [float(row["score:loud"]) for row in rows] == [one["scores"]["loud"] for one in answers]
    assert rows[0].keys() >= {"id", "heat", "tags"}
    told = json.loads((tmp_path / "store/runs/tags/diagnosis.json").read_text())
    assert told["task"] == "multilabel"
