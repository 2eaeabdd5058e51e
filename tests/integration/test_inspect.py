"""`raydc inspect` on Ray: the same findings at any parallelism, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from preparing import people, spec_text, write_csv

from raydc.data import inspection
from raydc.spec import loads, resolve

pytestmark = pytest.mark.usefixtures("ray_engine")


def test_inspection_is_the_same_at_any_parallelism(tmp_path: Path) -> None:
    rows = people(600)
    for part in range(3):
        write_csv(tmp_path / "rows" / f"{part}.csv", rows[200 * part : 200 * part + 200])
    data = {"source": str(tmp_path / "rows"), "target": "height", "task": "regression"}
    data["clean"] = {"missing": "drop"}
    spec = resolve(loads(spec_text(tmp_path / "storage", data)))
    one, four = (inspection.run(spec, lambda line: None, parallelism) for parallelism in (1, 4))
    assert one == four
    assert sum(one.num_rows.values()) + one.num_dropped == 600
    assert not (tmp_path / "storage").exists()
