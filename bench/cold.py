"""Bytes that are read from the disk for an epoch of rows that do not fit into memory.

    python -m bench.cold [--megabytes 1000] [--part 4]

Rows of 100 bytes and of 64 KiB are read in shuffled steps of 256 by the feed of a worker, for two
epochs, in a process whose memory for rows and pages of files is limited to a part of the data by a
cgroup. Each step trains a small network, so that there is something to read beside. Beside it the
same with the kernel's own way of reading, for some steps only. Prints one table, writes one JSON
file. Needs root, and cgroups that may be made (version 1 or 2).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.measured import run_for_json
from bench.train import ROOT

BATCH = 256
ROW_BYTES = {"100 B": 100, "64 KiB": 64 * 1024}
PLAIN_STEPS = 100
EPOCHS = 2
CONTENDERS = ("raydc", "kernel's own way")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the data")
    parser.add_argument("--part", type=float, default=4.0, help="data / memory")
    parser.add_argument("--without-kernel", action="store_true", help="omit the kernel's own way")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        contender, folder, limit = options.one
        print(json.dumps(_read(contender, Path(folder), int(limit))))
        return
    rows = []
    for name, row_bytes in ROW_BYTES.items():
        with tempfile.TemporaryDirectory(prefix="raydc-bench-") as work:
            num_bytes = _write(Path(work), options.megabytes * 10**6 // row_bytes, row_bytes)
            limit = int(num_bytes / options.part)
            for contender in CONTENDERS[: 1 if options.without_kernel else None]:
                print(f"{name}: {contender}", file=sys.stderr)
                found = _run(contender, Path(work), limit)
                rows += [
                    {"rows": name, "contender": contender, "data_bytes": num_bytes, **one}
                    for one in found["epochs"]
                ]
    _show(rows)


def _write(folder: Path, num_rows: int, row_bytes: int) -> int:
    """Writes a data set of random rows; returns the bytes of its training shards."""
    import numpy as np

    from raydc.data import shards
    from raydc.features import Features, Numeric, Signature
    from raydc.storage import Storage

    width = row_bytes // 4
    signature = Signature("vector", (width,), "float32", (), (), "regression")
    columns = {f"c{index}": Numeric(0.0, 0.0, 1.0) for index in range(width)}
    features = Features(signature, "y", columns, target_mean=0.0, target_scale=1.0)
    x = np.random.default_rng(0).random((num_rows, width), np.float32)
    target = Storage(str(folder))
    shards.write_data_set(target, features, {"train": (x, x[:, 0].copy())})
    return sum(path.stat().st_size for path in folder.glob("train-*"))


def _run(contender: str, folder: Path, limit: int) -> dict[str, Any]:
    for path in folder.glob("train-*"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    command = [sys.executable, "-m", "bench.cold", "--one", contender, str(folder), str(limit)]
    return run_for_json(command)


def _read(contender: str, folder: Path, limit: int) -> dict[str, Any]:
    import torch

    from raydc.data.shards import open_rows
    from raydc.loop.feed import Feed
    from raydc.loop.group import World
    from raydc.storage import Storage

    # The hashes of the shards are compared before. Mapped pages would stay, so nothing is mapped.
    rows = open_rows(Storage(str(folder)), "train")
    rows.gather(torch.arange(0, len(rows), max(1, len(rows) // 1000)).numpy())
    train = _small_network(rows)
    x, y = rows.gather(torch.arange(BATCH).numpy())
    # What torch and its libraries take for a step is not what is measured.
    train(torch.from_numpy(x), torch.from_numpy(y))
    del rows, x, y
    gc.collect()
    for path in folder.glob("train-*"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    group = _limit_memory(limit)
    is_plain = contender.startswith("kernel")
    rows = open_rows(Storage(str(folder)), "train", is_shuffled=not is_plain)
    feed = Feed(rows, 0, BATCH, 4, World(0, 1, torch.device("cpu")))
    num_steps = min(PLAIN_STEPS, feed.steps_per_epoch) if is_plain else feed.steps_per_epoch
    epochs = []
    for epoch in range(1 if is_plain else EPOCHS):
        before, started_s, waited_s, asked = _bytes_read(), time.perf_counter(), 0.0, 0
        read_cpu_s = 0.0
        if epoch == 0:
            for _ in feed.read_first(0, num_steps if is_plain else EPOCHS * num_steps):
                pass
        first_s = time.perf_counter() - started_s
        batches = feed.batches(epoch, 0, num_steps)
        while True:
            waiting_s, waiting_cpu_s = time.perf_counter(), time.thread_time()
            batch = next(batches, None)
            waited_s += time.perf_counter() - waiting_s
            read_cpu_s += time.thread_time() - waiting_cpu_s
            if batch is None:
                break
            assert isinstance(batch.x, torch.Tensor)
            asked += batch.x.nbytes
            train(batch.x, batch.y_B)
        epochs.append(
            {
                "epoch": epoch + 1,
                "steps": num_steps,
                "asked_bytes": asked,
                "read_bytes": _bytes_read() - before,
                "wall_s": time.perf_counter() - started_s,
                "before_first_step_s": first_s,
                "feed_s": waited_s,
                "feed_cpu_s": read_cpu_s,
            }
        )
    found = {"epochs": epochs, "reason": feed.reading_note}
    print(found["reason"], file=sys.stderr)
    _leave(group)
    return found


def _small_network(rows: Any) -> Any:
    """A step of a network with 256 hidden units."""
    import torch

    # Threads that wait for each other would be slowed down by whatever else runs.
    torch.set_num_threads(1)
    width = rows.gather(torch.arange(1).numpy())[0].shape[1]
    network = torch.nn.Sequential(
        torch.nn.Linear(width, 256), torch.nn.ReLU(), torch.nn.Linear(256, 1)
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)

    def train(x: torch.Tensor, y_B: torch.Tensor) -> None:
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(network(x).squeeze(1), y_B.float()).backward()
        optimizer.step()

    return train


def _bytes_read() -> int:
    """Bytes that this process has read from disks, mapped files included."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))


