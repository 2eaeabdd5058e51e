"""`raydc init`: a spec from the first rows of a data set, with a reason for what it guesses."""

from __future__ import annotations

import random
from base64 import b64decode
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from raydc import spec as specs
from raydc.cli import main
from raydc.data import first_look
from raydc.features.images import encode_png


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["init", *arguments])
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result.exit_code, result.output


def written(name: str) -> tuple[specs.Spec, str]:
    """The spec as a command reads it, and its text."""
    assert CliRunner().invoke(main, ["validate", name]).exit_code == 0
    return specs.load(name), Path(name).read_text()


def write_customers(path: Path, num_rows: int = 60, delimiter: str = ",") -> None:
    choose = random.Random(0)
    lines = [["id", "joined", "code", "age", "bill", "plan", "empty", "churned"]]
    for row in range(num_rows):
        age = "?" if row % 7 == 0 else str(choose.randrange(18, 80))
        lines.append([
            str(row), f"2024-01-{row % 28 + 1:02d}", f"c{choose.random()}", age,
            f"{choose.random():.2f}", choose.choice(["basic", "plus"]), "",
            choose.choice(["yes", "no"]),
        ])  # fmt: skip
    path.write_text("\n".join(delimiter.join(line) for line in lines) + "\n")


def test_draft_leaves_out_what_cannot_be_learnt_from_and_says_why(here: Path) -> None:
    write_customers(here / "Our Customers.csv")
    code, output = init("Our Customers.csv", "--target", "churned")
    assert (code, "raydc run our-customers.yaml" in output) == (0, True), output
    spec, text = written("our-customers.yaml")
    assert (spec.name, spec.data.source) == ("our-customers", "Our Customers.csv")
    assert (spec.data.target, spec.data.task) == ("churned", "classification")
    assert spec.data.features.exclude == ["id", "code", "empty"]
    assert spec.data.features.columns == {"joined": "date"}
    share = (here / "Our Customers.csv").read_text().count(",yes") / 60
    for reason in (
        "- id                        # numbers the rows",
        "joined: date                # learnt from as time, month, day of the week and hour",
        "# an identifier or a text: 60 distinct values in 60 rows",
        "# has no value in the rows that were looked at",
        f"# 2 classes: no ({1 - share:.0%}), yes ({share:.0%})",
        "# small, because there are only 60 rows",
    ):
        assert reason in text
    assert spec.data.clean.missing_values == ["", "?"]
    assert spec.train.global_batch_size == 16


@pytest.mark.parametrize(
    ("values", "task"),
    [
        ([0.5, 1.5] * 15, "regression"),
        (list(range(30)), "regression"),
        ([1, 2, 3] * 10, "classification"),
        (["low", "high"] * 15, "classification"),
    ],
)
def test_task_follows_from_the_values_of_the_target(
    here: Path, values: list[object], task: str
) -> None:
    rows = "".join(f"{row % 7},{value}\n" for row, value in enumerate(values))
    (here / "rows.csv").write_text(f"x,y\n{rows}")
    assert init("rows.csv")[0] == 0
    assert written("rows.yaml")[0].data.task == task
    other = "regression" if task == "classification" else "classification"
    if "low" not in values:
        assert init("rows.csv", "--task", other, "--output", "other.yaml")[0] == 0
        assert written("other.yaml")[0].data.task == other


def test_draft_finds_delimiter_and_a_missing_header(here: Path) -> None:
    write_customers(here / "semicolons.csv", delimiter=";")
    assert init("semicolons.csv", "--target", "churned")[0] == 0
    assert written("semicolons.yaml")[0].data.csv.delimiter == ";"
    (here / "bare.csv").write_text("".join(f"{row % 5},{row % 3},a\n1,2,b\n" for row in range(20)))
    assert init("bare.csv", "--target", "column_3")[0] == 0
    assert written("bare.yaml")[0].data.csv.header is False


def test_draft_has_delimiter_and_header_where_both_are_unusual(here: Path) -> None:
    (here / "bare.csv").write_text("1;2;a\n2;1;b\n" * 20)
    assert init("bare.csv", "--target", "column_3")[0] == 0
    form = written("bare.yaml")[0].data.csv
    assert (form.delimiter, form.header) == (";", False)


