"""The command line: light to import, options frozen, one message and exit code for each error."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from stores import make_storage

from raydc.cli import main
from raydc.cli.app import Commands
from raydc.engine import Engine
from raydc.storage import Storage
from raydc.tracking import events

COMMANDS = {
    "run": {"--set", "--address", "--dashboard", "--resume", "--new", "--fork", "--once"},
    "init": {"--target", "--task", "--name", "--output"},
    "inspect": {"--set", "--address", "--html"},
    "report": {"--storage", "--html"},
    "validate": {"--set"},
    "plan": {"--set", "--address"},
    "prepare": {"--set", "--address"},
    "train": {"--set", "--address", "--dashboard", "--resume", "--new", "--fork"},
    "sweep": {"--set", "--address", "--dashboard", "--resume", "--new"},
    "evaluate": {"--set", "--address", "--slice"},
    "serve": {"--set", "--address", "--dashboard", "--version", "--once"},
    "predict": {
        "--set",
        "--address",
        "--url",
        "--row",
        "--image",
        "--input",
        "--output",
        "--timeout",
        "--token",
        "--prompts",
        "--chat",
        "--max-tokens",
        "--temperature",
        "--top-p",
        "--seed",
        "--stop",
    },
    "promote": {"--set", "--address", "--version", "--alias", "--why"},
    "rollback": {"--set", "--address", "--alias", "--why"},
    "token create": {"--set", "--name", "--rights", "--days"},
    "token list": {"--set"},
    "token revoke": {"--set", "--name"},
    "canary": {
        "--set",
        "--address",
        "--version",
        "--fraction",
        "--follow",
        "--drop",
        "--alias",
        "--why",
    },
    "shadow": {"--set", "--address", "--version", "--fraction", "--drop", "--alias", "--why"},
    "chaos": {"--set", "--address", "--steps", "--kills", "--seed", "--only", "--nodes"},
    "stop": {"--set", "--address", "--all"},
    "runs": {"--storage", "--json"},
    "data": {"--storage", "--json"},
    "models": {"--storage", "--json", "--address"},
    "export": {"--storage", "--format", "--to", "--base"},
    "rm run": {"--storage", "--yes"},
    "rm data": {"--storage", "--yes"},
    "rm model": {"--storage", "--yes", "--version", "--address"},
    "rm alias": {"--storage", "--yes", "--address", "--why"},
    "schema": set(),
}


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.yaml"
    source = tmp_path / "a.csv"
    source.write_text("x,label\n1,a\n2,b\n")
    path.write_text(f"name: good\ndata: {{source: {source}}}\nmodel: {{name: mlp}}\n")
    return path


def test_options_of_every_command_are_as_listed() -> None:
    # Configuration has one home, the spec; a new option needs a reason and a change here.
    found = {
        name: {o for p in c.params for o in p.opts if o.startswith("--")}
        for name, c in commands(main)
    }
    assert found == COMMANDS


def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def test_help_imports_neither_ray_nor_torch() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from raydc.cli import main; "
        "r = CliRunner().invoke(main, ['--help']); assert r.exit_code == 0, r; "
        "heavy = {'ray', 'torch', 'pandas', 'pyarrow', 'numpy'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_validate_shows_valid_or_every_problem(good: Path) -> None:
    result = CliRunner().invoke(main, ["validate", str(good)])
    assert (result.exit_code, "valid" in result.output) == (0, True)
    result = CliRunner().invoke(
        main, ["validate", str(good), "--set", "seed=x", "--set", "train.epochs=0"]
    )
    assert result.exit_code == 2
    assert "2 problem(s) in the spec; no run was begun." in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["validate", "none.yaml"], "none.yaml"),
        (["predict"], "nothing to predict"),
        (["predict", "--row", "{}", "--image", "good.yaml"], "rows or an image, not both"),
        (["predict", "--row", "{}"], "no endpoint"),
        (["predict", "--url", "http://localhost:1", "--row", "{"], "not JSON"),
        (["predict", "--input", "a.csv"], "--input needs SPEC and --output"),
        (["stop"], "stop takes either SPEC or --all"),
        (["stop", "good.yaml", "--all"], "stop takes either SPEC or --all"),
        (["rm", "run", "x", "--storage", "typo"], "there is no storage"),
        (["rm", "data"], "Missing argument"),
        (["rm", "model", "x", "--version", "one"], "not a valid integer"),
        (
            ["train", "good.yaml", "--dashboard", "--address", "localhost:1"],
            "--dashboard is for a local Ray",
        ),
        (
            ["canary", "good.yaml", "--drop", "--version", "2"],
            "--drop and --version exclude each other",
        ),
        (["canary", "good.yaml", "--version", "2", "--fraction", "0"], "0<x<=1"),
        (["run", "good.yaml", "--resume", "--new"], "exclude each other"),
        (
            ["train", "good.yaml", "--resume", "--fork", "other"],
            "--resume and --fork exclude each other",
        ),
    ],
)
def test_usage_error_exits_with_2(
    good: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(good.parent)
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, message in result.output) == (2, True), result.output


def test_plan_shows_steps_and_refuses_what_does_not_fit(good: Path) -> None:
    result = CliRunner().invoke(main, ["plan", str(good)])
    assert result.exit_code == 0
    assert "10 epochs, 256 rows a step" in result.output
    result = CliRunner().invoke(main, ["plan", str(good), "--set", "scaling.num_workers=200"])
    assert (result.exit_code, "do not fit" in result.output) == (9, True)


def test_plan_of_a_sweep_builds_its_networks_and_a_sweep_refuses_what_cannot_be_built(
    good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected: list[object] = []

    def connect(*given: object, **_: object) -> Engine:
        connected.append(given)
        return Engine(True, "local", 1, {"CPU": 2.0})

    monkeypatch.chdir(good.parent)
    monkeypatch.setattr("raydc.engine.connect", connect)
    space = "sweep={space: {model: {choice: [{name: mlp, width: {choice: [8, 16]}}]}}}"
    result = CliRunner().invoke(main, ["plan", str(good), "--set", space])
    assert result.exit_code == 0
    assert "sweep     2 networks of 80 to 288 parameters, without those that" in result.output
    space = space.replace("{name: mlp,", "{name: resnet18, arguments: {no_such: 1}}, {name: mlp,")
    for command in ("plan", "sweep", "run"):
        result = CliRunner().invoke(main, [command, str(good), "--set", space])
        assert result.exit_code == 2
        assert "sweep.space: model=resnet18(arguments=(no_such=1))" in result.output
        # A sweep looks at its points beside the start of Ray, and before anything is begun.
        assert len(connected) == ("plan", "sweep", "run").index(command)
        assert not (good.parent / "store").exists()


def test_schema_prints_json() -> None:
    assert json.loads(CliRunner().invoke(main, ["schema"]).output)["title"] == "Spec"


def test_each_command_is_in_one_section_and_fits_its_line() -> None:
    assert isinstance(main, Commands)
    listed = [one.name for commands in main.sections.values() for one in commands]
    assert sorted(listed) == sorted(main.commands)
    page = CliRunner().invoke(main, ["--help"], terminal_width=80).output
    lines = page.splitlines()[1:]  # Without the usage, which ends with dots.
    assert not [line for line in lines if line.endswith("...") or len(line) > 80]


@pytest.mark.parametrize(
    ("command", "noun"), [("runs", "run"), ("data", "data set"), ("models", "model")]
)
def test_list_of_an_empty_storage_says_so(tmp_path: Path, command: str, noun: str) -> None:
    result = CliRunner().invoke(main, [command, "--storage", str(tmp_path)])
    assert (result.exit_code, f"no {noun}s at" in result.output) == (0, True)
    result = CliRunner().invoke(main, [command, "--storage", str(tmp_path / "typo")])
    assert (result.exit_code, "there is no storage at" in result.output) == (2, True)


def test_lists_show_names_sizes_and_uses(tmp_path: Path) -> None:
    storage = make_storage(tmp_path)
    shown = {
        command: CliRunner().invoke(main, [command, "--storage", storage.uri]).output
        for command in ("runs", "data", "models")
    }
    assert all(part in shown["runs"] for part in ("digits", "finished", "accuracy 0.9000", "kB"))
    assert "1 run, " in shown["runs"]
    assert all(
        part in shown["data"] for part in ("digits-0123456789ab", "complete", "10", "digits")
    )
    assert "production -> 1" in shown["models"]


def test_details_show_what_depends_on_what(tmp_path: Path) -> None:
    storage = make_storage(tmp_path)
    run = CliRunner().invoke(main, ["runs", "digits", "--storage", storage.uri]).output
    assert "digits version 1 (production)" in run
    assert f"tensorboard --logdir {tmp_path}/runs/digits" in run
    model = CliRunner().invoke(main, ["models", "digits", "--storage", storage.uri]).output
    assert "production" in model
    one = CliRunner().invoke(main, ["data", "digits-0123456789ab", "--storage", storage.uri]).output
    assert "train 8, validation 1, test 1" in one


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["runs"], "runs"),
        (["data"], "data"),
        (["models"], "models"),
        (["runs", "digits"], "run"),
        (["data", "digits-0123456789ab"], "data"),
        (["models", "digits"], "model"),
    ],
)
def test_json_has_bytes_and_names_damaged_files(
    tmp_path: Path, arguments: list[str], key: str
) -> None:
    storage = make_storage(tmp_path)
    (storage / "runs/digits").write_bytes("fork.json", b"{")
    result = CliRunner().invoke(main, [*arguments, "--storage", storage.uri, "--json"])
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    found = value[key][0] if isinstance(value[key], list) else value[key]
    assert found["num_bytes"] > 0
    if arguments != ["models"]:  # A list of models reads no run.
        assert value["damaged"][0].startswith("runs/digits/fork.json: not JSON")
        assert "warning: cannot read runs/digits/fork.json" in result.stderr


def test_run_that_died_shows_where_its_time_went(tmp_path: Path) -> None:
    run = Storage(str(tmp_path)) / "runs" / "dead"
    run.write_bytes("resolved.yaml", b"name: dead")
    log = events.EventLog(run, "events")
    log.write(kind="run_started", time_s=100.0)
    seconds = {"start_up": 2.0, "useful_step": 5.0}
    log.write(
        kind="time",
        since_s=103.0,
        until_s=110.0,
        step=7,
        useful_steps=7,
        recomputed_steps=0,
        seconds=seconds,
    )
    result = CliRunner().invoke(main, ["runs", "dead", "--storage", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "unfinished" in result.output
    assert "10.0 s: useful step 5.0 50%" in result.output
    assert "start up 5.0 50%" in result.output
    result = CliRunner().invoke(main, ["runs", "alive", "--storage", str(tmp_path)])
    assert (result.exit_code, "no run 'alive'" in result.output) == (5, True)
