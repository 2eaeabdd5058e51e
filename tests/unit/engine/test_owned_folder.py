"""Temporary folders: those of killed owners are removed, those in use and of others never."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raydc.engine import owned_folder
from raydc.engine.owned_folder import OwnedFolder

_OWNER = """
import sys
from raydc.engine.owned_folder import OwnedFolder
folder = OwnedFolder("raydc-", sys.argv[1])
print(folder.name, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def owner(parent: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process that owns a folder, until its standard input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())


def test_folder_of_a_killed_owner_is_removed_by_the_next_one(tmp_path: Path) -> None:
    with owner(tmp_path) as (process, left):
        (left / "haproxy.cfg").write_text("x")
        process.kill()
        process.wait()
    assert left.is_dir()
    with OwnedFolder("raydc-", str(tmp_path)) as mine:
        assert [str(one) for one in tmp_path.iterdir()] == [mine]
    assert not list(tmp_path.iterdir())


def test_folder_in_use_stays(tmp_path: Path) -> None:
    with owner(tmp_path) as (process, used), OwnedFolder("raydc-", str(tmp_path)) as mine:
        with OwnedFolder("raydc-", str(tmp_path)):
            assert {used, Path(mine)} < set(tmp_path.iterdir())
        process.communicate("")
        assert not used.exists()
        assert Path(mine).is_dir()


def test_what_is_no_orphan_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raydc-without-lock").mkdir()
    # As between the making of a folder and its lock.
    (tmp_path / "raydc-new").mkdir()
    (tmp_path / "raydc-new" / "owner.lock.new").touch()
    for name in ("elsewhere", "raydc-of-another-user"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "owner.lock").touch()
    (tmp_path / "raydc-link").symlink_to(tmp_path / "elsewhere")
    real = os.fstat
    other = (tmp_path / "raydc-of-another-user" / "owner.lock").stat().st_ino

    def fstat(descriptor: int) -> os.stat_result:
        found = real(descriptor)
        if found.st_ino != other:
            return found
        return os.stat_result([*found[:4], os.getuid() + 1, *found[5:10]])

    monkeypatch.setattr(owned_folder.os, "fstat", fstat)
    before = set(tmp_path.rglob("*"))
    OwnedFolder("raydc-", str(tmp_path)).cleanup()
    assert set(tmp_path.rglob("*")) == before


def test_filesystem_without_locks_keeps_the_folder_from_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no locks here")

    with monkeypatch.context() as patch:
        patch.setattr(owned_folder.fcntl, "flock", refuse)
        folder = OwnedFolder("raydc-", str(tmp_path))
    with OwnedFolder("raydc-", str(tmp_path)):
        assert Path(folder.name).is_dir()
    folder.cleanup()
    folder.cleanup()
    assert not list(tmp_path.iterdir())
