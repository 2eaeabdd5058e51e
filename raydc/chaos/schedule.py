"""What goes wrong, when and where, from a seed. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence

from raydc.errors import UsageError
from raydc.loop.fault_injection import DRAIN, DRIVER, NODE, RESIZE, RESTORED, STEP, WORKER, Fault

# What `--only` may name: who is killed, or a worker at a place that is not a step.
CHECKPOINT, RESTORE = "checkpoint", "restore"
CHOICES = (WORKER, CHECKPOINT, RESTORE, DRIVER, RESIZE, NODE, DRAIN)
_PHASES = (
    *("copied", "wrote model.safetensors", "wrote optimizer.safetensors", "wrote MANIFEST.json"),
    *("moved", "pruning", "pruned"),
)


def draw(
    seed: int, num_faults: int, num_steps: int, choices: Sequence[str], most: int
) -> list[Fault]:
    """A schedule.

    Args:
        seed: Decides everything that is left open.
        num_faults: How many; each of the choices comes before any comes twice.
        num_steps: Of the run.
        choices: Of CHOICES.
        most: Workers that a resize may ask for.

    Returns:
        Faults in the order of their steps, no two in the same. A kill while restoring follows another kill.

    Raises:
        UsageError: More faults than steps to break between.
    """
    # Not in the first step, which has nothing to lose, and nothing is left to break after the last but one.
    steps, late = range(2, num_steps), range(num_steps // 2, num_steps)
    if num_faults > len(late):
        raise UsageError(
            f"{num_faults} kills do not fit into {num_steps} steps",
            "Give more --steps or fewer --kills.",
        )
    rng = random.Random(seed)
    kinds: list[str] = []
    while len(kinds) < num_faults:
        kinds += rng.sample(choices, len(choices))
    # One is late enough that a restart has something to restore.
    last = rng.choice(late)
    others = rng.sample([step for step in steps if step != last], num_faults - 1)
    at = sorted([last, *others])
    pairs = zip(kinds, at, strict=False)
    return [
        fault
        for number, (kind, step) in enumerate(pairs)
        for fault in _faults(str(number), kind, step, rng, most)
    ]


def _faults(name: str, choice: str, step: int, rng: random.Random, most: int) -> list[Fault]:
    rank = rng.randrange(max(1, most))
    if choice == CHECKPOINT:
        return [Fault(name, WORKER, rng.choice(_PHASES), step)]  # Rank 0 writes.
    if choice == RESTORE:
        return [
            Fault(name, WORKER, STEP, step, rank),
            Fault(f"{name}-again", WORKER, RESTORED, 1, rank),
        ]
    if choice == RESIZE:
        return [Fault(name, RESIZE, STEP, step, rank, workers=rng.randint(1, max(1, most)))]
    if choice == DRAIN:
        return [Fault(name, DRAIN, STEP, step)]  # Rank 0 is who is told.
    return [Fault(name, choice, STEP, step, rank)]


def describe(fault: Fault, rank: int) -> str:
    """What a fault does, in a few words."""
    if fault.kind == WORKER:
        where = {STEP: f"in step {fault.step}", RESTORED: "while it restored"}.get(
            fault.place, f"at {fault.place!r}"
        )
        return f"worker {rank} killed {where}"
    if fault.kind == RESIZE:
        return f"driver killed in step {fault.step}, then {fault.workers} worker(s)"
    if fault.kind in (NODE, DRAIN):
        return f"node of worker {rank} {'drained' if fault.kind == DRAIN else 'killed'} in step {fault.step}"
    return f"{fault.kind} killed in step {fault.step}"
