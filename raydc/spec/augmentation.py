"""Section `data.augment` of a spec: random changes of training rows. Pure."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from raydc.spec.base import Positive, Section


def _steps(value: Any) -> Any:
    """Expands `- Name` and `- Name:` to `- Name: {}`."""
    if not isinstance(value, list):
        return value
    return [_step(item) for item in value]


def _step(item: Any) -> Any:
    if isinstance(item, str):
        return {item: {}}
    if not isinstance(item, dict):
        return item
    if len(item) != 1:
        names = ", ".join(map(str, item)) or "none"
        raise ValueError(f"each item of transforms has one name with its options, not {names}")
    (name, options), *_ = item.items()
    for option in options if isinstance(options, dict) else ():
        # A stored spec has no null, so the option would silently become its default.
        if options[option] is None:
            raise ValueError(f"{name}: {option} is null; leave it out for its default")
    return {name: {} if options is None else options}


# One mapping for each transform: its name to its options.
Transforms = Annotated[
    list[dict[str, dict[str, Any]]], BeforeValidator(_steps), Field(min_length=1)
]


class Augment(Section):
    """Random changes of training rows in each epoch; never in validation or serving."""

    crop_padding: int = Field(
        0,
        ge=0,
        description="Black pixels added on each side before a random crop to the original size.",
    )
    horizontal_flip: bool = Field(False, description="Mirror half of the images, left to right.")
    transforms: Transforms | None = Field(
        None,
        description="Further changes, in this order: a list of `Name: {option: value}`. A name is "
        "that of a class of torchvision.transforms.v2, which maps an image of bytes to another, or "
        "`my_package.my_module:function`, called with the image (uint8 [C, H, W]), a "
        "torch.Generator and the options. The last one gives the size that the first one took.",
    )
    mixup: Positive | None = Field(
        None,
        description="Each row is the weighted mean of itself and another of its logical shard, and "
        "so is its loss. The weight of a shard is drawn from Beta(mixup, mixup): 0.2 is usual, 1 "
        "mixes more. For images and for columns of numbers.",
    )
    cutmix: Positive | None = Field(
        None,
        description="Each image has a rectangle of another of its logical shard, and its loss the "
        "same share of the other's target. The share is drawn from Beta(cutmix, cutmix), usually "
        "with 1. With `mixup` too, each shard of a step draws one of them.",
    )

    @property
    def mixes(self) -> bool:
        """Whether the rows of a logical shard are mixed with each other."""
        return self.mixup is not None or self.cutmix is not None
