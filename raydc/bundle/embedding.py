"""Embeddings of texts: what a pretrained encoder gives in front of its last layer. In replicas.

The vector of a text is pooled from those of its tokens as in training (`model.pooling`) and has
length 1, so that a product of two of them is their cosine.

Shape suffixes: B texts, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from raydc.bundle.folder import Bundle
from raydc.errors import DataError
from raydc.features import Ragged, Record, Text
from raydc.models.network_parts import Network
from raydc.models.text_encoders import PooledEncoder


@dataclass(frozen=True)
class Embedder:
    """Makes embeddings.

    Attributes:
        bundle: A bundle whose network is the encoder without its last layer.
    """

    bundle: Bundle

    def with_rows(self, max_rows: int) -> Embedder:
        """The same with another maximum number of texts in a forward pass."""
        return Embedder(replace(self.bundle, max_rows=max_rows))

    @property
    def width(self) -> int:
        """Numbers of an embedding."""
        return self.bundle.features.signature.num_outputs

    @cached_property
    def column(self) -> str:
        """Name of the column of texts."""
        (name,) = self.bundle.features.columns
        return name

    def encode(self, texts: Sequence[str]) -> Record:
        """Tokens of texts, cut as in training.

        Args:
            texts: The texts.

        Raises:
            DataError: A text has no tokens, or the tokenizer has none for a part of it.
        """
        fitted = self.bundle.features.columns[self.column]
        assert isinstance(fitted, Text)
        # Not as a row of a table: no string means that a text is missing.
        tokens = fitted.apply(texts, "input", ())
        for number, length in enumerate(np.diff(tokens.offsets).tolist()):
            if length == 0:
                raise DataError(f"input[{number}]: the text has no tokens")
        return Record({self.column: tokens})

    def count_tokens(self, x: Record) -> int:
        """Tokens of a result of `encode`."""
        tokens = x.fields[self.column]
        assert isinstance(tokens, Ragged)
        return int(tokens.offsets[-1] - tokens.offsets[0])

    def forward(self, x: Record) -> npt.NDArray[np.float32]:
        """Embeddings of a result of `encode`, [B, D]; NaN where the network gave no number.

        The bits of each do not depend on the other texts, see `Bundle.padding`.
        """
        vectors_BD = self.bundle.forward(x).astype(np.float64)
        # Row by row, as a sum over an axis may be taken in another order for other shapes.
        lengths_B = np.array([np.sqrt(np.dot(one, one)) for one in vectors_BD])
        with np.errstate(invalid="ignore", divide="ignore"):
            unit_BD: npt.NDArray[np.float32] = (vectors_BD / lengths_B[:, None]).astype(np.float32)
        return unit_BD


def make_embedder(bundle: Bundle) -> Embedder | None:
    """Makes embeddings of the encoder of a bundle; None if its network has none, or reads pairs.

    Args:
        bundle: A loaded model, as trained.
    """
    network = bundle.model
    reader = getattr(network.body, "reader", None) if isinstance(network, Network) else None
    if not isinstance(network, Network) or not isinstance(reader, PooledEncoder):
        return None
    if any(isinstance(one, Text) and one.second for one in bundle.features.columns.values()):
        return None
    signature = replace(
        bundle.features.signature, task="regression", classes=(), num_values=reader.width
    )
    model = Network(network.input, reader).eval()
    return Embedder(
        replace(bundle, model=model, features=replace(bundle.features, signature=signature))
    )
