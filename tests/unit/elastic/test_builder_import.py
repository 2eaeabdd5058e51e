"""What the driver makes of nodes that can or cannot import a user's builder. Needs no Ray."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayError
from training import training_spec

from raydc.elastic import builder_import
from raydc.errors import SpecError

SPEC = training_spec("store", model={"builder": "nodes_networks:make"})


class OneTask:
    """A remote function whose calls are the addresses of their nodes."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def options(self, scheduling_strategy: Any) -> OneTask:
        self.asked.append(scheduling_strategy.node_id)
        return self

    def remote(self, *_: object) -> str:
        return self.asked[-1]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What each node answers; one without an answer is slow, and an error is raised."""
    found: dict[str, Any] = {}

    def get(call: str) -> Any:
        if isinstance(found[call], Exception):
            raise found[call]
        return found[call]

    nodes = [
        {"NodeID": f"{n:056x}", "NodeManagerAddress": f"10.0.0.{n}", "Alive": n != 4}
        | {"Resources": {} if n == 3 else {"CPU": 1.0}}
        for n in range(1, 5)
    ]
    task = OneTask()
    fake = SimpleNamespace(
        nodes=lambda: nodes,
        remote=lambda **_: lambda _function: task,
        wait=lambda calls, **_: ([call for call in calls if call in found], []),
        get=get,
    )
    monkeypatch.setattr(builder_import, "ray", fake)
    found["task"] = task
    return found


def test_the_node_that_cannot_import_is_named(answers: dict[str, Any]) -> None:
    first, second = f"{1:056x}", f"{2:056x}"
    answers |= {first: None, second: ("model.builder", "cannot import nodes_networks")}
    with pytest.raises(SpecError, match=r"on node 10\.0\.0\.2 of this Ray: cannot import nodes_"):
        builder_import.require_on_nodes(SPEC)
    # Neither dead nodes nor those without a CPU are asked.
    assert answers["task"].asked == [first, second]


def test_nodes_that_are_slow_gone_or_not_needed_refuse_nothing(answers: dict[str, Any]) -> None:
    answers[f"{1:056x}"] = RayError("the node is gone")
    builder_import.require_on_nodes(SPEC)
    builder_import.require_on_nodes(training_spec("store", model={"name": "linear"}))
    assert len(answers["task"].asked) == 2


def test_a_node_looks_where_the_driver_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "started"
    folder.mkdir()
    (folder / "nodes_networks.py").write_text("def make(signature):\n    pass\n")
    functions = [("model.builder", "nodes_networks:make")]
    found = builder_import._try_import(functions, str(tmp_path / "nowhere"))
    assert found is not None
    assert found[0] == "model.builder"
    assert found[1].startswith("cannot import nodes_networks")
    assert builder_import._try_import(functions, str(folder)) is None
