"""The real data sets go through, with the counts that are known of them."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import preparing
import pytest

from raydc.features import Categorical, Numeric

pytestmark = pytest.mark.usefixtures("ray_engine")


def test_adult_rows_and_features(tmp_path: Path, shared_data: Path) -> None:
    source = {part: str(shared_data / "adult" / f"adult_{part}.csv") for part in ("train", "test")}
    prepared, _ = preparing.run(tmp_path, {"source": source, "target": "income"})
    assert prepared.num_rows["train"] + prepared.num_rows["validation"] == 32_561
    assert prepared.num_rows["test"] == 16_281
    assert prepared.features.signature.classes == ("<=50K", ">50K")
    missing = {
        n
        for n, c in prepared.features.columns.items()
        if isinstance(c, Categorical) and c.has_missing
    }
    assert missing == {"workclass", "occupation", "native_country"}


def test_telco_blanks_are_missing_values(tmp_path: Path, shared_data: Path) -> None:
    data = {
        "source": str(shared_data / "telco_churn" / "Telco-Customer-Churn.csv"),
        "target": "Churn",
        "features": {"exclude": ["customerID"]},
    }
    trap, said = preparing.run(tmp_path, data)
    assert isinstance(trap.features.columns["TotalCharges"], Categorical)
    assert any(
        "'TotalCharges' is taken as categorical, but 7,032 of its 7,043" in line for line in said
    )
    prepared, _ = preparing.run(tmp_path, {**data, "clean": {"missing_values": [" "]}})
    assert isinstance(prepared.features.columns["TotalCharges"], Numeric)
    dropped, _ = preparing.run(
        tmp_path, {**data, "clean": {"missing_values": [" "], "missing": "drop"}}
    )
    assert sum(dropped.num_rows.values()) == 7_043 - 11


def test_housing_is_a_regression(tmp_path: Path, shared_data: Path) -> None:
    source = str(shared_data / "california_housing" / "housing.csv")
    prepared, _ = preparing.run(
        tmp_path, {"source": source, "target": "median_house_value", "task": "regression"}
    )
    assert sum(prepared.num_rows.values()) == 20_640
    assert prepared.features.target_mean == pytest.approx(206_856, rel=0.01)


def test_bank_marketing_is_equal_in_both_formats(tmp_path: Path, shared_data: Path) -> None:
    made = [
        preparing.run(
            tmp_path,
            {
                "source": str(shared_data / "bank_marketing" / name),
                "target": "y",
                "clean": {"duplicates": "drop"},
                "features": {"exclude": ["duration"]},
            },
        )[0]
        for name in ("bank_additional_full.csv.gz", "bank_additional_full.parquet")
    ]
    assert [sum(prepared.num_rows.values()) for prepared in made] == [41_176] * 2
    for a, b in zip(
        preparing.split(made[0], "train"), preparing.split(made[1], "train"), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("name", "mean"), [("mnist", 0.1307), ("fashion_mnist", 0.2860)])
def test_idx_files_give_images_and_labels(
    tmp_path: Path, shared_data: Path, name: str, mean: float
) -> None:
    prepared, _ = preparing.run(tmp_path, {"source": str(shared_data / name)})
    assert prepared.num_rows["train"] + prepared.num_rows["validation"] == 60_000
    assert prepared.num_rows["test"] == 10_000
    assert prepared.features.signature.shape == (1, 28, 28)
    assert prepared.features.signature.mean[0] / 255 == pytest.approx(mean, abs=1e-3)
    labels = np.concatenate(
        [preparing.split(prepared, part)[1] for part in ("train", "validation")]
    )
    assert np.bincount(labels)[0] == (5_923 if name == "mnist" else 6_000)


def test_photographs_are_resized(tmp_path: Path, shared_data: Path) -> None:
    with tarfile.open(shared_data / "caltech101_10" / "caltech101_10.tar") as archive:
        archive.extractall(tmp_path / "photos", filter="data")
    data = {
        "source": str(tmp_path / "photos" / "caltech101_10"),
        "features": {"image_size": [32, 40]},
    }
    prepared, _ = preparing.run(tmp_path / "storage", data)
    assert (
        prepared.num_rows["train"] + prepared.num_rows["validation"],
        prepared.num_rows["test"],
    ) == (520, 180)
    assert prepared.features.signature.shape == (3, 32, 40)
