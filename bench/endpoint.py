"""What happens to requests while an endpoint is changed, killed and flooded.

    python -m bench.endpoint [--seconds 60] [--only changes outages overload scaling]

The model is a network that takes a given time (bench/paced.py), so that its capacity is known.
Clients are separate processes (bench/load.py): each has one connection, sends a row of 20 ms, waits
for the answer, and sends the next one 10 ms later. Without the client library nothing is retried;
every failure is counted.

- changes: promote, promote of a version whose golden rows are wrong, rollback, a canary of a half
  that starts and ends, 1 -> 3 -> 1 replicas, promote while Serve's controller is killed, kill -9 of
  the controller, kill -9 of one of two replicas; under one steady load.
- outages: kill -9 of HAProxy and of the only replica, with and without the client library at the
  same time.
- overload: five times as many requests as can be answered, for half of --seconds.
- scaling: to three replicas, to none, and back; replicas that stop with requests in work; clients
  that go away.

Prints tables and writes bench/results/endpoint.json.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import socket
import tempfile
import time
import urllib.parse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import paced
from bench.load import Load, Request, changes, failures, outage_s, percentile_s
from bench.stage import Stage, local_ray, wait_for

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("changes", "outages", "overload", "scaling")
# A forward pass of 20 ms: most clients wait for an answer at the moment at which something is
# killed.
ROWS = [{"seconds": 0.02}]
CLIENTS = "6"
# Answers that are waited for after an event, so that what it did late is seen too.
AFTER = 100
RECOVERY_S = 5.0

Row = dict[str, Any]


@dataclass(frozen=True)
class Event:
    """A change under load, and how often it may change the version that a client sees."""

    name: str
    do: Callable[[Stage], None]
    max_changes: int = 0
    prepare: Callable[[Stage], None] = lambda _: None


def _scale(stage: Stage) -> None:
    stage.deploy(3)
    stage.deploy(1)


CHANGES = (
    Event("promote", lambda stage: stage.promote(2), 1),
    Event("promote of a bad version", lambda stage: stage.promote_bad()),
    Event("rollback", lambda stage: stage.rollback(), 1),
    Event("canary, begun and ended", lambda stage: stage.canary(), 2),
    Event("1 -> 3 -> 1 replicas", _scale, prepare=lambda stage: stage.deploy(1)),
    Event("promote, controller killed", lambda stage: stage.promote_without_controller(), 1),
    # A controller that forgot the promotion would bring back the version that was deployed first.
    Event("kill -9 of the controller", lambda stage: stage.kill_controller()),
    Event(
        "kill -9 of one of two",
        lambda stage: stage.kill_replica(),
        prepare=lambda stage: stage.deploy(2),
    ),
)


# Under a steady load ------------------------------------------------------------------------------


def under_change(
    stage: Stage, folder: Path, calm_s: float = 0.0, events: tuple[Event, ...] = CHANGES
) -> list[Row]:
    """Each event under one steady load, with `calm_s` before it and after it."""
    stage.deploy(2)
    rows = []
    with Load(stage.url, ROWS, folder / "changes.jsonl", "--clients", CLIENTS) as load:
        load.wait_for_more(AFTER)
        rows.append(_row("nothing", load.requests(), 0.0))
        for event in events:
            event.prepare(stage)
            load.wait_for_more(AFTER)
            began_s = time.time()
            time.sleep(calm_s)
            started = time.monotonic()
            event.do(stage)
            took_s = time.monotonic() - started
            time.sleep(calm_s)
            load.wait_for_more(AFTER)
            row = _row(event.name, load.requests(began_s), took_s)
            rows.append({**row, "max_changes": event.max_changes})
    return rows


def _row(name: str, requests: list[Request], took_s: float) -> Row:
    seen = changes(requests)
    return {
        "event": name,
        "event_s": round(took_s, 1),
        "requests": len(requests),
        "failed": dict(failures(requests)),
        "p50_ms": _ms(percentile_s(requests, 0.5)),
        "worst_ms": _ms(max(request.took_s for request in requests)),
        "changes": max((len(versions) - 1 for versions in seen.values()), default=0),
        "last_versions": sorted({versions[-1] for versions in seen.values() if versions}),
    }


# Without an answer --------------------------------------------------------------------------------


def outages(stage: Stage, folder: Path) -> list[Row]:
    """Kills processes that exist only once: plain clients against clients that use the library."""
    stage.deploy(1)
    rows = []
    for name, kill in (("HAProxy", stage.kill_proxy), ("the only replica", stage.kill_replica)):
        slug = name.replace(" ", "-")
        with (
            Load(stage.url, ROWS, folder / f"{slug}.jsonl", "--clients", "2") as plain,
            Load(stage.url, ROWS, folder / f"{slug}-library.jsonl", "--library") as library,
        ):
            plain.wait_for_more(AFTER)
            library.wait_for_more(AFTER)
            began_s = time.time()
            kill()
            for load in (plain, library):
                load.wait_for_more(AFTER)
            without, with_library = plain.requests(began_s), library.requests(began_s)
        rows.append(
            {
                "event": f"kill -9 of {name}",
                "outage_s": round(outage_s(without), 1),
                "failed": dict(failures(without)),
                "failed_with_library": dict(failures(with_library)),
                "worst_with_library_s": round(max(request.took_s for request in with_library), 1),
                "requests_with_library": len(with_library),
            }
        )
    return rows


# Too much -----------------------------------------------------------------------------------------


def overload(stage: Stage, folder: Path, flood_s: float, times: float = 5.0) -> Row:
    """Overloads an endpoint whose forward pass takes 100 ms for up to four requests.

    Eight requests are in work and four wait. Eight clients load it first, then more.

    Args:
        stage: The endpoint.
        folder: For the records.
        flood_s: How long it lasts.
        times: Requests that come, for each that can be answered.
    """
    limit, rows = 8, [{"seconds": 0.1}]
    stage.deploy(
        1, max_ongoing_requests=limit, max_queued_requests=limit // 2, max_batch_size=limit // 2
    )
    with Load(
        stage.url, rows, folder / "unloaded.jsonl", "--clients", str(limit), "--pace", "0"
    ) as load:
        load.wait_for_more(AFTER)
        began_s = time.time()
        load.wait_for_more(2 * AFTER)
        unloaded = load.requests(began_s)
    capacity = sum(one.failure is None for one in unloaded) / (
        max(one.ended_s for one in unloaded) - began_s
    )
    with Load(stage.url, rows, folder / "flood.jsonl", "--rate", str(times * capacity)) as load:
        began_s = time.time()
        time.sleep(flood_s)
        load.wait_for_more(1)
    flood = load.requests(began_s)
    ended_s = max(one.began_s for one in flood)
    with Load(stage.url, rows, folder / "after.jsonl", "--clients", "1") as load:
        load.wait_for_more(AFTER)
    after = load.requests()
    refused = [one for one in flood if one.status in (429, 503) and one.retry_after]
    slow_s = 2 * percentile_s(unloaded, 0.95)
    bad = [one.ended_s - ended_s for one in after if one.failure is not None or one.took_s > slow_s]
    return {
        "capacity_per_s": round(capacity),
        "offered_per_s": round(len(flood) / (ended_s - began_s)),
        "answered_per_s": round(sum(one.failure is None for one in flood) / (ended_s - began_s)),
        "refused_with_retry_after": len(refused),
        "failed_otherwise": dict(failures(one for one in flood if one not in set(refused))),
        "unloaded_p95_ms": _ms(percentile_s(unloaded, 0.95)),
        "accepted_p95_ms": _ms(percentile_s(flood, 0.95)),
        "failed_afterwards": dict(failures(after)),
        "itself_after_s": round(max(bad, default=0.0), 2),
    }


# More and fewer -----------------------------------------------------------------------------------


def scaling(stage: Stage, folder: Path) -> list[Row]:
    """Ray's autoscaling: to three replicas, to none, and back for one request."""
    rapid = {
        "target_ongoing_requests": 1.0,
        "upscale_delay_s": 0.0,
        "downscale_delay_s": 1.0,
        "look_back_period_s": 1.0,
    }
    stage.deploy(0, 3, autoscaling_config=rapid)
    rows = []
    started = time.monotonic()
    with Load(stage.url, [{"seconds": 0.05}], folder / "up.jsonl", "--clients", "6") as load:
        wait_for(lambda: stage.num_replicas() == 3, "three replicas")
        up_s = time.monotonic() - started
        load.wait_for_more(AFTER)
    rows.append(_row("none -> 3 replicas by load", load.requests(), up_s))
    started = time.monotonic()
    wait_for(lambda: stage.is_idle(), "no replica")
    down_s = time.monotonic() - started
    started = time.monotonic()
    with Load(stage.url, ROWS, folder / "back.jsonl", "--clients", "2") as load:
        load.wait_for_more(AFTER)
        back_s = time.monotonic() - started
    rows.append(
        {**_row("none -> 1 by a request", load.requests(), back_s), "to_none_s": round(down_s, 1)}
    )
    return rows


