"""Facts of a model for its metadata: its origin, and what its inputs look like."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson
import pytest
import small_models

from raydc import bundle
from raydc.bundle import Bundle
from raydc.features import Image
from raydc.serve.protocol import model_facts
from raydc.storage import Storage


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = Storage(str(tmp_path_factory.mktemp("facts") / "bundle"))
    small_models.write_bundle(folder, small_models.table_features())
    return bundle.load(folder)


def test_describe_model_has_origin_and_evaluation(table: Bundle) -> None:
    metrics = {"accuracy": 0.9, "num_rows": 40, "support": {"no": 40}, "confusion_matrix": [[40]]}
    assert model_facts.describe_model(table, {"time_s": 1_700_000_000.0, "metrics": metrics}) == {
        "target": "answer",
        "network": "mlp",
        "num_weights": 5 * 16 + 16 + 16 * 3 + 3,
        "run": "small",
        "created": "2023-11-14T22:13:20+00:00",
        "held_out": {"accuracy": 0.9, "num_rows": 40},
    }
    assert "held_out" not in model_facts.describe_model(table, {})


def test_describe_inputs_of_table_has_typical_values(table: Bundle) -> None:
    assert model_facts.describe_inputs(table) == {
        "age": {"typical": 40},
        "hours": {"typical": 38},
        "job": {},
    }


@pytest.mark.parametrize(
    ("mean", "scale", "typical"),
    [
        (38.5816, 13.66, 39),
        (1077.65, 7385.3, 1100),
        (0.000123456, 0.0001, 0.000123),
        (5.0, 0.0, 5),
        (-3.14159, 1.0, -3.14),
        (1.2345e20, 1e20, 1.23e20),
    ],
)
def test_round_to_spread_keeps_significant_digits_only(
    mean: float, scale: float, typical: float
) -> None:
    assert model_facts._round_to_spread(mean, scale) == pytest.approx(typical, rel=1e-12)
    assert orjson.loads(
        orjson.dumps(model_facts._round_to_spread(mean, scale))
    ) == model_facts._round_to_spread(mean, scale)


def framed(side: int, margin: int, ground: int, ink: int, num: int = 4) -> npt.NDArray[np.uint8]:
    """Images [B, 1, side, side] of a filled square of ink on an even ground."""
    images = np.full((num, 1, side, side), ground, dtype=np.uint8)
    images[:, :, margin : side - margin, margin : side - margin] = ink
    return images


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (framed(28, 4, 0, 200), {"ground": 0, "level": 200, "extent": 0.714}),
        (framed(28, 4, 255, 30), {"ground": 255, "level": 30, "extent": 0.714}),
        (framed(10, 1, 8, 255), {"ground": 0, "level": 255, "extent": 0.8}),
        (framed(8, 0, 0, 200), None),
        (framed(8, 2, 0, 20), None),
        (np.random.default_rng(0).integers(0, 256, (8, 1, 16, 16), dtype=np.uint8), None),
        (None, None),
    ],
    ids=["as MNIST", "ink on paper", "a dim ground", "no ground", "no ink", "noise", "no examples"],
)
def test_measure_ink_tells_drawings_from_photographs(
    images: npt.NDArray[np.uint8] | None, expected: dict[str, float] | None
) -> None:
    side = 8 if images is None else images.shape[2]
    assert model_facts.measure_ink(Image(side, side, 1), images) == expected
    assert model_facts.measure_ink(Image(side, side, 3), images) is None


def test_describe_inputs_of_images_has_size_and_ink(tmp_path: Path) -> None:
    small_models.write_bundle(Storage(str(tmp_path / "bundle")), small_models.picture_features())
    loaded = bundle.load(Storage(str(tmp_path / "bundle")))
    assert model_facts.describe_inputs(loaded) == {
        "image": {"height": 8, "width": 8, "channels": 1}
    }
    bare = dataclasses.replace(loaded, golden={"rows": [], "inputs": None, "outputs": []})
    assert bare.golden_inputs is None