def _limit_memory(limit: int) -> Path:
    """Limits what this process takes from now on: memory that it has already does not count."""
    roots = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))
    root = next(root for root in roots if (root / "cgroup.procs").exists())
    group = root / f"raydc-bench-{os.getpid()}"
    group.mkdir()
    is_v1 = (group / "memory.limit_in_bytes").exists()
    (group / ("memory.limit_in_bytes" if is_v1 else "memory.max")).write_text(str(limit))
    (group / "cgroup.procs").write_text(str(os.getpid()))
    return group


def _leave(group: Path) -> None:
    (group.parent / "cgroup.procs").write_text(str(os.getpid()))
    group.rmdir()


def _show(rows: list[dict[str, Any]]) -> None:
    print(
        f"{'rows':8}{'contender':18}{'epoch':>6}{'steps':>8}{'read / asked':>14}{'passes':>8}"
        f"{'wall s':>8}{'first s':>9}{'feed':>8}{'its CPU':>9}"
    )
    for row in rows:
        ratio = row["read_bytes"] / row["asked_bytes"]
        passes = row["read_bytes"] / row["data_bytes"]
        after_s = row["wall_s"] - row["before_first_step_s"]
        print(
            f"{row['rows']:8}{row['contender']:18}{row['epoch']:6}{row['steps']:8}{ratio:14.2f}"
            f"{passes:8.2f}{row['wall_s']:8.1f}{row['before_first_step_s']:9.1f}"
            f"{row['feed_s'] / after_s:8.1%}{row['feed_cpu_s'] / after_s:9.1%}"
        )
    target = ROOT / "bench" / "results" / "cold.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({"rows": rows}, indent=2) + "\n")
    print(f"written to {target.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
