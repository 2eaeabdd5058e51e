"""Files of raw rows that lack values, without Ray: the table of a block in, predictions out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import small_models

from raydc import evaluate
from raydc.data import sources
from raydc.data.readers import Reader
from raydc.errors import DataError
from raydc.spec.sections import Data
from raydc.storage import Storage


def predict(folder: Path, text: str, always_given: tuple[str, ...]) -> Any:
    """Predicts the rows of a CSV file with a small model whose columns are age, hours and job."""
    bundle_folder = Storage(str(folder / "bundle"))
    features = replace(
        small_models.table_features(), missing_values=("", "?"), always_given=always_given
    )
    small_models.write_bundle(bundle_folder, features)
    source = folder / "rows.csv"
    source.write_text(text)
    data = Data(source=str(source), target="answer")
    layout = sources.locate(data)
    predictor = evaluate._Predictor(bundle_folder, layout, "cpu")
    calls = Reader.for_layout(layout, data).pieces(layout.files)
    tables = [predictor(table) for call in calls for table in call()]
    try:
        return evaluate._write(_Kept(tables), tables)
    except DataError as error:
        return str(error)


class _Kept:
    def __init__(self, tables: list[pa.Table]) -> None:
        self.tables = tables

    def write(self, table: pa.Table) -> None:
        assert "prediction" in table.column_names


@pytest.mark.parametrize(
    ("text", "always_given", "expected"),
    [
        ("age,hours,job\n1,2,cook\n,,\n", (), 2),
        ("age,hours,job\n1,2,cook\n3,,cook\n", ("age", "job"), 2),
        ("age,hours,job\n1,2,cook\n,3,?\n", ("age", "job"), "no value for 'age', 'job'\n"),
        ("age,hours,job\n1,2,cook\n3,,cook\n", ("hours",), "no value for 'hours'\n"),
        ("age,job\n1,cook\n", (), "column 'hours' is missing"),
        ("age,job\n1,cook\n", ("age", "hours"), "column 'hours' is missing"),
    ],
)
def test_file_lacks_only_values_that_training_rows_lacked(
    tmp_path: Path, text: str, always_given: tuple[str, ...], expected: Any
) -> None:
    found = predict(tmp_path, text, always_given)
    if isinstance(expected, int):
        assert found == expected
    else:
        assert expected in found
    if "no value" in str(expected):
        # The place in the file, not in a batch.
        assert "rows.csv" in found
        assert "rows[" not in found
