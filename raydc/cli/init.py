"""The command `init`: a commented spec from a data set. Runs in the driver, without Ray."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raydc.cli.app import report
from raydc.errors import DataError, UsageError

if TYPE_CHECKING:
    from raydc.data.first_look import FirstLook
    from raydc.spec.data import Csv

_DELIMITERS = (None, ";", "\t", "|")


@click.command()
@click.argument("source", metavar="DATA")
@click.option(
    "--target", help="Column to predict. Default: the one named label, target, class or y."
)
@click.option(
    "--task",
    type=click.Choice(["classification", "regression"]),
    help="What is predicted, a class or a number. Default: by the values of the target.",
)
@click.option("--name", help="Name of the run and the model. Default: that of the data.")
@click.option(
    "--output", metavar="FILE", help="File to write, which must not exist. Default: NAME.yaml."
)
def init(
    source: str, target: str | None, task: str | None, name: str | None, output: str | None
) -> None:
    """Write a commented spec for a data set, ready to run.

    DATA is a file, a folder, a pattern or a URI. Its first rows decide what the spec says; the
    file names each decision with its reason."""
    from raydc import spec as specs
    from raydc.data import spec_draft

    chosen = name or spec_draft.name_of(source)
    path = Path(output or f"{chosen}.yaml")
    if path.exists():
        raise UsageError(
            f"{path} exists already", "Give another file with --output, or remove it first."
        )
    look, form = _look(source)
    text = spec_draft.draft_spec(look, spec_draft.Choice(source, chosen, target, task, form))
    # Raises for a draft that `raydc run` would refuse, before it is written.
    specs.resolve(specs.loads(text, str(path)))
    # "x" fails if another process has written the file meanwhile.
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    for note in look.layout.notes:
        report(note)
    rows = f"{'all' if look.is_whole else 'the first'} {look.num_rows:,} rows"
    report(f"wrote {path} after a look at {rows} of {len(look.columns)} columns; next:")
    report(f"  raydc inspect {path}   (all rows: leaks, copies, drift; nothing is trained)")
    report(f"  raydc run {path}")


def _look(source: str) -> tuple[FirstLook, Csv]:
    """Looks at a source, and finds the form of CSV files: delimiter, and whether there is a header.

    Raises:
        DataError: There are no files, or they cannot be read.
    """
    from raydc.data import column_notes
    from raydc.data.first_look import take_first_look
    from raydc.spec.data import Csv, Data
    from raydc.spec.load import absolute

    failure: DataError | None = None
    for delimiter, header in itertools.product(_DELIMITERS, (True, False)):
        form = Csv(delimiter=delimiter, header=header)
        try:
            found = take_first_look(Data(source=absolute(source), csv=form))
        except DataError as error:
            # Another try helps only where the hint names a field of `data.csv`. The first error is
            # shown in the end: later ones come from guesses.
            if failure is None and "data.csv." not in (error.hint or ""):
                raise
            failure = failure or error
            continue
        names = [column.name for column in found.columns]
        is_row = header and found.layout.format == "csv" and any(column_notes.of_header(names, ""))
        if not is_row:
            return found, form
    assert failure is not None
    raise failure
