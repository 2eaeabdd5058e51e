"""Scaling decisions of the controller, with fake nodes, workers and clock; without a Ray."""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import pytest
from fake_mailbox import FakeMailbox
from ray.train import ScalingConfig

from raydc.elastic.group_size import Node
from raydc.elastic.scaling_policy import ElasticScaling
from raydc.elastic.standby_processes import StandbyProcesses
from raydc.engine import internals
from raydc.errors import ClusterError
from raydc.loop import planned_stop


def worker(node_id: str, requests: list[str] | None = None) -> Any:
    """A worker on a node; it appends the reasons of planned stops to `requests`."""

    def execute_async(fn: Callable[..., None], reason: str) -> None:
        assert fn is planned_stop.request_stop
        if requests is not None:
            requests.append(reason)

    metadata = types.SimpleNamespace(node_id=node_id, node_ip="10.0.0.1")
    return types.SimpleNamespace(metadata=metadata, execute_async=execute_async)


class FakeCluster:
    """Nodes, and a clock that the tests set."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.is_head_away = False
        self.seconds = 1000.0

    def now_s(self) -> float:
        return self.seconds

    def probe(self, only: Collection[str] | None = None) -> list[Node]:
        if self.is_head_away:
            raise OSError("no head")
        return [node for node in self.nodes if only is None or node.node_id in only]

    def make_policy(
        self,
        least: int,
        most: int,
        start_timeout_s: float = 60.0,
        standby: StandbyProcesses | None = None,
    ) -> tuple[ElasticScaling, FakeMailbox]:
        mailbox = FakeMailbox()
        policy = ElasticScaling(
            ScalingConfig(num_workers=(least, most)),
            {"CPU": 1.0},
            start_timeout_s,
            mailbox,
            standby or StandbyProcesses(False, "no.entry"),
            autoscales=False,
            probe=self.probe,
            now_s=self.now_s,
            unix_s=self.now_s,
        )
        return policy, mailbox


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


def decide_running(policy: ElasticScaling) -> Any:
    return policy.make_decision_for_running_worker_group(None, None)


def test_start_uses_free_resources_of_responding_nodes_only(cluster: FakeCluster) -> None:
    policy, _ = cluster.make_policy(1, 4)
    cluster.nodes = [
        Node("b", {"CPU": 1.0}),
        Node("a", {"CPU": 2.5}),
        Node("dead", {"CPU": 9.0}, responds=False),
    ]
    decision = policy.make_decision_for_non_running_worker_group()
    assert (decision.num_workers, decision.resources_per_worker) == (3, {"CPU": 1.0})
    selector = policy.on_controller_start_worker_group(scaling_config=None, num_workers=3)
    assert selector == {"ray.io/node-id": "in(a,b)"}


def test_start_counts_resources_of_the_failed_group_as_free(cluster: FakeCluster) -> None:
    policy, _ = cluster.make_policy(1, 4)
    policy.set_group([worker("a"), worker("a"), worker("b")])
    cluster.nodes = [Node("a", {"CPU": 0.0})]
    assert policy.make_decision_for_non_running_worker_group().num_workers == 2


def test_start_after_a_size_that_failed_is_smaller(cluster: FakeCluster) -> None:
    policy, _ = cluster.make_policy(1, 4)
    cluster.nodes = [Node("a", {"CPU": 3.0})]
    policy.avoid_size(3)
    assert policy.make_decision_for_non_running_worker_group().num_workers == 2


def test_start_without_room_waits_and_then_raises(cluster: FakeCluster) -> None:
    policy, mailbox = cluster.make_policy(2, 4, start_timeout_s=60.0)
    cluster.nodes = [Node("a", {"CPU": 1.0})]
    for _ in range(3):
        assert isinstance(
            policy.make_decision_for_non_running_worker_group(), internals.NoopDecision
        )
        cluster.seconds += 20.0
    assert mailbox.kinds == ["waits_for_resources"]
    cluster.seconds += 1.0
    with pytest.raises(ClusterError, match="after 60 s there is still room for 1 of at least 2"):
        policy.make_decision_for_non_running_worker_group()


def test_group_that_can_grow_is_requested_to_stop(cluster: FakeCluster) -> None:
    policy, mailbox = cluster.make_policy(1, 4)
    requests: list[str] = []
    policy.set_group([worker("a", requests)])
    cluster.nodes = [Node("a", {"CPU": 0.0}), Node("b", {"CPU": 2.0})]
    while not requests:
        cluster.seconds += 1.0
        assert isinstance(decide_running(policy), internals.NoopDecision)
    cluster.seconds += 1.0
    decide_running(policy)
    assert requests == ["grow", "grow"]
    assert [(record["kind"], record["world_size"], record["to"]) for record in mailbox.events] == [
        ("resize_planned", 1, 3)
    ]


def test_draining_node_is_left_at_once_if_there_is_room_elsewhere(cluster: FakeCluster) -> None:
    policy, mailbox = cluster.make_policy(1, 2)
    requests: list[str] = []
    policy.set_group([worker("a", requests), worker("b")])
    cluster.nodes = [Node("a", {}), Node("b", {}, drains_at_s=cluster.seconds + 100)]
    cluster.seconds += 1.0
    decide_running(policy)
    assert (requests, mailbox.kinds, mailbox.events[0]["nodes"]) == (
        ["drain"],
        ["drain_noticed"],
        ["b"],
    )


def test_draining_node_is_used_until_shortly_before_its_deadline(cluster: FakeCluster) -> None:
    policy, mailbox = cluster.make_policy(1, 2)
    requests: list[str] = []
    policy.set_group([worker("a", requests)])
    cluster.nodes = [Node("a", {}, drains_at_s=cluster.seconds + 100)]
    for _ in range(88):
        cluster.seconds += 1.0
        decide_running(policy)
    assert (requests, mailbox.kinds) == ([], ["drain_noticed"])
    cluster.seconds += 2.0
    decide_running(policy)
    assert requests == ["drain"]


def test_node_silent_twice_in_a_row_fails_its_workers(cluster: FakeCluster) -> None:
    policy, mailbox = cluster.make_policy(1, 2)
    policy.set_group([worker("a"), worker("b")])
    for responds in (False, True, False):  # Never twice in a row.
        cluster.nodes = [Node("a", {}), Node("b", {}, responds=responds)]
        cluster.seconds += 1.0
        decide_running(policy)
    cluster.seconds += 1.0
    with pytest.raises(internals.WorkerGroupError) as caught:
        decide_running(policy)
    assert list(caught.value.worker_failures) == [1]
    assert (mailbox.kinds, mailbox.dropped) == (["node_lost"], ["b"])


def test_group_keeps_running_while_the_head_is_away(cluster: FakeCluster) -> None:
    policy, mailbox = cluster.make_policy(1, 2)
    policy.set_group([worker("a")])
    cluster.is_head_away = True
    for _ in range(5):
        cluster.seconds += 1.0
        assert isinstance(decide_running(policy), internals.NoopDecision)
    assert isinstance(policy.make_decision_for_non_running_worker_group(), internals.NoopDecision)
    assert mailbox.kinds == ["waits_for_resources"]


class RecordingStandby(StandbyProcesses):
    """Records how many processes should stand by."""

    def __init__(self) -> None:
        super().__init__(False, "no.entry")
        self.wanted: list[dict[str, int]] = []

    def ensure(self, counts: Mapping[str, int], nodes: Iterable[Node]) -> None:
        self.wanted.append({node: count for node, count in counts.items() if count})


def test_standby_covers_workers_and_possible_growth(cluster: FakeCluster) -> None:
    standby = RecordingStandby()
    policy, _ = cluster.make_policy(1, 4, standby=standby)
    policy.set_group([worker("a"), worker("a")])
    cluster.nodes = [Node("a", {"CPU": 1.0}), Node("b", {"CPU": 9.0}), Node("c", {"CPU": 9.0})]
    cluster.seconds += 1.0
    decide_running(policy)
    policy.set_group([worker("a") for _ in range(4)])
    cluster.seconds += 1.0
    decide_running(policy)
    assert standby.wanted == [{"a": 3, "b": 1}, {"a": 4}]
