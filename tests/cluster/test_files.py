"""The cluster files, as Ray's launcher reads them. No host is needed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

FILES = sorted((Path(__file__).resolve().parents[2] / "cluster").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_cluster_file_is_valid_for_ray(file: Path) -> None:
    validate_config(prepare_config(yaml.safe_load(file.read_text())))


def test_ray_refuses_an_unknown_key() -> None:
    config = yaml.safe_load(FILES[0].read_text()) | {"worker_start_commands": []}
    with pytest.raises(Exception, match="worker_start_commands"):
        validate_config(prepare_config(config))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_cluster_file_needs_a_token_and_opens_no_dashboard(file: Path) -> None:
    config = yaml.safe_load(file.read_text())
    head, worker = config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]
    assert "RAY_AUTH_MODE=token" in head
    assert "RAY_AUTH_MODE=token" in worker
    assert "--dashboard-host=127.0.0.1" in head
    assert "~/.ray/auth_token" in config["file_mounts"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_file_mounts_exist(file: Path) -> None:
    sources = yaml.safe_load(file.read_text())["file_mounts"].values()
    missing = [
        path
        for path in sources
        if not path.startswith("~") and not (file.parent.parent / path).exists()
    ]
    assert missing == []
