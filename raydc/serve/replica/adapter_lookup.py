"""Which versions a request may name: adapters of the base that is loaded. Runs in replicas.

Anybody may name any number, so to look for one takes no place of those that are loaded, and one
look at the registry serves all requests that wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from raydc.bundle import shared_base
from raydc.errors import CheckpointError
from raydc.registry import Registry
from raydc.serve.protocol.interface import RequestError
from raydc.serve.replica.loaded_version import LoadedVersion
from raydc.serve.settings import Settings
from raydc.storage import Storage

# Their bodies have been read, and each takes memory.
_MOST_ASKING = 256
_AGAIN = {"retry-after": "1"}

InForce = Callable[[], tuple[Settings, LoadedVersion] | None]
Aside = Callable[[], AbstractContextManager[object]]


class AdapterLookup:
    """The adapters of the registry, as far as requests have named them. Belongs to one event loop.

    Args:
        in_force: Returns the settings in force, and the stable version; None before there is one.
    """

    def __init__(self, in_force: InForce) -> None:
        self._in_force = in_force
        self._known: set[int] = set()
        self._checking: dict[int, asyncio.Task[bool]] = {}
        self._num_asking = 0
        # The look into the registry that begins next.
        self._next_look: asyncio.Task[set[int]] | None = None
        self._looking = asyncio.Lock()

    def knows(self, version: int) -> bool:
        """Whether a version was an adapter when a request named it before; reads nothing."""
        return version in self._known

    def forget(self, version: int | None = None) -> None:
        """Drops what is known of a version; None drops all, because another base is loaded."""
        self._known = set() if version is None else self._known - {version}

    async def find(self, version: int, aside: Aside) -> bool:
        """Whether the registry has a version, with the base of the stable one.

        Args:
            version: Number of the version.
            aside: Makes a context in which the request holds no place of others.

        Raises:
            RequestError: 429 if too many requests wait for an answer.
            RaydcError: The version has another base, or does not verify.
            OSError: The storage does not answer.
        """
        if self._num_asking >= _MOST_ASKING:
            raise too_many("too many requests name versions that are looked for")
        self._num_asking += 1
        try:
            with aside():
                now = self._in_force()
                # Numbers that are made up end here, however many there are.
                if now is None or version not in await self.versions(now[0]):
                    return False
                task = self._checking.get(version)
                if task is None:
                    task = asyncio.create_task(self._check(version, *now))
                    keep_task(self._checking, version, task)
                return await asyncio.shield(task)
        finally:
            self._num_asking -= 1

    async def _check(self, version: int, settings: Settings, stable: LoadedVersion) -> bool:
        found = await asyncio.to_thread(check_adapter, settings, version, stable)
        now = self._in_force()
        if found and now is not None and now[1] is stable:
            self._known.add(version)
        return found

    async def versions(self, settings: Settings) -> set[int]:
        """The versions of the registry, by a look that has not begun before this call.

        Args:
            settings: Settings in force.

        Raises:
            OSError: The storage does not answer.
        """
        if self._next_look is None:
            self._next_look = asyncio.create_task(self._look(settings))
            self._next_look.add_done_callback(_retrieve)
        return await asyncio.shield(self._next_look)

    async def _look(self, settings: Settings) -> set[int]:
        async with self._looking:
            # Who asks from now on may name a version that this look does not see.
            self._next_look = None
            return set(await asyncio.to_thread(_registry(settings).versions, settings.model))


def check_adapter(settings: Settings, version: int, stable: LoadedVersion) -> bool:
    """Whether the registry has a version; refuses one with another base.

    Args:
        settings: Settings of the replica.
        version: Number of the version in the registry.
        stable: The loaded one, whose base it must have.

    Raises:
        RaydcError: It does not verify, or has another base.
    """
    if version not in _registry(settings).versions(settings.model):
        return False
    if version != stable.number and not has_base(settings, version, stable):
        raise CheckpointError(
            f"version {version} of {settings.model} has no adapters of the base of version "
            f"{stable.version}, which is loaded"
        )
    return True


def has_base(settings: Settings, version: int, stable: LoadedVersion) -> bool:
    """Whether a version of the registry has the base of a loaded one; reads two small files.

    Args:
        settings: Settings of the replica.
        version: Number of the version.
        stable: The loaded one.

    Raises:
        RaydcError: Its folder does not verify.
    """
    folder = _registry(settings).folder(settings.model, version)
    where = stable.bundle.device, stable.bundle.num_threads
    return shared_base.find_base(folder, [stable.bundle], *where) is not None


def keep_task(tasks: dict[int, asyncio.Task[Any]], version: int, task: asyncio.Task[Any]) -> None:
    """Keeps a task by its version until it is done.

    Args:
        tasks: Gets it.
        version: What it is about.
        task: The task.
    """

    def end(done: asyncio.Task[Any]) -> None:
        del tasks[version]
        _retrieve(done)

    tasks[version] = task
    task.add_done_callback(end)


def too_many(reason: str) -> RequestError:
    """The refusal of a request that would be one too many.

    Args:
        reason: What there is too much of.
    """
    return RequestError(429, f"{reason}; try again", _AGAIN)


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Takes an error that nobody may have waited for, of which asyncio would complain."""
    if not task.cancelled():
        task.exception()


def _registry(settings: Settings) -> Registry:
    return Registry(Storage(settings.storage))
