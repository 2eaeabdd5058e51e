"""Signals and closed pipes in each phase of each command, with the Ray that it starts itself.

The command ends with its code and one line; nothing is left running, held or half registered, and
`--resume` ends with the weights of a run that was left alone. The time to the end is recorded.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from signal_project import NAME, NUM_ROWS, check_store, finish, write_rows, write_specs
from signalled import FORCED, SIGNALS, Command, busy, processes_in, started, wait_until
from training import check_ledger, weights_hash

from raydc import spec as specs
from raydc.data import prepared
from raydc.loop import worker
from raydc.storage import Storage
from raydc.tracking import events

RESUME_LINE = "interrupted; --resume goes on"
NUM_LOADS = 4


@dataclass(frozen=True)
class Kind:
    """A command of the table.

    Attributes:
        arguments: Its arguments.
        end: Text of the line after which only its end is left.
        work: Text of a line of its work; None for a training: its first checkpoint.
        keeps: Folders of the finished store that it starts with.
        resumes: Whether `--resume` goes on with it.
    """

    arguments: tuple[str, ...]
    end: str
    work: str | None = None
    keeps: tuple[str, ...] = ("data",)
    resumes: bool = False


def training(name: str, num_workers: int, *flags: str) -> Kind:
    arguments = (name, "spec.yaml", "--set", f"scaling.num_workers={num_workers}", *flags)
    return Kind(arguments, "done      ", resumes=True)


RAY_LINE = "ray       a local Ray"
CHAOS = ("chaos", "spec.yaml", "--steps", "12", "--kills", "1", "--only", "worker")
EVERYTHING = ("data", "runs", "models")
KINDS = {
    "inspect": Kind(("inspect", "spec.yaml"), "rows      ", RAY_LINE, keeps=()),
    "prepare": Kind(("prepare", "spec.yaml"), f"data set {NAME}-", RAY_LINE, keeps=()),
    "train-0": training("train", 0),
    "train-1": training("train", 1),
    # Prepares its data too.
    "train-new": Kind(("train", "spec.yaml"), "done      ", keeps=(), resumes=True),
    "train-2": training("train", 2),
    "sweep": training("sweep", 1),
    "run-sweep": training("run", 1, "--once"),
    # The same without a search.
    "run": Kind(("run", "plain.yaml", "--once"), "done      ", resumes=True),
    "evaluate": Kind(
        ("evaluate", "spec.yaml"), "register  ", "is prepared already", keeps=("data", "runs")
    ),
    "predict": Kind(
        ("predict", "spec.yaml", "--input", "rows.csv", "--output", "out.csv"),
        "predict   ",
        RAY_LINE,
        keeps=EVERYTHING,
    ),
    "serve": Kind(("serve", "spec.yaml"), "serve     stopping", "stays up", keeps=EVERYTHING),
    "serve-once": Kind(
        ("serve", "spec.yaml", "--once"), " answers as ", RAY_LINE, keeps=EVERYTHING
    ),
    # Its work is what it repeats in its own process; its drill is another one.
    "chaos": Kind(CHAOS, "done      "),
    "chaos-nodes": Kind((*CHAOS, "--nodes", "1"), "done      "),
}
QUICK = [("prepare", "SIGTERM", "start-up"), ("prepare", "group SIGINT", "work")]
# Chaos on nodes differs from chaos in how they start and end.
_ALL = [kind for kind in KINDS if kind != "chaos-nodes"]
# `serve` has its only end in an interruption.
_ENDS = [kind for kind in _ALL if kind not in ("serve", "train-new")]
_CASES = [
    *QUICK,
    *((kind, "SIGTERM", "work") for kind in _ALL),
    *((kind, "SIGINT", "end") for kind in _ENDS),
    *((kind, "closed", "work") for kind in _ENDS),
    *(
        (kind, "group SIGINT", "work")
        for kind in ("train-0", "train-1", "train-new", "train-2", "serve")
    ),
    *(("train-1", how, "work under load") for how in ("SIGTERM", "group SIGINT")),
    *((kind, "SIGTERM", "start-up") for kind in KINDS),
    *(("chaos", how, "drill") for how in ("SIGTERM", "group SIGINT")),
    *(("chaos-nodes", "SIGTERM", phase) for phase in ("drill", "end")),
    *((kind, "SIGTERM", "end") for kind in _ENDS),
    *((kind, how, "work") for kind in _ALL for how in ("SIGINT", "SIGHUP")),
    *(("prepare", how, "start-up") for how in ("SIGINT", "SIGHUP", "group SIGINT", "closed")),
]


def modules(root: Path) -> Path:
    return root / "tests" / "faults"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """The project with a finished run and its registered versions."""
    folder = tmp_path_factory.mktemp("finished")
    finish(folder, modules(root))
    return folder


def project_of(request: pytest.FixtureRequest, folder: Path, kind: Kind) -> None:
    """Brings the project with as much of the finished store as the command starts with."""
    if not kind.keeps:
        write_specs(folder, write_rows(folder))
        return
    finished: Path = request.getfixturevalue("finished")
    write_specs(folder, finished / "rows.csv")
    shutil.copy2(finished / "rows.csv", folder)
    for name in kind.keeps:
        shutil.copytree(finished / "store" / name, folder / "store" / name)


def has_checkpoint(folder: Path, run: str = "**") -> Callable[[], bool]:
    return lambda: any((folder / "store").glob(f"runs/{run}/checkpoints/step_*/MANIFEST.json"))


def reach(command: Command, kind: Kind, phase: str) -> None:
    """Waits until the command is in a phase."""
    if phase == "start-up":
        command.wait_for(command.starts_ray, "start of Ray")
        assert not command.says(RAY_LINE)
        return
    if phase == "end":
        (command.folder / "hurry").touch()
        command.wait_for(lambda: command.says(kind.end), kind.end)
        return
    if phase == "drill":
        command.wait_for(has_checkpoint(command.folder, "*/disturbed"), "drill")
    elif kind.work is None:
        command.wait_for(has_checkpoint(command.folder), "checkpoint")
    else:
        command.wait_for(lambda: command.says(str(kind.work)), kind.work)
    # Otherwise a look for what is left would prove nothing.
    assert any("raylet" in line for line in processes_in(command.folder).values())


@pytest.mark.parametrize(
    ("name", "how", "phase"),
    [
        pytest.param(
            *case,
            id="-".join(case).replace(" ", "-"),
            marks=() if case in QUICK else pytest.mark.soak,
        )
        for case in dict.fromkeys(_CASES)
    ],
)
def test_disturbed_command_ends_with_its_code_and_leaves_nothing(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    root: Path,
    record_property: Callable[[str, object], None],
    name: str,
    how: str,
    phase: str,
) -> None:
    kind = KINDS[name]
    project_of(request, tmp_path, kind)
    load = busy(NUM_LOADS) if "load" in phase else contextlib.nullcontext()
    with load, started(tmp_path, modules(root), *kind.arguments) as command:
        reach(command, kind, phase)
        since_s = time.monotonic()
        command.disturb(how)
        if how == "closed":
            (tmp_path / "hurry").touch()
        code = command.wait()
        record_property("ended_s", round(time.monotonic() - since_s, 1))
        record_property("code", code)
        wait_until(lambda: not processes_in(tmp_path), f"end of {processes_in(tmp_path)}")
        record_property("all_gone_s", round(time.monotonic() - since_s, 1))
        check_end(command, kind, how, phase, code)
    versions = check_store(tmp_path / "store")
    # A file of predictions is whole or not there.
    files = [path.read_text().count("\n") for path in tmp_path.glob("*out.csv*")]
    assert files in ([], [1 + NUM_ROWS])
    if kind.end == "register  " and (code == 0 or phase == "end"):
        assert versions == [1]
    if kind.resumes and phase.startswith("work"):
        if code != 0:
            # What is not complete becomes no model and no version.
            assert not list((tmp_path / "store").glob(f"runs/{NAME}/model"))
            assert not list((tmp_path / "store").glob("models/*/versions/*"))
        resume(tmp_path, root, kind, how)


def check_end(command: Command, kind: Kind, how: str, phase: str, code: int) -> None:
    """Asserts that the exit code and the lines of stderr are the documented ones."""
    said = (code, command.errors())
    interrupted = SIGNALS.get(how.removeprefix("group "))
    if how == "closed" or (phase == "end" and code == 0):
        assert said == (0, []), said
        return
    assert code == interrupted, said
    if kind.resumes and phase.startswith("work"):
        assert said[1] == [RESUME_LINE]
    else:
        assert len(said[1]) == 1, said
        assert said[1][0].startswith("interrupted"), said
        # Nothing is at stake while Ray starts, and its start reacts to no signal.
        assert phase == "start-up" or FORCED not in said[1][0], said


def resume(folder: Path, root: Path, kind: Kind, how: str) -> None:
    """Continues the run, and compares it with one that was left alone."""
    (folder / "hurry").touch()
    if how != "closed":
        with started(folder, modules(root), *kind.arguments, "--resume") as command:
            assert command.wait() == 0, command.errors()
            assert "starting at step 0" not in command.out
    run = Storage(str(folder / "store" / "runs" / NAME))
    check_store(folder / "store")
    if run.exists("sweep"):
        # As of a sweep that was left alone: all trials, to their end.
        ended = [(trial["state"], trial["epochs"]) for trial in run.read_json("sweep/trials.json")]
        assert ended == [("finished", 8)] * 2
        return
    spec = specs.resolve(specs.from_dict(yaml.safe_load(run.read_bytes("resolved.yaml"))))
    (data,) = (folder / "store" / "data").iterdir()
    there = prepared.load(Storage(str(data)))
    check_ledger(run, spec, there.num_rows["train"])
    last = max(event["step"] for event in events.read(run, "events") if "step" in event)
    quick = {"scaling.num_workers": 0}
    undisturbed = Storage(str(folder / "undisturbed"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(modules(root))
        assert worker.fit(specs.with_values(spec, quick), undisturbed, there.folder).step == last
    assert weights_hash(run, last) == weights_hash(undisturbed, last)
