"""A model that answers requests: loaded, checked and swapped without a pause. Knows nothing of HTTP or Ray.

Shape suffixes: B rows, K outputs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from raydc import bundle as bundles
from raydc.bundle import Bundle
from raydc.errors import CheckpointError, RaydcError
from raydc.registry import Registry
from raydc.serve.batching import Batcher
from raydc.serve.settings import Settings
from raydc.serve.tensors import Interface, RequestError
from raydc.storage import Storage

Array = npt.NDArray[Any]
Result = TypeVar("Result")

logger = logging.getLogger("ray.serve")

# A forward pass that is shorter than this runs on the event loop: handing it to a thread costs about as much.
_INLINE_FORWARD_S = 0.001
_RETRY_AFTER_S = 1


@dataclass(frozen=True)
class Loaded:
    """A version that has proved itself, with the limits that hold for its requests."""

    settings: Settings
    bundle: Bundle
    interface: Interface
    batcher: Batcher
    slots: asyncio.Semaphore

    @property
    def version(self) -> str:
        return str(self.settings.version)


class Service:
    """Holds the version that answers. A request keeps the one that it began with."""

    def __init__(self) -> None:
        self.current: Loaded | None = None
        self.refused: dict[str, Any] | None = None
        self._num_waiting = 0
        self._forward_thread = ThreadPoolExecutor(1, "forward")
        self._feature_threads = ThreadPoolExecutor(2, "features")

    async def configure(self, settings: Settings) -> None:
        """Loads a version beside the one that answers, checks it, and changes over in one assignment.

        Where a version answers already, one that does not load is noted in `refused` and the old one stays:
        Ray Serve stops a replica whose `reconfigure` raises.

        Raises:
            RaydcError: There is no such version, or it does not verify, and none answers yet.
        """
        try:
            bundle, is_short = await asyncio.to_thread(self._load, settings)
        except RaydcError as error:
            if self.current is None:
                raise
            logger.error("version %s of %s is refused: %s", settings.version, settings.model, error)
            self.refused = {"settings": settings.model_dump(), "reason": str(error)}
            return
        self.refused = None
        self.current = Loaded(
            settings,
            bundle,
            _interface(bundle),
            Batcher(
                bundle.forward,
                settings.max_batch_size,
                settings.batch_wait_timeout_s,
                None if is_short else self._forward_thread,
            ),
            asyncio.Semaphore(settings.max_ongoing_requests),
        )

    def _load(self, settings: Settings) -> tuple[Bundle, bool]:
        """A bundle that has been warmed and checked, and whether its forward pass is short."""
        current = self.current
        if current is not None and current.settings.identity == settings.identity:
            bundle = current.bundle
        else:
            folder = Registry(Storage(settings.storage)).folder(settings.model, settings.version)
            bundle = _load_any(folder, settings)
            bundle.check_golden()
        return bundle, _is_short(bundle, settings.max_batch_size)

    def state(self) -> dict[str, Any]:
        """What answers, and what was refused last."""
        settings = self.current.settings.model_dump() if self.current else None
        return {"settings": settings, "refused": self.refused}

    @contextlib.asynccontextmanager
    async def admit(self, loaded: Loaded) -> AsyncIterator[None]:
        """Takes one of the places for requests in work, or waits for it.

        Raises:
            RequestError: 429 when as many wait already as may.
        """
        limit = loaded.settings.max_queued_requests
        if loaded.slots.locked() and 0 <= limit <= self._num_waiting:
            raise RequestError(
                429, f"{self._num_waiting} requests wait already; try again", {"retry-after": str(_RETRY_AFTER_S)}
            )
        self._num_waiting += 1
        try:
            await loaded.slots.acquire()
        finally:
            self._num_waiting -= 1
        try:
            yield
        finally:
            loaded.slots.release()

    async def predict(self, loaded: Loaded, inputs: Callable[[], Array], is_large: bool) -> list[dict[str, Any]]:
        """Answers for one request.

        Args:
            loaded: The version that the request began with.
            inputs: Makes the network's inputs [B, *shape] from the request; raises DataError or RequestError.
            is_large: The work around the forward pass is long enough to be kept off the event loop.

        Raises:
            RequestError: 500 when the model gives no finite numbers.
        """
        x = await self._work(inputs, is_large)
        outputs_BK = await loaded.batcher.submit(x)
        if not np.isfinite(outputs_BK).all():
            raise RequestError(500, "the model gave a value that is no finite number")
        return await self._work(lambda: loaded.bundle.features.decode(outputs_BK), is_large)

    async def _work(self, function: Callable[[], Result], is_large: bool) -> Result:
        if not is_large:
            return function()
        return await asyncio.get_running_loop().run_in_executor(self._feature_threads, function)


def _load_any(folder: Storage, settings: Settings) -> Bundle:
    try:
        return bundles.load(folder, settings.device, settings.num_threads)
    except RaydcError:
        raise
    except Exception as error:  # A user's builder may raise anything.
        raise CheckpointError(f"{folder.uri}: its model cannot be built: {error!r}") from error


def _interface(bundle: Bundle) -> Interface:
    kinds = {name: column.kind for name, column in bundle.features.columns.items()}
    return Interface(kinds, bundle.features.signature.classes)


def _is_short(bundle: Bundle, max_batch_size: int) -> bool:
    """Warms up, and says whether even the largest batch takes less than `_INLINE_FORWARD_S`."""
    signature = bundle.features.signature
    for num_rows in (1, max_batch_size):
        x = np.zeros((num_rows, *signature.shape), dtype=signature.dtype)
        bundle.forward(x)
        if min(_forward_s(bundle, x) for _ in range(3)) > _INLINE_FORWARD_S:
            return False
    return True


def _forward_s(bundle: Bundle, x: Array) -> float:
    started = time.perf_counter()
    bundle.forward(x)
    return time.perf_counter() - started
