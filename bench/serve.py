"""Requests per second, latency and CPU of an endpoint: raydc, FastAPI, LitServe, plain Ray Serve.

    python bench/serve.py [--rounds 3] [--seconds 3] [--tasks ...] [--contenders ...]
    [--connections 1 8 32 128]

Every contender serves the same network with one process and one thread for it, and answers label,
score and scores:

    mlp-json     784-512-256-128-10, one 28x28 image as nested lists in JSON (`/predict` of raydc)
    mlp-binary   the same, 784 bytes: binary tensors of the Open Inference Protocol (raydc), the
    raw body (FastAPI, Ray
                 Serve), base64 in JSON (LitServe, which hands no raw bodies to its workers)
    resnet18     224x224 photographs as JPEG: the raw body, or base64 in JSON (LitServe)

The contenders of a task run at the same time; wrk loads one after the other, in turn for several
rounds, so that all see the same minutes of the machine. CPU is that of all processes of a
contender, HAProxy and Ray's own included, from /proc, above what they take when idle (printed as
well). Numbers are medians of the rounds. Prints one table and writes one JSON file.

Needs wrk (`apt install wrk`), and `pip install 'raydc[bench]'`.
"""

from __future__ import annotations

import argparse
import base64
import io
import itertools
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from serve_contenders import CONTENDERS, serve
from serve_task import JSON_TASKS, MODEL_OF_TASK, SHAPES, bare_s

ROOT = Path(__file__).resolve().parent.parent
TASKS = ["mlp-json", "mlp-binary", "resnet18"]
START_TIMEOUT_S = 300.0
IDLE_S = 5.0
LABELS = {
    "fastapi": "FastAPI + uvicorn",
    "litserve": "LitServe",
    "litserve-batching": "LitServe, batching",
    "ray": "Ray Serve, defaults",
    "raydc": "raydc, direct: auto",
    "raydc-off": "raydc, direct: off",
    "raydc-optimized": "raydc, optimize: auto",
}
WRK_SCRIPT = """
local file = io.open("{body}", "rb")
wrk.method = "POST"
wrk.body = file:read("*a")
{headers}
function done(summary, latency)
  local errors = summary.errors
  local failed = errors.status + errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format('{{"requests":%d,"seconds":%f,"failed":%d,"p50":%f,"p95":%f,"p99":%f}}',
    summary.requests, summary.duration / 1e6, failed,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3))
end
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="of one measurement")
    parser.add_argument("--tasks", nargs="+", choices=MODEL_OF_TASK, default=TASKS)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(LABELS))
    parser.add_argument("--connections", nargs="+", type=int, default=[1, 8, 32, 128])
    parser.add_argument(
        "--one", nargs=4, metavar=("CONTENDER", "TASK", "PORT", "WORK"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.one:
        contender, task, port, work = options.one
        serve(contender, task, int(port), Path(work))
        return
    if shutil.which("wrk") is None:
        print("SKIPPED: bench/serve.py needs wrk; on Debian and Ubuntu: apt install wrk")
        return
    rows: list[dict[str, Any]] = []
    for task in options.tasks:
        with tempfile.TemporaryDirectory(prefix="raydc-bench-") as work:
            rows += measure(task, options, Path(work))
    show(rows, options.connections)


def measure(task: str, options: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """A line for each contender and number of connections."""
    servers = {name: start(name, task, work) for name in options.contenders}
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    try:
        for name in servers:
            wait_for_answer(*servers[name], *request_of(name, task))
            ask(name, task, servers[name], 8, 1, work, 0.0)  # Warms up.
        idle = idle_cpu({name: process.pid for name, (process, _) in servers.items()})
        for _ in range(options.rounds):
            for connections, name in itertools.product(options.connections, servers):
                line = ask(
                    name, task, servers[name], connections, options.seconds, work, idle[name]
                )
                found.setdefault((name, connections), []).append(line)
    finally:
        for process, _ in servers.values():
            stop(process)
    bare = bare_s(task)
    lines: list[dict[str, Any]] = [
        {"task": task, "contender": "bare", "connections": 1, "rps": 1 / bare, "p50": 1e3 * bare}
    ]
    for (name, connections), rounds in found.items():
        line: dict[str, Any] = {
            "task": task,
            "contender": name,
            "connections": connections,
            "rounds": rounds,
        }
        line["idle_cpu"] = idle[name]
        line |= {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        lines.append(line)
    return lines


# Servers ------------------------------------------------------------------------------------------


def start(contender: str, task: str, work: Path) -> tuple[subprocess.Popen[bytes], int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, __file__, "--one", contender, task, str(port), str(work / contender)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = (work / f"{contender}.log").open("wb")
    process = subprocess.Popen(
        command, stdout=log, stderr=log, env=environment, start_new_session=True
    )
    return process, port


def wait_for_answer(
    process: subprocess.Popen[bytes], port: int, path: str, body: bytes, headers: dict[str, str]
) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, headers)
            with urllib.request.urlopen(request, timeout=START_TIMEOUT_S) as response:
                print(f"{process.args[3]}: {response.read()[:100]!r}", file=sys.stderr)  # type: ignore[index]
            return
        except (OSError, urllib.error.URLError) as error:
            if isinstance(error, urllib.error.HTTPError) and error.code not in (404, 503):
                raise SystemExit(f"{process.args!r}: {error}: {error.read()[:500]!r}") from error
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{process.args!r} does not answer: {error}") from error
            time.sleep(0.2)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a contender and its children; SIGINT comes first, since Ray ends its own processes."""
    pids = tree(process.pid)
    process.send_signal(signal.SIGINT)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait(30)


