"""The moving average of weights: its numbers, and that it is what a run validates and exports."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from training import training_spec, write_pictures

from raydc import bundle, train
from raydc import spec as specs
from raydc.checkpoint import fork
from raydc.checkpoint.state import unpack_model, unpack_weights
from raydc.checkpoint.store import CheckpointStore
from raydc.data import prepared
from raydc.data.shards import open_rows
from raydc.loop.weight_average import WeightAverage
from raydc.models.scores import Scores
from raydc.storage import Storage


def test_the_average_follows_its_formula_and_leaves_constants_alone() -> None:
    network = nn.BatchNorm1d(3)
    constant = torch.tensor([0.1, 0.7, 1 / 3])
    network.register_buffer("constant", constant.clone())
    average, expected = WeightAverage(network, 0.5), None
    for step in range(30):
        with torch.no_grad():
            network.weight += torch.tensor([1.0, -2.0, 0.3])
            network.num_batches_tracked += 1
        average.update(step)
        decay, now = min(0.5, (1 + step) / (10 + step)), network.weight.detach().double()
        expected = now if expected is None else decay * expected + (1 - decay) * now
        # In each step: later ones have forgotten how the first ones were weighted.
        kept = average.state()["weight"].double()
        torch.testing.assert_close(kept, expected, rtol=1e-5, atol=1e-5)
    state = average.state()
    assert torch.equal(state["constant"], constant)
    assert state["num_batches_tracked"] == 30


def test_the_network_gets_its_own_weights_back() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    # Tied: two names for one tensor.
    network[1].weight = network[0].weight
    average = WeightAverage(network, 0.9)
    average.update(0)
    first = network[0].weight.detach().clone()
    with torch.no_grad():
        network[0].weight.add_(1.0)
    own = network[0].weight.detach().clone()
    with contextlib.suppress(KeyError), average.applied():
        assert torch.equal(network[0].weight, first)
        raise KeyError
    assert torch.equal(network[0].weight, own)


def test_a_run_validates_exports_and_forks_the_average(tmp_path: Path) -> None:
    data = prepared.load(write_pictures(Storage(str(tmp_path / "data"))))
    spec = training_spec(str(tmp_path), train={"ema_decay": 0.9, "metric": "loss"})
    run = Storage(str(tmp_path / "runs" / "short"))
    run.write_json("resolved.yaml", specs.to_dict(spec))
    train.run(spec, data, run, lambda line: None)
    found = CheckpointStore(run / "checkpoints", 3).require_newest()
    averaged, live = unpack_model(found), unpack_weights(found)
    loaded = bundle.load(run / "model")
    weights = loaded.model.state_dict()
    assert loaded.facts["step"] == found.step
    assert all(torch.equal(weights[name], averaged[name]) for name in averaged)
    assert any(not torch.equal(weights[name], live[name]) for name in live)

    x, y = open_rows(data.folder, "validation").gather(np.arange(60))
    scores = Scores(data.features, (), 60)
    scores.update(torch.from_numpy(loaded.forward(x)), torch.from_numpy(y))
    loss = scores.compute().values["loss"]
    assert loaded.facts["metrics"]["loss"] == pytest.approx(loss, rel=1e-5)

    forked = fork.load(spec, data, Storage(str(tmp_path / "runs")), "short")
    assert all(torch.equal(forked.weights[name], averaged[name]) for name in averaged)
