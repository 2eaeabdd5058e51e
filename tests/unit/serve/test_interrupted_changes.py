"""Signals in each part of a change of an endpoint: it is taken back, or whole and recorded."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from fake_serve import FakeServe, make_application, make_settings, record, switch

from raydc.engine import interruption, serve_client
from raydc.registry import Registry
from raydc.serve.control import deploy, switchover
from raydc.serve.control.application import read_settings
from raydc.serve.settings import Traffic, TrafficShare
from raydc.storage import Storage


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The storage of `make_settings` is relative to the working folder."""
    monkeypatch.chdir(tmp_path)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_signal_before_the_record_takes_the_change_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = make_application("small", make_settings(1))
    fake, recorded = FakeServe(monkeypatch, before), []
    fake.while_waiting = interrupt
    with (
        interruption.catch_signals(),
        pytest.raises(interruption.Interruption) as caught,
    ):
        switch(before, make_settings(2), lambda: recorded.append("moved"))
    assert (fake.running, recorded, record()) == ([before], [], None)
    assert caught.value.__notes__ == ["the change of http://127.0.0.1:8000 was taken back"]


@pytest.mark.parametrize("reached", ["nothing", "the record", "Serve"])
def test_signal_while_the_change_is_declared_leaves_no_open_change(
    monkeypatch: pytest.MonkeyPatch, reached: str
) -> None:
    fake = FakeServe(monkeypatch)
    switch(None, make_settings(1))
    first, before = record(), fake.running[0]
    begin, apply = switchover._Notes.begin, fake.apply

    def interrupted_begin(*given: Any) -> None:
        if reached != "nothing":
            begin(*given)
        if reached != "Serve":
            raise interruption.Interruption(signal.SIGINT)

    def interrupted_apply(applications: list[dict[str, Any]]) -> None:
        apply(applications)
        monkeypatch.setattr(serve_client, "apply", apply)
        raise interruption.Interruption(signal.SIGINT)

    monkeypatch.setattr(switchover._Notes, "begin", interrupted_begin)
    monkeypatch.setattr(serve_client, "apply", interrupted_apply)
    with pytest.raises(interruption.Interruption) as caught:
        switch(before, make_settings(2))
    assert (fake.running, record()) == ([before], first)
    assert caught.value.__notes__ == ["the change of http://127.0.0.1:8000 was taken back"]


def test_signal_while_the_change_is_recorded_leaves_it_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = make_application("small", make_settings(1))
    fake, recorded = FakeServe(monkeypatch, before), []

    def commit() -> None:
        recorded.append("moved")
        interrupt()
        recorded.append("and more")

    with (
        interruption.catch_signals(),
        pytest.raises(interruption.Interruption) as caught,
    ):
        switch(before, make_settings(2), commit, lambda: recorded.append("what ended"))
    assert recorded == ["moved", "and more", "what ended"]
    assert read_settings(fake.running[0]).traffic == Traffic(version=2)
    left = record()
    assert left is not None
    assert (left.version, left.change) == (2, None)
    assert caught.value.__notes__ == [
        "the change of http://127.0.0.1:8000 to version 2 is made and recorded"
    ]


def test_change_that_is_recorded_stands_though_what_ended_with_it_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = make_application("small", make_settings(1))
    fake = FakeServe(monkeypatch, before)

    def fail() -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        switch(before, make_settings(2), afterwards=fail)
    assert read_settings(fake.running[0]).traffic == Traffic(version=2)


@pytest.mark.parametrize("is_told", [True, False])
def test_stop_that_is_interrupted_leaves_no_record_of_the_endpoint(
    monkeypatch: pytest.MonkeyPatch, is_told: bool
) -> None:
    FakeServe(monkeypatch)
    switch(None, make_settings(1))
    running = {"model": "small", "alias": "production", "storage": "store", "version": 1}

    def shut_down(_model: str) -> None:
        interrupt()
        if not is_told:
            # The end of the time that deferred work has.
            raise interruption.Interruption(signal.SIGTERM)

    monkeypatch.setattr(deploy, "shutdown", shut_down)
    assert record() is not None
    with interruption.catch_signals(), pytest.raises(interruption.Interruption) as caught:
        deploy.stop({**running, "canary": TrafficShare(version=2, fraction=0.5), "shadow": None})
    assert record() is None
    assert Registry(Storage("store")).history("small")[-1]["kind"] == "canary ended"
    assert caught.value.__notes__ == ["the endpoint of small is taken down"]
