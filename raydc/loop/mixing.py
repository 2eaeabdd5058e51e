"""Mixup and cutmix: mixes each row of a logical shard with the row before it. In each worker.

Partners come from the same logical shard and the weight from (seed, step, shard), so the result is
the same whichever worker computes the shard. The order of the rows is random in each epoch, and so
are the partners.

Shape suffixes: B rows of a shard.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raydc.errors import Problem, SpecError
from raydc.features import Signature
from raydc.spec.augmentation import Augment


@dataclass(frozen=True)
class Mixed:
    """The mixed rows of a shard.

    Attributes:
        x: Mixed rows, [B, *shape].
        y_B: Target of each row before mixing.
        partner_y_B: Target of the row that each was mixed with.
        weight: Weight of `y_B`; `partner_y_B` has 1 - weight.
    """

    x: Tensor
    y_B: Tensor
    partner_y_B: Tensor
    weight: float


@dataclass(frozen=True)
class Mixer:
    """Mixes the rows of logical shards.

    Attributes:
        seed: Seed of the run.
        mixup: Alpha of mixup, the weighted mean of two rows (Zhang et al. 2018, arXiv 1710.09412);
            None for no mixup.
        cutmix: Alpha of cutmix, a rectangle of one image in the other (Yun et al. 2019, arXiv
            1905.04899); None for no cutmix. With both, each shard draws one of them.
    """

    seed: int
    mixup: float | None
    cutmix: float | None

    def __call__(self, step: int, shard: int, x: Tensor, y_B: Tensor) -> Mixed:
        """Mixes the rows of one shard.

        Args:
            step: Steps completed before this one.
            shard: Index of the logical shard.
            x: Rows of the shard, [B, *shape]. A single row stays as it is.
            y_B: Target of each row.
        """
        draws = _generator(self.seed, step, shard)
        kinds = [
            (mix, alpha)
            for mix, alpha in ((_average, self.mixup), (_paste, self.cutmix))
            if alpha is not None
        ]
        mix, alpha = kinds[int(draws.integers(2)) % len(kinds)]
        if len(x) == 1:
            return Mixed(x, y_B, y_B, 1.0)
        mixed, weight = mix(x, draws.beta(alpha, alpha), draws)
        return Mixed(mixed, y_B, y_B.roll(1, 0), weight)


def _generator(seed: int, step: int, shard: int) -> np.random.Generator:
    # The prefix `mix` keeps these numbers apart from those that a network draws for the shard.
    digest = hashlib.blake2b(b"mix.%d.%d.%d" % (seed, step, shard), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def _average(x: Tensor, weight: float, _: np.random.Generator) -> tuple[Tensor, float]:
    own = x.to(torch.float32)
    # Two products and a sum, each rounded: a fused form rounds differently at the end of a buffer.
    return own * weight + own.roll(1, 0) * (1.0 - weight), weight


def _paste(x: Tensor, weight: float, draws: np.random.Generator) -> tuple[Tensor, float]:
    height, width = x.shape[-2:]
    # The rectangle has the shape of the image and 1 - weight of its area, and is cut at the edges.
    half = 0.5 * math.sqrt(1.0 - weight)
    middle_y, middle_x = int(draws.integers(height)), int(draws.integers(width))
    top, bottom = max(middle_y - int(half * height), 0), min(middle_y + int(half * height), height)
    left, right = max(middle_x - int(half * width), 0), min(middle_x + int(half * width), width)
    mixed = x.clone()
    mixed[..., top:bottom, left:right] = x.roll(1, 0)[..., top:bottom, left:right]
    return mixed, 1.0 - (bottom - top) * (right - left) / (height * width)


def make_mixer(section: Augment | None, signature: Signature, seed: int) -> Mixer | None:
    """Makes what mixes the rows of a shard as `data.augment` asks for; None if it does not.

    Args:
        section: Section `data.augment` of a spec; None if it has none.
        signature: Kind of the rows: `cutmix` needs images, `mixup` images or vectors.
        seed: Seed of the run, from which weights and rectangles are drawn.

    Raises:
        SpecError: Rows of this kind cannot be mixed.
    """
    if section is None or not section.mixes:
        return None
    if section.cutmix is not None and signature.kind != "image":
        message = "it pastes parts of images, and the rows are not images; leave it out"
        raise SpecError([Problem("", "data.augment.cutmix", message)])
    if section.mixup is not None and signature.kind not in ("image", "vector"):
        message = "it averages numbers, and the rows also hold categories or lists; leave it out"
        raise SpecError([Problem("", "data.augment.mixup", message)])
    return Mixer(seed, section.mixup, section.cutmix)
