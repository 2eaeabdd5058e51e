"""Reads what version an alias stands for in the registry. Runs in the replica.

A promote that was killed leaves an endpoint that answers with a version other than that of its
alias; the metadata of the model show both.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from raydc.errors import RaydcError
from raydc.registry import Registry
from raydc.serve.settings import Settings
from raydc.storage import Storage

# Metadata may be requested often, and each read costs a request of an object store.
_MAX_AGE_S = 5.0
_TIMEOUT_S = 2.0


class AliasReader:
    """Knows the version of an endpoint's alias, as of a few seconds ago."""

    def __init__(self) -> None:
        # A storage that hangs blocks this thread and nothing else.
        self._thread = ThreadPoolExecutor(1, "alias")
        self._pending: asyncio.Future[int | None] | None = None
        self._key: tuple[str, str, str] | None = None
        self._read_at_s = 0.0

    async def read_version(self, settings: Settings) -> int | None:
        """Version of the alias that these settings serve; None if the registry does not say."""
        key = settings.storage, settings.model, settings.alias
        age_s = time.monotonic() - self._read_at_s
        pending = self._pending
        if pending is None or key != self._key or (pending.done() and age_s > _MAX_AGE_S):
            self._key, self._read_at_s = key, time.monotonic()
            pending = asyncio.wrap_future(self._thread.submit(_read, *key))
            self._pending = pending
        done, _ = await asyncio.wait({pending}, timeout=_TIMEOUT_S)
        return pending.result() if done else None


def _read(storage: str, model: str, alias: str) -> int | None:
    try:
        return Registry(Storage(storage)).aliases(model).get(alias)
    except (RaydcError, OSError):
        return None
