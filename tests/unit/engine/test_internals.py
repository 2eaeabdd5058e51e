"""Private names of Ray: all in the tables, all as expected, and none used elsewhere."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from raydc.engine import direct_support, internals, private_names
from raydc.errors import ClusterError

_IMPORT = re.compile(
    r"^\s*(from|import) ray(\.\w+)*\.?(\b_\w+|.*\b_internal|.*\b_private|.* import _)|\bray\._\w"
)
# These may use private names of Ray Serve and uvicorn, but only those in the tables.
_PRIVATE_GROUND = ("engine/", "serve/direct/")
# Libraries whose underscore names are used on purpose; they are not Ray's.
_OTHER_LIBRARIES = {"torch", "nn", "os", "sys"}


def test_installed_ray_has_all_private_names_as_expected() -> None:
    internals.check()
    assert internals.direct_differences() == []


def test_check_names_every_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        "ray._private.state": {"available_resources_per_node": ("node_id",), "gone": None},
        "ray._private.no_such_module": {"name": None},
    }
    attributes = {
        "ray.serve._private.replica:Replica": ("_metrics_manager", "_no_such_attribute"),
        "ray.train.v2._internal.execution.worker_group:Worker": ("metadata", "no_such_field"),
        "ray.serve._private.replica:NoSuchClass": ("x",),
    }
    monkeypatch.setattr(private_names, "NAMES", names)
    monkeypatch.setattr(private_names, "ATTRIBUTES", attributes)
    with pytest.raises(ClusterError) as caught:
        internals.check()
    message = caught.value.message
    assert "built for Ray 2." in message
    for difference in (
        "ray._private.state.available_resources_per_node takes (), not ('node_id',)",
        "ray._private.state.gone is missing",
        "ray._private.no_such_module cannot be imported",
        "ray.serve._private.replica.Replica has no attribute _no_such_attribute",
        "worker_group.Worker has no attribute no_such_field",
        "ray.serve._private.replica.NoSuchClass is missing",
    ):
        assert difference in message
    assert message.count("\n") == 6, "what is as expected is not named"
    assert "pip install" in (caught.value.hint or "")


def test_untested_ray_is_checked_when_raydc_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[bool] = []
    monkeypatch.setattr(internals, "check", lambda: checked.append(True))
    internals.check_untested()
    assert checked == []
    monkeypatch.setitem(direct_support.TESTED_VERSIONS, "ray", ("0.1",))
    internals.check_untested()
    assert checked == [True]


def test_moved_name_is_refused_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(internals._HOME, "Moved", "ray._private.state")
    with pytest.raises(ClusterError, match=r"ray\._private\.state\.Moved is missing"):
        _ = internals.Moved
    with pytest.raises(AttributeError, match="add it to `private_names`"):
        _ = internals.Unheard


def test_no_other_module_imports_private_names(root: Path) -> None:
    found = [
        f"{path.name}:{number}: {line}"
        for path in sorted((root / "raydc").rglob("*.py"))
        if path.name not in ("internals.py", "private_names.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if _IMPORT.search(line)
    ]
    assert not found
    assert _IMPORT.search("from ray.train.v2._internal.util import x")
    assert _IMPORT.search("    from ray.serve.context import _get_global_client")
    assert _IMPORT.search("ray._private.state.state")


def taken_names(tree: ast.Module) -> Iterator[str]:
    """Names that a module takes from `internals`, and those that `internals` takes itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "internals":
            yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "__getattr__":
            yield ast.literal_eval(node.args[0])


def test_all_names_that_are_taken_are_in_the_tables(root: Path) -> None:
    taken = {
        name: path.name
        for path in sorted((root / "raydc").rglob("*.py"))
        for name in taken_names(ast.parse(path.read_text()))
    }
    assert {"TrainController", "_set_global_client"} <= taken.keys(), "the scan sees something"
    known = {*internals._HOME, *vars(internals)}
    assert {name: place for name, place in taken.items() if name not in known} == {}


