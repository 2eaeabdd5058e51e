"""Versions that a replica loads because a request names them: adapters of its base. In replicas."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from raydc import checksummed_folder
from raydc.bundle import shared_base
from raydc.errors import CheckpointError, RaydcError
from raydc.registry import Registry
from raydc.serve.protocol.interface import RequestError
from raydc.serve.replica.loaded_version import LoadedVersion, load_version
from raydc.serve.settings import Settings
from raydc.storage import Storage

_AGAIN = {"retry-after": "1"}
_MOST_REFUSED = 256
# Whoever has mended the storage should not have to change an endpoint before it looks again.
_REFUSED_S = 60.0
# Each waits for those before it.
_MOST_LOADING = 64
# Their bodies have been read, and each takes memory.
_MOST_WAITING = 256
# Settings do not change as often as that while one version is loaded.
_MOST_TRIES = 4

InForce = Callable[[], tuple[Settings, LoadedVersion] | None]
Aside = Callable[[], AbstractContextManager[object]]


class LoadedAdapters:
    """The adapters that were used last. Belongs to one event loop.

    Args:
        in_force: Returns the settings in force, and the stable version; None before there is one.
        executor: Runs forward passes.
        now_s: Returns seconds of a clock that never goes back.
    """

    def __init__(
        self, in_force: InForce, executor: Executor, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._in_force = in_force
        self._executor = executor
        self._now_s = now_s
        # The one that was used last stands at the end.
        self._loaded: OrderedDict[int, LoadedVersion] = OrderedDict()
        # When and why versions were not loaded: nobody should make a replica try it all the time.
        self._refused: OrderedDict[int, tuple[float, str]] = OrderedDict()
        self._loading: dict[int, asyncio.Task[LoadedVersion | None]] = {}
        self._num_waiting = 0
        # One at a time: each reads files and computes golden prompts.
        self._turn = asyncio.Lock()

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

    async def load(self, version: int, aside: Aside = nullcontext) -> LoadedVersion | None:
        """Waits for a version that is loaded once for all requests that want it.

        A request that is given up does not end the work: where loading takes longer than a request
        may, the next one finds the version. It does not wait for a change of versions, and what has
        changed by its end is seen.

        Args:
            version: Number of the version in the registry.
            aside: Makes a context in which the request holds no place of others.

        Returns:
            The version, in place of the one that was used least if there are too many; None if the
            registry does not have it.

        Raises:
            RequestError: 429 if too many others are being loaded, or too many requests wait.
            RaydcError: It does not verify, or has another base than the stable version.
            OSError: The storage does not answer.
        """
        self._raise_refusal(version)
        if self._num_waiting >= _MOST_WAITING:
            raise _too_many("too many requests wait for versions that are being loaded")
        task = self._loading.get(version)
        if task is None:
            if len(self._loading) >= _MOST_LOADING:
                raise _too_many("too many versions are being loaded")
            task = self._loading[version] = asyncio.create_task(self._load(version))
            task.add_done_callback(lambda done: self._end_loading(version, done))
        self._num_waiting += 1
        try:
            with aside():
                return await asyncio.shield(task)
        finally:
            self._num_waiting -= 1

    def _end_loading(self, version: int, task: asyncio.Task[LoadedVersion | None]) -> None:
        del self._loading[version]
        # Otherwise asyncio would complain of an error that nobody waited for.
        if not task.cancelled():
            task.exception()

    async def _load(self, version: int) -> LoadedVersion | None:
        known = self._in_force()
        # Who asks for what is not there waits for no load of others.
        if known is None or not await asyncio.to_thread(_has_version, known[0], version):
            return None
        async with self._turn:
            for _ in range(_MOST_TRIES):
                before = self._in_force()
                if before is None or not before[0].num_adapters:
                    return None
                settings, stable = before
                if version == stable.number:
                    return stable
                outcome = await self._try(settings, version, stable)
                now = self._in_force()
                if now is None or now[0] is not settings or now[1] is not stable:
                    # Another base may be the shared one by now.
                    continue
                return self._keep_outcome(settings, version, outcome)
        raise RequestError(503, "the versions of this endpoint change; try again", _AGAIN)

    async def _try(
        self, settings: Settings, version: int, stable: LoadedVersion
    ) -> LoadedVersion | RaydcError | None:
        self._raise_refusal(version)
        others = [stable, *self.loaded]
        try:
            return await asyncio.to_thread(load_adapter, settings, version, others, self._executor)
        except RaydcError as error:
            # That says nothing of the version, which may be loaded the next time.
            if isinstance(cause := error.__cause__, OSError) and not _is_fault_of_files(cause):
                raise cause from None
            return error

    def _keep_outcome(
        self, settings: Settings, version: int, outcome: LoadedVersion | RaydcError | None
    ) -> LoadedVersion | None:
        if isinstance(outcome, RaydcError):
            self._refused[version] = self._now_s(), outcome.message
            while len(self._refused) > _MOST_REFUSED:
                self._refused.popitem(last=False)
            raise outcome
        if outcome is not None:
            self._loaded[version] = outcome
            self._drop(settings.num_adapters)
        return outcome

    def _raise_refusal(self, version: int) -> None:
        since_s, message = self._refused.get(version, (0.0, ""))
        if not message:
            return
        if self._now_s() - since_s < _REFUSED_S:
            raise CheckpointError(message)
        del self._refused[version]

    async def is_loadable(self, version: int) -> bool:
        """Whether a request may name a version, which is not loaded for that.

        Args:
            version: Number of the version in the registry.

        Raises:
            RaydcError: It was refused a moment ago, or its folder does not verify.
            OSError: The storage does not answer.
        """
        now = self._in_force()
        if now is None or not now[0].num_adapters:
            return False
        self._raise_refusal(version)
        settings, stable = now
        return await asyncio.to_thread(has_adapter, settings, version, stable)

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
    if not _has_version(settings, version):
        return None
    if not has_adapter(settings, version, others[0]):
        raise CheckpointError(
            f"version {version} of {settings.model} has no adapters of the base of version "
            f"{others[0].version}, which is loaded"
        )
    return load_version(settings, version, None, executor, others)


def has_adapter(settings: Settings, version: int, stable: LoadedVersion) -> bool:
    """Whether the registry has a version with the base of a loaded one; reads two small files.

    Args:
        settings: Settings of the replica.
        version: Number of the version in the registry.
        stable: The loaded one.

    Raises:
        RaydcError: Its folder does not verify.
    """
    if not _has_version(settings, version):
        return False
    folder = _registry(settings).folder(settings.model, version)
    where = stable.bundle.device, stable.bundle.num_threads
    return shared_base.find_base(folder, [stable.bundle], *where) is not None


def _has_version(settings: Settings, version: int) -> bool:
    return version in _registry(settings).versions(settings.model)


def _is_fault_of_files(error: OSError) -> bool:
    """Whether the storage answers, and has no such file."""
    return isinstance(error, FileNotFoundError) or checksummed_folder.is_damage(error)


def _registry(settings: Settings) -> Registry:
    return Registry(Storage(settings.storage))


def _too_many(reason: str) -> RequestError:
    return RequestError(429, f"{reason}; try again", _AGAIN)
