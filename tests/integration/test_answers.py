"""Answers of an endpoint on each path: direct, Ray Serve's, and Ray Serve's as a fallback."""

from __future__ import annotations

import http.client
import json
import os
import urllib.parse
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import small_models
from endpoints import SMALL, WAIT_S, ask, serve_logs, take_down, wait_for

from raydc import bundle, client, engine, evaluate, serve
from raydc.registry import Registry
from raydc.serve.control import application as application_module
from raydc.storage import Storage

# A uvicorn whose server has another protocol than the one that raydc knows how to limit.
CHANGED_UVICORN = """
import uvicorn.config
uvicorn.config.HTTP_PROTOCOLS["auto"] = "uvicorn.protocols.http.h11_impl:H11Protocol"
"""


@pytest.fixture(scope="module", params=["auto", "off", "auto, changed uvicorn"])
def endpoint(
    request: pytest.FixtureRequest,
    ray_engine: engine.Engine,
    storage: Storage,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[serve.Endpoint]:
    """An endpoint with version 1 for each path."""
    direct, _, changed = request.param.partition(", ")
    given = small_models.small_spec(
        storage.uri, ray_actor_options=SMALL, autoscaling_config={"max_replicas": 1}, direct=direct
    )
    with pytest.MonkeyPatch.context() as patch:
        if changed:
            folder = tmp_path_factory.mktemp("changed")
            (folder / "sitecustomize.py").write_text(CHANGED_UVICORN)
            path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
            variables = {"env_vars": {"PYTHONPATH": path.rstrip(os.pathsep)}}
            patch.setattr(application_module.engine, "runtime_environment", lambda _: variables)
        yield serve.deploy(given, storage, 1)
    take_down()


@pytest.fixture
def path(request: pytest.FixtureRequest) -> str:
    """The path of requests that is expected."""
    given: str = request.node.callspec.params["endpoint"]
    return given


def test_metadata_says_which_path_requests_take_and_why(first: serve.Endpoint, path: str) -> None:
    found = client.metadata(first.url, "small")["parameters"]["request_path"]
    if path == "auto":
        assert (found["path"], found["limits_not_in_force"]) == ("direct", [])
        assert found["reason"].startswith("the check at start passed with ray ")
        return
    assert found["path"] == "serve"
    assert len(found["limits_not_in_force"]) == 4
    reasons = {
        "off": "serve.direct is off",
        "auto, changed uvicorn": "Ray Serve's HTTP server does not use raydc's protocol",
    }
    assert found["reason"] == reasons[path]


def test_log_of_the_replica_says_which_path_requests_take(first: serve.Endpoint, path: str) -> None:
    taken = "the direct" if path == "auto" else "Ray Serve's"
    lines: list[str] = []

    def is_written() -> bool:
        lines[:] = [line for line in serve_logs("small") if f"requests take {taken} path" in line]
        return bool(lines)

    wait_for(is_written, "a line in the log of a replica")
    assert ("not in force" in lines[-1]) == (path != "auto")


def test_head_and_keep_alive_answer_alike(first: serve.Endpoint) -> None:
    parts = urllib.parse.urlsplit(first.url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=WAIT_S)
    try:
        lengths = []
        for method in ("GET", "HEAD", "GET"):
            connection.request(method, "/healthz", headers={"x-request-id": "r-1"})
            response = connection.getresponse()
            body = response.read()
            lengths.append(response.getheader("content-length"))
            assert (response.status, response.getheader("x-request-id")) == (200, "r-1")
            assert response.getheader("x-raydc-model-version") == "1"
            assert (body == b"") == (method == "HEAD")
    finally:
        connection.close()
    assert len(set(lengths)) == 1


def test_predictions_equal_those_made_offline(first: serve.Endpoint, storage: Storage) -> None:
    rows = small_models.table_rows(40)
    offline = bundle.load(Registry(storage).folder("small", 1)).predict_rows(rows)
    answer = client.predict(first.url, rows=rows)
    assert answer == {"predictions": offline, "model": "small", "version": "1"}, (
        "bit for bit at the same batch shape"
    )
    for row, expected in zip(rows[:8], offline, strict=False):
        (alone,) = client.predict(first.url, rows=[row])["predictions"]
        assert alone["scores"] == pytest.approx(expected["scores"], abs=1e-6)


def test_client_gets_equal_predictions_by_rows_and_arrays(
    first: serve.Endpoint, storage: Storage
) -> None:
    rows = small_models.table_rows(40)
    offline = bundle.load(Registry(storage).folder("small", 1)).predict_rows(rows)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    with client.Client(first.url, timeout_s=WAIT_S) as asking:
        answer, tensors = asking.predict(rows), asking.infer(columns)
        assert asking.ready()
        assert [one.name for one in asking.metadata().inputs] == list(columns)
    assert [asdict(one) for one in answer.predictions] == [
        {**one, "value": None, "labels": None} for one in offline
    ]
    assert (answer.model, answer.version, tensors.model, tensors.version) == (
        "small",
        "1",
        "small",
        "1",
    )
    assert tensors.outputs["label"].tolist() == [one["label"] for one in offline]
    assert tensors.outputs["scores"].dtype == np.float32
    assert tensors.outputs["scores"].tolist() == [
        pytest.approx(list(one["scores"].values()), abs=1e-6) for one in offline
    ]


def test_batch_predictions_equal_the_served_ones(
    first: serve.Endpoint, storage: Storage, tmp_path: Path
) -> None:
    rows = small_models.table_rows(40)
    source, output = tmp_path / "rows.jsonl", tmp_path / "predictions.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert (
        evaluate.predict_file(Registry(storage).folder("small", 1), str(source), str(output)) == 40
    )
    batch = [json.loads(line) for line in output.read_text().splitlines()]
    served = client.predict(first.url, rows=rows)["predictions"]
    assert [(row["prediction"], row["score"]) for row in batch] == [
        (one["label"], one["score"]) for one in served
    ]


