"""README.md and docs/ without Ray: specs load, options exist, links lead to something."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import documentation
import pytest
import torch
import yaml

from raydc import models, spec
from raydc.cli import main
from raydc.features.signature import Signature
from raydc.loop import transforms
from raydc.spec import document
from raydc.spec.model import Builder
from raydc.tracking import winner_spec

WORDS_OF_ONE_MACHINE = ("/root/", "/tmp/docs")


def test_code_blocks_are_all_of_checked_kinds() -> None:
    kinds = {block.kind for kind in documentation.KINDS for block in documentation.blocks(kind)}
    assert kinds == documentation.KINDS
    text = "\n".join(path.read_text() for path in documentation.pages())
    assert set(re.findall(r"^```(\w+)$", text, re.MULTILINE)) == documentation.KINDS


def test_shown_specs_load() -> None:
    whole = {
        name: text
        for name, text in documentation.files().items()
        if name.endswith(".yaml") and "data" in yaml.safe_load(text)
    }
    assert {"customers.yaml", "customers-sweep.yaml"} <= set(whole)
    for text in whole.values():
        spec.loads(text)


def test_shown_example_specs_equal_the_shipped_ones(root: Path) -> None:
    shown = {n: t for n, t in documentation.files().items() if n.startswith("examples/")}
    assert shown
    for name, text in shown.items():
        assert spec.loads(text) == spec.loads((root / name).read_text())


def test_shown_parts_of_specs_load() -> None:
    parts = [block for block in documentation.blocks("yaml") if block.file is None]
    assert parts
    start = {"name": "part", "data": {"source": "a.csv"}, "model": {"name": "mlp"}}
    for part in parts:
        # By raydc's own reader: YAML 1.1 takes a key such as `on` for a boolean.
        given = document.parse(part.text, part.page).value
        spec.loads(yaml.safe_dump({**start, **given}))


def test_python_blocks_compile() -> None:
    for block in documentation.blocks("python"):
        compile(block.text, block.page, "exec")


def test_shown_model_is_built_by_its_import_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "my_package/networks.py"
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text(documentation.files()[name])
    monkeypatch.chdir(tmp_path)
    signature = Signature("vector", (6,), "float32", (), (), "classification", ("no", "yes"))
    section = Builder(builder="my_package.networks:make", arguments={"width": 64})
    assert models.build(section, signature, 0)(torch.zeros(3, 6)).shape == (3, 2)


def test_shown_augmentation_fits_images_of_the_shown_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = [
        block
        for block in documentation.blocks("yaml")
        if block.page.endswith("augment.md") and "transforms:" in block.text
    ]
    # No other test of this process may have imported a module of this name.
    text = block.text.replace("my_package.changes", "shown_changes")
    (tmp_path / "shown_changes.py").write_text(documentation.files()["my_package/changes.py"])
    monkeypatch.chdir(tmp_path)
    chain = transforms.make_chain(yaml.safe_load(text)["data"]["augment"]["transforms"])
    transforms.try_chain(chain, (3, 96, 96))
    assert [name for name, _ in chain.steps][-1] == "shown_changes:speckle"


def test_shell_blocks_are_valid_bash() -> None:
    lines = "\n".join(block.text for block in documentation.blocks("sh"))
    subprocess.run(["bash", "-n"], input=lines, text=True, check=True, timeout=60)


def test_shown_commands_have_the_shown_options(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digit.png").touch()
    # The last one is written by a sweep.
    written = f"store/runs/searched/sweep/{winner_spec.FILE}"
    known = {*documentation.files(), *_shipped(root), written}
    lines = [line for block in documentation.blocks("sh") for line in block.text.splitlines()]
    ours = [arguments for line in lines if (arguments := _arguments(line))]
    assert len(ours) > 20
    for arguments in ours:
        _parse(arguments)
        specs = [word for word in arguments if word.endswith(".yaml")]
        assert set(specs) <= known, arguments


def _shipped(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in (root / "examples").rglob("*.yaml")}


def _arguments(line: str) -> list[str]:
    """Arguments of the raydc command of a line, also of one that Ray runs elsewhere."""
    words = shlex.split(line, comments=True)
    starts = [n for n, word in enumerate(words) if word in ("raydc", "examples/submit.py")]
    if not starts or words[0] in ("git", "cd", "pip"):
        return []
    return [word for word in words[starts[0] + 1 :] if word != "--"]


def _parse(arguments: list[str]) -> None:
    """Parses a command as click does. Raises click.UsageError for what does not exist."""
    command: click.Command = main
    while isinstance(command, click.Group) and not arguments[0].startswith("-"):
        assert arguments[0] in command.commands, f"raydc has no command {arguments[0]}"
        command, arguments = command.commands[arguments[0]], arguments[1:]
    if "--help" not in arguments:
        command.parse_args(click.Context(command), list(arguments))


def test_links_between_pages_have_targets(root: Path) -> None:
    for page in documentation.pages():
        targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
        missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
        assert missing == [], page


def test_files_named_in_pages_exist(root: Path) -> None:
    others = [root / "CONTRIBUTING.md", root / "cluster" / "README.md"]
    for page in [*documentation.pages(), *others]:
        text = page.read_text()
        named = re.findall(r"`((?:raydc|tests|docs|bench|cluster|\.ci)/[\w./-]+)`", text)
        inside = re.findall(r"`((?:loop|checkpoint|elastic|data|serve)/[\w./]+\.py)`", text)
        paths = {*named, *(f"raydc/{name}" for name in inside)}
        assert [path for path in sorted(paths) if not (root / path).exists()] == [], page


def test_pages_are_all_in_the_navigation(root: Path) -> None:
    navigation = (root / "mkdocs.yml").read_text()
    missing = [
        name
        for path in (root / "docs").rglob("*.md")
        if (name := str(path.relative_to(root / "docs"))) not in navigation
    ]
    assert missing == []


def test_pages_name_no_place_of_one_machine(root: Path) -> None:
    others = [root / "CONTRIBUTING.md", root / "CHANGELOG.md", *(root / "cluster").glob("*.*")]
    for page in [*documentation.pages(), *others]:
        found = [word for word in WORDS_OF_ONE_MACHINE if word in page.read_text()]
        assert found == [], page


def test_generated_reference_is_current(root: Path) -> None:
    check = [sys.executable, root / "docs" / "generate.py", "--check"]
    done = subprocess.run(check, check=False, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_promises_name_tests_that_exist(root: Path) -> None:
    text = (root / "docs/explanation/promises.md").read_text()
    named = re.findall(r"`(tests/[\w/.]+)(?:::(\w+))?`", text)
    assert len(named) > 25
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (root / path).exists() or (name and f"def {name}(" not in (root / path).read_text())
    ]
    assert missing == []
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    without_test = [r for r in rows if "tests that try" not in r and "`tests/" not in r]
    assert without_test == []
