"""Metrics of a model by task, the same to the last digit whichever worker judges which rows.

Used in workers, and in the driver of an evaluation. Counts are whole numbers. Sums are taken in
float64 inside blocks of rows that do not depend on workers, and over the blocks with `math.fsum`,
which rounds once. AUROC, AUPRC and the calibration error sort the scores of all rows, which are
kept up to `MAX_SCORES`. Whatever training minimises, the metric `loss` is the default loss of the
task, so that runs can be compared.

Shape suffixes: B rows of a block, N rows in all, K outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from raydc.errors import Problem, SpecError
from raydc.features import Features
from raydc.models import metric_values, ranking
from raydc.models.judged import Judged, Result, judge
from raydc.models.metric_values import Value
from raydc.models.own_scores import own_value
from raydc.order import Ids
from raydc.spec.language import LANGUAGE
from raydc.spec.metric import OF_ALL_ROWS, SCORES

# Rows times classes whose scores are kept, 128 MiB: bounds the memory of one process.
MAX_SCORES = 1 << 24
_TOO_MANY = f"it needs the scores of all rows, and rows x classes exceed {MAX_SCORES:,}"
_SEVERAL_STEPS = "a forecast of several steps is not ranked"
_TOO_MANY_CLASSES = "rows are ranked by a value, or by the score of the second of two classes"
_SUMS = {
    "classification": ("loss",),
    "multilabel": ("loss", "exact"),
    "regression": ("loss", "error", "error2", "target", "target2", "rest", "part", "zeros"),
    LANGUAGE: ("loss", "tokens"),
}
# Types of the true values that the workers add up in `share`.
_EXPECTED = {
    "classification": torch.int64,
    "multilabel": torch.uint8,
    "regression": torch.float64,
}
# Fraction of the target's scale below which a target counts as 0: the precision of float32.
_ZERO = 1e-6


class Scores:
    """Accumulates judged rows by block, then computes metrics.

    Args:
        features: Features of the model, which hold the task and the units of the target.
        names: Metrics to compute besides the loss; None for all of the task.
        num_rows: Number of rows to expect, which decides whether their scores are kept.
        wants_scores: Whether to keep the scores although no metric needs them.
        ndcg_k: Number of places of a group that count for `ndcg`.

    Attributes:
        num_rows: Number of rows added so far.
    """

    def __init__(
        self,
        features: Features,
        names: Sequence[str] | None,
        num_rows: int,
        wants_scores: bool = False,
        ndcg_k: int = 10,
    ) -> None:
        self.features = features
        self.task = features.signature.task
        self.names = tuple(SCORES[self.task] if names is None else names)
        num_scores = num_rows * features.signature.num_outputs
        self._own = tuple(name for name in self.names if ":" in name)
        needs_scores = wants_scores or bool(self._own or OF_ALL_ROWS & set(self.names))
        self.keeps_scores = needs_scores and num_scores <= MAX_SCORES
        self._counts_K3 = torch.zeros(len(features.signature.classes), 3, dtype=torch.int64)
        self._sums: dict[int, Tensor] = {}
        self._scores: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self._ndcg_k = ndcg_k
        self.num_rows = 0

    def update(
        self, outputs_BK: Tensor, targets_B: Tensor, block: int = 0, queries: Ids | None = None
    ) -> None:
        """Judges the rows of a block and adds them.

        Args:
            outputs_BK: Raw outputs of the network, float32, on any device.
            targets_B: Stored targets: class positions, standardised values, or marks of labels.
            block: Number of the block; each is added once.
            queries: Group of each row in which it is ranked; None without groups.
        """
        self.add(self.judge(outputs_BK, targets_B, queries), block)

    def judge(self, outputs_BK: Tensor, targets_B: Tensor, queries: Ids | None = None) -> Judged:
        """Reduces rows to what `add` needs.

        Args:
            outputs_BK: Raw outputs of the network, float32, on any device.
            targets_B: Stored targets: class positions, standardised values, or marks of labels.
            queries: Group of each row in which it is ranked; None without groups.
        """
        judged = judge(self.features, outputs_BK, targets_B, self.keeps_scores)
        if queries is None or not self.keeps_scores:
            return judged
        return replace(judged, queries_B=torch.from_numpy(np.array(queries)))

    def add(self, judged: Judged, block: int) -> None:
        """Adds rows that `judge` has reduced.

        Args:
            judged: Result of `judge` for the rows of one block.
            block: Number of the block; each is added once.
        """
        self.num_rows += len(judged.expected_B)
        sums = {"loss": judged.losses_B}
        if self.task == "regression":
            sums |= self._sums_of_errors(judged)
        elif self.task == LANGUAGE:
            sums["tokens"] = judged.expected_B.double()
        elif self.task == "multilabel":
            sums["exact"] = self._count_labels(judged)
        else:
            self._count(judged)
        self._sums[block] = torch.stack([sums[name].sum() for name in _SUMS[self.task]])
        if self.keeps_scores:
            values = judged.scores_BK
            if self.task == "regression":
                values = judged.predicted_B.reshape(len(judged.predicted_B), -1)
            self._scores[block] = (values, judged.expected_B, judged.queries_B)

    def _count(self, judged: Judged) -> None:
        num_classes = len(self._counts_K3)
        predicted_B, expected_B = judged.predicted_B, judged.expected_B
        hits_B = predicted_B[predicted_B == expected_B]
        for column, rows in enumerate((hits_B, predicted_B, expected_B)):
            self._counts_K3[:, column] += torch.bincount(rows, minlength=num_classes)

    def _count_labels(self, judged: Judged) -> Tensor:
        """Counts labels; returns 1 for each row of which all are right."""
        predicted_BK, expected_BK = judged.predicted_B.bool(), judged.expected_B.bool()
        parts = (predicted_BK & expected_BK, predicted_BK, expected_BK)
        for column, rows in enumerate(parts):
            self._counts_K3[:, column] += rows.sum(dim=0)
        return (predicted_BK == expected_BK).all(dim=1).double()

    def _sums_of_errors(self, judged: Judged) -> dict[str, Tensor]:
        mean, scale = self.features.target_mean, self.features.target_scale
        error_B = judged.predicted_B - judged.expected_B
        # Standardised, so that the variance is not lost against the square of the mean.
        target_B = (judged.expected_B - mean) / scale
        is_zero_B = judged.expected_B.abs() <= _ZERO * scale
        part_B = torch.where(is_zero_B, 0.0, error_B.abs() / judged.expected_B.abs())
        return {
            "error": error_B.abs(),
            "error2": error_B.square(),
            "target": target_B,
            "target2": target_B.square(),
            "rest": (error_B / scale).square(),
            "part": part_B,
            "zeros": is_zero_B.double(),
        }

    def share(self, add_up: Callable[[Tensor], Tensor], num_rows: int, block_rows: int) -> None:
        """Adds the rows that the other workers have added. Every worker must call it.

        Args:
            add_up: Returns the sum of a tensor over all workers.
            num_rows: Number of rows that all workers have added together.
            block_rows: Number of rows in each block but the last.
        """
        num_blocks = -(-num_rows // block_rows)
        # Each entry is nonzero on one worker only, so the sum is exact in any order.
        sums = torch.zeros(num_blocks, len(_SUMS[self.task]), dtype=torch.float64)
        for block, own in self._sums.items():
            sums[block] = own
        self._sums = dict(enumerate(add_up(sums)))
        self._counts_K3 = add_up(self._counts_K3)
        self.num_rows = num_rows
        if not self.keeps_scores:
            return
        num_outputs = self.features.signature.num_outputs
        scores_NK = torch.zeros(num_rows, num_outputs, dtype=torch.float64)
        is_wide = self.task == "multilabel" or self.features.signature.num_values > 1
        shape = (num_rows, num_outputs) if is_wide else (num_rows,)
        expected_N = torch.zeros(shape, dtype=_EXPECTED[self.task])
        queries_N = torch.zeros(num_rows if self._ranks else 0, dtype=torch.int64)
        for block, (scores_BK, expected_B, queries_B) in self._scores.items():
            rows = slice(block * block_rows, block * block_rows + len(expected_B))
            scores_NK[rows], expected_N[rows] = scores_BK, expected_B
            if self._ranks and len(queries_B):
                queries_N[rows] = queries_B
        self._scores = {0: (add_up(scores_NK), add_up(expected_N), add_up(queries_N))}

    def all_scores(self) -> tuple[Tensor, Tensor]:
        """Probabilities [N, K] and class positions [N] of all rows, in the order of the blocks.

        For a regression, predicted [N, K] and expected values; for labels, marks [N, K].
        """
        parts = [self._scores[block] for block in sorted(self._scores)]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def compute(self) -> Result:
        """Computes the metrics over all rows added.

        The loss is the mean over rows, for a regression in standardised units, and for texts over
        tokens; rmse and mae are in units of the target.
        """
        columns = zip(*(self._sums[block].tolist() for block in sorted(self._sums)), strict=True)
        sums = dict(zip(_SUMS[self.task], map(metric_values.total, columns), strict=False))
        count = sums.get("tokens", 0.0) if self.task == LANGUAGE else self.num_rows
        found: dict[str, Value] = {"loss": sums.get("loss", 0.0) / max(1, count)}
        if self.task == "regression":
            # Each step of a forecast counts as a value of its own.
            num_values = self.num_rows * self.features.signature.num_values
            values = metric_values.from_sums(num_values, sums)
        elif self.task == LANGUAGE:
            values = {"perplexity": metric_values.perplexity(float(found["loss"]))}
        elif self.task == "multilabel":
            counted = metric_values.from_label_counts(
                self._counts_K3, self.num_rows, sums.get("exact", 0.0)
            )
            values = {**counted, **self._of_all_rows()}
        else:
            values = {**metric_values.from_counts(self._counts_K3), **self._of_all_rows()}
            values["perplexity"] = metric_values.perplexity(float(found["loss"]))
        if self._ranks:
            values["ndcg"] = self._ndcg() if self.keeps_scores else _TOO_MANY
        values |= {name: self._own_value(name) for name in self._own}
        return Result.of({**found, **{name: values[name] for name in self.names}})

    @property
    def _ranks(self) -> bool:
        return "ndcg" in self.names

    def _ndcg(self) -> Value:
        queries_N = torch.cat([self._scores[block][2] for block in sorted(self._scores)]).numpy()
        values_NK, expected_N = (tensor.numpy() for tensor in self.all_scores())
        if len(queries_N) != len(expected_N):
            return "the rows have no groups"
        if self.task == "classification":
            if values_NK.shape[1] != 2:
                return _TOO_MANY_CLASSES
            gains_N = (expected_N == 1).astype(np.float64)
            return ranking.ndcg(values_NK[:, 1], gains_N, queries_N, self._ndcg_k)
        if self.features.signature.num_values > 1:
            return _SEVERAL_STEPS
        # A target of 0 is rarely 0 after float32.
        is_zero_N = np.abs(expected_N) <= _ZERO * self.features.target_scale
        gains_N = np.where(is_zero_N, 0.0, expected_N)
        return ranking.ndcg(values_NK[:, 0], gains_N, queries_N, self._ndcg_k)

    def _own_value(self, name: str) -> Value:
        if not self.keeps_scores:
            return _TOO_MANY
        values, expected_N = (tensor.numpy() for tensor in self.all_scores())
        is_value = self.task == "regression"
        return own_value(name, values.reshape(expected_N.shape) if is_value else values, expected_N)

    @property
    def support(self) -> dict[str, int]:
        """Rows of each class, or with each label."""
        counts = self._counts_K3[:, 2].tolist()
        return dict(zip(self.features.signature.classes, counts, strict=True))

    def by_class(self) -> dict[str, Result]:
        """Precision, recall, F1 and the areas of each class, if they are among the names."""
        found = metric_values.by_class(self._counts_K3)
        for name in ("auroc", "auprc"):
            for values, area in zip(found, self._areas(name), strict=True):
                values[name] = area
        return {
            label: Result.of({name: values[name] for name in values if name in self.names})
            for label, values in zip(self.features.signature.classes, found, strict=True)
        }

    def _of_all_rows(self) -> dict[str, Value]:
        values: dict[str, Value] = {
            name: metric_values.mean_area(self._areas(name), self.features.has_label_sets)
            for name in ("auroc", "auprc")
            if name in self.names
        }
        if "ece" in self.names:
            values["ece"] = (
                metric_values.calibration_error(*self.all_scores())
                if self.keeps_scores
                else _TOO_MANY
            )
        return values

    def _areas(self, name: str) -> list[Value]:
        if not self.keeps_scores or name not in self.names:
            return [_TOO_MANY] * len(self._counts_K3)
        return metric_values.areas(name, *self.all_scores())


def check_metrics(names: Sequence[str], features: Features, num_rows: int) -> None:
    """Checks that the metrics of a spec can be computed on its validation rows.

    Args:
        names: Metrics of `train.metrics` and `train.metric`.
        features: Features of the data set, which hold the number of classes.
        num_rows: Number of validation rows.

    Raises:
        SpecError: A metric needs the scores of more rows than are kept, or other classes.
    """
    if "ndcg" in names and len(features.signature.classes) > 2:
        raise SpecError([Problem("", "train.metrics", f"ndcg: {_TOO_MANY_CLASSES}")])
    if "ndcg" in names and features.signature.num_values > 1:
        raise SpecError([Problem("", "train.metrics", f"ndcg: {_SEVERAL_STEPS}")])
    needs = sorted(name for name in set(names) if name in OF_ALL_ROWS or ":" in name)
    if needs and num_rows * features.signature.num_outputs > MAX_SCORES:
        message = f"{needs[0]}: {_TOO_MANY}; use accuracy or f1, or fewer validation rows"
        raise SpecError([Problem("", "train.metrics", message)])