def stopped_in_work(stage: Stage, num_requests: int = 8) -> list[int]:
    """The answers to requests of 1.5 s that are in work while one of two replicas stops."""
    stage.deploy(2, max_batch_size=1)
    num_before = len(paced.computed(stage.file))
    with ThreadPoolExecutor(num_requests) as pool:
        asked = [pool.submit(ask, stage.url, 0.4 + 0.01 * index) for index in range(num_requests)]
        wait_for(lambda: len(paced.computed(stage.file)) >= num_before + 2, "two requests are done")
        stage.deploy(1, max_batch_size=1)
        return [one.result(timeout=60.0) for one in asked]


def gone_clients(stage: Stage, goes: bool = True) -> list[float]:
    """Counts what is computed for a client that disconnects before its turn.

    Args:
        stage: The endpoint.
        goes: Whether it does.
    """
    stage.deploy(1, max_batch_size=1)
    num_before = len(paced.computed(stage.file))
    parts = urllib.parse.urlsplit(stage.url)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, stage.url, 2.0)
        wait_for(lambda: stage.num_in_work() == 1, "the first request")
        with socket.create_connection((parts.hostname, parts.port), timeout=30.0) as client:
            body = _body(0.25)
            head = f"POST {parts.path}/predict HTTP/1.1\r\nhost: a\r\n"
            head += "content-type: application/json\r\n"
            client.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            wait_for(lambda: stage.num_in_work() == 2, "the request of the client that goes")
            if not goes:
                client.recv(1)
        wait_for(lambda: stage.num_in_work() in (0, 1), "one request less")
        last = pool.submit(ask, stage.url, 0.125)
        assert (first.result(timeout=60.0), last.result(timeout=60.0)) == (200, 200)
    return paced.computed(stage.file)[num_before:]


