"""The commands `inspect` and `report`, which write pages about data and runs. In the driver."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raydc.cli.app import ADDRESS, SET, SPEC, STORAGE, open_context, report, resolve

if TYPE_CHECKING:
    from raydc.data.inspection import Inspection
    from raydc.data.prepared import Prepared
    from raydc.storage import Storage

# The user asked for this diagnosis, so it may take longer than one after a run.
_DIAGNOSIS_LIMIT_S = 60.0


@click.command()
@SPEC
@SET
@ADDRESS
@click.option("--html", "path", metavar="FILE", help="Also write a page with plots, in one file.")
def inspect(spec: str, overrides: tuple[str, ...], address: str | None, path: str | None) -> None:
    """Look at the data of a spec: columns, splits, suspected leaks.

    Shows types, missing values, distributions and the balance of classes, rows that are in two
    splits, columns that differ between splits, and columns that know the answer. It prepares
    nothing."""
    from raydc.data import inspection, suspicions
    from raydc.data.source_check import check_source

    check_source(resolve(spec, overrides).data)
    context = open_context(spec, overrides, address, deferred=True)
    found = inspection.run(
        context.spec, lambda line: report(f"inspect   {line}"), connect=context.connect
    )
    noticed = suspicions.find(found)
    _print(found)
    for one in noticed:
        mark = click.style("look", fg="red" if one.level == "high" else "yellow", reset=True)
        report(f"{mark}      {one.about}: {one.text}")
    if not noticed:
        report("look      nothing stands out")
    if path is not None:
        from raydc.report import inspection_page, run_report

        text = inspection_page.render(found, noticed, run_report.made_by())
        Path(path).write_text(text, encoding="utf-8")
        report(f"done      {path}")


@click.command("report")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@STORAGE
@click.option(
    "--html",
    "path",
    default="comparison.html",
    show_default=True,
    metavar="FILE",
    help="Page that compares several runs.",
)
def report_runs(runs: tuple[str, ...], storage: str, path: str) -> None:
    """Write report.html of runs anew; of several, also compare them.

    Everything is read from the storage. A model that was not diagnosed yet is, which needs its data
    set there."""
    from raydc.checkpoint import run_name
    from raydc.report import comparison_page, run_report
    from raydc.storage import Storage

    store = Storage(storage)
    names = list(dict.fromkeys(runs))
    for name in names:
        run_name.require_run(store / "runs" / name, store / "runs", name)
    records = []
    for name in names:
        folder = store / "runs" / name
        records.append(
            run_report.write(folder, name, partial(_load_data, store, folder), _DIAGNOSIS_LIMIT_S)
        )
        report(f"report    {folder.uri}/{run_report.FILE}")
    if len(records) > 1:
        Path(path).write_text(
            comparison_page.render(records, run_report.made_by()), encoding="utf-8"
        )
        report(f"done      {path}")


def _load_data(store: Storage, folder: Storage) -> Prepared:
    """The data set of a run, by the hash that its model names."""
    import yaml

    from raydc.checksummed_folder import MANIFEST
    from raydc.data import prepared
    from raydc.data.folder_name import folder_name, same_content

    facts = folder.read_json("model/facts.json")
    spec = yaml.safe_load(folder.read_bytes("resolved.yaml"))
    name, data_hash = str(spec["name"]), str(facts["data_hash"])
    folders = store / "data"
    known = same_content(folders.names(), name, data_hash)
    whole = (one for one in known if folders.exists(f"{one}/{MANIFEST}"))
    return prepared.load(folders / next(whole, folder_name(name, data_hash)))


def _print(found: Inspection) -> None:
    from raydc.cli.aligned_table import print_table
    from raydc.report.axes import number_text
    from raydc.report.column_texts import distinct_text, summary_text

    rows = []
    for column in found.columns:
        whole = column.whole
        drift = max(column.psi.values(), default=None)
        rows.append(
            (
                f"{column.name} (target)" if column.is_target else column.name,
                column.kind,
                f"{whole.num_missing:,}",
                distinct_text(whole),
                summary_text(whole),
                "" if column.power is None else f"{column.power:.3f}",
                "" if drift is None else number_text(round(drift, 3)),
            )
        )
    titles = ("column", "type", "missing", "distinct", "values", found.measure, "drift")
    click.echo()
    print_table(titles, rows, {"missing", "distinct", found.measure, "drift"})
    click.echo()
    splits = ", ".join(f"{split} {count:,}" for split, count in found.num_rows.items())
    report(f"rows      {splits}; dropped {found.num_dropped:,}")
    if found.excluded:
        report(f"left out  {', '.join(found.excluded)}")
