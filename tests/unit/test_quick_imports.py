"""Garbage is collected less often while a process imports, and as usual from then on."""

from __future__ import annotations

import contextlib
import gc
import io
import subprocess
import sys
import weakref
from collections.abc import Iterator

import pytest

from raydc import quick_imports


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Settings of a process that has just started; they are put back."""
    quick_imports._has_ended = False
    yield
    gc.set_threshold(*quick_imports._normal)
    gc.unfreeze()
    quick_imports._has_ended = False


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


def test_garbage_of_later_is_never_kept_for_ever() -> None:
    class Marked(list[object]):
        pass

    for _ in range(2):
        cycle = Marked()
        cycle.append(cycle)
        gone = weakref.ref(cycle)
        del cycle
        quick_imports.end()
        gc.collect()
        assert gone() is None


def test_thresholds_that_the_user_has_set_stay() -> None:
    gc.set_threshold(123, 4, 5)
    quick_imports.end()
    assert gc.get_threshold() == (123, 4, 5)


def test_imports_beside_a_wait_leave_out_what_is_missing() -> None:
    sys.modules.pop("this", None)
    # `this` prints when it is imported.
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        quick_imports.import_all("raydc_has_no_such_module", "this")
    assert "Zen" in shown.getvalue()


def test_block_ends_with_the_later_of_itself_and_its_imports() -> None:
    sys.modules.pop("this", None)
    with contextlib.redirect_stdout(io.StringIO()), quick_imports.beside("this", after_s=600.0):
        assert "this" not in sys.modules
    assert "this" in sys.modules


def test_import_of_torch_collects_a_few_times() -> None:
    """A count, because times depend on the machine."""
    code = "import gc; {}; import torch;print(sum(one['collections'] for one in gc.get_stats()))"
    usual, less = (
        int(subprocess.check_output([sys.executable, "-c", code.format(first)], timeout=300))
        for first in ("pass", "from raydc import quick_imports; quick_imports.begin()")
    )
    assert less < usual / 5
