"""The column that groups rows for rankings: stored beside rows, whether it is an input or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prepared_here import prepare_here

from raydc.data import shards
from raydc.errors import DataError

USERS = ("ann", "bob", "007", "7")


def section(folder: Path, users: tuple[str, ...] = USERS, **fields: Any) -> dict[str, Any]:
    lines = [f"{users[row % len(users)]},{row},{row % 5}" for row in range(60)]
    (folder / "rows.csv").write_text("\n".join(["user,x,stars", *lines]) + "\n")
    features = {"columns": {"user": "categorical"}, **fields.pop("features", {})}
    return {
        "source": str(folder / "rows.csv"),
        "target": "stars",
        "task": "regression",
        "query": "user",
        "features": features,
        **fields,
    }


def groups_of(folder: Path, data: dict[str, Any], **arguments: Any) -> dict[int, int]:
    """Group of each row by the number of the row."""
    prepared, _ = prepare_here(folder, data, **arguments)
    found: dict[int, int] = {}
    for split in shards.SPLITS:
        rows = shards.open_rows(prepared.folder, split)
        assert rows.queries is not None
        found |= dict(zip(rows.ids.tolist(), rows.queries.tolist(), strict=True))
    return found


@pytest.mark.parametrize("is_input", [True, False])
def test_rows_of_one_value_have_one_number(tmp_path: Path, is_input: bool) -> None:
    features = {} if is_input else {"columns": {}, "exclude": ["user"]}
    groups = groups_of(tmp_path, section(tmp_path, features=features), rows_per_block=7)
    assert len(groups) == 60
    by_user = [{groups[row] for row in range(user, 60, 4)} for user in range(4)]
    assert [len(one) for one in by_user] == [1] * 4
    # A code is not the number that it looks like.
    assert len(set.union(*by_user)) == 4


def test_blocks_change_no_number(tmp_path: Path) -> None:
    first = groups_of(tmp_path / "a", section(tmp_path), rows_per_block=5)
    assert groups_of(tmp_path / "b", section(tmp_path), rows_per_block=60) == first


def test_a_data_set_without_groups_has_none(tmp_path: Path) -> None:
    prepared, _ = prepare_here(tmp_path, section(tmp_path, query=None))
    rows = shards.open_rows(prepared.folder, "train")
    assert rows.queries is None
    assert rows.gather(np.arange(2))[1].shape == (2,)


def test_a_row_without_a_group_is_refused_or_left_out(tmp_path: Path) -> None:
    data = section(tmp_path, ("ann", "", "bob"))
    with pytest.raises(DataError, match=r"rows.csv: row 2: user: has no value, so that it is rank"):
        prepare_here(tmp_path, data)
    data["clean"] = {"on_error": "drop"}
    assert len(groups_of(tmp_path, data)) == 40


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.query: there is no column 'usr'"):
        prepare_here(tmp_path, section(tmp_path, query="usr"))
