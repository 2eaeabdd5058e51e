"""HAProxy gets raydc's limits on a Ray that raydc did not start, or each missing one is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from raydc import engine
from raydc.cli import main
from raydc.engine import direct_support, internals, serve_client, serve_start

SPEC = """\
name: small
storage: store
data: {source: rows.csv, target: answer}
model: {name: mlp, hidden: [4]}
serve: {}
"""


@pytest.fixture(autouse=True)
def _on_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(internals, "is_own_ray", lambda: False)
    monkeypatch.setattr(serve_client, "applications", list)


def test_node_says_which_program_it_can_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(serve_start.PROGRAM, raising=False)
    monkeypatch.setattr(internals, "session_folder", lambda: str(tmp_path))
    installed = tmp_path / "installed"
    assert serve_start._look(None, may_write=False) == serve_start._CANNOT
    # That of an older raydc: it ends with a traceback.
    installed.write_text("#!/bin/sh\nexit 1\n")
    installed.chmod(0o700)
    assert serve_start._look(str(installed), may_write=False) == serve_start._CANNOT
    written = serve_start._look(str(installed), may_write=True)
    assert written == str(tmp_path / "raydc-haproxy")
    assert serve_start._look(written, may_write=False) == written
    # What Ray was started with counts more.
    monkeypatch.setenv(serve_start.PROGRAM, "/opt/haproxy")
    assert serve_start._look(written, may_write=True) == serve_start._OTHER
    monkeypatch.setenv(serve_start.PROGRAM, "/elsewhere/raydc-haproxy")
    assert serve_start._look(written, may_write=True) == serve_start._SET


@pytest.mark.parametrize(
    ("answers", "is_passed_on", "is_edited"),
    [
        ({"/venv/bin/raydc-haproxy"}, True, True),
        ({serve_start._SET}, False, True),
        # One node without it would have no proxy.
        ({"/venv/bin/raydc-haproxy", serve_start._CANNOT}, False, False),
        ({"/venv/bin/raydc-haproxy", serve_start._SET}, False, False),
        ({serve_start._OTHER}, False, False),
        ({serve_start._CANNOT}, False, False),
        (set(), False, False),
    ],
)
def test_program_is_passed_on_only_if_every_node_has_it(
    answers: set[str], is_passed_on: bool, is_edited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {f"node {number}": answer for number, answer in enumerate(answers)}
    monkeypatch.setattr(serve_start, "_ask_nodes", lambda: given)
    assert (serve_start._find_program() is not None) == is_passed_on
    assert serve_start.will_edit_haproxy() == is_edited
    assert (direct_support.missing_haproxy_limits() == []) == is_edited


@pytest.mark.parametrize("is_edited", [True, False])
def test_running_serve_is_asked_itself(monkeypatch: pytest.MonkeyPatch, is_edited: bool) -> None:
    monkeypatch.setattr(serve_client, "applications", lambda: [{}])
    monkeypatch.setattr(serve_client, "address", lambda: ("127.0.0.1", 8000))
    monkeypatch.setattr(serve_client, "is_haproxy_edited", lambda *_: is_edited)
    monkeypatch.setattr(serve_start, "_ask_nodes", lambda: {"node 1": "/venv/bin/raydc-haproxy"})
    assert (direct_support.missing_haproxy_limits() == []) == is_edited


def test_plan_names_each_limit_that_is_not_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("age,answer\n1,no\n2,yes\n")
    found = engine.Engine(False, "10.0.0.1:6379", 1, {"CPU": 4.0})
    monkeypatch.setattr(engine, "connect", lambda *_: found)
    monkeypatch.setattr(direct_support, "describe_support", lambda: "tested")
    for answer in ("/venv/bin/raydc-haproxy", serve_start._CANNOT):
        monkeypatch.setattr(serve_start, "_ask_nodes", lambda answer=answer: {"node 1": answer})
        shown = CliRunner().invoke(main, ["plan", str(path), "--address", "10.0.0.1:6379"])
        assert shown.exit_code == 0, shown.output
        named = [limit for limit in direct_support.LIMITS if limit.text in shown.output]
        wanted = [one for one in direct_support.LIMITS if one.part == "HAProxy"]
        assert named == (wanted if answer == serve_start._CANNOT else [])
        assert (direct_support.WAY_OUT in shown.output) == (answer == serve_start._CANNOT)
        assert ("node 1 cannot run it" in shown.output) == (answer == serve_start._CANNOT)


def test_way_out_names_the_nodes_that_cannot_run_the_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = dict.fromkeys([f"node {number}" for number in range(7)], serve_start._CANNOT)
    answers |= {"node 1": serve_start._SET, "node 2": "/venv/bin/raydc-haproxy"}
    answers["node 3"] = serve_start._OTHER
    monkeypatch.setattr(serve_start, "_ask_nodes", lambda: answers)
    said = direct_support.way_out().removeprefix(direct_support.WAY_OUT)
    assert said == (
        ". raydc-haproxy: node 0 cannot run it, node 3 has another one set, node 4 cannot run it, "
        "node 5 cannot run it, node 6 cannot run it"
    )
    monkeypatch.setattr(direct_support, "_MAX_NODES", 1)
    assert direct_support.way_out().endswith("node 0 cannot run it, and 4 more")
    monkeypatch.setattr(serve_start, "_ask_nodes", lambda: {"node 1": serve_start._SET})
    assert direct_support.way_out() == direct_support.WAY_OUT
