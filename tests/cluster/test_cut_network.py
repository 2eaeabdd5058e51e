"""Hosts that are cut from the network, or lose a process, while they reach storage: one writer.

Three hosts: the driver has one to itself, so that the run outlives each of the others.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from driven import DrivenRun, RayOnHosts, find_processes, kill, train_undisturbed
from isolated import Hosts

ONE = {
    "scaling": {"num_workers": 1},
    # The state comes from storage, which both sides reach and write.
    "fault_tolerance": {"max_failures": 1, "max_recomputed_steps": 0},
}
TWO = {
    "scaling": {"num_workers": {"min": 1, "max": 2}},
    "fault_tolerance": {"max_failures": 1},
}


@pytest.fixture(scope="module")
def ray_on_hosts(hosts: Hosts) -> Iterator[RayOnHosts]:
    made = RayOnHosts(hosts)
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, root: Path) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root / "tests" / "faults")
        return train_undisturbed(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize(
    ("sections", "cut_s"),
    [
        pytest.param(ONE, 20.0, id="one-20", marks=pytest.mark.soak),
        pytest.param(ONE, 120.0, id="one-120", marks=pytest.mark.soak),
        pytest.param(TWO, 20.0, id="two-20", marks=pytest.mark.soak),
        pytest.param(TWO, 120.0, id="two-120", marks=pytest.mark.soak),
    ],
)
def test_host_that_is_cut_and_reaches_storage_writes_nothing_more(
    ray_on_hosts: RayOnHosts,
    undisturbed: str,
    request: pytest.FixtureRequest,
    sections: dict[str, Any],
    cut_s: float,
) -> None:
    hosts, name = ray_on_hosts.hosts, request.node.callspec.id
    with DrivenRun(hosts, ray_on_hosts.address, name, **sections) as driven:
        first = driven.attempt(1)
        cut = driven.host_of(first)
        hosts.network(cut, on=False)
        cut_at_s, step = time.time(), driven.last_step()
        try:
            if first["world_size"] == 1:
                # It reaches storage and needs nobody else.
                driven.wait_for(lambda: driven.last_step() > step + 5, "steps of the cut worker")
            driven.let_pass(cut_s)
            second = driven.attempt(2)
        finally:
            hosts.network(cut, on=True)
        code = driven.finish()
    try:
        assert code == 0, driven.log()
        assert driven.host_of(second) != cut
        driven.check(undisturbed)
        # One of two workers may also end because its peer is gone.
        assert driven.was_replaced(cut) or first["world_size"] == 2
        after_s = second["time_s"] - cut_at_s
        sys.stdout.write(
            f"{name}: cut at step {step}, next attempt {after_s:.1f} s later from step "
            f"{second['step']}, {driven.describe()}\n"
        )
    finally:
        ray_on_hosts.renew(cut)


@pytest.mark.soak
def test_run_outlives_its_mailbox_and_the_raylet_of_rank_0(
    ray_on_hosts: RayOnHosts, undisturbed: str
) -> None:
    hosts = ray_on_hosts.hosts
    with DrivenRun(hosts, ray_on_hosts.address, "killed", **TWO) as driven:
        first = driven.attempt(1)
        victim = driven.host_of(first)
        for title in ("ray::Mailbox", "ray::ElasticController"):
            found = [bool(find_processes(hosts, host, title)) for host in (1, 2, 3)]
            assert found == [True, False, False], title
        (mailbox,) = find_processes(hosts, 1, "ray::Mailbox")
        kill(hosts, 1, mailbox)
        driven.wait_for_progress("the mailbox is made again")
        (raylet,) = find_processes(hosts, victim, "/raylet/raylet ")
        kill(hosts, victim, raylet)
        second = driven.attempt(2)
        driven.wait_for_progress("the run goes on elsewhere")
        code = driven.finish()
    try:
        assert code == 0, driven.log()
        assert driven.host_of(second) != victim
        driven.check(undisturbed)
        sys.stdout.write(f"killed: {driven.describe()}\n")
    finally:
        ray_on_hosts.renew(victim)
