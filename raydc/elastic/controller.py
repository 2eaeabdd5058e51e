"""The controller of Ray Train and its group of workers, with what an elastic run needs. Runs in the controller actor."""

from __future__ import annotations

import asyncio
from typing import Any

import ray

from raydc.elastic.scaling_policy import POLL_EVERY_S
from raydc.engine import internals


class ElasticWorkerGroup(internals.WorkerGroup):  # type: ignore[misc]
    """Workers that are ended at once: what they leave behind is complete at every moment, so none needs a grace."""

    def _start(self) -> None:
        """A worker that dies while the group starts costs another start, wherever in it that was.

        Ray gives up the run for most of these deaths, and for all but the first it keeps the resources of the group.
        """
        try:
            super()._start()
        except Exception as error:
            if self.has_started():
                self.shutdown()
            if isinstance(error, ray.exceptions.RayActorError | ray.exceptions.RayTaskError):
                raise internals.WorkerGroupStartupFailedError(
                    f"a worker died at its start: {error}"
                ) from error
            raise

    def shutdown(self) -> None:
        """Ray waits five seconds for each group in which a worker does not answer."""
        for worker in self.get_workers():
            ray.kill(worker.actor)
        super().shutdown()


class ElasticController(internals.TrainController):  # type: ignore[misc]
    """Ray Train's, which tells `Scaling` what runs, and does not spin while it waits."""

    worker_group_cls = ElasticWorkerGroup
    _before: Any = None

    async def _step(self) -> Any:
        state = self.get_state()
        waiting = (
            internals.InitializingState,
            internals.RestartingState,
            internals.ReschedulingState,
        )
        if isinstance(state, waiting) and state is self._before:
            await asyncio.sleep(POLL_EVERY_S)
        self._before = state
        return await super()._step()

    def _start_worker_group(self, num_workers: int, resources_per_worker: dict[str, float]) -> None:
        try:
            super()._start_worker_group(num_workers, resources_per_worker)
        except internals.WorkerGroupStartupTimeoutError:
            self._scaling_policy.no_room_for(num_workers)
            raise
        self._scaling_policy.group_is(self._worker_group.get_workers())

    def _shutdown_worker_group(self) -> None:
        super()._shutdown_worker_group()
        self._scaling_policy.group_is([])
