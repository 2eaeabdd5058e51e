"""How many rows a pass may have: found once for a run, by the worker with the least memory.

`train.micro_batch_size: auto` in a spec. Runs in each worker before the first step. On a CPU the
memory of a pass is estimated from what autograd keeps for a few rows, because a process that takes
too much is killed there and raises nothing. On a GPU passes are tried, each half as large as the
one before, until one fits. Both take the longest row of the data set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from raydc.checkpoint import run_files
from raydc.checkpoint.resume import retry_reads
from raydc.errors import TrainError
from raydc.loop.assembly import Assembly
from raydc.loop.body_outputs import BodyOutputs
from raydc.loop.group import Group
from raydc.models import text_encoders
from raydc.models.device import is_out_of_memory
from raydc.models.pretrained_part import PretrainedPart
from raydc.models.row_tensors import RowTensors, move, to_tensors
from raydc.spec import ResolvedSpec
from raydc.storage import Storage

# Of the memory that is free at the first start. Later attempts may use all, so that a little less
# free memory is no reason to refuse them.
_FIRST_FRACTION = 0.8
# What kernels need besides what autograd keeps: workspaces, and gradients of activations.
_MORE = 1.3
_NUM_TRIED = (2, 4)


@dataclass(frozen=True)
class PassMemory:
    """What a pass of a worker needs on a CPU.

    Attributes:
        available_bytes: Memory that this worker may fill.
        held_bytes: Needed besides by any pass: gradients, state of the optimiser, and copies of
            both.
        row_bytes: Needed by each row of a pass.
    """

    available_bytes: int
    held_bytes: int
    row_bytes: int

    def needs(self, num_rows: int) -> int:
        """Bytes of a pass of some rows."""
        return self.held_bytes + num_rows * self.row_bytes

    def most_rows(self, fraction: float) -> int:
        """Rows of a pass that a fraction of the memory has room for; 0 for none."""
        free = fraction * self.available_bytes - self.held_bytes
        return max(0, int(free // max(1, self.row_bytes)))


def settle(
    spec: ResolvedSpec,
    parts: Assembly,
    run_folder: Storage,
    group: Group,
    available_bytes: Callable[[], int],
    retry_pauses_s: Sequence[float] = (),
    num_copies: int = 1,
) -> ResolvedSpec:
    """Puts a number in the place of `auto`; every rank must call this.

    Args:
        spec: Resolved spec of the run.
        parts: What this worker trains with; its step gets the number, and what was decided.
        run_folder: Folder of the run, whose `resolved.yaml` has the number or gets it.
        group: The workers.
        available_bytes: Returns the memory that this process may fill; asked on CPUs only.
        retry_pauses_s: Seconds between attempts to read and write the file.
        num_copies: Copies of the state in the memory of this machine while a run trains. A number
            that the run has already does not depend on it.

    Returns:
        The spec with the number, the same on every rank.

    Raises:
        TrainError: A worker has too little memory for the number of the run, or for one row.
        PeerLostError: Another worker is gone or hangs.
        CheckpointError: The storage does not answer.
    """
    train, world = spec.train, group.world
    if train.micro_batch_size != "auto":
        return spec
    # Only rank 0 reads: another one could see the file before or after it is written.
    known = 0
    if world.rank == 0:
        read = partial(run_files.read_micro_batch, run_folder)
        known = retry_reads(read, run_folder, retry_pauses_s) or 0
    (known,) = group.broadcast([known])
    most = train.most_shard_rows
    if world.device.type == "cuda":
        limit, why = find_by_trial(known or most, bool(known), partial(fits, parts))
    else:
        # Copies for a restart that loses less are no reason to refuse a run that has begun.
        memory = measure(parts, spec, available_bytes(), 1 if known else num_copies)
        limit = memory.most_rows(1.0 if known else _FIRST_FRACTION)
        asked = known or _halved(most, limit)
        why = (
            f"a pass of {asked} row(s) takes about {memory.needs(asked) / 1e9:.3g} GB, and "
            f"{memory.available_bytes / 1e9:.3g} GB are free for this worker"
        )
    limits = torch.zeros(world.world_size, device=world.device)
    limits[world.rank] = min(limit, most)
    group.sum_(limits)
    least, rank = (int(found) for found in limits.min(dim=0))
    number = known or _halved(most, least)
    if least < number:
        raise _refusal(number, least, rank, why if rank == world.rank else None, bool(known))
    if not known and world.rank == 0:
        write = partial(run_files.write_micro_batch, spec, run_folder, number)
        retry_reads(write, run_folder, retry_pauses_s)
    parts.step.micro_batch_size = number
    passes = -(-most // number)
    what = f"passes of at most {number} row(s), {passes} for a logical shard"
    parts.step.passes_note = f"{what}: {why}"
    changed = train.model_copy(update={"micro_batch_size": number})
    return spec.model_copy(update={"train": changed})


def _halved(most: int, limit: int) -> int:
    """The largest number of rows within a limit that doubles the passes some times; 1 at least."""
    number = most
    while number > max(1, limit):
        number = -(-number // 2)
    return number


def _refusal(number: int, least: int, rank: int, why: str | None, is_known: bool) -> TrainError:
    what = "the passes of this run have" if is_known else "a pass needs at least"
    message = f"{what} {number} row(s), and worker {rank} has memory for {least}"
    more = "" if why is None else f": {why}"
    hint = (
        "Give workers more memory, or pass --new to start again with smaller passes."
        if is_known
        else "Give workers more memory, shorter rows, or a smaller model."
    )
    return TrainError(message + more, hint)


def measure(
    parts: Assembly, spec: ResolvedSpec, available_bytes: int, num_copies: int = 1
) -> PassMemory:
    """Estimates the memory of a pass from what autograd keeps for a few rows.

    Args:
        parts: What this worker trains with.
        spec: Resolved spec, whose optimiser has a state.
        available_bytes: Memory that this worker may fill.
        num_copies: Copies of the state, those in the memory of other processes included.
    """
    few, more = (_kept_bytes_of_layers(parts, num_rows) for num_rows in _NUM_TRIED)
    row_bytes = max(1, more - few) // (_NUM_TRIED[1] - _NUM_TRIED[0])
    constant = max(0, few - _NUM_TRIED[0] * row_bytes)
    parameters = list(parts.network.parameters())
    trained = sum(one.nbytes for one in parameters if one.requires_grad)
    optimizer = spec.train.optimizer
    num_moments = int(optimizer.momentum > 0) if optimizer.name == "sgd" else 2
    # Gradients of a shard, and their sums over shards and over workers; the state of the optimiser;
    # and copies of a checkpoint, of which one is made while the next steps are computed.
    copied = sum(one.nbytes for one in parameters) + num_moments * trained
    held = 3 * trained + num_moments * trained + num_copies * copied + constant
    return PassMemory(available_bytes, held, int(_MORE * row_bytes))


def _kept_bytes(parts: Assembly, num_rows: int) -> int:
    """Bytes that autograd keeps between a forward and a backward pass of the longest row."""
    network, kept = parts.network, dict[int, int]()
    weights = (*network.parameters(), *network.buffers())
    known = {one.untyped_storage().data_ptr() for one in weights}

    def keep(tensor: Tensor) -> Tensor:
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in known:
            kept[memory.data_ptr()] = memory.nbytes()
        return tensor

    x, y_B = _longest(parts, num_rows)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        parts.step.try_pass(x, y_B, is_backward=False)
    # A backward pass has gradients of activations besides, two of the largest at most.
    return sum(kept.values()) + 2 * max(kept.values(), default=0)


def _kept_bytes_of_layers(parts: Assembly, num_rows: int) -> int:
    """As `_kept_bytes`; layers that are computed again keep nothing, but one at a time does."""
    kept = _kept_bytes(parts, num_rows)
    for part in parts.network.modules():
        if isinstance(part, PretrainedPart) and part.base.is_gradient_checkpointing:
            text_encoders.set_checkpointing(part.base, is_on=False)
            try:
                all_layers = _kept_bytes(parts, num_rows)
            finally:
                text_encoders.set_checkpointing(part.base, is_on=True)
            config: Any = part.base.config
            kept += (all_layers - kept) // int(config.num_hidden_layers)
    return kept


def _longest(parts: Assembly, num_rows: int) -> tuple[RowTensors, Tensor]:
    """Copies of the longest training row, on the device."""
    rows = parts.feed.rows
    stored = rows.rows if isinstance(rows, BodyOutputs) else rows
    place = int(stored.lengths.argmax())
    x, y_B = rows.gather(np.full(num_rows, place, dtype=np.int64))
    device = next(parts.network.parameters()).device
    return move(to_tensors(x), device), torch.from_numpy(y_B).to(device)


def find_by_trial(most: int, is_known: bool, has_room: Callable[[int], bool]) -> tuple[int, str]:
    """Tries passes on a GPU, of half as many rows each time.

    Args:
        most: Rows of the first pass.
        is_known: Whether the run has this number already, so that no other would do.
        has_room: Tries a pass of some rows.

    Returns:
        The rows that fit, 0 if none do; and what was tried last.
    """
    number = most
    while not has_room(number):
        if is_known or number == 1:
            return 0, f"the GPU has no memory for a pass of {number} row(s), each the longest one"
        number = -(-number // 2)
    return number, f"the GPU has memory for a pass of {number} row(s), each the longest one"


def fits(parts: Assembly, num_rows: int) -> bool:
    """Whether a pass on a GPU has enough memory, with the state of the optimiser beside it.

    Args:
        parts: What this worker trains with.
        num_rows: Rows of the pass.
    """
    device = next(parts.network.parameters()).device
    trained = sum(one.nbytes for one in parts.network.parameters() if one.requires_grad)
    try:
        # The moments of Adam, and the gradients of the shards before, are there in a real step.
        held = torch.empty(3 * trained, dtype=torch.uint8, device=device)
        parts.step.try_pass(*_longest(parts, num_rows))
        del held
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        is_enough = False
    else:
        is_enough = True
    # Behind the handler: the error holds the frames, and so the tensors, of the pass.
    parts.network.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return is_enough
