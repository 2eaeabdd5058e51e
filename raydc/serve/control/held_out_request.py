"""One request with a held-out row, as a client would send it, after an endpoint is up. Driver."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from raydc.data import shards
from raydc.data.prepared import Prepared, read_golden_rows
from raydc.registry import user
from raydc.serve.control.readiness import predict_row
from raydc.spec import ResolvedSpec
from raydc.storage import Storage
from raydc.tokens import TokenStore


def ask_held_out(
    spec: ResolvedSpec, storage: Storage, data: Prepared, url: str
) -> tuple[dict[str, Any], Any]:
    """Sends the first held-out row to an endpoint.

    Args:
        spec: Its section `serve` says whether the request needs a token.
        storage: Holds the tokens of the model.
        data: Data set whose first held-out row is sent.
        url: Address of the endpoint.

    Returns:
        The answer, and the label or value that the data set has for the row.
    """
    # Golden rows are the first held-out rows, or the first validation rows if none are held out.
    row = read_golden_rows(data.folder)[0]
    split = "test" if data.num_rows.get("test") else "validation"
    _, y = shards.open_rows(data.folder, split).gather(np.zeros(1, dtype=np.int64))
    classes = data.features.signature.classes
    expected = classes[int(y[0])] if classes else float(data.features.unscale(y[:, None])[0])
    # A token of its own, which is revoked after the request.
    is_open = spec.serve is None or spec.serve.auth == "none"
    own = contextlib.nullcontext() if is_open else TokenStore(storage, spec.name).temporary(user())
    with own as token:
        return predict_row(url, row, token), expected
