"""What a storage holds: runs with their state, models with their aliases."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from raydc.errors import RunError
from raydc.registry import Registry
from raydc.spec.train import ALL_SCORES
from raydc.storage import Storage
from raydc.tracking import events, lease, time_account
from raydc.tracking.phase_timer import read_account


def show(uri: str) -> None:
    """Prints the runs and models of a storage as tables."""
    storage = Storage(uri)
    console = Console()
    names = [
        name
        for name in (storage / "runs").names()
        if (storage / "runs" / name).exists("resolved.yaml")
    ]
    if not names:
        console.print(f"no runs at {storage.uri}")
        return
    table = Table(
        "run", "state", "epoch", "step", "validation", "held-out", box=None, header_style="bold"
    )
    for name in names:
        table.add_row(name, *describe_run(storage / "runs" / name))
    console.print(table)
    _show_models(console, storage)


def show_run(uri: str, name: str) -> None:
    """Prints the state of one run, and where its time went.

    Raises:
        RunError: There is no such run.
    """
    folder = Storage(uri) / "runs" / name
    if not folder.exists("resolved.yaml"):
        raise RunError(f"no run {name!r} at {folder.uri}", "raydc runs lists those that there are.")
    console = Console(highlight=False)
    titles = ("state", "epoch", "step", "validation", "held-out")
    told = [*zip(titles, describe_run(folder), strict=True)]
    told += [
        ("time" if number == 0 else "", line)
        for number, line in enumerate(time_account.format_lines(read_account(folder)))
    ]
    for title, text in told:
        console.print(f"{title:<12}{text}", soft_wrap=True)


def describe_run(folder: Storage) -> tuple[str, str, str, str, str]:
    """State, epoch, step, last validation metrics and held-out metrics of a run, as text."""
    kinds = [record["kind"] for record in events.read(folder, "events")]
    driver = lease.read_driver(folder)
    state = "finished" if {"run_finished", "sweep_finished"} & set(kinds) else "unfinished"
    if driver is not None and lease.seems_alive(driver):
        state = f"alive on {driver.host}"
    history = events.surviving(events.read(folder, "metrics"))
    epochs = [record for record in history if record["kind"] == "epoch"]
    last = history[-1] if history else {}
    held_out = folder.read_json("evaluation.json") if folder.exists("evaluation.json") else {}
    epoch = str(last.get("epoch", ""))
    return (
        state,
        epoch,
        str(last.get("step", "")),
        _numbers(epochs[-1] if epochs else {}),
        _numbers(held_out),
    )


def _numbers(record: dict[str, Any]) -> str:
    return " ".join(
        f"{name} {record[name]:.4f}"
        for name in (*ALL_SCORES, "loss")
        if isinstance(record.get(name), float)
    )


def _show_models(console: Console, storage: Storage) -> None:
    registry = Registry(storage)
    table = Table("model", "versions", "aliases", box=None, header_style="bold")
    for name in (storage / "models").names():
        aliases = ", ".join(
            f"{alias} -> {version}" for alias, version in sorted(registry.aliases(name).items())
        )
        table.add_row(name, " ".join(map(str, registry.versions(name))), aliases)
    if table.row_count:
        console.print()
        console.print(table)
