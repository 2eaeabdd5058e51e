"""How good a model is and where it fails, on some held-out rows. Runs in the driver, without Ray.

The result is a file of the run, `diagnosis.json`, from which its report is drawn. It is made in a
limited time: parts that do not fit are left out, and `left_out` names them.

Shape suffixes: B rows, K outputs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from raydc import bundle
from raydc.bundle import Bundle
from raydc.data.prepared import Prepared
from raydc.data.shards import open_rows
from raydc.errors import describe
from raydc.features import Inputs, Ragged, Record
from raydc.features.images import encode_png
from raydc.features.record import expanded
from raydc.order import Ids, mix
from raydc.report import importance, raw_rows, slices
from raydc.report.raw_rows import RawRows
from raydc.spec.language import LANGUAGE
from raydc.storage import Storage

FILE = "diagnosis.json"
FORMAT = 1
MAX_ROWS = 4000
_MAX_EXPLAINED_ROWS = 1000
_ROWS_PER_PASS = 256
_NUM_WORST = 20
_NUM_CALIBRATION_BINS = 10
_MAX_CELLS_SHOWN = 40
_LEAST_PROBABILITY = 1e-12
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class JudgedRows:
    """Answers of a model to some rows, in the order of the rows' ids.

    Attributes:
        ids: Row ids, ascending.
        x: Inputs of the rows as the network takes them.
        outputs_BK: Raw outputs of the network.
        values_BK: Probabilities, or values in units of the target, [B, 1].
        expected_B: Class positions, values in units of the target, or marks of labels [B, K].
        losses_B: Negative log-likelihood, or squared error in units of the target.
    """

    ids: Ids
    x: Inputs
    outputs_BK: npt.NDArray[np.float32]
    values_BK: Floats
    expected_B: npt.NDArray[Any]
    losses_B: Floats


def diagnose(bundle_folder: Storage, data: Prepared, limit_s: float) -> dict[str, Any]:
    """Diagnoses a model on its held-out rows.

    Args:
        bundle_folder: Bundle of the model to diagnose.
        data: Data set that the model was trained on, which has the held-out rows.
        limit_s: Seconds after which no further part is begun.

    Returns:
        Content of `diagnosis.json`.

    Raises:
        RaydcError: The bundle or the data set does not verify.
    """
    started = time.monotonic()
    until_s = started + limit_s
    loaded = bundle.load(bundle_folder)
    split = "test" if data.num_rows.get("test") else "validation"
    task = loaded.features.signature.task
    found: dict[str, Any] = {
        "format": FORMAT,
        "model": loaded.digest,
        "split": split,
        "task": task,
        "num_rows": data.num_rows.get(split, 0),
        "target": loaded.features.target,
        "classes": list(loaded.features.signature.classes),
        "left_out": [],
    }
    if task == LANGUAGE:
        found["left_out"].append("a language model gives no answers by row to diagnose")
        return found
    if not found["num_rows"]:
        found["left_out"].append(f"no diagnosis of {found['num_rows']} rows of a {task}")
        return found
    judged = _judge(loaded, data, split, until_s)
    raw = _read_raw(loaded, judged, until_s, found)
    found["judged"] = len(judged.ids)
    found["calibration"] = _calibrate(task, judged)
    found["worst"] = _worst(loaded, judged, raw)
    if len(raw.ids):
        known = np.flatnonzero(np.isin(judged.ids, raw.ids))
        columns = {name: raw.column(name) for name in loaded.features.columns}
        right_B = None
        if task != "regression":
            right_B = loaded.features.choose(judged.values_BK) == judged.expected_B
            right_B = right_B.all(axis=1) if right_B.ndim == 2 else right_B
        found["slices"] = slices.find(
            columns, judged.losses_B[known], None if right_B is None else right_B[known]
        )
    if loaded.features.signature.kind != "image":
        _explain(found, loaded, judged, until_s)
    found["seconds"] = round(time.monotonic() - started, 3)
    return found


def _judge(loaded: Bundle, data: Prepared, split: str, until_s: float) -> JudgedRows:
    rows = open_rows(data.folder, split)
    # In a random but fixed order, so that any part of the rows is a fair sample.
    order = np.argsort(mix(np.arange(len(rows), dtype=np.uint64)), kind="stable")[:MAX_ROWS]
    outputs: list[npt.NDArray[np.float32]] = []
    num_done = 0
    while num_done < len(order) and (not outputs or time.monotonic() < until_s):
        x, _ = rows.gather(order[num_done : num_done + _ROWS_PER_PASS])
        outputs.append(loaded.forward(x))
        num_done += len(x)
    chosen = order[:num_done]
    back = np.argsort(chosen)
    stored, y_B = rows.gather(chosen[back])
    outputs_BK = np.concatenate(outputs)[back]
    values_BK = loaded.features.values(outputs_BK)
    if loaded.features.signature.task == "regression":
        expected_B = loaded.features.unscale(y_B)
    else:
        expected_B = y_B
    losses_B = losses_of(values_BK, expected_B)
    return JudgedRows(
        rows.ids[chosen[back]], expanded(stored), outputs_BK, values_BK, expected_B, losses_B
    )


def losses_of(values_BK: Floats, expected_B: npt.NDArray[Any]) -> Floats:
    """Loss of each row: negative log-likelihood, or squared error of values.

    Args:
        values_BK: Probabilities of the classes, or predicted values.
        expected_B: Positions of the true classes, true values, or marks of true labels [B, K].
    """
    if expected_B.dtype.kind == "f":
        errors_BK = values_BK - expected_B.reshape(values_BK.shape)
        return np.asarray((errors_BK**2).mean(axis=1))
    if expected_B.ndim == 2:
        said_BK = np.where(expected_B, values_BK, 1.0 - values_BK)
        return np.asarray(-np.log(np.maximum(said_BK, _LEAST_PROBABILITY)).mean(axis=1))
    chosen = values_BK[np.arange(len(values_BK)), expected_B]
    return np.asarray(-np.log(np.maximum(chosen, _LEAST_PROBABILITY)))


def _calibrate(task: str, judged: JudgedRows) -> dict[str, Any]:
    """Compares answers with the truth, in bins of the score or value that was answered."""
    if task == "classification":
        said_B = judged.values_BK.max(axis=1)
        true_B = (judged.values_BK.argmax(axis=1) == judged.expected_B).astype(np.float64)
        edges = np.linspace(0.0, 1.0, _NUM_CALIBRATION_BINS + 1)
    elif task == "multilabel":
        # Each label of each row is an answer.
        said_B, true_B = judged.values_BK.ravel(), judged.expected_B.ravel().astype(np.float64)
        edges = np.linspace(0.0, 1.0, _NUM_CALIBRATION_BINS + 1)
    else:
        # Each step of a forecast is an answer.
        said_B = judged.values_BK.ravel()
        true_B = np.asarray(judged.expected_B, dtype=np.float64).ravel()
        edges = np.unique(np.quantile(said_B, np.linspace(0, 1, _NUM_CALIBRATION_BINS + 1)))
    bins_B = np.clip(np.searchsorted(edges, said_B, side="right") - 1, 0, max(0, len(edges) - 2))
    parts = [np.flatnonzero(bins_B == index) for index in range(max(1, len(edges) - 1))]
    rows = [
        {
            "rows": len(part),
            "said": float(said_B[part].mean()),
            "true": float(true_B[part].mean()),
        }
        for part in parts
        if len(part)
    ]
    gap = sum(one["rows"] * abs(one["said"] - one["true"]) for one in rows) / len(said_B)
    return {"bins": rows, "error": gap}


def _worst(loaded: Bundle, judged: JudgedRows, raw: RawRows) -> list[dict[str, Any]]:
    """The rows with the greatest losses, with their places and values."""
    order = np.lexsort((judged.ids, -judged.losses_B))[:_NUM_WORST]
    at = {int(row_id): position for position, row_id in enumerate(raw.ids.tolist())}
    columns = list(loaded.features.columns)[:_MAX_CELLS_SHOWN] if at else []
    task = loaded.features.signature.task
    cells = {name: raw.column(name) for name in columns}
    found = []
    for position in order.tolist():
        row_id = int(judged.ids[position])
        expected = judged.expected_B[position]
        answer = loaded.features.answers(judged.values_BK[position : position + 1])[0]
        said = answer.get("label", answer.get("value"))
        row: dict[str, Any] = {
            "place": raw.place(row_id),
            "loss": float(judged.losses_B[position]),
            "expected": _plain_values(expected)
            if task == "regression"
            else _told(loaded, expected),
            "answered": ", ".join(answer["labels"]) if task == "multilabel" else _joined(said),
        }
        if "score" in answer:
            row["score"] = answer["score"]
        if row_id in at:
            row["values"] = {name: _plain(cells[name][at[row_id]]) for name in columns}
        if loaded.features.signature.kind == "image" and not isinstance(judged.x, Record):
            row["picture"] = _picture(judged.x[position])
        found.append(row)
    return found


def _told(loaded: Bundle, expected: Any) -> str:
    """Class of a row, or its labels."""
    named = loaded.features.name_target(expected)
    return ", ".join(named) if loaded.features.has_label_sets else str(named)


def _plain_values(expected: Any) -> float | str:
    return float(expected) if np.ndim(expected) == 0 else str(_joined(expected.tolist()))


def _joined(said: Any) -> Any:
    """The values of a forecast of several steps as one text; other answers stay."""
    return ", ".join(f"{value:.4g}" for value in said) if isinstance(said, list) else said


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _picture(pixels_CHW: npt.NDArray[np.uint8]) -> str:
    """A small PNG as base64 text; pixels of a large image are left out."""
    step = max(1, max(pixels_CHW.shape[1:]) // 96)
    small = np.ascontiguousarray(pixels_CHW[:, ::step, ::step].transpose(1, 2, 0))
    return encode_png(small)


def _read_raw(loaded: Bundle, judged: JudgedRows, until_s: float, found: dict[str, Any]) -> RawRows:
    """Raw values of the judged rows, if the sources still have them; for images their places."""
    is_window = loaded.spec.data.windows is not None
    with_values = loaded.features.signature.kind != "image" and not is_window
    if is_window:
        found["left_out"].append("values of the rows: each is a window of several rows")
    raw = raw_rows.read(loaded.spec.data, judged.ids, until_s, with_values)
    if raw.reason:
        found["left_out"].append(f"values of the rows: {raw.reason}")
    if not len(raw.ids):
        return raw
    # The sources must still give the inputs that the data set has.
    again = loaded.features.apply({name: raw.column(name) for name in loaded.features.columns})
    stored = judged.x[np.flatnonzero(np.isin(judged.ids, raw.ids))]
    if _are_equal(expanded(again), stored):
        return raw
    found["left_out"].append("values of the rows: the sources have changed since preparation")
    return RawRows(raw.layout, None)


def _are_equal(a: Any, b: Any) -> bool:
    if isinstance(a, Record) and isinstance(b, Record):
        return a.fields.keys() == b.fields.keys() and all(
            _are_equal(values, b.fields[name]) for name, values in a.fields.items()
        )
    if isinstance(a, Ragged) and isinstance(b, Ragged):
        return np.array_equal(a.values_N, b.values_N) and np.array_equal(a.offsets, b.offsets)
    return np.array_equal(a, b)


def _explain(found: dict[str, Any], loaded: Bundle, judged: JudgedRows, until_s: float) -> None:
    """Adds `importance` and `gradients` to a diagnosis."""
    few = _spread(len(judged.ids), _MAX_EXPLAINED_ROWS)
    x, expected_B = judged.x[few], judged.expected_B[few]

    def loss_of(outputs_BK: npt.NDArray[np.float32]) -> float:
        return float(losses_of(loaded.features.values(outputs_BK), expected_B).mean())

    found["importance"] = importance.shuffle_columns(loaded, x, loss_of, until_s)
    if left := found["importance"]["left_out"]:
        found["left_out"].append(f"importance of {left:,} columns: the time limit was reached")
    if isinstance(x, Record):
        found["left_out"].append("integrated gradients: a row is more than one vector")
        return
    try:
        found["gradients"] = importance.explain_inputs(loaded, x, judged.outputs_BK[few])
    # A network of a user's own need not have gradients with respect to its inputs.
    except (RuntimeError, TypeError, ValueError) as error:
        found["left_out"].append(f"integrated gradients: {describe(error)}")


def _spread(num_rows: int, most: int) -> npt.NDArray[np.int64]:
    return np.linspace(0, num_rows - 1, min(num_rows, most)).astype(np.int64)


def is_of(found: Any, digest: str, rows: Sequence[str] = ("split", "num_rows")) -> bool:
    """Whether a stored diagnosis is of this format and of a certain model.

    Args:
        found: Content of `diagnosis.json`, or None.
        digest: sha256 of the manifest of the model's bundle.
        rows: Fields that the diagnosis must have.
    """
    return (
        isinstance(found, dict)
        and found.get("format") == FORMAT
        and found.get("model") == digest
        and all(name in found for name in rows)
    )
