"""Prepared content: one hash at any size of the blocks and order of the tasks, for every kind."""

from __future__ import annotations

from pathlib import Path

import mixed_sources
import numpy as np
import pytest
from prepared_here import prepare_here

from raydc.data import shards
from raydc.data.prepared import Prepared, read_golden_rows
from raydc.features.record import Inputs, Ragged, Record, expanded
from raydc.storage import sha256


def _contents(prepared: Prepared) -> dict[str, str]:
    path = prepared.folder.local_path
    return {file.name: sha256(file.read_bytes()) for file in sorted(path.iterdir())}


def _fields(x: Inputs) -> dict[str, bytes]:
    if not isinstance(x, Record):
        return {"x": x.tobytes()}
    return {
        name: one.values_N.tobytes() + one.offsets.tobytes()
        if isinstance(one, Ragged)
        else one.tobytes()
        for name, one in x.fields.items()
    }


@pytest.mark.parametrize("kind", mixed_sources.SOURCES)
def test_content_depends_on_no_cut_and_is_what_is_served(tmp_path: Path, kind: str) -> None:
    data = mixed_sources.SOURCES[kind](tmp_path)
    made = []
    for cut in (None, 13, 50):
        (tmp_path / f"cut-{cut}").mkdir()
        made.append(prepare_here(tmp_path / f"cut-{cut}", data, rows_per_block=cut))
    first, lines = made[0]
    for other, said in made[1:]:
        assert _contents(other) == _contents(first)
        assert said == lines
    golden = read_golden_rows(first.folder)
    rows = shards.open_rows(first.folder, "test")
    x, _ = rows.gather(np.arange(len(golden)))
    served = first.features.apply_given(first.features.from_json_rows(golden))
    assert _fields(served) == _fields(expanded(x))


def test_sources_with_the_same_rows_give_the_same_features(tmp_path: Path) -> None:
    found = []
    for kind in ("csv", "tsv", "json_lines"):
        (tmp_path / kind).mkdir()
        data = mixed_sources.SOURCES[kind](tmp_path / kind)
        found.append(prepare_here(tmp_path / kind, data)[0].features)
    lists = found[2].columns.keys() - found[0].columns.keys()
    assert lists == {"steps"}
    same = {name: one for name, one in found[2].columns.items() if name != "steps"}
    assert found[0].columns == found[1].columns == same
    kinds = {column.kind for column in found[0].columns.values()}
    assert kinds >= {"numeric", "date", "text", "categorical"}
    assert kinds >= {"hashing", "ordinal", "target", "embedding"}
