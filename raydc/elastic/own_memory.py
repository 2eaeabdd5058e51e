"""Recent states of a trial in the memory of its leader, for the loss of a worker that has joined.

The leader outlives such a worker, and goes on from there instead of from the last checkpoint. Runs
in Tune's actors.
"""

from __future__ import annotations

from raydc.checkpoint.peer_checkpoints import NUM_KEPT
from raydc.checkpoint.snapshot import HostCopy
from raydc.checkpoint.store import Found
from raydc.errors import CheckpointError


class OwnMemory:
    """The last states of a trial, as `PeerCheckpoints` of the one process that needs them."""

    def __init__(self) -> None:
        self._states: dict[int, Found] = {}

    def put(self, copy: HostCopy) -> bool:
        """Keeps a state; False, because it does not survive this process."""
        files = {name: bytes(content) for name, content in copy.files.items()}
        self._states[copy.step] = Found(copy.step, copy.meta, files)
        while len(self._states) > NUM_KEPT:
            del self._states[min(self._states)]
        return False

    def newest(self) -> Found | None:
        """The newest state, or None."""
        return self._states[max(self._states)] if self._states else None

    def read(self, step: int) -> Found:
        """The state after `step` steps. Raises CheckpointError if there is none."""
        if step not in self._states:
            raise CheckpointError(
                f"the state of step {step} is in the memory of another process",
                "The trial goes on without this worker.",
            )
        return self._states[step]

    def forget_after(self, step: int) -> None:
        """Drops states after more than `step` steps: the trial continues from there."""
        self._states = {kept: state for kept, state in self._states.items() if kept <= step}
