"""Signals and closed pipes in each phase of the commands that change or stop a running endpoint.

The command ends with its code and one line. Afterwards alias, record and endpoint agree, and no
claim is held; an endpoint that is taken down is gone, and so is its record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from signal_endpoint import ALIAS, MODEL, Served, check_interrupted, disturb, named, serving
from signalled import Command, processes_in, started, wait_until

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served")) as (endpoint, _):
        yield endpoint


def reach(command: Command, served: Served, phase: str, target: int) -> None:
    """Waits until the command is in a phase of a change.

    Args:
        command: The command.
        served: The endpoint that it changes.
        phase: `start-up`, `work`: the change has begun; `switched`: its version answers; `end`:
            its alias has moved.
        target: Version after the change.
    """

    def has_begun() -> bool:
        record = served.record()
        return record is not None and record.change is not None

    conditions: dict[str, Callable[[], bool]] = {
        "start-up": command.catches_signals,
        "work": has_begun,
        "switched": lambda: served.answering() == target,
        "end": lambda: served.alias() == target,
    }
    command.wait_for(conditions[phase], phase)


_CHANGES = [
    *(("promote", "SIGTERM", phase) for phase in ("start-up", "work", "switched", "end")),
    *(("rollback", "SIGINT", phase) for phase in ("start-up", "work", "switched", "end")),
    *((name, "SIGHUP", "work") for name in ("promote", "rollback")),
    *((name, "group SIGINT", "switched") for name in ("promote", "rollback")),
    *((name, "closed", "work") for name in ("promote", "rollback")),
]


@pytest.mark.parametrize(("name", "how", "phase"), named(_CHANGES))
def test_disturbed_change_leaves_alias_and_endpoint_together(
    served: Served,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    name: str,
    how: str,
    phase: str,
) -> None:
    before = served.alias()
    target = 3 - before
    arguments = [name, str(served.spec)]
    if name == "promote":
        arguments += ["--version", str(target)]
    elif served.registry.previous_versions(MODEL).get(ALIAS) != target:
        # Something to go back to.
        before, target = target, before
        own = tmp_path / "promote"
        own.mkdir()
        with started(own, tmp_path, "promote", str(served.spec), "--version", str(before)) as first:
            assert first.wait() == 0, first.errors()
    own = tmp_path / "command"
    own.mkdir()
    with started(own, tmp_path, *arguments) as command:
        reach(command, served, phase, target)
        said = disturb(command, how, own, record_property)
    if how == "closed" or (said[0] == 0 and phase in ("switched", "end")):
        assert (said, served.alias()) == ((0, []), target)
    else:
        check_interrupted(said, how)
        (line,) = said[1]
        is_undone = phase == "start-up" or "was taken back" in line
        assert is_undone or phase != "work", said
        assert served.alias() == (before if is_undone else target), said
    served.check_agreement()


_STOPS = [("SIGTERM", "start-up"), ("SIGINT", "work"), ("SIGTERM", "end"), ("closed", "work")]


@pytest.mark.parametrize(("how", "phase"), named(_STOPS))
def test_disturbed_stop_leaves_an_endpoint_or_none(
    tmp_path: Path, record_property: Callable[[str, object], None], how: str, phase: str
) -> None:
    with serving(tmp_path) as (served, server):
        own = tmp_path / "command"
        own.mkdir()
        with started(own, tmp_path, "stop", str(served.spec)) as command:
            conditions: dict[str, Callable[[], bool]] = {
                "start-up": command.catches_signals,
                "work": lambda: served.answering() is None,
                "end": lambda: command.says("stopped   "),
            }
            command.wait_for(conditions[phase], phase)
            said = disturb(command, how, own, record_property)
        if phase == "start-up":
            check_interrupted(said, how)
            served.check_agreement()
            return
        if said != (0, []):
            assert how != "closed", said
            check_interrupted(said, how)
        assert served.record() is None
        served.check_no_claim()
        # `raydc serve` sees that nothing is left to serve, and ends.
        assert server.wait() == 0, server.errors()
        wait_until(lambda: not processes_in(server.folder), "end of Ray")