def ask(url: str, seconds: float) -> int:
    """The status of one request; 0 without an answer."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60.0)
    with contextlib.closing(connection):
        try:
            connection.request(
                "POST",
                f"{parts.path}/predict",
                _body(seconds),
                {"content-type": "application/json"},
            )
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0


def _body(seconds: float) -> bytes:
    return json.dumps({"rows": [{"seconds": seconds}]}).encode()


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1)


# All of it ----------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    os.chdir(ROOT)
    found: dict[str, Any] = {"cpus": os.cpu_count()}
    with (
        tempfile.TemporaryDirectory(prefix="raydc-bench-", ignore_cleanup_errors=True) as work,
        local_ray(),
    ):
        folder = Path(work)
        stage = Stage(folder)
        if "changes" in options.only:
            found["changes"] = under_change(stage, folder, options.seconds / len(CHANGES) / 4)
        if "outages" in options.only:
            found["outages"] = outages(stage, folder)
        if "overload" in options.only:
            found["overload"] = [overload(stage, folder, options.seconds / 2)]
        if "scaling" in options.only:
            found["scaling"] = scaling(stage, folder)
            found["stopped in work"] = [{"statuses": stopped_in_work(stage)}]
            found["gone clients"] = [
                {"goes": goes, "computed": gone_clients(stage, goes)} for goes in (True, False)
            ]
    for part, rows in found.items():
        if isinstance(rows, list):
            show(part, rows)
    target = ROOT / "bench" / "results" / "endpoint.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(found, indent=1) + "\n")
    print(f"\nwritten to {target.relative_to(ROOT)}")


def show(part: str, rows: list[Row]) -> None:
    """A table; of failures it has the number, the file has their words."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    table = [columns, *([_cell(row.get(column, "")) for column in columns] for row in rows)]
    widths = [max(len(line[index]) for line in table) for index in range(len(columns))]
    print(f"\n{part}")
    for line in table:
        print(
            "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        )


def _cell(value: Any) -> str:
    return str(sum(value.values())) if isinstance(value, dict) else str(value)


if __name__ == "__main__":
    main()
