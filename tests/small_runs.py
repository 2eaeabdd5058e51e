"""Small runs for tests of `raydc chaos`; builders are in `hidden`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training import training_spec

from raydc.chaos import compare, shrink
from raydc.data.prepared import Prepared
from raydc.loop import worker
from raydc.spec import ResolvedSpec
from raydc.storage import Storage


def spec_of(tmp_path: Path, kind: str, **sections: Any) -> ResolvedSpec:
    """A spec whose network is a builder of `hidden`: "good" or one with hidden state."""
    model = {"builder": "hidden:network", "arguments": {"kind": kind}}
    return training_spec(str(tmp_path / "store"), model=model, **sections)


def run_to_end(tmp_path: Path, data: Prepared, name: str, **train: Any) -> compare.RunEnding:
    """Trains 12 steps in this process and reads how the run ended."""
    little = shrink.shrink_spec(spec_of(tmp_path, "good", train=train), 12, 1)
    folder = Storage(str(tmp_path / name))
    worker.fit(little, folder, data.folder)
    return compare.read(folder, little, data.num_rows["train"])