STRANGE = ["no", "1e5", ".5", "it's", "a\\b", "a: b", "# c", "x\ny", "größe", "\u2028", "\x01"]


def test_draft_of_strange_names_is_read_as_they_are(here: Path) -> None:
    columns = {name: pa.array([None] * 30, pa.float64()) for name in STRANGE}
    columns |= {"x": pa.array([1, 2, 3] * 10), "y": pa.array(["a\nb: [", "# c"] * 15)}
    pq.write_table(pa.table(columns), here / "rows: 1.parquet")
    code, output = init("rows: 1.parquet")
    assert code == 0, output
    spec, _ = written("rows-1.yaml")
    assert (spec.data.source, spec.data.target) == ("rows: 1.parquet", "y")
    assert spec.data.features.exclude == STRANGE


def test_marks_of_missing_numbers_are_for_csv_only(here: Path) -> None:
    table = pa.table({"x": ["1", "?", "3"] * 10, "y": ["a", "b", "b"] * 10})
    pq.write_table(table, here / "rows.parquet")
    assert init("rows.parquet")[0] == 0
    # As preparation takes them: a text in Parquet is a category.
    assert written("rows.yaml")[0].data.clean.missing_values == [""]


def test_draft_of_images_brings_them_to_one_size(here: Path) -> None:
    for label, side in (("cat", 20), ("dog", 40)):
        (here / "pets" / label).mkdir(parents=True)
        for number in range(3):
            pixels = np.full((side, side + number, 3), 100, dtype=np.uint8)
            Image.fromarray(pixels).save(here / "pets" / label / f"{number}.png")
    assert init("pets")[0] == 0
    spec, _ = written("pets.yaml")
    assert spec.data.features.image_size == [16, 16]
    assert spec.model.name == "cnn"


def test_draft_of_a_target_without_values_drops_these_rows(here: Path) -> None:
    (here / "rows.csv").write_text("x,label\n" + "1,a\n2,b\n3,\n" * 10)
    assert init("rows.csv")[0] == 0
    spec, text = written("rows.yaml")
    assert spec.data.clean.missing_target == "drop"
    assert "# 10 rows have no target" in text


def test_only_the_first_rows_are_read(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_look, "MAX_ROWS", 50)
    write_customers(here / "rows.csv")
    code, output = init("rows.csv", "--target", "churned")
    assert (code, "the first 50 rows of 8 columns" in output) == (0, True), output


def test_init_writes_over_nothing(here: Path) -> None:
    write_customers(here / "rows.csv")
    (here / "rows.yaml").write_text("mine")
    code, output = init("rows.csv", "--target", "churned")
    assert (code, "rows.yaml exists already" in output) == (2, True), output
    assert (here / "rows.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "arguments", "code", "message"),
    [
        (None, [], 3, "does not exist"),
        ("a,b\n1,2\n", [], 2, "Give --target NAME. The columns are a, b."),
        ("amount,b\n1,2\n", ["--target", "amout"], 2, "Did you mean amount? There are amount, b."),
        ("a,b\n", ["--target", "b"], 3, "there are no rows"),
        ("b\n1\n2\n", ["--target", "b"], 2, "no column is left to learn from"),
        ("a,b\n1,2\n", ["--target", "b", "--name", "a b"], 2, "name"),
        ("a,b\n1,low\n", ["--target", "b", "--task", "regression"], 2, "'low' is not a number"),
        ("a,b\n1,\n", ["--target", "b"], 2, "none of the rows that were looked at has a value"),
    ],
)
def test_init_refuses_with_one_message_and_writes_nothing(
    here: Path, content: str | None, arguments: list[str], code: int, message: str
) -> None:
    if content is not None:
        (here / "rows.csv").write_text(content)
    found, output = init("rows.csv", *arguments)
    assert (found, message.lower() in output.lower()) == (code, True), output
    assert not list(here.glob("*.yaml"))


