"""A planned stop: every rank learns of it before the same step."""

from __future__ import annotations

import pickle
import queue
import threading
from collections.abc import Sequence

import pytest
import torch

from raydc.loop import planned_stop
from raydc.loop.group import World
from raydc.loop.planned_stop import PlannedStopError, StopAgreement


class QueueGroup:
    """Ranks in threads that broadcast through queues."""

    def __init__(self, rank: int, queues: list[queue.Queue[list[int]]]) -> None:
        self.world = World(rank, len(queues), torch.device("cpu"))
        self.num_broadcasts = 0
        self._queues = queues

    def broadcast(self, numbers: Sequence[int]) -> list[int]:
        self.num_broadcasts += 1
        if self.world.rank == 0:
            for receiver in self._queues:
                receiver.put(list(numbers))
        return self._queues[self.world.rank].get(timeout=30)


@pytest.mark.parametrize(
    ("world_size", "requested_at", "reason"), [(1, 0, "grow"), (3, 7, "drain"), (4, 40, "grow")]
)
def test_agreement_after_request_to_rank_0_stops_all_at_one_step(
    world_size: int, requested_at: int, reason: str
) -> None:
    queues: list[queue.Queue[list[int]]] = [queue.Queue() for _ in range(world_size)]
    stopped: dict[int, tuple[int, str]] = {}
    steps = dict.fromkeys(range(world_size), 0)

    def run(rank: int) -> None:
        # A request to another rank than 0 must not count.
        request = (
            (lambda: reason if steps[0] >= requested_at else None)
            if rank == 0
            else (lambda: "drain")
        )
        agreement = StopAgreement(QueueGroup(rank, queues), request)  # type: ignore[arg-type]
        for step in range(10_000):
            if (agreed := agreement.agreed_reason()) is not None:
                stopped[rank] = (step, agreed)
                return
            steps[rank] = step + 1

    threads = [
        threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(world_size)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(stopped) == world_size
    assert len(set(stopped.values())) == 1
    step, agreed = stopped[0]
    assert agreed == reason
    assert step >= requested_at


def test_agreement_with_short_steps_broadcasts_rarely() -> None:
    group = QueueGroup(0, [queue.Queue()])
    agreement = StopAgreement(group, lambda: None)  # type: ignore[arg-type]
    for _ in range(5000):
        assert agreement.agreed_reason() is None
    assert group.num_broadcasts < 100


def test_request_stop_sets_reason_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planned_stop, "_requested", None)
    assert planned_stop.requested_reason() is None
    planned_stop.request_stop(planned_stop.DRAIN)
    assert planned_stop.requested_reason() == "drain"


def test_planned_stop_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(PlannedStopError("drain", 12)))  # noqa: S301 - own bytes.
    text = "stopped as planned after step 12: drain"
    assert (error.reason, error.step, str(error)) == ("drain", 12, text)
