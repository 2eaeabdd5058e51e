"""Sources of every kind with fields of every kind, small, for tests that prepare them."""

from __future__ import annotations

import gzip
import io
import json
import sqlite3
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

NUM_ROWS, NUM_IMAGES = 150, 60
FEATURES: dict[str, Any] = {
    "columns": {"when": "date", "review": "text"},
    "encodings": {
        "shop": "hashing",
        "size": "ordinal",
        "user": "target",
        "article": "embedding",
    },
    "hash_buckets": 16,
    "scales": {"log": "log", "rank": "quantile", "robust": "robust", "range": "min_max"},
    "text": {"vocabulary": 300},
    "max_categories": 20,
}
CLEAN: dict[str, Any] = {
    "indicator": True,
    "columns": {
        "range": {"outliers": "clip"},
        "robust": {"missing": "median"},
        "city": {"missing": "most_frequent"},
    },
}


def rows(num_rows: int = NUM_ROWS) -> list[dict[str, Any]]:
    """Rows with numbers, categories, a date and a text; some cells are missing."""
    choose = np.random.default_rng(7)
    words = ["good", "bad", "late", "naïve", "again", "never"]
    found = []
    for row in range(num_rows):
        size, user = int(choose.integers(3)), int(choose.integers(30))
        found.append(
            {
                "id": row,
                "plain": round(float(choose.normal()), 3) if row % 9 else None,
                "log": int(choose.integers(-5, 9000)),
                "rank": int(choose.integers(0, 9)),
                "robust": round(float(choose.normal(5, 2)), 2) if row % 7 else None,
                "range": round(float(choose.exponential()), 2),
                "city": ("Rome", "Oslo", "Lima")[int(choose.integers(3))] if row % 8 else None,
                "shop": f"shop {choose.integers(40)}",
                "size": ("S", "M", "L")[size] if row % 10 else None,
                "user": f"u{user}",
                "article": f"a{choose.integers(25)}",
                "when": f"20{row % 9 + 10}-0{row % 8 + 1}-1{row % 7}T{row % 14 + 10}:30:00",
                "review": " ".join(words[int(one)] for one in choose.integers(0, 6, row % 5 + 1)),
                "y": "yes" if choose.random() < 0.2 + user / 50 else "no",
            }
        )
    return found


def stream() -> Iterator[dict[str, Any]]:
    """The rows, as a user's function yields them."""
    yield from rows()


def _table(source: Any, *, is_keyed: bool = False) -> dict[str, Any]:
    exclude = {} if is_keyed else {"exclude": ["id"]}
    return {
        "source": source,
        "target": "y",
        "features": {**FEATURES, **exclude},
        "clean": CLEAN,
    }


def _delimited(folder: Path, name: str, sign: str, num_rows: int = NUM_ROWS) -> str:
    found = rows(num_rows)
    lines = [
        list(found[0]),
        *(["" if v is None else str(v) for v in row.values()] for row in found),
    ]
    text = "\n".join(sign.join(line) for line in lines) + "\n"
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def csv(folder: Path, num_rows: int = NUM_ROWS) -> dict[str, Any]:
    return _table(_delimited(folder, "rows.csv", ",", num_rows))


def tsv(folder: Path) -> dict[str, Any]:
    return _table(_delimited(folder, "rows.tsv", "\t"))


def _steps(row: int) -> list[float]:
    """A list of numbers, of a length of its own."""
    return np.random.default_rng(row).normal(size=row % 6 + 1).round(2).tolist()  # type: ignore[no-any-return]


def json_lines(folder: Path) -> dict[str, Any]:
    """Lists of numbers beside the columns."""
    found = [{**row, "steps": _steps(row["id"])} for row in rows()]
    lines = [json.dumps({k: v for k, v in row.items() if v is not None}) for row in found]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return _table(str(folder / "rows.jsonl"))


def parquet(folder: Path) -> dict[str, Any]:
    """Real dates, lists of numbers, and a picture beside the columns, which stays a file."""
    found = rows()
    columns: dict[str, Any] = {name: [row[name] for row in found] for name in found[0]}
    columns["when"] = [datetime.fromisoformat(one) for one in columns["when"]]
    columns["steps"] = [_steps(row) for row in range(NUM_ROWS)]
    columns["photo"] = [_picture(row, "JPEG") for row in range(NUM_ROWS)]
    pq.write_table(pa.table(columns), folder / "rows.parquet", row_group_size=40)
    return {**_table(str(folder / "rows.parquet")), "image_storage": "encoded"}


def joined(folder: Path) -> dict[str, Any]:
    """Columns of another table, some of which have encodings."""
    users = [f"u{n},{n * 7 % 5},{('north', 'south', 'east')[n % 3]}" for n in range(25)]
    (folder / "users.csv").write_text("user,level,region\n" + "\n".join(users) + "\n")
    data = csv(folder)
    encodings = {**FEATURES["encodings"], "region": "target"}
    joins = [{"path": str(folder / "users.csv"), "key": "user", "on": "user"}]
    return {**data, "joins": joins, "features": {**data["features"], "encodings": encodings}}