def test_sentences_are_proposed_as_texts(here: Path) -> None:
    words = ["call", "me", "when", "you", "are", "home", "for", "free", "lunch", "now"]
    texts = [" ".join(words[(row * step) % 10] for step in range(1, 9)) for row in range(200)]
    rows = [f"{text} {row},{'yes' if row % 2 else 'no'}" for row, text in enumerate(texts)]
    (here / "rows.csv").write_text("body,label\n" + "\n".join(rows) + "\n")
    assert init("rows.csv")[0] == 0
    spec, text = written("rows.yaml")
    assert spec.data.features.columns == {"body": "text"}
    assert spec.data.features.exclude == []
    assert "# sentences, learnt from as lists of tokens" in text


def test_dates_that_raydc_cannot_read_are_left_out(here: Path) -> None:
    lines = [f"{row % 28 + 1:02d}.01.2024,{row % 7},{'ab'[row % 2]}" for row in range(60)]
    (here / "rows.csv").write_text("day,n,label\n" + "\n".join(lines) + "\n")
    assert init("rows.csv")[0] == 0
    spec, text = written("rows.yaml")
    assert spec.data.features.exclude == ["day"]
    assert "# dates or times ('01.01.2024')" in text


def test_lists_without_items_are_left_out(here: Path) -> None:
    lists = pa.array([[], None] * 15, pa.list_(pa.float64()))
    table = pa.table({"v": lists, "x": [1, 2, 3] * 10, "label": ["a", "b"] * 15})
    pq.write_table(table, here / "rows.parquet")
    assert init("rows.parquet")[0] == 0
    spec, text = written("rows.yaml")
    assert spec.data.features.exclude == ["v"]
    assert "has no value in the rows that were looked at" in text
    assert spec.model.name == "mlp"


def test_json_lines_with_lists_of_texts_are_drafted_without_them(here: Path) -> None:
    rows = [f'{{"v": ["a", "{row}"], "x": {row % 3}, "label": "{row % 2}"}}' for row in range(30)]
    (here / "rows.jsonl").write_text("\n".join(rows) + "\n")
    code, output = init("rows.jsonl")
    assert code == 0, output
    assert written("rows.yaml")[0].data.features.exclude == ["v"]


def test_arrays_of_one_size_are_no_series(here: Path) -> None:
    arrays = pa.array([[row, 1.0, 2.0] for row in range(30)], pa.list_(pa.float64(), 3))
    pq.write_table(pa.table({"v": arrays, "label": ["a", "b"] * 15}), here / "rows.parquet")
    assert init("rows.parquet")[0] == 0
    assert written("rows.yaml")[0].model.name == "mlp"


def test_images_beside_other_columns_are_learnt_from_together(here: Path) -> None:
    pixels = np.zeros((8, 8, 1), dtype=np.uint8)
    reviews = [f"the {row * 7} tiles of room {row} are small and nice" for row in range(200)]
    table = pa.table({
        "photo": [b64decode(encode_png(pixels + row)) for row in range(200)],
        "x": [row % 7 for row in range(200)],
        "review": reviews,
        "label": ["a", "b"] * 100,
    })  # fmt: skip
    pq.write_table(table, here / "rows.parquet")
    code, output = init("rows.parquet")
    assert code == 0, output
    spec, _ = written("rows.yaml")
    assert spec.model.name == "fusion"
    assert spec.data.features.exclude == []
    assert spec.data.features.columns == {"review": "text"}


def test_target_of_lists_of_labels_is_refused_with_the_way_out(here: Path) -> None:
    table = pa.table({"tags": [["a"], ["b", "c"]] * 15, "x": [1, 2, 3] * 10})
    pq.write_table(table, here / "rows.parquet")
    code, output = init("rows.parquet", "--target", "tags")
    assert code != 0
    assert "task: multilabel" in output


def test_mark_of_a_missing_date_is_found_behind_all_dates(here: Path) -> None:
    first = date(2020, 1, 1)
    dates = [(first + timedelta(days=day)).isoformat() for day in range(1500)] + ["n/a"] * 3
    rows = [f"{text},{row % 3},{'ab'[row % 2]}" for row, text in enumerate(dates)]
    (here / "rows.csv").write_text("d,x,label\n" + "\n".join(rows) + "\n")
    assert init("rows.csv")[0] == 0
    spec, _ = written("rows.yaml")
    assert spec.data.features.columns == {"d": "date"}
    assert spec.data.clean.missing_values == ["", "n/a"]
