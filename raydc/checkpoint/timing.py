"""How long a run waits for storage and for peer memory. Pure; used by rank 0 and at a restart."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Pauses and timeouts around checkpoints. Tests shorten them, nothing else changes them.

    Attributes:
        retry_pauses_s: Pauses between the attempts to read or write storage. Their sum is a minute,
            so an outage of the storage of a minute costs neither a run nor a checkpoint.
        min_interval_s: Shortest interval between two checkpoints that `auto` chooses.
        arrival_timeout_s: Longest time that a step waits for the copy before to arrive.
        finish_timeout_s: Longest wait for the last checkpoint, at the end of the run.
        exit_timeout_s: Longest wait for a checkpoint on its way when the run fails.
        stop_timeout_s: Longest time to make the state safe before a planned stop. Less than the
            timeout of a collective operation (120 s), in which the other ranks wait for rank 0.
        memory_every_s: Minimum time between two states that go to peer memory. If steps are faster,
            this and `memory_late_s`, not a number of steps, limit what a failure loses.
        memory_late_s: How long a state may be on its way to peer memory before a step waits.
        memory_pause_s: How long peer memory that has refused a state is left alone.
    """

    retry_pauses_s: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
    min_interval_s: float = 5.0
    arrival_timeout_s: float = 60.0
    finish_timeout_s: float = 600.0
    exit_timeout_s: float = 10.0
    stop_timeout_s: float = 60.0
    memory_every_s: float = 0.25
    memory_late_s: float = 0.05
    memory_pause_s: float = 30.0