def windows(folder: Path) -> dict[str, Any]:
    """Windows of three series with other columns beside them."""
    found = [
        {"time": 60 * (n // 3), "key": "abc"[n % 3], "load": n * 37 % 101 / 10, "day": n % 7}
        for n in range(3 * NUM_ROWS)
    ]
    lines = [",".join(found[0]), *(",".join(map(str, row.values())) for row in found)]
    (folder / "series.csv").write_text("\n".join(lines) + "\n")
    return {
        "source": str(folder / "series.csv"),
        "task": "regression",
        "target": "load",
        "split": {"by": "time", "column": "time"},
        "windows": {"time": "time", "key": "key", "length": 4, "columns": ["load"]},
        "features": {
            "columns": {"day": "categorical", "key": "categorical"},
            "encodings": {"day": "ordinal", "key": "target"},
        },
    }


def sql(folder: Path) -> dict[str, Any]:
    found = rows()
    path = folder / "rows.db"
    with closing(sqlite3.connect(path)) as database:
        names = ", ".join(f'"{name}"' for name in found[0])
        database.execute(f"CREATE TABLE rows ({names})")
        marks = ", ".join("?" * len(found[0]))
        database.executemany(
            f"INSERT INTO rows VALUES ({marks})",
            [tuple(row.values()) for row in found],
        )
        database.commit()
    query = {"sql": "SELECT * FROM rows", "connection": f"sqlite:///{path}", "key": "id"}
    return _table(query, is_keyed=True)


def function(folder: Path) -> dict[str, Any]:
    return _table({"function": "mixed_sources:stream", "key": "id"}, is_keyed=True)


def hugging_face(folder: Path) -> dict[str, Any]:
    """Rows without a key, with lists and a picture, and lists of another table beside them."""
    import datasets

    found = [
        {**row, "steps": _steps(row["id"]), "photo": _picture(row["id"], "PNG")} for row in rows()
    ]
    columns = {name: [row[name] for row in found] for name in found[0] if name != "id"}
    made = datasets.Dataset.from_dict(columns).cast_column("photo", datasets.Image())
    made.save_to_disk(str(folder / "set"))
    users = {"user": [f"u{n}" for n in range(25)], "visits": [_steps(n + 1) for n in range(25)]}
    pq.write_table(pa.table(users), folder / "users.parquet")
    joins = [{"path": str(folder / "users.parquet"), "key": "user", "on": "user"}]
    return {**_table({"huggingface": str(folder / "set")}, is_keyed=True), "joins": joins}


def torchvision(folder: Path) -> dict[str, Any]:
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind, content in _idx_files():
            (raw / f"{part}-{kind}-ubyte").write_bytes(content)
    return {"source": {"torchvision": "MNIST", "folder": str(folder)}}


def numpy(folder: Path) -> dict[str, Any]:
    """Numbers, categories and dates in arrays; a series of numbers is columns of its own."""
    found = [{**row, "plain": row["plain"] or 0.0} for row in rows()]
    names = ("plain", "log", "rank", "range", "shop", "user", "article", "when", "y")
    arrays = {name: np.array([row[name] for row in found]) for name in names}
    arrays["steps"] = np.random.default_rng(0).normal(size=(NUM_ROWS, 3))
    np.savez(folder / "rows.npz", **arrays)
    encodings = {k: v for k, v in FEATURES["encodings"].items() if k in names}
    scales = {k: v for k, v in FEATURES["scales"].items() if k in names}
    features = {"columns": {"when": "date"}, "encodings": encodings, "scales": scales}
    return {"source": str(folder / "rows.npz"), "target": "y", "features": features}


def _picture(row: int, format_: str, size: tuple[int, int] = (8, 7)) -> bytes:
    choose, content = np.random.default_rng(row), io.BytesIO()
    small = choose.integers(0, 256, (3, 3, 3), dtype=np.uint8)
    Image.fromarray(small).resize(size).save(content, format_)
    return content.getvalue()


def _photos(folder: Path, storage: str) -> dict[str, Any]:
    for row in range(NUM_IMAGES):
        path = folder / "photos" / ("cat", "dog")[row % 2] / f"{row}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_picture(row, "JPEG", (8 + row % 3, 9)))
    features = {"image_size": [6, 7]}
    return {"source": str(folder / "photos"), "features": features, "image_storage": storage}


def encoded_images(folder: Path) -> dict[str, Any]:
    return _photos(folder, "encoded")


def decoded_images(folder: Path) -> dict[str, Any]:
    return _photos(folder, "decoded")


def tar(folder: Path) -> dict[str, Any]:
    with tarfile.open(folder / "photos.tar", "w") as archive:
        for row in range(NUM_IMAGES):
            label = json.dumps({"label": ("cat", "dog")[row % 2], "weight": row % 7}).encode()
            for name, content in ((f"{row}.png", _picture(row, "PNG")), (f"{row}.json", label)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return {"source": str(folder / "photos.tar")}


def _idx_files() -> Iterator[tuple[str, bytes]]:
    """Kind and content of a file of pictures and of one of labels."""
    choose = np.random.default_rng(0)
    for kind, values in (
        ("images-idx3", choose.integers(0, 256, (NUM_IMAGES, 6, 5), dtype=np.uint8)),
        ("labels-idx1", choose.integers(0, 3, NUM_IMAGES, dtype=np.uint8)),
    ):
        head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, dtype=">u4").tobytes()
        yield kind, head + values.tobytes()


def idx(folder: Path) -> dict[str, Any]:
    for kind, content in _idx_files():
        (folder / f"train-{kind}-ubyte.gz").write_bytes(gzip.compress(content))
    return {
        "source": {
            "images": str(folder / "train-images-idx3-ubyte.gz"),
            "labels": str(folder / "train-labels-idx1-ubyte.gz"),
        }
    }


SOURCES: dict[str, Callable[[Path], dict[str, Any]]] = {
    made.__name__: made
    for made in (
        csv,
        tsv,
        json_lines,
        parquet,
        joined,
        windows,
        sql,
        function,
        hugging_face,
        torchvision,
        numpy,
        encoded_images,
        decoded_images,
        tar,
        idx,
    )
}
