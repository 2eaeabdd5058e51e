"""What the controller of a run decides: told by fakes, without a Ray."""

from __future__ import annotations

import pickle
import types
from collections.abc import Callable, Collection
from typing import Any

import pytest
from ray.exceptions import RayTaskError
from ray.train import FailureConfig, ScalingConfig

from raydc.elastic import capacity, node_probe, scaling_policy, worker_failure
from raydc.elastic.capacity import Node
from raydc.elastic.failure_policy import FailurePolicy
from raydc.elastic.standby_processes import StandbyProcesses
from raydc.elastic.worker_failure import WorkerFailure
from raydc.engine import internals
from raydc.errors import ClusterError, DataError
from raydc.loop import planned_stop
from raydc.loop.group import PeerLostError
from raydc.loop.planned_stop import PlannedStopError

RETRY, RAISE = internals.FailureDecision.RETRY, internals.FailureDecision.RAISE


class Board:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.record = types.SimpleNamespace(remote=self.told.append)
        self.dropped: list[str] = []
        self.drop_holder = types.SimpleNamespace(remote=self.dropped.append)

    @property
    def kinds(self) -> list[str]:
        return [record["kind"] for record in self.told]


def worker(node_id: str, asked: list[str] | None = None) -> Any:
    def execute_async(fn: Callable[..., None], reason: str) -> None:
        assert fn is planned_stop.request_stop
        if asked is not None:
            asked.append(reason)

    metadata = types.SimpleNamespace(node_id=node_id, node_ip="10.0.0.1")
    return types.SimpleNamespace(metadata=metadata, execute_async=execute_async)


