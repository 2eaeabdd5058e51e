"""Augmentation of training images."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from records import FIELDS, make_rows, record_features
from training import (
    picture_features,
    step_records,
    training_spec,
    weights_hash,
    write_line,
    write_pictures,
)

from raydc.data.shards import open_rows
from raydc.errors import SpecError
from raydc.features import Field, Record
from raydc.loop import augment, worker
from raydc.loop.augment import Augmenter
from raydc.loop.feed import Feed
from raydc.loop.group import World
from raydc.loop.sampler import Sampler
from raydc.spec.augmentation import Augment
from raydc.storage import Storage
from raydc.tracking import events

BOTH = Augmenter(seed=3, crop_padding=2, horizontal_flip=True)
AUGMENT = {"crop_padding": 2, "horizontal_flip": True}


def images(num_rows: int, channels: int = 1, height: int = 4, width: int = 5) -> augment.Pixels:
    pixels = np.random.default_rng(0).integers(1, 256, (num_rows, channels, height, width))
    return pixels.astype(np.uint8)


def windows(image: augment.Pixels, padding: int) -> dict[bytes, tuple[int, int, bool]]:
    """All windows of a padded image and their mirror images, with their places."""
    height, width = image.shape[1:]
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    found = {}
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            window = padded[:, top : top + height, left : left + width]
            found[window.tobytes()] = (top, left, False)
            found[window[..., ::-1].tobytes()] = (top, left, True)
    return found


@pytest.mark.parametrize("channels", [1, 3])
def test_augmenter_draws_every_window_and_mirror_image_equally_often(channels: int) -> None:
    image = images(1, channels)[0]
    num_rows = 20_000
    x = np.broadcast_to(image, (num_rows, *image.shape))
    known = windows(image, 2)
    assert len(known) == 50
    counts = Counter(known[row.tobytes()] for row in BOTH(0, np.arange(num_rows), x))
    assert set(counts) == set(known.values())
    expected = num_rows / len(known)
    # Chi-squared with 49 degrees of freedom is below 94.6 in all but one of ten thousand cases.
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 94.6


def test_augmenter_depends_on_seed_epoch_and_row_not_on_the_batch() -> None:
    x, ids = images(64), np.arange(64)
    before = x.copy()
    whole = BOTH(5, ids, x)
    picked = np.array([40, 3, 17])
    assert np.array_equal(BOTH(5, ids[picked], x[picked]), whole[picked])
    assert np.array_equal(x, before)
    for other in (BOTH(6, ids, x), replace(BOTH, seed=4)(5, ids, x)):
        assert not np.array_equal(other, whole)
    assert np.array_equal(BOTH(0, ids[:0], x[:0]), x[:0])


def test_augmenter_with_one_change_makes_only_that_change() -> None:
    x, ids = images(32), np.arange(32)
    flipped = replace(BOTH, crop_padding=0)(0, ids, x)
    mirrored = (flipped == x[..., ::-1]).all(axis=(1, 2, 3))
    assert 5 < mirrored.sum() < 27
    assert np.array_equal(flipped[~mirrored], x[~mirrored])
    moved = replace(BOTH, horizontal_flip=False)(0, ids, x)
    assert all(not windows(image, 2)[row.tobytes()][2] for image, row in zip(x, moved, strict=True))


def test_feed_with_augmenter_gives_any_worker_the_same_images(tmp_path: Path) -> None:
    rows = open_rows(write_pictures(Storage(str(tmp_path))), "train")

    def seen(world_size: int, start: int = 0) -> list[torch.Tensor]:
        cpu = torch.device("cpu")
        worlds = [World(rank, world_size, cpu) for rank in range(world_size)]
        feeds = [Feed(rows, 5, 32, 4, world, BOTH) for world in worlds]
        steps = zip(*(feed.batches(1, start, 7) for feed in feeds), strict=True)
        return [torch.cat([batch.x for batch in batches]) for batches in steps]

    alone = seen(1)
    plain = next(iter(Feed(rows, 5, 32, 4, World(0, 1, torch.device("cpu"))).batches(1, 0, 7))).x
    assert not torch.equal(alone[0], plain)
    for others in (seen(2), seen(3), seen(4)):
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(alone, others, strict=True))
    assert all(
        torch.equal(mine, theirs) for mine, theirs in zip(alone[5:], seen(2, start=5), strict=True)
    )


def test_row_that_occurs_again_in_an_epoch_is_changed_in_another_way(tmp_path: Path) -> None:
    rows = open_rows(write_pictures(Storage(str(tmp_path))), "train")
    sizes = np.bincount(rows.targets)
    by_class = np.argsort(rows.targets, kind="stable")
    # Every row twice.
    twice = Sampler(5, by_class, sizes.tolist(), (2 * sizes).tolist())

    def seen(world_size: int) -> dict[int, list[bytes]]:
        found: dict[int, list[bytes]] = defaultdict(list)
        for rank in range(world_size):
            feed = Feed(rows, 5, 32, 4, World(rank, world_size, torch.device("cpu")), BOTH, twice)
            for step, batch in enumerate(feed.batches(1, 0, feed.steps_per_epoch)):
                for row, image in zip(feed.ids_of(1, step), batch.x.numpy(), strict=True):
                    found[int(row)].append(image.tobytes())
        return {row: sorted(images) for row, images in found.items()}

    alone = seen(1)
    assert {len(images) for images in alone.values()} == {2}
    # One in fifty draws the same window.
    assert sum(first != second for first, second in alone.values()) > 0.9 * len(rows)
    assert seen(3) == alone
    plain = BOTH(1, np.arange(len(rows)), rows.gather(np.arange(len(rows)))[0])
    assert all(plain[row].tobytes() in images for row, images in alone.items())


def test_fit_augments_training_rows_and_not_validation_rows(tmp_path: Path) -> None:
    data = write_pictures(Storage(str(tmp_path / "data")))
    records = {}
    for name, section in (
        ("plain", None),
        ("augmented", AUGMENT),
        ("switched_off", {"crop_padding": 0}),
    ):
        # With a rate of almost zero the weights stay as they are: losses compare the rows alone.
        train = {"epochs": 1, "learning_rate": 1e-30, "optimizer": {"name": "sgd"}}
        spec = training_spec(
            str(tmp_path), train=train, data={"augment": section} if section else {}
        )
        run = Storage(str(tmp_path / name))
        worker.fit(spec, run, data)
        epoch = next(record for record in events.read(run, "metrics") if record["kind"] == "epoch")
        losses = [record["loss"] for record in step_records(run)]
        records[name] = (losses, epoch["loss"], weights_hash(run, 7))
    assert records["plain"] == records["switched_off"]
    assert records["plain"][1:] == records["augmented"][1:]
    assert all(a != b for a, b in zip(records["plain"][0], records["augmented"][0], strict=True))


def test_images_of_a_record_are_changed_alike_and_other_fields_stay() -> None:
    steps = [{"RandomRotation": {"degrees": 30}}]
    photo = Field("array", "uint8", (1, 4, 4), mean=(90.0,), scale=(60.0,))
    signature = replace(record_features().signature, fields={**FIELDS, "depth": photo})
    section = Augment(crop_padding=1, horizontal_flip=True, transforms=steps)
    augment.check_augment(section, signature, 7)
    change = augment.make_augmenter(section, signature, 7)
    assert change is not None
    assert change.images == ("photo", "depth")
    rows, _ = make_rows(12, seed=0)
    pixels = np.asarray(rows.fields["photo"])
    rows = replace(rows, fields={**rows.fields, "depth": pixels})
    ids, before = np.arange(50, 62), pixels.copy()
    changed = change.change_rows(3, ids, rows)
    assert isinstance(changed, Record)
    alone = augment.make_augmenter(section, replace(signature, kind="image", shape=(1, 4, 4)), 7)
    assert alone is not None
    assert np.array_equal(changed.fields["photo"], alone.change_rows(3, ids, pixels))
    assert np.array_equal(changed.fields["photo"], changed.fields["depth"])
    assert not np.array_equal(changed.fields["photo"], before)
    assert np.array_equal(pixels, before)
    assert {name for name in rows.fields if changed.fields[name] is rows.fields[name]} == (
        set(rows.fields) - {"photo", "depth"}
    )
    assert changed.layout is rows.layout


def test_make_augmenter_for_rows_that_do_not_fit_is_refused(tmp_path: Path) -> None:
    section = Augment(crop_padding=2)
    spec = training_spec(str(tmp_path), data={"task": "regression", "augment": AUGMENT})
    with pytest.raises(
        SpecError, match=r"data.augment: it changes images, but the rows are vectors of 2 numbers"
    ):
        worker.fit(
            spec, Storage(str(tmp_path / "run")), write_line(Storage(str(tmp_path / "data")))
        )
    fields = {"city": Field("array", "uint8", (1,), num_codes=9)}
    record = replace(picture_features().signature, kind="record", shape=(), fields=fields)
    with pytest.raises(SpecError, match=r"it changes images, but the rows are records of city"):
        augment.make_augmenter(section, record, 0)
    signature = picture_features().signature
    assert augment.make_augmenter(section, signature, 0) == Augmenter(0, 2, False)
    assert augment.make_augmenter(None, signature, 0) is None
    with pytest.raises(SpecError, match="8 pixels is too large for images of 8x8; give at most 7"):
        augment.make_augmenter(Augment(crop_padding=8), signature, 0)
