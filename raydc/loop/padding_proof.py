"""Proves that a user's network takes no padding for items of a list. Runs where states are proved.

A list is padded with zeros up to a length that depends on it. A network that counts the zeros would
learn from that length, which says nothing about the row.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from raydc.features import Signature, example_rows
from raydc.features.record import LENGTH, bucket_length
from raydc.models.build_check import user_code
from raydc.models.network_parts import Network, model_problem
from raydc.models.row_tensors import network_inputs, to_tensors

# Fraction of the largest output: sums over more zeros may round differently.
_INFLUENCE = 1e-3
_NUM_ROWS = 3


def prove_padding(network: Network, signature: Signature, name: str) -> None:
    """Compares the outputs of rows with those of the same rows, padded further.

    Args:
        network: The network; its mode is evaluation afterwards.
        signature: Signature of the rows; nothing is done for rows without lists.
        name: Name of the builder, for the message.

    Raises:
        SpecError: The outputs differ.
    """
    rows = example_rows.random(signature, np.random.default_rng(0), _NUM_ROWS)
    inputs = network_inputs(to_tensors(rows))
    if not signature.has_lists or isinstance(inputs, Tensor):
        return
    network.eval()
    with torch.no_grad():
        with user_code(name, "its network fails on lists of a few items"):
            plain_BK = network(inputs)
        lists = {field: one for field, one in signature.fields.items() if one.form == "list"}
        for field, one in lists.items():
            items = inputs[field]
            # The network need not work for more items than the longest list is padded to.
            more = max(0, bucket_length(one.max_length) - items.shape[1])
            longer = functional.pad(items, (0, 0) * (items.dim() - 2) + (0, more))
            with user_code(name, f"its network fails on longer padding of {field}"):
                padded_BK = network({**inputs, field: longer})
            allowed = _INFLUENCE * max(1e-6, float(plain_BK.abs().max()))
            if float((padded_BK - plain_BK).abs().max()) > allowed:
                raise model_problem(
                    "model.builder",
                    f"{name}: the outputs depend on the padding of {field}; leave out the items "
                    f"after its length, which the network gets as {field + LENGTH!r}",
                )
