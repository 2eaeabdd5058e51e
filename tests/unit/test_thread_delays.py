"""Delays of threads: each place where threads race gets some, and does what it did before."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from thread_delays import ThreadDelays

_NUM_TIMES = 40


@pytest.fixture
def delays() -> Iterator[ThreadDelays]:
    def sleep(seconds: float) -> None:
        assert 0.0 <= seconds <= 0.03

    patch = pytest.MonkeyPatch()
    found = ThreadDelays(0, sleep)
    found.install(patch)
    yield found
    patch.undo()


def start_thread(folder: Path) -> None:
    done: list[str] = []
    thread = threading.Thread(target=done.append, args=("done",))
    thread.start()
    thread.join()
    assert done == ["done"]


def submit_task(folder: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(divmod, 7, 2).result() == (3, 1)


def tell_loop(folder: Path) -> None:
    async def main() -> int:
        loop, told = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(told.set_result, 5))
        thread.start()
        return await told  # type: ignore[no-any-return]

    assert asyncio.run(main()) == 5


def rename_in_thread(folder: Path) -> None:
    (folder / "from").write_text("x")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(os.replace, folder / "from", folder / "to").result()
    assert (folder / "to").read_text() == "x"


def wait_for_event(folder: Path) -> None:
    event = threading.Event()
    assert not event.wait(0.0)
    event.set()
    assert event.wait()


def get_from_queue(folder: Path) -> None:
    given: queue.Queue[int] = queue.Queue()
    given.put(3)
    assert given.get() == 3
    with pytest.raises(queue.Empty):
        given.get(block=False)


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("run", start_thread),
        ("submit", submit_task),
        ("call_soon_threadsafe", tell_loop),
        ("replace", rename_in_thread),
        ("wait", wait_for_event),
        ("get", get_from_queue),
    ],
)
def test_each_place_is_late_at_times_and_works_as_before(
    delays: ThreadDelays, tmp_path: Path, name: str, use: Callable[[Path], None]
) -> None:
    for _ in range(_NUM_TIMES):
        use(tmp_path)
    assert 0 < delays.counts[name] <= 3 * _NUM_TIMES


def test_main_thread_renames_without_a_delay(delays: ThreadDelays, tmp_path: Path) -> None:
    for number in range(_NUM_TIMES):
        (tmp_path / f"{number}").write_text("x")
        os.replace(tmp_path / f"{number}", tmp_path / "to")
    assert not delays.counts
