"""Versions that a replica loads because a request names them: adapters of its base. In replicas."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import replace

from raydc import checksummed_folder
from raydc.errors import CheckpointError, RaydcError
from raydc.serve.protocol.interface import RequestError
from raydc.serve.replica.adapter_lookup import (
    AdapterLookup,
    Aside,
    InForce,
    check_adapter,
    has_base,
    keep_task,
    too_many,
)
from raydc.serve.replica.loaded_version import LoadedVersion, load_version
from raydc.serve.settings import Settings

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
        self._lookup = AdapterLookup(in_force)
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
        self._lookup.forget()
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
        if version not in self._loading and not self._lookup.knows(version):
            # What is no adapter takes no place of those that are.
            if not await self._is_adapter(version, aside):
                return None
            # Another request may have loaded it meanwhile.
            if (found := self.find(version)) is not None:
                return found
        if self._num_waiting >= _MOST_WAITING:
            raise too_many("too many requests wait for versions that are being loaded")
        task = self._loading.get(version)
        if task is None:
            if len(self._loading) >= _MOST_LOADING:
                raise too_many("too many versions are being loaded")
            task = asyncio.create_task(self._load(version))
            keep_task(self._loading, version, task)
        self._num_waiting += 1
        try:
            with aside():
                return await asyncio.shield(task)
        finally:
            self._num_waiting -= 1

    async def _is_adapter(self, version: int, aside: Aside) -> bool:
        try:
            return await self._lookup.find(version, aside)
        except RaydcError as error:
            _raise_passing(error)
            self._note_refusal(version, error)
            raise

    async def _load(self, version: int) -> LoadedVersion | None:
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
            _raise_passing(error)
            return error

    def _keep_outcome(
        self, settings: Settings, version: int, outcome: LoadedVersion | RaydcError | None
    ) -> LoadedVersion | None:
        if isinstance(outcome, RaydcError):
            self._note_refusal(version, outcome)
            raise outcome
        if outcome is not None:
            self._loaded[version] = outcome
            self._drop(settings.num_adapters)
        return outcome

    def _note_refusal(self, version: int, error: RaydcError) -> None:
        self._lookup.forget(version)
        self._refused[version] = self._now_s(), error.message
        while len(self._refused) > _MOST_REFUSED:
            self._refused.popitem(last=False)

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
        if version not in await self._lookup.versions(settings):
            return False
        return await asyncio.to_thread(has_base, settings, version, stable)

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
    if not check_adapter(settings, version, others[0]):
        return None
    return load_version(settings, version, None, executor, others)


def _raise_passing(error: RaydcError) -> None:
    """Raises the cause of an error that says nothing of the version: it may load the next time."""
    if isinstance(cause := error.__cause__, OSError) and not _is_fault_of_files(cause):
        raise cause from None


def _is_fault_of_files(error: OSError) -> bool:
    """Whether the storage answers, and has no such file."""
    return isinstance(error, FileNotFoundError) or checksummed_folder.is_damage(error)
