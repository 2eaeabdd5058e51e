"""Rows of a real PostgreSQL, which the test starts for itself."""

from __future__ import annotations

import datetime
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from prepared_here import prepare_here
from required import absent

from raydc.data import shards
from raydc.errors import DataError


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """URI of a database with a table of 90 rows."""
    try:
        import psycopg
    except ImportError:
        absent("no psycopg, which is an extra")
    # Debian puts the server where no PATH looks.
    folders = [*map(str, Path("/usr/lib/postgresql").glob("*/bin")), os.environ["PATH"]]
    path = os.pathsep.join(folders)
    initdb, postgres = (shutil.which(name, path=path) for name in ("initdb", "postgres"))
    if initdb is None or postgres is None:
        absent("no PostgreSQL, the Debian package postgresql")
    # PostgreSQL refuses to run as root, and its Debian package has a user for it.
    user = "postgres" if os.getuid() == 0 else None
    folder = tempfile.mkdtemp(prefix="raydc-pg-", dir="/tmp")
    if user is not None:
        shutil.chown(folder, user)
    uri = f"postgresql:///postgres?host={folder}&user=postgres"
    data = f"{folder}/data"
    subprocess.run(
        [initdb, "-D", data, "-U", "postgres", "-A", "trust", "-N"],
        user=user, cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    server = subprocess.Popen(
        [postgres, "-D", data, "-k", folder, "-h", "", "-F"],
        user=user, cwd=folder, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert server.stderr is not None
        # Its log says when it takes connections; it ends without the line if it fails.
        assert any("ready to accept connections" in line for line in server.stderr)
        with psycopg.connect(uri) as connection:
            connection.execute(
                "CREATE TABLE people (id bigint, a numeric(10, 2), day date, ok bool, y text)"
            )
            for row in range(90):
                day = datetime.date(2024, 1, 1) + datetime.timedelta(row)
                cells = (row, None if row % 9 == 0 else row / 4, day, row % 3 == 0, "ny"[row % 2])
                connection.execute("INSERT INTO people VALUES (%s, %s, %s, %s, %s)", cells)
        yield uri
    finally:
        server.terminate()
        server.wait(timeout=60)
        shutil.rmtree(folder)


def test_rows_of_postgres_keep_their_types(tmp_path: Path, database: str) -> None:
    source = {"sql": "SELECT * FROM people", "connection": database, "key": "id"}
    prepared, _ = prepare_here(tmp_path, {"source": source, "target": "y"})
    kinds = {name: column.kind for name, column in prepared.features.columns.items()}
    assert kinds == {"a": "numeric", "day": "numeric", "ok": "categorical"}
    assert sum(prepared.num_rows.values()) == 90
    golden = prepared.folder.read_json("golden_rows.json")[0]
    row = int(shards.open_rows(prepared.folder, "test").ids[0])
    assert golden["day"] == 1704067200 + 86400 * row
    assert golden["ok"] == str(row % 3 == 0).lower()
    source["sql"] += " ORDER BY y, a"
    assert prepare_here(tmp_path, {"source": source, "target": "y"})[0].reused


def test_error_of_postgres_is_one_message(tmp_path: Path, database: str) -> None:
    source = {"sql": "SELECT * FROM pepole", "connection": database, "key": "id"}
    with pytest.raises(DataError, match=r'failed: relation "pepole" does not exist') as caught:
        prepare_here(tmp_path, {"source": source, "target": "y"})
    assert "\n" not in caught.value.message
