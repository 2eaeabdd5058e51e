"""Memory that outlives the workers, as rank 0 uses it.

`raydc.elastic.peer_memory` implements it with Ray, which the loop does not know.
"""

from __future__ import annotations

from typing import Protocol

from raydc.checkpoint.snapshot import HostCopy
from raydc.checkpoint.store import Found


class PeerCheckpoints(Protocol):
    """Memory of other processes, for states newer than the newest checkpoint in storage."""

    def put(self, copy: HostCopy) -> bool:
        """Puts a state into the memory.

        Returns:
            Whether it survives the end of this node, or of this process if there is only one node.

        Raises:
            OSError: The memory refuses the state.
        """

    def newest(self) -> Found | None:
        """The newest state that verifies."""

    def read(self, step: int) -> Found:
        """The state after `step` steps. Raises CheckpointError if there is none."""

    def forget_after(self, step: int) -> None:
        """Drops states after more than `step` steps: the run continues from there."""
