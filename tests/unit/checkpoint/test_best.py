"""A run whose best checkpoint is lost: it is computed again, or another one becomes the model."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from training import StopsAfter, event_kinds, resume_run, training_spec

from raydc import bundle, train
from raydc.checkpoint.snapshot import HostCopy
from raydc.checkpoint.store import CheckpointStore, Found
from raydc.checkpoint.timing import Timing
from raydc.data import prepared
from raydc.loop import worker
from raydc.loop.early_stop import judge_epoch
from raydc.loop.hooks import Hooks
from raydc.spec import ResolvedSpec
from raydc.storage import Storage

# Of the epochs that end after steps 7, 14, 21 and 28: the second one is the best.
ACCURACIES = (0.5, 0.9, 0.8, 0.7)
BEST, LAST = 14, 28


def spec_of(num_to_keep: int = 100) -> ResolvedSpec:
    keep = {"every_steps": 4, "num_to_keep": num_to_keep}
    return training_spec("x", name="run", train={"epochs": len(ACCURACIES)}, checkpoint=keep)


@pytest.fixture(autouse=True)
def _planned_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(state: Any, record: dict[str, Any], *arguments: Any) -> Any:
        accuracy = ACCURACIES[state.step // 7 - 1]
        return judge_epoch(state, {**record, "accuracy": accuracy}, *arguments)

    monkeypatch.setattr(worker, "judge_epoch", judge)


def weights(run: Storage) -> bytes:
    return (run / "model").read_bytes("model.safetensors")


@pytest.fixture
def undisturbed(runs: Storage, data: prepared.Prepared) -> Storage:
    """A finished run with all of its checkpoints."""
    train.run(spec_of(), data, runs / "undisturbed", lambda _line: None)
    return runs / "undisturbed"


@pytest.fixture
def run(runs: Storage, undisturbed: Storage) -> Storage:
    """A copy of it, to be damaged."""
    shutil.copytree(undisturbed.local_path, runs.local_path / "run")
    return runs / "run"


def flip(run: Storage) -> None:
    folder = run / f"checkpoints/step_{BEST:08d}"
    content = bytearray(folder.read_bytes("model.safetensors"))
    content[-9] ^= 4
    folder.write_bytes("model.safetensors", bytes(content))


def delete(run: Storage) -> None:
    run.delete(f"checkpoints/step_{BEST:08d}")


@pytest.mark.parametrize("damage", [flip, delete])
def test_lost_best_is_computed_again_from_an_older_checkpoint(
    run: Storage, undisturbed: Storage, data: prepared.Prepared, damage: Any
) -> None:
    damage(run)
    (run / "model").delete()
    lines = "\n".join(resume_run(spec_of(), data, run))
    assert f"step_{BEST:08d}, the best so far, is lost" in lines
    assert "the run goes back to step 12" in lines
    assert ("model.safetensors is damaged" in lines) == (damage is flip)
    assert weights(run) == weights(undisturbed)
    store = CheckpointStore(run / "checkpoints", 100)
    assert (
        store.read(BEST).files == CheckpointStore(undisturbed / "checkpoints", 1).read(BEST).files
    )
    assert "best_lost" in event_kinds(run)


@pytest.mark.parametrize("damage", [flip, delete])
def test_best_that_cannot_be_computed_again_gives_way_to_the_best_of_the_rest(
    run: Storage, data: prepared.Prepared, damage: Any
) -> None:
    for step in CheckpointStore(run / "checkpoints", 1).steps():
        if step < BEST:
            run.delete(f"checkpoints/step_{step:08d}")
    damage(run)
    lines = resume_run(spec_of(), data, run)
    (said,) = (line for line in lines if "cannot be the model" in line)
    assert f"step_{BEST:08d}" in said
    # Not the newest, and not one in the middle of an epoch.
    assert f"the model is step_{21:08d}, the best that verifies: accuracy 0.8000" in "\n".join(
        lines
    )
    made = bundle.load(run / "model")
    assert (made.facts["step"], made.facts["in_place_of_step"]) == (21, BEST)
    assert made.facts["metrics"]["accuracy"] == 0.8


class Watch(StopsAfter):
    """Knows which step is being done."""

    step = 0

    def __init__(self) -> None:
        super().__init__(None)

    def before_step(self, step: int) -> None:
        self.step = step


def test_disk_that_is_full_while_the_best_waits_costs_no_best(
    runs: Storage,
    undisturbed: Storage,
    data: prepared.Prepared,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch, write = Watch(), CheckpointStore.write

    def refuse(store: CheckpointStore, *arguments: Any) -> str:
        if BEST <= watch.step < 25:
            raise OSError(28, "No space left on device")
        return write(store, *arguments)

    monkeypatch.setattr(CheckpointStore, "write", refuse)
    timing = Timing(retry_pauses_s=(0.01,) * 3000)
    worker.fit(spec_of(), runs / "full", data.folder, hooks=Hooks(faults=watch), timing=timing)
    steps = CheckpointStore(runs / "full" / "checkpoints", 1).steps()
    assert BEST in steps
    assert not {16, 20, 21} & set(steps)
    lines: list[str] = []
    found = train.export(spec_of(), data, runs / "full", runs / "full" / "model", lines.append)
    assert (found.step, lines) == (BEST, [])
    assert weights(runs / "full") == weights(undisturbed)


class OneState:
    """Peer memory with one state of an attempt that died."""

    def __init__(self, found: Found) -> None:
        self.found = found

    def put(self, copy: HostCopy) -> bool:
        return True

    def newest(self) -> Found | None:
        return self.found

    def read(self, step: int) -> Found:
        assert step == self.found.step
        return self.found

    def forget_after(self, step: int) -> None:
        """Has nothing to drop."""


@pytest.mark.parametrize(("in_memory", "start"), [(BEST, BEST), (16, 12), (12, 12)])
def test_restart_from_memory_has_the_best_in_storage_too(
    run: Storage, data: prepared.Prepared, in_memory: int, start: int
) -> None:
    store = CheckpointStore(run / "checkpoints", 100)
    found, best = store.read(in_memory), store.read(BEST).files
    # The attempt died before storage had what memory had.
    for step in store.steps():
        if step >= BEST:
            run.delete(f"checkpoints/step_{step:08d}")
    notes: list[dict[str, Any]] = []
    hooks = Hooks(peer_memory=OneState(found), publish=notes.append)
    worker.fit(spec_of(), run, data.folder, hooks=hooks)
    (started,) = (note for note in notes if note["kind"] == "attempt_started")
    assert started["step"] == start
    assert store.read(BEST).files == best


def test_fork_of_a_lost_best_says_what_to_name_instead(
    run: Storage, runs: Storage, data: prepared.Prepared
) -> None:
    from raydc.checkpoint import fork
    from raydc.errors import CheckpointError

    run.write_bytes("resolved.yaml", b"name: run")
    flip(run)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged") as caught:
        fork.load(spec_of(), data, runs, "run")
    assert f"--fork RUN:{LAST}" in str(caught.value)
