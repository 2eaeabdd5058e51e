"""The model service of a replica: holds versions, swaps them without a pause, computes requests.

Knows nothing of HTTP or Ray. Shape suffixes: B rows, K outputs.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np

from raydc.errors import RaydcError
from raydc.features import Inputs
from raydc.features.record import largest_value
from raydc.serve.protocol.interface import RequestError
from raydc.serve.replica.adapter_lookup import Aside
from raydc.serve.replica.admission import AdmissionQueue
from raydc.serve.replica.batching import Batcher
from raydc.serve.replica.loaded_adapters import LoadedAdapters
from raydc.serve.replica.loaded_version import (
    Array,
    LoadedVersion,
    Result,
    compute_values,
    load_version,
)
from raydc.serve.replica.shadow import Predictions, ShadowRunner
from raydc.serve.replica.splitting import compute_alone
from raydc.serve.settings import Settings, Traffic
from raydc.serve.tally import Tally

logger = logging.getLogger("ray.serve")

# Inputs are scaled, so no row like those of the training comes near. Sums of larger ones may leave
# the range of float32, which explains a result that is not finite.
_LARGE_INPUT = 1e6
# `call_later` uses the monotonic clock, which may run ahead of the Unix time that decides.
_UNLOAD_DELAY_S = 0.1


class Service:
    """Holds the versions of one model. Belongs to one event loop.

    A request keeps the version that it started with, even if another one takes over meanwhile.

    Args:
        now_s: Returns the Unix time in seconds, by which versions change over.
        unload_delay_s: How long an old version stays after another one has taken over.

    Attributes:
        declared: The newest settings, whether in force or refused.
        settings: The settings in force; None before the first version is loaded.
        loaded: Loaded versions by number.
        refused: Versions of `declared` that did not load, with the reason.
        tallies: Requests by version since the traffic last changed.
        shadow_runner: Computes copies of requests.
        admission: Limits how many requests are inside.
        adapters: Versions that were loaded because a request named them.
    """

    def __init__(
        self,
        now_s: Callable[[], float] = time.time,
        unload_delay_s: float = _UNLOAD_DELAY_S,
    ) -> None:
        self.declared: Settings | None = None
        self.settings: Settings | None = None
        self.loaded: dict[int, LoadedVersion] = {}
        self.refused: dict[int, str] = {}
        self.tallies: defaultdict[int, Tally] = defaultdict(Tally)
        self.shadow_runner = ShadowRunner()
        self.admission = AdmissionQueue()
        self._now_s = now_s
        self._unload_delay_s = unload_delay_s
        self._configuring = asyncio.Lock()
        # One thread: forward passes of several would share the same cores.
        self._forward_thread = ThreadPoolExecutor(1, "forward")
        self.adapters = LoadedAdapters(self._in_force, self._forward_thread)
        self._feature_threads = ThreadPoolExecutor(2, "features")
        self._long_thread = ThreadPoolExecutor(1, "large-images")

    @property
    def current(self) -> LoadedVersion | None:
        """The stable version; None before one is loaded."""
        settings = self.settings
        return None if settings is None else self.loaded.get(settings.at(self._now_s()).version)

    @property
    def traffic(self) -> Traffic | None:
        """The traffic in force now; None before a version is loaded."""
        return None if self.settings is None else self.settings.at(self._now_s())

    def choose(self, key: str) -> LoadedVersion | None:
        """Chooses the version for a request; None before one is loaded.

        Args:
            key: Identifies the caller: requests with the same key stay with one version.
        """
        traffic = self.traffic
        if traffic is None:
            return None
        canary = traffic.canary
        # A canary that did not load leaves its requests to the stable version.
        if canary is not None and canary.has(key) and canary.version in self.loaded:
            return self.loaded[canary.version]
        return self.loaded.get(traffic.version)

    def find(self, version: str) -> LoadedVersion | None:
        """Finds a version by its number as in a path; None if the traffic does not have it."""
        traffic = self.traffic
        # The length is limited because `int` of a long text takes seconds.
        if traffic is None or not version.isdecimal() or len(version) > 18:
            return None
        # Versions that are loaded ahead of a change do not answer yet.
        held = self.loaded.get(int(version)) if int(version) in traffic.versions else None
        return held or self.adapters.find(int(version))

    async def find_adapter(self, version: str, aside: Aside = nullcontext) -> LoadedVersion | None:
        """Finds a version as `find` does, or loads it beside the stable one, whose base it shares.

        Args:
            version: Its number as in a path.
            aside: Makes a context for the wait; see `LoadedAdapters.load`.

        Raises:
            RaydcError: The version does not verify, or is no adapter of that base.
            OSError: The storage does not answer.
            RequestError: 429 if too many versions are being loaded.
        """
        settings, found = self.settings, self.find(version)
        is_number = version.isdecimal() and len(version) <= 18
        if found is not None or settings is None or not settings.num_adapters or not is_number:
            return found
        return await self.adapters.load(int(version), aside)

    def _in_force(self) -> tuple[Settings, LoadedVersion] | None:
        settings, stable = self.settings, self.current
        return None if settings is None or stable is None else (settings, stable)

    async def configure(self, settings: Settings) -> None:
        """Loads new versions while the old ones answer, then changes over in one assignment.

        A version that does not load is noted in `refused`. If it is the stable one, the settings
        before stay in force: Ray Serve would stop a replica whose `reconfigure` raises.

        Args:
            settings: Settings to switch to; `since_s` says when their versions answer.

        Raises:
            RaydcError: The first stable version does not exist or does not verify.
        """
        # Two changes at once could finish in the wrong order.
        async with self._configuring:
            await self._configure(settings)

    async def _configure(self, settings: Settings) -> None:
        loaded: dict[int, LoadedVersion] = {}
        refused: dict[int, str] = {}
        required = {settings.at(self._now_s()).version, settings.traffic.version}
        for version in settings.versions_at(self._now_s()):
            known = self.loaded.get(version)
            try:
                others = [*loaded.values(), *self.loaded.values(), *self.adapters.loaded]
                loaded[version] = await asyncio.to_thread(
                    load_version, settings, version, known, self._forward_thread, others
                )
            except RaydcError as error:
                if version in required and self.settings is None:
                    raise
                logger.error("version %s of %s is refused: %s", version, settings.model, error)
                refused[version] = str(error)
        self.refused, self.declared = refused, settings
        if not required & refused.keys():
            self._change_over(settings, loaded)

    def _change_over(self, settings: Settings, loaded: dict[int, LoadedVersion]) -> None:
        before = self.settings
        # Counts of a canary compare versions under the same traffic only.
        if before is None or before.traffic != settings.traffic:
            self.tallies = defaultdict(Tally)
            self.shadow_runner.reset()
        # More answers of a language model than it has slots would only wait inside of it.
        slots = [one.engine.num_slots for one in loaded.values() if one.engine is not None]
        num_ongoing = min([settings.max_ongoing_requests, *slots])
        self.admission.resize(num_ongoing, settings.max_queued_requests)
        self.settings, self.loaded = settings, loaded
        self.adapters.keep(settings, self.current)
        wait_s = settings.since_s - self._now_s()
        if wait_s > 0:
            loop = asyncio.get_running_loop()
            loop.call_later(wait_s + self._unload_delay_s, self._unload_unused)

    def _unload_unused(self) -> None:
        """Drops versions that get no more requests; requests in progress keep theirs alive."""
        if self.settings is not None:
            kept = self.settings.versions_at(self._now_s())
            self.loaded = {version: one for version, one in self.loaded.items() if version in kept}
            self.adapters.keep(self.settings, self.current)

    @property
    def fault(self) -> str | None:
        """Why the stable version cannot answer any more; None while it can."""
        current = self.current
        return None if current is None or current.engine is None else current.engine.fault

    def state(self) -> dict[str, Any]:
        """Describes this replica: settings, versions, refusals with reasons, counts of requests."""
        return {
            "told": self.declared.model_dump(mode="json") if self.declared else None,
            "settings": self.settings.model_dump(mode="json") if self.settings else None,
            "loaded": sorted(self.loaded),
            "refused": self.refused,
            "tallies": {version: tally.to_dict() for version, tally in self.tallies.items()},
            "shadow": self.shadow_runner.counts(),
            "in_work": self.admission.num_in_work,
        }

    async def compute(self, loaded: LoadedVersion, x: Inputs) -> Array:
        """Computes one request.

        Args:
            loaded: Version that `choose` or `find` returned; its network computes.
            x: Inputs of its rows, [B, *shape].

        Returns:
            `Features.values` of its rows, [B, K].

        Raises:
            RequestError: The result is not finite: 422 if too large an input explains it, else 500.
        """
        values_BK = await self.compute_parts(loaded.batcher, x)
        # A sum is finite only if its terms are, and is cheaper than a test of each; a sum may
        # overflow, so a second look decides.
        if not math.isfinite(values_BK.sum()) and not np.isfinite(values_BK).all():
            row = int(np.argwhere(~np.isfinite(values_BK))[0, 0])
            if largest_value(x[row : row + 1]) > _LARGE_INPUT:
                raise RequestError(
                    422, f"rows[{row}]: a number is so large that the model's output is not finite"
                )
            raise RequestError(500, f"rows[{row}]: the model gave a value that is not finite")
        return values_BK

    async def compute_parts(self, batcher: Batcher, x: Inputs) -> Array:
        """Computes one request in parts, so that others get their turn between two passes.

        Args:
            batcher: Joins requests into forward passes.
            x: Inputs of its rows, [B, *shape].

        Returns:
            Outputs of its rows, [B, K].
        """
        most = batcher.max_batch_size
        if len(x) <= most:
            return await batcher.submit(x)
        parts = (batcher.submit(x[start : start + most]) for start in range(0, len(x), most))
        return np.concatenate(await asyncio.gather(*parts))

    def mirror(
        self,
        answered: LoadedVersion,
        key: str,
        make_inputs: Callable[[LoadedVersion], Inputs],
        values_BK: Array,
    ) -> None:
        """Copies an answered request to the shadow, if the request falls into its share.

        Args:
            answered: Version whose answer the client got.
            key: The caller, as in `choose`.
            make_inputs: Makes the inputs of a version's network from the request.
            values_BK: What `compute` returned for the answered request, [B, K].
        """
        traffic = self.traffic
        share = traffic.shadow if traffic is not None else None
        if share is None or share.version == answered.number or not share.has(key):
            return
        shadow = self.loaded.get(share.version)
        if shadow is None:
            return
        most = shadow.batcher.max_batch_size

        def predict_shadow() -> Predictions:
            x = make_inputs(shadow)
            # Not through the batcher: copies run in a thread of their own, behind all answers.
            parts = [
                compute_alone(
                    lambda part: compute_values(shadow.bundle, part),
                    x[start : start + most],
                    shadow.batcher.count_split,
                )
                for start in range(0, len(x), most)
            ]
            values_BK = np.concatenate(parts)
            if not np.isfinite(values_BK).all():
                raise ValueError("no finite number")
            return shadow.bundle.features.answers(values_BK)

        self.shadow_runner.submit(
            share.version, lambda: answered.bundle.features.answers(values_BK), predict_shadow
        )

    async def run_in_thread(self, function: Callable[[], Result]) -> Result:
        """Runs a function that takes too long for the event loop, such as decoding images."""
        return await asyncio.get_running_loop().run_in_executor(self._feature_threads, function)

    async def run_in_long_thread(self, function: Callable[[], Result]) -> Result:
        """Runs a function that may take seconds, behind others like it and before nothing else.

        One that waits is dropped at the deadline of its request.
        """
        return await asyncio.get_running_loop().run_in_executor(self._long_thread, function)
