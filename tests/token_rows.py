"""Small data sets of token rows, and specs of decoders: for tests of language modelling."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from raydc.data import shards
from raydc.features import Features, Record, Signature, TokenBlock
from raydc.storage import Storage

LENGTH = 12
NUM_CODES = 24
END = NUM_CODES - 1
NUM_DOCUMENTS = {"train": 300, "validation": 90, "test": 60}
MODEL: dict[str, Any] = {"name": "decoder", "width": 16, "depth": 2, "heads": 2, "dropout": 0.1}
DATA: dict[str, Any] = {"task": "language_modelling", "blocks": {"length": LENGTH}}


def token_features(length: int = LENGTH) -> Features:
    """Features of rows of tokens; the codes of the tests stand for no text."""
    block = TokenBlock(NUM_CODES, length, END, merges=())
    fields = {"text": block.field}
    signature = Signature(
        "record", (), "", (), (), "language_modelling", (), fields, num_values=length
    )
    return Features(signature, "text", {"text": block})


def make_documents(count: int, seed: int) -> list[list[int]]:
    """Documents of 1 to 20 tokens, most of which follow from the token before."""
    choose = np.random.default_rng(seed)
    documents = []
    for _ in range(count):
        codes = [int(choose.integers(END))]
        while len(codes) < choose.integers(1, 21):
            strays = choose.random() < 0.2
            codes.append(int(choose.integers(END)) if strays else (codes[-1] + 1) % END)
        documents.append(codes)
    return documents


def stream_of(documents: list[list[int]]) -> npt.NDArray[np.int64]:
    """The documents with the end before each and behind the last."""
    return np.array([END, *(code for one in documents for code in (*one, END))])


def write_rows(folder: Storage, num_documents: dict[str, int] | None = None) -> Storage:
    """A prepared data set of rows of tokens; the last row of each split is not full."""
    features, splits = token_features(), {}
    (block,) = features.columns.values()
    assert isinstance(block, TokenBlock)
    for seed, (split, count) in enumerate((num_documents or NUM_DOCUMENTS).items()):
        rows_BM, counts_B = block.rows(stream_of(make_documents(count, seed)))
        splits[split] = (Record({"text": rows_BM}), counts_B)
    shards.write_data_set(folder, features, splits, num_rows_per_shard=64)
    return folder
