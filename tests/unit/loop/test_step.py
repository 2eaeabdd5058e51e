"""One optimiser step over logical shards."""

from __future__ import annotations

import contextlib
import threading
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from raydc import models, order
from raydc.errors import TrainError
from raydc.features import Signature
from raydc.loop import group
from raydc.loop.group import Alone
from raydc.loop.length import Length
from raydc.loop.shard_state import seed_shard
from raydc.loop.step import Step
from raydc.models.losses import make_loss, plain_loss_sum
from raydc.spec.model import Cnn, Linear, Mlp
from raydc.spec.resolved import ResolvedTrain

SIGNATURE = Signature(
    "image", (1, 8, 8), "uint8", (100.0,), (60.0,), "classification", ("a", "b", "c")
)
CPU = torch.device("cpu")
# Of all training rows, for `class_weights: balanced`.
TARGETS = torch.tensor([0] * 6 + [1] * 3 + [2])


def resolved_train(**fields: Any) -> ResolvedTrain:
    """A section `train` of a classification, with one logical shard unless it says otherwise."""
    return ResolvedTrain(**{"logical_shards": 1, "metric": "accuracy", "mode": "max", **fields})


def batch(num_rows: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (num_rows, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return x, torch.randint(0, 3, (num_rows,), generator=generator)


def make(model: Any, train: dict[str, Any], workers: Any = None, kind: type[Step] = Step) -> Step:
    network = models.build(model, SIGNATURE, 0)
    section, length = resolved_train(**train), Length(10, 5)
    loss_sum = make_loss(section.loss, SIGNATURE, TARGETS.numpy, CPU)
    return kind(network, loss_sum, section, 0, length, workers or Alone())


def all_shards(num_rows: int, num_shards: int) -> list[tuple[int, slice]]:
    return [
        (i, part)
        for i, part in enumerate(order.logical_shards(num_rows, num_shards))
        if part.start < part.stop
    ]


def weights(step: Step) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in step.network.state_dict().items()}


@pytest.mark.parametrize("num_shards", [1, 3, 4])
@pytest.mark.parametrize("clip_norm", [None, 0.5])
@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_step_equals_a_plain_step_on_the_whole_batch(
    name: str, num_shards: int, clip_norm: float | None
) -> None:
    x, y_B = batch()
    train = {
        "optimizer": {"name": name},
        "logical_shards": num_shards,
        "gradient_clip_norm": clip_norm,
    }
    step = make(Mlp(name="mlp", hidden=[8]), train)
    network = models.build(Mlp(name="mlp", hidden=[8]), SIGNATURE, 0)
    plain = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}[name]
    optimizer = plain(network.parameters(), lr=1e-3)
    for number in range(3):
        loss = step(number, 24, x, y_B, all_shards(24, num_shards))
        optimizer.zero_grad()
        expected = torch.nn.functional.cross_entropy(network(x), y_B)
        expected.backward()
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
        optimizer.step()
        torch.testing.assert_close(loss, expected.detach())
    for name_, tensor in network.state_dict().items():
        torch.testing.assert_close(step.network.state_dict()[name_], tensor, rtol=1e-4, atol=1e-6)


