"""Scales, encodings and dates at an endpoint: the answers are those of the stored rows."""

from __future__ import annotations

import json
from typing import Any

import mixed_sources
import numpy as np
import pytest
from in_process import post, run, settings_of
from prepared_here import prepare_here
from training import training_spec

from raydc import bundle, models
from raydc.data import shards
from raydc.data.prepared import Prepared, read_golden_rows
from raydc.features import Features
from raydc.features.record import Record
from raydc.models.row_slices import parse_slices
from raydc.registry import Registry
from raydc.serve.protocol import examples, model_facts, open_inference
from raydc.serve.protocol.interface import Interface
from raydc.storage import Storage


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("mixed")
    return prepare_here(folder, mixed_sources.csv(folder))[0]


@pytest.fixture(scope="module")
def served(made: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """A storage with one version of a network that was not trained."""
    storage = Storage(str(tmp_path_factory.mktemp("store")))
    spec = training_spec(storage.uri)
    network = models.build(spec.model, made.features.signature, 0)
    golden = read_golden_rows(made.folder)
    folder = storage / "bundle"
    bundle.write(
        folder, spec, made.features, network.state_dict(), golden, {"data_hash": made.data_hash}
    )
    Registry(storage).register("small", folder, {})
    return storage


def _ask(storage: Storage, path: str, body: Any) -> tuple[int, Any]:
    async def ask(_: Any, routes: Any) -> Any:
        response = await routes.respond(post(path, body))
        return response.status_code, json.loads(response.body)

    return run(settings_of(storage), ask)  # type: ignore[no-any-return]


def _stored_answers(made: Prepared, storage: Storage, count: int) -> list[dict[str, Any]]:
    loaded = bundle.load(storage / "bundle")
    loaded.check_golden()
    x, _ = shards.open_rows(made.folder, "test").gather(np.arange(count))
    return made.features.answers(made.features.values(loaded.forward(x)))


def test_answers_are_those_of_the_stored_rows(made: Prepared, served: Storage) -> None:
    golden = read_golden_rows(made.folder)
    status, answer = _ask(served, "/predict", {"rows": golden})
    assert status == 200
    assert answer["predictions"] == _stored_answers(made, served, len(golden))


@pytest.mark.parametrize("datatype", ["BYTES", "FP64"])
def test_dates_are_text_or_seconds_in_tensors(made: Prepared, datatype: str) -> None:
    features = made.features
    # Each row of a tensor has a value.
    places = [
        n
        for n, row in enumerate(read_golden_rows(made.folder))
        if len(row) == len(features.columns)
    ]
    rows = [read_golden_rows(made.folder)[place] for place in places]
    assert len(rows) > 1
    expected = features.apply_given(features.from_json_rows(rows))
    raw = {row["id"]: row for row in mixed_sources.rows()}
    ids = shards.open_rows(made.folder, "test").ids[places]
    inputs: list[dict[str, Any]] = []
    for name, column in features.columns.items():
        cells = [row[name] for row in rows]
        type_ = "FP64" if column.kind == "numeric" else "BYTES"
        if name == "when":
            type_ = datatype
            cells = [raw[int(one)]["when"] for one in ids] if datatype == "BYTES" else cells
        inputs.append({"name": name, "datatype": type_, "shape": [len(rows)], "data": cells})
    request = open_inference.parse_infer_request(
        json.dumps({"inputs": inputs}).encode(), None, Interface(features), 10
    )
    found = request.inputs(Interface(features))
    assert isinstance(found, Record)
    assert isinstance(expected, Record)
    for name in ("columns", "article"):
        np.testing.assert_array_equal(found.fields[name], expected.fields[name])


def test_metadata_and_example_fit_the_columns(made: Prepared, served: Storage) -> None:
    interface = Interface(made.features)
    told = {one["name"]: one for one in interface.inputs}
    assert told["when"]["datatype"] == "BYTES"
    assert told["when"]["parameters"]["kind"] == "date"
    for name in ("shop", "size", "user", "article", "city"):
        assert told[name]["parameters"]["categories"]
    row = examples.example_row(interface)
    assert _ask(served, "/predict", {"rows": [row]})[0] == 200
    facts = model_facts.describe_inputs(bundle.load(served / "bundle"))
    assert facts["when"]["typical"].startswith("201")
    assert isinstance(facts["rank"]["typical"], int | float)
    status, answer = _ask(served, "/predict", {"rows": [{**row, "when": "soon"}]})
    assert (status, "rows[0].when: 'soon' is not a date" in json.dumps(answer)) == (422, True)


def test_rows_are_sliced_by_raw_values(made: Prepared) -> None:
    features: Features = made.features
    rows = shards.open_rows(made.folder, "train")
    x, _ = rows.gather(np.arange(len(rows)))
    raw = {row["id"]: row for row in mixed_sources.rows()}
    for name, edges in (("log", (-2, 100, 5000)), ("rank", (2, 5, 8, 100)), ("range", (1, 2))):
        (slices,) = parse_slices([f"{name}:{','.join(map(str, edges))}"], features)
        cells = [raw[int(one)][name] for one in rows.ids]
        expected = np.searchsorted(edges, cells, side="right")
        np.testing.assert_array_equal(slices.positions(x), expected)
    (shops,) = parse_slices(["shop"], features)
    assert shops.names[0].startswith("bucket ")
    assert shops.positions(x).max() < len(shops.names)
