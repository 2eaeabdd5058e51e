"""The optimiser and the learning rate schedule of a spec. Runs in each worker; needs torch only."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler

from raydc.loop.length import Length
from raydc.models.parameter_names import names_of, require_matches
from raydc.spec.resolved import ResolvedTrain
from raydc.spec.train import Train

Kind = TypeVar("Kind", bound=Optimizer)
# In `no_decay`: all parameters of one dimension.
_ONE_DIMENSION = "1d"
# Methods of an optimiser that torch wraps for its compiler.
_WRAPPED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")


def _without_compiler(kind: type[Kind]) -> type[Kind]:
    """An optimiser of torch that loads no `torch._dynamo`, which takes as long as torch itself.

    torch keeps its compiler out of some methods, and loads it for that at their first call, in
    every worker that starts. Nothing is compiled here, so the methods are called without.
    """
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in _WRAPPED}
    # The wrapper of a step also keeps it out of autograd. Hooks of a step are added by torch again.
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), methods)


_SGD = _without_compiler(torch.optim.SGD)
_ADAM = _without_compiler(torch.optim.Adam)
_ADAMW = _without_compiler(torch.optim.AdamW)


def make_optimizer(train: ResolvedTrain, network: nn.Module) -> Optimizer:
    """Returns the optimiser of a section `train`, in torch's fused form.

    Weights that differ in their rate or their decay are in groups of their own; the first group has
    the rate of the spec, if any weight has it.

    Args:
        train: Section `train` of a resolved spec.
        network: Network to train; what is frozen is left out.

    Raises:
        SpecError: A name or pattern of the section fits no weight.
    """
    parameters = _groups(train, network)
    section = train.optimizer
    arguments: dict[str, Any] = {"lr": train.learning_rate, "fused": True}
    # Without a value in the spec, each optimiser keeps torch's default, which differs among them.
    if section.weight_decay is not None:
        arguments["weight_decay"] = section.weight_decay
    if section.name == "sgd":
        return _SGD(parameters, momentum=section.momentum, nesterov=section.nesterov, **arguments)
    if section.name == "adam":
        return _ADAM(parameters, **arguments)
    return _ADAMW(parameters, **arguments)


def make_update(
    optimizer: Optimizer, scheduler: lr_scheduler.LRScheduler | None
) -> Callable[[], object]:
    """Returns the function that updates the weights once.

    Args:
        optimizer: A result of `make_optimizer`.
        scheduler: Its schedule; None if the rate is constant.
    """
    # A schedule of torch counts the steps of its optimiser by a hook.
    if scheduler is not None:
        return optimizer.step
    # Hooks, and a record for a profiler, take a fifth of the update of a small network.
    return partial(torch.no_grad()(inspect.unwrap(type(optimizer).step)), optimizer)


def check_names(train: Train, network: nn.Module) -> None:
    """Refuses names and patterns of a section `train` that fit no weight.

    Args:
        train: Section `train` of a spec.
        network: Network whose weights they name.

    Raises:
        SpecError: One fits none.
    """
    names = [name for name, _ in network.named_parameters()]
    require_matches([*train.layer_rates], names, "train.layer_rates")
    patterns = [pattern for pattern in train.optimizer.no_decay if pattern != _ONE_DIMENSION]
    require_matches(patterns, names, "train.optimizer.no_decay")


def names_without_decay(train: Train, network: nn.Module) -> set[str]:
    """Names of the parameters that neither weight decay nor an L1 penalty changes.

    Args:
        train: Section `train` of a spec.
        network: Network whose parameters are named.
    """
    found: set[str] = set()
    for pattern in train.optimizer.no_decay:
        if pattern == _ONE_DIMENSION:
            found |= {name for name, value in network.named_parameters() if value.ndim == 1}
        else:
            found |= names_of(network, pattern)
    return found


def _groups(train: Train, network: nn.Module) -> list[nn.Parameter] | list[dict[str, Any]]:
    """Trained parameters, or groups of them with rates and decays of their own."""
    check_names(train, network)
    trained = {name: value for name, value in network.named_parameters() if value.requires_grad}
    factors = dict.fromkeys(trained, 1.0)
    for pattern, factor in train.layer_rates.items():
        factors |= dict.fromkeys(names_of(network, pattern) & trained.keys(), factor)
    undecayed = names_without_decay(train, network)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        groups.setdefault((factors[name], name not in undecayed), []).append(parameter)
    if list(groups) == [(1.0, True)]:
        return list(trained.values())
    # The rate that is recorded is that of the first group.
    order = sorted(groups, key=lambda kind: (kind[0] != 1.0, -kind[0], not kind[1]))
    return [
        {
            "params": groups[factor, decays],
            "lr": train.learning_rate * factor,
            **({} if decays else {"weight_decay": 0.0}),
        }
        for factor, decays in order
    ]


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
        if train.layer_rates:
            # torch's own schedule ends at the same rate for all groups.
            fall = partial(_cosine, remaining, section.final_fraction)
            after_warmup = lr_scheduler.LambdaLR(optimizer, fall)
        else:
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


def _cosine(num_steps: int, final_fraction: float, step: int) -> float:
    """Factor of the rate after `step` of `num_steps` steps, which falls to the final fraction."""
    share = min(step, num_steps) / num_steps
    return final_fraction + (1.0 - final_fraction) * (1.0 + math.cos(math.pi * share)) / 2.0
