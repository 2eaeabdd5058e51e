"""One request with a held-out row, as a client would send it, after an endpoint is up. Driver."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raydc.data import shards
from raydc.data.prepared import Prepared, read_golden_rows
from raydc.errors import DataError
from raydc.features import Features
from raydc.registry import user
from raydc.serve.control.readiness import predict_row
from raydc.spec import ResolvedSpec
from raydc.storage import Storage
from raydc.tokens import TokenStore


def ask_held_out(
    spec: ResolvedSpec, storage: Storage, data: Prepared, url: str
) -> tuple[dict[str, Any] | None, Any]:
    """Sends the first held-out row that an endpoint takes.

    Args:
        spec: Its section `serve` says whether the request needs a token.
        storage: Holds the tokens of the model.
        data: Data set whose held-out row is sent.
        url: Address of the endpoint that should answer.

    Returns:
        The answer, and the label, labels or value that the data set has for the row. None for both
        if each of the rows lacks a value that the endpoint needs.
    """
    # Golden rows are the first held-out rows, or the first validation rows if none are held out.
    rows = read_golden_rows(data.folder)
    index = find_taken(rows, data.features)
    if index is None:
        return None, None
    split = "test" if data.num_rows.get("test") else "validation"
    _, y = shards.open_rows(data.folder, split).gather(np.array([index]))
    expected = data.features.name_target(y[0])
    # A token of its own, which is revoked after the request.
    is_open = spec.serve is None or spec.serve.auth == "none"
    own = contextlib.nullcontext() if is_open else TokenStore(storage, spec.name).temporary(user())
    with own as token:
        return predict_row(url, rows[index], token), expected


def find_taken(rows: Sequence[Mapping[str, Any]], features: Features) -> int | None:
    """Finds the first row with all values that an endpoint needs; None if there is none.

    A held-out row may lack a value that all training rows have.
    """
    for index, row in enumerate(rows):
        try:
            features.apply_given(features.from_json_rows([row]))
        except DataError:
            continue
        return index
    return None
