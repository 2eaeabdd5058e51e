"""The console blocks of README.md and the tutorial: commands run and print what is shown.

`make demo` runs as a user would, in a copy of the project with a Ray of its own. The tutorial runs
in this process on the Ray that the integration tests share. tests/unit/test_documentation.py checks
all other blocks.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import documentation
import pytest
from click.testing import CliRunner
from endpoints import choose_port, take_down

from raydc import engine
from raydc.cli import main

COMMAND_TIMEOUT_S = 500
TUTORIAL = "docs/tutorial.md"
# Commands that look at this machine, or at files only: they need no Ray.
WITHOUT_RAY = ("validate", "plan", "runs", "schema")


@pytest.fixture
def project(root: Path, tmp_path: Path) -> Path:
    """A copy of the project, so that what the demo writes does not stay."""
    for name in ("examples", "cluster", "raydc", ".ci", "Makefile", "pyproject.toml"):
        subprocess.run(["cp", "-r", str(root / name), str(tmp_path / name)], check=True)
    return tmp_path


def test_make_demo_prints_what_the_readme_shows(project: Path) -> None:
    (block,) = documentation.blocks("console", "README.md")
    ((command, shown),) = documentation.steps(block)
    assert command == "make demo"
    # The environment exists already: CI is the test of what `make` installs.
    venv = Path(sys.executable).parent.parent
    options = f"VENV={venv} -o {venv}/.installed-demo DEMO_FLAGS='--set serve.port=0'"
    environment = {**os.environ, "COLUMNS": "200", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("MAKEFLAGS", None)
    done = subprocess.run(
        ["bash", "-c", f"{command} {options}"],
        cwd=project,
        env=environment,
        text=True,
        check=False,
        timeout=COMMAND_TIMEOUT_S,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    missing = documentation.not_printed(shown, done.stdout)
    assert not missing, f"{done.stdout}\nnot printed: {missing}"


@pytest.fixture
def folder(
    ray_engine: engine.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The reader's folder, with the files that the pages name."""
    for name, text in documentation.files().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    yield tmp_path
    take_down()


def test_tutorial_commands_print_what_is_shown(
    folder: Path, ray_engine: engine.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = choose_port()
    commands = 0
    for block in documentation.blocks("console", TUTORIAL):
        for command, shown in documentation.steps(block):
            name, *arguments = shlex.split(command)
            if name == "raydc":
                with monkeypatch.context() as patch:
                    # An endpoint of a Ray that exists does not keep the command waiting.
                    if arguments[0] not in WITHOUT_RAY:
                        patch.setenv("RAY_ADDRESS", ray_engine.address)
                    printed = run_raydc(arguments, port)
            else:
                printed = run_program(command)
            missing = documentation.not_printed(shown, printed)
            assert not missing, f"$ {command}\n{printed}\nnot printed: {missing}"
            commands += 1
    assert commands > 10
    run_readers_of_the_run()


def run_raydc(arguments: list[str], port: int) -> str:
    """Output of a raydc command in this process, with a port of its own for the endpoint."""
    if any(word.endswith(".yaml") for word in arguments):
        arguments = [*arguments, "--set", f"serve.port={port}"]
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.output


def run_program(command: str) -> str:
    """Output of another command of the tutorial."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, "PATH": path},
        text=True,
        check=True,
        timeout=60,
        capture_output=True,
    ).stdout


def run_readers_of_the_run() -> None:
    """Runs the programs of the pages that read the files of the tutorial's run."""
    programs = documentation.blocks("python", "docs/howto/tensorboard.md")
    assert programs
    for block in programs:
        # The tutorial's sweep has set its first run aside.
        text = block.text.replace("runs/customers/", "runs/customers.1/")
        exec(compile(text, block.page, "exec"), {})
