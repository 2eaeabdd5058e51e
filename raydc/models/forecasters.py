"""Networks that read the past steps of a series. Used in workers and replicas.

They use only plain products, sums and convolutions, for the reason given in `sequence_networks`.

Shape suffixes: B rows, L past steps, C columns of a window, D width, K outputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from raydc.features import Field, Signature
from raydc.models.network_parts import Network, RecordInput, model_problem
from raydc.models.record_networks import FieldVector
from raydc.spec.forecast_models import LinearForecaster, Normalise, TemporalConvolution

# Added to a variance, as in RevIN, so that a window of equal values is not divided by 0.
_LEAST_VARIANCE = 1e-5


def window_field(signature: Signature, name: str) -> tuple[str, Field]:
    """The field of past steps, by its name.

    Args:
        signature: Signature of the rows, which should be windows.
        name: Name of the model, for the message.

    Raises:
        SpecError: The rows are not windows.
    """
    for field_name, field in signature.fields.items():
        if field.is_window:
            return field_name, field
    raise model_problem(
        "model.name",
        f"{name} reads windows of a series, and the rows are not windows; set data.windows",
    )


def build(model: LinearForecaster | TemporalConvolution, signature: Signature) -> Network:
    """Makes a network that reads the past steps; other fields join the result.

    Args:
        model: Section `model` of a spec.
        signature: Signature of the rows, windows of a series.

    Raises:
        SpecError: The rows are not windows, or the forecast cannot be relative to their past.
    """
    name, field = window_field(signature, model.name)
    if isinstance(model, LinearForecaster):
        way, reader = model.way, _make_linear(model, field)
    else:
        way, reader = model.normalise, _CausalBlocks(model, field)
    body = _Forecast(name, reader, _beside(signature, name), signature.num_outputs)
    return Network(RecordInput(signature), relative(body, signature, way, model.name))


def relative(body: nn.Module, signature: Signature, way: Normalise, name: str) -> nn.Module:
    """Makes the outputs of layers relative to the past of the target.

    Args:
        body: Layers that take the fields from `RecordInput`.
        signature: Signature of the rows, which are windows.
        way: What the outputs are relative to; `none` changes nothing.
        name: Name of the model, for messages.

    Raises:
        SpecError: The past of the target is not among the columns of the windows.
    """
    if way == "none":
        return body
    field_name, field = window_field(signature, f"normalise: {way}")
    if field.own_column is None:
        raise model_problem(
            "model.name",
            f"{name} forecasts relative to the past of the target, which is not among "
            "data.windows.columns",
        )
    return _Relative(body, field_name, field.own_column, way)


class _Relative(nn.Module):
    """Subtracts the level of each window from its columns, and adds the target's to the outputs.

    Like NLinear (Zeng et al. 2023) with the last value, or RevIN (Kim et al. 2022) with mean and
    deviation. The target and its column are scaled in the same way, see `raydc.data.window_fit`.
    """

    def __init__(self, body: nn.Module, name: str, own_column: int, way: Normalise) -> None:
        super().__init__()
        self.body = body
        self.name = name
        self.own = own_column
        self.way = way

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        window_BLC = inputs[self.name]
        if self.way == "last":
            level_B1C = window_BLC[:, -1:]
            outputs_BK: Tensor = self.body({**inputs, self.name: window_BLC - level_B1C})
            return outputs_BK + level_B1C[:, 0, self.own : self.own + 1]
        level_B1C = window_BLC.mean(dim=1, keepdim=True)
        centred_BLC = window_BLC - level_B1C
        variance_B1C = centred_BLC.square().mean(dim=1, keepdim=True)
        size_B1C = (variance_B1C + _LEAST_VARIANCE).sqrt()
        outputs_BK = self.body({**inputs, self.name: centred_BLC / size_B1C})
        own = slice(self.own, self.own + 1)
        return outputs_BK * size_B1C[:, 0, own] + level_B1C[:, 0, own]


def _beside(signature: Signature, name: str) -> FieldVector | None:
    """Reads the other fields of a row; None if there are none."""
    others = {key: field for key, field in signature.fields.items() if key != name}
    if not others:
        return None
    return FieldVector(Signature("record", (), "", (), (), "regression", (), others))


class _Forecast(nn.Module):
    """Joins the result of the reader with the other fields, and ends with a linear layer."""

    def __init__(
        self, name: str, reader: nn.Module, beside: FieldVector | None, num_outputs: int
    ) -> None:
        super().__init__()
        self.name = name
        self.reader = reader
        self.beside = beside
        width = int(reader.num_outputs)  # type: ignore[arg-type]
        width += beside.num_outputs if beside is not None else 0
        self.head = nn.Linear(width, num_outputs)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        parts = [self.reader(inputs[self.name])]
        if self.beside is not None:
            parts.append(self.beside(inputs))
        outputs_BK: Tensor = self.head(torch.cat(parts, dim=1))
        return outputs_BK


def _make_linear(model: LinearForecaster, field: Field) -> nn.Module:
    return _Flat(field) if model.name == "nlinear" else _Decomposition(model.kernel, field)


class _Flat(nn.Module):
    """The past steps as one vector."""

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.num_outputs = math.prod(field.shape)

    def forward(self, window_BLC: Tensor) -> Tensor:
        return window_BLC.flatten(1)


class _Decomposition(nn.Module):
    """A moving average of the past steps, and what is left of them, as one vector."""

    average: Tensor

    def __init__(self, kernel: int, field: Field) -> None:
        super().__init__()
        length = field.shape[0]
        # The first and the last step are repeated beyond the ends.
        reach = (kernel - 1) // 2
        around = torch.arange(length)[:, None] + torch.arange(-reach, reach + 1)
        average = torch.zeros(length, length)
        average.scatter_add_(1, around.clamp(0, length - 1), torch.full(around.shape, 1 / kernel))
        self.register_buffer("average", average, persistent=False)
        self.num_outputs = 2 * math.prod(field.shape)

    def forward(self, window_BLC: Tensor) -> Tensor:
        trend_BLC = self.average @ window_BLC
        return torch.cat([trend_BLC.flatten(1), (window_BLC - trend_BLC).flatten(1)], dim=1)


class _CausalBlocks(nn.Module):
    """Causal convolutions; the last step sees as far back as their dilations reach."""

    def __init__(self, model: TemporalConvolution, field: Field) -> None:
        super().__init__()
        length, width = field.shape
        depth = model.depth or _depth_that_sees(length, model.kernel)
        widths = [width] + [model.width] * (depth - 1)
        self.blocks = nn.ModuleList(
            _CausalBlock(before, model.width, model.kernel, 2**level, model.dropout)
            for level, before in enumerate(widths)
        )
        self.num_outputs = model.width

    def forward(self, window_BLC: Tensor) -> Tensor:
        x_BDL = window_BLC.transpose(1, 2)
        for block in self.blocks:
            x_BDL = block(x_BDL)
        return x_BDL[:, :, -1]


def _depth_that_sees(length: int, kernel: int) -> int:
    """Smallest number of blocks whose last step sees `length` steps."""
    depth, seen = 1, 1 + 2 * (kernel - 1)
    while seen < length:
        seen += 2 * (kernel - 1) * 2**depth
        depth += 1
    return depth


class _CausalBlock(nn.Module):
    """Two dilated convolutions over past steps, with a residual path around them."""

    def __init__(self, before: int, width: int, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Conv1d(before, width, kernel, dilation=dilation)
        self.second = nn.Conv1d(width, width, kernel, dilation=dilation)
        self.around = nn.Conv1d(before, width, 1) if before != width else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.reach = (kernel - 1) * dilation

    def forward(self, x_BDL: Tensor) -> Tensor:
        inner_BDL = x_BDL
        for convolution in (self.first, self.second):
            # Zeros are added in front, so that no step sees a later one.
            padded = nn.functional.pad(inner_BDL, (self.reach, 0))
            inner_BDL = self.dropout(torch.relu(convolution(padded)))
        outputs: Tensor = torch.relu(inner_BDL + self.around(x_BDL))
        return outputs
