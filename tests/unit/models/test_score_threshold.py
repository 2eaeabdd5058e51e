"""The threshold of two classes: how it is chosen, and that a model answers by it everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from training import training_spec, write_unbalanced

from raydc import bundle, train
from raydc.data import prepared
from raydc.data.shards import open_rows
from raydc.errors import SpecError
from raydc.features import Signature
from raydc.models.score_threshold import check_threshold, choose_threshold
from raydc.models.scores import Scores
from raydc.report import diagnosis
from raydc.serve.protocol import model_facts, open_inference
from raydc.serve.protocol.interface import Interface
from raydc.spec.threshold import Threshold
from raydc.storage import Storage

F1 = Threshold(name="f1")


def rates(
    scores: npt.NDArray[np.float64], truth: npt.NDArray[np.bool_], least: float
) -> dict[str, float]:
    called = scores >= least
    hits = float((called & truth).sum())
    precision, recall = hits / max(1.0, called.sum()), hits / truth.sum()
    return {
        "precision": precision,
        "recall": recall,
        "f1": 2 * hits / (called.sum() + truth.sum()),
    }


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("section", "wanted", "best"),
    [
        (F1, "f1", "f1"),
        (Threshold(name="precision", at_least=0.7), "precision", "recall"),
        (Threshold(name="recall", at_least=0.8), "recall", "precision"),
    ],
)
def test_no_other_threshold_is_better(
    seed: int, section: Threshold, wanted: str, best: str
) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.random(200) < 0.3
    # Rounded, so that many scores are equal.
    scores = np.clip(rng.normal(0.4 + 0.25 * truth, 0.2), 0.0, 1.0).round(2)
    chosen = choose_threshold(section, scores, truth)
    assert isinstance(chosen, float)
    found = rates(scores, truth, chosen)
    others = [rates(scores, truth, least) for least in np.unique(scores)]
    enough = [one[best] for one in others if one[wanted] >= (section.at_least or 0.0)]
    assert found[wanted] >= (section.at_least or 0.0)
    assert found[best] == max(enough)
    # No score is so near that another rounding would move its row.
    assert np.abs(scores - chosen).min() >= 0.0049


def test_threshold_that_does_not_exist_has_a_reason() -> None:
    scores, truth = np.array([0.9, 0.5, 0.2]), np.array([False, True, False])
    precise = Threshold(name="precision", at_least=0.9)
    assert choose_threshold(precise, scores, truth) == "no threshold reaches precision 0.9"
    none = np.zeros(3, dtype=np.bool_)
    assert choose_threshold(F1, scores, none) == "no validation row is of the positive class"
    assert choose_threshold(F1, np.full(3, np.nan), truth) == "some scores are not numbers"


def test_neighbours_among_the_floats_are_told_apart() -> None:
    low = 0.5
    high = float(np.nextafter(low, 1.0))
    assert choose_threshold(F1, np.array([low, high]), np.array([False, True])) == high


def test_data_that_a_threshold_does_not_fit_are_refused() -> None:
    three = Signature("vector", (1,), "float32", (), (), "classification", ("a", "b", "c"))
    with pytest.raises(SpecError, match="a threshold is for two classes; the data set has 3"):
        check_threshold(F1, three, 10)
    two = Signature("vector", (1,), "float32", (), (), "classification", ("a", "b"))
    with pytest.raises(SpecError, match="'c' is not one of the classes; they are a, b"):
        check_threshold(Threshold(name="f1", positive="c"), two, 10)
    with pytest.raises(SpecError, match="it needs the scores of all validation rows"):
        check_threshold(F1, two, 1 << 24)
    check_threshold(None, three, 1 << 24)


@pytest.mark.parametrize("positive", ["no", "yes"])
def test_a_model_answers_by_its_threshold_everywhere(tmp_path: Path, positive: str) -> None:
    data = prepared.load(write_unbalanced(Storage(str(tmp_path / "data"))))
    section = {"name": "recall", "at_least": 0.9, "positive": positive}
    spec = training_spec(str(tmp_path), train={"threshold": section})
    run = Storage(str(tmp_path / "run"))
    train.run(spec, data, run, lambda line: None)
    loaded = bundle.load(run / "model")
    metrics = loaded.facts["metrics"]
    assert loaded.features.threshold == (positive, metrics["threshold"])
    card = (run / "model").read_bytes("card.md").decode()
    assert f"- Threshold: {positive} from a score of" in card
    assert model_facts.describe_model(loaded, {})["threshold"] == loaded.facts["threshold"]
    # The data set's features have none, and the two are equal all the same.
    assert data.features.threshold is None
    assert data.features == loaded.features

    x, y = open_rows(data.folder, "validation").gather(np.arange(60))
    outputs = loaded.forward(x)
    values = loaded.features.values(outputs)
    classes = loaded.features.signature.classes
    index = classes.index(positive)
    is_called = values[:, index] >= metrics["threshold"]
    labels = [classes[index if called else 1 - index] for called in is_called]
    assert labels != [classes[best] for best in values.argmax(axis=1)]
    assert is_called[y == index].mean() >= 0.9

    answers = loaded.features.answers(values)
    assert [answer["label"] for answer in answers] == labels
    assert all(answer["score"] == answer["scores"][answer["label"]] for answer in answers)
    request = open_inference.InferRequest({}, 60, None, (("label", False),))
    content, _ = open_inference.encode_infer_answer(
        request, values, Interface(loaded.features), "m", "1"
    )
    assert json.loads(content)["outputs"][0]["data"] == labels
    judged = Scores(loaded.features, ("f1",), 60).judge(
        torch.from_numpy(outputs), torch.from_numpy(y)
    )
    assert [classes[position] for position in judged.predicted_B] == labels


def test_the_report_says_what_a_model_answers_by_its_threshold(tmp_path: Path) -> None:
    data = prepared.load(write_unbalanced(Storage(str(tmp_path / "data"))))
    spec = training_spec(str(tmp_path), train={"threshold": {"name": "recall", "at_least": 0.9}})
    run = Storage(str(tmp_path / "run"))
    train.run(spec, data, run, lambda line: None)
    loaded = bundle.load(run / "model")
    worst = diagnosis.diagnose(run / "model", data, 60.0)["worst"]
    x, _ = open_rows(data.folder, "test").gather(np.arange(40))
    answers = loaded.features.decode(loaded.forward(x))
    said = {(answer["label"], round(answer["score"], 9)) for answer in answers}
    assert {(row["answered"], round(row["score"], 9)) for row in worst} <= said
    # By the highest score, no score would be below one half.
    assert min(row["score"] for row in worst) < 0.5
