"""Settings of Ray Serve's ingress: known to Ray, with expected defaults, separate for each Ray."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import ray
import ray.serve
from pydantic import ValidationError

from raydc import engine
from raydc.engine import connection, serve_environment
from raydc.spec.language import Generation


def test_every_setting_is_known_to_ray_serve(tmp_path: Path) -> None:
    constants = (Path(ray.serve.__file__).parent / "_private" / "constants.py").read_text()
    known = set(re.findall(r'"(RAY_SERVE_\w+)"', constants))
    assert serve_environment.local(tmp_path).keys() <= known


def test_two_local_rays_share_no_port_or_path(tmp_path: Path) -> None:
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


def test_socket_paths_are_short_enough() -> None:
    with serve_environment.make_folder() as folder:
        assert Path(folder).stat().st_mode & 0o077 == 0, "whoever reaches the socket rules HAProxy"
        settings = serve_environment.local(Path(folder))
        for name in ("RAY_SERVE_HAPROXY_SOCKET_PATH", "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH"):
            path = Path(settings[name])
            # Serve puts the node's id in between; HAProxy takes no longer ones.
            assert len(f"{path.parent}/{'f' * 56}/{path.name}") <= 97


def test_settings_leave_the_environment_once_ray_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []
    monkeypatch.setenv("RAY_SERVE_HAPROXY_RETRIES", "7")
    before = dict(os.environ)
    with connection._ingress_environment(edits_haproxy=True):
        seen.append(dict(os.environ))
    folder = connection._local_folders[-1]
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    engine.disconnect()
    assert not Path(folder.name).exists()
    assert dict(os.environ) == before
    assert seen[0]["RAY_SERVE_HAPROXY_SOCKET_PATH"].startswith(folder.name)
    assert seen[0]["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert seen[0]["RAY_SERVE_HAPROXY_RETRIES"] == "7", "what the user says counts"


# Setting of raydc -> the constant of Ray Serve that it changes, and that constant's default. A
# default that moves is a reason to read what the setting means now.
DEFAULTS = {
    "RAY_SERVE_ENABLE_HA_PROXY": ("RAY_SERVE_ENABLE_HA_PROXY", [False]),
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": ("RAY_SERVE_THROUGHPUT_OPTIMIZED", [False]),
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": ("RAY_SERVE_HAPROXY_METRICS_ENABLED", [True]),
    "RAY_SERVE_HAPROXY_RETRY_ON": ("RAY_SERVE_HAPROXY_RETRY_ON", ["conn-failure"]),
    "RAY_SERVE_HAPROXY_RETRIES": ("RAY_SERVE_HAPROXY_RETRIES", [None]),
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": ("RAY_SERVE_HAPROXY_TUNE_BUFSIZE", [16384]),
    # Ray 2.59, Ray 2.60.
    "RAY_SERVE_HAPROXY_MAXCONN": ("RAY_SERVE_HAPROXY_MAXCONN", [20000, 4096]),
    "RAY_SERVE_HAPROXY_NBTHREAD": ("RAY_SERVE_HAPROXY_NBTHREAD", [4]),
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": ("RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER", ["5s"]),
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": ("RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S", [3600]),
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": ("RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S", [120]),
    "RAY_SERVE_PORT_QUARANTINE_S": ("RAY_SERVE_PORT_QUARANTINE_S", [150.0]),
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": ("PROXY_HEALTH_CHECK_PERIOD_S", [10.0]),
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": ("PROXY_HEALTH_CHECK_TIMEOUT_S", [10.0]),
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": ("PROXY_READY_CHECK_TIMEOUT_S", [5.0]),
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": (
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S",
        [30.0],
    ),
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": (
        "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S",
        [10.0],
    ),
}


def start_reader(settings: dict[str, str]) -> subprocess.Popen[str]:
    """A process that prints constants of Ray Serve, with these settings and no others."""
    names = [constant for constant, _ in DEFAULTS.values()]
    code = (
        "import json; from ray.serve._private import constants as c; "
        f"print(json.dumps({{name: getattr(c, name) for name in {names}}}))"
    )
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_SERVE_")}
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, env={**own, **settings}, stdout=subprocess.PIPE, text=True)


def test_each_setting_changes_the_default_that_raydc_knows() -> None:
    assert DEFAULTS.keys() == serve_environment.SETTINGS.keys()
    # Both import Ray Serve, which takes seconds, at the same time.
    readers = [start_reader(settings) for settings in ({}, serve_environment.SETTINGS)]
    printed = [reader.communicate(timeout=120)[0] for reader in readers]
    assert [reader.returncode for reader in readers] == [0, 0]
    found, changed = (json.loads(text.splitlines()[-1]) for text in printed)
    for setting, (constant, defaults) in DEFAULTS.items():
        assert found[constant] in defaults, f"{setting} has another default"
        assert changed[constant] != found[constant], f"{setting} changes nothing"


def test_haproxy_lets_the_longest_streams_end() -> None:
    hard_stop_s = float(serve_environment.SETTINGS["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"])
    with pytest.raises(ValidationError):
        Generation(timeout_s=hard_stop_s)
    assert Generation(timeout_s=3600.0).timeout_s < hard_stop_s


def test_haproxy_is_not_edited_if_direct_is_off(tmp_path: Path) -> None:
    settings = serve_environment.local(tmp_path, edits_haproxy=False)
    assert "RAY_SERVE_HAPROXY_BINARY_PATH" not in settings
    assert settings["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
