"""What a process of an endpoint imports before it has anything to do."""

from __future__ import annotations

import subprocess
import sys

import pytest

_CODE = """
import sys, types
from raydc.serve import idle_imports
if {is_busy}:
    sys.modules["ray.serve"] = types.ModuleType("ray.serve")
idle_imports.import_if_idle()
print("torch" in sys.modules, [name for name in sys.modules if name.split(".")[0] == "ray"])
"""


@pytest.mark.parametrize(
    ("is_busy", "expected"), [(False, "True []\n"), (True, "False ['ray.serve']\n")]
)
def test_idle_process_imports_torch_and_nothing_of_ray(is_busy: bool, expected: str) -> None:
    code = _CODE.format(is_busy=is_busy)
    assert subprocess.check_output([sys.executable, "-c", code], text=True, timeout=300) == expected


def test_process_begins_without_waiting_for_the_imports() -> None:
    begin = "import sys; from raydc.serve import idle_imports; idle_imports.begin()"
    code = f"{begin}; print(len(sys.modules))"
    number = subprocess.check_output([sys.executable, "-c", code], text=True, timeout=300)
    assert int(number) < 300, "torch alone has a thousand"
