"""The settings of Ray Serve: known to Ray, and for each local Ray its own."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import ray
import ray.serve

from raydc import engine
from raydc.engine import connection, serve_environment


def test_ray_serve_knows_every_setting(tmp_path: Path) -> None:
    constants = (Path(ray.serve.__file__).parent / "_private" / "constants.py").read_text()
    known = set(re.findall(r'"(RAY_SERVE_\w+)"', constants))
    assert serve_environment.local(tmp_path).keys() <= known


def test_two_local_rays_share_nothing(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    one, other = (
        serve_environment.local(tmp_path / "one"),
        serve_environment.local(tmp_path / "other"),
    )
    own = one.keys() - serve_environment.SETTINGS.keys()
    assert all(one[name] != other[name] for name in own)
    assert {
        name for name in own if "PORT" in name or "PATH" in name or "LOC" in name or "STATE" in name
    } == own


def test_the_paths_of_sockets_are_short_enough() -> None:
    with serve_environment.make_folder() as folder:
        assert Path(folder).stat().st_mode & 0o077 == 0, "whoever reaches the socket rules HAProxy"
        settings = serve_environment.local(Path(folder))
        for name in ("RAY_SERVE_HAPROXY_SOCKET_PATH", "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH"):
            path = Path(settings[name])
            # Serve puts the node's id in between; HAProxy takes no longer ones.
            assert len(f"{path.parent}/{'f' * 56}/{path.name}") <= 97


def test_only_the_ray_that_starts_inherits_them(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []
    monkeypatch.setenv("RAY_SERVE_HAPROXY_RETRIES", "7")
    before = dict(os.environ)
    with connection._ingress_of_local_ray():
        seen.append(dict(os.environ))
    folder = connection._local_folders[-1]
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    engine.disconnect()
    assert not Path(folder.name).exists()
    assert dict(os.environ) == before
    assert seen[0]["RAY_SERVE_HAPROXY_SOCKET_PATH"].startswith(folder.name)
    assert seen[0]["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert seen[0]["RAY_SERVE_HAPROXY_RETRIES"] == "7", "what the user says counts"
