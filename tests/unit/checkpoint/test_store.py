"""Folders with a manifest of checksums, and the checkpoints of a run in storage."""

from __future__ import annotations

from pathlib import Path

import pytest

from raydc import checksummed_folder
from raydc.checkpoint.store import CheckpointStore
from raydc.errors import CheckpointError
from raydc.storage import OWN_HASH, Storage

FILES = {"a.bin": b"\x00\x01\x02", "b.json": b"{}"}


@pytest.fixture
def folder(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "folder"))


def test_read_checksummed_returns_what_was_written(folder: Storage) -> None:
    checksummed_folder.write_checksummed(folder, FILES, {"kind": "test"})
    assert checksummed_folder.read_checksummed(folder) == ({"kind": "test"}, FILES)


@pytest.mark.parametrize("position", range(3))
def test_read_checksummed_finds_any_flipped_bit(folder: Storage, position: int) -> None:
    checksummed_folder.write_checksummed(folder, FILES, {})
    content = bytearray(FILES["a.bin"])
    content[position] ^= 4
    folder.write_bytes("a.bin", bytes(content))
    with pytest.raises(
        CheckpointError, match=r"a\.bin is damaged: expected sha256 \w{16}, found \w{16}"
    ):
        checksummed_folder.read_checksummed(folder)


@pytest.mark.parametrize(
    "change", [("value", "velue"), ("meta", "mete"), ('"format": 1', '"format": 3')]
)
def test_read_checksummed_finds_any_changed_character_of_the_manifest(
    folder: Storage, change: tuple[str, str]
) -> None:
    checksummed_folder.write_checksummed(folder, FILES, {"key": "value"})
    text = folder.read_bytes(checksummed_folder.MANIFEST).decode()
    assert change[0] in text
    folder.write_bytes(checksummed_folder.MANIFEST, text.replace(*change).encode())
    with pytest.raises(CheckpointError, match=r"MANIFEST\.json is damaged: expected sha256 \w{16}"):
        checksummed_folder.read_checksummed(folder)


def test_manifest_without_its_own_hash_is_read(folder: Storage) -> None:
    checksummed_folder.write_checksummed(folder, FILES, {"kind": "test"})
    manifest = folder.read_json(checksummed_folder.MANIFEST)
    del manifest[OWN_HASH]
    folder.write_json(checksummed_folder.MANIFEST, manifest)
    assert checksummed_folder.read_checksummed(folder) == ({"kind": "test"}, FILES)


def test_read_checksummed_refuses_incomplete_folders(folder: Storage) -> None:
    with pytest.raises(CheckpointError, match=r"has no MANIFEST\.json"):
        checksummed_folder.read_checksummed(folder)
    checksummed_folder.write_checksummed(folder, FILES, {})
    folder.write_bytes("a.bin", b"\x00")
    with pytest.raises(CheckpointError, match="expected 3 bytes, found 1"):
        checksummed_folder.read_checksummed(folder)
    folder.delete("a.bin")
    with pytest.raises(CheckpointError, match=r"a\.bin is missing"):
        checksummed_folder.read_checksummed(folder)
    folder.write_bytes("MANIFEST.json", b'{"meta": {}, "fil')
    with pytest.raises(CheckpointError, match="cannot be read"):
        checksummed_folder.read_checksummed(folder)


def test_torn_rewrite_leaves_no_complete_folder(
    folder: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    checksummed_folder.write_checksummed(folder, FILES, {})

    def dies(self: Storage, name: str, content: bytes) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "write_bytes", dies)
        with pytest.raises(OSError, match="disk full"):
            checksummed_folder.write_checksummed(folder, FILES, {})
    with pytest.raises(CheckpointError, match=r"has no MANIFEST\.json"):
        checksummed_folder.read_checksummed(folder)


def test_newest_skips_and_names_checkpoints_that_do_not_verify(folder: Storage) -> None:
    store = CheckpointStore(folder, num_to_keep=5)
    assert store.newest() == (None, [])
    for step in (5, 10, 15):
        store.write(step, FILES, {})
    (folder / "step_00000015").write_bytes("a.bin", b"\x00\x01\x03")
    (folder / "step_00000010").delete("MANIFEST.json")
    found, skipped = store.newest()
    assert found is not None
    assert (found.step, found.files) == (5, FILES)
    assert [skip.name for skip in skipped] == ["step_00000015", "step_00000010"]
    assert "damaged" in skipped[0].reason


