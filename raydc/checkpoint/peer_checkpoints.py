"""Memory that outlives the workers, as rank 0 uses it.

`raydc.elastic.peer_memory` implements it with Ray, which the loop does not know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from raydc.checkpoint.store import Found

if TYPE_CHECKING:
    # The mailbox uses this module too, and loads no torch.
    from raydc.checkpoint.snapshot import HostCopy

# The state before the newest is the fallback if the newest does not verify.
NUM_KEPT = 2
# Copies of a state on one machine at most: those that are kept, the one on its way there, and one
# whose memory is used again.
NUM_COPIES = NUM_KEPT + 2


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
