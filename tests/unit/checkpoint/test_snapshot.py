"""Copies of a run's state in host memory."""

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
from raydc.checkpoint.state import Parts, State, unpack_step, unpack_weights
from raydc.checkpoint.store import Found


def take(snapshots: Snapshots, step: int, network: nn.Module, step_state: Any) -> HostCopy:
    parts = Parts(State(step=step), network.state_dict(), step_state)
    return snapshots.take(parts, {"state.json": b"{}"}, {})


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


def test_files_of_a_copy_hold_the_state_of_its_step() -> None:
    network = make_network()
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    snapshots, copies, expected = Snapshots(torch.device("cpu")), [], []
    for step in range(2):
        # Trained before the first copy too, so that its optimiser has state.
        train(network, optimizer)
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


def test_copy_takes_weights_at_once_and_optimiser_when_completed() -> None:
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
        # A forward pass may do this, so the weights must have been copied.
        network[0].weight.zero_()
    moment = optimizer.state[network[0].weight]["exp_avg"]
    # Only the optimiser would do this, so its state need not have been copied.
    moment.fill_(7.0)
    assert not copy.is_complete
    assert torch.equal(unpack_weights(found(copy))["0.weight"], weights)
    assert copy.is_complete
    moment.fill_(8.0)
    copied = unpack_step(found(copy))["optimizer"]["state"][0]["exp_avg"]
    assert torch.equal(copied, torch.full_like(copied, 7.0))


def test_slot_is_used_again_after_the_last_release() -> None:
    network, snapshots = make_network(), Snapshots(torch.device("cpu"))
    first, second = (take(snapshots, step, network, {}) for step in range(2))
    assert first.files["model.safetensors"] != b""
    before = bytes(second.files["model.safetensors"])
    first.hold()
    first.release()
    with torch.no_grad():
        next(network.parameters()).add_(1.0)
    # `first` still has a user.
    third = take(snapshots, 2, network, {})
    assert (
        bytes(second.files["model.safetensors"])
        == before
        == bytes(first.files["model.safetensors"])
    )
    first.release()
    fourth = take(snapshots, 3, network, {})
    assert (
        bytes(fourth.files["model.safetensors"])
        == bytes(third.files["model.safetensors"])
        != before
    )
    # The memory of the first copy now holds the fourth one.
    assert bytes(first.files["model.safetensors"]) == bytes(fourth.files["model.safetensors"])


def test_image_is_made_again_when_the_tensors_change() -> None:
    network, snapshots = make_network(), Snapshots(torch.device("cpu"))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    empty = take(snapshots, 0, network, optimizer.state_dict())
    assert safetensors.torch.load(bytes(empty.files["optimizer.safetensors"])) == {}
    empty.release()
    train(network, optimizer)
    copy = take(snapshots, 1, network, optimizer.state_dict())
    assert len(safetensors.torch.load(bytes(copy.files["optimizer.safetensors"]))) == 6


def test_plain_values_survive_the_round_trip() -> None:
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


def test_copy_knows_its_hashes_and_its_first_safe_place() -> None:
    copy = take(Snapshots(torch.device("cpu")), 1, make_network(), {})
    assert (
        copy.hashes()["state.json"]
        == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    )
    assert not copy.is_safe.is_set()
    copy.mark_safe("memory")
    copy.mark_safe("storage")
    assert (copy.is_safe.is_set(), copy.place) == (True, "memory")


def test_complete_does_not_wait_for_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    hashing, go_on = threading.Event(), threading.Event()

    def slow(content: object) -> str:
        hashing.set()
        assert go_on.wait(timeout=30)
        return "hash"

    monkeypatch.setattr(snapshot, "sha256", slow)
    parts = Parts(State(step=1), {"w": torch.ones(3)}, {})
    copy = Snapshots(torch.device("cpu")).take(parts, {}, {})
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
