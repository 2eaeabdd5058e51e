"""kill -9 in each phase of a checkpoint: the run resumes from the newest one that is whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import phases
from training import check_ledger, step_records, training_spec, weights_hash, write_pictures

from raydc.checkpoint.store import CheckpointStore
from raydc.storage import Storage
from raydc.tracking import events

TIMEOUT_S = 300.0


def test_kill_in_each_checkpoint_phase_ends_as_undisturbed(tmp_path: Path, root: Path) -> None:
    data = write_pictures(Storage(str(tmp_path / "data")))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")])}
    command = [sys.executable, phases.__file__, data.uri, str(tmp_path)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results == {phase: [-signal.SIGKILL, 0] for phase in phases.PHASES}, done.stderr

    undisturbed = Storage(str(tmp_path / "undisturbed"))
    losses = [record["loss"] for record in step_records(undisturbed)]
    for number, phase in enumerate(phases.PHASES):
        run = Storage(str(tmp_path / str(number)))
        assert weights_hash(run, 21) == weights_hash(undisturbed, 21), phase
        check_ledger(run, training_spec(""))
        assert [record["loss"] for record in step_records(run)] == losses
        # At least the third checkpoint (of step 6) was whole; nothing that is not whole is left.
        starts = [
            record["step"] for record in events.read(run, "metrics") if record["kind"] == "start"
        ]
        assert starts[0] == 0
        assert starts[1] >= 6, phase
        store = CheckpointStore(run / "checkpoints", 2)
        assert all(store.read(step) for step in store.steps())
        assert [
            name for name in run.names("checkpoints") if not name.startswith("step_") or "." in name
        ] == []
