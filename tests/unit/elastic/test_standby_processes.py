"""How many processes are asked to stand by, and where."""

from __future__ import annotations

import types
from collections import Counter
from typing import Any

import pytest

from raydc.elastic import standby_processes
from raydc.elastic.capacity import Node
from raydc.elastic.standby_processes import StandbyProcesses
from raydc.engine import internals


class Nodes:
    """Takes requests for processes; refuses on nodes that are told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        self.asked: list[tuple[str, int]] = []
        self.refuses: set[str] = set()
        monkeypatch.setattr(
            standby_processes, "time", types.SimpleNamespace(monotonic=lambda: self.now_s)
        )
        monkeypatch.setattr(StandbyProcesses, "_start", self.start)

    def start(self, node: Node, num_processes: int) -> bool:
        self.asked.append((node.node_id, num_processes))
        return node.node_id not in self.refuses

    def new(self) -> list[tuple[str, int]]:
        asked, self.asked = self.asked, []
        return asked


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Nodes:
    return Nodes(monkeypatch)


def workers(*node_ids: str) -> list[Any]:
    class Worker:
        def __init__(self, node_id: str) -> None:
            self.metadata = types.SimpleNamespace(node_id=node_id)

        def execute_async(self, fn: Any) -> str:
            return "{}"

    return [Worker(node_id) for node_id in node_ids]


A, B = Node("a", {}), Node("b", {})


def test_one_for_each_worker_when_these_have_started(nodes: Nodes) -> None:
    standing_by = StandbyProcesses(True, "raydc.elastic.preload.run")
    standing_by.ask_for(Counter(a=1), [A, B])
    assert nodes.new() == []  # Nothing is known of their environment.
    standing_by.started(workers("a", "a", "b"))
    standing_by.ask_for(Counter(a=2, b=1), [A, B])
    assert nodes.new() == []
    nodes.now_s += 20
    for _ in range(2):
        standing_by.ask_for(Counter(a=2, b=1), [A, B])
    assert nodes.new() == [("a", 2), ("b", 1)]


def test_the_first_seconds_of_a_run_belong_to_its_workers(nodes: Nodes) -> None:
    asked_after_s = []
    standing_by = StandbyProcesses(True, "raydc.elastic.preload.run")
    for _ in range(2):
        standing_by.started(workers("a"))
        for second in range(30):
            standing_by.ask_for(Counter(a=1), [A])
            asked_after_s += [second] * len(nodes.new())
            nodes.now_s += 1
    first, after_a_loss = asked_after_s
    assert first >= 15
    assert after_a_loss < 5


def test_those_that_became_workers_are_replaced(nodes: Nodes) -> None:
    standing_by = StandbyProcesses(True, "raydc.elastic.preload.run")
    for group in (("a", "b"), ("a", "a"), ("a",)):
        standing_by.started(workers(*group))
        nodes.now_s += 20
        standing_by.ask_for(Counter(group), [A, B])
    # b's is still there when its node has no worker; of a, the second group had to start one that did not stand by.
    assert nodes.new() == [("a", 1), ("b", 1), ("a", 2)]


def test_a_node_that_refuses_is_asked_again(nodes: Nodes) -> None:
    standing_by = StandbyProcesses(True, "raydc.elastic.preload.run")
    standing_by.started(workers("a"))
    nodes.now_s += 20
    nodes.refuses = {"a"}
    standing_by.ask_for(Counter(a=1), [A])
    nodes.refuses = set()
    standing_by.ask_for(Counter(a=1), [A])
    standing_by.ask_for(Counter(a=1), [A])
    assert nodes.new() == [("a", 1), ("a", 1)]


def test_none_where_none_are_wanted(nodes: Nodes) -> None:
    standing_by = StandbyProcesses(False, "raydc.elastic.preload.run")
    standing_by.started(workers("a"))
    nodes.now_s += 20
    standing_by.ask_for(Counter(a=1), [A])
    assert nodes.new() == []


def test_the_entry_is_what_ray_calls() -> None:
    variable = internals.WORKER_PROCESS_SETUP_HOOK_ENV_VAR
    assert StandbyProcesses(True, "raydc.elastic.preload.run").settings == {
        "env_vars": {variable: "raydc.elastic.preload.run"}
    }
