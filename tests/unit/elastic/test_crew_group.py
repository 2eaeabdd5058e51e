"""The leader of a trial whose workers change, in this process: when it stops its steps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from raydc.elastic import crew_group, mailbox
from raydc.elastic.crew_group import Leader
from raydc.elastic.mailbox import Mailbox
from raydc.loop.group import Group
from raydc.loop.lost_peer import PeerLostError
from raydc.loop.planned_stop import GROW, INTERRUPT
from raydc.storage import Storage


class Clock:
    """The clock of the leader."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class MailboxHere:
    """A mailbox in this process, with the handle of an actor."""

    def __init__(self) -> None:
        self.state = Mailbox()

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self.state, name))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(crew_group, "time", made)
    return made


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> MailboxHere:
    monkeypatch.setattr(mailbox, "get_reply", lambda reply: reply)
    made = MailboxHere()
    made.state.enter("trial")
    return made


def make_leader(here: MailboxHere, folder: Path, *needed: str) -> Leader:
    device = torch.device("cpu")
    return Leader(here, "trial", Storage(str(folder)), device, needed, start_timeout_s=60.0)


def test_trial_whose_state_cannot_be_kept_is_not_stopped_at_each_look(
    here: MailboxHere, clock: Clock, tmp_path: Path
) -> None:
    leader = make_leader(here, tmp_path)
    here.of_crews.remote("offer", "trial", "a", 2)
    before_s = here.state.of_crews("standing")[0]
    assert leader.stop_reason() == GROW
    # Storage has refused the state, so the steps have gone on.
    clock.now_s += 15.0
    assert leader.stop_reason() is None
    clock.now_s += 20.0
    assert leader.stop_reason() is None
    here.state.request_stop(INTERRUPT)
    assert leader.stop_reason() == INTERRUPT
    here.state.request_stop("")
    clock.now_s += 20.0
    here.of_crews.remote("call", "trial", "a")
    assert leader.stop_reason() == GROW
    # No change of workers took that long.
    assert here.state.of_crews("standing")[0] == before_s


def test_trial_gives_up_if_a_worker_that_it_needs_is_never_there(
    here: MailboxHere, clock: Clock, tmp_path: Path
) -> None:
    def fit(group: Group, memory: Any) -> None:
        raise AssertionError("it trains without")

    started_s = clock.now_s
    with pytest.raises(PeerLostError):
        make_leader(here, tmp_path, "gang").fit(fit)
    assert clock.now_s - started_s == pytest.approx(60.0, abs=1.0)
    # A mailbox that was made again knows neither of them.
    here.state = Mailbox()
    with pytest.raises(PeerLostError):
        make_leader(here, tmp_path, "gang").fit(fit)


# In a process of its own, which has imported nothing else.
LEAVING = """
import weakref
import torch
from torch.distributed import TCPStore
from raydc.elastic import crew_group
store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
with crew_group._grouped(store, 0, 1, torch.device("cpu")):
    # Some networks and optimisers import it at their first use.
    import torch.distributed.nn.functional
    left = weakref.ref(torch.distributed.group.WORLD)
    assert left() is not None
assert left() is None, "its connections are still open"
"""


def test_worker_that_leaves_a_group_keeps_nothing_of_it() -> None:
    subprocess.run([sys.executable, "-c", LEAVING], check=True)
