"""Ray Train's controller and worker group for elastic runs. Runs in the controller actor."""

from __future__ import annotations

import asyncio
from typing import Any

import ray

from raydc.elastic.scaling_policy import POLL_EVERY_S
from raydc.engine import internals


class ElasticWorkerGroup(internals.WorkerGroup):  # type: ignore[misc]
    """Workers that are killed at once: their files are complete at every moment."""

    def _start(self) -> None:
        """Turns the death of a worker during the start into a failed start, which is repeated.

        Ray gives up the run after most of these deaths, and mostly keeps the group's resources too.
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
        """Kills the workers first: Ray waits five seconds if one of them does not respond."""
        for worker in self.get_workers():
            ray.kill(worker.actor)
        super().shutdown()


class ElasticController(internals.TrainController):  # type: ignore[misc]
    """Ray Train's controller, which also tells the scaling policy which workers run."""

    worker_group_cls = ElasticWorkerGroup
    _previous_state: Any = None

    async def request_stop(self, reason: str) -> bool:
        """Requests a planned stop of the workers; returns False if none of them trains."""
        return bool(self._scaling_policy.request_stop(reason))

    async def _step(self) -> Any:
        state = self.get_state()
        waiting = (
            internals.InitializingState,
            internals.RestartingState,
            internals.ReschedulingState,
        )
        # While it waits for resources, Ray's loop would spin and keep a CPU busy.
        if isinstance(state, waiting) and state is self._previous_state:
            await asyncio.sleep(POLL_EVERY_S)
        self._previous_state = state
        return await super()._step()

    def _start_worker_group(self, num_workers: int, resources_per_worker: dict[str, float]) -> None:
        try:
            super()._start_worker_group(num_workers, resources_per_worker)
        except internals.WorkerGroupStartupTimeoutError:
            self._scaling_policy.avoid_size(num_workers)
            raise
        self._scaling_policy.set_group(self._worker_group.get_workers())

    def _shutdown_worker_group(self) -> None:
        super()._shutdown_worker_group()
        self._scaling_policy.set_group([])
