"""Peer memory: recent states of a run in the memory of the cluster.

A restart from there loses a few steps instead of a checkpoint interval. Rank 0 puts its state into
memory holders: actors of the driver, which outlive the workers; one on its own node and one on
another node if there is any. A holder keeps the last two states. A restart verifies what it takes,
by the sha256 of each file, like a checkpoint. `PeerMemory` runs in workers, `MemoryHolder` in its
actor.
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

from raydc.checkpoint.peer_checkpoints import NUM_KEPT
from raydc.checkpoint.store import Found
from raydc.errors import CheckpointError
from raydc.storage import sha256

if TYPE_CHECKING:
    from raydc.checkpoint.snapshot import HostCopy

_PUT_TIMEOUT_S = 10.0
_START_TIMEOUT_S = 60.0
_REPLY_TIMEOUT_S = 3.0
_READ_TIMEOUT_S = 60.0
_SELECT_EVERY_S = 10.0

# Bytes of files by name. Ray moves arrays through shared memory, and would copy `bytes`.
Files = dict[str, npt.NDArray[np.uint8]]


class MemoryHolder:
    """State of the actor: the last states of a run, by step.

    A history names one attempt. A worker that was given up but still runs belongs to an older
    history, so its states are refused.
    """

    def __init__(self) -> None:
        # Meta data, sha256 of the files, and the files.
        self._states: dict[int, tuple[dict[str, Any], dict[str, str], Files]] = {}
        self._history = ""
        self._spare: Files = {}

    def start_history(self, history: str, step: int) -> None:
        """Starts an attempt that continues after `step` steps; newer states are dropped.

        Args:
            history: Name of the attempt; states of other attempts are refused from now on.
            step: Steps done in the state that the attempt starts from.
        """
        self._history = history
        self._states = {kept: state for kept, state in self._states.items() if kept <= step}

    def keep(
        self, history: str, step: int, meta: dict[str, Any], hashes: dict[str, str], files: Files
    ) -> bool:
        """Keeps a copy of a state and drops the oldest one.

        Args:
            history: Attempt that the state belongs to.
            step: Steps done in the state.
            meta: JSON values for the manifest of the checkpoint.
            hashes: sha256 by file name.
            files: Content by file name.

        Returns:
            False if the state belongs to another attempt.
        """
        if history != self._history:
            return False
        # Reuses the memory of the state that was dropped last: this process has its pages already,
        # and to map new ones takes longer than the copy.
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
        while len(self._states) > NUM_KEPT:
            self._spare = self._states.pop(min(self._states))[2]
        return True

    def list_steps(self) -> list[int]:
        """Steps of the states that are kept, ascending."""
        return sorted(self._states)

    def read(self, step: int) -> tuple[dict[str, Any], dict[str, str], Files] | None:
        """Meta data, sha256 and content of the files of a state; None if it is not kept."""
        return self._states.get(step)


def start_holder(node_id: str) -> Any:
    """Starts a memory holder on a node and returns its handle; it dies with the calling process."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(MemoryHolder).options(num_cpus=0, scheduling_strategy=there).remote()