def tree(root: int) -> list[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(int(folder.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def cpu_s(root: int) -> float:
    """Seconds of CPU of a process and its descendants, those that have ended included."""
    ticks = 0
    for pid in tree(root):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += sum(int(value) for value in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def idle_cpu(roots: dict[str, int]) -> dict[str, float]:
    """CPU of each contender without load, as a fraction of a core."""
    before = {name: cpu_s(root) for name, root in roots.items()}
    time.sleep(IDLE_S)
    idle = {name: (cpu_s(root) - before[name]) / IDLE_S for name, root in roots.items()}
    print(f"idle: {idle}", file=sys.stderr)
    return idle


# Requests -----------------------------------------------------------------------------------------


def request_of(contender: str, task: str) -> tuple[str, bytes, dict[str, str]]:
    """Path, body and headers."""
    image = np.random.default_rng(0).integers(0, 256, SHAPES[MODEL_OF_TASK[task]], dtype=np.uint8)
    if task in JSON_TASKS:
        row = {"image": image[0].tolist()}
        body = {"rows": [row]} if contender.startswith("raydc") else row
        return (
            "/predict",
            json.dumps(body, separators=(",", ":")).encode(),
            {"content-type": "application/json"},
        )
    if contender.startswith("raydc") and task == "mlp-binary":
        tensor = {
            "name": "image",
            "shape": [1, 28, 28],
            "datatype": "UINT8",
            "parameters": {"binary_data_size": 784},
        }
        head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        headers = {
            "content-type": "application/octet-stream",
            "inference-header-content-length": str(len(head)),
        }
        return "/v2/models/bench/infer", head + image.tobytes(), headers
    content, kind = (
        (image.tobytes(), "application/octet-stream")
        if task == "mlp-binary"
        else (jpeg(image), "image/jpeg")
    )
    if not contender.startswith("litserve"):
        return "/predict", content, {"content-type": kind}
    text = base64.b64encode(content).decode()
    return "/predict", json.dumps({"content": text}).encode(), {"content-type": "application/json"}


def jpeg(image: np.ndarray[Any, Any]) -> bytes:
    """A photograph's worth of detail: noise that has been smoothed."""
    from PIL import Image, ImageFilter

    buffer = io.BytesIO()
    picture = Image.fromarray(image.transpose(1, 2, 0)).filter(ImageFilter.GaussianBlur(2))
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def ask(
    contender: str,
    task: str,
    server: tuple[subprocess.Popen[bytes], int],
    connections: int,
    seconds: int,
    work: Path,
    idle: float,
) -> dict[str, float]:
    """Requests per second, milliseconds of the percentiles, microseconds of CPU a request."""
    process, port = server
    path, body, headers = request_of(contender, task)
    script, payload = work / f"{contender}.lua", work / f"{contender}.body"
    payload.write_bytes(body)
    lines = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items())
    script.write_text(WRK_SCRIPT.format(body=payload, headers=lines))
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "--timeout",
        "60s",
        "-s",
        str(script),
    ]
    before = cpu_s(process.pid)
    ran = subprocess.run(
        [*command, f"http://127.0.0.1:{port}{path}"], capture_output=True, text=True, check=True
    )
    used = cpu_s(process.pid) - before
    found = json.loads(ran.stdout[ran.stdout.index('{"requests"') :])
    used_us = 1e6 * max(0.0, used - idle * found["seconds"])
    line = {
        "rps": found["requests"] / found["seconds"],
        "cpu_us": used_us / max(1, found["requests"]),
    }
    line |= {key: found[key] for key in ("p50", "p95", "p99", "failed")}
    print(f"{task} {contender} {connections}: {line}", file=sys.stderr)
    return line


# The table ----------------------------------------------------------------------------------------


def show(rows: list[dict[str, Any]], connections: list[int]) -> None:
    heads = "".join(
        f"  c={number}: rps / p50 / p95 / p99 ms / CPU us".ljust(46) for number in connections
    )
    print(f"{'':26}{heads}")
    for task in dict.fromkeys(row["task"] for row in rows):
        mine = [row for row in rows if row["task"] == task]
        bare = next(row for row in mine if row["contender"] == "bare")
        print(
            f"{task}: the bare forward pass takes {bare['p50']:.3f} ms ({bare['rps']:,.0f} a "
            "second)"
        )
        for name in dict.fromkeys(row["contender"] for row in mine if row["contender"] != "bare"):
            cells = {row.get("connections"): row for row in mine if row["contender"] == name}
            line = "".join(cell(cells[number]) for number in connections)
            print(
                f"  {LABELS[name]:24}{line}  idle: {cells[connections[0]]['idle_cpu']:.1%} of a "
                "core"
            )
    target = ROOT / "bench" / "results" / "serve.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({"cpus": os.cpu_count(), "rows": rows}, indent=2) + "\n")
    print(f"written to {target.relative_to(ROOT)}")


def cell(row: dict[str, Any]) -> str:
    failed = f" FAILED {row['failed']:.0f}" if row["failed"] else ""
    times = " / ".join(f"{row[key]:.2f}" for key in ("p50", "p95", "p99"))
    return f"  {row['rps']:,.0f} / {times} / {row['cpu_us']:,.0f}{failed}".ljust(46)


if __name__ == "__main__":
    main()
