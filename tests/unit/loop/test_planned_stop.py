"""A planned end: every rank hears of it before the same step."""

from __future__ import annotations

import pickle
import queue
import threading

import pytest

from raydc.loop import planned_stop
from raydc.loop.planned_stop import PlannedStopError, StopAgreement


class Mailbox:
    """Ranks that broadcast through queues."""

    def __init__(self, rank: int, boxes: list[queue.Queue[int]]) -> None:
        self.rank = rank
        self.world_size = len(boxes)
        self.num_broadcasts = 0
        self._boxes = boxes

    def broadcast(self, number: int) -> int:
        self.num_broadcasts += 1
        if self.rank == 0:
            for box in self._boxes:
                box.put(number)
        return self._boxes[self.rank].get(timeout=30)

    def sum_(self, flat: object) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    ("world_size", "asked_at", "reason"), [(1, 0, "grow"), (3, 7, "drain"), (4, 40, "grow")]
)
def test_all_ranks_end_before_the_same_step(world_size: int, asked_at: int, reason: str) -> None:
    boxes: list[queue.Queue[int]] = [queue.Queue() for _ in range(world_size)]
    ended: dict[int, tuple[int, str]] = {}
    steps = dict.fromkeys(range(world_size), 0)

    def run(rank: int) -> None:
        # Only rank 0 is asked; what another one is asked does not count.
        pending = (
            (lambda: reason if steps[0] >= asked_at else None) if rank == 0 else (lambda: "drain")
        )
        agreement = StopAgreement(Mailbox(rank, boxes), pending)
        for step in range(10_000):
            if (answer := agreement.reached()) is not None:
                ended[rank] = (step, answer)
                return
            steps[rank] = step + 1

    threads = [
        threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(world_size)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(ended) == world_size
    assert len(set(ended.values())) == 1
    step, answer = ended[0]
    assert answer == reason
    assert step >= asked_at


def test_looks_are_rare_where_steps_are_short() -> None:
    group = Mailbox(0, [queue.Queue()])
    agreement = StopAgreement(group, lambda: None)
    for _ in range(5000):
        assert agreement.reached() is None
    assert group.num_broadcasts < 100


def test_a_process_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planned_stop, "_asked", None)
    assert planned_stop.requested_reason() is None
    planned_stop.request_stop(planned_stop.DRAIN)
    assert planned_stop.requested_reason() == "drain"


def test_the_end_crosses_processes() -> None:
    left = pickle.loads(pickle.dumps(PlannedStopError("drain", 12)))  # noqa: S301 - own bytes.
    assert (left.reason, left.step, str(left)) == ("drain", 12, "left after step 12: drain")
