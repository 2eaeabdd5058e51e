"""A model that answers requests: loaded, checked and swapped without a pause. Knows nothing of HTTP or Ray.

Shape suffixes: B rows, K outputs.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from raydc import bundle as bundles
from raydc.bundle import Bundle
from raydc.bundle.optimize import optimize
from raydc.errors import CheckpointError, RaydcError
from raydc.registry import Registry
from raydc.serve.protocol.interface import Interface, RequestError
from raydc.serve.replica import batch_size as batch_size_module
from raydc.serve.replica.admission import AdmissionQueue
from raydc.serve.replica.batch_size import BatchPlan
from raydc.serve.replica.batching import Batcher
from raydc.serve.replica.shadow import Predictions, ShadowRunner
from raydc.serve.settings import Settings, Traffic
from raydc.serve.tally import Tally
from raydc.storage import Storage

Array = npt.NDArray[Any]
Result = TypeVar("Result")

logger = logging.getLogger("ray.serve")

# Inputs are scaled; no row that a model was made for comes near. Sums of such ones may leave the range of float32.
_LARGE_INPUT = 1e6
# The clock that wakes may be a little ahead of the one that decides.
_RETIRE_AFTER_S = 0.1


@dataclass(frozen=True)
class LoadedVersion:
    """A version that has proved itself, with the limits that hold for its requests."""

    number: int
    settings: Settings
    bundle: Bundle
    source: dict[str, Any]
    """What the registry knows of where it came from."""
    interface: Interface
    batcher: Batcher

    @property
    def version(self) -> str:
        return str(self.number)


class Service:
    """Holds the versions that answer. A request keeps the one that it began with."""

    def __init__(self, now_s: Callable[[], float] = time.time) -> None:
        self.told: Settings | None = None
        self.settings: Settings | None = None
        self.loaded: dict[int, LoadedVersion] = {}
        self.refused: dict[int, str] = {}
        self.tallies: defaultdict[int, Tally] = defaultdict(Tally)
        self.shadow_runner = ShadowRunner()
        self._now_s = now_s
        self.admission = AdmissionQueue()
        self._configuring = asyncio.Lock()
        self._forward_thread = ThreadPoolExecutor(1, "forward")
        self._feature_threads = ThreadPoolExecutor(2, "features")

    # Versions ---------------------------------------------------------------------------------------------

    @property
    def current(self) -> LoadedVersion | None:
        """The version that answers whoever is not with the canary; None before there is one."""
        settings = self.settings
        return None if settings is None else self.loaded.get(settings.at(self._now_s()).version)

    @property
    def traffic(self) -> Traffic | None:
        """Who answers now; None before there is anybody."""
        return None if self.settings is None else self.settings.at(self._now_s())

    def choose(self, key: str) -> LoadedVersion | None:
        """The version for a request.

        Args:
            key: What the caller of the request is known by: requests of one key stay with one version.
        """
        settings = self.settings
        if settings is None:
            return None
        traffic = settings.at(self._now_s())
        if (
            traffic.canary is not None
            and traffic.canary.has(key)
            and traffic.canary.version in self.loaded
        ):
            return self.loaded[traffic.canary.version]
        return self.loaded.get(traffic.version)

    def find(self, version: str) -> LoadedVersion | None:
        """A version that is held, by its number as in a path: the stable one, a canary or a shadow."""
        settings = self.settings
        if settings is None or not version.isdecimal() or len(version) > 18:
            return None
        return (
            self.loaded.get(int(version))
            if int(version) in settings.at(self._now_s()).versions
            else None
        )

    async def configure(self, settings: Settings) -> None:
        """Loads versions beside those that answer, checks them, and changes over in one assignment.

        A version that does not load is noted in `refused`. Where the stable one is among those, what answered
        before goes on: Ray Serve stops a replica whose `reconfigure` raises.

        Raises:
            RaydcError: A stable version is not there or does not verify, and none answers yet.
        """
        async with self._configuring:
            await self._configure(settings)

    async def _configure(self, settings: Settings) -> None:
        loaded: dict[int, LoadedVersion] = {}
        refused: dict[int, str] = {}
        required = {settings.at(self._now_s()).version, settings.traffic.version}
        for version in settings.versions_at(self._now_s()):
            try:
                loaded[version] = await self._load(settings, version)
            except RaydcError as error:
                if version in required and self.settings is None:
                    raise
                logger.error("version %s of %s is refused: %s", version, settings.model, error)
                refused[version] = str(error)
        self.refused, self.told = refused, settings
        if required & refused.keys():
            return
        if self.settings is None or self.settings.traffic != settings.traffic:
            self.tallies = defaultdict(Tally)
            self.shadow_runner.reset()
        limits = settings.max_ongoing_requests, settings.max_queued_requests
        if self.settings is None or limits != (
            self.settings.max_ongoing_requests,
            self.settings.max_queued_requests,
        ):
            self.admission.resize(*limits)
        self.settings, self.loaded = settings, loaded
        if settings.since_s > self._now_s():
            asyncio.get_running_loop().call_later(
                settings.since_s - self._now_s() + _RETIRE_AFTER_S, self._retire
            )

    def _retire(self) -> None:
        """Lets go of versions that no request will be given any more; those in work keep theirs."""
        if self.settings is not None:
            kept = self.settings.versions_at(self._now_s())
            self.loaded = {version: one for version, one in self.loaded.items() if version in kept}

    async def _load(self, settings: Settings, version: int) -> LoadedVersion:
        """A version that has been warmed and checked."""
        known = self.loaded.get(version)
        if known is not None and known.settings.identity == settings.identity:
            if known.settings.batching == settings.batching:
                return replace(known, settings=settings)
            bundle, source = known.bundle, known.source
        else:
            bundle, source = await asyncio.to_thread(_checked, settings, version, _load)

        def measured(settings: Settings, _: int) -> BatchPlan:
            return batch_size_module.measure(bundle, settings.max_batch_size)

        runs_inline, batch_size = await asyncio.to_thread(_checked, settings, version, measured)
        executor = None if runs_inline else self._forward_thread
        batcher = Batcher(
            partial(_values, bundle), batch_size, settings.batch_wait_timeout_s, executor
        )
        return LoadedVersion(version, settings, bundle, source, _interface(bundle), batcher)

    def state(self) -> dict[str, Any]:
        """What this replica was told last, what holds, its versions, what it refused and why, how requests went."""
        return {
            "told": self.told.model_dump(mode="json") if self.told else None,
            "settings": self.settings.model_dump(mode="json") if self.settings else None,
            "loaded": sorted(self.loaded),
            "refused": self.refused,
            "tallies": {version: tally.to_dict() for version, tally in self.tallies.items()},
            "shadow": self.shadow_runner.counts(),
            "in_work": self.admission.num_in_work,
        }

    # Requests ---------------------------------------------------------------------------------------------

    async def compute(self, loaded: LoadedVersion, x: Array) -> Array:
        """What `Features.values` gives [B, K] for the inputs [B, *shape] of one request.

        Raises:
            RequestError: 500 when the model gives no finite numbers, 422 when the inputs explain it.
        """
        most = loaded.batcher.max_batch_size
        if len(x) <= most:
            values_BK = await loaded.batcher.submit(x)
        else:
            parts = (
                loaded.batcher.submit(x[start : start + most]) for start in range(0, len(x), most)
            )
            values_BK = np.concatenate(await asyncio.gather(*parts))
        if not math.isfinite(values_BK.sum()) and not np.isfinite(values_BK).all():
            row = int(np.argwhere(~np.isfinite(values_BK))[0, 0])
            if np.abs(x[row]).max() > _LARGE_INPUT:
                raise RequestError(
                    422, f"rows[{row}]: a number is so large that the model gives no finite number"
                )
            raise RequestError(500, f"rows[{row}]: the model gave a value that is no finite number")
        return values_BK

    def mirror(
        self,
        answered: LoadedVersion,
        key: str,
        inputs: Callable[[LoadedVersion], Array],
        values_BK: Array,
    ) -> None:
        """Copies a request that has been answered to the shadow, where there is one and the request is in its share.

        Args:
            answered: The version that answered.
            key: As of `choose`.
            inputs: Makes the inputs of a version's network from the request.
            values_BK: What `compute` gave.
        """
        settings = self.settings
        side = settings.at(self._now_s()).shadow if settings else None
        if settings is None or side is None or side.version == answered.number or not side.has(key):
            return
        shadow = self.loaded.get(side.version)
        if shadow is None:
            return
        most = shadow.batcher.max_batch_size

        def found() -> Predictions:
            x = inputs(shadow)
            parts = [
                _values(shadow.bundle, x[start : start + most]) for start in range(0, len(x), most)
            ]
            values_BK = np.concatenate(parts)
            if not np.isfinite(values_BK).all():
                raise ValueError("no finite number")
            return shadow.bundle.features.answers(values_BK)

        self.shadow_runner.submit(
            side.version, lambda: answered.bundle.features.answers(values_BK), found
        )

    async def work(self, function: Callable[[], Result]) -> Result:
        """Does what is too long for the event loop, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._feature_threads, function)


