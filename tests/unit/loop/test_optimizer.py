"""Groups of weights with rates and decays of their own, and their schedule."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from raydc import models
from raydc.errors import SpecError
from raydc.features import Signature
from raydc.loop.length import Length
from raydc.loop.optimizer import make_optimizer, make_scheduler, make_update
from raydc.spec.model import Mlp
from raydc.spec.resolved import ResolvedTrain

SIGNATURE = Signature("vector", (4,), "float32", (), (), "classification", ("a", "b"))
NUM_STEPS = 10


def resolved_train(**fields: Any) -> ResolvedTrain:
    return ResolvedTrain(**{"logical_shards": 1, "metric": "accuracy", "mode": "max", **fields})


def make_network(**fields: Any) -> nn.Module:
    return models.build(Mlp(name="mlp", hidden=[6, 5], **fields), SIGNATURE, 0)


def group_of(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, Any]:
    (found,) = (
        group for group in optimizer.param_groups if any(parameter is p for p in group["params"])
    )
    return found


def test_plain_section_has_one_group() -> None:
    network = make_network()
    (group,) = make_optimizer(resolved_train(), network).param_groups
    assert len(group["params"]) == len(list(network.parameters()))


def test_layer_rates_scale_the_rate_and_the_last_pattern_counts() -> None:
    network = make_network()
    train = resolved_train(learning_rate=0.5, layer_rates={"body": 0.1, "1": 0.01, "1.bias": 1.0})
    optimizer = make_optimizer(train, network)
    rates = {name: group_of(optimizer, value)["lr"] for name, value in network.named_parameters()}
    assert rates == pytest.approx(
        {
            "body.1.weight": 0.005,
            "body.1.bias": 0.5,
            "body.3.weight": 0.05,
            "body.3.bias": 0.05,
            "body.5.weight": 0.5,
            "body.5.bias": 0.5,
        }
    )
    # What is recorded as the rate of a step.
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_frozen_weights_have_no_state() -> None:
    network = make_network(freeze=["body"])
    optimizer = make_optimizer(resolved_train(), network)
    network(torch.ones(2, 4)).sum().backward()
    before = {name: value.clone() for name, value in network.named_parameters()}
    optimizer.step()
    assert len(optimizer.state) == 2
    changed = {n for n, value in network.named_parameters() if not torch.equal(value, before[n])}
    assert changed == {"body.5.weight", "body.5.bias"}


@pytest.mark.parametrize(
    ("no_decay", "left_out"),
    [
        (["1d"], {"body.1.bias", "body.3.bias", "body.5.bias"}),
        (["3", "5.weight"], {"body.3.weight", "body.3.bias", "body.5.weight"}),
    ],
)
def test_no_decay_leaves_weights_out(no_decay: list[str], left_out: set[str]) -> None:
    network = make_network()
    optimizer = make_optimizer(
        resolved_train(optimizer={"name": "adamw", "weight_decay": 0.3, "no_decay": no_decay}),
        network,
    )
    decays = {
        name: group_of(optimizer, value)["weight_decay"]
        for name, value in network.named_parameters()
    }
    assert {name for name, decay in decays.items() if decay == 0.0} == left_out
    assert set(decays.values()) == {0.0, 0.3}


@pytest.mark.parametrize("field", ["layer_rates", "no_decay"])
def test_names_that_fit_nothing_are_refused(field: str) -> None:
    sections: dict[str, Any] = {
        "layer_rates": {"layer_rates": {"fc": 0.1}},
        "no_decay": {"optimizer": {"name": "sgd", "no_decay": ["fc"]}},
    }
    with pytest.raises(SpecError, match=rf"train\.\S*{field}: 'fc' names no weight"):
        make_optimizer(resolved_train(**sections[field]), make_network())


@pytest.mark.parametrize("name", ["constant", "cosine", "linear", "step"])
@pytest.mark.parametrize("warmup_steps", [0, 3])
def test_schedule_keeps_the_ratio_of_the_rates(name: str, warmup_steps: int) -> None:
    section = {
        "name": name,
        "warmup_steps": warmup_steps,
        "final_fraction": 0.25,
        "step_epochs": 1,
    }
    sections: dict[str, Any] = {"lr_scheduler": section, "learning_rate": 0.5}
    plain, layered = (
        make_optimizer(resolved_train(**sections, **more), make_network())
        for more in ({}, {"layer_rates": {"body": 0.1}})
    )
    length = Length(NUM_STEPS, 4)
    schedules = [
        make_scheduler(resolved_train(**sections, **more), optimizer, length)
        for more, optimizer in (({}, plain), ({"layer_rates": {"body": 0.1}}, layered))
    ]
    for _ in range(NUM_STEPS):
        highest, lowest = (group["lr"] for group in layered.param_groups)
        assert math.isclose(highest, plain.param_groups[0]["lr"], rel_tol=1e-6)
        assert math.isclose(lowest, 0.1 * highest, rel_tol=1e-6)
        for optimizer, schedule in zip((plain, layered), schedules, strict=True):
            optimizer.step()
            if schedule is not None:
                schedule.step()


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_optimizer_computes_the_bits_of_torchs_own_and_calls_hooks(name: str) -> None:
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    networks = [nn.Linear(5, 3), nn.Linear(5, 3)]
    networks[1].load_state_dict(networks[0].state_dict())
    train = resolved_train(optimizer={"name": name})
    momentum = {"momentum": train.optimizer.momentum} if name == "sgd" else {}
    ours = make_optimizer(train, networks[0])
    plain = kinds[name](networks[1].parameters(), lr=train.learning_rate, fused=True, **momentum)
    called: list[str] = []
    ours.register_step_post_hook(lambda *_: called.append("post"))
    for step in range(3):
        rows = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
        for network, optimizer in zip(networks, (ours, plain), strict=True):
            optimizer.zero_grad()
            network(rows).square().sum().backward()
            optimizer.step()
    for mine, other in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(mine, other)
    assert called == ["post"] * 3
    assert isinstance(ours, kinds[name])
    state = ours.state_dict()
    ours.load_state_dict(state)
    assert str(ours.state_dict()) == str(state) == str(plain.state_dict())


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_update_computes_the_bits_of_a_step(
    schedule: str, recwarn: pytest.WarningsRecorder
) -> None:
    train = resolved_train(lr_scheduler={"name": schedule})
    networks = [nn.Linear(5, 3), nn.Linear(5, 3)]
    networks[1].load_state_dict(networks[0].state_dict())
    optimizers = [make_optimizer(train, network) for network in networks]
    schedules = [make_scheduler(train, one, Length(8, 4)) for one in optimizers]
    called: list[str] = []
    optimizers[0].register_step_post_hook(lambda *_: called.append("post"))
    updates = [make_update(optimizers[0], schedules[0]), optimizers[1].step]
    for step in range(8):
        rows = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
        for network, update, one in zip(networks, updates, schedules, strict=True):
            network.zero_grad()
            network(rows).square().sum().backward()
            update()
            if one is not None:
                one.step()
    for mine, other in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(mine, other)
        assert not mine.grad_fn
    # Hooks take time, and only a schedule needs them: torch warns if it misses its own.
    assert called == ["post"] * (0 if schedule == "constant" else 8)
    assert not recwarn.list
