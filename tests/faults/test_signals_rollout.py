"""Signals and closed pipes in each phase of canaries and shadows.

The command ends with its code and one line. Afterwards alias, history, record and endpoint agree,
and no claim is held. A canary that is only followed goes on as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import small_models
from signal_endpoint import Served, check_interrupted, disturb, named, serving
from signalled import Command, started, wait_until

from raydc import client

pytestmark = pytest.mark.soak
# The other canary answers alike, so nothing but the number of requests decides.
RULE = ("min_requests=5", "max_latency_ratio=1000", "timeout_s=600")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served")) as (endpoint, _):
        yield endpoint


def arguments(served: Served, kind: str, is_start: bool) -> tuple[str, ...]:
    change = (
        ("--version", str(3 - served.alias()), "--fraction", "0.5") if is_start else ("--drop",)
    )
    return kind, str(served.spec), *change


def settle(served: Served, folder: Path, kind: str, is_there: bool) -> None:
    """Starts or ends the canary or shadow, if it has to be."""
    if (served.beside()[kind] is not None) == is_there:
        return
    own = folder / "settle"
    own.mkdir()
    with started(own, folder, *arguments(served, kind, is_there)) as command:
        assert command.wait() == 0, command.errors()


def own_folder(folder: Path) -> Path:
    own = folder / "command"
    own.mkdir()
    return own


_CHANGES = [
    *(("canary", "start", "SIGTERM", phase) for phase in ("start-up", "work", "end")),
    *(("canary", "start", how, "work") for how in ("SIGINT", "SIGHUP", "group SIGINT", "closed")),
    ("canary", "end", "SIGINT", "start-up"),
    *(("canary", "end", how, "work") for how in ("SIGTERM", "SIGHUP", "closed")),
    *(("shadow", "start", "SIGTERM", phase) for phase in ("start-up", "work")),
    *(("shadow", "start", how, "work") for how in ("SIGINT", "SIGHUP", "closed")),
    *(("shadow", "end", "SIGINT", phase) for phase in ("work", "end")),
]


@pytest.mark.parametrize(("kind", "change", "how", "phase"), named(_CHANGES))
def test_disturbed_start_or_end_is_taken_back_or_recorded(
    served: Served,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    kind: str,
    change: str,
    how: str,
    phase: str,
) -> None:
    is_start = change == "start"
    settle(served, tmp_path, kind, not is_start)
    before = served.beside()[kind]
    wanted = 3 - served.alias() if is_start else None
    own = own_folder(tmp_path)
    with started(own, tmp_path, *arguments(served, kind, is_start)) as command:

        def has_begun() -> bool:
            record = served.record()
            return record is not None and record.change is not None

        conditions: dict[str, Callable[[], bool]] = {
            "start-up": command.catches_signals,
            "work": has_begun,
            "end": lambda: served.beside()[kind] == wanted,
        }
        command.wait_for(conditions[phase], phase)
        said = disturb(command, how, own, record_property)
    if how == "closed" or (said[0] == 0 and phase == "end"):
        assert said == (0, [])
        is_undone = False
    else:
        check_interrupted(said, how)
        is_undone = phase == "start-up" or "was taken back" in said[1][0]
        assert is_undone or phase != "work", said
    assert served.beside()[kind] == (before if is_undone else wanted), said
    served.check_agreement()


def follow(served: Served) -> tuple[str, ...]:
    rule = [part for limit in RULE for part in ("--set", f"serve.canary.{limit}")]
    return "canary", str(served.spec), "--follow", *rule


def watches(command: Command) -> Callable[[], bool]:
    return lambda: command.says("canary    0 of 5 requests")


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_canary_goes_on_when_nobody_follows_it_any_more(
    served: Served, tmp_path: Path, record_property: Callable[[str, object], None], how: str
) -> None:
    settle(served, tmp_path, "shadow", is_there=False)
    settle(served, tmp_path, "canary", is_there=True)
    before, own = served.beside(), own_folder(tmp_path)
    with started(own, tmp_path, *follow(served)) as command:
        command.wait_for(watches(command), "look at the canary")
        said = disturb(command, how, own, record_property)
    check_interrupted(said, how)
    assert served.beside() == before
    served.check_agreement()


def test_canary_is_followed_to_its_end_without_a_reader(served: Served, tmp_path: Path) -> None:
    settle(served, tmp_path, "shadow", is_there=False)
    settle(served, tmp_path, "canary", is_there=True)
    wanted, own = served.beside()["canary"], own_folder(tmp_path)
    record = served.record()
    assert record is not None
    with started(own, tmp_path, *follow(served)) as command:
        command.wait_for(watches(command), "look at the canary")
        command.disturb("closed")

        def has_ended() -> bool:
            client.predict(record.url, small_models.table_rows(1))
            return command.has_ended()

        wait_until(has_ended, "end of the canary")
        assert (command.wait(), command.errors()) == (0, [])
    assert served.alias() == wanted
    served.check_agreement()
