"""One change of a model at a time: the second is refused at once, and a killed one frees it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from stores import make_other_versions, make_storage

from raydc import serve
from raydc.errors import OvertakenError
from raydc.registry import Registry
from raydc.serve.control import rollout, switchover
from raydc.serve.control.exclusive_change import hold_change
from raydc.serve.settings import Traffic, TrafficShare
from raydc.storage import Storage

HOLDER = """
import sys
from raydc.serve.control.exclusive_change import hold_change
from raydc.storage import Storage
with hold_change(Storage(sys.argv[1]), "digits", 1):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """A model `digits` with versions 1 to 3, of which `production` is 1."""
    made = make_storage(tmp_path)
    make_other_versions(made, 2)
    return made


def test_second_change_is_refused_until_the_first_is_over_or_dead(storage: Storage) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, storage.uri],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        for change in (
            lambda: serve.promote(storage, "digits", "production", 2, live=False),
            lambda: rollout.start(storage, "digits", "production", "canary", 2, 0.1),
        ):
            with pytest.raises(OvertakenError, match=f"process {holder.pid} on .* is changing"):
                change()
        assert Registry(storage).aliases("digits") == {"production": 1}
    finally:
        holder.kill()
        holder.wait()
    assert serve.promote(storage, "digits", "production", 2, live=False).version == 2


def test_change_that_was_decided_before_another_one_is_overtaken(storage: Storage) -> None:
    number = Registry(storage).history_number("digits")
    serve.promote(storage, "digits", "production", 2, live=False, after=number)
    for late in (
        lambda: serve.promote(storage, "digits", "production", 3, live=False, after=number),
        lambda: serve.rollback(storage, "digits", "production", live=False, after=number),
        lambda: rollout.start(storage, "digits", "production", "canary", 3, 0.1, after=number),
        lambda: rollout.end(storage, "digits", "production", "canary", after=number),
    ):
        with pytest.raises(OvertakenError, match="'set' of alias 'production', version 1 to 2"):
            late()
    assert Registry(storage).aliases("digits") == {"production": 2}


class FakeEndpoint:
    """Stands in for a running endpoint: applies each change, and takes it back if it fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, traffic: Traffic) -> None:
        self.traffic = traffic
        monkeypatch.setattr(switchover, "change_traffic", self.change_traffic)

    def change_traffic(
        self,
        storage: Storage,
        model: str,
        alias: str,
        change: switchover.Change,
        ready_timeout_s: float,
        commit: switchover.Commit,
        afterwards: switchover.Commit = lambda _before, _after: None,
    ) -> tuple[str, Traffic]:
        before, self.traffic = self.traffic, change(self.traffic)
        try:
            commit(before, self.traffic)
        except BaseException:
            self.traffic = before
            raise
        afterwards(before, self.traffic)
        return "http://127.0.0.1:8000", before


def test_endpoint_and_history_change_together(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeEndpoint(monkeypatch, Traffic(version=1))
    rollout.start(storage, "digits", "production", "canary", 2, 0.1)
    assert fake.traffic.canary == TrafficShare(version=2, fraction=0.1)
    moved = serve.promote(storage, "digits", "production", 2)
    assert (moved.version, moved.url) == (2, "http://127.0.0.1:8000")
    assert (fake.traffic, Registry(storage).aliases("digits")) == (
        Traffic(version=2),
        {"production": 2},
    )
    moves = [(one["kind"], one["to"]) for one in Registry(storage).history("digits")]
    assert moves[1:] == [("canary", 2), ("set", 2), ("canary ended", None)]


def test_writer_without_the_lease_is_noticed_when_the_change_is_recorded(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeEndpoint(monkeypatch, Traffic(version=1))
    apply = fake.change_traffic

    def slip_in(*arguments: object) -> object:
        Registry(storage).set_alias("digits", "production", 3)
        return apply(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(switchover, "change_traffic", slip_in)
    for change in (
        lambda: serve.promote(storage, "digits", "production", 2),
        lambda: rollout.start(storage, "digits", "production", "canary", 2, 0.1),
    ):
        Registry(storage).set_alias("digits", "production", 1)
        with pytest.raises(OvertakenError):
            change()
        assert fake.traffic == Traffic(version=1)
        assert Registry(storage).aliases("digits") == {"production": 3}


def test_lease_is_held_only_inside_the_block(storage: Storage) -> None:
    with hold_change(storage, "digits", 1), hold_change(storage, "digits", 1):
        pass
    assert not (storage / "models/digits/change").exists("driver.json")
