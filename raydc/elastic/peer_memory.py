"""Recent states of a run in the memory of the cluster: for a restart that loses a few steps, not a checkpoint interval.

Rank 0 puts its state into holders: actors of the driver, which outlive the workers, one on its own node and one on
another where there is another. A holder keeps the last two states. What a restart takes from there is verified like a
checkpoint, by the sha256 of each file.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import ray
from ray.exceptions import GetTimeoutError, RayError

from raydc.checkpoint.store import Found
from raydc.errors import CheckpointError
from raydc.storage import sha256

if TYPE_CHECKING:
    from raydc.checkpoint.snapshot import HostCopy

_PUT_TIMEOUT_S = 10.0
_START_TIMEOUT_S = 60.0
_ANSWER_TIMEOUT_S = 3.0
_READ_TIMEOUT_S = 60.0
_LOOK_AROUND_EVERY_S = 10.0
_NUM_KEPT = 2

Files = dict[str, npt.NDArray[np.uint8]]


class MemoryHolder:
    """The actor's state: the last states of a run, by step.

    A history is what one attempt, and those that it goes on from, have done: a worker that was given up, but does not
    know it yet, belongs to another one.
    """

    def __init__(self) -> None:
        self._states: dict[int, tuple[dict[str, Any], dict[str, str], Files]] = {}
        self._history = ""
        self._spare: Files = {}

    def begin(self, history: str, step: int) -> None:
        """A new attempt goes on after `step` steps: what is newer does not count, nor do other attempts."""
        self._history = history
        self._states = {kept: state for kept, state in self._states.items() if kept <= step}

    def keep(
        self, history: str, step: int, meta: dict[str, Any], hashes: dict[str, str], files: Files
    ) -> bool:
        """Keeps a state, by copying it, and lets go of the oldest. False for another attempt's."""
        if history != self._history:
            return False
        # What was the oldest state is memory that this process has already: new memory costs more than the copy.
        copied = {}
        for name, content in files.items():
            spare = self._spare.pop(name, None)
            copied[name] = (
                spare
                if spare is not None and spare.shape == content.shape
                else np.empty_like(content)
            )
            np.copyto(copied[name], content)
        self._states[step] = (meta, hashes, copied)
        while len(self._states) > _NUM_KEPT:
            self._spare = self._states.pop(min(self._states))[2]
        return True

    def steps(self) -> list[int]:
        """Of the states that are here."""
        return sorted(self._states)

    def read(self, step: int) -> tuple[dict[str, Any], dict[str, str], Files] | None:
        """Meta data, sha256 and content of the files of a state."""
        return self._states.get(step)


