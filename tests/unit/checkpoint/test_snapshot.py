"""Copies of a run's state in host memory that are the files of a checkpoint."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from raydc.checkpoint import snapshot
from raydc.checkpoint.snapshot import HostCopy, Snapshots
from raydc.checkpoint.state import unpack_step, unpack_weights
from raydc.checkpoint.store import Found


def take(snapshots: Snapshots, step: int, network: nn.Module, step_state: Any) -> HostCopy:
    return snapshots.take(step, network.state_dict(), step_state, {"state.json": b"{}"}, {}, None)


def found(copy: HostCopy) -> Found:
    return Found(
        copy.step, copy.meta, {name: bytes(content) for name, content in copy.files.items()}
    )


def make_network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    return layers.to(memory_format=torch.channels_last)


def train(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    network(torch.randn(8, 3, 3, 3)).square().sum().backward()
    optimizer.step()


def test_files_hold_the_state_of_the_moment() -> None:
    network = make_network()
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    snapshots, copies, expected = Snapshots(torch.device("cpu")), [], []
    for step in range(2):
        train(
            network, optimizer
        )  # The first copy is of an optimiser with state, the slots are filled once each.
        copies.append(
            take(snapshots, step, network, {"optimizer": optimizer.state_dict(), "scheduler": None})
        )
        copies[-1].complete()
        expected.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
    train(network, optimizer)
    for copy, weights in zip(copies, expected, strict=True):
        loaded = unpack_weights(found(copy))
        assert loaded.keys() == weights.keys()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())
    other = make_network()
    restored = torch.optim.AdamW(other.parameters(), fused=True)
    restored.load_state_dict(unpack_step(found(copies[1]))["optimizer"])
    assert float(restored.state_dict()["state"][0]["step"]) == 2.0


def test_the_state_of_the_optimiser_is_copied_when_it_has_to_be() -> None:
    network = make_network()
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    train(network, optimizer)
    copy = take(
        Snapshots(torch.device("cpu")),
        1,
        network,
        {"optimizer": optimizer.state_dict(), "scheduler": None},
    )
    weights = network[0].weight.detach().clone()
    with torch.no_grad():
        network[0].weight.zero_()  # A forward pass may do this.
    moment = optimizer.state[network[0].weight]["exp_avg"]
    moment.fill_(7.0)  # Nobody but the optimiser would.
    assert not copy.is_complete
    assert torch.equal(unpack_weights(found(copy))["0.weight"], weights)
    assert copy.is_complete
    moment.fill_(8.0)
    copied = unpack_step(found(copy))["optimizer"]["state"][0]["exp_avg"]
    assert torch.equal(copied, torch.full_like(copied, 7.0))


def test_a_slot_is_used_again_when_all_have_let_go() -> None:
    network, snapshots = make_network(), Snapshots(torch.device("cpu"))
    first, second = (take(snapshots, step, network, {}) for step in range(2))
    assert first.files["model.safetensors"] != b""
    before = bytes(second.files["model.safetensors"])
    first.hold()
    first.let_go()
    with torch.no_grad():
        next(network.parameters()).add_(1.0)
    third = take(snapshots, 2, network, {})  # `first` has a user yet.
    assert (
        bytes(second.files["model.safetensors"])
        == before
        == bytes(first.files["model.safetensors"])
    )
    first.let_go()
    fourth = take(snapshots, 3, network, {})
    assert (
        bytes(fourth.files["model.safetensors"])
        == bytes(third.files["model.safetensors"])
        != before
    )
    assert first._slot is fourth._slot


def test_layout_is_made_anew_when_the_tensors_change() -> None:
    network, snapshots = make_network(), Snapshots(torch.device("cpu"))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    empty = take(snapshots, 0, network, optimizer.state_dict())
    assert safetensors.torch.load(bytes(empty.files["optimizer.safetensors"])) == {}
    empty.let_go()
    train(network, optimizer)
    copy = take(snapshots, 1, network, optimizer.state_dict())
    assert len(safetensors.torch.load(bytes(copy.files["optimizer.safetensors"]))) == 6


def test_plain_values_come_back_as_they_were() -> None:
    values = {
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0), "flag": torch.tensor([True, False])}},
            "lr": 0.5,
        },
        "scheduler": {
            "milestones": Counter({3: 1, 9: 1}),
            "betas": (0.9, 0.999),
            "nested": [{"last": 2}, None],
        },
    }
    back = unpack_step(found(take(Snapshots(torch.device("cpu")), 1, make_network(), values)))
    assert torch.equal(back["optimizer"]["state"][0].pop("flag"), torch.tensor([True, False]))
    assert back["optimizer"] == {"state": {0: {"step": torch.tensor(3.0)}}, "lr": 0.5}
    assert back["scheduler"] == values["scheduler"]
    assert type(back["scheduler"]["milestones"]) is Counter


def test_hashes_and_places() -> None:
    copy = take(Snapshots(torch.device("cpu")), 1, make_network(), {})
    assert (
        copy.hashes()["state.json"]
        == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    )
    assert not copy.is_safe.is_set()
    copy.arrived("memory")
    copy.arrived("storage")
    assert (copy.is_safe.is_set(), copy.place) == (True, "memory")


def test_a_step_does_not_wait_for_the_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    hashing, go_on = threading.Event(), threading.Event()

    def slow(content: object) -> str:
        hashing.set()
        assert go_on.wait(timeout=30)
        return "hash"

    monkeypatch.setattr(snapshot, "sha256", slow)
    copy = Snapshots(torch.device("cpu")).take(1, {"w": torch.ones(3)}, {}, {}, {}, None)
    copy.complete()
    thread = threading.Thread(target=copy.hashes)
    thread.start()
    assert hashing.wait(timeout=30)
    done = threading.Thread(target=copy.complete)
    done.start()
    done.join(timeout=10)
    assert not done.is_alive()
    go_on.set()
    thread.join(timeout=30)
