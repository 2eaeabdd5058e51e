"""Garbage is collected less often while a process imports, and as usual from then on."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest

from raydc import quick_imports


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Puts the settings of the process back."""
    yield
    gc.set_threshold(*quick_imports._normal)
    gc.unfreeze()


def test_work_begins_with_the_usual_collection_and_nothing_to_look_through() -> None:
    before = gc.get_threshold()
    quick_imports.begin()
    assert gc.get_threshold()[0] > before[0]
    quick_imports.end()
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() > 1000
    garbage: list[object] = []
    garbage.append(garbage)
    del garbage
    assert gc.collect() >= 1, "what came later is collected"


def test_import_of_torch_collects_a_few_times() -> None:
    """A count, because times depend on the machine."""
    code = "import gc; {}; import torch;print(sum(one['collections'] for one in gc.get_stats()))"
    usual, less = (
        int(subprocess.check_output([sys.executable, "-c", code.format(first)], timeout=300))
        for first in ("pass", "from raydc import quick_imports; quick_imports.begin()")
    )
    assert less < usual / 5
