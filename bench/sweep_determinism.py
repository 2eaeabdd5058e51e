"""Sweeps whose journals must be the same byte for byte: at 1, 2 and 4 trials at a time, with
workers that join, and killed.

Runs `raydc sweep` of bench/fashion_sweep.py on a Ray of four logical CPUs, twice at each number of
trials at a time; twice with up to four workers for each of two trials at a time; and once like that
with four kills -9: the driver, a worker that a trial began with and one that has joined in the next
driver, and that driver. These trials take seconds, for which no worker would join; here each idle
one does, whether it pays or not.

Steps are counted by the lines of metrics.jsonl, one for each. A process that was killed may have
computed more before their lines, at most as many as there are between two checkpoints: all of those
are counted too.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench import fashion_sweep, started_ray
from bench.stage import wait_for
from raydc.storage import Storage
from raydc.tracking import events

ROOT = Path(__file__).resolve().parent.parent
CONCURRENT, NUM_ROUNDS = (1, 2, 4), 2
NUM_SHARDS = 4
MOST_STEPS = 1.05
_TIMEOUT_S = 900.0
# Decisions after which the first driver, and the second one, are killed; before, two trials are.
_KILL_AT = (8, 36)
_TRIALS_AT = (12, 20)
_CHECKPOINT_STEPS = 10
_CALL = "import sys; from raydc.cli import main; sys.exit(main())"
# A change of workers counts as free.
_EAGER = (
    "from raydc.elastic import join_gain, slot_queue; choose = join_gain.choose_joins; "
    "slot_queue.choose_joins = lambda *known: choose(*known[:-1], 0.0); "
)


def measure_determinism(data: Path, keep: Path | None) -> dict[str, Any]:
    """Runs all sweeps; those whose results are kept are not run again.

    Args:
        data: Folder of the original files of Fashion-MNIST.
        keep: Folder of a benchmark that was interrupted; None for a temporary one.
    """
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    with contextlib.ExitStack() as leaving:
        temporary = tempfile.TemporaryDirectory(prefix="raydc-", ignore_cleanup_errors=True)
        folder = keep or Path(leaving.enter_context(temporary))
        folder.mkdir(parents=True, exist_ok=True)
        # Sockets have short paths.
        ray = Path(leaving.enter_context(tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp")))
        address = leaving.enter_context(started_ray.head(ray, "127.0.0.1", max(CONCURRENT)))
        if not (folder / "rows").exists():
            fashion_sweep.write_rows(data, folder / "rows")
        # A data set that is prepared already is used by all sweeps.
        _command(folder, "prepare", 1, address, "prepare").wait(_TIMEOUT_S)
        rows = []
        for number in range(NUM_ROUNDS):
            for concurrent in CONCURRENT:
                name = f"at-{concurrent}-{number}"
                rows.append(
                    _once(folder, name, lambda n=name, c=concurrent: _run(folder, n, c, address))
                )
            name = f"joined-{number}"
            rows.append(_once(folder, name, lambda n=name: _run(folder, n, 2, address, joins=True)))
        rows.append(_once(folder, "killed", lambda: _run_killed(folder, "killed", address)))
    return {"rows": rows, "num_rows": fashion_sweep.NUM_TRAIN, "checks": check(rows)}


def check(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What has to hold: one journal, one draw of points, one model, and few steps done again.

    Args:
        rows: Results of the sweeps, the killed one last.
    """
    undisturbed = rows[:-1]
    most = max(row["steps"] for row in undisturbed)
    ratio = rows[-1]["steps"] / most
    joins = [row for row in rows if row["joins"]]
    same = {name: len({row[name] for row in rows}) == 1 for name in ("journal", "draws", "model")}
    return {
        **{f"same {name}": is_same for name, is_same in same.items()},
        "all joined": all(row["joined"] for row in joins),
        "steps": round(ratio, 4),
        "holds": all(same.values()) and all(row["joined"] for row in joins) and ratio <= MOST_STEPS,
    }


