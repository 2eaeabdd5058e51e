"""Several labels from training to an answer: thresholds, endpoint, protocol, report, client."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import reported_runs
import torch
from in_process import post, run, settings_of
from training import training_spec, write_labels

from raydc import bundle, train
from raydc.bundle import answer_columns, optimize
from raydc.client.replies import _prediction
from raydc.data import prepared
from raydc.data.prepared import Prepared, read_golden_rows
from raydc.data.shards import open_rows
from raydc.errors import SpecError
from raydc.features import Signature
from raydc.models.score_threshold import check_threshold
from raydc.models.scores import Scores
from raydc.registry import Registry
from raydc.report import diagnosis, run_report
from raydc.serve.protocol import open_inference
from raydc.serve.protocol.interface import Interface
from raydc.serve.replica import shadow
from raydc.spec.threshold import Threshold
from raydc.storage import Storage

Made = tuple[Storage, Prepared, Storage]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Storage, data set and run folder of a model of three labels with a threshold each."""
    folder = tmp_path_factory.mktemp("labels")
    data = prepared.load(write_labels(Storage(str(folder / "data"))))
    storage = Storage(str(folder / "store"))
    threshold = {"name": "recall", "at_least": 0.9}
    spec = training_spec(storage.uri, data={"task": "multilabel"}, train={"threshold": threshold})
    run_folder = storage / "run"
    train.run(spec, data, run_folder, lambda line: None)
    return storage, data, run_folder


def test_a_model_answers_by_the_threshold_of_each_label(made: Made) -> None:
    _, data, run_folder = made
    loaded = bundle.load(run_folder / "model")
    least = loaded.features.label_thresholds
    assert len(set(least)) == 3
    assert all(0.0 < one < 1.0 for one in least)
    card = (run_folder / "model").read_bytes("card.md").decode()
    assert f"labels from these scores on: a {least[0]:.6g}" in card
    assert "- Labels: a, b, c" in card
    # The data set's features have none, and the two are equal all the same.
    assert data.features.label_thresholds == ()
    assert data.features == loaded.features

    rows = open_rows(data.folder, "validation")
    x, y = rows.gather(np.arange(len(rows)))
    outputs = loaded.forward(x)
    values = loaded.features.values(outputs)
    assert values == pytest.approx(torch.from_numpy(outputs).double().sigmoid().numpy())
    called = values >= np.array(least)
    assert (called != (values >= 0.5)).any()
    # Each label has the recall that was asked for.
    assert all((called[y[:, k] == 1, k]).mean() >= 0.9 for k in range(3))
    answers = loaded.features.answers(values)
    assert [answer["labels"] for answer in answers] == [
        [name for name, is_it in zip("abc", row, strict=True) if is_it] for row in called
    ]
    judged = Scores(loaded.features, ("f1",), len(rows)).judge(
        torch.from_numpy(outputs), torch.from_numpy(y)
    )
    assert np.array_equal(judged.predicted_B.numpy(), called)


def test_the_endpoint_answers_what_the_model_says_offline(made: Made) -> None:
    storage, data, run_folder = made
    loaded = bundle.load(run_folder / "model")
    loaded.check_golden()
    Registry(storage).register("small", run_folder / "model", {})
    golden = read_golden_rows(data.folder)
    offline = loaded.predict_rows(golden)
    request = {"inputs": [], "outputs": [{"name": "labels"}, {"name": "scores"}]}
    for name in "xyz":
        cells = [row[name] for row in golden]
        shape = [len(golden)]
        request["inputs"].append({"name": name, "datatype": "FP64", "shape": shape, "data": cells})

    async def ask(_: Any, routes: Any) -> Any:
        plain = await routes.respond(post("/predict", {"rows": golden}))
        tensors = await routes.respond(post("/v2/models/small/infer", request))
        return json.loads(plain.body), json.loads(tensors.body)

    plain, tensors = run(settings_of(storage), ask)
    assert plain["predictions"] == offline
    labels, scores = tensors["outputs"]
    assert (labels["datatype"], labels["shape"]) == ("BOOL", [4, 3])
    named = [
        [
            name
            for name, mark in zip("abc", labels["data"][3 * row : 3 * row + 3], strict=True)
            if mark
        ]
        for row in range(4)
    ]
    assert named == [one["labels"] for one in offline]
    expected = [list(one["scores"].values()) for one in offline]
    assert np.reshape(scores["data"], (4, 3)) == pytest.approx(np.array(expected), abs=1e-6)
    assert _prediction(plain["predictions"][0]).labels == tuple(offline[0]["labels"])
    assert _prediction({"label": "a", "score": 1.0}).labels is None


