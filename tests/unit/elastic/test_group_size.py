"""How many workers fit, when a run grows, and when it leaves a draining node."""

from __future__ import annotations

import pytest

from raydc.elastic import group_size
from raydc.elastic.group_size import GroupSize, Node

CPU = {"CPU": 1.0}


def test_room_counts_free_resources_and_those_of_the_run_itself() -> None:
    nodes = [
        Node("held", {"CPU": 0.0}),
        Node("free", {"CPU": 2.0}),
        Node("other", {"CPU": 0.99}),
        Node("new", {}),
    ]
    assert group_size.room_by_node(nodes, CPU, {}) == {"free": 2}
    assert group_size.room_by_node(nodes, CPU, {"held": 1, "free": 1, "gone": 3}) == {
        "held": 1,
        "free": 3,
    }


@pytest.mark.parametrize("node", [Node("a", CPU, responds=False), Node("a", CPU, drains_at_s=0.0)])
def test_dead_or_draining_node_has_no_room(node: Node) -> None:
    assert group_size.room_by_node([node], CPU, {"a": 1}) == {}


def test_room_is_limited_by_the_scarcest_resource() -> None:
    nodes = [Node("a", {"CPU": 8.0, "GPU": 2.0}), Node("b", {"CPU": 8.0})]
    assert group_size.room_by_node(nodes, {"CPU": 0.4, "GPU": 1.0}, {}) == {"a": 2}
    assert group_size.room_by_node([Node("a", {"CPU": 1.2})], {"CPU": 0.4}, {}) == {"a": 3}


def size(least: int = 1, most: int = 4) -> GroupSize:
    return GroupSize(least, most, settle_s=3.0, retry_after_s=60.0)


def test_choose_start_takes_what_fits_within_the_limits() -> None:
    assert [size(2).choose_start(fits, 0.0) for fits in (0, 1, 2, 3, 9)] == [None, None, 2, 3, 4]


def test_avoided_size_is_not_started_for_a_while() -> None:
    chosen = size()
    chosen.avoid(3, 100.0)
    assert [chosen.choose_start(9, now_s) for now_s in (101.0, 159.0, 160.0)] == [2, 2, 4]
    least = size(3, 3)
    least.avoid(3, 100.0)
    assert least.choose_start(3, 101.0) == 3  # A fixed size has nothing smaller.


def test_choose_growth_waits_until_room_has_settled() -> None:
    chosen = size()
    looks = [(0.0, 2), (1.0, 3), (2.0, 2), (3.0, 3), (5.0, 4), (5.9, 4), (6.0, 9)]
    assert [chosen.choose_growth(2, fits, now_s) for now_s, fits in looks] == [None] * 6 + [4]


def test_choose_growth_skips_an_avoided_size() -> None:
    chosen = size()
    chosen.avoid(3, 0.0)
    assert [chosen.choose_growth(2, 3, now_s) for now_s in (1.0, 30.0, 60.0, 63.0)] == [
        None,
        None,
        None,
        3,
    ]


@pytest.mark.parametrize(
    ("fits", "deadline_s", "leaves"),
    [(1, 1000.0, True), (0, 1000.0, False), (0, 109.0, True), (0, None, True)],
)
def test_should_leave_if_it_fits_elsewhere_or_time_runs_out(
    fits: int, deadline_s: float | None, leaves: bool
) -> None:
    assert group_size.should_leave(fits, 1, deadline_s, 100.0, 10.0) is leaves
