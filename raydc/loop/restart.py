"""All ranks agree on the state from which a run continues. Runs in each worker."""

from __future__ import annotations

from collections.abc import Sequence

from raydc.checkpoint.peer_checkpoints import PeerCheckpoints
from raydc.checkpoint.resume import Source, find_newest, read_state
from raydc.checkpoint.store import CheckpointStore, Found
from raydc.loop.group import Group
from raydc.tracking.journal import Journal

_NO_STATE = -1


def agree_on_state(
    group: Group,
    store: CheckpointStore,
    peer_memory: PeerCheckpoints | None,
    journal: Journal,
    retry_pauses_s: Sequence[float],
) -> tuple[Found | None, Source]:
    """Rank 0 finds the newest state that verifies, and all ranks read that one.

    Args:
        group: The workers; every rank must call this.
        store: The checkpoints of the run, read where memory has no newer state.
        peer_memory: Memory that outlives the workers; None reads checkpoints only.
        journal: Records an event for each checkpoint that is skipped.
        retry_pauses_s: Seconds between attempts to read storage.

    Returns:
        The state and where it is; None for a run that starts at step 0.

    Raises:
        CheckpointError: No checkpoint verifies, or storage does not answer.
    """
    found, source = None, Source.STORAGE
    # Only one rank may search: it also removes drafts and sets damaged checkpoints aside, and two
    # ranks could see different checkpoints.
    if group.world.rank == 0:
        found, source = find_newest(store, peer_memory, journal, retry_pauses_s)
    step, place = group.broadcast([_NO_STATE if found is None else found.step, int(source)])
    source = Source(place)
    if found is None and step != _NO_STATE:
        found = read_state(store, peer_memory, step, source, retry_pauses_s)
    return found, source
