"""How many standby processes are requested, where and when."""

from __future__ import annotations

import types
from collections import Counter
from typing import Any

import grpc
import pytest

from raydc.elastic.group_size import Node
from raydc.elastic.standby_processes import StandbyProcesses
from raydc.engine import internals


class FakeNodes:
    """Takes requests for processes, except on nodes in `refusing`; with a clock."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self.requests: list[tuple[str, int]] = []
        self.refusing: set[str] = set()

    def now_s(self) -> float:
        return self.seconds

    def request(self, node: Node, num_processes: int, environment: str) -> None:
        assert environment == "{}"
        self.requests.append((node.node_id, num_processes))
        if node.node_id in self.refusing:
            raise grpc.RpcError

    def new_requests(self) -> list[tuple[str, int]]:
        requests, self.requests = self.requests, []
        return requests

    def make_standby(self, enabled: bool = True) -> StandbyProcesses:
        return StandbyProcesses(enabled, ENTRY, self.request, self.now_s)


@pytest.fixture
def nodes() -> FakeNodes:
    return FakeNodes()


def workers(*node_ids: str) -> list[Any]:
    class Worker:
        def __init__(self, node_id: str) -> None:
            self.metadata = types.SimpleNamespace(node_id=node_id)

        def execute_async(self, fn: Any) -> str:
            return "{}"

    return [Worker(node_id) for node_id in node_ids]


ENTRY = "raydc.elastic.preload.run"
A, B = Node("a", {}), Node("b", {})


def test_ensure_requests_once_after_workers_have_started(nodes: FakeNodes) -> None:
    standing_by = nodes.make_standby()
    standing_by.ensure(Counter(a=1), [A, B])
    assert nodes.new_requests() == []  # No worker has named its environment yet.
    standing_by.note_started(workers("a", "a", "b"))
    standing_by.ensure(Counter(a=2, b=1), [A, B])
    assert nodes.new_requests() == []
    nodes.seconds += 20
    for _ in range(2):
        standing_by.ensure(Counter(a=2, b=1), [A, B])
    assert nodes.new_requests() == [("a", 2), ("b", 1)]


def test_ensure_waits_longer_after_the_first_start_than_later(nodes: FakeNodes) -> None:
    requested_after_s = []
    standing_by = nodes.make_standby()
    for _ in range(2):
        standing_by.note_started(workers("a"))
        for second in range(30):
            standing_by.ensure(Counter(a=1), [A])
            requested_after_s += [second] * len(nodes.new_requests())
            nodes.seconds += 1
    first, after_a_loss = requested_after_s
    assert first >= 15
    assert after_a_loss < 5


def test_ensure_replaces_processes_that_became_workers(nodes: FakeNodes) -> None:
    standing_by = nodes.make_standby()
    for group in (("a", "b"), ("a", "a"), ("a",)):
        standing_by.note_started(workers(*group))
        nodes.seconds += 20
        standing_by.ensure(Counter(group), [A, B])
    # b keeps its process while it has no worker. On a the second group used the one that stood by
    # and started another worker without one.
    assert nodes.new_requests() == [("a", 1), ("b", 1), ("a", 2)]


def test_ensure_repeats_a_request_that_was_refused(nodes: FakeNodes) -> None:
    standing_by = nodes.make_standby()
    standing_by.note_started(workers("a"))
    nodes.seconds += 20
    nodes.refusing = {"a"}
    standing_by.ensure(Counter(a=1), [A])
    nodes.refusing = set()
    standing_by.ensure(Counter(a=1), [A])
    standing_by.ensure(Counter(a=1), [A])
    assert nodes.new_requests() == [("a", 1), ("a", 1)]


def test_disabled_standby_requests_nothing(nodes: FakeNodes) -> None:
    standing_by = nodes.make_standby(enabled=False)
    standing_by.note_started(workers("a"))
    nodes.seconds += 20
    standing_by.ensure(Counter(a=1), [A])
    assert nodes.new_requests() == []


def test_runtime_env_names_the_entry_that_ray_calls() -> None:
    variable = internals.WORKER_PROCESS_SETUP_HOOK_ENV_VAR
    assert StandbyProcesses(True, ENTRY).runtime_env == {"env_vars": {variable: ENTRY}}