def test_open_inference_protocol_answers_with_id_and_version(
    first: serve.Endpoint, storage: Storage
) -> None:
    rows = small_models.table_rows(6)
    metadata = client.metadata(first.url, "small")
    kinds = {"age": "FP64", "hours": "FP64", "job": "BYTES"}
    assert [(one["name"], one["datatype"]) for one in metadata["inputs"]] == list(kinds.items())
    inputs = [
        {"name": name, "shape": [6], "datatype": datatype, "data": [row[name] for row in rows]}
        for name, datatype in kinds.items()
    ]
    body = json.dumps({"id": "q-1", "inputs": inputs}).encode()
    path = f"/v2/models/small/versions/{metadata['versions'][0]}/infer"
    status, headers, answer = ask(
        first.url, "POST", path, body, content_type="application/json", x_request_id="r-1"
    )
    assert (status, answer["id"], answer["model_version"]) == (200, "q-1", "1")
    assert (headers["x-raydc-model-version"], headers["x-request-id"]) == ("1", "r-1")
    offline = bundle.load(Registry(storage).folder("small", 1)).predict_rows(rows)
    expected = (
        np.array([list(p["scores"].values()) for p in offline], dtype=np.float32)
        .reshape(-1)
        .tolist()
    )
    assert answer["outputs"][0]["data"] == expected


@pytest.mark.parametrize(
    ("method", "path", "body", "kind", "status"),
    [
        ("POST", "/predict", b"{", "application/json", 400),
        ("POST", "/predict", b'[{"age": "old"}]', "application/json", 422),
        ("POST", "/predict", b"hello", "text/plain", 415),
        ("GET", "/predict", b"", "application/json", 405),
        ("GET", "/nowhere", b"", "application/json", 404),
        ("GET", "/v2/models/small/versions/99", b"", "application/json", 404),
        ("POST", "/predict", b" " * (8 * 1024 * 1024 + 1), "application/json", 413),
    ],
)
def test_refusals_reach_the_client_as_json(
    first: serve.Endpoint, method: str, path: str, body: bytes, kind: str, status: int
) -> None:
    found, headers, answer = ask(first.url, method, path, body, content_type=kind)
    assert found == status
    assert answer["error"]
    assert answer["request_id"] == headers["x-request-id"]
