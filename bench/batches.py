"""Compares answers in random batches with those of the same rows alone, bit for bit.

    python -m bench.batches [--rows 10000] [--connections 1 2 8 32 128]

Runs a replica's service with small networks in this process, without Ray
or a server: the requests take the routes, batches and forward passes of an endpoint. Prints how
many answers differ, which must be none, and the CPU of a request.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))

import small_models  # noqa: E402
from in_process import Store, body, post  # noqa: E402

from raydc.serve.http.routes import Routes  # noqa: E402
from raydc.serve.replica.service import Service  # noqa: E402

MOST_ROWS = 8


async def compare(kind: str, num_rows: int, connections: list[int], folder: Path) -> dict[str, Any]:
    """Returns the number of answers that differ, and microseconds of CPU a row."""
    store = Store(folder, getattr(small_models, f"{kind}_features")())
    rows = getattr(small_models, f"{kind}_rows")(num_rows)
    service = Service()
    await service.configure(store.settings())
    routes = Routes(service, "bench")
    choose = random.Random(0)

    async def ask(chosen: list[int]) -> list[Any]:
        answer = await routes.respond(post("/predict", [rows[index] for index in chosen]))
        found: list[Any] = body(answer)["predictions"]
        return found

    alone = [(await ask([index]))[0] for index in range(num_rows)]
    found: dict[str, Any] = {"kind": kind, "rows": num_rows}
    for number in connections:
        todo, started = iter(range(num_rows)), time.process_time()
        different = 0

        async def client(todo: Any = todo) -> None:
            nonlocal different
            for index in todo:
                others = [choose.randrange(num_rows) for _ in range(choose.randrange(MOST_ROWS))]
                chosen = [index, *others]
                expected = [alone[one] for one in chosen]
                different += sum(a != b for a, b in zip(await ask(chosen), expected, strict=True))

        await asyncio.gather(*(client() for _ in range(number)))
        cpu_us = 1e6 * (time.process_time() - started) / num_rows
        found[f"{number} connections"] = {"different": different, "cpu_us": round(cpu_us)}
    assert service.current is not None
    return {**found, "answer": str(service.current.bundle.padding)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--connections", nargs="+", type=int, default=[1, 2, 8, 32, 128])
    options = parser.parse_args()
    for kind in ("table", "picture"):
        with tempfile.TemporaryDirectory(prefix="raydc-bench-") as folder:
            found = compare(kind, options.rows, options.connections, Path(folder))
            print(json.dumps(asyncio.run(found)))


if __name__ == "__main__":
    main()