def test_file_or_folder_in_a_wrong_place_does_not_block_the_checkpoints_before(
    folder: Storage,
) -> None:
    store = CheckpointStore(folder, num_to_keep=5)
    for step in (5, 10, 15):
        store.write(step, FILES, {})
    folder.write_bytes("step_00000999", b"no checkpoint")
    (folder / "step_00000015").delete("a.bin")
    (folder / "step_00000015/a.bin").write_bytes("x", b"")
    (folder / "step_00000010").delete(checksummed_folder.MANIFEST)
    (folder / "step_00000010" / checksummed_folder.MANIFEST).write_bytes("x", b"")
    found, skipped = store.newest()
    assert found is not None
    assert found.step == 5
    assert [skip.name for skip in skipped] == ["step_00000999", "step_00000015", "step_00000010"]
    for skip in skipped:
        store.set_aside(skip.step)
    assert store.steps() == [5]


def test_require_newest_returns_the_newest_that_verifies(folder: Storage) -> None:
    store = CheckpointStore(folder, num_to_keep=5)
    for step in (5, 10):
        store.write(step, FILES, {})
    (folder / "step_00000010").delete("a.bin")
    assert store.require_newest().step == 5


def test_require_newest_without_any_raises_with_the_reason(folder: Storage) -> None:
    store = CheckpointStore(folder, num_to_keep=5)
    with pytest.raises(CheckpointError, match=r"folder holds no checkpoint that verifies$"):
        store.require_newest()
    store.write(5, FILES, {})
    (folder / "step_00000005").delete("a.bin")
    with pytest.raises(CheckpointError, match=r"that verifies: .*a\.bin is missing") as caught:
        store.require_newest("Train again.")
    assert caught.value.hint == "Train again."


def test_newest_skips_a_renamed_checkpoint(folder: Storage) -> None:
    store = CheckpointStore(folder, num_to_keep=5)
    store.write(5, FILES, {})
    folder.move("step_00000005", "step_00000009")
    found, skipped = store.newest()
    assert found is None
    assert "is of step 5" in skipped[0].reason


def test_write_keeps_the_newest_and_the_best(folder: Storage) -> None:
    store = CheckpointStore(folder, num_to_keep=2)
    for step in range(1, 8):
        store.write(step, FILES, {}, best_step=3 if step >= 3 else None)
    assert store.steps() == [3, 6, 7]


def test_set_aside_checkpoint_does_not_count_as_newest(folder: Storage) -> None:
    store = CheckpointStore(folder, num_to_keep=1)
    store.write(9, FILES, {})
    store.set_aside(9)
    store.write(5, FILES, {})
    assert store.steps() == [5]
    assert "step_00000009.damaged" in folder.names()


def test_sweep_drafts_removes_what_a_killed_writer_left(folder: Storage) -> None:
    store = CheckpointStore(folder, num_to_keep=1)
    checksummed_folder.write_checksummed(folder / "step_00000009.1234.tmp", FILES, {})
    assert store.newest() == (None, [])
    store.sweep_drafts()
    assert folder.names() == []


def test_write_of_the_same_step_replaces_only_a_damaged_one(folder: Storage) -> None:
    store = CheckpointStore(folder, 2)
    store.write(5, FILES, {"writer": 1})
    store.write(5, FILES, {"writer": 2})
    assert store.read(5).meta["writer"] == 1
    (folder / "step_00000005").write_bytes("a.bin", b"torn")
    store.write(5, FILES, {"writer": 3})
    assert store.read(5).meta["writer"] == 3


def test_damaged_checkpoint_costs_no_intact_one_its_place(folder: Storage) -> None:
    store = CheckpointStore(folder, num_to_keep=2)
    for step in (1, 2, 3):
        store.write(step, FILES, {})
    (folder / "step_00000003").delete("a.bin")
    _, skipped = store.newest()
    for skip in skipped:
        store.set_aside(skip.step)
    assert store.newest()[1] == [], "it is named once"
    store.write(4, FILES, {})
    # If it counted among the newest two, the second one would be gone.
    assert store.steps() == [2, 4]


def test_write_that_is_refused_leaves_no_draft(
    folder: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(folder, 2)
    store.write(1, FILES, {})
    write = Storage.write_bytes

    def refuse(self: Storage, name: str, content: bytes) -> None:
        if name == "b.json":
            raise OSError(28, "No space left on device")
        write(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "write_bytes", refuse)
        with pytest.raises(OSError, match="No space left"):
            store.write(2, FILES, {})
    assert folder.names() == ["step_00000001"]
    assert store.read(1).files == FILES


def test_write_on_an_object_store_keeps_the_newest(
    folder: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes = Storage.write_bytes

    def write(self: Storage, name: str, content: bytes) -> None:
        # A real object store needs no folders.
        (Path(self.root) / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self, name, content)

    monkeypatch.setattr(Storage, "is_local", property(lambda self: False))
    monkeypatch.setattr(Storage, "write_bytes", write)
    store = CheckpointStore(folder, 2)
    for step in (1, 2, 3):
        store.write(step, FILES, {})
    assert store.steps() == [2, 3]
    found, _ = store.newest()
    assert found is not None
    assert found.step == 3
