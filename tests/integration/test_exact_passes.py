"""Several passes in a logical shard: one hash for every number of workers and through resizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ranks import Ranks
from test_exact_options import NUM_ROWS, NUM_STEPS, check_exact, lines_of, outcome, spec_of
from training import write_pictures

from raydc.checkpoint import run_files
from raydc.data import prepared
from raydc.loop import micro_batch
from raydc.loop.assembly import assemble
from raydc.loop.group import Alone
from raydc.storage import Storage
from raydc.tracking import events

MODEL = {"name": "cnn", "channels": [4], "batch_norm": True, "dropout": 0.2}


@pytest.fixture
def data(tmp_path: Path) -> Storage:
    return write_pictures(Storage(str(tmp_path / "data")), num_rows=NUM_ROWS)


@pytest.mark.parametrize(
    ("train", "augment"),
    [
        ({"gradient_clip_norm": 0.5}, {"mixup": 0.4}),
        # A pass of one row has no variance; the last ones of a shard have three and two rows.
        ({"micro_batch_size": 1, "precision": "bf16"}, {}),
    ],
    ids=str,
)
def test_passes(
    ranks: Ranks, data: Storage, tmp_path: Path, train: dict[str, Any], augment: dict[str, Any]
) -> None:
    given = {"augment": augment} if augment else {}
    spec = spec_of({"micro_batch_size": 3, **train}, model=MODEL, data=given)
    run = check_exact(ranks, spec, data, tmp_path)
    first, last = lines_of(run, "epoch")
    assert last["train_loss"] < first["train_loss"]


def test_the_least_worker_decides_and_one_with_less_is_refused(
    ranks: Ranks, data: Storage, tmp_path: Path
) -> None:
    spec = spec_of({"micro_batch_size": "auto"}, model=MODEL)
    parts = assemble(spec, prepared.load(data), Alone())
    memory = micro_batch.measure(parts, spec, 0)
    much, some = 1 << 40, int(memory.needs(3) / 0.8) + 100
    run, given = Storage(str(tmp_path / "run")), Storage(str(tmp_path / "given"))
    run_files.write_spec(spec, run, None)
    ranks.fit(2, spec, run, data, stop_after=5, available_bytes=[much, some])
    # Eight rows in two passes would need memory for four.
    assert run_files.read_micro_batch(run) == 2
    (begun,) = [one for one in events.read(run, "events") if one["kind"] == "passes"]
    assert begun["text"].startswith("passes of at most 2 row(s), 4 for a logical shard: ")
    # A resize to workers of which one has less.
    less = memory.needs(1) + 10
    with pytest.raises(RuntimeError, match=r"have 2 row\(s\), and worker 2 has memory for 1"):
        ranks.fit(4, spec, run, data, available_bytes=[much, much, less, much])
    ranks.fit(4, spec, run, data, available_bytes=[much] * 4)
    ranks.fit(1, spec_of({"micro_batch_size": 2}, model=MODEL), given, data)
    assert outcome(run, NUM_STEPS) == outcome(given, NUM_STEPS)
