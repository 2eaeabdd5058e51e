"""The process group of a trial that other workers join, and leave, while it runs.

Runs in Tune's actors. The leader of a trial and its helpers meet at a store of the leader, on a
port that is free there. Before they form a group, each says that it is there: to wait for a worker
that has died in between would take as long as a collective operation may.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import ray
import torch
import torch.distributed

# Its functions keep the group that is there when it is first imported, as a default argument.
# Imported by another module while a group exists, it would hold that group's connections open, and
# the others would learn of an error of this worker only after the collective timeout.
import torch.distributed.nn
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from raydc.elastic import mailbox
from raydc.elastic.crews import LEAVE
from raydc.elastic.own_memory import OwnMemory
from raydc.loop import planned_stop
from raydc.loop.group import Alone, Group, Workers, peers
from raydc.loop.lost_peer import PeerLostError
from raydc.loop.planned_stop import PlannedStopError
from raydc.storage import Storage
from raydc.tracking import events
from raydc.tracking.attempt_fence import ReplacedError
from raydc.tracking.lease import TakenOverError

# Reasons of a planned stop after which a trial goes on with other workers.
CHANGES = (planned_stop.GROW, planned_stop.SHRINK)
# How long a rank waits for its peers. Half of that of a run: there a loss is a restart of all
# workers, and here the trial goes on without one.
_COLLECTIVE_TIMEOUT = timedelta(seconds=60)
_MEETING_TIMEOUT = timedelta(seconds=5)
_GO_TIMEOUT = timedelta(seconds=15)
_MUSTER_TIMEOUT_S = 10.0
_ASK_EVERY_S = 0.1
_MUSTER_EVERY_S = 0.02
# After a loss, those who are left notice it a moment after the leader.
_GRACE_S = 0.3
# Groups in a row that were lost before a step; then the helper cannot reach the leader.
_MOST_FAILED = 2
# Groups of only those that a trial needs which may be lost, though all of these are there.
_MOST_LOST = 3
# How long a trial that could not keep its state goes on as it is, before it is stopped again.
_STAY_S = 30.0
_GO, _STAY = "1", "0"

# Trains with a group; the second is memory for recent states, if there is any.
FitAsLeader = Callable[[Group, OwnMemory | None], Any]
FitAsHelper = Callable[[Group], Any]


class Leader:
    """The worker that a trial began with: it lets others join and leave between two steps.

    Args:
        handle: Mailbox of the sweep.
        key: Key of the trial, which has entered the mailbox.
        folder: Folder of the trial, for its events.
        device: Device on which this worker computes.
        needed: Helpers without which the trial does not train.
        start_timeout_s: How long it waits for them at its start.
        keeps_states: Whether recent states are kept, with which it outlives the loss of a helper.
    """

    def __init__(
        self,
        handle: Any,
        key: str,
        folder: Storage,
        device: torch.device,
        needed: Sequence[str] = (),
        start_timeout_s: float = 0.0,
        keeps_states: bool = True,
    ) -> None:
        self._handle, self._key, self._device = handle, key, device
        self._needed, self._start_timeout_s = list(needed), start_timeout_s
        self._keeps_states = keeps_states
        self._log = events.EventLog(folder, "events", patient=True)
        self._members: list[str] = []
        self._num_lost = 0
        self._why_left = "released"
        # When the steps were to stop for a change of the workers, and whether they did.
        self._stopped_s: float | None = None
        self._has_met = False
        self._stays_until_s = 0.0

    def fit(self, fit: FitAsLeader) -> None:
        """Trains to the end, with whoever is there at a time.

        Args:
            fit: Trains with a group from the newest state.

        Raises:
            PeerLostError: A helper was lost without which the trial does not train, or the two
                cannot train together.
            ReplacedError: The trial has begun again elsewhere.
            TakenOverError: Another driver continues the sweep.
        """
        memory: OwnMemory | None = None
        timeout_s = self._start_timeout_s
        if self._needed:
            self._ask("need", self._needed)
        while True:
            self._muster(timeout_s)
            # No other process can read these states. Those who wait join right before the first
            # step, by a planned stop that brings the state to storage.
            is_alone = memory is not None and memory.newest() is not None
            try:
                with self._alone() if is_alone else self._meet() as group:
                    # Kept after a loss, because its states are newer than those in storage.
                    if self._keeps_states and group.world.world_size > 1 and memory is None:
                        memory = OwnMemory()
                    fit(group, memory)
                return
            except PlannedStopError as stop:
                if stop.reason not in CHANGES:
                    raise
                # The state is in storage, where helpers read it.
                memory, self._why_left = None, "released"
            except PeerLostError:
                self._num_lost += bool(self._members) and {*self._members} <= {*self._needed}
                if self._num_lost == _MOST_LOST:
                    raise
                self._ask("disband")
                self._why_left = "lost"
                time.sleep(_GRACE_S)
            except (ReplacedError, TakenOverError):
                raise
            except Exception:
                # It may be the fault of a helper, such as one with too little memory, which is
                # none of the trial. If not, the trial meets it again without helpers.
                if not {*self._members} - {*self._needed}:
                    raise
                self._ask("close")
                self._why_left = "failed"
            timeout_s = _MUSTER_TIMEOUT_S

    def stop_reason(self) -> str | None:
        """Why the trial should stop before its next step; None to go on."""
        now_s = time.monotonic()
        if self._stopped_s is not None:
            if self._has_met:
                # The first look of a group comes right before its first step.
                self._handle.of_crews.remote("tell_join", now_s - self._stopped_s)
            else:
                # Storage has refused the state. To try at each look would hold up all steps.
                self._stays_until_s = now_s + _STAY_S
        self._stopped_s, self._has_met = None, False
        reason: str | None = mailbox.get_reply(self._handle.stop_reason.remote(self._key))
        if reason in CHANGES:
            if now_s < self._stays_until_s:
                return None
            self._stopped_s = time.monotonic()
        return reason

    def tell_left(self, left_s: float) -> None:
        """Tells the sweep how many seconds of work are left until the trial stops at a rung."""
        self._handle.of_crews.remote("tell_left", self._key, left_s)

    def _muster(self, timeout_s: float) -> None:
        """Waits for those who stay, and for those who must be there.

        Raises:
            PeerLostError: One of the latter is missing.
        """
        deadline_s = time.monotonic() + timeout_s
        while not self._ask("is_mustered", self._needed):
            if time.monotonic() < deadline_s:
                time.sleep(_MUSTER_EVERY_S)
                continue
            # The others are there, and the trial goes on with them.
            self._ask("disband")
            if not self._ask("is_mustered", self._needed):
                raise PeerLostError("a worker is lost without which this trial does not train")
            return

    @contextlib.contextmanager
    def _alone(self) -> Iterator[Group]:
        self._record([])
        yield Alone(self._device)

    @contextlib.contextmanager
    def _meet(self) -> Iterator[Group]:
        """Forms a group with the helpers that wait; without any, this process is alone."""
        host = str(ray.util.get_node_ip_address())
        store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=_MEETING_TIMEOUT)
        members: list[str] = self._ask("form", host, store.port)
        self._record(members)
        if not {*self._needed} <= {*members}:
            raise PeerLostError("a worker without which this trial does not train does not answer")
        if not members:
            del store
            yield Alone(self._device)
            return
        ranks = range(1, 1 + len(members))
        with peers():
            try:
                store.wait([f"here-{rank}" for rank in ranks])
            except RuntimeError:
                store.set("go", _STAY)
                raise
            store.set("go", _GO)
        store.set_timeout(_GO_TIMEOUT)
        with _grouped(store, 0, 1 + len(members), self._device) as group:
            yield group

    def _record(self, members: list[str]) -> None:
        """Records who has come and gone since the last group."""
        self._has_met = True
        came = [one for one in members if one not in self._members]
        gone = [one for one in self._members if one not in members]
        now = {"workers": 1 + len(members)}
        if gone:
            self._log.write(kind="workers_left", number=len(gone), reason=self._why_left, **now)
        if came:
            self._log.write(kind="workers_joined", number=len(came), **now)
        if came or gone:
            # Events are a convenience; what refuses them ends no trial.
            with contextlib.suppress(OSError):
                self._log.flush()
        self._members = members

    def _ask(self, name: str, *arguments: Any) -> Any:
        return mailbox.get_reply(self._handle.of_crews.remote(name, self._key, *arguments))


def help_trial(
    handle: Any, key: str, helper: str, size: int, device: torch.device, fit: FitAsHelper
) -> None:
    """Trains with the leader of a trial until it is released, or the trial needs it no more.

    Args:
        handle: Mailbox of the sweep.
        key: Key of the trial.
        helper: Name of this helper, which no other one has.
        size: Workers that the trial is to have.
        device: Device on which this worker computes.
        fit: Trains with a group from the newest state.

    Raises:
        PeerLostError: It cannot reach the leader.
        RaydcError: This worker or the whole group has been refused.
    """
    num_failed = 0
    while (place := _wait_for_call(handle, key, helper, size)) is not None:
        has_met = False
        try:
            with _join(place, device) as group:
                has_met = True
                fit(group)
            return
        except PlannedStopError as stop:
            if stop.reason not in CHANGES:
                return
        except PeerLostError:
            num_failed = 0 if has_met else num_failed + 1
            if num_failed == _MOST_FAILED:
                raise


def _wait_for_call(handle: Any, key: str, helper: str, size: int) -> dict[str, Any] | None:
    if not mailbox.get_reply(handle.of_crews.remote("offer", key, helper, size)):
        return None
    while True:
        told = mailbox.get_reply(handle.of_crews.remote("call", key, helper))
        if told == LEAVE:
            return None
        if told is not None:
            place: dict[str, Any] = told
            return place
        time.sleep(_ASK_EVERY_S)


@contextlib.contextmanager
def _join(place: dict[str, Any], device: torch.device) -> Iterator[Group]:
    rank = place["rank"]
    with peers():
        store = TCPStore(place["host"], place["port"], is_master=False, timeout=_GO_TIMEOUT)
        store.set(f"here-{rank}", "")
        if store.get("go") != _GO.encode():
            raise PeerLostError("the leader has not seen all workers that it has called")
    with _grouped(store, rank, place["size"], device) as group:
        yield group


@contextlib.contextmanager
def _grouped(store: TCPStore, rank: int, size: int, device: torch.device) -> Iterator[Group]:
    """The process group in the block. Leaving it lets the others know at once."""
    with peers():
        torch.distributed.init_process_group(
            # Gradients are reduced on the GPU, metrics of a validation on the CPU.
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=PrefixStore("group", store),
            rank=rank,
            world_size=size,
            timeout=_COLLECTIVE_TIMEOUT,
        )
    try:
        yield Workers(device)
    finally:
        # Without its connections the others would wait for this worker.
        torch.distributed.destroy_process_group()
