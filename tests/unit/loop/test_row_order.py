"""Rows of similar length in one step, as a function of (seed, epoch, step)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoder_folders import text_features, write_encoder, write_texts
from training import training_spec

from raydc import order
from raydc.data import prepared
from raydc.data.shards import open_rows
from raydc.errors import SpecError
from raydc.features import Signature
from raydc.features.record import bucket_length
from raydc.loop.assembly import assemble
from raydc.loop.group import Alone
from raydc.loop.row_order import POOL_STEPS, LengthGroups, RowOrder, check_groups
from raydc.loop.sampler import make_sampler
from raydc.models.pretrained_part import part_of
from raydc.spec import resolve
from raydc.spec.load import from_dict
from raydc.spec.sampling import Sampling
from raydc.storage import Storage

NUM_ROWS, BATCH = 1003, 8
LENGTHS = np.random.default_rng(0).geometric(0.05, NUM_ROWS).astype(np.int32)


def grouped(num_shards: int = 4, **values: Any) -> RowOrder:
    groups = LengthGroups(LENGTHS, num_shards)
    return RowOrder(7, NUM_ROWS, BATCH, groups=groups, **values)


def epoch_of(rows: RowOrder, epoch: int) -> list[order.Ids]:
    num_steps = order.num_steps(rows.rows_per_epoch, BATCH)
    return [ids for ids, _ in rows.steps(epoch, 0, num_steps)]


def test_each_row_occurs_once_in_an_epoch() -> None:
    rows = grouped()
    for epoch in range(3):
        steps = epoch_of(rows, epoch)
        assert [len(ids) for ids in steps] == [BATCH] * 125 + [3]
        assert sorted(np.concatenate(steps).tolist()) == list(range(NUM_ROWS))
    assert epoch_of(rows, 0)[0].tolist() != epoch_of(rows, 1)[0].tolist()


@pytest.mark.parametrize("start", [0, 1, 31, 49, 50, 51, 99, 120, 125])
def test_a_resume_at_any_step_has_the_same_rows(start: int) -> None:
    rows = grouped()
    expected = epoch_of(rows, 2)
    found = [ids for ids, _ in rows.steps(2, start, 126)]
    assert len(found) == 126 - start
    for step, ids in enumerate(found, start=start):
        np.testing.assert_array_equal(ids, expected[step])
        np.testing.assert_array_equal(rows.rows(2, step), expected[step])


def test_the_values_of_a_step_are_written_down() -> None:
    # A change of them changes the result of every run.
    assert grouped().rows(0, 0).tolist() == [678, 2, 144, 140, 755, 186, 11, 901]
    assert grouped().rows(3, 125).tolist() == [554, 695, 876]


def test_a_step_has_rows_of_similar_length_and_no_order_of_lengths() -> None:
    plain = RowOrder(7, NUM_ROWS, BATCH)

    def items(steps: list[order.Ids]) -> int:
        return sum(int(LENGTHS[ids].max()) * len(ids) for ids in steps)

    steps = epoch_of(grouped(), 0)
    # Every item is needed; without groups, more than half of what is computed is padding.
    assert items(epoch_of(plain, 0)) > 2.2 * LENGTHS.sum()
    assert items(steps) < 1.15 * LENGTHS.sum()
    means = np.array([LENGTHS[ids].mean() for ids in steps[:POOL_STEPS]])
    assert abs(np.corrcoef(means, np.arange(POOL_STEPS))[0, 1]) < 0.3


def test_a_pool_keeps_its_rows() -> None:
    plain, steps = RowOrder(7, NUM_ROWS, BATCH), epoch_of(grouped(), 0)
    for first in range(0, 126, POOL_STEPS):
        drawn = np.concatenate([ids for ids, _ in plain.steps(0, first, first + POOL_STEPS)][:50])
        dealt = np.concatenate(steps[first : first + POOL_STEPS])
        assert sorted(drawn.tolist()) == sorted(dealt.tolist())


def test_the_short_last_step_has_rows_of_any_length() -> None:
    rows = grouped()
    shortest = [int(LENGTHS[rows.rows(epoch, 125)].min()) for epoch in range(20)]
    assert min(shortest) < 5
    assert max(shortest) > 40


@pytest.mark.parametrize("num_shards", [1, 2, 3, 4, 7, 8])
def test_each_shard_has_neighbours_and_each_worker_as_much_as_the_others(num_shards: int) -> None:
    lengths = np.arange(1000, dtype=np.int32)
    rows = RowOrder(3, 1000, 64, groups=LengthGroups(lengths, num_shards))
    ids = rows.rows(0, 4)
    shards = [ids[part] for part in order.logical_shards(64, num_shards)]
    # The rows of a shard come one after the other in the step, sorted by length.
    ranked = {row: place for place, row in enumerate(sorted(ids.tolist()))}
    for shard in shards:
        places = [ranked[row] for row in shard.tolist()]
        assert places == list(range(places[0], places[0] + len(shard)))
    for world_size in range(2, num_shards + 1):
        if num_shards % world_size:
            continue
        sums = []
        for rank in range(world_size):
            mine = order.shards_of_rank(num_shards, rank, world_size)
            sums.append(np.concatenate([ids[:0], *(shards[shard] for shard in mine)]).mean())
        # Contiguous shards in ascending order would be half of all lengths apart.
        spread = float(np.ptp(ids))
        if world_size <= num_shards // 2:
            assert max(sums) - min(sums) <= 0.4 * spread, (world_size, sums)


def test_rows_that_are_drawn_by_class_keep_their_count() -> None:
    targets = (np.arange(NUM_ROWS) % 5 == 0).astype(np.int64)
    sampler = make_sampler(Sampling(name="balanced"), 7, 2, lambda: targets)
    assert sampler is not None
    rows = grouped(sampler=sampler)
    steps = epoch_of(rows, 1)
    counts = np.bincount(np.concatenate(steps), minlength=NUM_ROWS)
    np.testing.assert_array_equal(counts, sampler.occurrences(1))
    # A row that is drawn again has another key.
    keys = np.concatenate([keys for _, keys in rows.steps(1, 0, len(steps))])
    assert len(np.unique(keys)) == len(keys) == sampler.num_draws


@pytest.mark.parametrize("is_grouped", [False, True])
def test_a_shard_is_padded_to_its_longest_text(tmp_path: Path, is_grouped: bool) -> None:
    folder = write_encoder(tmp_path / "encoder")
    text = {"max_tokens": 30, "tokenizer": str(folder / "tokenizer.json")}
    spec = training_spec(
        str(tmp_path),
        train={"logical_shards": 3, "group_by_length": is_grouped},
        model={"name": "huggingface", "path": str(folder)},
        data={"features": {"columns": {"body": "text"}, "text": text}},
    )
    data = write_texts(Storage(str(tmp_path / "data")))
    parts = assemble(spec, prepared.load(data), Alone())
    widths: list[int] = []
    encoder = part_of(parts.network)
    encoder.register_forward_pre_hook(lambda _, given: widths.append(given[0]["body"].shape[1]))
    lengths = open_rows(data, "train").lengths
    for step, batch in enumerate(parts.feed.batches(0, 0, parts.feed.steps_per_epoch)):
        widths.clear()
        parts.step(step, len(batch.ids_G), batch.x, batch.y_B, batch.shards)
        longest = [int(lengths[batch.ids_G[rows]].max()) for _, rows in batch.shards]
        expected = [max(4, one) if is_grouped else bucket_length(one) for one in longest]
        assert widths == expected


def test_rows_of_one_length_are_refused() -> None:
    value = {"name": "a", "data": {"source": "a.csv", "target": "b"}, "model": {"name": "mlp"}}
    train = {"group_by_length": True}
    spec = resolve(from_dict({**value, "train": train}))
    vector = Signature("vector", (3,), "float32", (), (), "classification", ("a", "b"))
    with pytest.raises(SpecError, match=r"train\.group_by_length: it is for texts and lists"):
        check_groups(spec.train, vector)
    check_groups(spec.train, text_features().signature)
    check_groups(resolve(from_dict(value)).train, vector)
