"""Commands of one model that start at once, or are interrupted.

Alias and endpoint agree, and no request fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from endpoints import WAIT_S, Load, wait_for

from raydc import client, serve
from raydc import spec as specs
from raydc.errors import OvertakenError
from raydc.registry import Registry
from raydc.spec.sections import Spec
from raydc.storage import Storage
from raydc.tracking.endpoint_record import read_record


def command(path: Path, name: str, *arguments: str) -> subprocess.Popen[str]:
    """A raydc command in a process of its own, which has to find the endpoint in the store."""
    code = "from raydc.cli import main; main()"
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, "-c", code, name, str(path), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


CANARY = ("canary", "--version", "1", "--fraction", "0.5")


# Other pairs begin in tests/integration/test_pairs_of_commands.py, in processes that are there.
@pytest.mark.parametrize(
    "other",
    [
        pytest.param(("rollback",), id="rollback"),
        pytest.param(CANARY, id="canary", marks=pytest.mark.soak),
    ],
)
def test_alias_and_endpoint_agree_after_two_commands_at_once(
    first: serve.Endpoint, storage: Storage, spec: Spec, tmp_path: Path, other: tuple[str, ...]
) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(specs.to_dict(spec)))
    serve.promote(storage, "small", "production", 2)
    with Load(first.url) as load:
        both = [command(path, "promote", "--version", "1"), command(path, *other)]
        said = [one.communicate(timeout=2 * WAIT_S)[0] for one in both]
        load.grow()
    codes = [one.returncode for one in both]
    # The second may also have come after the first; a canary of the version that answers by then
    # is refused.
    assert set(codes) <= {0, 8, OvertakenError.exit_code}, said
    assert 0 in codes, said
    assert load.failures == []
    record = read_record(storage, "small", "production")
    assert record is not None
    assert (record.version, record.change) == (
        Registry(storage).aliases("small")["production"],
        None,
    )
    (status,) = [one for one in serve.status() if one["model"] == "small"]
    assert status["version"] == record.version
    if status["canary"] is None:
        assert client.metadata(first.url, "small")["versions"] == [str(record.version)]
    # For the test that comes next.
    serve.promote(storage, "small", "production", 1)


def test_promote_that_is_interrupted_is_taken_back(
    first: serve.Endpoint, storage: Storage, spec: Spec, tmp_path: Path
) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(specs.to_dict(spec)))

    def has_begun() -> bool:
        record = read_record(storage, "small", "production")
        return record is not None and record.change is not None

    with Load(first.url) as load:
        one = command(path, "promote", "--version", "2")
        wait_for(has_begun, "the change begins")
        one.terminate()
        said = one.communicate(timeout=2 * WAIT_S)[0]
        load.grow()
    wanted = f"interrupted; the change of {first.url} was taken back\n"
    assert (one.returncode, said, load.failures) == (143, wanted, [])
    record = read_record(storage, "small", "production")
    assert record is not None
    assert (record.version, record.change) == (1, None)
    assert Registry(storage).aliases("small")["production"] == 1
    assert [one["version"] for one in serve.status() if one["model"] == "small"] == [1]