def _once(folder: Path, name: str, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    known = folder / f"{name}.json"
    if not known.exists():
        found = run()
        known.write_text(json.dumps(found))
        print(f"{name}: {found['wall_s']:.0f} s", file=sys.stderr, flush=True)
    read: dict[str, Any] = json.loads(known.read_text())
    return read


def _command(
    folder: Path, name: str, concurrent: int, address: str, *arguments: str, joins: bool = False
) -> subprocess.Popen[bytes]:
    """Starts a command of raydc with the spec of a sweep, in which idle workers may join."""
    path = folder / f"{name}.yaml"
    given = fashion_sweep.make_spec(folder, name, folder / "rows", max_concurrent_trials=concurrent)
    # Steps are counted by their lines, and few are lost with a process.
    given["train"] |= {"log_every_steps": 1, "logical_shards": NUM_SHARDS}
    if joins:
        given["scaling"] = {"num_workers": {"min": 1, "max": NUM_SHARDS}}
    given["checkpoint"] = {"every_steps": _CHECKPOINT_STEPS}
    fashion_sweep.write_spec(path, given)
    # `sweep SPEC --resume`: the spec comes after the name of the command.
    command = [arguments[0], str(path), "--address", address, *arguments[1:]]
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", f"{_EAGER if joins else ''}{_CALL}", *command],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _run(
    folder: Path, name: str, concurrent: int, address: str, joins: bool = False
) -> dict[str, Any]:
    started_s = time.monotonic()
    process = _command(folder, name, concurrent, address, "sweep", "--new", joins=joins)
    _require_success(process, folder, name)
    return _result(folder, name, concurrent, 0, time.monotonic() - started_s)


def _run_killed(folder: Path, name: str, address: str) -> dict[str, Any]:
    """A sweep of two trials at a time with two kills of the driver and two of their workers."""
    started_s = time.monotonic()
    place = Storage(str(folder / "store" / "runs" / name))

    def command(how: str) -> subprocess.Popen[bytes]:
        return _command(folder, name, 2, address, "sweep", how, joins=True)

    with _killed_after(_KILL_AT[0], place, command("--new")):
        pass
    second = command("--resume")
    with _killed_after(_KILL_AT[1], place, second):
        for joined, num_decisions in zip((False, True), _TRIALS_AT, strict=True):
            wait_for(
                lambda n=num_decisions: _num_decisions(place) >= n or second.poll() is not None,
                f"{num_decisions} decisions",
                _TIMEOUT_S,
            )
            _kill_a_worker(place, joined)
    _require_success(command("--resume"), folder, name)
    return _result(folder, name, 2, 4, time.monotonic() - started_s)


@contextlib.contextmanager
def _killed_after(
    num_decisions: int, place: Storage, driver: subprocess.Popen[bytes]
) -> Iterator[None]:
    """Kills a driver once it has decided so much, after what the block does meanwhile."""
    yield
    wait_for(
        lambda: _num_decisions(place) >= num_decisions or driver.poll() is not None,
        f"{num_decisions} decisions",
        _TIMEOUT_S,
    )
    driver.kill()
    if driver.wait() != -signal.SIGKILL:
        raise SystemExit(f"the driver of {place.uri} had ended before it was killed")


def _num_decisions(place: Storage) -> int:
    return sum(name.endswith(".json") for name in place.names("sweep/journal"))


def _kill_a_worker(place: Storage, joined: bool) -> None:
    """Kills a process that trains a trial: the first one, or one that has joined it."""
    found: list[list[int]] = []

    def is_there() -> bool:
        found[:] = [pids for pids in _training(place) if len(pids) > joined]
        return bool(found)

    wait_for(is_there, "a trial that trains", _TIMEOUT_S)
    os.kill(found[0][-1 if joined else 0], signal.SIGKILL)


