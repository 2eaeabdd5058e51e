"""Rows as tensors: on a device, sliced by logical shard, and as a network takes them.

Used in workers and replicas. Columns that are stored as codes become numbers here, on the device,
and lists are padded here, to a length that depends on the rows of the forward pass only.

Shape suffixes: B rows, F inputs of columns, N items of all lists, L items of a padded list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raydc.features import Inputs, Ragged, Record
from raydc.features.record import LENGTH, bucket_length
from raydc.features.table_layout import CODES, COLUMNS, NUMBERS, TableLayout

# What a network takes: rows that are one array, or named tensors. A list `name` is the padded
# tensor [B, L, *item shape], beside which `name.length`, int64 [B], tells how much of it is real.
NetworkInputs: TypeAlias = Tensor | dict[str, Tensor]
# The last bits of a matrix product depend on whether its operands are aligned to this, as tensors
# with their own memory are.
_ALIGN_BYTES = 64
# torch computes with no other unsigned types.
_SIGNED = {"uint16": torch.int32, "uint32": torch.int64, "uint64": torch.int64}


@dataclass(frozen=True)
class RaggedTensor:
    """Lists of items, one for each row, in one tensor.

    Attributes:
        values_N: Items of all lists, [N, *item shape].
        offsets: int64 [B + 1] on the CPU; the list of row i is `values_N[offsets[i]:offsets[i+1]]`.
    """

    values_N: Tensor
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, rows: slice) -> RaggedTensor:
        offsets = self.offsets[rows.start : rows.stop + 1]
        return RaggedTensor(self.values_N[offsets[0] : offsets[-1]], offsets - offsets[0])

    def padded(self, is_tight: bool = False) -> tuple[Tensor, Tensor]:
        """Lists filled up with zeros, [B, L, *item shape], and their lengths, int64 [B].

        Args:
            is_tight: Pad to the longest list of these rows, not to a length of `bucket_length`.
        """
        lengths = np.diff(self.offsets)
        most = int(lengths.max(initial=0))
        # No shorter than the shortest of the others: a network may look at several items at once.
        most = max(most, bucket_length(0)) if is_tight else bucket_length(most)
        device = self.values_N.device
        lengths_B = torch.from_numpy(lengths).to(device)
        shape = (len(self), most, *self.values_N.shape[1:])
        padded = self.values_N.new_zeros(shape)
        # Where each item goes among all places of the padded tensor.
        places = np.arange(self.offsets[-1]) + np.repeat(
            np.arange(len(self)) * most - self.offsets[:-1], lengths
        )
        padded.flatten(0, 1).index_copy_(0, torch.from_numpy(places).to(device), self.values_N)
        return padded, lengths_B


@dataclass(frozen=True)
class RecordTensors:
    """Rows of named fields as tensors.

    Attributes:
        fields: Values of B rows by name.
        layout: As in `Record`: how stored columns become numbers; None if they are numbers.
    """

    fields: Mapping[str, Tensor | RaggedTensor]
    layout: TableLayout | None = None

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    def __getitem__(self, rows: slice) -> RecordTensors:
        """The same fields of some neighbouring rows."""
        return RecordTensors({name: v[rows] for name, v in self.fields.items()}, self.layout)

    def network_inputs(self, is_tight: bool = False) -> NetworkInputs:
        """Numbers of columns and padded lists; one tensor if there is nothing but columns.

        Args:
            is_tight: As of `RaggedTensor.padded`.
        """
        fields = dict(self.fields)
        inputs: dict[str, Tensor] = {}
        if self.layout is not None:
            numbers, codes = fields.pop(NUMBERS, None), fields.pop(CODES)
            inputs[COLUMNS] = _expand(self.layout, numbers, codes)  # type: ignore[arg-type]
        for name, values in fields.items():
            if isinstance(values, RaggedTensor):
                inputs[name], inputs[name + LENGTH] = values.padded(is_tight)
            else:
                inputs[name] = _aligned(values)
        return inputs[COLUMNS] if list(inputs) == [COLUMNS] and self.layout else inputs


RowTensors: TypeAlias = Tensor | RecordTensors


def take(rows: slice, x: RowTensors, y_B: Tensor) -> tuple[RowTensors, Tensor]:
    """Some neighbouring rows and their targets; the same objects if they are all rows.

    Args:
        rows: Which of the B rows.
        x: Inputs of B rows.
        y_B: Targets of B rows.
    """
    # A slice of a tensor costs microseconds, which small networks notice.
    return (x, y_B) if rows == slice(0, len(y_B)) else (x[rows], y_B[rows])


def _expand(layout: TableLayout, numbers: Tensor | None, codes_BK: Tensor) -> Tensor:
    """Does what `TableLayout.expand` does, on the device of the codes."""
    device = codes_BK.device
    columns_BF = torch.zeros((len(codes_BK), layout.num_inputs), device=device)
    if numbers is not None:
        columns_BF[:, torch.from_numpy(layout.number_positions).to(device)] = numbers
    starts_K = torch.from_numpy(layout.code_starts).to(device)
    widths_K = torch.from_numpy(layout.code_widths).to(device)
    # A code without an input writes the zero that is there already.
    codes_BK = codes_BK.long()
    places_BK = starts_K + torch.minimum(codes_BK, widths_K - 1)
    return columns_BF.scatter_(1, places_BK, (codes_BK < widths_K).float())


def _aligned(x: Tensor) -> Tensor:
    """The same rows in aligned memory.

    Bytes stay where they are: the input layer computes new numbers from them, one by one.
    """
    return x.clone() if x.is_floating_point() and x.data_ptr() % _ALIGN_BYTES else x


def to_tensors(x: Inputs) -> RowTensors:
    """Wraps rows as tensors on the CPU; memory is shared where its type allows.

    Args:
        x: Rows with memory that may be written, see `record.contiguous`.
    """
    if isinstance(x, Record):
        return RecordTensors({name: _tensor(v) for name, v in x.fields.items()}, x.layout)
    return torch.from_numpy(x)


def _tensor(values: Any) -> Any:
    if isinstance(values, Ragged):
        return RaggedTensor(_tensor(values.values_N), values.offsets)
    tensor = torch.from_numpy(values)
    signed = _SIGNED.get(str(values.dtype))
    return tensor if signed is None else tensor.to(signed)


def move(x: Any, device: torch.device) -> Any:
    """Copies rows to a device, through pinned memory, so that the copy overlaps with computation.

    Args:
        x: Tensor, lists or record on the CPU.
        device: Destination; the CPU copies nothing.
    """
    if device.type == "cpu":
        return x
    if isinstance(x, Tensor):
        return x.pin_memory().to(device, non_blocking=True)
    if isinstance(x, RaggedTensor):
        return RaggedTensor(move(x.values_N, device), x.offsets)
    return RecordTensors({name: move(v, device) for name, v in x.fields.items()}, x.layout)


def network_inputs(x: RowTensors, is_tight: bool = False) -> NetworkInputs:
    """What a network takes of rows.

    Args:
        x: Rows of one forward pass.
        is_tight: Pad lists to the longest of these rows. Their outputs get other last bits than
            beside other rows, which training allows and an answer does not.
    """
    return x.network_inputs(is_tight) if isinstance(x, RecordTensors) else _aligned(x)
