"""The history of aliases: aliases that end, canaries and shadows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raydc.errors import RegistryError
from raydc.storage import Storage
from raydc.tracking import alias_history
from raydc.tracking.alias_history import AliasHistory, Stacks, make_move, running_beside


@pytest.fixture
def history(tmp_path: Path) -> AliasHistory:
    return AliasHistory(Storage(str(tmp_path)), "digits")


def set_to(history: AliasHistory, alias: str, version: int) -> Stacks:
    def decide(stacks: Stacks) -> alias_history.Move:
        stack = stacks.get(alias, [])
        stacks[alias] = [*stack, version]
        return make_move("set", alias, stack, version, "ada", "")

    return history.change(decide)


def test_entry_holds_its_move_and_all_aliases(history: AliasHistory) -> None:
    set_to(history, "production", 1)
    assert set_to(history, "staging", 2) == {"production": [1], "staging": [2]}
    assert history.state() == (2, {"production": [1], "staging": [2]})
    assert [(move["alias"], move["from"], move["to"]) for move in history.moves()] == [
        ("production", None, 1),
        ("staging", None, 2),
    ]
    assert history.folder.read_json("00000002.json")["format"] == 1


def test_change_that_decides_on_nothing_adds_no_entry(history: AliasHistory) -> None:
    set_to(history, "production", 1)
    assert history.change(lambda stacks: None) == {"production": [1]}
    assert history.state()[0] == 1


def test_change_is_decided_again_after_a_faster_writer(history: AliasHistory) -> None:
    seen: list[Stacks] = []

    def decide(stacks: Stacks) -> alias_history.Move:
        seen.append({alias: list(stack) for alias, stack in stacks.items()})
        if len(seen) == 1:  # Between the look and the write of this one.
            set_to(history, "production", 7)
        stack = stacks.get("staging", [])
        stacks["staging"] = [*stack, 2]
        return make_move("set", "staging", stack, 2, "bob", "")

    assert history.change(decide) == {"production": [7], "staging": [2]}
    assert seen == [{}, {"production": [7]}]


def test_writer_that_always_loses_gives_up(
    history: AliasHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Storage, "create_bytes", lambda *_: False)
    with pytest.raises(RegistryError, match="other writers were faster 100 times"):
        set_to(history, "production", 1)


def move(kind: str, to: int | None, alias: str = "production") -> dict[str, Any]:
    return {"kind": kind, "alias": alias, "from": None, "to": to}


@pytest.mark.parametrize(
    ("moves", "expected"),
    [
        ([], {}),
        ([move("set", 1)], {}),
        ([move("canary", 2)], {("production", "canary"): 2}),
        ([move("canary", 2), move("canary", 3)], {("production", "canary"): 3}),
        ([move("canary", 2), move("canary ended", None)], {}),
        (
            [move("canary", 2), move("shadow", 4), move("shadow ended", None)],
            {("production", "canary"): 2},
        ),
        ([move("shadow", 2, "staging"), move("shadow ended", None)], {("staging", "shadow"): 2}),
    ],
)
def test_running_beside_follows_starts_and_ends(
    moves: list[dict[str, Any]], expected: dict[tuple[str, str], int]
) -> None:
    assert running_beside(moves) == expected
