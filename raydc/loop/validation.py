"""Scores of a network on the validation rows, computed by all workers together."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from raydc import order
from raydc.data.shards import Rows
from raydc.features import Features, Inputs, Signature
from raydc.features.record import bucket_keys
from raydc.loop.body_outputs import BodyOutputs
from raydc.loop.group import Group
from raydc.loop.step import Step
from raydc.models.row_tensors import move, to_tensors
from raydc.models.score_threshold import choose_thresholds
from raydc.models.scores import Scores
from raydc.spec.language import LANGUAGE, rows_per_pass
from raydc.spec.metric import validation_names
from raydc.spec.resolved import ResolvedTrain

# Fixed, so that each row shares its forward pass with the same rows for every number of workers.
_BLOCK_ROWS = 512


def _block_rows(signature: Signature) -> int:
    """Rows of a forward pass, a function of the data set alone."""
    if signature.task != LANGUAGE:
        return _BLOCK_ROWS
    (field,) = signature.fields.values()
    return rows_per_pass(signature.num_values, field.num_codes)


def _outputs(step: Step, x: Inputs, device: torch.device) -> Tensor:
    """Outputs of a block of rows, [B, K]; rows with lists of similar length share a pass.

    One long text would make all 512 rows as long as itself. No pass has more rows than one of the
    training, where a spec limits those.
    """
    keys = bucket_keys(x)
    longest_B = np.zeros(len(x), np.int64) if keys is None else keys.max(axis=1)
    alike = [np.flatnonzero(longest_B == length) for length in np.unique(longest_B)]
    most = step.micro_batch_size
    passes = [rows[part] for rows in alike for part in order.passes(len(rows), most)]
    if len(passes) == 1:
        return step.forward(move(to_tensors(x), device))
    parts = [step.forward(move(to_tensors(x[rows]), device)) for rows in passes]
    outputs_BK = parts[0].new_empty((len(x), parts[0].shape[1]))
    outputs_BK[torch.from_numpy(np.concatenate(passes)).to(device)] = torch.cat(parts)
    return outputs_BK


@torch.inference_mode()
def compute_scores(
    step: Step, rows: Rows | BodyOutputs, features: Features, group: Group, train: ResolvedTrain
) -> dict[str, Any]:
    """Deals out blocks of rows to the workers and returns the scores over all of them.

    Args:
        step: Holds the network, which is in training mode before and after.
        rows: All validation rows, or what a frozen body makes of them; this worker computes its
            part of them.
        features: Features of the data set, with the task and the units of the target.
        group: The workers; every rank must call this.
        train: Section `train` of the spec, with the names of the metrics.

    Returns:
        The scores by name, the same on every rank, None for one that is undefined; `threshold`, or
        `threshold:LABEL` for each label, if the spec wants one; `split`; and `undefined`, the
        reason for each that is None.

    Raises:
        PeerLostError: Another worker is gone or hangs.
    """
    names = validation_names(features.signature.task, train.metrics, train.metric)
    wants_scores = train.threshold is not None
    found = Scores(features, names, len(rows), wants_scores, train.ndcg_k)
    world = group.world
    block_rows = _block_rows(features.signature)
    blocks = range(world.rank, order.num_steps(len(rows), block_rows), world.world_size)
    with step.judged_network():
        for block in blocks:
            first = block * block_rows
            ids_B = np.arange(first, min(first + block_rows, len(rows)), dtype=np.int64)
            x, y_B = rows.gather(ids_B)
            outputs_BK = _outputs(step, x, world.device)
            queries = None if rows.queries is None else rows.queries[ids_B]
            found.update(outputs_BK, torch.from_numpy(y_B), block, queries)

    def add_up(mine: Tensor) -> Tensor:
        on_device = mine.to(world.device)
        group.sum_(on_device)
        return on_device.cpu()

    found.share(add_up, len(rows), block_rows)
    record = {"split": "validation", **found.compute().to_dict()}
    if train.threshold is not None and found.keeps_scores:
        for name, chosen in choose_thresholds(train.threshold, found).items():
            is_found = isinstance(chosen, float)
            record[name] = chosen if is_found else None
            if not is_found:
                record["undefined"] = {**record.get("undefined", {}), name: chosen}
    return record
