"""Clusters, workers and trials, and whether they can be placed, by trying all ways to do it."""

from __future__ import annotations

import random
from collections.abc import Mapping

KINDS = [{"CPU": 1.0}, {"CPU": 2.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 2.0}, {"CPU": 3.0}]
NEEDS = [{"CPU": 1.0}, {"CPU": 2.0}, {"CPU": 1.0, "GPU": 1.0}, {"CPU": 0.5, "GPU": 0.5}]


def place(
    needs: Mapping[str, float], free: list[dict[str, float]], num_processes: int, first: int = 0
) -> bool:
    """Whether some processes can be placed, by trying all nodes for each of them."""
    if num_processes == 0:
        return True
    for number in range(first, len(free)):
        node = free[number]
        if all(node.get(name, 0.0) >= amount for name, amount in needs.items()):
            for name, amount in needs.items():
                node[name] -= amount
            # Processes are alike, so that the next one need not try the nodes before.
            if place(needs, free, num_processes - 1, number):
                return True
            for name, amount in needs.items():
                node[name] += amount
    return False


def cases() -> list[tuple[list[dict[str, float]], dict[str, float], int, int]]:
    """30 cases of a cluster, the needs of a worker, the workers of a trial and trials."""
    generator = random.Random(14)
    drawn = [
        (
            [dict(generator.choice(KINDS)) for _ in range(generator.randint(1, 3))],
            generator.choice(NEEDS),
            generator.choice([1, 1, 2, 3]),
            generator.choice([1, 2, 3, 4]),
        )
        for _ in range(30)
    ]
    assert len({str(case) for case in drawn}) == 30
    return drawn
