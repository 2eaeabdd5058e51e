"""All ranks continue from the state that rank 0 found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from training import event_kinds

from raydc.checkpoint.resume import Source
from raydc.checkpoint.state import State, pack_state
from raydc.checkpoint.store import CheckpointStore, Found
from raydc.errors import CheckpointError
from raydc.loop.group import Alone, World
from raydc.loop.restart import agree_on_state
from raydc.storage import Storage
from raydc.tracking.journal import Journal

FILES = {"a.bin": b"\x00\x01\x02", "state.json": pack_state(State())}


class SecondRank:
    """Rank 1 of two, which receives given numbers from rank 0.

    Args:
        numbers: Numbers that rank 0 broadcasts.
    """

    world = World(1, 2, torch.device("cpu"))

    def __init__(self, *numbers: int) -> None:
        self._numbers = list(numbers)

    def broadcast(self, numbers: Sequence[int]) -> list[int]:
        assert len(numbers) == len(self._numbers)
        return self._numbers


class OneState:
    """Peer memory that holds one state."""

    def __init__(self, step: int) -> None:
        self.state = Found(step, {}, FILES)

    def newest(self) -> Found:
        return self.state

    def read(self, step: int) -> Found:
        assert step == self.state.step
        return self.state


@pytest.fixture
def folder(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "run"))


@pytest.fixture
def store(folder: Storage) -> CheckpointStore:
    store = CheckpointStore(folder / "checkpoints", 3)
    for step in (4, 8):
        store.write(step, FILES, {})
    return store


def agree(
    group: Any, store: CheckpointStore, folder: Storage, memory: OneState | None = None
) -> tuple[int | None, Source]:
    journal = Journal(folder, group.world.rank == 0, None)
    found, source = agree_on_state(group, store, memory, journal, ())  # type: ignore[arg-type]
    return None if found is None else found.step, source


def test_agree_without_any_state_starts_at_step_0(folder: Storage) -> None:
    empty = CheckpointStore(folder / "checkpoints", 3)
    assert agree(Alone(), empty, folder) == (None, Source.STORAGE)
    assert agree(SecondRank(-1, 0), empty, folder) == (None, Source.STORAGE)


@pytest.mark.parametrize(("step", "source"), [(6, Source.STORAGE), (9, Source.MEMORY)])
def test_agree_takes_memory_only_if_it_is_newer(
    folder: Storage, store: CheckpointStore, step: int, source: Source
) -> None:
    assert agree(Alone(), store, folder, OneState(step)) == (max(step, 8), source)


def test_agree_on_other_ranks_reads_what_rank_0_found(
    folder: Storage, store: CheckpointStore
) -> None:
    assert agree(SecondRank(4, 0), store, folder) == (4, Source.STORAGE)
    assert agree(SecondRank(9, 1), store, folder, OneState(9)) == (9, Source.MEMORY)
    with pytest.raises(CheckpointError, match="step_00000009"):
        agree(SecondRank(9, 0), store, folder)


def test_agree_on_other_ranks_sets_no_checkpoint_aside(
    folder: Storage, store: CheckpointStore
) -> None:
    (folder / "checkpoints/step_00000008").delete("a.bin")
    assert agree(SecondRank(4, 0), store, folder) == (4, Source.STORAGE)
    assert store.steps() == [4, 8]
    assert agree(Alone(), store, folder) == (4, Source.STORAGE)
    assert store.steps() == [4]
    assert event_kinds(folder) == ["checkpoint_skipped"]
