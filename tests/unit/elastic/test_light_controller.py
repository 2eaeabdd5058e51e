"""What processes that start for every run import: the controller no torch, workers no compiler."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from training import write_pictures

from raydc.storage import Storage

# Trains and scores in the process itself, with what a worker and a driver have loaded.
_TRAIN = """
import sys
sys.path[:0] = {paths!r}
from training import training_spec
from raydc.data import prepared
from raydc import evaluate, train
from raydc.storage import Storage
spec = training_spec({store!r}, train={section!r}, scaling={{"num_workers": 0}})
data = prepared.load(Storage({data!r}))
run = Storage({store!r}) / "runs/one"
train.run(spec, data, run, print)
found = evaluate.run(run / "model", data.folder, "test")
assert found["num_rows"] and found["auroc"] is not None, found
print([name for name in {heavy!r} if name in sys.modules])
"""
# Each takes about as long to import as torch itself.
_HEAVY = ["torch._dynamo", "torch._inductor", "sympy", "torchmetrics", "torchvision"]


def run_python(code: str) -> str:
    """The last line that a new process prints."""
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert shown.returncode == 0, shown.stderr
    return shown.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "module",
    [
        "raydc.elastic.controller",
        "raydc.elastic.process_group",
        "raydc.elastic.scaling_policy",
        "raydc.elastic.failure_policy",
        "raydc.elastic.mailbox",
        "raydc.cli.early_checks",
        "raydc.checkpoint.run_name",
        "raydc.models.section_check",
    ],
)
def test_module_of_controller_or_early_check_imports_no_torch(module: str) -> None:
    assert run_python(f"import sys, {module}; print('torch' in sys.modules)") == "False"


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_training_and_scores_import_no_compiler(tmp_path: Path, name: str) -> None:
    data, store = tmp_path / "data", tmp_path / "store"
    write_pictures(Storage(str(data)))
    code = _TRAIN.format(
        paths=sys.path,
        section={"optimizer": {"name": name}, "lr_scheduler": {"name": "cosine"}, "epochs": 1},
        data=str(data),
        store=str(store),
        heavy=_HEAVY,
    )
    assert run_python(code) == "[]"
