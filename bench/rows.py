"""Answers of a deployed endpoint compared with rows asked alone, bit for bit, and what that costs.

    python bench/rows.py [--rows 10000] [--deep-rows 200] [--tasks mlp-json cnn-json resnet18]
    [--rounds 3] [--seconds 3] [--connections 1 8 32 128]

Each network is deployed with `raydc.serve` on a Ray of its own, and asked over HTTP, by turns with
JSON and with binary tensors of the Open Inference Protocol:

    - every row in a request of its own, at each number of connections at once;
    - all rows, three times, in requests of a random number of them, up to what the endpoint takes.

The expected values come from the same bundle in this process, one row in a forward pass. Every
probability of every answer is compared with them: JSON as float64, binary as float32.

The cost is that of the rows that fill a batch up (`raydc.bundle.padding`): requests per second and
CPU beside a second endpoint that fills nothing up, measured in turn as in bench/serve.py. Prints
one table and writes bench/results/rows.json. Needs wrk for the cost (`apt install wrk`).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import serve as serve_bench

from raydc import bundle as bundles
from raydc.bundle import Bundle
from raydc.client import tensors
from raydc.client.replies import Reply
from raydc.features.images import encode_png
from raydc.registry import Registry
from raydc.storage import Storage

Array = np.ndarray[Any, Any]

SHIPPED, UNFILLED = "raydc", "raydc-unfilled"
TASKS = ("mlp-json", "cnn-json", "resnet18")
COST_CONNECTIONS = (1, 32)
# Defaults of `serve.max_request_rows` and, with room for the JSON, of `max_request_bytes`.
MOST_ROWS, MOST_BYTES = 4096, 7 * 1024 * 1024
REQUEST_TIMEOUT_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--deep-rows", type=int, default=200, help="rows of resnet18")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--connections", nargs="+", type=int, default=[1, 8, 32, 128])
    parser.add_argument("--rounds", type=int, default=3, help="of the cost; 0 leaves it out")
    parser.add_argument("--seconds", type=int, default=3, help="of one measurement of the cost")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        print("no cost: it needs wrk; on Debian and Ubuntu: apt install wrk", file=sys.stderr)
        options.rounds = 0
    found = []
    for task in options.tasks:
        with tempfile.TemporaryDirectory(prefix="raydc-bench-") as work:
            found.append(measure(task, options, Path(work)))
        show(found[-1])
        write(found)


def measure(task: str, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Deploys the networks of a task, and compares and times their answers."""
    names = [SHIPPED, UNFILLED] if options.rounds else [SHIPPED]
    servers = {name: serve_bench.start(name, task, work) for name in names}
    num_rows = options.deep_rows if task == "resnet18" else options.rows
    line: dict[str, Any] = {"task": task, "rows": num_rows}
    try:
        for name in names:
            serve_bench.wait_for_answer(*servers[name], *serve_bench.request_of(name, task))
        bundle = bundles.load(Registry(Storage(str(work / SHIPPED))).folder("bench", 1))
        line["answer"] = str(bundle.padding)
        url = f"http://127.0.0.1:{servers[SHIPPED][1]}"
        line |= asyncio.run(compare(bundle, url, num_rows, options.connections))
        line["cost"] = cost(task, servers, options, work)
    finally:
        for process, _ in servers.values():
            serve_bench.stop(process)
    return line


# Bits ---------------------------------------------------------------------------------------------


async def compare(
    bundle: Bundle, url: str, num_rows: int, connections: list[int]
) -> dict[str, Any]:
    """Counts the rows whose answer differs from that of the row alone.

    Args:
        bundle: The same bundle that is deployed.
        url: Root of the endpoint.
        num_rows: Rows, each of which every part asks for.
        connections: Numbers of requests at once of the first part.
    """
    rows = Rows(bundle, num_rows)
    found: dict[str, Any] = {}
    for number in connections:
        one_by_one = ([index] for index in range(num_rows))
        found[f"alone, {number} at once"] = await rows.ask_all(url, one_by_one, number)
    batches = [one for seed in range(3) for one in random_batches(num_rows, rows.most_rows, seed)]
    found["random batches"] = await rows.ask_all(url, iter(batches), 8)
    found["most rows of a batch"] = max(map(len, batches))
    return found


def random_batches(num_rows: int, most_rows: int, seed: int) -> Iterator[list[int]]:
    """Cuts the rows in random order into batches; small and large ones are equally likely.

    Args:
        num_rows: Number of rows.
        most_rows: Most rows of a batch.
        seed: Of the order and the sizes.
    """
    choose = random.Random(seed)
    order = choose.sample(range(num_rows), num_rows)
    start = 0
    while start < num_rows:
        size = round(most_rows ** choose.random())
        yield order[start : start + size]
        start += size


