"""A bundle predicts the same wherever it is loaded, and refuses to load otherwise."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
import torch

from raydc import bundle, checksummed_folder
from raydc.errors import CheckpointError, DataError
from raydc.features import Features
from raydc.storage import Storage


@pytest.fixture
def folder(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "bundle"))


MAKERS: list[Callable[[], Features]] = [
    small_models.table_features,
    small_models.price_features,
    small_models.picture_features,
]


@pytest.mark.parametrize("features", MAKERS)
def test_load_returns_what_write_wrote(folder: Storage, features: Callable[[], Features]) -> None:
    small_models.write_bundle(folder, features())
    loaded = bundle.load(folder)
    loaded.check_golden()
    assert loaded.features == features()
    assert loaded.facts["run"] == "small"
    assert not loaded.model.training
    assert len(loaded.digest) == 64
    names = [
        "model.safetensors",
        "features.json",
        "signature.json",
        "spec.yaml",
        "facts.json",
        "golden.json",
    ]
    assert sorted(folder.names()) == sorted([*names, "card.md", "MANIFEST.json"])


def test_classification_has_labels_and_scores(folder: Storage) -> None:
    small_models.write_bundle(folder, small_models.table_features())
    answers = bundle.load(folder).predict_rows(small_models.table_rows(3))
    assert all(set(answer["scores"]) == set(small_models.CLASSES) for answer in answers)
    assert all(answer["scores"][answer["label"]] == answer["score"] for answer in answers)


def test_regression_values_are_in_units_of_the_target(folder: Storage) -> None:
    small_models.write_bundle(folder, small_models.price_features())
    loaded = bundle.load(folder)
    raw = loaded.forward(loaded.features.apply({"size": [60.0]}))
    assert loaded.predict_rows([{"size": 60.0}]) == [
        {"value": pytest.approx(float(raw[0, 0]) * 100 + 300)}
    ]


def test_forward_is_bitwise_equal_for_any_process_threads(folder: Storage) -> None:
    small_models.write_bundle(folder, small_models.picture_features())
    loaded = bundle.load(folder)
    x = loaded.features.apply({"image": small_models.pictures(64)})
    loaded.forward(x)
    inside: list[int] = []
    loaded.model.register_forward_pre_hook(lambda *_: inside.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    try:
        outputs = []
        for num_threads in (1, 2, 4):
            torch.set_num_threads(num_threads)
            outputs.append(loaded.forward(x).tobytes())
            assert torch.get_num_threads() == num_threads, "forward gives the threads back"
    finally:
        torch.set_num_threads(before)
    assert inside == [bundle.NUM_THREADS] * 3
    assert len(set(outputs)) == 1


def test_forward_accepts_read_only_memory(folder: Storage) -> None:
    small_models.write_bundle(folder, small_models.picture_features())
    loaded = bundle.load(folder)
    x = loaded.features.apply({"image": small_models.pictures(2)})
    frozen = np.frombuffer(x.tobytes(), dtype=x.dtype).reshape(x.shape)
    np.testing.assert_array_equal(loaded.forward(frozen), loaded.forward(x))


def test_predict_rows_names_a_wrong_row(folder: Storage) -> None:
    small_models.write_bundle(folder, small_models.table_features())
    rows = small_models.table_rows(3)
    rows[2]["age"] = "old"
    with pytest.raises(DataError, match=r"rows\[2\]\.age: 'old' is not a number"):
        bundle.load(folder).predict_rows(rows)


@pytest.mark.parametrize("name", ["model.safetensors", "features.json", "golden.json", "spec.yaml"])
def test_load_names_the_file_with_a_changed_byte(folder: Storage, name: str) -> None:
    small_models.write_bundle(folder, small_models.table_features())
    content = bytearray(folder.read_bytes(name))
    content[len(content) // 2] ^= 1
    (folder.local_path / name).write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=name):
        bundle.load(folder)


def test_load_refuses_a_folder_without_a_manifest(folder: Storage) -> None:
    small_models.write_bundle(folder, small_models.table_features())
    folder.delete("MANIFEST.json")
    with pytest.raises(CheckpointError):
        bundle.load(folder)


def rewrite(folder: Storage, **changes: Callable[[Any], Any]) -> None:
    """Changes JSON files of a bundle and makes its manifest fit: a fault that no hash can see."""
    meta, files = checksummed_folder.read_checksummed(folder)
    for stem, change in changes.items():
        value = json.loads(files[f"{stem}.json"])
        files[f"{stem}.json"] = json.dumps(change(value)).encode()
    folder.delete()
    checksummed_folder.write_checksummed(folder, files, meta)


def test_golden_rows_detect_changed_features(folder: Storage) -> None:
    small_models.write_bundle(folder, small_models.table_features())

    def other_scale(features: Any) -> Any:
        next(column for column in features["columns"] if column["name"] == "hours")["scale"] = 41.0
        return features

    rewrite(folder, features=other_scale)
    with pytest.raises(
        CheckpointError, match=r"golden rows\[0\]\.hours: the features give .*, expected"
    ):
        bundle.load(folder).check_golden()


def test_golden_rows_detect_changed_weights(folder: Storage) -> None:
    small_models.write_bundle(folder, small_models.table_features())
    loaded = bundle.load(folder)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.mul_(1.01)
    with pytest.raises(CheckpointError, match=r"golden rows\[0\]: output 'no' is .*, expected"):
        loaded.check_golden()


def test_golden_rows_detect_a_changed_picture(folder: Storage) -> None:
    small_models.write_bundle(folder, small_models.picture_features())

    def other_pixels(golden: Any) -> Any:
        pixels = bytearray(base64.b64decode(golden["inputs"]["base64"]))
        pixels[70] ^= 0x40
        golden["inputs"]["base64"] = base64.b64encode(bytes(pixels)).decode()
        return golden

    rewrite(folder, golden=other_pixels)
    with pytest.raises(CheckpointError, match=r"golden rows\[1\]\.image"):
        bundle.load(folder).check_golden()


def test_write_refuses_weights_of_another_model(folder: Storage) -> None:
    spec = small_models.write_bundle(folder, small_models.table_features())
    with pytest.raises(CheckpointError, match="weights do not fit the model"):
        bundle.write(
            folder, spec, small_models.table_features(), {"body.0.weight": torch.zeros(1)}, [], {}
        )


def test_write_refuses_a_diverged_model(folder: Storage) -> None:
    spec = small_models.write_bundle(folder, small_models.table_features())
    weights = {
        name: tensor * float("nan")
        for name, tensor in bundle.load(folder).model.state_dict().items()
    }
    with pytest.raises(CheckpointError, match=r"golden rows\[0\]: the model gives nan"):
        bundle.write(
            folder, spec, small_models.table_features(), weights, small_models.table_rows(2), {}
        )


def test_card_describes_the_model(folder: Storage) -> None:
    small_models.write_bundle(folder, small_models.table_features())
    card = folder.read_bytes("card.md").decode()
    assert card.startswith("# small\n\nA classification of `answer`")
    assert "`age` (numeric), `hours` (numeric), `job` (categorical)" in card
    assert "- Validation metrics: accuracy 0.5" in card
    assert "- Held-out metrics: in the record of a registered version" in card


def test_card_says_that_losses_alone_are_of_the_training(folder: Storage) -> None:
    spec = small_models.write_bundle(folder, small_models.table_features())
    weights = bundle.load(folder).model.state_dict()
    facts = {"metrics": {"loss": 0.25, "train_loss": 0.25}}
    bundle.write(folder, spec, small_models.table_features(), dict(weights), [], facts)
    card = folder.read_bytes("card.md").decode()
    assert "- Training metrics (no validation rows): loss 0.25, train_loss 0.25" in card


class _Squeezed(torch.nn.Module):
    """Loses the axis of the rows when there is one row."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).squeeze()


