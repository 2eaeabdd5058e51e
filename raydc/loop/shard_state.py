"""What a logical shard starts from besides weights and buffers. Runs in each worker."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

import torch
from torch import nn


def seed_shard(seed: int, step: int, shard: int, device: torch.device) -> None:
    """Sets the random state for a logical shard, a function of three numbers.

    Args:
        seed: Seed of the run, any integer.
        step: Completed steps, so that each step draws different numbers.
        shard: Index of the logical shard, so that no two shards share random numbers.
        device: If it is a GPU, its random generator is set as well as that of the CPU.
    """
    digest = hashlib.blake2b(b"%d.%d.%d" % (seed, step, shard), digest_size=8).digest()
    # 63 bits, which a signed and an unsigned seed can both hold.
    key = int.from_bytes(digest, "little") >> 1
    torch.default_generator.manual_seed(key)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(key)


@contextlib.contextmanager
def running_statistics(network: nn.Module) -> Iterator[None]:
    """Batch normalisation uses the running statistics inside: one row has no variance."""
    modules = network.modules()
    norms = [m for m in modules if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()
