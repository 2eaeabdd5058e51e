"""`raydc run` as users type it: every stage, exit codes, --resume and --new.

The first run and the errors of `raydc run` come from processes of their own. Other commands run in
this process, which has imported everything already.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from training import training_spec

from raydc import bundle, engine, run_context
from raydc.cli import main
from raydc.errors import ClusterError
from raydc.registry import Registry
from raydc.storage import Storage
from raydc.tokens import TokenStore

RUN_TIMEOUT_S = 400


@pytest.fixture(scope="module")
def digits(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the examples and the digits."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "examples").symlink_to(root / "examples")
    subprocess.run(
        [sys.executable, root / "examples" / "download.py", "digits"],
        check=True,
        timeout=120,
        cwd=root,
    )
    return folder


@dataclass(frozen=True)
class Done:
    """What a command has ended with."""

    returncode: int
    stdout: str
    stderr: str


def process(folder: Path, ray: engine.Engine, *arguments: str) -> Done:
    """The command line in a process of its own, attached to the Ray of the tests."""
    environment = {**os.environ, "RAY_ADDRESS": ray.address}
    command = [str(Path(sys.executable).with_name("raydc")), *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def raydc(folder: Path, ray: engine.Engine, *arguments: str) -> Done:
    """A command in this process, attached to the Ray of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("RAY_ADDRESS", ray.address)
        done = CliRunner().invoke(main, list(arguments))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


def test_run_with_a_sweep_serves_the_best_trial(ray_engine: engine.Engine, digits: Path) -> None:
    small = [
        "--set",
        "train.epochs=3",
        "--set",
        "serve.port=0",
        "--set",
        "serve.ray_actor_options={num_cpus: 0.5}",
    ]
    small += ["--set", "serve.auth=token", "--set", "sweep.num_samples=2"]
    done = process(digits, ray_engine, "run", "examples/digits/sweep.yaml", *small, "--once")
    assert done.returncode == 0, done.stdout + done.stderr
    storage = Storage(str(digits / "store"))
    trials = storage.read_json("runs/digits-sweep/sweep/trials.json")
    assert len(trials) == 2
    winner = max(
        (trial for trial in trials if trial["metric"] is not None),
        key=lambda trial: trial["metric"],
    )
    registry = Registry(storage)
    assert registry.aliases("digits-sweep") == {"production": 1}
    served = bundle.load(registry.folder("digits-sweep", 1))
    assert served.spec.train.learning_rate == winner["values"]["train.learning_rate"]
    assert served.spec.model.depth == winner["values"]["model.depth"]  # type: ignore[union-attr]
    assert "answers as digits-sweep version 1" in done.stdout
    predicted = next(line for line in done.stdout.splitlines() if line.startswith("predict"))
    assert "answered" in predicted
    assert "the held-out row says" in predicted

    # The request used a token of its own, which is revoked by now.
    assert "requests need a token, and there is none: raydc token create" in done.stdout
    assert TokenStore(storage, "digits-sweep").list_files() == []

    # The run exists now: without a flag it is neither overwritten nor continued.
    again = raydc(digits, ray_engine, "run", "examples/digits/sweep.yaml", *small, "--once")
    assert (again.returncode, "--resume" in again.stderr, "--new" in again.stderr) == (
        5,
        True,
        True,
    )
    changed = raydc(
        digits,
        ray_engine,
        "run",
        "examples/digits/sweep.yaml",
        *small,
        "--set",
        "seed=7",
        "--resume",
    )
    assert changed.returncode == 5
    assert "seed: 0 then, 7 now" in changed.stderr

    listed = raydc(digits, ray_engine, "runs")
    assert "digits-sweep" in listed.stdout
    assert "finished" in listed.stdout
    assert "production -> 1" in raydc(digits, ray_engine, "models").stdout
    # A sweep names its data set, and the version the run that it came from.
    detail = raydc(digits, ray_engine, "runs", "digits-sweep", "--json").stdout
    assert json.loads(detail)["versions"][0]["run"] == "digits-sweep"
    kept = json.loads(raydc(digits, ray_engine, "data", "--json").stdout)["data"]
    assert "digits-sweep" in [name for one in kept for name in one["runs"]]