def test_forward_refuses_outputs_without_the_axis_of_the_rows(tmp_path: Path) -> None:
    features = small_models.table_features()
    folder = Storage(str(tmp_path / "bundle"))
    small_models.write_bundle(folder, features)
    loaded = replace(bundle.load(folder), model=_Squeezed().eval())
    assert loaded.run(np.zeros((2, 5), np.float32)).shape == (2, 3)
    with pytest.raises(CheckpointError, match=r"gives \(3,\) for 1 rows, expected \(1, 3\)"):
        loaded.run(np.zeros((1, 5), np.float32))
    # Two rows keep the axis, so a row that is alone is computed with a copy of itself.
    assert loaded.forward(np.zeros((1, 5), np.float32)).shape == (1, 3)


@pytest.mark.parametrize("num_golden", [1, 4])
def test_golden_rows_are_tried_one_two_and_three_at_a_time(
    folder: Storage, num_golden: int
) -> None:
    small_models.write_bundle(folder, small_models.table_features(), num_golden=num_golden)
    loaded = bundle.load(folder)
    sizes: list[int] = []
    loaded.model.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    loaded.check_golden()
    assert sizes == [num_golden, 1, 2, 3]
    drops_last = loaded.model.register_forward_hook(lambda _, __, y: y if len(y) < 3 else y[:2])
    if num_golden < 3:
        with pytest.raises(CheckpointError, match=r"gives \(2, 3\) for 3 rows, expected \(3, 3\)"):
            loaded.check_golden()
    drops_last.remove()
