"""A data set of Hugging Face with lists, joined with a table: prepared, trained on and answered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepared_here import prepare_here

from raydc import bundle, train
from raydc import spec as specs
from raydc.data.prepared import read_golden_rows
from raydc.storage import Storage

datasets = pytest.importorskip("datasets")


def test_gru_learns_from_joined_lists_of_a_hub(tmp_path: Path) -> None:
    choose = np.random.default_rng(0)
    beats = [choose.normal(row % 3, 0.3, 1 + row % 7).round(3).tolist() for row in range(300)]
    rows = {
        "id": list(range(300)),
        "place": [row % 11 for row in range(300)],
        "beats": beats,
        "label": [("slow", "fast")[int(np.mean(one) > 1.5)] for one in beats],
    }
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "set"))
    # No row of the table is about the place 10.
    places = {"place": list(range(10)), "height": [10.0 * n for n in range(10)]}
    pq.write_table(pa.table(places), tmp_path / "places.parquet")
    data = {
        "source": {"huggingface": str(tmp_path / "set"), "key": "id"},
        "joins": [{"path": str(tmp_path / "places.parquet"), "key": "place"}],
        "features": {"exclude": ["place"]},
    }
    prepared, lines = prepare_here(tmp_path, data)
    assert any("27 of 300 rows have no match" in line for line in lines)
    spec = specs.resolve(
        specs.from_dict(
            {
                "name": "beats",
                "storage": str(tmp_path / "storage"),
                "data": data,
                "model": {"name": "gru", "width": 8},
                "train": {"epochs": 6, "global_batch_size": 16, "learning_rate": 0.03},
                "scaling": {"num_workers": 0},
            }
        )
    )
    folder = Storage(spec.storage) / "runs" / "beats"
    train.run(spec, prepared, folder, lambda _: None)
    loaded = bundle.load(folder / "model")
    golden = read_golden_rows(prepared.folder)
    answers = loaded.predict_rows(golden)
    is_fast = [np.mean(row["beats"]) > 1.5 for row in golden]
    right = [(one["label"] == "fast") == fast for one, fast in zip(answers, is_fast, strict=True)]
    assert np.mean(right) > 0.8
