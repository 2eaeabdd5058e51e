"""The spec of examples/sms_spam, run here on the real messages where they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from prepared_here import prepare_here

from raydc import bundle, train
from raydc import spec as specs
from raydc.data.shards import open_rows
from raydc.features import Text
from raydc.storage import Storage

_FILE = "sms_spam/SMSSpamCollection.tsv"


def test_the_example_tells_spam_from_other_messages(
    root: Path, tmp_path: Path, shared_data: Path
) -> None:
    source = shared_data / _FILE
    if not source.exists():
        pytest.skip(f"{source} is not there")
    given = specs.load(root / "examples" / "sms_spam" / "spec.yaml")
    changes = {
        "storage": str(tmp_path / "storage"),
        "data.source": str(source),
        "scaling.num_workers": 0,
        "train.epochs": 4,
        "serve": None,
    }
    spec = specs.resolve(specs.with_values(given, changes))
    data, lines = prepare_here(tmp_path, specs.to_dict(spec)["data"], spec.name)
    assert "dropping 403 rows that repeat an earlier one" in lines
    column = data.features.columns["column_2"]
    assert isinstance(column, Text)
    assert column.num_codes == 2000
    folder = Storage(spec.storage) / "runs" / "sms"
    train.run(spec, data, folder, lambda line: None)
    loaded = bundle.load(folder / "model")
    rows = open_rows(data.folder, "test")
    x, y_B = rows.gather(np.arange(len(rows)))
    accuracy = float((loaded.forward(x).argmax(axis=1) == y_B).mean())
    assert accuracy >= 0.97
    win = "WINNER!! Claim your free prize now, call 09061701461. Reply STOP to end"
    home = "ok, I will be home late, see you at lunch tomorrow"
    answers = loaded.predict_rows([{"column_2": win}, {"column_2": home}])
    assert [answer["label"] for answer in answers] == ["spam", "ham"]
