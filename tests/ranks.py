"""Processes that train together over gloo, without Ray; started once for many small runs."""

from __future__ import annotations

import itertools
import multiprocessing
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from training import StopsAfter

from raydc import spec as specs
from raydc.checkpoint.state import State
from raydc.spec.sections import Spec
from raydc.storage import Storage

_TIMEOUT_S = 120


class StoppedError(Exception):
    """Stands for a kill of all ranks at once."""


class Ranks:
    """A pool of processes, each of which can be one rank.

    Args:
        num_processes: Size of the largest group.
        folder: Holds the files by which ranks find each other.
    """

    def __init__(self, num_processes: int, folder: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["raydc.loop.worker"])
        self._folder = folder
        self._meetings = itertools.count()
        self._members = []
        for _ in range(num_processes):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there,), daemon=True)
            process.start()
            self._members.append((process, here))

    def fit(
        self,
        world_size: int,
        spec: Spec,
        run_folder: Storage,
        data: Storage,
        stop_after: int | None = None,
        timeout_s: float = _TIMEOUT_S,
        available_bytes: Sequence[int] | None = None,
    ) -> State | None:
        """Trains on the first `world_size` processes.

        Args:
            world_size: Number of ranks.
            spec: A resolved spec.
            run_folder: Folder of the run.
            data: A prepared data set.
            stop_after: Completed steps after which all ranks stop; None trains to the end.
            timeout_s: Seconds to wait for the ranks.
            available_bytes: Memory that each rank may fill; None for what there is.

        Returns:
            The final state; None if the ranks stopped before it.
        """
        meeting = self._folder / f"meeting_{next(self._meetings)}"
        members = self._members[:world_size]
        for rank, (_, connection) in enumerate(members):
            where = (str(meeting), rank, world_size)
            memory = None if available_bytes is None else available_bytes[rank]
            work = (specs.to_dict(spec), run_folder.uri, data.uri, stop_after, memory)
            connection.send((where, *work))
        answers = []
        for rank, (_, connection) in enumerate(members):
            if not connection.poll(timeout_s):
                raise TimeoutError(
                    f"rank {rank} of {world_size} did not answer within {timeout_s} s"
                )
            answers.append(connection.recv())
        failures = [answer for answer in answers if isinstance(answer, str)]
        if failures:
            raise RuntimeError("\n".join(failures))
        assert all(answer == answers[0] for answer in answers)
        return answers[0]

    def close(self) -> None:
        for process, _ in self._members:
            process.kill()
            process.join()


def _serve(connection: Connection) -> None:
    while True:
        where, *work = connection.recv()
        try:
            connection.send(_fit(where, *work))
        except Exception:  # noqa: BLE001 - raised again in the test's process.
            connection.send(f"rank {where[1]}:\n{traceback.format_exc()}")


def _fit(
    where: tuple[str, int, int],
    spec: dict[str, Any],
    run_folder: str,
    data: str,
    stop_after: int | None,
    available_bytes: int | None,
) -> State | None:
    import torch

    from raydc.loop import worker
    from raydc.loop.group import Alone, Workers
    from raydc.loop.hooks import Hooks

    meeting, rank, world_size = where
    if world_size > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size
        )
    try:
        # Buckets are small, so that even small networks have several of them.
        group = Workers(torch.device("cpu"), bucket_bytes=1024) if world_size > 1 else Alone()
        faults = StopsAfter(stop_after, StoppedError)
        return worker.fit(
            specs.resolve(specs.from_dict(spec)),
            Storage(run_folder),
            Storage(data),
            group,
            Hooks(faults=faults)
            if available_bytes is None
            else Hooks(faults=faults, available_bytes=lambda: available_bytes),
        )
    except StoppedError:
        return None
    finally:
        if world_size > 1:
            torch.distributed.destroy_process_group()
