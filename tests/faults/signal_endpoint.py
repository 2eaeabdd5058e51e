"""An endpoint whose changes are disturbed by signals, and what must hold of it afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import small_models
import yaml
from signalled import FORCED, SIGNALS, WAIT_S, Command, processes_in, started, wait_until

from raydc import client
from raydc import spec as specs
from raydc.errors import RaydcError
from raydc.registry import Registry
from raydc.storage import Storage
from raydc.tracking import alias_history, endpoint_record, lease

MODEL, ALIAS = "small", "production"
_STATUS = """
import json, sys
from raydc import engine, serve
engine.connect(sys.argv[1])
shown = [{key: one[key] for key in ("model", "version")}
         | {kind: one[kind] and one[kind].version for kind in ("canary", "shadow")}
         for one in serve.status()]
print(json.dumps(shown))
"""


class Served:
    """A running `raydc serve` of a model with two versions, and its store.

    Args:
        folder: Has the spec and the store.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.storage = folder, Storage(str(folder / "store"))
        self.registry = Registry(self.storage)
        for seed in range(2):
            made = self.storage / f"made-{seed}"
            small_models.write_bundle(made, small_models.table_features(), seed)
            self.registry.register(MODEL, made, {"seed": seed})
        self.registry.set_alias(MODEL, ALIAS, 1)
        spec = small_models.small_spec(
            self.storage.uri,
            ray_actor_options={"num_cpus": 0.1},
            autoscaling_config={"max_replicas": 1},
        )
        self.spec = folder / "spec.yaml"
        self.spec.write_text(yaml.safe_dump(specs.to_dict(spec)))

    def record(self) -> endpoint_record.EndpointRecord | None:
        return endpoint_record.read_record(self.storage, MODEL, ALIAS)

    def alias(self) -> int:
        return self.registry.aliases(MODEL)[ALIAS]

    def answering(self) -> int | None:
        """Version that answers; None if none does."""
        record = self.record()
        try:
            return int(client.health(record.url, timeout_s=2.0)["version"]) if record else None
        except RaydcError:
            return None

    def declared(self) -> list[dict[str, Any]]:
        """What Ray Serve is told to run."""
        record = self.record()
        assert record is not None
        done = subprocess.run(
            [sys.executable, "-c", _STATUS, record.ray_address],
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=True,
            env={key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"},
        )
        shown: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
        return shown

    def beside(self) -> dict[str, int | None]:
        """Version of the canary and of the shadow, by the history."""
        running = alias_history.running_beside(self.registry.history(MODEL))
        return {kind: running.get((ALIAS, kind)) for kind in ("canary", "shadow")}

    def check_agreement(self) -> None:
        """Asserts that alias, history, record and endpoint agree, and that no change is open."""
        record, alias = self.record(), self.alias()
        assert record is not None
        assert (record.version, record.change) == (alias, None)
        self.check_no_claim()
        assert self.declared() == [{"model": MODEL, "version": alias, **self.beside()}]
        wait_until(lambda: self.answering() == alias, f"answer of version {alias}")

    def check_no_claim(self) -> None:
        assert not list(self.folder.rglob(lease.FILE))


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[Served, Command]]:
    served = Served(folder)
    own = folder / "server"
    own.mkdir()
    with started(own, folder, "serve", str(served.spec)) as command:
        command.wait_for(lambda: command.says("stays up"), "endpoint")
        yield served, command


def named(cases: list[tuple[str, ...]]) -> list[Any]:
    return [pytest.param(*case, id="-".join(case).replace(" ", "-")) for case in cases]


def disturb(
    command: Command, how: str, own: Path, record_property: Callable[[str, object], None]
) -> tuple[int, list[str]]:
    """Disturbs a command and waits until nothing of it runs; returns its code and its lines."""
    since_s = time.monotonic()
    command.disturb(how)
    code = command.wait()
    record_property("ended_s", round(time.monotonic() - since_s, 1))
    record_property("code", code)
    wait_until(lambda: not processes_in(own), f"end of {processes_in(own)}")
    record_property("all_gone_s", round(time.monotonic() - since_s, 1))
    return code, command.errors()


def check_interrupted(said: tuple[int, list[str]], how: str) -> None:
    assert said[0] == SIGNALS[how.removeprefix("group ")], said
    assert len(said[1]) == 1, said
    assert said[1][0].startswith("interrupted"), said
    assert FORCED not in said[1][0], said
