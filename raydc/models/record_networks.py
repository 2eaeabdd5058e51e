"""First layers of networks whose rows are records: each field becomes a part of one vector.

Used in workers and replicas.

Shape suffixes: B rows, L items of a padded list, D values of a part, W values of the vector.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from raydc.features import Field, Signature
from raydc.features.record import LENGTH

# Width of an embedding by the number of its codes: the rule of thumb of fastai's tabular learner,
# 1.6 * n**0.56, at most 600.
_EMBEDDING_FACTOR, _EMBEDDING_POWER, _MAX_EMBEDDING = 1.6, 0.56, 600


# Standard deviation of the initial vectors and biases.
_FACTOR_DEVIATION = 0.05


def embedding_width(num_codes: int) -> int:
    """Width of an embedding that is not given.

    Args:
        num_codes: Number of codes, such as categories or tokens.
    """
    width = _EMBEDDING_FACTOR * math.pow(num_codes, _EMBEDDING_POWER)
    return min(_MAX_EMBEDDING, max(1, round(width)))


def mean_of_lists(items_BLD: Tensor, lengths_B: Tensor) -> Tensor:
    """Mean over the items of each list, [B, D]; zeros for a list without items.

    Args:
        items_BLD: Items of padded lists, [B, L, D].
        lengths_B: Number of items of each list before padding.
    """
    is_real_BL = torch.arange(items_BLD.shape[1], device=items_BLD.device) < lengths_B[:, None]
    # Padding is not zero here: padded codes have been embedded like code 0.
    total_BD = (items_BLD * is_real_BL[..., None]).sum(dim=1)
    return total_BD / lengths_B.clamp(min=1)[:, None]


class FieldVector(nn.Module):
    """Joins all fields of a row to one vector.

    Numbers stay as they are, codes are embedded, arrays are flattened, and lists are averaged.

    Args:
        signature: Signature of rows that are records.
        width: Width of every embedding; None chooses it by the number of codes.

    Attributes:
        num_outputs: Number of values in the vector, W.
    """

    def __init__(self, signature: Signature, width: int | None = None) -> None:
        super().__init__()
        self.fields = dict(signature.fields)
        self.embeddings = nn.ModuleList()
        self.num_outputs = 0
        for field in self.fields.values():
            if field.num_codes:
                columns = width or embedding_width(field.num_codes)
                self.embeddings.append(_embedding(field, columns))
                self.num_outputs += columns * math.prod(field.shape)
            else:
                self.num_outputs += math.prod(field.shape)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Joins the fields.

        Args:
            inputs: Fields by name, from `RecordInput`.

        Returns:
            float32 [B, W].
        """
        embeddings = iter(self.embeddings)
        parts: list[Tensor] = []
        for name, field in self.fields.items():
            values = inputs[name]
            if field.num_codes:
                values = next(embeddings)(values)
            if field.form == "list":
                # An item that is a plain number is a vector of one.
                items = values.flatten(2) if values.dim() > 2 else values[..., None]
                values = mean_of_lists(items, inputs[name + LENGTH])
            parts.append(values.flatten(1))
        return torch.cat(parts, dim=1)


def _embedding(field: Field, width: int) -> nn.Embedding:
    if field.form == "list":
        return nn.Embedding(field.num_codes, width)
    # The last code stands for values that training never saw: its vector stays zero.
    return nn.Embedding(field.num_codes, width, padding_idx=field.num_codes - 1)


class FactorisationMachine(nn.Module):
    """A linear model of all fields, and the products of the vectors of each pair of codes.

    S. Rendle, Factorization Machines, 2010.

    Args:
        signature: Signature of the rows, a record with two fields of codes or more.
        width: Number of values in the vector of each code.
        dropout: Probability with which a product is set to zero in training.
    """

    def __init__(self, signature: Signature, width: int, dropout: float) -> None:
        super().__init__()
        self.fields = dict(signature.fields)
        # One number per code for each output: the bias of a user, for example.
        linear_width = signature.num_outputs
        self.biases = FieldVector(signature, linear_width)
        self.vectors = nn.ModuleList(
            _embedding(field, width) for field in self.fields.values() if field.num_codes
        )
        for embedding in (*self.vectors, *self.biases.embeddings):
            # Products of vectors of torch's usual size would start far from any target.
            nn.init.normal_(embedding.weight, std=_FACTOR_DEVIATION)
            if embedding.padding_idx is not None:
                nn.init.zeros_(embedding.weight[embedding.padding_idx])
        self.linear = nn.Linear(self.biases.num_outputs, signature.num_outputs)
        self.products = nn.Linear(width, signature.num_outputs, bias=False)
        nn.init.ones_(self.products.weight)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Adds the linear part and the products.

        Args:
            inputs: Fields by name, from `RecordInput`.

        Returns:
            float32 [B, outputs].
        """
        vectors, parts = iter(self.vectors), []
        for name, field in self.fields.items():
            if not field.num_codes:
                continue
            values = next(vectors)(inputs[name])
            if field.form == "list":
                values = mean_of_lists(values.flatten(2), inputs[name + LENGTH])
            parts.append(values)
        stacked = torch.stack(parts)
        # The sum of the products of all pairs, without a loop over them.
        pairs_BD = (stacked.sum(0).square() - stacked.square().sum(0)) / 2
        outputs: Tensor = self.linear(self.biases(inputs)) + self.products(self.dropout(pairs_BD))
        return outputs