class Rows:
    """Random images, what their answers must be, and how they are asked for.

    Args:
        bundle: Computes each row in a forward pass of its own.
        num_rows: Number of images.
    """

    def __init__(self, bundle: Bundle, num_rows: int) -> None:
        channels, height, width = bundle.features.signature.shape
        shape = (num_rows, height, width, channels)
        self.pixels: Array = np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)
        self.most_rows = min(MOST_ROWS, MOST_BYTES // (height * width * channels))
        inputs = self.pixels.transpose(0, 3, 1, 2)
        self._expected = [
            bundle.features.values(bundle.forward(inputs[index : index + 1]))[0]
            for index in range(num_rows)
        ]
        self._choose = random.Random(1)

    async def ask_all(
        self, url: str, batches: Iterable[list[int]], connections: int
    ) -> dict[str, int]:
        """Asks for all batches, as many at once as there are connections.

        Returns:
            How many requests there were, and how many rows had another answer.
        """
        todo, count = iter(batches), {"requests": 0, "different": 0}
        limits = aiohttp.TCPConnector(limit=connections)
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        async with aiohttp.ClientSession(url, connector=limits, timeout=timeout) as session:

            async def client() -> None:
                for chosen in todo:
                    count["requests"] += 1
                    count["different"] += await self._ask(session, chosen)

            await asyncio.gather(*(client() for _ in range(connections)))
        return count

    async def _ask(self, session: aiohttp.ClientSession, chosen: list[int]) -> int:
        expected_BK = np.stack([self._expected[index] for index in chosen])
        body = self._json(chosen) if self._choose.random() < 0.5 else b""
        # JSON takes up to twice the bytes of the images.
        if body and len(body) <= MOST_BYTES:
            headers = {"content-type": "application/json"}
            async with session.post("/predict", data=body, headers=headers) as answer:
                answers = (await _json_of(answer))["predictions"]
            found_BK: Array = np.array([list(one["scores"].values()) for one in answers])
        else:
            values = self.pixels[chosen]
            inputs = {"image": values[..., 0] if values.shape[3] == 1 else values}
            body, json_bytes = tensors.encode(inputs, ["scores"])
            headers = {
                "content-type": "application/octet-stream",
                tensors.HEADER: str(json_bytes),
            }
            path = "/v2/models/bench/infer"
            async with session.post(path, data=body, headers=headers) as answer:
                content = await answer.read()
                names = {name.lower(): value for name, value in answer.headers.items()}
                reply = Reply(answer.status, names, content, "")
            found_BK = tensors.decode(reply).outputs["scores"]
            expected_BK = expected_BK.astype(np.float32)
        if found_BK.shape != expected_BK.shape or found_BK.dtype != expected_BK.dtype:
            raise SystemExit(f"{found_BK.shape} {found_BK.dtype} for {len(chosen)} rows")
        pairs = zip(found_BK, expected_BK, strict=True)
        return sum(found.tobytes() != expected.tobytes() for found, expected in pairs)

    def _json(self, chosen: list[int]) -> bytes:
        rows = [{"image": encode_png(self.pixels[index])} for index in chosen]
        return json.dumps({"rows": rows}).encode()


async def _json_of(answer: aiohttp.ClientResponse) -> Any:
    if answer.status != 200:
        raise SystemExit(f"{answer.status}: {(await answer.read())[:300]!r}")
    return await answer.json()


# Cost ---------------------------------------------------------------------------------------------


def cost(
    task: str, servers: dict[str, Any], options: argparse.Namespace, work: Path
) -> list[dict[str, Any]]:
    """Requests per second and CPU of each endpoint, medians of rounds in turn."""
    if not options.rounds:
        return []
    idle = serve_bench.idle_cpu({name: process.pid for name, (process, _) in servers.items()})
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(options.rounds):
        for number, name in itertools.product(COST_CONNECTIONS, servers):
            asked = serve_bench.ask(
                name, task, servers[name], number, options.seconds, work, idle[name]
            )
            found.setdefault((name, number), []).append(asked)
    return [
        {"contender": name, "connections": number}
        | {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        for (name, number), rounds in found.items()
    ]


# The table ----------------------------------------------------------------------------------------


def show(line: dict[str, Any]) -> None:
    counts = {key: value for key, value in line.items() if isinstance(value, dict)}
    print(f"{line['task']}: {line['rows']:,} rows; {line['answer']}")
    for name, count in counts.items():
        print(f"  {name:20}{count['requests']:>7,} requests, {count['different']} rows differ")
    for one in line["cost"]:
        print(
            f"  {one['contender']:15}{one['connections']:>4} connections: "
            f"{one['rps']:,.0f} requests/s, {one['cpu_us']:,.0f} us of CPU"
        )


def write(lines: list[dict[str, Any]]) -> None:
    target = serve_bench.ROOT / "bench" / "results" / "rows.json"
    target.parent.mkdir(exist_ok=True)
    value = {"cpus": os.cpu_count(), "load": os.getloadavg(), "tasks": lines}
    target.write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
