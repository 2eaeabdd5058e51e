"""The journal of a sweep in a folder: created only if absent, verified when it is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from fold_walks import sequential

from raydc.errors import RunError
from raydc.search import Method
from raydc.search.decision_log import DecisionLog
from raydc.storage import Storage

CURVES = [[0.1 * trial] * 2 for trial in range(9)]
OTHER_CURVES = [[0.2 * trial] * 2 for trial in range(9)]


def journal(curves: list[list[float]] = CURVES, *samples: int) -> list[bytes]:
    return sequential(Method("promotion", (1, 3), 3, "max", samples or (9,)), curves).lines


@pytest.fixture
def folder(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "journal"))


def test_journal_is_one_numbered_file_for_each_decision(folder: Storage) -> None:
    lines = journal()
    log = DecisionLog(folder)
    log.extend(lines[:4])
    log.extend(lines)
    assert folder.names() == [f"{number:08d}.json" for number in range(1, len(lines) + 1)]
    assert folder.read_bytes("00000004.json") == lines[3] + b"\n"
    assert DecisionLog(folder).lines == lines


def test_file_that_is_there_is_never_written_again(folder: Storage) -> None:
    lines = journal()
    DecisionLog(folder).extend(lines)
    inodes = [path.stat().st_ino for path in sorted(folder.local_path.iterdir())]
    DecisionLog(folder).extend(lines)
    # A driver that knows of none, because another one has written them meanwhile.
    late = DecisionLog(folder)
    late.lines = []
    late.extend(lines)
    assert [path.stat().st_ino for path in sorted(folder.local_path.iterdir())] == inodes


def test_other_decisions_are_refused_by_their_file(folder: Storage) -> None:
    DecisionLog(folder).extend(journal())
    with pytest.raises(RunError, match=r"journal/00000003\.json has another decision"):
        DecisionLog(folder).extend(journal(OTHER_CURVES))
    late = DecisionLog(folder)
    late.lines = []
    with pytest.raises(RunError, match=r"journal/00000003\.json has another decision"):
        late.extend(journal(OTHER_CURVES))


@pytest.mark.parametrize("damage", ["missing", "changed", "cut", "no JSON", "no object"])
def test_damaged_journal_is_refused(folder: Storage, damage: str) -> None:
    lines = journal()
    DecisionLog(folder).extend(lines)
    third = lines[2]
    if damage == "missing":
        folder.delete("00000003.json")
    else:
        changed = {
            "changed": third.replace(b'"trial":1', b'"trial":2'),
            "cut": third[:-9],
            "no JSON": b"\xff",
            "no object": b"[1]",
        }
        assert changed[damage] != third
        folder.write_bytes("00000003.json", changed[damage] + b"\n")
    with pytest.raises(RunError, match=r"journal/0000000[34]\.json does not follow decision"):
        DecisionLog(folder)


def test_past_ends_are_known_for_a_sweep_that_is_widened(folder: Storage) -> None:
    log = DecisionLog(folder)
    assert log.past_samples() == []
    # Two trials of which none goes on, so that the better one does at the end.
    lines = journal(CURVES, 2)
    log.extend(lines[:-2])
    assert log.past_samples() == [2]
    log.extend(lines)
    log.extend(journal(CURVES, 2, 9))
    assert DecisionLog(folder).past_samples() == [2, 9]