class ThreadGroup:
    """Ranks in threads of this process.

    Args:
        rank: Rank of this worker.
        world_size: Number of workers.
        meeting: A barrier, and a dict for what each rank brings; the same for all ranks.
        bucket_bytes: Most bytes of a bucket.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        meeting: tuple[threading.Barrier, dict[int, Any]],
        bucket_bytes: int = group.BUCKET_BYTES,
    ) -> None:
        self.world = group.World(rank, world_size, CPU)
        self.bucket_bytes = bucket_bytes
        self._meeting = meeting

    def sum_(self, flat: Tensor) -> None:
        flat.copy_(torch.stack([part for part, _ in self._meet(flat, [])]).sum(0))

    def exchange(
        self, received: Tensor, sent: Tensor, sizes_in: list[int], sizes_out: list[int]
    ) -> None:
        rank = self.world.rank
        parts = [part.split(sizes)[rank] for part, sizes in self._meet(sent, sizes_out)]
        assert [len(part) for part in parts] == sizes_in
        received.copy_(torch.cat(parts))

    def gather(self, whole: Tensor, parts: Tensor) -> None:
        whole.copy_(torch.cat([part for part, _ in self._meet(parts[0], [])]))

    def _meet(self, tensor: Tensor, sizes: list[int]) -> list[tuple[Tensor, list[int]]]:
        """Returns what all ranks bring, by rank."""
        barrier, brought = self._meeting
        brought[self.world.rank] = (tensor.clone(), sizes)
        barrier.wait(timeout=30)
        everything = [brought[rank] for rank in range(self.world.world_size)]
        barrier.wait(timeout=30)
        return everything


class TurnTakingStep(Step):
    """Computes one shard at a time in this process, to which the random state belongs."""

    turn = threading.Lock()

    def compute_shard(self, *arguments: Any) -> list[Tensor]:
        with self.turn:
            return super().compute_shard(*arguments)


def train_together(
    model: Any,
    train: dict[str, Any],
    world_size: int,
    num_rows: int,
    bucket_bytes: int = group.BUCKET_BYTES,
) -> list[Step]:
    """Computes three steps with several workers; returns the step of each rank."""
    x, y_B = batch(num_rows)
    meeting: tuple[threading.Barrier, dict[int, Any]] = (threading.Barrier(world_size), {})
    workers = [ThreadGroup(rank, world_size, meeting, bucket_bytes) for rank in range(world_size)]
    everyone = [make(model, train, worker, kind=TurnTakingStep) for worker in workers]
    shards = order.logical_shards(num_rows, train["logical_shards"])

    def work(rank: int) -> None:
        mine = order.shards_of_rank(train["logical_shards"], rank, world_size)
        first, last = shards[mine[0]].start, shards[mine[-1]].stop
        own = [(i, slice(shards[i].start - first, shards[i].stop - first)) for i in mine]
        own = [(i, part) for i, part in own if part.start < part.stop]
        for number in range(3):
            everyone[rank](number, num_rows, x[first:last], y_B[first:last], own)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    return everyone


@pytest.mark.parametrize("num_rows", [24, 3])
@pytest.mark.parametrize("bucket_bytes", [1 << 20, 64], ids=["one_bucket", "many_buckets"])
@pytest.mark.parametrize(
    "model",
    [
        Mlp(name="mlp", hidden=[8], dropout=0.5),
        Cnn(name="cnn", channels=[4], batch_norm=True, dropout=0.5),
    ],
    ids=["dropout", "batch_norm"],
)
def test_step_with_any_number_of_workers_gives_the_same_bits(
    model: Any, num_rows: int, bucket_bytes: int
) -> None:
    train = {
        "logical_shards": 5,
        "global_batch_size": 24,
        "optimizer": {"name": "sgd"},
        "learning_rate": 0.1,
    }
    alone = make(model, train)
    x, y_B = batch(num_rows)
    for number in range(3):
        alone(number, num_rows, x, y_B, all_shards(num_rows, 5))
    for world_size in (2, 3, 4, 5):
        for step in train_together(model, train, world_size, num_rows, bucket_bytes):
            for name, tensor in weights(alone).items():
                assert torch.equal(step.network.state_dict()[name], tensor), (world_size, name)


@pytest.mark.parametrize(
    "loss",
    [
        {"name": "cross_entropy", "class_weights": "balanced", "label_smoothing": 0.1},
        {"name": "focal", "class_weights": {"b": 3.0}},
    ],
    ids=["weighted", "focal"],
)
def test_step_with_a_loss_of_the_spec_gives_the_same_bits(loss: dict[str, Any]) -> None:
    model = Mlp(name="mlp", hidden=[8])
    train = {"logical_shards": 4, "global_batch_size": 24, "loss": loss}
    alone, plain = make(model, train), make(model, {**train, "loss": None})
    x, y_B = batch()
    for number in range(3):
        alone(number, 24, x, y_B, all_shards(24, 4))
        plain(number, 24, x, y_B, all_shards(24, 4))
    assert any(
        not torch.equal(tensor, weights(plain)[name]) for name, tensor in weights(alone).items()
    )
    for world_size in (2, 4):
        for step in train_together(model, train, world_size, 24):
            for name, tensor in weights(alone).items():
                assert torch.equal(step.network.state_dict()[name], tensor), (world_size, name)


@pytest.mark.parametrize("num_rows", [24, 3])
def test_step_not_exact_agrees_up_to_rounding(num_rows: int) -> None:
    model = Cnn(name="cnn", channels=[4], batch_norm=False)
    train = {
        "logical_shards": 5,
        "global_batch_size": 24,
        "optimizer": {"name": "sgd"},
        "learning_rate": 0.1,
    }
    alone = make(model, train)
    x, y_B = batch(num_rows)
    for number in range(3):
        alone(number, num_rows, x, y_B, all_shards(num_rows, 5))
    for world_size in (1, 3):
        for step in train_together(model, {**train, "exact": False}, world_size, num_rows):
            for name, tensor in weights(alone).items():
                torch.testing.assert_close(
                    step.network.state_dict()[name], tensor, rtol=1e-4, atol=1e-6
                )


def test_step_not_exact_computes_the_rows_of_a_worker_as_one_shard() -> None:
    """The statistics of batch normalisation are those of all rows of the worker."""
    x, y_B = batch(6)
    model = Cnn(name="cnn", channels=[2], batch_norm=True)
    step, network = (
        make(model, {"logical_shards": 2, "exact": False}),
        models.build(model, SIGNATURE, 0),
    )
    step(0, 6, x, y_B, all_shards(6, 2))
    network(x)
    for name, buffer in network.named_buffers():
        assert torch.equal(step.network.get_buffer(name), buffer)


class HalfGroup:
    """The first of two workers; the gradients of the other one are zero."""

    world = group.World(0, 2, CPU)
    # So small that every parameter has its own bucket.
    bucket_bytes = 64

    def __init__(self) -> None:
        self.has_sent = threading.Event()

    def sum_(self, flat: Tensor) -> None:
        self.has_sent.set()


def test_reduction_sends_buckets_during_the_backward_pass() -> None:
    x, y_B = batch()
    step = make(Mlp(name="mlp", hidden=[8, 8]), {"logical_shards": 2}, half := HalfGroup())
    first_layer, waited = step.network.get_submodule("body.1"), []
    # The pass cannot end before the first layer, which here waits until the last one was sent.
    first_layer.weight.register_post_accumulate_grad_hook(
        lambda _: waited.append(half.has_sent.wait(timeout=30))
    )
    step(0, 24, x, y_B, all_shards(24, 2)[:1])
    assert waited == [True]


class TwiceUsedLayer(torch.nn.Module):
    """Uses a layer twice, and computes it again in two separate backward passes."""

    def __init__(self, use_reentrant: bool) -> None:
        super().__init__()
        self.first, self.layer = torch.nn.Linear(64, 8), torch.nn.Linear(8, 8)
        self.use_reentrant = use_reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1))
        for _ in range(2):
            x = checkpoint(self.layer, x, use_reentrant=self.use_reentrant)
        return x


def test_reduction_refuses_a_gradient_that_comes_in_pieces() -> None:
    x, y_B = batch()
    for use_reentrant in (False, True):
        network = models.Network(models.Input(SIGNATURE), TwiceUsedLayer(use_reentrant))
        step = Step(
            network,
            partial(plain_loss_sum, "classification"),
            resolved_train(logical_shards=2),
            0,
            Length(10, 5),
            HalfGroup(),
        )
        with (
            pytest.raises(TrainError, match="in several pieces")
            if use_reentrant
            else contextlib.nullcontext()
        ):
            step(0, 24, x, y_B, all_shards(24, 2)[:1])


def test_step_averages_batch_statistics_over_shards() -> None:
    x, y_B = batch(6)
    step = make(
        Cnn(name="cnn", channels=[2], batch_norm=True), {"logical_shards": 2, "learning_rate": 1e-3}
    )
    network = models.build(Cnn(name="cnn", channels=[2], batch_norm=True), SIGNATURE, 0)
    moved = []
    for part in (slice(0, 3), slice(3, 6)):
        network.load_state_dict(
            models.build(Cnn(name="cnn", channels=[2], batch_norm=True), SIGNATURE, 0).state_dict()
        )
        network(x[part])
        moved.append({name: buffer.clone() for name, buffer in network.named_buffers()})
    step(0, 6, x, y_B, all_shards(6, 2))
    for name, buffer in step.network.named_buffers():
        if name.endswith("num_batches_tracked"):
            assert int(buffer) == 1
        else:
            torch.testing.assert_close(buffer, (moved[0][name] + moved[1][name]) / 2)


def test_shard_of_one_row_uses_the_running_statistics() -> None:
    step = make(Cnn(name="cnn", channels=[2], batch_norm=True), {"logical_shards": 2})
    frozen = make(Cnn(name="cnn", channels=[2], batch_norm=True), {"logical_shards": 2})
    x, y_B = batch(3)
    network = models.build(Cnn(name="cnn", channels=[2], batch_norm=True), SIGNATURE, 0)
    start = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network(x[1:])
    # A shard of one row, which changes no statistics, and one of two rows.
    step(0, 3, x, y_B, all_shards(3, 2))
    for name, buffer in step.network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            torch.testing.assert_close(buffer, (start[name] + network.get_buffer(name)) / 2)
    norm = next(m for m in frozen.network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    norm.eval()
    frozen(0, 1, x[:1], y_B[:1], [(0, slice(0, 1))])
    assert not norm.training, "what the user froze stays frozen"
    assert all(m.training for m in step.network.modules())


def test_seed_shard_gives_each_seed_step_and_shard_its_own_state() -> None:
    def draw(*key: int) -> float:
        seed_shard(*key, CPU)
        return float(torch.rand(1, dtype=torch.float64))

    keys = [(seed, step, shard) for seed in range(3) for step in range(5) for shard in range(5)]
    values = [draw(*key) for key in keys]
    assert len(set(values)) == len(keys)
    assert [draw(*key) for key in keys] == values


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_step_refuses_outputs_for_another_number_of_rows(precision: str) -> None:
    """A single row of outputs would otherwise be compared with the target of every row."""
    step = make(Linear(name="linear"), {"precision": precision})
    step.network.register_forward_hook(lambda _, __, y: y[:1])
    x, y_B = batch()
    with pytest.raises(TrainError, match=r"the network gives \(1, 3\) for 24 row\(s\)"):
        step(0, 24, x, y_B, all_shards(24, 1))
    with pytest.raises(TrainError, match="gives"):
        step.forward(x)


def test_step_counts_an_unused_parameter_as_zero_gradient() -> None:
    network = models.build(Mlp(name="mlp", hidden=[8]), SIGNATURE, 0)
    unused = torch.nn.Parameter(torch.ones(3))
    network.register_parameter("unused", unused)
    train = resolved_train(optimizer={"name": "adamw", "weight_decay": 0.1})
    loss_sum = partial(plain_loss_sum, "classification")
    step = Step(network, loss_sum, train, 0, Length(10, 5), Alone())
    x, y_B = batch()
    step(0, 24, x, y_B, all_shards(24, 1))
    assert float(unused[0].detach()) == pytest.approx(1.0 - 1e-3 * 0.1)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"name": "constant"}, [1.0] * 10),
        ({"name": "constant", "warmup_steps": 4}, [0.2, 0.4, 0.6, 0.8] + [1.0] * 6),
        ({"name": "linear", "final_fraction": 0.5}, [1 - 0.05 * s for s in range(10)]),
        ({"name": "cosine"}, [(1 + np.cos(np.pi * s / 10)) / 2 for s in range(10)]),
        (
            {"name": "cosine", "warmup_steps": 2},
            [1 / 3, 2 / 3] + [(1 + np.cos(np.pi * s / 8)) / 2 for s in range(8)],
        ),
        ({"name": "step", "step_epochs": 1, "gamma": 0.1}, [1.0] * 5 + [0.1] * 5),
        (
            {"name": "step", "step_epochs": 1, "gamma": 0.1, "warmup_steps": 1},
            [0.5] + [1.0] * 4 + [0.1] * 5,
        ),
    ],
)
def test_step_follows_its_schedule_before_and_after_load_state(
    section: dict[str, Any], expected: list[float]
) -> None:
    x, y_B = batch()
    train = {"lr_scheduler": section, "learning_rate": 1.0, "optimizer": {"name": "sgd"}}
    step, rates = make(Mlp(name="mlp", hidden=[4]), train), []
    for number in range(10):
        if number == 6:
            state = step.state()
            step = make(Mlp(name="mlp", hidden=[4]), train)
            step.load_state(state)
        rates.append(step.learning_rate)
        step(number, 24, x, y_B, all_shards(24, 1))
    assert rates == pytest.approx(expected, abs=1e-9)


def test_step_with_bf16_computes_mixed_and_keeps_fp32_weights() -> None:
    step = make(Mlp(name="mlp", hidden=[8]), {"precision": "bf16"})
    x, y_B = batch()
    plain = make(Mlp(name="mlp", hidden=[8]), {})
    outputs = step.forward(x)
    assert outputs.dtype == torch.float32
    assert not torch.equal(outputs, plain.forward(x))
    torch.testing.assert_close(outputs, plain.forward(x), rtol=0.05, atol=0.05)
    assert {p.dtype for p in step.network.parameters()} == {torch.float32}
    step(0, 24, x, y_B, all_shards(24, 1))


@pytest.mark.parametrize("num_shards", [1, 4])
def test_l1_penalty_counts_once_for_a_step(num_shards: int) -> None:
    x, y_B = batch()
    train: dict[str, Any] = {
        "optimizer": {"name": "sgd", "no_decay": ["1d"]},
        "learning_rate": 0.5,
        "logical_shards": num_shards,
    }
    plain, penalised = (make(Mlp(name="mlp", hidden=[8]), {**train, "l1": l1}) for l1 in (0.0, 0.1))
    first = weights(plain)
    losses = [
        step(0, len(x), x, y_B, all_shards(len(x), num_shards)) for step in (plain, penalised)
    ]
    # What is recorded is the loss of the rows.
    assert torch.equal(*losses)
    one, other = weights(plain), weights(penalised)
    for name, before in first.items():
        penalty = 0.5 * 0.1 * before.sign() if before.ndim == 2 else torch.zeros(before.shape)
        assert torch.allclose(one[name] - penalty, other[name], atol=1e-7), name


def test_frozen_layers_keep_their_bits() -> None:
    """Weights, and statistics of batch normalisation, through steps of several shards."""
    x, y_B = batch()
    section = Cnn(name="cnn", channels=[4], hidden=6, batch_norm=True, freeze=["0", "1"])
    step = make(section, {"logical_shards": 3})
    before = weights(step)
    for number in range(3):
        step(number, len(x), x, y_B, all_shards(len(x), 3))
    changed = {
        name for name, value in weights(step).items() if not torch.equal(value, before[name])
    }
    assert changed == {"body.5.weight", "body.5.bias", "body.7.weight", "body.7.bias"}
