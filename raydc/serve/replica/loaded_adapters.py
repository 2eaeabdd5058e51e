"""Versions that a replica loads because a request names them: adapters of its base. In replicas."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

from raydc.bundle import shared_base
from raydc.errors import CheckpointError, RaydcError
from raydc.registry import Registry
from raydc.serve.protocol.interface import RequestError
from raydc.serve.replica.loaded_version import LoadedVersion, load_version
from raydc.serve.settings import Settings
from raydc.storage import Storage

_MOST_REFUSED = 256
# Each waits for those before it.
_MOST_LOADING = 64


class LoadedAdapters:
    """The adapters that were used last. Belongs to one event loop."""

    def __init__(self) -> None:
        # The one that was used last stands at the end.
        self._loaded: OrderedDict[int, LoadedVersion] = OrderedDict()
        # Why versions were not loaded: nobody should make a replica try it again and again.
        self._refused: OrderedDict[int, str] = OrderedDict()
        self._loading: dict[int, asyncio.Task[LoadedVersion | None]] = {}

    @property
    def loaded(self) -> list[LoadedVersion]:
        """All of them."""
        return list(self._loaded.values())

    def find(self, version: int) -> LoadedVersion | None:
        """Finds a version, which counts as used; None if it is not loaded."""
        found = self._loaded.get(version)
        if found is not None:
            self._loaded.move_to_end(version)
        return found

    def keep(self, settings: Settings, current: LoadedVersion | None) -> None:
        """Drops what a change of settings or of the stable version has made useless.

        Args:
            settings: The settings in force.
            current: The stable version.
        """
        self._refused.clear()
        shared = current.engine.loop if current is not None and current.engine else None
        for version, one in list(self._loaded.items()):
            if one.engine is None or one.engine.loop is not shared:
                del self._loaded[version]
            else:
                # Limits of requests may have changed.
                self._loaded[version] = replace(one, settings=settings)
        self._drop(settings.num_adapters)

    async def wait(
        self, version: int, load: Callable[[], Coroutine[Any, Any, LoadedVersion | None]]
    ) -> LoadedVersion | None:
        """Waits for a version that is loaded once for all requests that want it.

        A request that is given up does not end the work: where loading takes longer than a request
        may, the next one finds the version.

        Args:
            version: Number of the version in the registry.
            load: Loads it, if nobody has begun that.

        Raises:
            RequestError: 429 if too many others are being loaded.
        """
        task = self._loading.get(version)
        if task is None:
            if len(self._loading) >= _MOST_LOADING:
                message = "too many versions are being loaded; try again"
                raise RequestError(429, message, {"retry-after": "1"})
            task = self._loading[version] = asyncio.create_task(load())
            task.add_done_callback(lambda done: self._end_loading(version, done))
        return await asyncio.shield(task)

    def _end_loading(self, version: int, task: asyncio.Task[LoadedVersion | None]) -> None:
        del self._loading[version]
        # Otherwise asyncio would complain of an error that nobody waited for.
        if not task.cancelled():
            task.exception()

    async def load(
        self, settings: Settings, version: int, stable: LoadedVersion, executor: Executor
    ) -> LoadedVersion | None:
        """Loads a version, in place of the one that was used least if there are too many.

        Args:
            settings: Settings of the replica.
            version: Number of the version in the registry.
            stable: The stable version, whose base it must have.
            executor: Runs forward passes.

        Returns:
            The version; None if the registry does not have it.

        Raises:
            RaydcError: It does not verify, or has another base.
            OSError: The storage does not answer.
        """
        if version in self._refused:
            raise CheckpointError(self._refused[version])
        others = [stable, *self.loaded]
        try:
            found = await asyncio.to_thread(load_adapter, settings, version, others, executor)
        except RaydcError as error:
            # That says nothing of the version, which may be loaded the next time.
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from None
            self._refused[version] = error.message
            while len(self._refused) > _MOST_REFUSED:
                self._refused.popitem(last=False)
            raise
        if found is not None:
            self._loaded[version] = found
            self._drop(settings.num_adapters)
        return found

    def _drop(self, most: int) -> None:
        # Answers that have begun keep theirs.
        while len(self._loaded) > most:
            self._loaded.popitem(last=False)


def load_adapter(
    settings: Settings, version: int, others: Sequence[LoadedVersion], executor: Executor
) -> LoadedVersion | None:
    """Loads a version with the base of loaded ones; takes seconds, so it is called in a thread.

    Args:
        settings: Settings of the replica.
        version: Number of the version in the registry.
        others: Loaded versions; the first is the stable one, whose base it must have.
        executor: Runs forward passes.

    Returns:
        The version; None if the registry does not have it.

    Raises:
        RaydcError: It does not verify, or has another base.
    """
    registry = Registry(Storage(settings.storage))
    if version not in registry.versions(settings.model):
        return None
    folder, stable = registry.folder(settings.model, version), others[0]
    where = stable.bundle.device, stable.bundle.num_threads
    if shared_base.find_base(folder, [stable.bundle], *where) is None:
        raise CheckpointError(
            f"version {version} of {settings.model} has no adapters of the base of version "
            f"{stable.version}, which is loaded"
        )
    return load_version(settings, version, None, executor, others)
