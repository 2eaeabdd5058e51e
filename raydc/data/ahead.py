"""Items that a thread makes before they are wanted. In the driver."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

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
