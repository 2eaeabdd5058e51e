"""A switch declares twice, restores the old state on failure, and respects others' changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_serve import NOW_S, FakeServe, make_application, make_settings, record, switch

from raydc.errors import OvertakenError, ServeError
from raydc.serve.control import application as application_module
from raydc.serve.control import switchover
from raydc.serve.settings import Traffic


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The storage of `make_settings` is relative to the working folder."""
    monkeypatch.chdir(tmp_path)


def test_switch_loads_first_and_then_names_an_instant_ahead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = make_application("small", make_settings(1))
    fake = FakeServe(monkeypatch, before)
    switch(before, make_settings(2))
    loading, switching = fake.declared
    assert (loading.traffic.version, loading.staged, loading.before) == (1, (2,), None)
    assert (switching.traffic.version, switching.staged) == (2, ())
    assert switching.before == Traffic(version=1)
    assert switching.since_s == pytest.approx(NOW_S + 2.0 + 2 * 0.3)
    assert fake.slept == [pytest.approx(2.6)], "returns when the switch is over"


def test_new_endpoint_and_changed_limits_need_no_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeServe(monkeypatch)
    switch(None, make_settings(1))
    assert fake.declared == [make_settings(1)]
    before = fake.running[0]
    switch(before, make_settings(1, max_batch_size=4))
    assert fake.declared[-1] == make_settings(1, max_batch_size=4)
    assert fake.slept == []


def test_failed_switch_declares_the_old_application_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = make_application("small", make_settings(1))
    fake = FakeServe(monkeypatch, before)

    def refuse() -> None:
        raise ServeError("version 2 is refused")

    fake.while_waiting = refuse
    with pytest.raises(ServeError, match="version 2 is refused"):
        switch(before, make_settings(2))
    assert fake.running == [before]


def test_change_of_somebody_else_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    before = make_application("small", make_settings(1))
    theirs = make_application("small", make_settings(3))
    fake = FakeServe(monkeypatch, before)

    def overtake() -> None:
        fake.running = [theirs]

    fake.while_waiting = overtake
    with pytest.raises(OvertakenError, match="somebody else has changed the endpoint of small"):
        switch(before, make_settings(2))
    assert fake.running == [theirs]


def test_put_application_keeps_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    other, old = make_application("other"), make_application("small", make_settings(1))
    fake = FakeServe(monkeypatch, other, old)
    new = make_application("small", make_settings(2))
    switchover.put_application(new)
    assert fake.running == [other, new]


def test_change_that_cannot_be_recorded_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = make_application("small", make_settings(1))
    fake = FakeServe(monkeypatch, before)

    def overtaken() -> None:
        raise OvertakenError("the history has gone on")

    with pytest.raises(OvertakenError, match="the history has gone on"):
        switch(before, make_settings(2), overtaken)
    assert fake.running == [before]


def test_declaration_that_was_replaced_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    before, theirs = (make_application("small", make_settings(number)) for number in (1, 3))
    fake, recorded = FakeServe(monkeypatch, before), []

    def replaced(*_: object) -> None:
        fake.running = [theirs]

    monkeypatch.setattr(switchover, "wait_until_answering", replaced)
    with pytest.raises(OvertakenError):
        switch(before, make_settings(2), lambda: recorded.append("moved"))
    assert (fake.running, recorded) == ([theirs], [])


def test_record_tells_of_a_change_from_its_beginning_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = FakeServe(monkeypatch)
    switch(None, make_settings(1))
    first = record()
    assert first is not None
    assert (first.version, first.change, first.ray_address) == (1, None, "10.0.0.1:6379")
    seen = []
    fake.while_waiting = lambda: seen.append(record())
    before = fake.running[0]

    class KilledError(BaseException):
        """Stands for SIGKILL: nothing runs after it."""

    def killed() -> None:
        monkeypatch.setattr(switchover, "put_application", lambda _: None)
        monkeypatch.setattr(switchover._Notes, "undo", lambda _: None)
        raise KilledError

    with pytest.raises(KilledError):
        switch(before, make_settings(2), killed)
    assert {(one.version, one.change) for one in seen if one} == {(1, "to version 2")}
    left = record()
    assert left is not None
    assert (left.version, left.change) == (1, "to version 2")


def test_record_of_a_failed_change_is_that_from_before(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeServe(monkeypatch)

    def refuse() -> None:
        raise ServeError("version 2 is refused")

    # Without any application left, it would shut Ray Serve down.
    monkeypatch.setattr(application_module, "remove", lambda _: None)
    with pytest.raises(ServeError):
        switch(None, make_settings(1), refuse)
    assert record() is None
    switch(None, make_settings(1))
    first, before = record(), fake.running[0]
    with pytest.raises(ServeError):
        switch(before, make_settings(2), refuse)
    assert record() == first
