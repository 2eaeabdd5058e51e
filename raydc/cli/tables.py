"""Output of `raydc runs`, `data` and `models`: tables for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from raydc.cli.aligned_table import print_table
from raydc.cli.data_inventory import DataSet
from raydc.cli.model_inventory import Model, ModelVersion
from raydc.cli.run_inventory import Run
from raydc.cli.store_listing import Extent, StoreListing
from raydc.cli.texts import age_text, number_ranges, size_text

Lines = Iterable[tuple[str, str]]


def print_runs(listing: StoreListing, runs: Sequence[Run]) -> None:
    """Prints a line for each run."""
    rows = [
        (
            run.name,
            run.state,
            _number(run.step),
            # Held-out rows say more than those that chose the checkpoint.
            _first_score(run.held_out) or _first_score(run.validation),
            size_text(run.extent.num_bytes),
            age_text(run.extent.changed_s),
        )
        for run in runs
    ]
    print_table(("run", "state", "step", "score", "size", "changed"), rows, {"step", "size"})
    _print_total("run", listing, [run.extent for run in runs])


def print_data_sets(listing: StoreListing, data_sets: Sequence[DataSet]) -> None:
    """Prints a line for each data set."""
    rows = [
        (
            one.name,
            one.state,
            _number(sum(one.num_rows.values()) if one.num_rows else None),
            size_text(one.extent.num_bytes),
            age_text(one.extent.changed_s),
            _listed(one.runs),
        )
        for one in data_sets
    ]
    titles = ("data set", "state", "rows", "size", "changed", "used by")
    print_table(titles, rows, {"rows", "size"})
    _print_total("data set", listing, [one.extent for one in data_sets])


def print_models(listing: StoreListing, models: Sequence[Model]) -> None:
    """Prints a line for each model."""
    rows = [
        (
            model.name,
            number_ranges([version.number for version in model.versions]),
            _listed(f"{alias} -> {version}" for alias, version in model.aliases.items()),
            size_text(model.extent.num_bytes),
            age_text(model.extent.changed_s),
        )
        for model in models
    ]
    print_table(("model", "versions", "aliases", "size", "changed"), rows, {"size"})
    _print_total("model", listing, [model.extent for model in models])


def print_run(
    listing: StoreListing,
    run: Run,
    versions: Sequence[ModelVersion],
    forks: Sequence[str],
    time_lines: Sequence[str],
) -> None:
    """Prints one run in detail.

    Args:
        listing: Files of the storage, for the sizes of the run's parts.
        run: Run to show, as `run_inventory` has read it.
        versions: Registered versions that hold its model.
        forks: Names of the runs that started with its weights.
        time_lines: Formatted lines of its time account, of `time_account.format_lines`.
    """
    # What takes the space of a run; the rest are a few small files.
    parts = ("checkpoints", "model", "sweep", "tensorboard")
    sizes = {part: listing.extent("runs", run.name, f"{part}/") for part in parts}
    shown = [f"{part} {size_text(e.num_bytes)}" for part, e in sizes.items() if e.num_files]
    data_set = run.data_set or ""
    if data_set and data_set not in listing.names("data"):
        data_set += " (not in this storage; `raydc prepare` makes it again)"
    registered = [
        f"version {version.number}" + (f" ({_listed(version.aliases)})" if version.aliases else "")
        for version in versions
    ]
    _print_lines(
        [
            ("run", run.name),
            ("state", f"{run.state}: {run.driver}" if run.driver else run.state),
            ("epoch", _number(run.epoch)),
            ("step", _number(run.step)),
            ("validation", _scores_text(run.validation)),
            ("held-out", _scores_text(run.held_out)),
            ("size", _extent_text(run.extent) + (f": {', '.join(shown)}" if shown else "")),
            ("changed", _time_text(run.extent.changed_s)),
            ("data set", data_set),
            ("forked from", run.forked_from or ""),
            ("forks", _listed(forks)),
            ("sweep", run.standing or (f"{run.num_trials} trials" if run.num_trials else "")),
            ("registered", f"{run.spec_name} {_listed(registered)}" if registered else ""),
            ("TensorBoard", tensorboard_command(listing, run)),
            *[("" if number else "time", line) for number, line in enumerate(time_lines)],
        ]
    )


def tensorboard_command(listing: StoreListing, run: Run) -> str:
    """The command that shows a run's scalars; empty if it wrote none."""
    # TensorBoard finds those of the trials of a sweep below this folder too.
    if not run.has_scalars:
        return ""
    return f"tensorboard --logdir {(listing.storage / 'runs' / run.name).local_path}"


