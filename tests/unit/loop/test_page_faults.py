"""A steady step asks the kernel for no memory, because the process keeps what it has freed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# In a process of its own: the allocator belongs to the process, and cannot be put back.
COUNT = """
import resource, statistics, sys, tempfile
import numpy as np
from training import StopsAfter, training_spec
from raydc.data import shards
from raydc.features import Features, Image, Signature
from raydc.loop import worker
from raydc.loop.hooks import Hooks
from raydc.storage import Storage

class Counts(StopsAfter):
    def before_step(self, step):
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)

counts, folder = [], tempfile.mkdtemp()
shape, task = (1, 28, 28), "classification"
signature = Signature("image", shape, "uint8", (100.0,), (60.0,), task, ("a", "b"))
features = Features(signature, "label", {"image": Image(28, 28, 1)})
rng = np.random.default_rng(0)
x = rng.integers(0, 255, (1024, 1, 28, 28)).astype(np.uint8)
y = rng.integers(0, 2, 1024)
rows = {"train": (x, y), "validation": (x[:8], y[:8]), "test": (x[:8], y[:8])}
data = Storage(folder + "/data")
shards.write_data_set(data, features, rows)
train = {"epochs": 1, "global_batch_size": 32}
spec = training_spec(folder, model={"name": "cnn"}, train=train, checkpoint={"every_steps": 900})
worker.fit(spec, Storage(folder + "/run"), data, hooks=Hooks(faults=Counts(None)))
print(statistics.median(np.diff(counts[10:])))
"""


def faults_per_step(**variables: str) -> float:
    result = subprocess.run(
        [sys.executable, "-c", COUNT],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return float(result.stdout.splitlines()[-1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts faults of glibc on Linux")
def test_steady_step_of_a_cnn_has_few_page_faults() -> None:
    assert faults_per_step() < 10


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts faults of glibc on Linux")
def test_setting_of_the_user_takes_precedence() -> None:
    """The same steps with a threshold of the user's own."""
    assert faults_per_step(MALLOC_TRIM_THRESHOLD_="131072") > 10
