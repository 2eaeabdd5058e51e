"""Prepared content on a real Ray: one hash with 1, 2 and 4 CPUs and other sizes of the blocks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mixed_sources
import preparing
import pytest
from ray.data import DataContext, ExecutionResources

from raydc.data import small_jobs

PREPARE_TIMEOUT_S = 300
# Prepares one data set with a Ray of its own, and prints the hash of each file.
_PREPARE = """
import json, pathlib, sys
import preparing
from ray.data import DataContext
from raydc import engine
folder, cpus, block, data = sys.argv[1:]
engine.connect(num_cpus=int(cpus))
if int(block):
    context = DataContext.get_current()
    context.target_max_block_size, context.target_min_block_size = int(block), 1
print(json.dumps(preparing.contents(preparing.run(pathlib.Path(folder), json.loads(data))[0])))
engine.disconnect()
"""


@pytest.fixture
def context() -> Iterator[DataContext]:
    """What Ray Data may use, put back afterwards."""
    found = DataContext.get_current()
    sizes = found.target_max_block_size, found.target_min_block_size
    limits = found.execution_options.resource_limits
    yield found
    found.target_max_block_size, found.target_min_block_size = sizes
    found.execution_options.resource_limits = limits


@pytest.mark.usefixtures("ray_engine")
def test_content_depends_on_neither_cpus_nor_blocks(
    tmp_path: Path, context: DataContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dates, texts, encodings, scales and pictures in one Parquet file."""
    data = mixed_sources.parquet(tmp_path)
    here, _ = preparing.run(tmp_path / "here", data)
    monkeypatch.setenv(small_jobs.SMALL_VARIABLE, "0")
    found = [preparing.contents(here)]
    for num_cpus, block_bytes, parallelism in ((1, None, 1), (4, 2_000, None)):
        context.execution_options.resource_limits = ExecutionResources(cpu=num_cpus)
        if block_bytes is not None:
            context.target_max_block_size, context.target_min_block_size = block_bytes, 1
        made, _ = preparing.run(tmp_path / f"cpus-{num_cpus}", data, parallelism=parallelism)
        found.append(preparing.contents(made))
    assert found[1] == found[0]
    assert found[2] == found[0]
    assert any(name.startswith("train-") for name in found[0])


@pytest.mark.soak
@pytest.mark.parametrize("kind", mixed_sources.SOURCES)
def test_content_of_every_source_is_the_same_on_every_ray(tmp_path: Path, kind: str) -> None:
    data = json.dumps(mixed_sources.SOURCES[kind](tmp_path))
    tests = Path(__file__).resolve().parent
    paths = [str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        small_jobs.SMALL_VARIABLE: "0",
    }
    found = []
    for num_cpus, block_bytes in ((1, 0), (2, 8_000), (4, 2_000)):
        arguments = [str(tmp_path / f"cpus-{num_cpus}"), str(num_cpus), str(block_bytes), data]
        done = subprocess.run(
            [sys.executable, "-c", _PREPARE, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PREPARE_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout.splitlines()[-1]))
    assert found[1] == found[0]
    assert found[2] == found[0]
