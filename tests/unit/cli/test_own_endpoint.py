"""The record of an endpoint on a local Ray ends with that Ray, however the command ends."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raydc import engine, serve
from raydc.cli import endpoint, endpoint_actions
from raydc.engine import interruption
from raydc.storage import Storage
from raydc.tracking.endpoint_record import make_record, read_record, write_record

ADDRESS = "127.0.0.1:6379"


def served_run(tmp_path: Path, local: bool) -> Any:
    """The context of a run whose endpoint has just answered."""
    storage = Storage(str(tmp_path / "store"))
    record = make_record("production", "http://127.0.0.1:8000", ADDRESS, 1)
    write_record(storage, "digits", record)
    return SimpleNamespace(
        storage=storage,
        spec=SimpleNamespace(name="digits", serve=None),
        engine=engine.Engine(local, ADDRESS, 1, {}),
        is_connected=True,
    )


def is_recorded(context: Any) -> bool:
    return read_record(context.storage, "digits", "production") is not None


@pytest.fixture(autouse=True)
def ends(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    done: list[str] = []
    monkeypatch.setattr(engine, "disconnect", lambda: done.append("Ray"))
    return done


@pytest.mark.parametrize("local", [True, False])
def test_interruption_after_the_first_answer_leaves_no_record_of_a_local_endpoint(
    tmp_path: Path, local: bool, ends: list[str]
) -> None:
    context = served_run(tmp_path, local)
    with pytest.raises(interruption.Interruption), endpoint_actions.own_endpoint(context):
        raise interruption.Interruption(signal.SIGINT)
    assert is_recorded(context) is not local
    # The end of the process does it, within the limit of an interruption.
    assert ends == []
    with endpoint_actions.own_endpoint(context):
        endpoint.stay(served_run(tmp_path, local=True), once=True)
    assert is_recorded(context) is not local
    assert ends == (["Ray"] if local else [])


def test_record_is_gone_before_the_endpoint_answers_its_last_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, seen = served_run(tmp_path, local=True), []

    def interrupt() -> None:
        raise interruption.Interruption(signal.SIGTERM)

    monkeypatch.setattr(serve, "wait", interrupt)
    monkeypatch.setattr(serve, "shutdown", lambda: seen.append(is_recorded(context)))
    with pytest.raises(interruption.Interruption):
        endpoint.stay(context, once=False)
    assert seen == [False]