def known_names() -> set[str]:
    """Last parts of all names in the tables."""
    tables = (private_names.NAMES, private_names.DIRECT_NAMES)
    names = {name.rpartition(".")[2] for table in tables for one in table.values() for name in one}
    attributes = (private_names.ATTRIBUTES, private_names.DIRECT_ATTRIBUTES)
    return names | {name for table in attributes for one in table.values() for name in one}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def own_names(tree: ast.AST) -> set[str]:
    """Names that a module or class defines or assigns itself."""
    found = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def foreign_attributes(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Private attributes of objects that are not the module's own: line and name."""
    own = own_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "getattr",
            "hasattr",
            "setattr",
        ):
            name = node.args[1].value if isinstance(node.args[1], ast.Constant) else ""
            if is_private(name) and name not in own:
                yield node.lineno, name
        if not isinstance(node, ast.Attribute) or not is_private(node.attr):
            continue
        base: ast.AST = node.value
        if isinstance(base, ast.Name) and base.id in ("self", "cls"):
            continue  # Inherited ones are the next scan's.
        while isinstance(base, ast.Attribute | ast.Call):
            base = base.value if isinstance(base, ast.Attribute) else base.func
        name = base.id if isinstance(base, ast.Name) else ""
        if name == "super" or (node.attr not in own and name not in _OTHER_LIBRARIES):
            yield node.lineno, node.attr


def inherited_attributes(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Private attributes that a subclass of a class of Ray takes from it by `self`."""
    of_ray = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "ray"
        for alias in node.names
    }
    for one in ast.walk(tree):
        if isinstance(one, ast.ClassDef) and any(
            ast.unparse(base).startswith("internals.") or ast.unparse(base) in of_ray
            for base in one.bases
        ):
            own = own_names(one)
            for node in ast.walk(one):
                if isinstance(node, ast.Attribute) and is_private(node.attr):
                    is_self = isinstance(node.value, ast.Name) and node.value.id == "self"
                    if is_self and node.attr not in own:
                        yield node.lineno, node.attr


def test_private_attributes_are_in_the_tables_or_nobody_elses(root: Path) -> None:
    known, found = known_names(), []
    for path in sorted((root / "raydc").rglob("*.py")):
        place = path.relative_to(root / "raydc").as_posix()
        tree = ast.parse(path.read_text())
        for line, name in [*foreign_attributes(tree), *inherited_attributes(tree)]:
            # Ray Train's classes are subclassed in elastic/; all names of it are in the tables.
            is_allowed = place.startswith((*_PRIVATE_GROUND, "elastic/")) and name in known
            if not is_allowed:
                found.append(f"{place}:{line}: {name}")
    assert not found


def test_scan_finds_private_attributes() -> None:
    code = """
class Own(internals.WorkerGroup):
    def __init__(self):
        self._mine = 1
    def _start(self):
        return super()._start() + self._mine + self._theirs
def use(client):
    return client._controller, getattr(client, "_hidden", None)
"""
    tree = ast.parse(code)
    assert sorted(name for _, name in foreign_attributes(tree)) == [
        "_controller",
        "_hidden",
        "_start",
    ]
    assert [name for _, name in inherited_attributes(tree)] == ["_theirs"]


def test_overridden_private_methods_are_in_the_tables() -> None:
    overridden: set[str] = set()
    for name in ("controller", "scaling_policy", "failure_policy", "trainer"):
        module = importlib.import_module(f"raydc.elastic.{name}")
        for one in vars(module).values():
            if isinstance(one, type) and one.__module__ == module.__name__:
                bases = [base for base in one.__mro__[1:] if base.__module__.startswith("ray.")]
                overridden |= {own for own in vars(one) for base in bases if own in vars(base)}
    # Python itself gives each abstract class the first one.
    private = {name for name in overridden if is_private(name)} - {"_abc_impl"}
    assert private, "the scan sees something"
    assert private <= known_names()
