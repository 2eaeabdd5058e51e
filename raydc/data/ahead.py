"""Items that threads make before they are wanted. In the driver."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")
# One that is ready, and one in the making.
_NUM_AHEAD = 2
_END = object()


def make_ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items in the same order, made by a thread while the caller works on earlier ones.

    Reading, networks and compression release Python's lock, so that they use several CPUs.

    Args:
        items: What to go through. Its error is raised where its item would have come.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(1, "ahead") as thread:
        waiting = deque(thread.submit(next, iterator, _END) for _ in range(_NUM_AHEAD))
        try:
            while (item := waiting.popleft().result()) is not _END:
                waiting.append(thread.submit(next, iterator, _END))
                yield item  # type: ignore[misc]
        finally:
            # A caller that stops waits for the item in the making only.
            thread.shutdown(wait=False, cancel_futures=True)


def map_ahead(function: Callable[[S], T], items: Iterable[S], num_threads: int) -> Iterator[T]:
    """Results of a function in the order of its arguments, computed by several threads ahead.

    Args:
        function: Called in any of the threads, at the same time in several of them. Its error is
            raised where its result would have come.
        items: Arguments; only the caller's thread goes through them, as far as results are wanted.
            Their error is raised behind the results of those before it.
        num_threads: Threads; one more result than this is kept ahead of the caller.
    """
    iterator, failure = iter(items), None
    with ThreadPoolExecutor(num_threads, "ahead") as threads:
        waiting: deque[Future[T]] = deque()
        try:
            while True:
                try:
                    for item in islice(iterator, num_threads + 1 - len(waiting)):
                        waiting.append(threads.submit(function, item))
                except Exception as error:  # noqa: BLE001 - raised below, in its place.
                    # An iterator ends with its error.
                    failure = error
                if waiting:
                    yield waiting.popleft().result()
                elif failure is not None:
                    raise failure
                else:
                    return
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
