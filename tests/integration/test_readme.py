"""Every code block of the README is true: commands run and print what is shown, specs load, the demo is the demo.

Blocks and what is done with them:
    console   each `$ command` runs in a copy of the project; its output must hold every line that is shown
    yaml      a whole spec is the file of the demo; a part of one is put into a spec and loaded
    sh        commands that need an endpoint or a cluster: parsed by the shell, and their raydc options checked
    python    a program that asks an endpoint: tests/unit/test_client.py runs it
    text      a picture
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

from raydc import spec
from raydc.cli import main

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND_TIMEOUT_S = 500
# Figures, times and places differ from run to run; everything else of a line has to come again.
VARIABLE = re.compile(r"\d[\d,.]*|/[\w./-]+|\([^)]*\)")


def blocks(root: Path, kind: str) -> list[str]:
    found = BLOCK.findall((root / "README.md").read_text())
    assert {name for name, _ in found} <= {"console", "yaml", "sh", "python", "text"}
    return [body for name, body in found if name == kind]


def steps(block: str) -> list[tuple[str, list[str]]]:
    """Commands of a console block with the lines shown below each."""
    parts = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    return [
        (lines[0], [line for line in lines[1:] if line.strip()])
        for lines in map(str.splitlines, parts)
    ]


@pytest.fixture(scope="module")
def project(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project's files, with the environment of this test run as its own."""
    folder = tmp_path_factory.mktemp("readme") / "raydc"
    for name in ("examples", "cluster", "raydc", ".ci", "Makefile", "pyproject.toml"):
        source = root / name
        ignored = ["cp", "-r", str(source), str(folder / name)]
        folder.mkdir(exist_ok=True)
        subprocess.run(ignored, check=True)
    return folder


def run(command: str, project: Path) -> str:
    binaries = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "COLUMNS": "200",
        "CUDA_VISIBLE_DEVICES": "",
    }
    environment.pop("MAKEFLAGS", None)
    if command.startswith("make "):
        # The environment exists already: this test is about what the command does, CI about how it installs.
        environment_of_test = Path(sys.executable).parent.parent
        command += f" VENV={environment_of_test} INSTALLED= DEMO_FLAGS='--set serve.port=0'"
    done = subprocess.run(
        ["bash", "-c", command], cwd=project, env=environment, text=True, check=False, timeout=COMMAND_TIMEOUT_S,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.stdout


def shape(line: str) -> str:
    return " ".join(VARIABLE.sub("#", line).split())


def test_what_the_console_shows_is_what_comes(root: Path, project: Path) -> None:
    for block in blocks(root, "console"):
        for command, shown in steps(block):
            printed = run(command, project)
            shapes = {shape(line) for line in printed.splitlines()}
            missing = [line for line in shown if line != "..." and shape(line) not in shapes]
            assert not missing, f"$ {command}\n{printed}\nnot printed: {missing}"


def test_the_spec_shown_is_the_spec_of_the_demo(root: Path) -> None:
    whole = [block for block in blocks(root, "yaml") if yaml.safe_load(block).get("name")]
    shown, shipped = (
        spec.loads(text) for text in (whole[0], (root / "examples/digits/spec.yaml").read_text())
    )
    assert shown == shipped


def test_parts_of_specs_load(root: Path) -> None:
    parts = [value for value in map(yaml.safe_load, blocks(root, "yaml")) if "name" not in value]
    assert parts
    for part in parts:
        text = yaml.safe_dump(
            {"name": "part", "data": {"source": "a.csv"}, "model": {"name": "mlp"}, **part}
        )
        spec.loads(text)


def test_commands_that_need_a_cluster_are_well_formed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digit.png").touch()
    lines = [line for block in blocks(root, "sh") for line in block.splitlines() if line]
    assert lines
    subprocess.run(["bash", "-n"], input="\n".join(lines), text=True, check=True, timeout=60)
    ours = [line for line in lines if "raydc " in line or "submit.py" in line]
    assert ours
    for line in ours:
        words = shlex.split(line)
        start = next(n for n, word in enumerate(words) if word in ("raydc", "examples/submit.py"))
        arguments = [word for word in words[start + 1 :] if word != "--"]
        command = main.commands[arguments[0]]
        context = click.Context(command)
        command.parse_args(context, arguments[1:])
        for path in (word for word in arguments if word.endswith(".yaml")):
            assert (root / path).is_file()


def test_links_lead_somewhere(root: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", (root / "README.md").read_text())
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (root / target).exists()] == []


def test_the_reference_of_the_spec_is_current(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, root / "docs" / "generate.py", "--check"], check=False, timeout=60
    )
    assert done.returncode == 0, "run `make docs`"
