"""Every two changes of one endpoint that begin at once: one is made, alias and endpoint agree."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import commander
import pytest
import small_models
from endpoints import Load, register

from raydc import client, engine, serve
from raydc import spec as specs
from raydc.errors import OvertakenError
from raydc.registry import Registry
from raydc.serve.control import switchover
from raydc.serve.control.traffic_history import record_changes
from raydc.serve.settings import Traffic, TrafficShare
from raydc.spec.sections import Spec
from raydc.storage import Storage
from raydc.tracking.alias_history import running_beside
from raydc.tracking.endpoint_record import read_record

# The state before each pair: a canary and a shadow run, and the alias can go back to version 1.
STATE = Traffic(
    version=2,
    canary=TrafficShare(version=3, fraction=0.5),
    shadow=TrafficShare(version=4, fraction=1.0),
)
COMMANDS: dict[str, tuple[str, dict[str, Any]]] = {
    "promote": ("promote", {"version": 3}),
    "rollback": ("rollback", {}),
    "canary": ("start", {"kind": "canary", "version": 1, "fraction": 0.2}),
    "canary-end": ("end", {"kind": "canary"}),
    "shadow": ("start", {"kind": "shadow", "version": 1, "fraction": 0.2}),
    "shadow-end": ("end", {"kind": "shadow"}),
    "deploy": ("deploy", {"version": 4}),
}
DEFAULT = {
    ("promote", "deploy"),
    ("canary", "shadow"),
    ("shadow-end", "rollback"),
}
Commander = subprocess.Popen[str]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    store = Storage(str(tmp_path_factory.mktemp("pairs") / "store"))
    for seed in range(4):
        register(store, small_models.table_features(), seed)
    return store


@pytest.fixture(scope="module")
def commanders(
    ray_engine: engine.Engine, endpoint: serve.Endpoint, storage: Storage
) -> Iterator[list[Commander]]:
    """Two processes that are connected to Ray and wait for a command."""
    file = str(Path(commander.__file__))
    with contextlib.ExitStack() as stack:
        both = []
        for _ in range(2):
            process = subprocess.Popen(
                [sys.executable, file, ray_engine.address, storage.uri],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            # Without input it ends by itself.
            stack.enter_context(process)
            both.append(process)
        for process in both:
            assert read(process) == "ready"
        yield both


def read(process: Commander) -> Any:
    """The next line of a commander; Ray may print others."""
    assert process.stdout is not None
    for line in process.stdout:
        with contextlib.suppress(ValueError):
            return json.loads(line)
    raise AssertionError(f"a commander ended with {process.wait()}")


def prepare(storage: Storage) -> None:
    """Brings endpoint and registry into the state before a pair."""
    registry = Registry(storage)

    def record(before: Traffic, now: Traffic) -> None:
        registry.set_alias("small", "production", 1)
        registry.set_alias("small", "production", STATE.version)
        record_changes(registry, "small", "production", before, now, "", "")

    found = switchover.change_traffic(storage, "small", "production", lambda _: STATE, 60.0, record)
    assert found is not None


@pytest.mark.parametrize(
    "pair",
    [
        pytest.param(pair, id="+".join(pair), marks=() if pair in DEFAULT else pytest.mark.soak)
        for pair in itertools.product(COMMANDS, repeat=2)
    ],
)
def test_of_two_changes_at_once_one_is_made(
    endpoint: serve.Endpoint,
    commanders: list[Commander],
    storage: Storage,
    spec: Spec,
    pair: tuple[str, str],
) -> None:
    prepare(storage)
    registry = Registry(storage)
    after = registry.history_number("small")
    with Load(endpoint.url) as load:
        for process, what in zip(commanders, pair, strict=True):
            name, arguments = COMMANDS[what]
            given = {"spec": specs.to_dict(spec)} if name == "deploy" else {}
            line = {"name": name, "arguments": arguments | given, "after": after}
            assert process.stdin is not None
            process.stdin.write(json.dumps(line) + "\n")
            process.stdin.flush()
        ends = [read(process) for process in commanders]
        load.grow()
    assert load.failures == []
    codes = sorted(code for code, _ in ends)
    # `raydc serve` decides by itself, so it may also come after the other.
    assert codes == [0, OvertakenError.exit_code] or ("deploy" in pair and codes == [0, 0]), ends
    check_agreement(storage, endpoint)


def check_agreement(storage: Storage, endpoint: serve.Endpoint) -> None:
    """Asserts that alias, history, record, declaration and replicas say the same."""
    registry = Registry(storage)
    version = registry.aliases("small")["production"]
    record = read_record(storage, "small", "production")
    assert record is not None
    assert (record.version, record.change) == (version, None)
    (status,) = [one for one in serve.status() if one["model"] == "small"]
    assert status["version"] == version
    beside = {kind: status[kind].version for kind in ("canary", "shadow") if status[kind]}
    recorded = running_beside(registry.history("small"))
    assert {kind: old for (_, kind), old in recorded.items()} == beside
    (said,) = client.metadata(endpoint.url, "small")["versions"]
    # With a canary, either of the two answers.
    assert int(said) in {version, beside.get("canary", version)}