def print_data_set(listing: StoreListing, one: DataSet, versions: Sequence[str]) -> None:
    """Prints one data set in detail.

    Args:
        listing: Listed storage, for the URI of the folder.
        one: Data set to show, with the runs that use it.
        versions: Registered versions that were trained on it, such as `digits 2`.
    """
    # JSON sorts the splits by name; people expect them in this order.
    splits = [split for split in ("train", "validation", "test") if split in one.num_rows]
    rows = ", ".join(f"{split} {one.num_rows[split]:,}" for split in splits)
    _print_lines(
        [
            ("data set", one.name),
            ("state", one.state),
            ("rows", rows),
            ("made from", "" if one.num_sources is None else f"{one.num_sources:,} source file(s)"),
            ("size", _extent_text(one.extent)),
            ("changed", _time_text(one.extent.changed_s)),
            ("used by", _listed(one.runs)),
            ("needed by", _listed(one.needed_by) + (" to resume" if one.needed_by else "")),
            ("versions", _listed(versions)),
            ("folder", (listing.storage / "data" / one.name).uri),
        ]
    )


def print_model(listing: StoreListing, model: Model, beside: Mapping[tuple[str, str], int]) -> None:
    """Prints one model in detail.

    Args:
        listing: Listed storage, for the URI of the folder.
        model: Model to show, with the origin of its versions.
        beside: Version by (alias, `canary` or `shadow`) according to the history, if still running.
    """
    _print_lines(
        [
            ("model", model.name),
            ("size", _extent_text(model.extent)),
            ("tokens", _number(model.num_tokens or None)),
            ("folder", (listing.storage / "models" / model.name).uri),
        ]
    )
    if not model.versions:
        click.echo("versions     none")
        return
    rows = []
    for version in model.versions:
        # The history counts only for versions without an entry of a running endpoint, which is
        # more reliable.
        running = [
            f"{kind} of {alias}" for (alias, kind), number in beside.items()
            if number == version.number and not version.serves
        ]  # fmt: skip
        used = [*version.aliases, *version.serves, *running]
        run = (version.run or "") + ("" if version.run_is_here or not version.run else " (gone)")
        rows.append(
            (
                str(version.number) + ("" if version.state == "complete" else f" {version.state}"),
                _first_score(version.metrics or {}),
                size_text(version.extent.num_bytes),
                age_text(version.registered_s or version.extent.changed_s),
                run,
                version.data_set or "",
                _listed(used),
            )
        )
    click.echo()
    titles = ("version", "score", "size", "made", "run", "data set", "used as")
    print_table(titles, rows, {"size"})


def print_notes(model: Model) -> None:
    """Says how endpoints may differ from the aliases that they serve."""
    for note in model.notes:
        click.echo(f"note: {model.name}: {note}", err=True)


def print_json(listing: StoreListing, **found: Any) -> None:
    """Prints one JSON object: what was found, the storage, and what could not be read."""
    value = {
        "storage": listing.storage.uri,
        **{name: _plain(one) for name, one in found.items()},
        "damaged": _damaged(listing),
    }
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def warn_of_damage(listing: StoreListing) -> None:
    """Names each file that could not be read; its content is missing from the output."""
    for line in _damaged(listing):
        click.echo(f"warning: cannot read {line}", err=True)


def _damaged(listing: StoreListing) -> list[str]:
    # Several tables may have read the same file.
    return sorted(set(listing.damaged))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        extent = fields.pop("extent", None)
        # Size and age are on the level of the other fields, where `jq` users look for them.
        return {**_plain(fields), **({} if extent is None else _plain(vars(extent)))}
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value


def _print_total(noun: str, listing: StoreListing, extents: Sequence[Extent]) -> None:
    if not extents:
        click.echo(f"no {noun}s at {listing.storage.uri}")
        return
    total = size_text(sum(extent.num_bytes for extent in extents))
    plural = "" if len(extents) == 1 else "s"
    click.echo(f"\n{len(extents)} {noun}{plural}, {total} at {listing.storage.uri}")


def _print_lines(lines: Lines) -> None:
    for title, text in lines:
        # A line without a value says nothing, so it is left out.
        if text:
            click.echo(f"{title:<13}{text}")


def _listed(values: Iterable[str]) -> str:
    return ", ".join(values)


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _first_score(scores: Mapping[str, float]) -> str:
    return next((f"{name} {value:.4f}" for name, value in scores.items()), "")


def _scores_text(scores: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in scores.items())


def _extent_text(extent: Extent) -> str:
    return f"{size_text(extent.num_bytes)} in {extent.num_files:,} files"


def _time_text(time_s: float | None) -> str:
    if time_s is None:
        return ""
    date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(time_s))
    return f"{date} ({age_text(time_s)})"
