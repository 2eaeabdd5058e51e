"""Draws a schedule of faults from a seed: what fails, when and where. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence

from raydc.errors import UsageError
from raydc.loop.fault_injection import DRAIN, DRIVER, NODE, RESIZE, RESTORED, STEP, WORKER, Fault

# Values of `--only`: the process that is killed, or the phase in which a worker is killed.
CHECKPOINT, RESTORE = "checkpoint", "restore"
CHOICES = (WORKER, CHECKPOINT, RESTORE, DRIVER, RESIZE, NODE, DRAIN)
# Places in the life of a checkpoint, see `FaultInjector.reached`.
_CHECKPOINT_PLACES = (
    *("copied", "wrote model.safetensors", "wrote optimizer.safetensors", "wrote MANIFEST.json"),
    *("moved", "pruning", "pruned"),
)


def draw(
    seed: int, num_faults: int, num_steps: int, choices: Sequence[str], most: int
) -> list[Fault]:
    """Draws a schedule.

    Args:
        seed: Decides everything that the other arguments leave open.
        num_faults: Number of faults; each choice comes once before any comes twice.
        num_steps: Steps of the run; faults fire from step 2 to the one before the last.
        choices: Some of CHOICES.
        most: Largest number of workers of a resize.

    Returns:
        Faults in the order of their steps, each in a step of its own. A kill during a restore
        comes with the kill before it.

    Raises:
        UsageError: There are more faults than steps.
    """
    # The first step has nothing to lose; after a fault in the last one no new step would follow.
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
    # At least one fault is late enough that its restart has a checkpoint to restore.
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
        # Only rank 0 writes checkpoints, so the fault keeps the default rank 0.
        return [Fault(name, WORKER, rng.choice(_CHECKPOINT_PLACES), step)]
    if choice == RESTORE:
        return [
            Fault(name, WORKER, STEP, step, rank),
            Fault(f"{name}-again", WORKER, RESTORED, 1, rank),
        ]
    if choice == RESIZE:
        return [Fault(name, RESIZE, STEP, step, rank, workers=rng.randint(1, max(1, most)))]
    if choice == DRAIN:
        # Rank 0's node: a stop is requested in the process of rank 0, so only that worker sees it.
        return [Fault(name, DRAIN, STEP, step)]
    return [Fault(name, choice, STEP, step, rank)]


def describe(fault: Fault, rank: int) -> str:
    """Describes a fault in a few words; `rank` is that of the worker in which it fired."""
    if fault.kind == WORKER:
        where = {STEP: f"in step {fault.step}", RESTORED: "while it restored"}.get(
            fault.place, f"at {fault.place!r}"
        )
        return f"worker {rank} killed {where}"
    if fault.kind == RESIZE:
        return f"driver killed in step {fault.step}, then {fault.workers} worker(s)"
    if fault.kind in (NODE, DRAIN):
        end = "drained" if fault.kind == DRAIN else "killed"
        return f"node of worker {rank} {end} in step {fault.step}"
    return f"{fault.kind} killed in step {fault.step}"
