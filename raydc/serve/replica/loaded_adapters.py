"""Versions that a replica loads because a request names them: adapters of its base. In replicas."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Executor

from raydc.bundle import shared_base
from raydc.errors import CheckpointError, RaydcError
from raydc.registry import Registry
from raydc.serve.replica.loaded_version import LoadedVersion, load_version
from raydc.serve.settings import Settings
from raydc.storage import Storage

_MOST_REFUSED = 256


class LoadedAdapters:
    """The adapters that were used last. Belongs to one event loop."""

    def __init__(self) -> None:
        # The one that was used last stands at the end.
        self._loaded: OrderedDict[int, LoadedVersion] = OrderedDict()
        # Why versions were not loaded: nobody should make a replica try it again and again.
        self._refused: OrderedDict[int, str] = OrderedDict()

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
        self._drop(settings.num_adapters)

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
        """
        if version in self._refused:
            raise CheckpointError(self._refused[version])
        others = [stable, *self.loaded]
        try:
            found = await asyncio.to_thread(load_adapter, settings, version, others, executor)
        except RaydcError as error:
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
