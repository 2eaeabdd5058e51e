"""NDCG by group: its value, ties, and what is not defined."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torchmetrics.functional.retrieval import retrieval_normalized_dcg
from window_rows import window_features

from raydc import spec as specs
from raydc.errors import SpecError
from raydc.features import Features, Numeric, Signature
from raydc.models import ranking
from raydc.models.scores import Scores, check_metrics

NUM_ROWS, BLOCK_ROWS = 300, 64


def rows(seed: int, *, has_ties: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, gains and groups of rows."""
    rng = np.random.default_rng(seed)
    gains = rng.integers(0, 5, NUM_ROWS).astype(np.float64)
    scores = 0.5 * gains + rng.normal(size=NUM_ROWS)
    # Groups lie among each other, and one has a single row.
    queries = rng.integers(0, 20, NUM_ROWS)
    queries[7] = 99
    gains[queries == 3] = 0.0
    return (scores.round(1) if has_ties else scores), gains, queries


def features(task: str) -> Features:
    classes = ("no", "yes") if task == "classification" else ()
    signature = Signature("vector", (1,), "float32", (), (), task, classes)  # type: ignore[arg-type]
    return Features(signature, "y", {"x": Numeric(0.0, 0.0, 1.0)}, 2.0, 1.5)


@pytest.mark.parametrize("k", [1, 3, 10, 1000])
@pytest.mark.parametrize("has_ties", [False, True])
def test_it_is_the_mean_of_scikit_learns_over_groups_with_a_gain(k: int, has_ties: bool) -> None:
    scores, gains, queries = rows(k, has_ties=has_ties)
    expected = []
    for query in np.unique(queries):
        mine = queries == query
        if not gains[mine].any():
            continue
        one = mine.sum() == 1
        expected.append(
            1.0 if one else sklearn_metrics.ndcg_score([gains[mine]], [scores[mine]], k=k)
        )
    assert 0 < len(expected) < len(np.unique(queries))
    assert ranking.ndcg(scores, gains, queries, k) == pytest.approx(np.mean(expected), abs=1e-12)


def test_it_is_torchmetrics_too_without_ties() -> None:
    scores, gains, queries = rows(0)
    found = [
        retrieval_normalized_dcg(
            torch.from_numpy(scores[queries == query]),
            torch.from_numpy(gains[queries == query].astype(np.int64)),
            top_k=5,
        )
        for query in np.unique(queries)
        if gains[queries == query].any()
    ]
    expected = float(torch.stack(found).double().mean())
    assert ranking.ndcg(scores, gains, queries, 5) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("scores", "gains", "reason"),
    [
        ([], [], "there are no rows"),
        ([np.nan, 1.0], [1.0, 0.0], "some scores are not numbers"),
        ([0.5, 1.0], [1.0, -1.0], "some targets are negative"),
        ([0.5, 1.0], [0.0, 0.0], "no group has a target above 0"),
    ],
)
def test_what_is_not_defined_has_its_reason(
    scores: list[float], gains: list[float], reason: str
) -> None:
    groups = np.zeros(len(scores), dtype=np.int64)
    assert ranking.ndcg(np.array(scores), np.array(gains), groups, 10) == reason


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_model_is_ranked_by_its_answers_whoever_judges_which_rows(task: str) -> None:
    made = features(task)
    scores, gains, queries = rows(1, has_ties=True)
    if task == "classification":
        outputs = torch.from_numpy(np.stack([0 * scores, scores], axis=1)).float()
        targets = torch.from_numpy((gains > 2).astype(np.int64))
        truth = targets.numpy().astype(np.float64)
    else:
        outputs = torch.from_numpy(scores[:, None]).float()
        targets = torch.from_numpy((gains - 2.0) / 1.5).float()
        truth = gains
    groups = (queries * 2**55).astype(np.int64)
    found = []
    for world_size in (1, 3):
        ranks = [Scores(made, ("ndcg",), NUM_ROWS, ndcg_k=4) for _ in range(world_size)]
        for block, start in enumerate(range(0, NUM_ROWS, BLOCK_ROWS)):
            at = slice(start, start + BLOCK_ROWS)
            ranks[block % world_size].update(outputs[at], targets[at], block, groups[at])
        given: list[list[torch.Tensor]] = [[] for _ in ranks]
        for rank, mine in zip(ranks, given, strict=True):

            def record(one: torch.Tensor, mine: list[torch.Tensor] = mine) -> torch.Tensor:
                mine.append(one)
                return one

            rank.share(record, NUM_ROWS, BLOCK_ROWS)
        sums = iter([torch.stack(parts).sum(0) for parts in zip(*given, strict=True)])
        ranks[0].share(lambda _, sums=sums: next(sums), NUM_ROWS, BLOCK_ROWS)
        found.append(ranks[0].compute().values["ndcg"])
    assert found[0] == found[1]
    expected = ranking.ndcg(outputs[:, -1].numpy().astype(np.float64), truth, groups, 4)
    assert found[0] == pytest.approx(expected, abs=1e-6)


def test_rows_without_groups_have_no_ndcg() -> None:
    scores = Scores(features("regression"), ("ndcg",), 2)
    scores.update(torch.tensor([[0.1], [0.2]]), torch.tensor([0.0, 1.0]))
    assert scores.compute().reasons == {"ndcg": "the rows have no groups"}


def test_three_classes_are_not_ranked() -> None:
    signature = Signature("vector", (1,), "float32", (), (), "classification", ("a", "b", "c"))
    made = Features(signature, "y", {"x": Numeric(0.0, 0.0, 1.0)})
    with pytest.raises(SpecError, match="the second of two classes"):
        check_metrics(["ndcg"], made, 10)


def test_several_steps_are_not_ranked() -> None:
    made = window_features(horizon=3)
    scores = Scores(made, ("rmse", "ndcg"), 4)
    scores.update(torch.zeros(4, 3), torch.ones(4, 3), queries=np.zeros(4, dtype=np.int64))
    found = scores.compute()
    assert found.reasons == {"ndcg": "a forecast of several steps is not ranked"}
    assert found.values["rmse"] is not None
    with pytest.raises(SpecError, match="ndcg: a forecast of several steps is not ranked"):
        check_metrics(["ndcg"], made, 10)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"task": "regression"}, "ndcg ranks rows in groups; name their column in data.query"),
        ({"task": "multilabel", "query": "u"}, "'ndcg' is not a metric of multilabel"),
        ({"task": "regression", "query": "label"}, "query: 'label' is the target"),
    ],
)
def test_ndcg_needs_groups_and_a_task_that_ranks(data: dict[str, str], message: str) -> None:
    spec = {
        "name": "a",
        "storage": "b",
        "data": {"source": "rows.csv", **data},
        "model": {"name": "linear"},
        "train": {"metric": "ndcg"},
    }
    with pytest.raises(SpecError) as caught:
        specs.from_dict(spec)
    assert message in str(caught.value)