class PeerMemory:
    """The memory holders of a run, as a worker uses them (see `PeerCheckpoints`).

    Args:
        mailbox: Handle of the run's mailbox, which owns the holders.
    """

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox
        self._here = ray.get_runtime_context().get_node_id()
        self._history, self._step = "", 0
        # Holders by node id that have the history of this attempt.
        self._used: dict[str, Any] = {}
        # Holders by node id that are still starting, each with a reference that tells when it is
        # up.
        self._starting: dict[str, tuple[Any, Any]] = {}
        self._others: set[str] = set()
        # In the past, so that the first put selects holders at once.
        self._selected_s = -_SELECT_EVERY_S

    def put(self, copy: HostCopy) -> bool:
        """Puts a state into the holders that are up.

        Returns:
            Whether it survives this node; or this process, if there is no other node.

        Raises:
            OSError: No holder has it.
        """
        try:
            has_others = self._select_holders()
            # One object for all holders: it is copied once into this node's object store, from
            # where Ray sends it to the other node.
            files = {name: np.frombuffer(content, np.uint8) for name, content in copy.files.items()}
            state = (self._history, copy.step, copy.meta, copy.hashes(), ray.put(files))
            calls = {node: holder.keep.remote(*state) for node, holder in self._used.items()}
            kept = [node for node, done in self._get_replies(calls, _PUT_TIMEOUT_S).items() if done]
        except RayError as error:
            raise OSError(
                f"peer memory did not take the state of step {copy.step}: {error}"
            ) from error
        if calls and not kept:
            raise OSError(f"none of {len(calls)} holder(s) has taken the state of step {copy.step}")
        return any(node != self._here for node in kept) if has_others else bool(kept)

    def _select_holders(self) -> bool:
        """Selects this node's holder and one of another node; starts them if necessary.

        Returns:
            Whether there are other nodes.
        """
        now_s = time.monotonic()
        if now_s - self._selected_s >= _SELECT_EVERY_S:
            self._selected_s = now_s
            living = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
            self._others = living - {self._here}
            self._used = {node: holder for node, holder in self._used.items() if node in living}
            known = self._used | self._starting
            # Nodes with a holder come first, so that a new node moves nothing.
            others = sorted(self._others, key=lambda node: (node not in known, node))[:1]
            for node in {self._here, *others} - known.keys():
                self._start(node)
            self._used = {
                node: self._used[node] for node in (self._here, *others) if node in self._used
            }
        self._use_started()
        return bool(self._others)

    def _use_started(self) -> None:
        """Uses holders that have come up; waits for one only if there is no other."""
        references = [reference for _, reference in self._starting.values()]
        if references and not self._used:
            ray.wait(references, timeout=_START_TIMEOUT_S)
        for node, (holder, reference) in list(self._starting.items()):
            if ray.wait([reference], timeout=0.0)[0]:
                del self._starting[node]
                self._used[node] = holder

    def _start(self, node: str) -> None:
        holder = ray.get(self._mailbox.get_holder.remote(node), timeout=_PUT_TIMEOUT_S)
        # An earlier attempt may have started the holder, so it gets the history of this attempt
        # before any state.
        self._starting[node] = (holder, holder.start_history.remote(self._history, self._step))

    def _get_replies(self, calls: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """The replies of holders by node id; holders that do not reply are dropped."""
        if calls:
            ray.wait(list(calls.values()), num_returns=len(calls), timeout=timeout_s)
        replies = {}
        for node, call in calls.items():
            try:
                replies[node] = ray.get(call, timeout=0.0)
            except (RayError, GetTimeoutError):
                self._used.pop(node, None)
                self._mailbox.drop_holder.remote(node)
                # The next put looks for a replacement at once.
                self._selected_s = -_SELECT_EVERY_S
        return replies

    def newest(self) -> Found | None:
        """The newest state that verifies, or None; holders that do not reply are dropped."""
        for step in sorted(self._list_steps(), reverse=True):
            try:
                return self.read(step)
            except CheckpointError:
                continue
        return None

    def _list_steps(self) -> set[int]:
        try:
            self._used = ray.get(self._mailbox.get_holders.remote(), timeout=_REPLY_TIMEOUT_S)
        except RayError:
            # Storage still has checkpoints; a restart must not fail for want of newer states.
            return set()
        calls = {node: holder.list_steps.remote() for node, holder in self._used.items()}
        replies = self._get_replies(calls, _REPLY_TIMEOUT_S)
        return {step for steps in replies.values() for step in steps}

    def read(self, step: int) -> Found:
        """Reads a state from the nearest holder that has it.

        Raises:
            CheckpointError: No holder has it, or it does not verify.
        """
        if not self._used:
            self._used = ray.get(self._mailbox.get_holders.remote(), timeout=_REPLY_TIMEOUT_S)
        # False sorts first: this node before the others.
        for node in sorted(self._used, key=lambda node: node != self._here):
            call = {node: self._used[node].read.remote(step)}
            state = self._get_replies(call, _READ_TIMEOUT_S).get(node)
            if state is not None:
                meta, hashes, arrays = state
                files = {name: array.tobytes() for name, array in arrays.items()}
                if {name: sha256(content) for name, content in files.items()} == hashes:
                    return Found(step, meta, files)
        raise CheckpointError(
            f"no holder has the state of step {step}", "The next attempt looks for another one."
        )

    def forget_after(self, step: int) -> None:
        """Starts this attempt after `step` steps: newer states and other attempts do not count."""
        self._history, self._step = uuid.uuid4().hex, step
        calls = {
            node: holder.start_history.remote(self._history, step)
            for node, holder in self._used.items()
        }
        self._get_replies(calls, _REPLY_TIMEOUT_S)
