"""Three isolated hosts and Ray's launcher, shared by the tests of this folder."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import required
import yaml
from isolated import Cluster, Hosts, adapt, find_obstacle


def _free_network() -> str:
    used = subprocess.run(
        ["ip", "-o", "-4", "addr"], capture_output=True, text=True, check=True
    ).stdout
    return next(f"10.77.{n}" for n in range(os.getpid() % 200, 255) if f" 10.77.{n}." not in used)


@pytest.fixture(scope="session")
def hosts() -> Iterator[Hosts]:
    """Three hosts; Ray's launcher is told of two."""
    obstacle = find_obstacle()
    if obstacle is not None:
        required.absent(obstacle)
    base = os.environ.get("RAYDC_HOSTS_DIR") or tempfile.gettempdir()
    made = Hosts(Path(tempfile.mkdtemp(prefix="raydc-hosts-", dir=base)), _free_network(), number=3)
    try:
        made.up()
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def launcher(hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """A home folder with a token and a cluster file; nothing is started."""
    made = Cluster(hosts, tmp_path_factory.mktemp("home"))
    (made.home / "tmp").mkdir()
    assert made.ray("get-auth-token", "--generate").returncode == 0
    (made.home / ".ray" / "auth_token").chmod(0o600)
    made.file.write_text(
        yaml.safe_dump(adapt(hosts, f"raydc-test-{os.getpid()}"), sort_keys=False, width=1000)
    )
    return made
