"""The last records of a log are those of the whole log, however it is cut into parts."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from raydc.tracking import events, last_records


def parts_of(text: bytes, sizes: list[int]) -> Iterator[tuple[bytes, bool]]:
    """Cuts a file from its end; the last size holds for the rest."""
    stop, index = len(text), 0
    while True:
        start = max(0, stop - sizes[min(index, len(sizes) - 1)])
        yield text[start:stop], start == 0
        if not start:
            return
        stop, index = start, index + 1


def random_log(choose: random.Random) -> list[dict[str, Any]]:
    """A log of epochs of a few steps, with restarts at steps that were reached before."""
    records: list[dict[str, Any]] = [{"kind": "start", "step": 0, "time_s": 1.0}]
    step = 0
    for _ in range(choose.randrange(40)):
        if choose.random() < 0.15:
            step = choose.randint(0, step)
            records.append({"kind": "start", "step": step, "time_s": 1.0})
            continue
        step += 1
        records.append({"kind": "step", "step": step, "time_s": 1.0, "epoch": 1})
        if choose.random() < 0.2:
            epoch = {"kind": "epoch", "step": step, "time_s": 1.0, "epoch": 1, "split": "x"}
            records.append(epoch)
    return records


@pytest.mark.parametrize("seed", range(200))
def test_parts_of_any_size_give_the_same(seed: int) -> None:
    choose = random.Random(seed)
    records = random_log(choose)
    separators = choose.choice([(",", ":"), (", ", ": ")])
    lines = [json.dumps(record, separators=separators).encode() + b"\n" for record in records]
    # A killed writer leaves a torn line, at the end or before the next start.
    if choose.random() < 0.5:
        lines.insert(choose.randint(0, len(lines)), b'{"kind":"epoch","st\n')
    history = events.surviving(iter(records))
    epochs = [record for record in history if record["kind"] == "epoch"]
    sizes = [choose.randint(1, 200) for _ in range(5)]
    found = last_records.find(parts_of(b"".join(lines), sizes))
    assert found.epoch == (epochs[-1] if epochs else {})
    assert found.last == (history[-1] if history else {})
    assert found.has_records


def test_no_part_before_the_last_epoch_is_read() -> None:
    epoch = b'{"kind":"epoch","step":3,"time_s":1.0,"split":"x"}\n'

    def parts() -> Iterator[tuple[bytes, bool]]:
        yield epoch + b'{"kind":"step","step":4,"time_s":1.0}\n', False
        # The first line may be cut, so it counts with the next part.
        yield b'{"kind":"step","step":2,"time_s":1.0}\n', False
        raise AssertionError("read on")

    found = last_records.find(parts())
    assert (found.last["step"], found.epoch["step"]) == (4, 3)


def test_log_without_a_record_is_told_from_an_empty_one() -> None:
    assert last_records.find([]).has_records
    assert last_records.find([(b"", True)]).has_records
    assert not last_records.find([(b"no JSON\n", True)]).has_records


def test_files_are_not_joined_into_one_line() -> None:
    step = b'{"kind":"step","step":%d,"time_s":1.0}'
    # The first file ends in the middle of a line, which its writer could not finish.
    found = last_records.find([(step % 9 + b"\n", True), (step % 8 + b'\n{"kind":"st', True)])
    assert found.last["step"] == 9
