"""Networks that read lists item by item: tokens of texts, or steps of series.

Used in workers and replicas. Padding never counts: a recurrent layer keeps its state where a list
has ended, attention does not look there, and a mean is taken over real items. Only plain products
and sums are used, which are deterministic on CPUs and GPUs; fused attention and recurrent layers of
cuDNN may choose a different kernel for each shape.

Shape suffixes: B rows, L items of a padded list, D width, H heads, E width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from raydc.features import Field, Signature
from raydc.features.record import LENGTH
from raydc.models import forecasters
from raydc.models.network_parts import Network, RecordInput, model_problem
from raydc.models.record_networks import FieldVector, mean_of_lists
from raydc.spec.sequence_models import Recurrent, Transformer

# Wavelengths of sinusoidal positions reach from 2 pi to this times 2 pi.
_LONGEST_WAVE = 10_000.0
# Width of the hidden layer of the feed-forward part, in widths of the network.
_FEED_FORWARD = 4
_POSITION_DEVIATION = 0.02


def build(model: Recurrent | Transformer, signature: Signature) -> Network:
    """Makes a network with one reader for each field of lists; the other fields join its result.

    Args:
        model: Section `model` of a spec.
        signature: Signature of the rows, a record with a field of lists.

    Raises:
        SpecError: The rows have no lists.
    """
    lists = {
        name: _as_list(field)
        for name, field in signature.fields.items()
        if field.form == "list" or field.is_window
    }
    if not lists:
        raise model_problem(
            "model.name",
            f"{model.name} reads texts and series, but the rows have none; a column of free text "
            "is named in data.features.columns: {COLUMN: text}, and data.windows makes windows",
        )
    others = {name: field for name, field in signature.fields.items() if name not in lists}
    readers = [make_reader(model, field) for field in lists.values()]
    beside = None
    if others:
        beside = FieldVector(Signature("record", (), "", (), (), "regression", (), others))
    body: nn.Module = _Readers(list(lists), readers, beside, model.dropout, signature.num_outputs)
    if isinstance(model, Recurrent):
        body = forecasters.relative(body, signature, model.normalise, model.name)
    return Network(RecordInput(signature), body)


def make_reader(model: Recurrent | Transformer, field: Field) -> Reader:
    """Makes the layers that read a list: items and lengths to one vector.

    Args:
        model: Section of a spec that describes them.
        field: A field of form `list`; a window is passed as one.
    """
    if isinstance(model, Transformer):
        return _TransformerReader(model, field)
    return _RecurrentReader(model, field)


def _as_list(field: Field) -> Field:
    """A field of past steps as the list that it is to a reader."""
    if not field.is_window:
        return field
    return Field("list", field.dtype, field.shape[1:], max_length=field.shape[0])


def _lengths(inputs: Mapping[str, Tensor], name: str) -> Tensor:
    """Real items of each list; all steps of a window are real."""
    if name + LENGTH in inputs:
        return inputs[name + LENGTH]
    steps_BLC = inputs[name]
    return torch.full((steps_BLC.shape[0],), steps_BLC.shape[1], device=steps_BLC.device)


class _Readers(nn.Module):
    """Reads each list, joins the results with the other fields, and ends with a linear layer."""

    def __init__(
        self,
        names: list[str],
        readers: Sequence[Reader],
        beside: FieldVector | None,
        dropout: float,
        num_outputs: int,
    ) -> None:
        super().__init__()
        self.names = names
        self.readers = nn.ModuleList(readers)
        self.beside = beside
        self.dropout = nn.Dropout(dropout)
        width = sum(reader.num_outputs for reader in readers)
        width += beside.num_outputs if beside is not None else 0
        self.head = nn.Linear(width, num_outputs)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        parts = [
            reader(inputs[name], _lengths(inputs, name))
            for name, reader in zip(self.names, self.readers, strict=True)
        ]
        if self.beside is not None:
            parts.append(self.beside(inputs))
        outputs: Tensor = self.head(self.dropout(torch.cat(parts, dim=1)))
        return outputs


class _Items(nn.Module):
    """Items of a list as vectors: codes are embedded, numbers multiplied by a matrix."""

    def __init__(self, field: Field, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(field.num_codes, width) if field.num_codes else None
        self.linear = None if field.num_codes else nn.Linear(math.prod(field.shape), width)
        self.has_shape = bool(field.shape)

    def forward(self, items: Tensor) -> Tensor:
        if self.embedding is not None:
            return self.embedding(items)  # type: ignore[no-any-return]
        assert self.linear is not None
        flat = items.flatten(2) if self.has_shape else items[..., None]
        return self.linear(flat)  # type: ignore[no-any-return]


class _RecurrentReader(nn.Module):
    """Layers of LSTM or GRU cells; the last state of each direction is the result."""

    def __init__(self, model: Recurrent, field: Field) -> None:
        super().__init__()
        self.items = _Items(field, model.width)
        directions = 2 if model.bidirectional else 1
        widths = [model.width] + [directions * model.width] * (model.depth - 1)
        cell = nn.LSTMCell if model.name == "lstm" else nn.GRUCell
        self.layers = nn.ModuleList(
            nn.ModuleList(_Direction(cell(width, model.width)) for _ in range(directions))
            for width in widths
        )
        self.dropout = nn.Dropout(model.dropout)
        self.num_outputs = directions * model.width

    def forward(self, items: Tensor, lengths_B: Tensor) -> Tensor:
        x_BLD = self.items(items)
        last: list[Tensor] = []
        for depth, layer in enumerate(self.layers):
            x_BLD = self.dropout(x_BLD) if depth else x_BLD
            assert isinstance(layer, nn.ModuleList)
            read = [
                direction(x_BLD, lengths_B, is_reversed=number == 1)
                for number, direction in enumerate(layer)
            ]
            x_BLD = torch.cat([states for states, _ in read], dim=2)
            last = [state for _, state in read]
        return torch.cat(last, dim=1)


class _Direction(nn.Module):
    """One layer of cells in one direction."""

    def __init__(self, cell: nn.LSTMCell | nn.GRUCell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x_BLD: Tensor, lengths_B: Tensor, is_reversed: bool) -> tuple[Tensor, Tensor]:
        """Returns the states after each item, [B, L, D], and the last one of each list."""
        num_rows, num_items, _ = x_BLD.shape
        state = x_BLD.new_zeros(num_rows, self.cell.hidden_size)
        memory = state
        states: list[Tensor] = []
        places = range(num_items - 1, -1, -1) if is_reversed else range(num_items)
        for place in places:
            is_real_B1 = (lengths_B > place)[:, None]
            if isinstance(self.cell, nn.LSTMCell):
                new, new_memory = self.cell(x_BLD[:, place], (state, memory))
                memory = torch.where(is_real_B1, new_memory, memory)
            else:
                new = self.cell(x_BLD[:, place], state)
            # In reverse, the padding comes first and leaves the state at zero.
            state = torch.where(is_real_B1, new, state)
            states.append(state)
        states = states[::-1] if is_reversed else states
        return torch.stack(states, dim=1), state


class _TransformerReader(nn.Module):
    """Positions, encoder layers with normalisation first, and a mean over real items."""

    def __init__(self, model: Transformer, field: Field) -> None:
        super().__init__()
        self.items = _Items(field, model.width)
        longest = max(1, field.max_length)
        if model.positions == "learned":
            drawn = _POSITION_DEVIATION * torch.randn(longest, model.width)
            self.positions: Tensor = nn.Parameter(drawn)
        else:
            self.register_buffer("positions", _waves(longest, model.width), persistent=False)
        self.dropout = nn.Dropout(model.dropout)
        self.layers = nn.ModuleList(_EncoderLayer(model) for _ in range(model.depth))
        self.norm = nn.LayerNorm(model.width)
        self.num_outputs = model.width

    def forward(self, items: Tensor, lengths_B: Tensor) -> Tensor:
        x_BLD = self.items(items)
        num_items = x_BLD.shape[1]
        positions = self.positions
        # Padding may go beyond the greatest length of a list.
        missing = num_items - len(positions)
        if missing > 0:
            positions = torch.cat([positions, positions.new_zeros(missing, x_BLD.shape[2])])
        x_BLD = self.dropout(x_BLD + positions[:num_items])
        is_real_BL = torch.arange(num_items, device=x_BLD.device) < lengths_B[:, None]
        for layer in self.layers:
            x_BLD = layer(x_BLD, is_real_BL)
        return mean_of_lists(self.norm(x_BLD), lengths_B)


class _EncoderLayer(nn.Module):
    """Attention among the items of a list, then a layer for each item."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.num_heads = model.heads
        self.norm_attention = nn.LayerNorm(model.width)
        self.projection = nn.Linear(model.width, 3 * model.width)
        self.output = nn.Linear(model.width, model.width)
        self.norm_forward = nn.LayerNorm(model.width)
        self.feed_forward = nn.Sequential(
            nn.Linear(model.width, _FEED_FORWARD * model.width),
            nn.GELU(),
            nn.Dropout(model.dropout),
            nn.Linear(_FEED_FORWARD * model.width, model.width),
        )
        self.dropout = nn.Dropout(model.dropout)

    def forward(self, x_BLD: Tensor, is_real_BL: Tensor) -> Tensor:
        x_BLD = x_BLD + self.dropout(self._attend(self.norm_attention(x_BLD), is_real_BL))
        return x_BLD + self.dropout(self.feed_forward(self.norm_forward(x_BLD)))  # type: ignore[no-any-return]

    def _attend(self, x_BLD: Tensor, is_real_BL: Tensor) -> Tensor:
        shape = (*x_BLD.shape[:2], self.num_heads, -1)
        query, key, value = (
            part.reshape(shape).transpose(1, 2) for part in self.projection(x_BLD).chunk(3, dim=2)
        )
        scores_BHLL = query @ key.transpose(2, 3) / math.sqrt(query.shape[3])
        # Not minus infinity, with which a list without items would give NaN.
        least = torch.finfo(scores_BHLL.dtype).min
        scores_BHLL = scores_BHLL.masked_fill(~is_real_BL[:, None, None], least)
        read_BLHE = (scores_BHLL.softmax(dim=3) @ value).transpose(1, 2)
        return self.output(read_BLHE.flatten(2))  # type: ignore[no-any-return]


Reader: TypeAlias = _RecurrentReader | _TransformerReader


def _waves(num_positions: int, width: int) -> Tensor:
    """Sine and cosine of each position at falling frequencies, [L, D]."""
    positions = torch.arange(num_positions, dtype=torch.float64)[:, None]
    exponents = -torch.arange(0, width, 2, dtype=torch.float64) / width
    rates = torch.pow(_LONGEST_WAVE, exponents)
    angles = positions * rates
    waves = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
    result: Tensor = waves[:, :width].float()
    return result
