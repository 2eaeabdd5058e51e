"""A run of zero workers, in this process, from `train.run`."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor, nn
from training import training_spec, write_pictures

from raydc import train
from raydc.data import prepared
from raydc.errors import TrainError
from raydc.features import Signature
from raydc.models import user_models
from raydc.storage import Storage


class FailsAt(nn.Module):
    """Raises an error in training, on batches of more rows than a check has."""

    def __init__(self, signature: Signature, error: Exception) -> None:
        super().__init__()
        self.layer = nn.Linear(64, signature.num_outputs)
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) > 4:
            raise self.error
        return self.layer(x.flatten(1))


def fit(tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_models, "import_function", lambda *_: lambda s: FailsAt(s, error))
    data = prepared.load(write_pictures(Storage(str(tmp_path / "data"))))
    spec = training_spec(str(tmp_path), model={"builder": "own:make"})
    train.run(spec, data, Storage(str(tmp_path / "run")), lambda line: None)


def test_error_of_a_network_is_one_page_as_from_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TrainError) as caught:
        fit(tmp_path, KeyError("depth"), monkeypatch)
    text = str(caught.value)
    assert "failed after step 0, its 32 training rows" in text
    assert "KeyError: 'depth'" in text
    assert "in forward" in text
    assert "--resume" in text
    # The hint for workers would be no help to a run that has none.
    assert "num_workers=0" not in text


def test_full_disk_stays_an_error_of_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OSError, match="No space left"):
        fit(tmp_path, OSError(28, "No space left on device"), monkeypatch)
