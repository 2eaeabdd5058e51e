"""The benchmarks import what there is: no type checker reads them, and few tests run them."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from pathlib import Path

import pytest

BENCHMARKS = sorted((Path(__file__).parents[2] / "bench").glob("*.py"))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.name)
def test_benchmark_imports_names_that_exist(path: Path) -> None:
    imports = [
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)
    ]
    for node in imports:
        if (node.module or "").partition(".")[0] == "raydc":
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                is_there = hasattr(module, alias.name) or importlib.util.find_spec(
                    f"{node.module}.{alias.name}"
                )
                assert is_there, f"{path.name}:{node.lineno}: {node.module} has no {alias.name}"
