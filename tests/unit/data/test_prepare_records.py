"""Columns as fields of their own, from a file to an answer."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from in_process import post, run, settings_of
from PIL import Image as Pictures
from prepared_here import prepare_here
from training import training_spec

from raydc import bundle, models
from raydc.data import shards
from raydc.data.prepared import Prepared, read_golden_rows
from raydc.errors import DataError
from raydc.features import CategoryCodes, Record
from raydc.features.record import expanded
from raydc.registry import Registry
from raydc.serve.protocol import open_inference
from raydc.serve.protocol.interface import Interface
from raydc.storage import Storage

CITIES = ("Rome", "Oslo", "Lima", None)


def _png(shade: int) -> bytes:
    content = io.BytesIO()
    Pictures.new("L", (6, 5), shade).save(content, "png")
    return content.getvalue()


def _source(folder: Path, *, has_images: bool) -> str:
    rows = range(150)
    columns: dict[str, Any] = {
        "age": [row % 60 + 18 for row in rows],
        "city": [CITIES[row % 7 % 4] for row in rows],
        "color": [("red", "green")[row % 2] for row in rows],
        "answer": [("no", "yes")[row * 5 % 3 % 2] for row in rows],
    }
    if has_images:
        columns["photo"] = [_png(row) for row in rows]
    pq.write_table(pa.table(columns), folder / "rows.parquet")
    return str(folder / "rows.parquet")


def _prepare(folder: Path, *, has_images: bool, **features: Any) -> Prepared:
    source = _source(folder, has_images=has_images)
    section = {"source": source, "target": "answer", "features": features}
    return prepare_here(folder, section)[0]


def test_an_encoded_column_is_a_field_and_the_others_stay_together(tmp_path: Path) -> None:
    prepared = _prepare(tmp_path, has_images=True, encodings={"city": "embedding"})
    signature = prepared.features.signature
    assert signature.kind == "record"
    assert list(signature.fields) == ["columns", "city", "photo"]
    assert signature.fields["columns"].shape == (3,)
    # Named, so that a network can take some of them.
    assert signature.fields["columns"].columns == ("age", "color")
    assert signature.fields["columns"].widths == (1, 2)
    # Three cities, missing ones, and those that training never saw.
    assert signature.fields["city"].num_codes == 5
    assert signature.fields["photo"].shape == (1, 5, 6)
    assert signature.fields["photo"].mean
    assert isinstance(prepared.features.columns["city"], CategoryCodes)


@pytest.mark.parametrize("has_images", [False, True])
def test_stored_rows_are_those_that_a_client_gives(tmp_path: Path, has_images: bool) -> None:
    prepared = _prepare(tmp_path, has_images=has_images, encodings={"city": "embedding"})
    golden = read_golden_rows(prepared.folder)
    given = prepared.features.apply(prepared.features.from_json_rows(golden))
    rows = shards.open_rows(prepared.folder, "test")
    x, _ = rows.gather(np.arange(len(golden)))
    stored = expanded(x)
    assert isinstance(given, Record)
    assert isinstance(stored, Record)
    for name, values in given.fields.items():
        np.testing.assert_array_equal(stored.fields[name], values)


def test_a_table_of_categories_takes_a_byte_for_each(tmp_path: Path) -> None:
    prepared = _prepare(tmp_path, has_images=False)
    x, _ = shards.open_rows(prepared.folder, "train").gather(np.arange(4))
    assert prepared.features.signature.kind == "vector"
    assert isinstance(x, Record)
    # One number and two codes instead of 7 numbers.
    assert x.nbytes == 4 * (4 + 2)
    assert expanded(x).nbytes == 4 * 7 * 4  # type: ignore[union-attr]


def test_an_encoding_of_a_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'age' is numeric, and only categories") as caught:
        _prepare(tmp_path, has_images=False, encodings={"age": "embedding"})
    assert "{age: categorical}" in str(caught.value.hint)


def test_an_encoding_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.features\.encodings: there is no column 'town'"):
        _prepare(tmp_path, has_images=False, encodings={"town": "embedding"})


MODELS = {
    "mlp": {"name": "mlp", "hidden": [16]},
    "towers": {"name": "two_towers", "user": ["city", "age"], "item": ["color", "photo"]},
    "fusion": {"name": "fusion", "image": {"name": "cnn", "channels": [4], "hidden": 8}},
}


@pytest.mark.parametrize("model", MODELS)
def test_from_rows_to_an_answer(tmp_path: Path, model: str) -> None:
    prepared = _prepare(tmp_path, has_images=True, encodings={"city": "embedding"})
    features, golden = prepared.features, read_golden_rows(prepared.folder)
    storage = Storage(str(tmp_path / "store"))
    spec = training_spec(storage.uri, model=MODELS[model])
    network = models.build(spec.model, features.signature, 0)
    made = storage / "bundle"
    bundle.write(made, spec, features, network.state_dict(), golden, {"data_hash": "x"})
    loaded = bundle.load(made)
    loaded.check_golden()
    x, _ = shards.open_rows(prepared.folder, "test").gather(np.arange(len(golden)))
    offline = features.answers(features.values(loaded.forward(x)))
    Registry(storage).register("small", made, {})

    async def ask(_: Any, routes: Any) -> Any:
        response = await routes.respond(post("/predict", {"rows": golden}))
        return response.status_code, json.loads(response.body)

    status, answer = run(settings_of(storage), ask)
    assert status == 200
    assert answer["predictions"] == offline


@pytest.mark.parametrize("as_file", [True, False])
def test_an_image_beside_columns_is_a_tensor_of_its_own(tmp_path: Path, as_file: bool) -> None:
    prepared = _prepare(tmp_path, has_images=True)
    interface = Interface(prepared.features)
    golden = read_golden_rows(prepared.folder)[:2]
    expected = prepared.features.apply_given(prepared.features.from_json_rows(golden))
    inputs = [
        {"name": "age", "datatype": "FP64", "shape": [2], "data": [row["age"] for row in golden]},
        {"name": "color", "datatype": "BYTES", "shape": [2], "data": [r["color"] for r in golden]},
    ]
    photo: dict[str, Any] = {"name": "photo", "datatype": "BYTES", "shape": [2]}
    photo["data"] = [row["photo"] for row in golden]
    if not as_file:
        assert isinstance(expected, Record)
        pixels = expected.fields["photo"]
        assert isinstance(pixels, np.ndarray)
        photo |= {"datatype": "UINT8", "shape": [2, 30], "data": pixels.ravel().tolist()}
    cities = [row["city"] for row in golden]
    inputs += [photo, {"name": "city", "datatype": "BYTES", "shape": [2], "data": cities}]
    request = open_inference.parse_infer_request(
        json.dumps({"inputs": inputs}).encode(), None, interface, 10
    )
    found = request.inputs(interface)
    assert isinstance(found, Record)
    for name, values in expected.fields.items():  # type: ignore[union-attr]
        np.testing.assert_array_equal(found.fields[name], values)
    assert interface.image_column is None
