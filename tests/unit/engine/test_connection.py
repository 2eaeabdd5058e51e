"""Which Ray a driver connects to."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from raydc import engine
from raydc.engine import connection, interruption, ray_start, ray_token, usable_cpus
from raydc.errors import ClusterError


@pytest.mark.parametrize(
    ("address", "asked"), [(None, "local"), ("10.0.0.1:6379", "10.0.0.1:6379")]
)
def test_connect_without_an_address_starts_a_ray_of_its_own(
    monkeypatch: pytest.MonkeyPatch, address: str | None, asked: str
) -> None:
    given: list[dict[str, Any]] = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: given.append(options))
    monkeypatch.setattr(connection, "choose_auth", lambda local: None)
    monkeypatch.setattr(ray_start, "require_port", lambda address: None)
    monkeypatch.setattr(
        connection, "_describe", lambda local, dashboard_url: engine.Engine(local, "", 1, {})
    )
    assert engine.connect(address).local == (address is None)
    assert [options["address"] for options in given] == [asked]


def test_address_at_which_nothing_listens_is_refused_before_ray_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_start, "PORT_TIMEOUT_S", 0.1)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray would try for 14 minutes"))
    monkeypatch.setattr(connection, "choose_auth", lambda local: None)
    with closed_port() as port:
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", f"[::1]:{port}"):
            with pytest.raises(ClusterError, match="nothing answers there") as caught:
                engine.connect(address)
            assert address in caught.value.message
        # `auto`, and a command that only looks: the record of a Ray that was killed.
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setattr(
            ray_start.internals,
            "canonicalize_bootstrap_address_or_die",
            lambda _: f"127.0.0.1:{port}",
            raising=False,
        )
        with pytest.raises(ClusterError, match="no Ray runs on this machine"):
            engine.connect("auto")
        assert engine.attach() is False


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A port of this machine that refuses connections: it is bound, and nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_port_that_listens_passes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ray_start.require_port(f"127.0.0.1:{server.getsockname()[1]}")
    ray_start.require_port("auto")


def test_start_without_end_has_a_line_and_a_limit() -> None:
    code = """
import threading
from raydc.engine import ray_start
ray_start._SAY_AFTER_S, ray_start.CLUSTER_TIMEOUT_S = 0.05, 0.1
with ray_start.limited("10.0.0.1:6379"):
    threading.Event().wait()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == ClusterError.exit_code
    waits, refused, hint = ended.stderr.splitlines()
    assert waits == "ray       waiting for Ray at 10.0.0.1:6379, for up to 0 s"
    assert refused.startswith("error: no Ray at 10.0.0.1:6379: it did not start within")
    assert "RAY_ADDRESS" in hint


@pytest.mark.parametrize(
    ("error", "address", "hint"),
    [
        (OSError("AF_UNIX path length cannot exceed 107 bytes"), None, "set TMPDIR or RAY_TMPDIR"),
        (PermissionError(13, "Permission denied", "/tmp/ray"), None, "needs to write /tmp/ray"),
        (ConnectionError("bad token"), "a:1", "RAY_AUTH_MODE and the token"),
        (RuntimeError("the raylet died"), None, "session_latest/logs"),
    ],
)
def test_hint_comes_from_the_error(error: Exception, address: str | None, hint: str) -> None:
    with pytest.raises(ClusterError) as caught, ray_start.limited(address):
        raise error
    assert hint in (caught.value.hint or "")


def test_home_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "file" / "auth_token"
    place.parent.write_text("in the way")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(place))
    with pytest.raises(ClusterError, match="cannot keep the token of Ray in") as caught:
        ray_token._create_token()
    assert "RAY_AUTH_TOKEN_PATH" in (caught.value.hint or "")


def test_cpus_are_those_that_the_process_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, no_limit = tmp_path / "own", tmp_path / "none"
    own.write_text("0::/jobs/one\n")
    monkeypatch.setattr(usable_cpus.internals, "get_num_cpus", lambda: 64, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert usable_cpus.count(no_limit, own) == 8
    group = tmp_path / "jobs" / "one"
    group.mkdir(parents=True)
    (group / "cpu.max").write_text("max 100000\n")
    assert usable_cpus.count(tmp_path, own) == 8
    # The limit of the group around it.
    (tmp_path / "jobs" / "cpu.max").write_text("350000 100000\n")
    assert usable_cpus.count(tmp_path, own) == 3
    (group / "cpu.max").write_text("50000 100000\n")
    assert usable_cpus.count(tmp_path, own) == 1
    # The first version of cgroups.
    own.write_text("4:cpu,cpuacct:/x\n")
    (tmp_path / "cpu" / "x").mkdir(parents=True)
    (tmp_path / "cpu" / "x" / "cpu.cfs_quota_us").write_text("200000\n")
    (tmp_path / "cpu" / "x" / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cpus.count(tmp_path, own) == 2


@pytest.mark.parametrize(
    ("block", "hint"), [("interruption.resumable()", True), ("contextlib.nullcontext()", False)]
)
def test_death_of_the_own_ray_ends_the_process_with_one_line(block: str, hint: bool) -> None:
    code = f"""
import contextlib, threading
from raydc.engine import internals, interruption, ray_start
ray_start._WATCH_EVERY_S = 0.01
internals.dead_processes = lambda: ["raylet (exit code -9)"]
with interruption.catch_signals(), {block}:
    ray_start.watch_own()
    threading.Event().wait(60)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == ClusterError.exit_code
    lines = ["error: the local Ray has died: raylet (exit code -9)"]
    assert ended.stderr.splitlines() == lines + ["  --resume goes on"] * hint


def test_ray_that_is_left_on_purpose_has_not_died() -> None:
    code = """
from raydc.engine import internals, interruption, ray_start
ray_start._WATCH_EVERY_S = 0.01
found = []
internals.dead_processes = lambda: found
with interruption.catch_signals():
    ray_start.watch_own()
    ray_start.leave_own()
    found.append("raylet")
    import threading
    for thread in threading.enumerate():
        if thread.name == "raydc-ray":
            thread.join(30)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_signal_while_ray_starts_is_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        # As `ray.init` does twice.
        ray._private.utils.set_sigterm_handler(lambda number, _frame: sys.exit(number))
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ray, "init", init)
    with (
        interruption.catch_signals(),
        pytest.raises(interruption.Interruption),
        ray_start.limited("127.0.0.1:1"),
    ):
        ray.init()
    before = signal.getsignal(signal.SIGTERM)
    with contextlib.suppress(SystemExit), ray_start.limited("127.0.0.1:1"):
        ray.init()
    assert signal.getsignal(signal.SIGTERM) != before, "a program without raydc's handlers"
    signal.signal(signal.SIGTERM, before)
