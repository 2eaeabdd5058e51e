"""The ledger of rows."""

from __future__ import annotations

from pathlib import Path

from small_runs import run_to_end
from training import NUM_ROWS

from raydc.chaos import ledger
from raydc.data import prepared
from raydc.storage import Storage
from raydc.tracking import events


def test_violations_name_lost_and_repeated_steps(tmp_path: Path, data: prepared.Prepared) -> None:
    run_to_end(tmp_path, data, "one")
    history = events.surviving(events.read(Storage(str(tmp_path / "one")), "metrics"))
    check = (0, NUM_ROWS["train"], 32)
    assert ledger.violations(history, *check) == []
    steps = [record for record in history if record["kind"] == "step"]
    assert ledger.violations(steps[:4] + steps[5:], *check) == ["step 5 is missing or out of order"]
    repeated = [*steps[:5], {**steps[4], "step": 6}, *steps[6:]]
    assert ledger.violations(repeated, *check) == ["step 6 has used 32 rows that are not its own"]
    assert ledger.violations(steps, 1, NUM_ROWS["train"], 32)