@pytest.mark.soak
def test_stages_one_by_one_equal_a_whole_run(ray_engine: engine.Engine, digits: Path) -> None:
    common = [
        "examples/digits/spec.yaml",
        "--set",
        "train.epochs=2",
        "--set",
        "name=steps",
        "--set",
        "serve.port=0",
    ]
    common += ["--set", "serve.ray_actor_options={num_cpus: 0.5}", "--set", "scaling.num_workers=0"]
    for command in (
        ["prepare"],
        ["train"],
        ["evaluate"],
        ["serve", "--once"],
        ["train", "--resume"],
        ["evaluate"],
    ):
        done = raydc(digits, ray_engine, command[0], *common, *command[1:])
        assert done.returncode == 0, done.stdout + done.stderr
    registry = Registry(Storage(str(digits / "store")))
    assert registry.versions("steps") == [
        1
    ]  # The same model has one version, however often it is evaluated.
    metrics = json.loads((digits / "store/runs/steps/evaluation.json").read_text())
    assert metrics["split"] == "test"

    output = digits / "predictions.csv"
    done = raydc(
        digits,
        ray_engine,
        "predict",
        *common,
        "--input",
        "examples/digits/data",
        "--output",
        str(output),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(output.read_text().splitlines()) == 1798

    renewed = raydc(digits, ray_engine, "train", *common, "--set", "seed=5", "--new")
    assert renewed.returncode == 0, renewed.stderr
    assert (digits / "store/runs/steps.1/checkpoints").is_dir()
    evaluated = raydc(digits, ray_engine, "evaluate", *common, "--set", "seed=5")
    assert "steps version 2" in evaluated.stdout
    moved = raydc(digits, ray_engine, "promote", *common, "--version", "2", "--why", "better")
    assert "alias 'production' is now version 2" in moved.stdout, moved.stderr
    back = raydc(digits, ray_engine, "rollback", *common)
    assert "alias 'production' is now version 1" in back.stdout, back.stderr


def test_job_that_never_fits_is_refused(
    ray_engine: engine.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = training_spec(
        str(tmp_path), scaling={"num_workers": 50}, train={"global_batch_size": 64}
    )
    lines: list[str] = []
    monkeypatch.setattr(run_context, "NODES_TIMEOUT_S", 1.0)
    with pytest.raises(ClusterError, match=r"50 worker\(s\) of 1 CPU each do not fit into 4 CPU"):
        run_context.open_context(given, ray_engine.address, lines.append)
    assert any("waiting up to 1 s for nodes to join" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "missing.yaml"], 2, "missing.yaml"),
        (["run", "examples/digits/spec.yaml", "--set", "data.source=nowhere"], 3, "nowhere"),
        (["train", "examples/digits/spec.yaml", "--set", "model={name: resnet81}"], 2, "resnet18"),
        (
            ["train", "examples/digits/spec.yaml", "--set", "name=unknown", "--resume"],
            5,
            "there is no run 'unknown'",
        ),
        (["serve", "examples/digits/spec.yaml", "--set", "name=unknown"], 7, "unknown"),
        (
            ["serve", "examples/digits/spec.yaml", "--set", "name=digits-sweep", "--version", "77"],
            7,
            "77",
        ),
    ],
)
def test_error_is_one_message_and_an_exit_code(
    ray_engine: engine.Engine, digits: Path, arguments: list[str], code: int, message: str
) -> None:
    run = process if arguments[0] == "run" else raydc
    done = run(digits, ray_engine, *arguments)
    assert (done.returncode, message in done.stderr) == (code, True), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not list((digits / "store").glob("**/*.tmp"))
