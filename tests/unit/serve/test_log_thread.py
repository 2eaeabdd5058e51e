"""The log thread runs jobs in order, drops what is too much, survives failures."""

from __future__ import annotations

import threading
from functools import partial

from request_records import WAIT_S

from raydc.serve.watch.log_thread import LogThread


def test_log_thread_runs_jobs_in_order() -> None:
    done: list[int] = []
    thread = LogThread()
    for number in range(1000):
        thread.submit(partial(done.append, number), num_requests=number % 3)
    thread.close()
    assert done == list(range(1000))
    assert thread.num_dropped == 0


def test_log_thread_drops_and_counts_jobs_over_its_limit() -> None:
    may_go_on = threading.Event()
    done: list[int] = []

    def slow(number: int) -> None:
        assert may_go_on.wait(WAIT_S)
        done.append(number)

    thread = LogThread(max_waiting_requests=10)
    for number in range(8):
        thread.submit(partial(slow, number), num_requests=3)
    thread.submit(partial(slow, 8))
    assert thread.num_dropped == 15
    may_go_on.set()
    thread.close()
    assert done == [0, 1, 2, 8], "a job for no request is never dropped"


def test_log_thread_survives_a_failing_job() -> None:
    done: list[int] = []
    thread = LogThread()
    thread.submit(partial(done.index, 5), num_requests=1)
    thread.submit(partial(done.append, 1), num_requests=1)
    thread.close()
    assert done == [1]
