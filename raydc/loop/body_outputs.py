"""Rows as a frozen body sees them: its outputs take the place of what is stored. In each worker.

The workers compute the outputs together before the first step and store them in files. Outputs that
are not in a file are computed when they are needed, with the same bits.

Shape suffixes: B rows.
"""

from __future__ import annotations

import importlib.metadata
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from raydc import plan
from raydc.data.output_store import FOLDER, OutputStore, note_use
from raydc.data.prepared import Prepared
from raydc.data.shards import Rows
from raydc.features import Inputs
from raydc.loop.group import Group
from raydc.models import device as devices
from raydc.models import frozen_body, user_models
from raydc.models.frozen_body import FrozenBody
from raydc.models.network_parts import Network
from raydc.models.row_tensors import move, to_tensors
from raydc.order import Ids
from raydc.spec import ResolvedSpec
from raydc.spec.sequence_models import HuggingFace
from raydc.storage import canonical_json, sha256

_FORMAT = 1
# Rows with which the cut is tried; as many as a block on a GPU.
_NUM_TRIED = 64
# Limit for one data set and one body. Larger outputs are computed in every epoch instead.
MOST_BYTES = 32 * 1024**3


class BodyOutputs:
    """Outputs of a frozen body for the rows of one split; stands in for `Rows`.

    Args:
        rows: Rows of one split as they are stored.
        split: Name of the split, which names the files.
        body: Frozen body that computes what is not in a file.
        device: Device of the body's network, to which rows are moved.
    """

    def __init__(self, rows: Rows, split: str, body: FrozenBody, device: torch.device) -> None:
        self.rows, self.split, self.body, self.device = rows, split, body, device
        self.store: OutputStore | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def targets(self) -> npt.NDArray[Any]:
        """Target of each row, as `Rows.targets`."""
        return self.rows.targets

    @property
    def queries(self) -> Ids | None:
        """Group in which each row is ranked, as `Rows.queries`."""
        return self.rows.queries

    def gather(self, positions: Ids) -> tuple[Inputs, npt.NDArray[Any]]:
        """Outputs of the body and targets of some rows.

        Args:
            positions: int64 [B], positions of rows in the split.

        Returns:
            float32 [B, ...] and the targets [B], in the order of `positions`.
        """
        if self.store is None:
            return self.compute(positions)
        outputs, is_kept_B = self.store.gather(positions)
        if not is_kept_B.all():
            outputs[~is_kept_B], _ = self.compute(positions[~is_kept_B])
        return outputs, self.targets[positions]

    def compute(self, positions: Ids) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any]]:
        """Like `gather`, but computes all outputs with the body."""
        x, y_B = self.rows.gather(positions)
        return self.body.outputs(move(to_tensors(x), self.device)).numpy(), y_B


def find_body(spec: ResolvedSpec, network: Network, rows: Rows, changes: bool) -> FrozenBody | str:
    """Looks for a frozen body whose outputs stay the same in all epochs.

    Args:
        spec: The resolved spec; only `train.precision` is used.
        network: Network with some frozen layers, on its device.
        rows: Training rows; a few of them are used to try the cut.
        changes: Whether rows are changed at random before they reach the network.

    Returns:
        The body; or the reason why there is none.
    """
    if changes:
        return "data.augment changes the rows in each epoch"
    device = next(network.parameters()).device
    x, _ = rows.gather(np.arange(_NUM_TRIED, dtype=np.int64) % len(rows))
    return frozen_body.cut(network, move(to_tensors(x), device), spec.train.precision == "bf16")


def fill(
    parts: Sequence[BodyOutputs],
    spec: ResolvedSpec,
    data: Prepared,
    group: Group,
    record: Callable[..., None],
) -> Iterator[None]:
    """Computes and stores all outputs that are not in files yet, each worker a part of them.

    Yields after each chunk, equally often on every rank.

    Args:
        parts: Outputs of each split that the run uses.
        spec: The resolved spec, which together with data and weights identifies the outputs.
        data: Prepared data set; the files are stored in its folder.
        group: The process group; every rank must call this.
        record: Called with a `text` that tells what is computed, or why nothing is.

    Raises:
        PeerLostError: Another worker is gone or hangs.
    """
    if not spec.train.cache_frozen:
        record(text="frozen layers are computed in each epoch: train.cache_frozen is false")
        return
    first, world = parts[0], group.world
    probe, _ = first.compute(np.arange(first.body.block_rows, dtype=np.int64) % len(first))
    key = _key(spec, data, first, probe)
    stores = [
        OutputStore(data.folder, key, part.split, len(part), probe.shape[1:], part.body.block_rows)
        for part in parts
    ]
    num_bytes = sum(store.num_bytes for store in stores)
    if num_bytes > MOST_BYTES:
        what = f"their outputs would take {num_bytes / 1e9:,.0f} GB"
        record(text=f"frozen layers are computed in each epoch: {what}")
        return
    num_rows = sum(len(part) for part in parts)
    record(
        text=f"frozen layers are computed once for {num_rows:,} rows; their outputs take "
        f"{num_bytes / 1e6:,.1f} MB in {data.folder.uri}/{FOLDER}/{key}"
    )
    takes_files = True
    if world.rank == 0:
        takes_files = _try(partial(note_use, data.folder, key))
    for part, store in zip(parts, stores, strict=True):
        # All ranks use the list of rank 0, so that they share out the same chunks.
        found = group.broadcast([int(there) for there in store.look()]) if len(part) else []
        missing = [index for index, there in enumerate(found) if not there]
        for start in range(0, len(missing), world.world_size):
            mine = missing[start : start + world.world_size][world.rank : world.rank + 1]
            for index in mine if takes_files else []:
                outputs, _ = part.compute(store.rows_of(index))
                takes_files = _try(partial(store.write, index, outputs))
            yield
        # A barrier: from here on the files of all ranks exist.
        group.broadcast([0])
        store.look()
        part.store = store


def _try(write: Callable[[], None]) -> bool:
    """Writes, and returns whether that worked: a full disk must not end the run."""
    try:
        write()
    except OSError:
        return False
    return True


def _key(
    spec: ResolvedSpec, data: Prepared, part: BodyOutputs, probe: npt.NDArray[np.float32]
) -> str:
    """sha256 of everything that decides the outputs of a body."""
    tail = {
        id(value)
        for layer in part.body.tail
        for value in itertools.chain(layer.parameters(), layer.buffers())
    }
    network = part.body.network
    weights = {
        name: [str(value.dtype), list(value.shape), _digest(value)]
        for name, value in itertools.chain(network.named_parameters(), network.named_buffers())
        if id(value) not in tail
    }
    if isinstance(spec.model, HuggingFace):
        # Its network is code of a library, too; other keys stay as they were.
        weights["transformers"] = [importlib.metadata.version("transformers")]
    facts = {
        "format": _FORMAT,
        "data": data.data_hash,
        "weights": weights,
        "model": spec.model.without_weights().model_dump(mode="json", exclude_none=True),
        "environment": devices.environment(part.device, plan.num_threads(spec)),
        "torchvision": importlib.metadata.version("torchvision"),
        "functions": user_models.hash_functions(spec),
        "block_rows": part.body.block_rows,
        "precision": spec.train.precision,
        # Detects changes of code that the other facts do not cover.
        "probe": sha256(np.ascontiguousarray(probe).tobytes()),
    }
    return sha256(canonical_json(facts))[:32]


def _digest(value: torch.Tensor) -> str:
    """sha256 of the bytes of a tensor, whatever its type."""
    return sha256(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
