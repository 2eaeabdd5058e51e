"""What raydc takes from Ray beside its public API: all of it in one module, and all of it as expected."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from raydc.engine import internals
from raydc.errors import ClusterError

_PRIVATE = re.compile(
    r"^\s*(from|import) ray(\.\w+)*\.?(\b_\w+|.*\b_internal|.*\b_private|.* import _)|\bray\._\w"
)


def test_this_ray_is_the_one_that_raydc_is_built_for() -> None:
    internals.check()


def test_every_difference_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    used = {
        "ray._private.state": {"available_resources_per_node": ("node_id",), "gone": None},
        "ray._private.no_such_module": {"name": None},
    }
    monkeypatch.setattr(internals, "_USED", used)
    with pytest.raises(ClusterError) as caught:
        internals.check()
    message = caught.value.message
    assert f"built for Ray {internals.RAY_VERSION}" in message
    assert "ray._private.state.available_resources_per_node takes (), not ('node_id',)" in message
    assert "ray._private.state.gone is missing" in message
    assert "ray._private.no_such_module cannot be imported" in message
    assert "pip install" in (caught.value.hint or "")


def test_a_name_that_has_moved_is_refused_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(internals._HOME, "Moved", "ray._private.state")
    with pytest.raises(ClusterError, match=r"ray\._private\.state\.Moved is missing"):
        _ = internals.Moved
    with pytest.raises(AttributeError, match="add it to the table"):
        _ = internals.Unheard


def test_no_other_module_imports_what_is_private(root: Path) -> None:
    found = [
        f"{path.name}:{number}: {line}"
        for path in sorted((root / "raydc").rglob("*.py"))
        if path.name != "internals.py"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if _PRIVATE.search(line)
    ]
    assert not found
    assert _PRIVATE.search("from ray.train.v2._internal.util import x")
    assert _PRIVATE.search("    from ray.serve.context import _get_global_client")
    assert _PRIVATE.search("ray._private.state.state")


def test_the_version_is_pinned_in_one_way(root: Path) -> None:
    assert f'serve]=={internals.RAY_VERSION}.*"' in (root / "pyproject.toml").read_text()
