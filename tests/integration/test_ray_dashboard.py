"""`--dashboard`: the dashboard of a local Ray, on loopback, for people with the token."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from raydc import engine

TIMEOUT_S = 240
# Asks the dashboard as anybody on this machine could, and as somebody with the token.
PROGRAM = """
import json, time, urllib.error, urllib.request
from pathlib import Path
from raydc import engine

def status(url, token=None):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)

connected = engine.connect(num_cpus=1, dashboard=True)
asked = connected.dashboard_url + "/api/jobs/"
token = (Path.home() / ".ray" / "auth_token").read_text().strip()
found = {"url": connected.dashboard_url, "anybody": status(asked)}
found["with_token"] = status(asked, token)
engine.disconnect()
print("FOUND " + json.dumps(found))
"""


def found() -> dict[str, Any]:
    """What a process with a Ray of its own sees."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert lines, done.stdout + done.stderr
    value: dict[str, Any] = json.loads(lines[0].removeprefix("FOUND "))
    return value


@pytest.mark.skipif("RAY_AUTH_TOKEN_PATH" in os.environ, reason="the token is elsewhere")
def test_dashboard_is_on_loopback_and_asks_for_the_token() -> None:
    one = found()
    assert one["url"].startswith("http://127.0.0.1:")
    assert (one["anybody"], one["with_token"]) == (401, 200)


def test_dashboard_is_off_by_default(ray_engine: engine.Engine) -> None:
    assert ray_engine.dashboard_url is None
