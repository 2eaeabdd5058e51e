"""Preparation with its tasks run in this process: hashes of small data sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prepared_here import prepare_here

from raydc.checksummed_folder import MANIFEST
from raydc.data import manifest, prepare, shards
from raydc.data.prepared import Prepared, read_golden_rows
from raydc.features.record import expanded
from raydc.serve.control import held_out_request
from raydc.storage import OWN_HASH, Storage, canonical_json, seal, sha256


def _prepare(folder: Path, data: dict[str, Any]) -> Prepared:
    return prepare_here(folder, data)[0]


def _table(folder: Path) -> dict[str, Any]:
    """Two CSV files with missing values, a rare category and rows that repeat."""
    lines = []
    for row in range(120):
        height = "" if row % 11 == 0 else f"{150 + row * 0.37:.2f}"
        city = ("Rome", "Oslo", "?", "Lima")[row * row % 7 % 4]
        lines.append(f"{row % 60 + 18},{height},{city},{('no', 'yes')[row * 5 % 3 % 2]}")
    for name, part in (("a.csv", lines[:80]), ("b.csv", lines[70:])):
        (folder / name).write_text("\n".join(["age,height,city,answer", *part, ""]))
    return {
        "source": f"{folder}/*.csv",
        "target": "answer",
        "clean": {"duplicates": "drop", "missing_values": ["", "?"]},
        "features": {"max_categories": 1},
    }


def _numbers(folder: Path) -> dict[str, Any]:
    rows = [
        {"a": row / 7, "b": None if row % 9 == 0 else row % 4, "c": row % 2 == 0, "y": row * 0.3}
        for row in range(90)
    ]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return {"source": str(folder / "rows.jsonl"), "target": "y", "task": "regression"}


def _images(folder: Path) -> dict[str, Any]:
    (folder / "idx").mkdir()
    for part, num_rows in (("train", 60), ("t10k", 9)):
        pixels = (np.arange(num_rows * 30) * 7 % 251).astype(np.uint8).reshape(num_rows, 6, 5)
        for name, values in (("images-idx3", pixels), ("labels-idx1", pixels[:, 0, 0] % 3)):
            header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, dtype=">u4").tobytes()
            (folder / "idx" / f"{part}-{name}-ubyte").write_bytes(header + values.tobytes())
    return {"source": str(folder / "idx"), "target": "label"}


def _row_hash(prepared: Prepared) -> str:
    """sha256 over x, y and row ids of all splits, whatever Arrow writes around them."""
    content = b""
    for split in shards.SPLITS:
        rows = shards.open_rows(prepared.folder, split)
        x, y = rows.gather(np.arange(len(rows)))
        for array in (expanded(x), y, rows.ids):
            content += (
                f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()
            )
    return sha256(content)


# `older_hash` names a data set that a raydc before `prepare._READING` prepared, on which its runs
# resume: it never changes. A change of `data_hash` prepares again, and runs refuse to resume on it;
# it may follow from a new field in section `data`, or from reading the same files differently.
PINNED: dict[str, dict[str, Any]] = {
    "_table": {
        "data_hash": "415951accb72a148ac2287a692e060fd8db789dd2dd361bedbdd258dac16e22c",
        "older_hash": "0449e7576af72704cea8915886b3efd5db8d05e013f55aa01c53548ee0cd16a6",
        "num_rows": {"test": 7, "train": 97, "validation": 16},
        "features": "3da11f46192219d51f1afcc898f3b187a6c0b44a60b638a1324ff66141a3715a",
        "golden_rows": "d6f1bfde63769377d4f4cbb5061a33a58ac42724baae31168b08dc925a34344f",
        "rows": "be9211f5797573e25707ce319df5431a5cf9bb110cfbd21db079557d7107c67c",
    },
    "_numbers": {
        "data_hash": "8a3ca0e9e140b37286448b6ce1a029452b2dc8f832162b18d2b11b878f9be0e7",
        "older_hash": "3e11af4cbeebe8bc1f3f180dc2baf42f02d2d4a6facdf0967553b458de4a15fe",
        "num_rows": {"test": 5, "train": 72, "validation": 13},
        "features": "5aa88404e52878db0f170b41c9b82f837e87617a2efa2cfdac3d941cc6342031",
        "golden_rows": "c99adf25a8ade9a5fe3d902ee082a2de7b3fdeff860e087e3096f5cddcfec0d1",
        "rows": "a64a62db756089a4a8ec787da405277ec3affb23f54a7640bc4008af5f36ed26",
    },
    "_images": {
        "data_hash": "c2fb95cfb588b5260c270c32bbec6b7c5bc82af91d35c595ddb8a3450ea486fd",
        "older_hash": "af066ab280f20bd6c8428b346b643c56386ef4864813363eca09dcc860632445",
        "num_rows": {"test": 9, "train": 57, "validation": 3},
        "features": "038f626be66abda7f70b34c79d83046fa37b674ad8376543c90f0da22139ee24",
        "golden_rows": "93b9d22a3c64353bb61c44d4dd637963ce1e8c31230b44081d886794713f8eba",
        "rows": "67947b0642845dde07f148293a7188911959fcb546c0792786ca582b0f5e6771",
    },
}


# Hash of the features of `_numbers` by a raydc that did not record `always_given`.
FEATURES_BEFORE_ALWAYS_GIVEN = "2e156dbafbccc1ab7ec1a5e47903b89654dec3df71fedc27fbaab0bef12db5ff"


@pytest.mark.parametrize("make", [_table, _numbers, _images], ids=lambda make: make.__name__)
def test_data_set_of_the_same_input_keeps_its_hashes(
    tmp_path: Path, make: Callable[[Path], dict[str, Any]]
) -> None:
    prepared = _prepare(tmp_path, make(tmp_path))
    features = prepared.features
    golden = features.from_json_rows(prepared.folder.read_json("golden_rows.json"))
    found = {
        "data_hash": prepared.data_hash,
        "num_rows": prepared.num_rows,
        "features": features.hash,
        "golden_rows": sha256(features.apply(golden).tobytes()),
        "rows": _row_hash(prepared),
    }
    facts = prepared.folder.read_json("MANIFEST.json")
    inputs = {key: facts[key] for key in ("reading", "data", "seed", "sources")}
    inputs["format"] = manifest.FORMAT_VERSION
    found["older_hash"] = prepare._hash_before_readings(inputs)
    assert found == PINNED[make.__name__]


def test_columns_that_no_training_row_lacked_are_recorded(tmp_path: Path) -> None:
    lines = [
        f"{row},{row % 7},{'ab'[row % 2]},{'' if row % 3 == 0 else 'x'},{row % 2}"
        for row in range(90)
    ]
    lines[4] = "4,,a,x,0"
    source = tmp_path / "rows.csv"
    source.write_text("\n".join(["id,b,c,d,y", *lines]))
    data = {"source": str(source), "target": "y", "features": {"exclude": ["id"]}}
    (tmp_path / "all").mkdir()
    made = _prepare(tmp_path / "all", data)
    assert made.features.always_given == ("c",)
    assert made.folder.read_json("features.json")["always_given"] == ["c"]
    # Rows that are dropped are not training rows.
    (tmp_path / "dropped").mkdir()
    made = _prepare(tmp_path / "dropped", {**data, "clean": {"missing": "drop"}})
    assert made.features.always_given == ("b", "c", "d")


def test_held_out_rows_do_not_decide_which_values_are_always_given(tmp_path: Path) -> None:
    train = [f"{row % 7},{'ab'[row % 2]},{row % 2}" for row in range(90)]
    source = {part: str(tmp_path / f"{part}.csv") for part in ("train", "test")}
    Path(source["train"]).write_text("\n".join(["b,c,y", *train]))
    Path(source["test"]).write_text("b,c,y\n,a,0\n3,,1\n4,b,1\n")
    made = _prepare(tmp_path, {"source": source, "target": "y"})
    assert made.num_rows["test"] == 3
    assert made.features.always_given == ("b", "c")
    rows = read_golden_rows(made.folder)
    # The model must load all the same, so golden rows are not refused; an endpoint gets another.
    made.features.apply(made.features.from_json_rows(rows))
    assert held_out_request.find_taken(rows, made.features) == 2
    assert held_out_request.find_taken(rows[:2], made.features) is None


def test_data_set_without_the_record_is_found_and_requires_nothing(tmp_path: Path) -> None:
    data = _numbers(tmp_path)
    made = _prepare(tmp_path, data)
    value = made.folder.read_json("features.json")
    assert value.pop("always_given") == ["a", "c"]
    made.folder.write_json("features.json", value)
    facts = made.folder.read_json("MANIFEST.json")
    del facts[OWN_HASH]
    content = made.folder.read_bytes("features.json")
    facts["files"]["features.json"] = {"bytes": len(content), "sha256": sha256(content)}
    made.folder.write_json("MANIFEST.json", seal(facts))
    found = _prepare(tmp_path, data)
    assert found.reused
    assert found.features.always_given == ()
    assert found.features.hash == FEATURES_BEFORE_ALWAYS_GIVEN
    # A model that was trained on it can be evaluated on the data set that is prepared anew.
    assert found.features == made.features


def test_data_set_of_an_older_raydc_is_found_with_a_note(tmp_path: Path) -> None:
    data = _numbers(tmp_path)
    made = _prepare(tmp_path, data)
    older = made.folder.local_path.with_name(f"pinned-{PINNED['_numbers']['older_hash'][:12]}")
    made.folder.local_path.rename(older)
    facts = json.loads((older / "MANIFEST.json").read_text())
    del facts[OWN_HASH]
    facts["data_hash"] = PINNED["_numbers"]["older_hash"]
    (older / "MANIFEST.json").write_text(json.dumps(seal(facts)))
    found, lines = prepare_here(tmp_path, data)
    assert found.reused
    assert found.data_hash == PINNED["_numbers"]["older_hash"]
    assert any("was prepared by an older raydc" in line for line in lines)
    assert any("turned photographs" in line and "some keys of rows" in line for line in lines)
    # With what an older one could not do there is nothing older to find.
    assert not prepare_here(tmp_path, {**data, "features": {"scale": "none"}})[0].reused


def test_data_set_of_each_version_of_reading_is_found_with_a_note(tmp_path: Path) -> None:
    data = _numbers(tmp_path)
    made = _prepare(tmp_path, data)
    facts = json.loads((made.folder.local_path / "MANIFEST.json").read_text())
    inputs = {key: facts[key] for key in ("reading", "data", "seed", "sources")}
    inputs["format"] = manifest.FORMAT_VERSION
    assert sha256(canonical_json(inputs)) == made.data_hash
    folder = made.folder.local_path
    for reading in range(2, prepare._READING):
        data_hash = sha256(canonical_json({**inputs, "reading": reading}))
        older = folder.with_name(f"pinned-{data_hash[:12]}")
        folder.rename(older)
        found, lines = prepare_here(tmp_path, data)
        assert found.reused
        assert found.folder.local_path == older
        assert any("was prepared by an older raydc" in line for line in lines)
        assert not any("turned photographs" in line for line in lines)
        folder = older


def test_spec_of_another_name_uses_the_same_data_set(tmp_path: Path) -> None:
    data = _numbers(tmp_path)
    first, _ = prepare_here(tmp_path, data, name="first")
    again, lines = prepare_here(tmp_path, data, name="second")
    name = first.folder.local_path.name
    assert again.reused
    assert again.folder.local_path == first.folder.local_path
    assert lines == [f"data set {name} has the same rows: 90 rows; nothing to do"]
    # Rows are equal, but another seed draws other splits.
    other, _ = prepare_here(tmp_path, {**data, "split": {"test_fraction": 0.2}}, name="second")
    assert not other.reused


@pytest.mark.parametrize("damage", ["no manifest", "torn manifest", "other content"])
def test_data_set_of_another_name_that_is_not_whole_is_prepared_anew(
    tmp_path: Path, damage: str
) -> None:
    data = _numbers(tmp_path)
    first, _ = prepare_here(tmp_path, data, name="first")
    path = first.folder.local_path / MANIFEST
    if damage == "no manifest":
        path.unlink()
    elif damage == "torn manifest":
        path.write_bytes(path.read_bytes()[:100])
    else:
        facts = json.loads(path.read_bytes())
        # A hash that begins in the same way.
        changed = facts["data_hash"][:12] + facts["data_hash"][:11:-1]
        path.write_bytes(canonical_json(seal({**facts, "data_hash": changed})))
    again, _ = prepare_here(tmp_path, data, name="second")
    assert not again.reused
    assert again.folder.local_path.name.startswith("second-")
    assert again.data_hash == first.data_hash


def test_data_is_prepared_where_the_storage_cannot_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> list[str]:
        raise PermissionError("ListBucket is denied")

    monkeypatch.setattr(Storage, "names", denied)
    made, _ = prepare_here(tmp_path, _numbers(tmp_path))
    assert not made.reused
