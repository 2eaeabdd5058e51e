"""Transforms of images by name and by import path: what they draw from, and what is refused."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from training import picture_features, training_spec
from transform_options import OFFERED, steps_of

from raydc import spec as specs
from raydc.cli.early_checks import check_early
from raydc.errors import SpecError, TrainError
from raydc.loop import augment, transforms
from raydc.loop.augment import Augmenter
from raydc.loop.row_draws import RowDraws, other_generators
from raydc.spec.augmentation import Augment

SHAPE = (3, 24, 20)
# They are not functions of random numbers.
FIXED = {"CenterCrop", "Grayscale", "Identity", "Pad", "RGB", "Resize"}
IDS = np.array([40, 3, 999, 0, 1_000_000_007, 5], dtype=np.int64)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As a worker with one CPU."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def pictures(num_rows: int = len(IDS)) -> augment.Pixels:
    return np.random.default_rng(0).integers(20, 200, (num_rows, *SHAPE)).astype(np.uint8)


def augmenter(steps: list[dict[str, dict[str, Any]]], seed: int = 7) -> Augmenter:
    return Augmenter(seed, 0, False, transforms.make_chain(steps))


@pytest.mark.parametrize("name", OFFERED)
def test_transform_depends_on_seed_epoch_and_row_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transforms, "_NUM_TRIALS", 3)
    change, x = augmenter(steps_of(name, SHAPE)), pictures()
    torch.manual_seed(1)
    before = other_generators()
    whole = change(5, IDS, x)
    assert other_generators() == before
    transforms.try_chain(transforms.make_chain(steps_of(name, SHAPE)), SHAPE)

    # Batch and order.
    for row in range(len(IDS)):
        assert np.array_equal(change(5, IDS[row : row + 1], x[row : row + 1])[0], whole[row])
    back = change(5, IDS[::-1].copy(), x[::-1].copy())
    assert np.array_equal(back[::-1], whole)
    # Another process: other generators, and a chain that is made anew.
    torch.manual_seed(2)
    random.seed(2)
    assert np.array_equal(augmenter(steps_of(name, SHAPE))(5, IDS, x), whole)
    # Seed, epoch and row do matter.
    others = [change(6, IDS, x), replace(change, seed=8)(5, IDS, x), change(5, IDS + 1, x)]
    if name not in FIXED:
        assert not any(np.array_equal(other, whole) for other in others)
    else:
        assert all(np.array_equal(other, whole) for other in others)


def test_threads_that_draw_at_the_same_time_do_not_disturb_each_other() -> None:
    steps = [*steps_of("RandAugment", SHAPE), *steps_of("RandomResizedCrop", SHAPE)]
    x, change = pictures(), augmenter(steps)
    expected = [change(epoch, IDS, x) for epoch in range(12)]
    found: dict[int, augment.Pixels] = {}
    are_ready = threading.Barrier(3)

    def work(epochs: range) -> None:
        are_ready.wait(60)
        for epoch in epochs:
            found[epoch] = change(epoch, IDS, x)

    threads = [threading.Thread(target=work, args=(range(part, 12, 2),)) for part in range(2)]
    for thread in threads:
        thread.start()
    are_ready.wait(60)
    # As a step does on a GPU, while the feed prepares the next batch.
    while any(thread.is_alive() for thread in threads):
        torch.manual_seed(0)
        torch.rand(8)
    assert all(np.array_equal(found[epoch], expected[epoch]) for epoch in range(12))


def test_crop_and_flip_give_the_bits_of_the_first_version() -> None:
    x = np.random.default_rng(0).integers(0, 256, (50, 3, 9, 7)).astype(np.uint8)
    changed = Augmenter(3, 2, True)(4, np.arange(1000, 1050), x)
    assert hashlib.sha256(changed.tobytes()).hexdigest() == PINNED


PINNED = "24b0cb03bb84ca6e6b1fddddbd68339f0f32a9bf003665cb32a25a1b81f8a9f4"


def test_transforms_come_after_crop_and_flip_in_their_order() -> None:
    x = pictures()
    plain = Augmenter(7, 2, True)(1, IDS, x)
    inverted = Augmenter(7, 2, True, transforms.make_chain([{"RandomInvert": {"p": 1.0}}]))
    assert np.array_equal(inverted(1, IDS, x), 255 - plain)
    steps: list[dict[str, dict[str, Any]]] = [
        {"RandomInvert": {"p": 1.0}},
        {"RandomSolarize": {"threshold": 100, "p": 1.0}},
    ]
    orders = [augmenter(some)(0, IDS, x) for some in (steps, steps[::-1])]
    assert not np.array_equal(*orders)


def test_transform_added_at_the_end_leaves_the_draws_of_those_before_it() -> None:
    x = pictures()
    short = augmenter([{"RandomRotation": {"degrees": 30}}])
    long = augmenter([{"RandomRotation": {"degrees": 30}}, {"RandomInvert": {"p": 1.0}}])
    assert np.array_equal(long(2, IDS, x), 255 - short(2, IDS, x))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([{"MixUp": {}}], "MixUp does not fit: it mixes rows; set data.augment.mixup"),
        ([{"Normalize": {"mean": [0.5]}}], "Normalize does not fit: images stay bytes"),
        ([{"ToTensor": {}}], "ToTensor does not fit: an image is a tensor of bytes already"),
        ([{"FiveCrop": {"size": 3}}], "FiveCrop does not fit: it makes several images of one"),
        ([{"Lambda": {}}], "name one of your own as my_package.my_module:function"),
        ([{"RandomRotate": {}}], "torchvision.transforms.v2 has no RandomRotate; did you mean"),
        ([{"Transform": {}}], "has no Transform"),
        ([{"functional": {}}], "has no functional"),
        ([{"ColorJitter": {"brightnes": 1}}], "has no option 'brightnes'; did you mean brightness"),
        ([{"Identity": {"p": 1}}], "Identity has no option 'p'; it takes none"),
        ([{"RandomRotation": {}}], "RandomRotation refuses its options: .*degrees"),
        ([{"RandomRotation": {"degrees": -1}}], "RandomRotation refuses its options: "),
        (
            [{"RandomAffine": {"degrees": 1, "interpolation": "best"}}],
            "'best' is not a valid I",
        ),
        ([{"RandomErasing": {"value": "random"}}], "is for images of floats; give a number"),
        ([{"RandomApply": {"transforms": [{"ToTensor": {}}]}}], "ToTensor does not fit"),
        ([{"RandomApply": {"transforms": ["a:b"]}}], "takes transforms of torchvision only"),
        ([{"RandomApply": {"transforms": [3]}}], "is a name with its options, not 3"),
        ([{"RandomApply": {}}], "RandomApply refuses its options: .*transforms"),
        ([{"no_such_module:f": {}}], "cannot import no_such_module"),
        ([{"own_transforms:nothing": {}}], "module own_transforms has no function nothing"),
        ([{"own_transforms:speckle": {"size": 1}}], "does not take an image, a generator"),
    ],
)
def test_transform_that_cannot_be_made_is_refused(steps: list[Any], message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        transforms.make_chain(steps)
    assert caught.value.problems[0].path == "data.augment.transforms"


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            [{"RandomCrop": {"size": 4}}],
            r"the last transform returns 4x4 pixels for 24x20\. .*\[24, 20\]",
        ),
        ([{"RandomResize": {"min_size": 4, "max_size": 30}}], "the last transform returns "),
        ([{"Grayscale": {}}], r"Grayscale gives 1 channel\(s\), not 3"),
        (
            [{"RandomCrop": {"size": 40}}],
            "RandomCrop fails on an image of 24x20 pixels: V",
        ),
        ([{"own_transforms:as_floats": {}}], "gives an image of torch.float32, not of bytes"),
        ([{"own_transforms:as_array": {}}], "gives a ndarray, not an image"),
        ([{"own_transforms:flat": {}}], r"gives a tensor of 2 dimensions, not \[C, H, W\]"),
        ([{"own_transforms:broken": {}}], "broken fails on an image .*: ZeroDivisionError: "),
        ([{"own_transforms:of_python": {}}], "of_python draws from Python's random; draw from the"),
        ([{"own_transforms:of_numpy": {}}], "of_numpy draws from NumPy; draw from the torch.Gen"),
        ([{"own_transforms:hidden": {}}], "hidden draws from torch's global generator; draw from"),
        ([{"own_transforms:of_system": {}}], "gives different results for the same image and ran"),
        ([{"own_transforms:counts": {}}], "gives different results for the same image and random"),
    ],
)
def test_transform_that_does_not_fit_the_rows_is_refused(steps: list[Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        transforms.try_chain(transforms.make_chain(steps), SHAPE)


@pytest.mark.parametrize("name", ["speckle", "speckle_global", "weighted"])
def test_own_transform_follows_from_its_generator(name: str) -> None:
    steps: list[dict[str, dict[str, Any]]] = [{f"own_transforms:{name}": {"amount": 40}}]
    transforms.try_chain(transforms.make_chain(steps), SHAPE)
    x, change = pictures(), augmenter(steps)
    whole = change(0, IDS, x)
    assert not np.array_equal(whole, x)
    torch.manual_seed(99)
    picked = np.array([4, 1])
    assert np.array_equal(change(0, IDS[picked], x[picked]), whole[picked])


def test_thread_that_draws_beside_a_check_is_not_taken_for_a_transform(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = iter(range(10_000))

    def disturbed() -> dict[str, Any]:
        # Between two looks of the first repeat only.
        if next(calls) % 6 == 1:
            random.random()
        return other_generators()

    monkeypatch.setattr(transforms, "other_generators", disturbed)
    transforms.try_chain(transforms.make_chain([{"RandomInvert": {}}]), SHAPE)


def test_result_that_does_not_fit_ends_a_step_with_the_name() -> None:
    change = augmenter([{"RandomResize": {"min_size": 4, "max_size": 30}}])
    with pytest.raises(TrainError, match=r"data\.augment\.transforms: the last transform returns"):
        change(0, IDS, pictures())


def test_draws_of_a_row_are_those_of_a_generator_with_its_key() -> None:
    calls: list[Callable[[], Tensor]] = [
        lambda: torch.rand(3),
        lambda: torch.randn_like(torch.zeros(2)),
        lambda: torch.empty(4).uniform_(1, 2),
        lambda: torch.randperm(9),
        lambda: torch.bernoulli(torch.full((9,), 0.5)),
        lambda: torch.distributions.Beta(torch.tensor([0.3]), torch.tensor([2.0])).sample(),
    ]
    with RowDraws() as draws:
        draws.start_row(11)
        given = [call() for call in calls]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        expected = [call() for call in calls]
    assert all(torch.equal(a, b) for a, b in zip(given, expected, strict=True))
    own = torch.Generator().manual_seed(5)
    with RowDraws():
        assert torch.equal(
            torch.rand(3, generator=own), torch.rand(3, generator=own.manual_seed(5))
        )


def test_section_takes_short_forms_and_refuses_others() -> None:
    given: Any = ["AutoAugment", {"RandomInvert": None}, {"RandomRotation": {"degrees": 3}}]
    full = [{"AutoAugment": {}}, {"RandomInvert": {}}, {"RandomRotation": {"degrees": 3}}]
    assert Augment(transforms=given).transforms == full
    for wrong, message in (
        ([], "at least 1 item"),
        ([{"A": {}, "B": {}}], "one name with its options, not A, B"),
        ([{"A": {"p": None}}], "A: p is null; leave it out"),
        ([3], "valid dictionary"),
    ):
        with pytest.raises(ValueError, match=message):
            Augment(transforms=wrong)  # type: ignore[arg-type]


def test_validate_refuses_a_transform_before_there_is_data(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("x,label\n1,a\n2,b\n")

    def check(features: dict[str, Any], *steps: Any) -> None:
        data = {"source": str(tmp_path / "rows.csv"), "augment": {"transforms": [*steps]}}
        check_early(training_spec(str(tmp_path), data={**data, "features": features}))

    check({}, {"RandomRotation": {"degrees": 15}}, "RandAugment")
    # Whether it fits is known as soon as the size is.
    check({}, {"RandomCrop": {"size": 8}})
    with pytest.raises(
        SpecError, match=r"data\.augment\.transforms: the last transform returns 8x8 pixels"
    ):
        check({"image_size": [32, 32], "image_channels": 3}, {"RandomCrop": {"size": 8}})
    with pytest.raises(SpecError, match=r"data\.augment\.transforms: .* has no option 'degree'"):
        check({}, {"RandomRotation": {"degree": 15}})


def test_check_augment_tries_the_transforms_on_the_shape_of_the_rows() -> None:
    signature = picture_features().signature
    section = Augment(transforms=[{"RandomRotation": {"degrees": 15}}])
    augment.check_augment(section, signature, 0)
    made = augment.make_augmenter(section, signature, 0)
    assert made is not None
    assert made.chain is not None
    assert [name for name, _ in made.chain.steps] == ["RandomRotation"]
    with pytest.raises(SpecError, match="returns 4x4 pixels for 8x8"):
        augment.check_augment(Augment(transforms=[{"Resize": {"size": [4, 4]}}]), signature, 0)


def test_spec_with_transforms_is_stored_and_read_again() -> None:
    steps = [{"ColorJitter": {"hue": [0.1, 0.2]}}, "RandomInvert"]
    spec = training_spec("store", data={"augment": {"transforms": steps}})
    stored = specs.resolve(specs.from_dict(specs.to_dict(spec)))
    assert stored.data == spec.data
    assert specs.to_dict(stored) == specs.to_dict(spec)
