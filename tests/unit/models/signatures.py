"""Signatures and random rows that the tests of networks share."""

from __future__ import annotations

import torch

from raydc.features import Signature

GREY = Signature(
    "image", (1, 28, 28), "uint8", (70.0,), (90.0,), "classification", tuple("0123456789")
)
TINY = Signature("image", (1, 8, 8), "uint8", (70.0,), (90.0,), "classification", ("a", "b"))
COLOUR = Signature(
    "image",
    (3, 32, 40),
    "uint8",
    (1.0, 2.0, 3.0),
    (4.0, 5.0, 6.0),
    "classification",
    ("a", "b", "c"),
)
TABLE = Signature("vector", (5,), "float32", (), (), "classification", ("a", "b"))
PRICE = Signature("vector", (5,), "float32", (), (), "regression")


def make_rows(signature: Signature, num_rows: int = 3) -> torch.Tensor:
    """Random rows as they are stored."""
    if signature.dtype == "uint8":
        return torch.randint(0, 256, (num_rows, *signature.shape), dtype=torch.uint8)
    return torch.randn(num_rows, *signature.shape)
