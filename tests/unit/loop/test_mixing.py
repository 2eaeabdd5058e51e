"""Mixup and cutmix: partners, weights, losses, and what they depend on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from training import training_spec

from raydc import models
from raydc.errors import SpecError
from raydc.features import Record, Signature
from raydc.features.signature import Field
from raydc.features.table_layout import TableLayout
from raydc.loop import mixing
from raydc.loop.group import Alone
from raydc.loop.length import Length
from raydc.loop.mixing import Mixer
from raydc.loop.row_draws import other_generators
from raydc.loop.step import Step
from raydc.models.losses import make_loss
from raydc.models.row_tensors import RowTensors, to_tensors
from raydc.spec.augmentation import Augment

NUM_ROWS = 6
PICTURE = Signature("image", (1, 8, 8), "uint8", (70.0,), (90.0,), "classification", ("a", "b"))
TABLE = Signature("vector", (5,), "float32", (), (), "classification", ("a", "b"))
RECORD = Signature(
    "record",
    (),
    "",
    (),
    (),
    "classification",
    ("a", "b"),
    {"city": Field("array", "uint8", (1,), num_codes=9), "age": Field("array", "float32", (1,))},
)
PRICE = Signature("vector", (5,), "float32", (), (), "regression")


def pictures() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (NUM_ROWS, *PICTURE.shape)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


TARGETS = torch.tensor([0, 1, 1, 0, 1, 0])


def test_mixup_is_the_weighted_mean_of_a_row_and_the_one_before_it() -> None:
    x = pictures()
    mixed = Mixer(3, 0.4, None)(5, 2, x, TARGETS)
    partners = torch.cat([x[-1:], x[:-1]]).float()
    assert 0.0 < mixed.weight < 1.0
    assert torch.equal(mixed.x, x.float() * mixed.weight + partners * (1.0 - mixed.weight))
    assert mixed.partner_y_B.tolist() == [0, 0, 1, 1, 0, 1]
    assert torch.equal(mixed.y_B, TARGETS)


def test_cutmix_pastes_the_share_of_pixels_that_its_weight_says() -> None:
    # No two rows share a value, so that each pixel tells where it comes from.
    x = (pictures() // 8) * NUM_ROWS + torch.arange(NUM_ROWS, dtype=torch.uint8).reshape(
        -1, 1, 1, 1
    )
    before, seen = x.clone(), set()
    for shard in range(40):
        mixed = Mixer(3, None, 1.0)(0, shard, x, TARGETS)
        assert mixed.x.dtype == torch.uint8
        is_own = mixed.x % NUM_ROWS == torch.arange(NUM_ROWS).reshape(-1, 1, 1, 1)
        assert torch.equal(mixed.x, torch.where(is_own, x, x.roll(1, 0)))
        share = is_own.float().mean(dim=(1, 2, 3))
        assert share.tolist() == pytest.approx([mixed.weight] * NUM_ROWS, abs=1e-6)
        seen.add(mixed.weight)
    assert torch.equal(x, before)
    assert len(seen) > 5


def test_weights_follow_from_seed_step_and_shard_alone() -> None:
    x, mixer = pictures(), Mixer(3, 0.4, None)
    torch.manual_seed(1)
    np.random.seed(1)
    before = other_generators()
    first = mixer(5, 2, x, TARGETS)
    assert other_generators() == before
    torch.manual_seed(2)
    again = mixer(5, 2, x[:4], TARGETS[:4])
    assert again.weight == first.weight
    others = [
        mixer(6, 2, x, TARGETS),
        mixer(5, 3, x, TARGETS),
        Mixer(4, 0.4, None)(5, 2, x, TARGETS),
    ]
    assert first.weight not in [other.weight for other in others]


def test_mean_weight_and_spread_are_those_of_a_beta_distribution() -> None:
    x, alpha = pictures(), 0.4
    weights = [Mixer(0, alpha, None)(step, 0, x, TARGETS).weight for step in range(2000)]
    assert np.mean(weights) == pytest.approx(0.5, abs=0.03)
    assert np.var(weights) == pytest.approx(0.25 / (2 * alpha + 1), abs=0.01)


def test_with_both_each_shard_draws_one_of_them() -> None:
    x = pictures()
    kinds = [Mixer(0, 0.4, 1.0)(step, 0, x, TARGETS).x.dtype for step in range(60)]
    assert 15 < kinds.count(torch.uint8) < 45


def test_row_without_a_partner_stays_as_it_is() -> None:
    x = pictures()[:1]
    mixed = Mixer(0, 0.4, 1.0)(0, 0, x, TARGETS[:1])
    assert mixed.x is x
    assert mixed.weight == 1.0


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_loss_of_a_step_is_that_of_the_mixed_target(task: str) -> None:
    """Two losses equal one with a soft label; for squared errors up to a constant."""
    signature = PICTURE if task == "classification" else PRICE
    x = pictures() if task == "classification" else torch.randn(NUM_ROWS, *signature.shape)
    y_B = TARGETS if task == "classification" else torch.randn(NUM_ROWS)
    spec = training_spec("store", model={"name": "linear"}, data={"task": task})
    network = models.build(spec.model, signature, 0).train()
    mixer = Mixer(3, 0.4, None)
    loss_sum = make_loss(None, signature, lambda: np.zeros(1, np.int64), torch.device("cpu"))
    step = Step(network, loss_sum, spec.train, 0, Length(1, 1), Alone(), mixer)
    step._buffers.start_step()
    step._reduction.start_step()
    *_, loss = step.compute_shard(5, 2, NUM_ROWS, x, y_B)
    mixed = mixer(5, 2, x, y_B)
    outputs_BK = network(mixed.x).detach()
    if task == "classification":
        soft_BK = functional.one_hot(y_B, 2) * mixed.weight
        soft_BK = soft_BK + functional.one_hot(mixed.partner_y_B, 2) * (1.0 - mixed.weight)
        expected = functional.cross_entropy(outputs_BK, soft_BK, reduction="sum")
    else:
        middle_B = mixed.weight * y_B + (1.0 - mixed.weight) * mixed.partner_y_B
        constant_B = mixed.weight * (1.0 - mixed.weight) * (y_B - mixed.partner_y_B) ** 2
        expected = ((outputs_BK.squeeze(1) - middle_B) ** 2 + constant_B).sum()
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_columns_that_are_stored_as_codes_are_mixed_as_the_numbers_that_they_become() -> None:
    layout = TableLayout((0, 3, 0))
    stored = layout.store(
        [
            np.linspace(-1, 1, NUM_ROWS, dtype=np.float32)[:, None],
            np.array([0, 1, 2, 3, 1, 0], np.uint8),
            np.linspace(3, -2, NUM_ROWS, dtype=np.float32)[:, None],
        ]
    )
    rows = Record(stored, layout)
    mixer = Mixer(3, 0.4, None)
    of_stored, of_numbers = (_mixed_loss(to_tensors(x), mixer) for x in (rows, rows.expanded()))
    assert of_stored == of_numbers
    assert of_stored != _mixed_loss(to_tensors(rows), None)


def _mixed_loss(x: RowTensors, mixer: Mixer | None) -> float:
    network = models.build(training_spec("store", model={"name": "linear"}).model, TABLE, 0).train()
    loss_sum = make_loss(None, TABLE, lambda: np.zeros(1, np.int64), torch.device("cpu"))
    train = training_spec("store").train
    step = Step(network, loss_sum, train, 0, Length(1, 1), Alone(), mixer)
    step._buffers.start_step()
    step._reduction.start_step()
    *_, loss = step.compute_shard(5, 2, NUM_ROWS, x, TARGETS)
    return float(loss)


@pytest.mark.parametrize(
    ("section", "signature", "message"),
    [
        ({"cutmix": 1.0}, TABLE, "data.augment.cutmix: it pastes parts of images"),
        ({"mixup": 1.0, "horizontal_flip": True}, PICTURE, None),
        ({"mixup": 1.0}, TABLE, None),
        ({"mixup": 1.0}, RECORD, "data.augment.mixup: it averages numbers, and the rows also hold"),
        ({"cutmix": 1.0}, RECORD, "data.augment.cutmix: it pastes parts of images"),
    ],
)
def test_rows_that_cannot_be_mixed_are_refused(
    section: dict[str, Any], signature: Any, message: str | None
) -> None:
    if message is None:
        assert mixing.make_mixer(Augment(**section), signature, 0) == Mixer(0, 1.0, None)
        return
    with pytest.raises(SpecError, match=message):
        mixing.make_mixer(Augment(**section), signature, 0)


def test_shards_of_one_row_are_refused_before_there_is_data() -> None:
    with pytest.raises(SpecError, match=r"data\.augment\.cutmix: it mixes rows of one"):
        training_spec(
            "store",
            data={"augment": {"cutmix": 1.0}},
            train={"global_batch_size": 7, "logical_shards": 4},
        )
    training_spec(
        "store",
        data={"augment": {"cutmix": 1.0}},
        train={"global_batch_size": 8, "logical_shards": 4},
    )
