"""Steps of a language model: the losses of all tokens over the number of all tokens."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from token_rows import DATA, END, LENGTH, MODEL, NUM_CODES, token_features, write_rows
from torch import Tensor
from training import step_records, training_spec

from raydc import models, order
from raydc.data import prepared
from raydc.data.shards import open_rows
from raydc.loop import worker
from raydc.loop.group import Alone
from raydc.loop.length import Length
from raydc.loop.step import Step
from raydc.models.losses import divisor_of, make_loss, plain_losses
from raydc.models.network_parts import Network
from raydc.models.row_tensors import RecordTensors
from raydc.models.scores import Scores
from raydc.spec.resolved import ResolvedTrain
from raydc.spec.sequence_models import Decoder
from raydc.storage import Storage
from raydc.tracking import events

SIGNATURE = token_features().signature
NUM_ROWS = 32


def make_rows() -> tuple[Tensor, Tensor]:
    """Rows of which some predict few tokens, and eight of one logical shard of four none."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, NUM_CODES, (NUM_ROWS, LENGTH + 1), generator=generator)
    counts = torch.randint(1, LENGTH + 1, (NUM_ROWS,), generator=generator)
    counts[8:16] = 0
    return rows, counts


def build() -> Network:
    return models.build(Decoder(**{**MODEL, "dropout": 0.0}), SIGNATURE, 0).train()


def gradients(network: Network) -> list[Tensor]:
    return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]


def step_on(network: Network, num_shards: int, has_tokens: bool = True) -> Tensor:
    """One step of plain descent on the rows; the gradients stay."""
    train = ResolvedTrain(
        logical_shards=num_shards,
        metric="perplexity",
        mode="min",
        optimizer={"name": "sgd"},
        learning_rate=0.1,
    )
    loss_sum = make_loss(None, SIGNATURE, lambda: np.empty(0, np.int64), torch.device("cpu"))
    divisor = divisor_of(SIGNATURE.task)
    step = Step(network, loss_sum, train, 0, Length(10, 5), Alone(), divisor=divisor)
    rows, counts = make_rows()
    counts = counts if has_tokens else torch.zeros_like(counts)
    shards = list(enumerate(order.logical_shards(NUM_ROWS, num_shards)))
    return step(0, NUM_ROWS, RecordTensors({"text": rows}), counts, shards)


def test_a_step_is_one_mean_over_tokens_whatever_the_shards() -> None:
    plain = build()
    rows, counts = make_rows()
    is_trained = torch.arange(LENGTH) < counts[:, None]
    # All in one pass, by what the mean of torch says.
    loss = plain({"text": rows})[is_trained].mean()
    loss.backward()
    for num_shards in (1, 4, 32):
        network = build()
        found = step_on(network, num_shards)
        assert float(found) == pytest.approx(loss.item(), rel=1e-5)
        for mine, expected in zip(gradients(network), gradients(plain), strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-7)


def test_a_step_with_nothing_to_learn_changes_nothing() -> None:
    network, before = build(), build()
    assert float(step_on(network, 4, has_tokens=False)) == 0.0
    for mine, expected in zip(network.parameters(), before.parameters(), strict=True):
        assert torch.equal(mine, expected)


def test_what_stands_behind_the_last_token_has_no_effect() -> None:
    losses = torch.tensor([[1.0, 2.0, math.inf], [4.0, math.nan, 5.0]], requires_grad=True)
    found = plain_losses("language_modelling", losses, torch.tensor([2, 1]))
    assert found.tolist() == [3.0, 4.0]
    found.sum().backward()
    assert losses.grad is not None
    assert losses.grad.tolist() == [[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]


def test_scores_are_means_over_tokens() -> None:
    scores = Scores(token_features(), None, 3)
    scores.update(torch.full((2, LENGTH), 2.0), torch.tensor([LENGTH, 2]), 0)
    scores.update(torch.full((1, LENGTH), 5.0), torch.tensor([1]), 1)
    loss = (2.0 * (LENGTH + 2) + 5.0) / (LENGTH + 3)
    found = scores.compute().values
    assert found == {"loss": pytest.approx(loss), "perplexity": pytest.approx(math.exp(loss))}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return write_rows(Storage(str(tmp_path_factory.mktemp("tokens"))))


def run_plainly(spec: Any, data: Storage) -> tuple[list[float], float]:
    """The same network in a loop of plain torch; returns the losses and the last perplexity."""
    network = models.build(spec.model, SIGNATURE, spec.seed).train()
    adam = torch.optim.AdamW(network.parameters(), lr=spec.train.learning_rate)
    rows, losses = open_rows(data, "train"), []
    per_epoch = order.num_steps(len(rows), spec.train.global_batch_size)
    for step in range(spec.train.epochs * per_epoch):
        ids = order.batch_rows(spec.seed, *divmod(step, per_epoch), len(rows), 32)
        loss, count = total_of(network, rows, ids)
        adam.zero_grad()
        (loss / count).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adam.step()
        losses.append(float(loss / count))
    held_out = open_rows(data, "validation")
    with torch.no_grad():
        loss, count = total_of(network.eval(), held_out, np.arange(len(held_out)))
    return losses, math.exp(float(loss) / count)


def total_of(network: Network, rows: Any, ids: Any) -> tuple[Tensor, int]:
    x, counts = rows.gather(ids)
    tokens = torch.from_numpy(x.fields["text"].astype(np.int64))
    found = network({"text": tokens})
    is_trained = torch.arange(LENGTH) < torch.from_numpy(counts)[:, None]
    return found[is_trained].sum(), int(counts.sum())


def test_a_run_has_the_losses_of_a_plain_loop(data: Storage, tmp_path: Path) -> None:
    train = {"epochs": 3, "learning_rate": 1e-2, "optimizer": "adamw", "gradient_clip_norm": 1.0}
    spec = training_spec("store", model={**MODEL, "dropout": 0.0}, data=DATA, train=train)
    run = Storage(str(tmp_path / "run"))
    worker.fit(spec, run, data)
    losses, perplexity = run_plainly(spec, data)
    found = [record["loss"] for record in step_records(run)]
    assert found[0] == pytest.approx(math.log(NUM_CODES), rel=0.02)
    assert found == pytest.approx(losses, rel=1e-3)
    last = [one for one in events.read(run, "metrics") if one["kind"] == "epoch"][-1]
    assert last["perplexity"] == pytest.approx(perplexity, rel=1e-3)
    # It has learnt something: guessing has the perplexity NUM_CODES.
    assert last["perplexity"] < 0.7 * NUM_CODES


def test_rows_hold_every_token_once(data: Storage) -> None:
    rows = open_rows(data, "validation")
    x, counts = rows.gather(np.arange(len(rows)))
    tokens = x.fields["text"]  # type: ignore[union-attr]
    assert tokens.dtype == np.uint8  # type: ignore[union-attr]
    assert (counts[:-1] == LENGTH).all()
    assert 0 < counts[-1] < LENGTH
    # The first of a row is the last of the one before.
    assert (tokens[1:, 0] == tokens[:-1, -1]).all()  # type: ignore[index]
    assert prepared.load(data).num_rows["validation"] == len(rows)
    assert (tokens == END).any()  # type: ignore[union-attr]