def _training(place: Storage) -> Iterator[list[int]]:
    """Processes of each trial that trains now, and has computed a step."""
    for key in place.names("sweep/trials"):
        folder = place / "sweep" / "trials" / key
        kinds = ("attempt_started", "resize", "workers_left", "run_finished")
        marks = [one for one in events.read(folder, "events") if one["kind"] in kinds]
        lines = list(events.read(folder, "metrics"))
        trains = bool(marks and lines) and marks[-1]["kind"] == kinds[0]
        if trains and lines[-1]["kind"] == "step" and _is_of_ray(marks[-1]["pids"][0]):
            yield marks[-1]["pids"]


def _is_of_ray(pid: int) -> bool:
    """Whether a process is there, and one of Ray: the trial may have been that of a dead driver."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().startswith("ray::")
    return False


def _require_success(process: subprocess.Popen[bytes], folder: Path, name: str) -> None:
    if process.wait(_TIMEOUT_S):
        raise SystemExit((folder / f"{name}.log").read_text()[-4000:])


def _result(
    folder: Path, name: str, concurrent: int, num_kills: int, wall_s: float
) -> dict[str, Any]:
    place = Storage(str(folder / "store" / "runs" / name))
    records = [
        (record, folder_of)
        for folder_of in place.names("sweep/trials")
        for record in events.read(place / "sweep" / "trials" / folder_of, "metrics")
    ]
    # A driver ends with its trials.
    num_unseen = _CHECKPOINT_STEPS * (len(_TRIALS_AT) + concurrent * len(_KILL_AT))
    num_unseen = num_unseen if num_kills else 0
    joined = sum(
        record["number"]
        for folder_of in place.names("sweep/trials")
        for record in events.read(place / "sweep" / "trials" / folder_of, "events")
        if record["kind"] == "workers_joined"
    )
    ended = place.read_json("sweep/trials.json")
    log = (folder / f"{name}.log").read_text()
    return {
        "name": name,
        "concurrent": concurrent,
        "kills": num_kills,
        "joins": bool(joined) or num_kills > 0 or name.startswith("joined"),
        "joined": joined,
        "tried_again": log.count("a trial is tried again"),
        "wall_s": wall_s,
        "decisions": _num_decisions(place),
        "journal": _hash(place, "sweep/journal"),
        "draws": _hash(place, "sweep/draws"),
        "model": hashlib.sha256(place.read_bytes("model/model.safetensors")).hexdigest(),
        "steps": sum(record["kind"] == "step" for record, _ in records) + num_unseen,
        "epochs": sum(trial["epochs"] for trial in ended),
    }


def _hash(place: Storage, folder: str) -> str:
    """SHA-256 of all files of a journal, in order."""
    # A driver that is killed while it writes may leave a draft, which nothing reads.
    names = [name for name in place.names(folder) if name.endswith(".json")]
    content = b"".join(place.read_bytes(f"{folder}/{name}") for name in names)
    return hashlib.sha256(content).hexdigest()


def show_determinism(found: dict[str, Any]) -> None:
    """Prints the table."""
    print(
        f"{'sweep':10}{'at a time':>10}{'joined':>8}{'kills':>7}{'wall s':>8}{'decisions':>11}"
        f"{'epochs':>8}{'steps':>8}  {'journal':10}{'draws':10}{'model':10}"
    )
    for row in found["rows"]:
        numbers = f"{row['concurrent']:10}{row['joined']:8}{row['kills']:7}{row['wall_s']:8.0f}"
        numbers += f"{row['decisions']:11}"
        hashes = "".join(f"{row[name][:8]:10}" for name in ("journal", "draws", "model"))
        print(f"{row['name']:10}{numbers}{row['epochs']:8}{row['steps']:8}  {hashes}")
    checks = found["checks"]
    print(", ".join(f"{name}: {value}" for name, value in checks.items()))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this benchmark."""
    parser.add_argument(
        "--keep", type=Path, help="folder of a benchmark that goes on where it was interrupted"
    )