def start_holder(node_id: str) -> Any:
    """Starts a holder on a node, which belongs to the calling process, and gives its handle."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(MemoryHolder).options(num_cpus=0, scheduling_strategy=there).remote()


class PeerMemory:
    """The holders of a run as a worker sees them; see `raydc.checkpoint.saver.PeerCheckpoints`.

    Args:
        board: Of the run, which owns the holders.
    """

    def __init__(self, board: Any) -> None:
        self._board = board
        self._here = ray.get_runtime_context().get_node_id()
        self._history, self._step = "", 0
        self._used: dict[str, Any] = {}  # By node; those that have been told of this attempt.
        self._starting: dict[str, tuple[Any, Any]] = {}
        self._others: set[str] = set()
        self._looked_s = -_LOOK_AROUND_EVERY_S

    def put(self, copy: HostCopy) -> bool:
        """Puts a state into the holders that are up.

        Returns:
            Whether it is on another node, or in another process where there is no other node.

        Raises:
            OSError: No holder has it.
        """
        try:
            others = self._look_around()
            # One object for all holders: on this node it is copied once, to the others Ray brings it.
            files = {name: np.frombuffer(content, np.uint8) for name, content in copy.files.items()}
            state = (self._history, copy.step, copy.meta, copy.hashes(), ray.put(files))
            calls = {node: holder.keep.remote(*state) for node, holder in self._used.items()}
            kept = [node for node, done in self._answers(calls, _PUT_TIMEOUT_S).items() if done]
        except RayError as error:
            raise OSError(
                f"the state of step {copy.step} is in no other memory: {error}"
            ) from error
        if calls and not kept:
            raise OSError(f"none of {len(calls)} holder(s) has taken the state of step {copy.step}")
        return any(node != self._here for node in kept) if others else bool(kept)

    def _look_around(self) -> bool:
        """Uses this node's holder and one of another node, started where need be; whether there are other nodes."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= _LOOK_AROUND_EVERY_S:
            self._looked_s = now_s
            living = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
            self._others = living - {self._here}
            self._used = {node: holder for node, holder in self._used.items() if node in living}
            known = self._used | self._starting
            others = sorted(self._others, key=lambda node: (node not in known, node))[:1]
            for node in {self._here, *others} - known.keys():
                self._start(node)
            self._used = {
                node: self._used[node] for node in (self._here, *others) if node in self._used
            }
        self._meet()
        return bool(self._others)

    def _meet(self) -> None:
        """Uses the holders that are up by now. One that starts is waited for only where there is no other."""
        begun = [begun for _, begun in self._starting.values()]
        if begun and not self._used:
            ray.wait(begun, timeout=_START_TIMEOUT_S)
        for node, (holder, answer) in list(self._starting.items()):
            if ray.wait([answer], timeout=0.0)[0]:
                del self._starting[node]
                self._used[node] = holder

    def _start(self, node: str) -> None:
        holder = ray.get(self._board.holder.remote(node), timeout=_PUT_TIMEOUT_S)
        self._starting[node] = (holder, holder.begin.remote(self._history, self._step))

    def _answers(self, calls: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """What the holders answer, by node; those that do not are given up."""
        if calls:
            ray.wait(list(calls.values()), num_returns=len(calls), timeout=timeout_s)
        answers = {}
        for node, call in calls.items():
            try:
                answers[node] = ray.get(call, timeout=0.0)
            except (RayError, GetTimeoutError):
                self._used.pop(node, None)
                self._board.drop_holder.remote(node)
                self._looked_s = -_LOOK_AROUND_EVERY_S
        return answers

    # Restart -----------------------------------------------------------------------------------------

    def newest(self) -> Found | None:
        """The newest state that verifies; a holder that does not answer is given up, with all that it has."""
        for step in sorted(self._steps(), reverse=True):
            try:
                return self.read(step)
            except CheckpointError:
                continue
        return None

    def _steps(self) -> set[int]:
        try:
            self._used = ray.get(self._board.holders.remote(), timeout=_ANSWER_TIMEOUT_S)
        except RayError:
            return set()
        calls = {node: holder.steps.remote() for node, holder in self._used.items()}
        return (
            {step for steps in self._answers(calls, _ANSWER_TIMEOUT_S).values() for step in steps}
            if calls
            else set()
        )

    def read(self, step: int) -> Found:
        """A state, from the nearest holder that has it.

        Raises:
            CheckpointError: None has it, or it does not verify.
        """
        if not self._used:
            self._used = ray.get(self._board.holders.remote(), timeout=_ANSWER_TIMEOUT_S)
        for node in sorted(self._used, key=lambda node: node != self._here):
            call = {node: self._used[node].read.remote(step)}
            state = self._answers(call, _READ_TIMEOUT_S).get(node)
            if state is not None:
                meta, hashes, arrays = state
                files = {name: array.tobytes() for name, array in arrays.items()}
                if {name: sha256(content) for name, content in files.items()} == hashes:
                    return Found(step, meta, files)
        raise CheckpointError(
            f"no holder has the state of step {step}", "The next attempt looks for another one."
        )

    def forget_after(self, step: int) -> None:
        """This attempt goes on after `step` steps: newer states, and other attempts, no longer count."""
        self._history, self._step = uuid.uuid4().hex, step
        calls = {
            node: holder.begin.remote(self._history, step) for node, holder in self._used.items()
        }
        self._answers(calls, _ANSWER_TIMEOUT_S)
