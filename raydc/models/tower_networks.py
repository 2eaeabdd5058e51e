"""Two towers: a vector for each side of a row, such as user and item, and their product.

Used in workers and replicas.

Shape suffixes: B rows, D width of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from raydc.errors import did_you_mean
from raydc.features import Field, Signature
from raydc.features.table_layout import COLUMNS
from raydc.models.layer_options import make_activation
from raydc.models.network_parts import Network, RecordInput, model_problem
from raydc.models.record_networks import FieldVector
from raydc.spec.model import TwoTowers

# Cosines range from -1 to 1, too little for a score, so they are multiplied by a learnt factor that
# starts here.
_FIRST_SCALE = 5.0


def build(model: TwoTowers, signature: Signature) -> Network:
    """Makes the network; draws its weights from the generator of the process.

    Args:
        model: Section `model` of a spec, which names the columns of each tower.
        signature: Signature of the rows, a record.

    Raises:
        SpecError: The columns are not those of the rows, or the target is neither a value nor two
            classes.
    """
    _check_target(signature)
    places = _places(signature)
    _check_names(model, signature, places)
    towers = [_Tower(model, _Side(signature, places, names)) for names in (model.user, model.item)]
    return Network(RecordInput(signature), _Product(model, towers, signature))


def _check_target(signature: Signature) -> None:
    is_value = signature.task == "regression" and signature.num_outputs == 1
    if not is_value and (signature.task != "classification" or signature.num_outputs != 2):
        given = (
            f"{signature.num_outputs} {'labels' if signature.task == 'multilabel' else 'outputs'}"
        )
        message = f"two_towers gives one score for a row: a value, or two classes; not {given}"
        raise model_problem("model.name", message)


def _places(signature: Signature) -> dict[str, slice | None]:
    """Columns that a tower may take: the place among joined columns; None for one with a field."""
    places: dict[str, slice | None] = {}
    for name, field in signature.fields.items():
        if name != COLUMNS:
            places[name] = None
            continue
        if not field.columns:
            message = "the data set is from an older raydc, which did not record the joined columns"
            raise model_problem("model.name", f"{message}; raydc rm data makes room for a new one")
        start = 0
        for column, width in zip(field.columns, field.widths, strict=True):
            places[column] = slice(start, start + width)
            start += width
    return places


def _check_names(
    model: TwoTowers, signature: Signature, places: Mapping[str, slice | None]
) -> None:
    if signature.kind != "record":
        raise model_problem(
            "model.name",
            "two_towers needs a column that is a field of its own, such as a user or an item with "
            "data.features.encodings: {COLUMN: embedding}",
        )
    for side in ("user", "item"):
        for name in getattr(model, side):
            if name not in places:
                there = f"there are {', '.join(places)}"
                message = f"no column {name!r}; {did_you_mean(name, places) or there}"
                raise model_problem(f"model.{side}", message)
    left = [name for name in places if name not in (*model.user, *model.item)]
    if left:
        raise model_problem(
            "model.user",
            f"{', '.join(left)} is in neither tower; name it, or leave it out: "
            "data.features.exclude",
        )


class _Side(nn.Module):
    """Joins the columns of one tower into one vector."""

    def __init__(
        self, signature: Signature, places: Mapping[str, slice | None], names: Sequence[str]
    ) -> None:
        super().__init__()
        fields: dict[str, Field] = {}
        self.places = [place for name in names if (place := places[name]) is not None]
        if self.places:
            width = sum(place.stop - place.start for place in self.places)
            fields[COLUMNS] = replace(signature.fields[COLUMNS], shape=(width,))
        fields |= {name: signature.fields[name] for name in names if places[name] is None}
        record = Signature("record", (), "", (), (), "regression", (), fields)
        self.vector = FieldVector(record)
        self.num_outputs = self.vector.num_outputs

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        if not self.places:
            return self.vector(inputs)  # type: ignore[no-any-return]
        parts = [inputs[COLUMNS][:, place] for place in self.places]
        return self.vector({**inputs, COLUMNS: torch.cat(parts, dim=1)})  # type: ignore[no-any-return]


class _Tower(nn.Module):
    """Hidden layers over the columns of one side, then its vector and its bias."""

    def __init__(self, model: TwoTowers, side: _Side) -> None:
        super().__init__()
        layers: list[nn.Module] = [side]
        width = side.num_outputs
        for hidden in model.hidden:
            layers += [nn.Linear(width, hidden), make_activation(model.activation)]
            layers += [nn.Dropout(model.dropout)] if model.dropout else []
            width = hidden
        # The last output is the bias.
        self.layers = nn.Sequential(*layers, nn.Linear(width, model.width + 1))

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Returns the vector [B, D] and the bias [B]."""
        both: Tensor = self.layers(inputs)
        return both[:, :-1], both[:, -1]


class _Product(nn.Module):
    """Product of the vectors plus the biases: one value, or the score of the second class.

    Without hidden layers, a vector is a table of numbers for each code. Dropout then sets terms of
    the product to zero, as in a factorisation: nothing else would keep wide vectors from learning
    the rows by heart.
    """

    def __init__(self, model: TwoTowers, towers: Sequence[_Tower], signature: Signature) -> None:
        super().__init__()
        self.user, self.item = towers
        self.is_cosine = model.similarity == "cosine"
        first = _FIRST_SCALE if self.is_cosine else 1.0 / math.sqrt(model.width)
        self.scale = nn.Parameter(torch.tensor(first))
        self.bias = nn.Parameter(torch.zeros(()))
        self.dropout = nn.Dropout(0.0 if model.hidden else model.dropout)
        self.num_outputs = signature.num_outputs

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        user_BD, user_bias_B = self.user(inputs)
        item_BD, item_bias_B = self.item(inputs)
        if self.is_cosine:
            user_BD, item_BD = functional.normalize(user_BD), functional.normalize(item_BD)
        product_B: Tensor = self.scale * self.dropout(user_BD * item_BD).sum(dim=1)
        score_B: Tensor = product_B + user_bias_B + item_bias_B + self.bias
        if self.num_outputs == 1:
            return score_B[:, None]
        return torch.stack([torch.zeros_like(score_B), score_B], dim=1)
