"""Checks what no linter knows: comment density, documented arguments, unique names, sizes.

    python .ci/check_style.py [FOLDER ...]

Without a folder it checks the whole package and ends with exit code 1 if a limit is broken. With
folders it prints their figures only, to work on one part at a time.
"""

from __future__ import annotations

import ast
import collections
import io
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "raydc"
MIN_COMMENTS_PER_100 = 5.0
MIN_DOCUMENTED_FRACTION = 0.95
MAX_FILE_LINES = 320
MAX_FOLDERS, MAX_MODULES = 18, 14
# A command and its section of the spec share a name, as do the two applications.
SHARED_MODULE_NAMES = {"app", "train"}
_DIRECTIVES = ("# noqa", "# type:", "#!")


def comment_lines(source: str) -> int:
    """Number of lines with a comment that is no directive of a linter."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    found = (token.string for token in tokens if token.type == tokenize.COMMENT)
    return sum(not comment.startswith(_DIRECTIVES) for comment in found)


def code_lines(source: str) -> int:
    """Number of lines with code: no blank line, no docstring, no line that is only a comment."""
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            docstrings.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return sum(
        bool(line.strip()) and not line.lstrip().startswith("#") and number not in docstrings
        for number, line in enumerate(source.splitlines(), start=1)
    )


def public_functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef, str]]:
    """Yields name, node and docstring of public functions; `__init__` has the one of its class."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for item in node.body:
                if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    of = node if item.name == "__init__" else item
                    if not item.name.startswith("_") or item.name == "__init__":
                        yield f"{node.name}.{item.name}", item, ast.get_docstring(of) or ""
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            # The docstring of a command is its help page; click documents each option itself.
            decorators = " ".join(ast.unparse(decorator) for decorator in node.decorator_list)
            if not node.name.startswith("_") and "command" not in decorators:
                yield node.name, node, ast.get_docstring(node) or ""


def undocumented(node: ast.FunctionDef, docstring: str) -> list[str] | None:
    """Parameters that `Args:` leaves out; None if there are fewer than three."""
    arguments = node.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    names = [name for name in names if name not in ("self", "cls")]
    if len(names) < 3:
        return None
    section = docstring.partition("Args:")[2]
    return [name for name in names if f"{name}:" not in section and f"{name}, " not in section]


def inherited_docstrings(paths: list[Path]) -> dict[tuple[str, str], str]:
    """Docstrings that methods inherit from a base class, by file name and `Class.method`."""
    classes = {
        node.name: (path.name, node)
        for path in paths
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    }
    found = {}
    for name, (file, node) in classes.items():
        for base in node.bases:
            # `Base` or `Base[T]`.
            base_name = ast.unparse(base).partition("[")[0]
            for item in classes[base_name][1].body if base_name in classes else ():
                if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    found[(file, f"{name}.{item.name}")] = ast.get_docstring(item) or ""
    return found


def main(folders: list[str]) -> int:
    """Prints the figures of the folders, or of the package, and returns the exit code."""
    roots = [Path(folder).resolve() for folder in folders] or [PACKAGE]
    paths = sorted(
        path for root in roots for path in (root.rglob("*.py") if root.is_dir() else [root])
    )
    comments = code = 0
    problems, missing, total = [], [], 0
    inherited = inherited_docstrings(paths)
    classes, modules = collections.defaultdict(list), collections.defaultdict(list)
    for path in paths:
        source, name = path.read_text(), path.relative_to(PACKAGE.parent)
        tree = ast.parse(source)
        comments += comment_lines(source)
        code += code_lines(source)
        lines = source.splitlines()
        if len(lines) > MAX_FILE_LINES:
            problems.append(f"{name} has {len(lines)} lines, more than {MAX_FILE_LINES}")
        if not ast.get_docstring(tree):
            problems.append(f"{name} has no docstring")
        for function, node, docstring in public_functions(tree):
            left_out = undocumented(node, docstring or inherited.get((name.name, function), ""))
            total += left_out is not None
            if left_out:
                missing.append(f"{name}:{node.lineno} {function}: no `Args:` for {left_out}")
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                classes[node.name].append(str(name))
        if path.stem != "__init__":
            modules[path.stem].append(str(name))
    # pytest imports the files of all folders of tests by their names alone.
    tests = collections.defaultdict(list)
    for path in sorted((PACKAGE.parent / "tests").rglob("*.py")):
        if path.name != "conftest.py":
            tests[path.stem].append(str(path.relative_to(PACKAGE.parent)))
    for kind, table in (("class", classes), ("module", modules), ("test module", tests)):
        for key, places in table.items():
            if len(places) > 1 and not (kind == "module" and key in SHARED_MODULE_NAMES):
                problems.append(f"{kind} {key} exists more than once: {', '.join(places)}")
    density, documented = 100 * comments / max(code, 1), 1 - len(missing) / max(total, 1)
    print(f"{len(paths)} files, {code} lines of code, {density:.1f} comments per 100 lines of code")
    print(f"{documented:.1%} of {total} public functions of three or more parameters document all")
    if folders or documented < MIN_DOCUMENTED_FRACTION:
        problems += missing
    if density < MIN_COMMENTS_PER_100:
        problems.append(f"{density:.1f} comments per 100 lines, fewer than {MIN_COMMENTS_PER_100}")
    if not folders:
        inner = [path for path in PACKAGE.iterdir() if path.name != "__pycache__"]
        num_folders = sum(path.is_dir() for path in inner)
        num_modules = sum(path.suffix == ".py" and path.stem != "__init__" for path in inner)
        print(f"top level: {num_folders} folders, {num_modules} modules")
        if num_folders > MAX_FOLDERS or num_modules > MAX_MODULES:
            problems.append(f"at most {MAX_FOLDERS} folders and {MAX_MODULES} modules")
    print("\n".join(problems))
    return 1 if problems and not folders else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