def _values(bundle: Bundle, x: Array) -> Array:
    """A forward pass, [B, *shape] to `Features.values` [B, K]: of all requests of a batch at once."""
    outputs_BK = bundle.forward(x)
    values_BK = bundle.features.values(outputs_BK)
    is_finite_BK = np.isfinite(outputs_BK)
    if not is_finite_BK.all():  # A probability may be finite although its output is not.
        values_BK[~is_finite_BK.all(axis=1)] = np.nan
    return values_BK


def _checked(settings: Settings, version: int, work: Callable[[Settings, int], Result]) -> Result:
    """Raises RaydcError only: a user's builder and network, a filesystem and a compiler may raise anything."""
    try:
        return work(settings, version)
    except RaydcError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"version {version} of {settings.model} does not work: {error!r}"
        ) from error


def _load(settings: Settings, version: int) -> tuple[Bundle, dict[str, Any]]:
    registry = Registry(Storage(settings.storage))
    bundle = bundles.load(
        registry.folder(settings.model, version), settings.device, settings.num_threads
    )
    bundle.check_golden()
    if settings.optimize == "auto":
        bundle = optimize(bundle)
    return bundle, registry.source(settings.model, version)


def _interface(bundle: Bundle) -> Interface:
    return Interface(bundle.features)