class Cluster:
    """Nodes, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.nodes: list[Node] = []
        self.is_away = False
        self.now_s = 1000.0
        monkeypatch.setattr(node_probe, "probe_nodes", self.look)
        clock = types.SimpleNamespace(monotonic=lambda: self.now_s, time=lambda: self.now_s)
        monkeypatch.setattr(scaling_policy, "time", clock)

    def look(self, only: Collection[str] | None = None) -> list[Node]:
        if self.is_away:
            raise OSError("no head")
        return [node for node in self.nodes if only is None or node.node_id in only]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


def scaling(
    least: int, most: int, start_timeout_s: float = 60.0
) -> tuple[scaling_policy.ElasticScaling, Board]:
    board, config = Board(), ScalingConfig(num_workers=(least, most))
    return scaling_policy.ElasticScaling(
        config,
        {"CPU": 1.0},
        start_timeout_s,
        board,
        StandbyProcesses(False, "no.entry"),
        autoscales=False,
    ), board


def running(policy: scaling_policy.ElasticScaling) -> Any:
    return policy.make_decision_for_running_worker_group(None, None)


def test_starts_with_what_is_free_and_nowhere_else(cluster: Cluster) -> None:
    policy, _ = scaling(1, 4)
    cluster.nodes = [
        Node("b", {"CPU": 1.0}),
        Node("a", {"CPU": 2.5}),
        Node("dead", {"CPU": 9.0}, answers=False),
    ]
    decision = policy.make_decision_for_non_running_worker_group()
    assert (decision.num_workers, decision.resources_per_worker) == (3, {"CPU": 1.0})
    selector = policy.on_controller_start_worker_group(scaling_config=None, num_workers=3)
    assert selector == {"ray.io/node-id": "in(a,b)"}


def test_a_failed_group_makes_room_for_the_next(cluster: Cluster) -> None:
    policy, _ = scaling(1, 4)
    policy.group_is([worker("a"), worker("a"), worker("b")])
    cluster.nodes = [Node("a", {"CPU": 0.0})]
    assert policy.make_decision_for_non_running_worker_group().num_workers == 2


def test_a_number_without_room_is_followed_by_a_smaller_one(cluster: Cluster) -> None:
    policy, _ = scaling(1, 4)
    cluster.nodes = [Node("a", {"CPU": 3.0})]
    policy.no_room_for(3)
    assert policy.make_decision_for_non_running_worker_group().num_workers == 2


def test_waits_for_room_and_then_gives_up(cluster: Cluster) -> None:
    policy, board = scaling(2, 4, start_timeout_s=60.0)
    cluster.nodes = [Node("a", {"CPU": 1.0})]
    for _ in range(3):
        assert isinstance(
            policy.make_decision_for_non_running_worker_group(), internals.NoopDecision
        )
        cluster.now_s += 20.0
    assert board.kinds == ["waits_for_resources"]
    cluster.now_s += 1.0
    with pytest.raises(ClusterError, match="after 60 s there is still room for 1 of at least 2"):
        policy.make_decision_for_non_running_worker_group()


def test_asks_a_group_to_end_when_it_can_grow(cluster: Cluster) -> None:
    policy, board = scaling(1, 4)
    asked: list[str] = []
    policy.group_is([worker("a", asked)])
    cluster.nodes = [Node("a", {"CPU": 0.0}), Node("b", {"CPU": 2.0})]
    while not asked:
        cluster.now_s += 1.0
        assert isinstance(running(policy), internals.NoopDecision)
    cluster.now_s += 1.0
    running(policy)
    assert asked == ["grow", "grow"]
    assert [(record["kind"], record["world_size"], record["to"]) for record in board.told] == [
        ("resize_planned", 1, 3)
    ]


def test_leaves_a_draining_node_at_once_where_it_can_go_on(cluster: Cluster) -> None:
    policy, board = scaling(1, 2)
    asked: list[str] = []
    policy.group_is([worker("a", asked), worker("b")])
    cluster.nodes = [Node("a", {}), Node("b", {}, drains_at_s=cluster.now_s + 100)]
    cluster.now_s += 1.0
    running(policy)
    assert (asked, board.kinds, board.told[0]["nodes"]) == (["drain"], ["drain_noticed"], ["b"])


def test_uses_a_draining_node_while_there_is_no_other(cluster: Cluster) -> None:
    policy, board = scaling(1, 2)
    asked: list[str] = []
    policy.group_is([worker("a", asked)])
    cluster.nodes = [Node("a", {}, drains_at_s=cluster.now_s + 100)]
    for _ in range(88):
        cluster.now_s += 1.0
        running(policy)
    assert (asked, board.kinds) == ([], ["drain_noticed"])
    cluster.now_s += 2.0
    running(policy)
    assert asked == ["drain"]


def test_a_silent_node_is_a_failure_of_its_workers(cluster: Cluster) -> None:
    policy, board = scaling(1, 2)
    policy.group_is([worker("a"), worker("b")])
    for answers in (False, True, False):  # Once is not enough.
        cluster.nodes = [Node("a", {}), Node("b", {}, answers=answers)]
        cluster.now_s += 1.0
        running(policy)
    cluster.now_s += 1.0
    with pytest.raises(internals.WorkerGroupError) as caught:
        running(policy)
    assert list(caught.value.worker_failures) == [1]
    assert (board.kinds, board.dropped) == (["node_lost"], ["b"])


def test_workers_do_not_need_the_head(cluster: Cluster) -> None:
    policy, board = scaling(1, 2)
    policy.group_is([worker("a")])
    cluster.is_away = True
    for _ in range(5):
        cluster.now_s += 1.0
        assert isinstance(running(policy), internals.NoopDecision)
    assert isinstance(policy.make_decision_for_non_running_worker_group(), internals.NoopDecision)
    assert board.kinds == ["waits_for_resources"]


def test_processes_stand_by_for_workers_and_for_as_many_more_as_there_may_be(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[dict[str, int]] = []
    monkeypatch.setattr(
        StandbyProcesses, "ask_for", lambda self, counts, nodes: wanted.append(dict(counts))
    )
    policy, _ = scaling(1, 4)
    policy.group_is([worker("a"), worker("a")])
    cluster.nodes = [Node("a", {"CPU": 1.0}), Node("b", {"CPU": 9.0}), Node("c", {"CPU": 9.0})]
    cluster.now_s += 1.0
    running(policy)
    policy.group_is([worker("a") for _ in range(4)])
    cluster.now_s += 1.0
    running(policy)
    assert [{node: count for node, count in counts.items() if count} for counts in wanted] == [
        {"a": 3, "b": 1},
        {"a": 4},
    ]


# Failures ------------------------------------------------------------------------------------------------------


def policy_of(max_failures: int, max_preemption_failures: int = -1) -> FailurePolicy:
    config = FailureConfig(
        max_failures=max_failures, max_preemption_failures=max_preemption_failures
    )
    return FailurePolicy(config, Board())


def group_error(**by_rank: Exception) -> Any:
    return internals.WorkerGroupError(
        "failed", {int(rank[1:]): error for rank, error in by_rank.items()}
    )


def test_a_planned_end_is_no_failure() -> None:
    policy = policy_of(max_failures=0, max_preemption_failures=0)
    for _ in range(5):
        assert (
            policy.make_decision(
                group_error(r0=PlannedStopError("grow", 4), r1=PlannedStopError("grow", 4))
            )
            == RETRY
        )
    assert policy._board.told[0]["cause"] == "grow"


def test_a_drain_is_a_preemption() -> None:
    policy = policy_of(max_failures=0, max_preemption_failures=1)
    error = group_error(r1=PlannedStopError("drain", 4))
    assert [policy.make_decision(error), policy.make_decision(error)] == [RETRY, RAISE]


def test_a_refusal_ends_the_run_at_once() -> None:
    assert (
        policy_of(-1).make_decision(group_error(r0=DataError("no"), r1=PeerLostError("lost")))
        == RAISE
    )


def failure(message: str = "cat", step: int = 3, rank: int = 0) -> WorkerFailure:
    try:
        raise ValueError(message)
    except ValueError as error:
        error.add_note(f"after step {step}")
        error.add_note(f"its 2 training rows there: {rank}, 7")
        return worker_failure.describe(error, rank)


def test_the_same_error_at_the_same_step_is_not_tried_for_ever() -> None:
    policy = policy_of(max_failures=-1)
    other = [failure(step=4), failure("dog"), failure(step=5)]
    assert [policy.make_decision(group_error(r0=error)) for error in other] == [RETRY] * 3
    # Whichever rank it comes up in.
    same = [failure(rank=rank) for rank in (0, 1, 0)]
    decisions = [
        policy.make_decision(group_error(r0=error, r1=PeerLostError("lost"))) for error in same
    ]
    assert decisions == [RETRY, RETRY, RAISE]


def test_deaths_are_counted_by_ray() -> None:
    policy = policy_of(max_failures=2)
    assert [policy.make_decision(group_error(r0=RuntimeError("died"))) for _ in range(3)] == [
        RETRY,
        RETRY,
        RAISE,
    ]


def test_what_cannot_start_is_not_tried_for_ever() -> None:
    policy = policy_of(max_failures=0)
    policy.failure_config.controller_failure_limit = -1

    def not_started(cause: Exception) -> Any:
        error = internals.WorkerGroupStartupFailedError("a worker died at its start")
        error.__cause__ = cause
        return internals.ControllerError(error)

    task_error = RayTaskError("work", "Traceback ... ImportError", ImportError("no module"))
    assert [policy.make_decision(not_started(task_error)) for _ in range(3)] == [
        RETRY,
        RETRY,
        RAISE,
    ]
    assert policy.make_decision(not_started(OSError("died"))) == RETRY


def test_a_failure_is_one_page_and_crosses_processes() -> None:
    page = str(pickle.loads(pickle.dumps(failure(step=12, rank=3))))  # noqa: S301 - own bytes.
    assert page.startswith("rank 3 on ")
    assert "after step 12, its 2 training rows there: 3, 7\n  ValueError: cat\n    at " in page
    assert "test_scaling_policy.py" in page


def test_objects_without_a_name_do_not_make_an_error_another() -> None:
    assert (
        failure("<Cat at 0x7f01>").key
        == failure("<Cat at 0x8ee2>").key
        != failure("<Dog at 0x7f01>").key
    )


def test_look_leaves_out_the_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused port is a dead raylet, whatever Ray thinks."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        nodes = [
            {
                "NodeID": name,
                "Alive": alive,
                "NodeManagerAddress": "127.0.0.1",
                "NodeManagerPort": port + offset,
            }
            for name, alive, offset in (("a", True, 0), ("gone", False, 0), ("drains", True, 0))
        ]
        monkeypatch.setattr(node_probe.ray, "nodes", lambda: nodes)
        monkeypatch.setattr(
            internals, "available_resources_per_node", lambda: {"a": {"CPU": 1.0}}, False
        )
        monkeypatch.setattr(internals, "draining_nodes", lambda: {"drains": 5000})
        address = f"127.0.0.1:{port}"
        assert node_probe.probe_nodes() == [
            capacity.Node("a", {"CPU": 1.0}, address=address),
            capacity.Node("drains", {}, drains_at_s=5.0, address=address),
        ]
    assert [node.answers for node in node_probe.probe_nodes()] == [False, False]
