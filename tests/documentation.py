"""The code blocks of README.md and docs/, for the tests that prove them.

A block whose first line is a comment with a file name, such as `# customers.yaml`, is that file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KINDS = {"console", "yaml", "sh", "python", "text"}
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w./-]+\.(?:py|ya?ml))\n")
# Figures, times and places differ from run to run; the rest of a shown line must be printed.
_VARIABLE = re.compile(r"\d[\d,.]*|/[\w./-]+|\([^)]*\)")


@dataclass(frozen=True)
class Block:
    """One fenced code block: its page relative to the root, its kind and its text."""

    page: str
    kind: str
    text: str

    @property
    def file(self) -> str | None:
        """Name of the file that the block is, if it is one."""
        found = _FILE.match(self.text)
        return found[1] if found else None


def pages(root: Path = ROOT) -> list[Path]:
    """README.md and every page of docs/."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def blocks(kind: str, page: str | None = None) -> list[Block]:
    """All blocks of a kind, of one page or of all pages."""
    return [block for block in _all() if block.kind == kind and page in (None, block.page)]


def _all() -> Iterator[Block]:
    for path in pages():
        for kind, text in _BLOCK.findall(path.read_text()):
            yield Block(str(path.relative_to(ROOT)), kind, text)


def files() -> dict[str, str]:
    """Named files of all pages.

    Raises:
        ValueError: Two pages show different files of the same name.
    """
    found: dict[str, str] = {}
    for block in _all():
        if block.file is not None and found.setdefault(block.file, block.text) != block.text:
            raise ValueError(f"{block.page} shows another {block.file} than a page before it")
    return found


def steps(block: Block) -> list[tuple[str, list[str]]]:
    """Commands of a console block, each with the lines shown below it."""
    parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]
    return [
        (lines[0], [line for line in lines[1:] if line.strip()])
        for lines in map(str.splitlines, parts)
    ]


def not_printed(shown: list[str], printed: str) -> list[str]:
    """Shown lines that a command did not print; figures, times and paths may differ."""
    shapes = {_shape(line) for line in printed.splitlines()}
    return [line for line in shown if line != "..." and _shape(line) not in shapes]


def _shape(line: str) -> str:
    return " ".join(_VARIABLE.sub("#", line).split())
