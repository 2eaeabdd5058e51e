"""Outputs of a frozen body in files beside the rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raydc.data import content_check, output_store
from raydc.data.output_store import FOLDER, OutputStore, note_use
from raydc.storage import Storage

NUM_ROWS = 37


def make_store(folder: Storage, split: str = "train", key: str = "key") -> OutputStore:
    return OutputStore(folder, key, split, NUM_ROWS, (2, 3), 4)


def outputs_of(ids: np.ndarray) -> np.ndarray:
    return np.arange(6, dtype=np.float32).reshape(2, 3) + 10 * ids[:, None, None].astype(np.float32)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_store, "_CHUNK_ROWS", 10)


def fill(store: OutputStore, chunks: range) -> None:
    for index in chunks:
        ids = store.rows_of(index)
        store.write(index, outputs_of(ids))
    store.look()


@pytest.mark.usefixtures("small_chunks")
def test_gather_gives_rows_in_order_and_tells_which_are_not_kept(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path))
    store = make_store(folder)
    # Chunks hold whole blocks of 4 rows.
    assert (store.rows_per_chunk, store.num_chunks) == (8, 5)
    assert store.look() == [False] * 5
    fill(store, range(1, 5))
    assert make_store(folder, "validation").look() == [False] * 5
    again = make_store(folder)
    assert again.look() == [False, True, True, True, True]
    positions = np.array([36, 3, 8, 20, 8])
    for one in (store, again):
        outputs, is_kept = one.gather(positions)
        assert is_kept.tolist() == [True, False, True, True, True]
        assert np.array_equal(outputs[is_kept], outputs_of(positions[is_kept]))


@pytest.mark.usefixtures("small_chunks")
def test_damaged_file_is_left_out_and_removed(tmp_path: Path) -> None:
    folder = Storage(str(tmp_path))
    fill(make_store(folder), range(5))
    names = sorted(folder.names(f"{FOLDER}/key"))
    for name, change in ((names[0], 1), (names[1], 0)):
        path = tmp_path / FOLDER / "key" / name
        content = bytearray(path.read_bytes())
        content[-1] ^= change
        path.write_bytes(content if change else content[:-8])
    store = make_store(folder)
    assert all(store.look())
    _, is_kept = store.gather(np.array([0, 8, 16]))
    assert is_kept.tolist() == [False, False, True]
    assert make_store(folder).look() == [False, False, True, True, True]


@pytest.mark.usefixtures("small_chunks")
def test_files_of_a_remote_store_are_copied_and_a_damaged_copy_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_check, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(Storage, "is_local", property(lambda self: "/far" not in self.uri))
    folder = Storage(str(tmp_path / "far"))
    (tmp_path / "far" / FOLDER / "key").mkdir(parents=True)
    fill(make_store(folder), range(5))
    for _ in range(2):
        store = make_store(folder)
        store.look()
        assert store.gather(np.arange(NUM_ROWS))[1].all()
        copies = list((tmp_path / "cache").rglob("*.npy"))
        assert len(copies) == 5
        copies[0].write_bytes(b"damaged")


def test_the_keys_that_were_not_used_for_longest_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Storage(str(tmp_path))
    for time_s, key in enumerate(["a", "b", "c", "d", "a", "e", "f"]):
        monkeypatch.setattr("raydc.data.output_store.time.time", lambda s=time_s: float(s))
        note_use(folder, key)
    assert folder.names(FOLDER) == ["a", "d", "e", "f"]
