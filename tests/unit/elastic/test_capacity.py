"""How many workers fit, when a run grows, and when it leaves a node that is about to go."""

from __future__ import annotations

import pytest

from raydc.elastic import capacity
from raydc.elastic.capacity import Node, Size

CPU = {"CPU": 1.0}


def test_room_counts_what_is_free_and_what_the_run_holds_itself() -> None:
    nodes = [
        Node("held", {"CPU": 0.0}),
        Node("free", {"CPU": 2.0}),
        Node("other", {"CPU": 0.99}),
        Node("new", {}),
    ]
    assert capacity.room(nodes, CPU, {}) == {"free": 2}
    assert capacity.room(nodes, CPU, {"held": 1, "free": 1, "gone": 3}) == {"held": 1, "free": 3}


@pytest.mark.parametrize("node", [Node("a", CPU, answers=False), Node("a", CPU, drains_at_s=0.0)])
def test_nodes_that_are_dead_or_about_to_be_have_no_room(node: Node) -> None:
    assert capacity.room([node], CPU, {"a": 1}) == {}


def test_the_scarcest_resource_counts() -> None:
    nodes = [Node("a", {"CPU": 8.0, "GPU": 2.0}), Node("b", {"CPU": 8.0})]
    assert capacity.room(nodes, {"CPU": 0.4, "GPU": 1.0}, {}) == {"a": 2}
    assert capacity.room([Node("a", {"CPU": 1.2})], {"CPU": 0.4}, {}) == {"a": 3}


def size(least: int = 1, most: int = 4) -> Size:
    return Size(least, most, settle_s=3.0, retry_after_s=60.0)


def test_a_run_starts_with_what_fits() -> None:
    assert [size(2).to_start(fits, 0.0) for fits in (0, 1, 2, 3, 9)] == [None, None, 2, 3, 4]


def test_a_number_that_could_not_be_started_is_left_alone_for_a_while() -> None:
    chosen = size()
    chosen.not_started(3, 100.0)
    assert [chosen.to_start(9, now_s) for now_s in (101.0, 159.0, 160.0)] == [2, 2, 4]
    least = size(3, 3)
    least.not_started(3, 100.0)
    assert least.to_start(3, 101.0) == 3  # There is no smaller one.


def test_a_run_grows_when_there_has_been_room_for_a_while() -> None:
    chosen = size()
    looks = [(0.0, 2), (1.0, 3), (2.0, 2), (3.0, 3), (5.0, 4), (5.9, 4), (6.0, 9)]
    assert [chosen.grows_to(2, fits, now_s) for now_s, fits in looks] == [None] * 6 + [4]


def test_a_run_does_not_grow_into_what_it_could_not_start() -> None:
    chosen = size()
    chosen.not_started(3, 0.0)
    assert [chosen.grows_to(2, 3, now_s) for now_s in (1.0, 30.0, 60.0, 63.0)] == [
        None,
        None,
        None,
        3,
    ]


@pytest.mark.parametrize(
    ("fits", "deadline_s", "leaves"),
    [(1, 1000.0, True), (0, 1000.0, False), (0, 109.0, True), (0, None, True)],
)
def test_it_leaves_when_it_can_go_on_or_must(
    fits: int, deadline_s: float | None, leaves: bool
) -> None:
    assert capacity.leaves_now(fits, 1, deadline_s, 100.0, 10.0) is leaves
