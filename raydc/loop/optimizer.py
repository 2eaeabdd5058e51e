"""The optimiser and the learning rate schedule of a spec. Runs in each worker; needs torch only."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler

from raydc.loop.length import Length
from raydc.spec.resolved import ResolvedTrain


def make_optimizer(train: ResolvedTrain, network: nn.Module) -> Optimizer:
    """Returns the optimiser of a section `train`, in torch's fused form."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    section = train.optimizer
    arguments: dict[str, Any] = {"lr": train.learning_rate, "fused": True}
    # Without a value in the spec, each optimiser keeps torch's default, which differs among them.
    if section.weight_decay is not None:
        arguments["weight_decay"] = section.weight_decay
    if section.name == "sgd":
        return torch.optim.SGD(
            parameters, momentum=section.momentum, nesterov=section.nesterov, **arguments
        )
    if section.name == "adam":
        return torch.optim.Adam(parameters, **arguments)
    return torch.optim.AdamW(parameters, **arguments)


def make_scheduler(
    train: ResolvedTrain, optimizer: Optimizer, length: Length
) -> lr_scheduler.LRScheduler | None:
    """Returns the learning rate schedule of a section `train`, which advances once a step.

    Args:
        train: Section `train` of a resolved spec; `lr_scheduler` and `learning_rate` are used.
        optimizer: A new optimiser, whose learning rate is the highest of the schedule.
        length: Total steps and steps per epoch, over which the schedule runs.

    Returns:
        The schedule; None if the rate is constant.
    """
    section = train.lr_scheduler
    # At least one step is left for the schedule after the warm-up.
    warmup = min(section.warmup_steps, length.total_steps - 1)
    remaining = max(1, length.total_steps - warmup)
    after_warmup: lr_scheduler.LRScheduler | None = None
    if section.name == "cosine":
        lowest = train.learning_rate * section.final_fraction
        after_warmup = lr_scheduler.CosineAnnealingLR(optimizer, remaining, lowest)
    elif section.name == "linear":
        after_warmup = lr_scheduler.LinearLR(optimizer, 1.0, section.final_fraction, remaining)
    elif section.name == "step":
        # Drops are at fixed epochs of the run; the schedule counts from the end of the warm-up.
        period = section.step_epochs * length.steps_per_epoch
        drops = [
            step - warmup for step in range(period, length.total_steps, period) if step > warmup
        ]
        after_warmup = lr_scheduler.MultiStepLR(optimizer, drops, section.gamma)
    if warmup < 1:
        return after_warmup
    # Step s of the warm-up runs at (s + 1) / (warmup + 1) of the highest rate.
    rise = lr_scheduler.LinearLR(optimizer, 1.0 / (warmup + 1), 1.0, warmup)
    after_warmup = after_warmup or lr_scheduler.ConstantLR(optimizer, 1.0, 0)
    return lr_scheduler.SequentialLR(optimizer, [rise, after_warmup], [warmup])