def test_the_protocol_names_the_tensors_and_reads_them_in_binary(made: Made) -> None:
    loaded = bundle.load(made[2] / "model")
    interface = Interface(loaded.features)
    assert [one["name"] for one in interface.outputs] == ["scores", "labels"]
    values = np.array([[0.9, 0.01, 0.9]])
    request = open_inference.InferRequest({}, 1, None, (("labels", True),))
    content, length = open_inference.encode_infer_answer(request, values, interface, "m", "1")
    assert content[length:] == loaded.features.choose(values).tobytes() == b"\x01\x00\x01"


def test_a_batch_prediction_has_the_labels_and_a_score_of_each(made: Made) -> None:
    loaded = bundle.load(made[2] / "model")
    golden = read_golden_rows(made[1].folder)
    answers = loaded.predict_rows(golden)
    inputs = loaded.features.apply(loaded.features.from_json_rows(golden))
    values_BK = loaded.features.values(loaded.forward(inputs))
    table = answer_columns.add(pa.table({"x": [row["x"] for row in golden]}), loaded, values_BK)
    assert table.column_names == ["x", *answer_columns.names_of(loaded)]
    assert table.column_names[1:] == ["prediction", "score:a", "score:b", "score:c"]
    assert table.column("prediction").to_pylist() == ["|".join(one["labels"]) for one in answers]
    assert table.column("score:b").to_pylist() == [one["scores"]["b"] for one in answers]


def test_other_labels_are_a_disagreement(made: Made) -> None:
    loaded = bundle.load(made[2] / "model")
    x, _ = open_rows(made[1].folder, "test").gather(np.arange(4))
    outputs = loaded.forward(x)
    assert optimize.find_disagreement(outputs, outputs + 1e-6, loaded.features) is None
    other = np.full_like(outputs, -10.0)
    found = optimize.find_disagreement(outputs, other, loaded.features)
    assert found is not None
    assert found.startswith("the label of golden rows[")
    assert shadow._agree({"labels": ["a"]}, {"labels": ["a"]})
    assert not shadow._agree({"labels": ["a"]}, {"labels": ["a", "b"]})


def test_a_label_without_validation_rows_keeps_the_default(tmp_path: Path) -> None:
    folder = write_labels(
        Storage(str(tmp_path / "data")), {"train": 60, "validation": 3, "test": 5}
    )
    data = prepared.load(folder)
    without = open_rows(folder, "validation").targets.sum(axis=0) == 0
    assert without.any()
    spec = training_spec(
        str(tmp_path), data={"task": "multilabel"}, train={"threshold": {"name": "f1"}}
    )
    run_folder = Storage(str(tmp_path / "run"))
    train.run(spec, data, run_folder, lambda line: None)
    least = np.array(bundle.load(run_folder / "model").features.label_thresholds)
    assert (least[without] == 0.5).all()
    assert (least[~without] != 0.5).all()


def test_a_threshold_of_labels_needs_their_scores() -> None:
    signature = Signature("vector", (1,), "float32", (), (), "multilabel", ("a", "b", "c"))
    check_threshold(Threshold(name="f1"), signature, 1000)
    with pytest.raises(SpecError, match=r"at most 5,592,405"):
        check_threshold(Threshold(name="f1"), signature, 10_000_000)


def test_the_report_shows_labels(tmp_path: Path) -> None:
    choose = random.Random(3)
    lines = ["x,y,tags"]
    for _ in range(400):
        x, y = choose.gauss(0, 1), choose.gauss(0, 1)
        tags = [name for name, size in (("warm", x), ("bright", y)) if size > 0.3]
        lines.append(f"{x:.4f},{y:.4f},{'|'.join(tags)}")
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    data = {"target": "tags", "task": "multilabel", "clean": {"missing_values": []}}
    run_folder, found = reported_runs.finish_run(tmp_path, data=data)
    told = diagnosis.diagnose(run_folder / "model", found, 60.0)
    assert told["left_out"] == []
    losses = [row["loss"] for row in told["worst"]]
    assert losses == sorted(losses, reverse=True)
    assert {row["answered"] for row in told["worst"]} <= {"", "warm", "bright", "bright, warm"}
    assert 0.0 <= told["calibration"]["error"] < 0.5
    run_report.write_after_run(run_folder, "short", found, lambda line: None)
    page = run_folder.read_bytes("report.html").decode()
    for text in ("Scores by label", "score of a label", "warm", "bright"):
        assert text in page
